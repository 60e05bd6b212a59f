//! Ranges of keys, from the command line: `scan`.

use std::error::Error;
use std::io::{self, Write};

use kvquorum_core::{Bytes, Coordinator, Key, KeyRange, ScanError};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::client::{Links, Nodes, explain, print_to};
use crate::layout::say;
use crate::words;

#[derive(clap::Args)]
pub(crate) struct Scan {
    /// What the keys begin with; all keys where it is left out
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    #[command(flatten)]
    nodes: Nodes,

    /// How many replicas must answer
    #[arg(long, value_name = "R", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=3))]
    read_quorum: u8,
}

/// A line of what is printed. Bytes that are no text, or no JSON, are in hex.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
}

pub(crate) async fn scan(arguments: Scan) -> Result<(), Box<dyn Error>> {
    let links = arguments.nodes.links()?;
    let range = KeyRange::prefix(arguments.prefix.as_str());
    match arguments.read_quorum {
        1 => scan_at::<1>(links, range).await,
        2 => scan_at::<2>(links, range).await,
        3 => scan_at::<3>(links, range).await,
        r => Err(format!("three replicas have no read quorum of {r}").into()),
    }
}

/// Prints page by page, so that there is never more than one of them in memory.
async fn scan_at<const R: usize>(links: Links, range: KeyRange) -> Result<(), Box<dyn Error>> {
    let map = Coordinator::<3, 2, R, _>::new(links);
    let mut scan = map.scan(range);
    let mut count = 0_u64;
    while let Some(page) = scan.next_page().await {
        let page = page.map_err(|error| explain_scan(&error, count))?;
        match print_page(&page) {
            // Whoever reads it, `head` perhaps, has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            printed => printed?,
        }
        count = count.saturating_add(u64::try_from(page.len())?);
    }
    // Replicas that were found behind are repaired in the background.
    map.drain().await;
    say(&match count {
        1 => "1 key".to_owned(),
        count => format!("{count} keys"),
    });
    Ok(())
}

fn print_page(page: &[(Key, Bytes)]) -> io::Result<()> {
    let stdout = io::stdout();
    let mut out = io::BufWriter::new(stdout.lock());
    for (key, value) in page {
        print_to(&stdout, &mut out, line(key.as_bytes(), value)?.as_bytes())?;
    }
    out.flush()
}

fn line(key: &[u8], value: &[u8]) -> serde_json::Result<String> {
    let text = std::str::from_utf8(key).ok();
    let json = serde_json::from_slice::<&RawValue>(value).ok();
    let line = serde_json::to_string(&Line {
        key: text,
        key_hex: text.is_none().then(|| hex(key)),
        value: json,
        value_hex: json.is_none().then(|| hex(value)),
    })?;
    // JSON has line ends nowhere but between its words, where any space will do.
    Ok(line.replace(['\n', '\r'], " "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is known of a page that failed: a line for the whole, and one for each
/// replica.
fn explain_scan(error: &ScanError, count: u64) -> String {
    let report = error.report();
    let (answered, needed) = (report.answered(), report.needed());
    let text = format!(
        "the scan failed after {count} keys: {answered} of 3 replicas answered, and {needed} \
         were needed"
    );
    explain(text, report.replicas(), words::of_failed_page)
}
