//! One operation on the map, from the command line.
//!
//! Values go to stdout, and everything else to stderr.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use kvquorum_core::{
    Coordinator, Entry, Outcome, ReadError, ReadReceipt, ReplicaReport, Transport, WithCauses,
    WriteError, WriteReceipt,
};
use kvquorum_http::HttpTransport;
use serde_json::value::RawValue;

use crate::layout::{say, table};
use crate::passes::parse_duration;
use crate::security::ClientSecurity;
use crate::words;

/// What `get` exits with when there is no value, and `cas` and `create` when there is
/// not what they expect. Errors have another code.
pub(crate) const NOT_THERE: u8 = 1;

pub(crate) type Links = [HttpTransport; 3];

#[derive(clap::Args)]
pub(crate) struct Put {
    key: String,

    /// JSON, which is stored as it is typed. Anything else is stored as a JSON
    /// string, and a note says so
    #[arg(allow_hyphen_values = true, value_parser = parse_value)]
    value: String,

    /// How long the value is there, such as 30s, 10m or 1h 30m; for good without it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,

    #[command(flatten)]
    to: WriteArguments,
}

#[derive(clap::Args)]
pub(crate) struct Delete {
    key: String,

    #[command(flatten)]
    to: WriteArguments,
}

#[derive(clap::Args)]
pub(crate) struct Get {
    key: String,

    #[command(flatten)]
    nodes: Nodes,

    /// How many replicas must answer
    #[arg(long, value_name = "R", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=3))]
    read_quorum: u8,
}

/// What `put` and `delete` have in common.
#[derive(clap::Args)]
struct WriteArguments {
    #[command(flatten)]
    nodes: Nodes,

    /// How many replicas must ack
    #[arg(long, value_name = "W", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=3))]
    write_quorum: u8,
}

#[derive(clap::Args)]
pub(crate) struct Nodes {
    /// The three nodes, as host:port and separated by commas; by default those
    /// on ports 3001 to 3003 of 127.0.0.1
    #[arg(long = "nodes", value_name = "ADDRESSES", value_parser = parse_nodes)]
    #[arg(default_value = "127.0.0.1:3001,127.0.0.1:3002,127.0.0.1:3003")]
    #[arg(hide_default_value = true)]
    addresses: [String; 3],

    #[command(flatten)]
    security: ClientSecurity,
}

impl Nodes {
    pub(crate) fn links(&self) -> Result<Links, Box<dyn Error>> {
        self.security.links(&self.addresses)
    }
}

fn parse_nodes(addresses: &str) -> Result<[String; 3], String> {
    let addresses: Vec<&str> = addresses.split(',').map(str::trim).collect();
    let [a, b, c] = addresses.as_slice() else {
        return Err(format!("{} addresses, not three", addresses.len()));
    };
    // One replica reached by two links would be counted twice.
    if a == b || b == c || a == c {
        return Err("the three must be different".to_owned());
    }
    Ok([a, b, c].map(|address| (*address).to_owned()))
}

/// Takes a negative number for a value, but not an option that was mistyped.
pub(crate) fn parse_value(value: &str) -> Result<String, &'static str> {
    if value.starts_with('-') && serde_json::from_str::<&RawValue>(value).is_err() {
        return Err("neither an option nor a number; write a string as JSON, in double quotes");
    }
    Ok(value.to_owned())
}

pub(crate) async fn put(arguments: Put) -> Result<(), Box<dyn Error>> {
    let value = as_json(&arguments.value)?;
    write(arguments.to, &arguments.key, Some((value, arguments.ttl))).await
}

pub(crate) async fn delete(arguments: Delete) -> Result<(), Box<dyn Error>> {
    write(arguments.to, &arguments.key, None).await
}

/// Quorums are part of a coordinator's type, so that wrong ones do not compile.
/// A number that is known only at run time chooses among types that do.
async fn write(
    arguments: WriteArguments,
    key: &str,
    value: Option<(String, Option<Duration>)>,
) -> Result<(), Box<dyn Error>> {
    let links = arguments.nodes.links()?;
    match arguments.write_quorum {
        1 => write_at::<1>(links, key, value).await,
        2 => write_at::<2>(links, key, value).await,
        3 => write_at::<3>(links, key, value).await,
        w => Err(format!("three replicas have no write quorum of {w}").into()),
    }
}

/// As for [`write`]. Returns the exit code: whether there is a value.
pub(crate) async fn get(arguments: Get) -> Result<ExitCode, Box<dyn Error>> {
    let (links, key) = (arguments.nodes.links()?, arguments.key.as_str());
    match arguments.read_quorum {
        1 => get_at::<1>(links, key).await,
        2 => get_at::<2>(links, key).await,
        3 => get_at::<3>(links, key).await,
        r => Err(format!("three replicas have no read quorum of {r}").into()),
    }
}

/// JSON as it is typed, whatever Rust's numbers can hold, and anything else as
/// a JSON string: the map holds bytes of any kind, but curl shows JSON.
pub(crate) fn as_json(value: &str) -> serde_json::Result<String> {
    match serde_json::from_str::<&RawValue>(value) {
        Ok(json) => Ok(json.get().to_owned()),
        Err(error) => {
            let string = serde_json::to_string(value)?;
            say(&format!(
                "The value is not JSON ({error}). It is stored as a JSON string: {string}"
            ));
            Ok(string)
        }
    }
}

async fn write_at<const W: usize>(
    links: Links,
    key: &str,
    value: Option<(String, Option<Duration>)>,
) -> Result<(), Box<dyn Error>> {
    let map = Coordinator::<3, W, 2, _>::new(links);
    let written = match value {
        Some((value, None)) => map.put(key, value).await,
        Some((value, Some(ttl))) => map.put_with_ttl(key, value, ttl).await,
        None => map.delete(key).await,
    };
    // A write is decided at W acks, and the rest of it goes on in the
    // background: in this process. To end it now might cut off the third
    // replica, which would then miss the write.
    match written {
        Ok(receipt) => report_write(&map, &receipt.settled().await),
        Err(error) => return Err(explain_write(&error.settled().await).into()),
    }
    Ok(())
}

async fn get_at<const R: usize>(links: Links, key: &str) -> Result<ExitCode, Box<dyn Error>> {
    let map = Coordinator::<3, 2, R, _>::new(links);
    let receipt = match map.get_with_receipt(key).await {
        Ok(receipt) => receipt,
        Err(error) => return Err(explain_read(&error).into()),
    };
    let reported = report_read(&map, key, &receipt);
    // A replica that was found behind, or has yet to answer, is repaired in
    // the background, within the time limit of each call.
    map.drain().await;
    reported?;
    Ok(match receipt.into_value() {
        Some(_) => ExitCode::SUCCESS,
        None => ExitCode::from(NOT_THERE),
    })
}

fn report_write<const W: usize>(
    map: &Coordinator<3, W, 2, HttpTransport>,
    receipt: &WriteReceipt<3>,
) {
    let acked = receipt.acked();
    say(&format!("{acked} of 3 replicas acked, and {W} were needed"));
    if receipt.attempts() > 1 {
        let attempts = receipt.attempts();
        say(&format!(
            "stamped {attempts} times: others held a newer entry"
        ));
    }
    let names = map.transports().each_ref().map(|link| link.name());
    let parts = receipt.replicas().each_ref().map(words::of_write);
    say(&replicas(names, parts));
}

/// Fails where the value cannot be printed.
fn report_read<const R: usize>(
    map: &Coordinator<3, 2, R, HttpTransport>,
    key: &str,
    receipt: &ReadReceipt<3>,
) -> io::Result<()> {
    let mut tombstone = None;
    match receipt.entry() {
        Some(Entry {
            value: Some(value), ..
        }) => print(value)?,
        Some(expired) if expired.expires_millis.is_some() => {
            say(&format!("{key} is absent: it has expired"));
        }
        Some(deleted) => {
            tombstone = Some(deleted.version);
            say(&format!("{key} is absent: it was deleted"));
        }
        None => say(&format!("{key} is absent")),
    }
    let names = map.transports().each_ref().map(|link| link.name());
    let parts = receipt.replicas().each_ref();
    let parts = parts.map(|part| words::of_read(part, tombstone));
    say(&replicas(names, parts));
    Ok(())
}

/// Prints a value, byte for byte where stdout is a file or a pipe. On a
/// terminal, control characters are escaped: whoever wrote the value could
/// otherwise control the terminal.
pub(crate) fn print(value: &[u8]) -> io::Result<()> {
    let out = io::stdout();
    print_to(&out, &mut &out, value)
}

/// As [`print`], by way of a writer to `stdout`.
pub(crate) fn print_to(
    stdout: &impl IsTerminal,
    out: &mut impl Write,
    value: &[u8],
) -> io::Result<()> {
    if stdout.is_terminal() {
        for char in String::from_utf8_lossy(value).chars() {
            if char.is_control() && !matches!(char, '\n' | '\t') {
                write!(out, "{}", char.escape_default())?;
            } else {
                write!(out, "{char}")?;
            }
        }
    } else {
        out.write_all(value)?;
    }
    writeln!(out)
}

/// What is known of a write that failed: a line for the whole, and one for each
/// replica.
fn explain_write(error: &WriteError) -> String {
    let Some(report) = error.report() else {
        return WithCauses(error).to_string();
    };
    let verdict = match error {
        WriteError::NotApplied(_) => "the write failed and was not applied".to_owned(),
        WriteError::MaybeApplied(_) => "the write failed and may have been applied".to_owned(),
        WriteError::Superseded { by, .. } => format!("the write was superseded by {by}"),
        _ => "the write failed".to_owned(),
    };
    let (acked, needed) = (report.acked(), report.needed());
    let mut text = format!("{verdict}: {acked} of 3 replicas acked, and {needed} were needed");
    if report.earlier_attempt_may_be_seen() {
        text.push_str("\nan earlier attempt may be seen");
    }
    explain(text, report.replicas(), words::of_failed_write)
}

/// As [`explain_write`], for a read.
fn explain_read(error: &ReadError) -> String {
    let report = error.report();
    let (answered, needed) = (report.answered(), report.needed());
    let text =
        format!("the read failed: {answered} of 3 replicas answered, and {needed} were needed");
    explain(text, report.replicas(), words::of_failed_read)
}

pub(crate) fn explain<A>(
    text: String,
    reports: &[ReplicaReport<A>],
    words: impl Fn(&Outcome<A>) -> String,
) -> String {
    match reports {
        [a, b, c] => {
            let names = [a, b, c].map(ReplicaReport::name);
            let parts = [a, b, c].map(|report| words(report.outcome()));
            format!("{text}\n{}", replicas(names, parts))
        }
        // There are three.
        _ => text,
    }
}

/// A line for each replica.
fn replicas(names: [&str; 3], parts: [String; 3]) -> String {
    table("  ", names, &[("", parts)]).join("\n")
}
