//! A page on which to play with three nodes: `three-node page`.
//!
//! The nodes are processes, and all calls go over HTTP. [`link`] has each call wait so
//! that it can be seen, and loses it where it is told to; [`quorums`] makes the
//! coordinators; [`stage`] holds all that there is, [`act`] is what is done with it, and
//! [`view`] how it looks; [`events`] tells the page of it, [`server`] serves that; and
//! [`scenes`] tells what is played in [`plays`].

mod act;
mod events;
mod link;
mod nodes;
mod plays;
mod quorums;
mod scenes;
mod server;
mod stage;
mod view;

use std::error::Error;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use kvquorum_core::Transport;
use kvquorum_http::HttpTransport;
use tokio::net::TcpListener;

use crate::cluster::Cluster;
use crate::node::port_in_use;
use crate::signals::interrupted;
use events::Events;
use link::{Links, Pace};
use stage::Stage;

/// How fast messages travel at first.
const PACE: Pace = Pace {
    travel_ms: 600,
    by_step: false,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The port to serve the page on; 0 stands for any free one
    #[arg(long, default_value_t = 3000)]
    port: u16,

    /// The nodes listen on this port and the next two
    #[arg(long, value_name = "PORT", default_value_t = 3001)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=65533))]
    base_port: u16,
}

/// Serves the page until it is asked to end.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let port = arguments.port;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{}; choose another --port", port_in_use(port)).into(),
        _ => Box::<dyn Error>::from(error),
    })?;
    let port = listener.local_addr()?.port();
    let cluster = Cluster::new(arguments.base_port, false)?;
    let nodes = cluster
        .links()
        .each_ref()
        .map(|node| node.name().to_owned());
    let [a, b, c] = nodes.each_ref().map(HttpTransport::new);
    // Apart from those by which nodes are looked at: what becomes of one is not seen by
    // the other.
    let links = Links::new(Events::new(), [a?, b?, c?], PACE);
    let stage = Stage::new(cluster, links);
    let told = tokio::select! {
        // Ctrl-C in a terminal ends the nodes as well.
        biased;
        ended = interrupted() => ended.map_err(Into::into),
        told = play(listener, port, &stage) => told,
    };
    // Nothing is left behind, whatever has happened.
    scenes::leave(&stage);
    stage.nodes.lock().await.cluster.end().await;
    told
}

async fn play(listener: TcpListener, port: u16, stage: &Arc<Stage>) -> Result<(), Box<dyn Error>> {
    stage.begin_anew().await?;
    writeln!(
        io::stdout(),
        "See a quorum live: http://127.0.0.1:{port}\n\nCtrl-C ends it, and its three nodes."
    )?;
    tokio::select! {
        never = server::serve(listener, Arc::clone(stage)) => match never {},
        () = Arc::clone(stage).watch() => Ok(()),
    }
}
