//! One operation on the map, from the command line.

use std::error::Error;
use std::io::{self, Write};

use kvquorum_core::{Coordinator, Transport, WriteError, WriteReceipt};
use kvquorum_http::HttpTransport;

use crate::words;

type Links = [HttpTransport; 3];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The three nodes, separated by commas
    #[arg(long, value_name = "ADDRESSES", value_parser = parse_nodes)]
    #[arg(default_value = "127.0.0.1:3001,127.0.0.1:3002,127.0.0.1:3003")]
    nodes: Links,

    /// How many replicas must ack a write
    #[arg(long, value_name = "W", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=3))]
    write_quorum: u8,

    /// How many replicas must answer a read
    #[arg(long, value_name = "R", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u8).range(1..=3))]
    read_quorum: u8,
}

fn parse_nodes(addresses: &str) -> Result<Links, String> {
    let addresses: Vec<&str> = addresses.split(',').map(str::trim).collect();
    let [a, b, c] = addresses.as_slice() else {
        return Err(format!("{} addresses, not three", addresses.len()));
    };
    // One replica reached by two links would be counted twice.
    if a == b || b == c || a == c {
        return Err("the three must be different".to_owned());
    }
    let link = |address: &str| HttpTransport::new(address).map_err(|error| error.to_string());
    Ok([link(a)?, link(b)?, link(c)?])
}

pub(crate) enum Operation<'a> {
    Put(&'a str),
    Get,
    Delete,
}

pub(crate) async fn run(
    arguments: Arguments,
    key: &str,
    operation: Operation<'_>,
) -> Result<(), Box<dyn Error>> {
    let nodes = arguments.nodes;
    // Quorums are part of a coordinator's type, so that wrong ones do not
    // compile. Numbers known only at run time choose among types that do.
    match (arguments.write_quorum, arguments.read_quorum) {
        (1, 1) => operate::<1, 1>(nodes, key, operation).await,
        (1, 2) => operate::<1, 2>(nodes, key, operation).await,
        (1, 3) => operate::<1, 3>(nodes, key, operation).await,
        (2, 1) => operate::<2, 1>(nodes, key, operation).await,
        (2, 2) => operate::<2, 2>(nodes, key, operation).await,
        (2, 3) => operate::<2, 3>(nodes, key, operation).await,
        (3, 1) => operate::<3, 1>(nodes, key, operation).await,
        (3, 2) => operate::<3, 2>(nodes, key, operation).await,
        (3, 3) => operate::<3, 3>(nodes, key, operation).await,
        (w, r) => Err(format!("three replicas have no quorums of {w} and {r}").into()),
    }
}

async fn operate<const W: usize, const R: usize>(
    links: Links,
    key: &str,
    operation: Operation<'_>,
) -> Result<(), Box<dyn Error>> {
    let map = Coordinator::<3, W, R, _>::new(links);
    match operation {
        Operation::Put(value) => {
            let written = map.put(key, as_json(value)).await;
            report_write(&map, written).await
        }
        Operation::Delete => report_write(&map, map.delete(key).await).await,
        Operation::Get => get(&map, key).await,
    }
}

/// JSON as it is, and anything else as a JSON string: the map holds bytes of
/// any kind, but curl shows JSON.
fn as_json(value: &str) -> String {
    match serde_json::from_str::<serde_json::Value>(value) {
        Ok(_) => value.to_owned(),
        Err(_) => serde_json::Value::from(value).to_string(),
    }
}

async fn report_write<const W: usize, const R: usize>(
    map: &Coordinator<3, W, R, HttpTransport>,
    written: Result<WriteReceipt<3>, WriteError>,
) -> Result<(), Box<dyn Error>> {
    // A write is decided at W acks, and the rest of it goes on in the
    // background: in this process. To end it now might cut off the third
    // replica, which would then miss the write.
    let receipt = match written {
        Ok(receipt) => receipt.settled().await,
        Err(error) => return Err(error.settled().await.into()),
    };
    let mut out = io::stdout();
    let acked = receipt.acked();
    writeln!(out, "{acked} of 3 replicas acked, and {W} were needed")?;
    if receipt.attempts() > 1 {
        let attempts = receipt.attempts();
        writeln!(out, "stamped {attempts} times: others held a newer entry")?;
    }
    let parts = receipt.replicas().each_ref().map(words::of_write);
    show_replicas(map, parts)?;
    Ok(())
}

async fn get<const W: usize, const R: usize>(
    map: &Coordinator<3, W, R, HttpTransport>,
    key: &str,
) -> Result<(), Box<dyn Error>> {
    let receipt = map.get_with_receipt(key).await?;
    let parts = receipt.replicas().each_ref().map(words::of_read);
    let mut out = io::stdout();
    match receipt.into_value() {
        Some(value) => writeln!(out, "{}", String::from_utf8_lossy(&value))?,
        None => writeln!(out, "{key} is absent")?,
    }
    show_replicas(map, parts)?;
    // A replica that was found behind, or has yet to answer, is repaired in
    // the background, within the time limit of each call.
    map.drain().await;
    Ok(())
}

fn show_replicas<const W: usize, const R: usize>(
    map: &Coordinator<3, W, R, HttpTransport>,
    parts: [String; 3],
) -> io::Result<()> {
    for (link, part) in map.transports().iter().zip(parts) {
        writeln!(io::stdout(), "  {}  {part}", link.name())?;
    }
    Ok(())
}
