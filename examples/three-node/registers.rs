//! Keys as registers, from the command line: `increment`, `cas` and `create`.
//!
//! Registers need quorums that overlap, so that there is nothing to choose: two of
//! three.

use std::error::Error;
use std::process::ExitCode;

use kvquorum_core::{Bytes, Coordinator, Edit, UpdateError, Updated, WithCauses};
use kvquorum_http::HttpTransport;

use crate::client::{self, NOT_THERE, Nodes, as_json, explain, parse_value};
use crate::layout::say;
use crate::words;

type Map = Coordinator<3, 2, 2, HttpTransport>;

#[derive(clap::Args)]
pub(crate) struct Increment {
    key: String,

    /// How much to add; less than 0 to subtract
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        allow_negative_numbers = true
    )]
    by: i64,

    #[command(flatten)]
    nodes: Nodes,
}

#[derive(clap::Args)]
pub(crate) struct Cas {
    key: String,

    /// The value that is expected, in JSON as it was typed, spaces and all. Anything
    /// else is taken for a JSON string, as by `put`
    #[arg(allow_hyphen_values = true, value_parser = parse_value)]
    old: String,

    /// The value to write, as for `put`
    #[arg(allow_hyphen_values = true, value_parser = parse_value)]
    new: String,

    #[command(flatten)]
    nodes: Nodes,
}

#[derive(clap::Args)]
pub(crate) struct Create {
    key: String,

    /// The value to write, as for `put`
    #[arg(allow_hyphen_values = true, value_parser = parse_value)]
    value: String,

    #[command(flatten)]
    nodes: Nodes,
}

pub(crate) async fn increment(arguments: Increment) -> Result<(), Box<dyn Error>> {
    let Increment { key, by, nodes } = arguments;
    let map = Map::new(nodes.links()?);
    let updated = map.update(key.as_str(), |held| match sum(held, by) {
        Ok(sum) => Edit::Put(sum.to_string().into()),
        Err(_) => Edit::Keep,
    });
    let updated = ended(&map, updated.await).await?;
    // The update may have run several times: this is what came of the one that counts.
    let sum = sum(updated.before(), by).map_err(|error| format!("{key} {error}"))?;
    say_version(&updated);
    client::print(sum.to_string().as_bytes())?;
    Ok(())
}

fn sum(held: Option<&Bytes>, by: i64) -> Result<i64, String> {
    let held = held.map_or(Ok(0_i64), |held| {
        let integer = serde_json::from_slice(held);
        integer.map_err(|_| format!("holds no integer of 64 bits, but {}", held.escape_ascii()))
    })?;
    let sum = held.checked_add(by);
    sum.ok_or_else(|| format!("holds {held}, and the sum does not fit in 64 bits"))
}

pub(crate) async fn cas(arguments: Cas) -> Result<ExitCode, Box<dyn Error>> {
    let old = as_json(&arguments.old)?;
    write_where(&arguments.nodes, &arguments.key, Some(old), &arguments.new).await
}

pub(crate) async fn create(arguments: Create) -> Result<ExitCode, Box<dyn Error>> {
    write_where(&arguments.nodes, &arguments.key, None, &arguments.value).await
}

/// Writes a value where another one is, or none. Returns the exit code: whether it was
/// so.
async fn write_where(
    nodes: &Nodes,
    key: &str,
    expected: Option<String>,
    new: &str,
) -> Result<ExitCode, Box<dyn Error>> {
    let (expected, new) = (expected.map(Bytes::from), Bytes::from(as_json(new)?));
    let map = Map::new(nodes.links()?);
    let updated = map.update(key, |held| match held == expected.as_ref() {
        true => Edit::Put(new.clone()),
        false => Edit::Keep,
    });
    let updated = ended(&map, updated.await).await?;
    let held = updated.before();
    let was_so = updated.is_changed();
    say(&match held {
        None if was_so => format!("{key} was absent, and now it is there"),
        Some(_) if was_so => format!("{key} was as expected, and now it is the new value"),
        Some(_) => format!("{key} is another value, and stays"),
        None => format!("{key} is absent, and stays so"),
    });
    say_version(&updated);
    if was_so {
        return Ok(ExitCode::SUCCESS);
    }
    held.map_or(Ok(()), |held| client::print(held))?;
    Ok(ExitCode::from(NOT_THERE))
}

/// What an update came to, once what it has left in the background is done: to end
/// before might cut off the third replica.
async fn ended(
    map: &Map,
    updated: Result<Updated<Bytes>, UpdateError>,
) -> Result<Updated<Bytes>, Box<dyn Error>> {
    map.drain().await;
    updated.map_err(|error| explain_update(&error).into())
}

fn say_version(updated: &Updated<Bytes>) {
    let attempts = updated.attempts();
    if attempts > 1 {
        say(&format!("it took {attempts} attempts: others came first"));
    }
    if let Some(version) = updated.version() {
        say(&format!("version {version}"));
    }
}

/// What is known of an update that failed: a line for the whole, and one for each
/// replica.
fn explain_update(error: &UpdateError) -> String {
    let Some(report) = error.report() else {
        return WithCauses(error).to_string();
    };
    let verdict = match error {
        UpdateError::NotApplied(_) => "the update failed and was not applied",
        UpdateError::MaybeApplied(_) => "the update failed and may have been applied",
        UpdateError::Contended(_) => "others came first, and the update was not applied",
        _ => "the update failed",
    };
    let attempts = report.attempts();
    if let Some(report) = report.prepare() {
        let (answered, needed) = (report.answered(), report.needed());
        let text = format!(
            "{verdict}: in attempt {attempts}, {answered} of 3 replicas promised, and \
             {needed} were needed"
        );
        return explain(text, report.replicas(), words::of_failed_read);
    }
    let Some(report) = report.accept() else {
        return verdict.to_owned();
    };
    let (acked, needed) = (report.acked(), report.needed());
    let text = format!(
        "{verdict}: in attempt {attempts}, {acked} of 3 replicas acked, and {needed} were needed"
    );
    explain(text, report.replicas(), words::of_failed_write)
}
