//! How each node is.

use std::error::Error;
use std::time::Duration;

use kvquorum_core::{
    LastCollection, LastPass, Request, Response, ScanLimit, Status, Timestamp, Told, Transport,
    Waits,
};
use kvquorum_http::HttpTransport;
use tokio::time::timeout;

use crate::client::Nodes;
use crate::layout::table;
use crate::rejoin::in_a_word;

/// How long a node may take to answer a request.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    nodes: Nodes,
}

/// Prints how each node is.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let [a, b, c] = arguments.nodes.links()?;
    let names = [&a, &b, &c].map(|link| link.name().to_owned());
    let (a, b, c) = tokio::join!(of(&a), of(&b), of(&c));
    let nodes = [a, b, c];
    let column = |cell: fn(&Node) -> &str| nodes.each_ref().map(|node| cell(node).to_owned());
    let columns = [
        ("is", column(|node| node.is)),
        ("keys", column(|node| &node.keys)),
        ("tombstones", column(|node| &node.tombstones)),
        ("last pass", column(|node| &node.ended)),
        ("repaired", column(|node| &node.repaired)),
        ("sealed up to", column(|node| &node.sealed)),
        ("collected up to", column(|node| &node.collected)),
        ("last collection", column(|node| &node.collection)),
    ];
    for line in table("  ", names.each_ref().map(String::as_str), &columns) {
        println!("{line}");
    }
    Ok(())
}

/// One node, in words.
#[derive(Default)]
struct Node {
    is: &'static str,
    keys: String,
    tombstones: String,
    ended: String,
    repaired: String,
    sealed: String,
    collected: String,
    collection: String,
}

async fn of(link: &HttpTransport) -> Node {
    let told = ask(link, Request::status()).await;
    let told = told.and_then(|response| match response {
        Response::Told(told) => Some(*told),
        _ => None,
    });
    let Some(Told::Status(status)) = told else {
        return Node {
            is: in_a_word(None),
            ..Node::default()
        };
    };
    let (keys, tombstones) = match count(link).await {
        Some(Count { keys, tombstones }) => (keys.to_string(), tombstones.to_string()),
        None => ("unknown".to_owned(), "unknown".to_owned()),
    };
    let Status {
        marks, now_millis, ..
    } = status;
    let mark = |mark: Timestamp| match mark {
        Timestamp::MIN => "never".to_owned(),
        mark => ago(now_millis, mark.millis()),
    };
    let none = || "none".to_owned();
    let pass = status.last_pass.as_ref();
    let collection = status.last_collection.as_ref();
    Node {
        is: in_a_word(Some(&status)),
        keys,
        tombstones,
        ended: pass.map_or_else(none, |pass| ago(now_millis, pass.ended_millis)),
        repaired: pass.map_or_else(String::new, repaired),
        sealed: mark(marks.sealed),
        collected: mark(marks.collected),
        collection: collection.map_or_else(none, |it| collected(now_millis, it)),
    }
}

/// How long ago something was, by the node's own clock.
fn ago(now_millis: u64, millis: u64) -> String {
    format!("{} s ago", now_millis.saturating_sub(millis) / 1000)
}

fn repaired(pass: &LastPass) -> String {
    let repaired: u64 = pass.repaired.iter().sum();
    match pass.is_complete {
        true => format!("{repaired} entries"),
        false => format!("{repaired} entries, not all compared"),
    }
}

/// When the last collection was, or what the next one waits for.
fn collected(now_millis: u64, last: &LastCollection) -> String {
    let Some(Waits {
        replica,
        since_millis,
        ..
    }) = &last.waits
    else {
        return ago(now_millis, last.ended_millis);
    };
    let since = now_millis.saturating_sub(*since_millis) / 1000;
    match replica {
        Some(replica) => format!("waits for {replica} since {since} s ago"),
        None => format!("waits for a complete pass since {since} s ago"),
    }
}

pub(crate) async fn ask(link: &HttpTransport, request: Request) -> Option<Response> {
    timeout(PATIENCE, link.call(&request)).await.ok()?.ok()
}

/// How many keys hold values, and how many tombstones.
#[derive(Default)]
struct Count {
    keys: u64,
    tombstones: u64,
}

/// Counts what a replica holds, page by page.
async fn count(link: &HttpTransport) -> Option<Count> {
    let mut count = Count::default();
    let mut request = Request::scan(.., ScanLimit::NONE);
    loop {
        let Response::Page(page) = ask(link, request).await? else {
            return None;
        };
        let all = page.entries.len() as u64;
        let values = page.entries.iter().filter(|(_, it)| it.value.is_some());
        let keys = values.count() as u64;
        count.keys = count.keys.saturating_add(keys);
        count.tombstones = count.tombstones.saturating_add(all.saturating_sub(keys));
        match page.upto {
            Some(upto) => request = Request::scan(upto.., ScanLimit::NONE),
            None => return Some(count),
        }
    }
}
