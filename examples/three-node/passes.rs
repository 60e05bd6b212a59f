//! The passes that a node runs beside its replica.

use std::convert::Infallible;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{PassSettings, Store, Transport};

use crate::rejoin::{Map, Rejoining};
use crate::security::NodeSecurity;

/// Whom a node compares its replica with.
#[derive(clap::Args)]
pub(crate) struct Peers {
    /// The other two nodes, as host:port and separated by a comma: the node
    /// brings all three what they lack, without a read
    #[arg(long, value_name = "ADDRESSES", value_parser = parse_peers)]
    peers: Option<[String; 2]>,

    /// How long after one pass over the map the next begins, a fifth more or less
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10s",
        requires = "peers"
    )]
    #[arg(value_parser = parse_duration)]
    pass_every: Duration,

    /// How long after it has collected deletes the node does so again: a deleted key
    /// leaves nothing behind then
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "1m",
        requires = "peers"
    )]
    #[arg(value_parser = parse_duration)]
    collect_every: Duration,

    /// How long a delete stays at the least. Writes that are stamped longer ago than
    /// that are refused or stamped anew
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "10m",
        requires = "peers"
    )]
    #[arg(value_parser = parse_duration)]
    collect_lag: Duration,

    /// Collect no deletes
    #[arg(long, requires = "peers", conflicts_with_all = ["collect_every", "collect_lag"])]
    no_collect: bool,

    /// How many times as long as each of its steps took a pass or a collection rests, where
    /// nodes were asked for reads or writes meanwhile. With less, deletes go away sooner,
    /// and others wait longer
    #[arg(long, value_name = "TIMES", requires = "peers")]
    #[arg(default_value_t = PassSettings::default().rests)]
    rests: u32,

    /// Speak TLS with the peers, which show a certificate signed by one of these
    /// in PEM
    #[arg(long, value_name = "FILE", requires = "peers")]
    peers_tls_ca: Option<PathBuf>,
}

fn parse_peers(addresses: &str) -> Result<[String; 2], String> {
    let addresses: Vec<&str> = addresses.split(',').map(str::trim).collect();
    match addresses.as_slice() {
        [a, b] if a != b => Ok([a, b].map(|address| (*address).to_owned())),
        [_, _] => Err("the two must be different".to_owned()),
        others => Err(format!("{} addresses, not two", others.len())),
    }
}

/// With units, or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

impl Peers {
    pub(crate) fn are_given(&self) -> bool {
        self.peers.is_some()
    }

    fn settings(&self) -> PassSettings {
        let settings = PassSettings::default()
            .every(self.pass_every)
            .rests(self.rests);
        match self.no_collect {
            true => settings,
            false => settings
                .collect_every(self.collect_every)
                .collect_lag(self.collect_lag),
        }
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
    let mut passes = map.passes(peers.settings());
    loop {
        replica.tell_pass(&passes.next().await);
    }
}
