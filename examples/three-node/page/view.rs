//! How everything is, as the page shows it.

use std::time::Duration;

use kvquorum_core::{Request, Response, ScanLimit, Told, Transport};
use kvquorum_http::HttpTransport;
use serde::Serialize;
use tokio::time::timeout;

use super::link::{Faults, Pace};
use super::quorums::shown;
use super::scenes::Scene;
use super::stage::Stage;

/// How long a node may take to say what it holds.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many keys of a node are shown.
const ROWS: usize = 20;

/// How much of a key or value is shown, in characters.
const WIDTH: usize = 40;

#[derive(Serialize)]
pub(super) struct State {
    nodes: [Node; 3],
    ahead_ms: [i64; 2],
    pace: Pace,
    per_second: u64,
    scene: Option<Scene>,
}

#[derive(Serialize)]
struct Node {
    address: String,
    is: Is,
    /// What it holds, read from it.
    rows: Vec<Row>,
    /// Whether it holds further keys.
    has_more: bool,
    link: Faults,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Is {
    Ready,
    Joining,
    NoAnswer,
    Paused,
    Down,
}

#[derive(Serialize)]
struct Row {
    key: String,
    /// `None` for a tombstone.
    value: Option<String>,
    version: String,
}

pub(super) async fn look(stage: &Stage) -> State {
    let known = {
        let mut nodes = stage.nodes.lock().await;
        let paused = nodes.paused;
        let all = nodes.cluster.nodes.each_mut();
        let all = all.map(|node| (node.link().clone(), node.is_running()));
        let mut paused = paused.into_iter();
        all.map(|(link, runs)| (link, runs, paused.next().unwrap_or(false)))
    };
    let faults = stage.links.faults();
    let [a, b, c] = known;
    let [of_a, of_b, of_c] = faults;
    let (a, b, c) = tokio::join!(node(a, of_a), node(b, of_b), node(c, of_c));
    State {
        nodes: [a, b, c],
        ahead_ms: stage.ahead_ms(),
        pace: stage.links.pace(),
        per_second: stage.per_second(),
        scene: stage.scene(),
    }
}

async fn node((node, runs, is_paused): (HttpTransport, bool, bool), link: Faults) -> Node {
    let (is, rows, has_more) = match () {
        () if !runs => (Is::Down, Vec::new(), false),
        () if is_paused => (Is::Paused, Vec::new(), false),
        () => held(&node).await,
    };
    Node {
        address: node.name().to_owned(),
        is,
        rows,
        has_more,
        link,
    }
}

async fn held(node: &HttpTransport) -> (Is, Vec<Row>, bool) {
    let is = match ask(node, &Request::status()).await {
        Some(Response::Told(told)) => match *told {
            Told::Status(status) if status.marks.is_joining => Is::Joining,
            _ => Is::Ready,
        },
        _ => Is::NoAnswer,
    };
    if is != Is::Ready {
        return (is, Vec::new(), false);
    }
    let Some(Response::Page(page)) = ask(node, &Request::scan(.., ScanLimit::keys(ROWS))).await
    else {
        return (Is::NoAnswer, Vec::new(), false);
    };
    let rows = page.entries.iter().map(|(key, entry)| Row {
        key: short(&String::from_utf8_lossy(key.as_bytes())),
        value: entry.value.as_ref().map(|value| short(&shown(value))),
        version: entry.version.to_string(),
    });
    (is, rows.collect(), page.upto.is_some())
}

async fn ask(node: &HttpTransport, request: &Request) -> Option<Response> {
    timeout(PATIENCE, node.call(request)).await.ok()?.ok()
}

fn short(text: &str) -> String {
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
