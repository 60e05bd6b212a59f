//! The passes that a node runs beside its replica, and what became of them.

use std::convert::Infallible;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvquorum_core::{LastPass, PassSettings, Request, Response, ScanLimit, Store, Told, Transport};
use kvquorum_http::HttpTransport;
use tokio::time::timeout;

use crate::client::Nodes;
use crate::layout::table;
use crate::rejoin::{Map, Rejoining, in_a_word};
use crate::security::NodeSecurity;

/// How long a node may take to answer a request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom a node compares its replica with.
#[derive(clap::Args)]
pub(crate) struct Peers {
    /// The other two nodes, as host:port and separated by a comma: the node
    /// brings all three what they lack, without a read
    #[arg(long, value_name = "ADDRESSES", value_parser = parse_peers)]
    peers: Option<[String; 2]>,

    /// How many seconds after one pass over the map the next begins, a fifth
    /// more or less
    #[arg(long, value_name = "SECONDS", default_value = "10", requires = "peers")]
    #[arg(value_parser = parse_seconds)]
    pass_every: Duration,

    /// Speak TLS with the peers, which show a certificate signed by one of these
    /// in PEM
    #[arg(long, value_name = "FILE", requires = "peers")]
    peers_tls_ca: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    nodes: Nodes,
}

fn parse_peers(addresses: &str) -> Result<[String; 2], String> {
    let addresses: Vec<&str> = addresses.split(',').map(str::trim).collect();
    match addresses.as_slice() {
        [a, b] if a != b => Ok([a, b].map(|address| (*address).to_owned())),
        [_, _] => Err("the two must be different".to_owned()),
        others => Err(format!("{} addresses, not two", others.len())),
    }
}

fn parse_seconds(seconds: &str) -> Result<Duration, String> {
    let seconds: f64 = seconds.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl Peers {
    pub(crate) fn are_given(&self) -> bool {
        self.peers.is_some()
    }
}

/// Has the replica rejoin if it lost its data, and then runs passes for as long as it is
/// polled; without peers it does nothing.
pub(crate) async fn run<S: Store>(
    peers: &Peers,
    security: &NodeSecurity,
    rejoining: &Rejoining<S>,
) -> Result<Infallible, Box<dyn Error>> {
    let Some(addresses) = &peers.peers else {
        return std::future::pending().await;
    };
    let [one, other] = security.peers(addresses, peers.peers_tls_ca.clone())?;
    let replica = &rejoining.replica;
    let transports: [Arc<dyn Transport>; 3] =
        [Arc::new(replica.clone()), Arc::new(one), Arc::new(other)];
    let map = Map::new(transports);
    rejoining.until_ready(&map).await;
    let mut passes = map.passes(PassSettings::default().every(peers.pass_every));
    loop {
        replica.tell_pass(&passes.next().await);
    }
}

/// Prints how each node is.
pub(crate) async fn status(arguments: Status) -> Result<(), Box<dyn Error>> {
    let [a, b, c] = arguments.nodes.links()?;
    let names = [&a, &b, &c].map(|link| link.name().to_owned());
    let (a, b, c) = tokio::join!(of(&a), of(&b), of(&c));
    let nodes = [a, b, c];
    let columns = [
        ("is", nodes.each_ref().map(|node| node.is.to_owned())),
        ("keys", nodes.each_ref().map(|node| node.keys.clone())),
        (
            "tombstones",
            nodes.each_ref().map(|node| node.tombstones.clone()),
        ),
        ("last pass", nodes.each_ref().map(|node| node.ended.clone())),
        (
            "repaired",
            nodes.each_ref().map(|node| node.repaired.clone()),
        ),
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
    let pass = status.last_pass.as_ref();
    Node {
        is: in_a_word(Some(&status)),
        keys,
        tombstones,
        ended: pass.map_or_else(|| "none".to_owned(), ended),
        repaired: pass.map_or_else(String::new, repaired),
    }
}

fn ended(pass: &LastPass) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis());
    let ago = now.saturating_sub(pass.ended_millis.into()) / 1000;
    format!("{ago} s ago")
}

fn repaired(pass: &LastPass) -> String {
    let repaired: u64 = pass.repaired.iter().sum();
    match pass.is_complete {
        true => format!("{repaired} entries"),
        false => format!("{repaired} entries, not all compared"),
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
