//! One node: a replica on disk or in memory, served over HTTP.

use std::error::Error;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::thread;

use kvquorum_core::{Replica, Store};
use kvquorum_http::Server;
use kvquorum_mem::MemStore;
use kvquorum_redb::RedbStore;
use tokio::sync::oneshot;

use crate::signals::interrupted;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The port on 127.0.0.1 to listen on; 0 stands for any free one
    #[arg(long)]
    port: u16,

    /// The directory that holds the replica, and is created where it is
    /// missing; three-node-data/PORT by default
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Keep the replica in memory: what it holds ends with the node
    #[arg(long, conflicts_with = "data")]
    memory: bool,

    /// End as soon as stdin is closed
    #[arg(long, hide = true)]
    while_stdin_is_open: bool,
}

/// Serves until it is asked to end. The first line on stdout says that it
/// listens.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    if arguments.memory {
        return serve(arguments, MemStore::new(), "in memory").await;
    }
    let directory = match &arguments.data {
        Some(directory) => directory.clone(),
        None if arguments.port == 0 => {
            return Err("a node on any free port needs --data or --memory".into());
        }
        None => PathBuf::from("three-node-data").join(arguments.port.to_string()),
    };
    let store = RedbStore::open(&directory).await?;
    serve(arguments, store, &format!("in {}", directory.display())).await
}

async fn serve(arguments: Arguments, store: impl Store, place: &str) -> Result<(), Box<dyn Error>> {
    // Listened for before anybody is told that the node is there: whoever
    // reads so may send a signal at once.
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let port = arguments.port;
    let replica = Replica::new(store);
    let server = tokio::select! {
        biased;
        ended = &mut interrupted => return Ok(ended?),
        bound = Server::bind((Ipv4Addr::LOCALHOST, port), replica) => bound,
    };
    let server = server.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("port {port} is in use"),
        _ => format!("port {port} cannot be listened on: {error}"),
    })?;
    let url = format!("http://{}", server.local_addr());
    writeln!(
        io::stdout(),
        "A replica {place}, on {url}\n\n  \
         curl -d '{{\"key\": \"tea\", \"value\": \"green\", \"timestamp\": '$(date +%s)000'}}' {url}/write\n  \
         curl {url}/read/tea\n\n\
         Ctrl-C ends it."
    )?;

    if arguments.while_stdin_is_open {
        // Whoever held the other end is gone, and nobody is left to answer.
        tokio::select! {
            ended = interrupted => ended?,
            () = stdin_closed() => return Ok(()),
        }
    } else {
        interrupted.await?;
    }
    match server.shutdown().await {
        0 => writeln!(io::stdout(), "Ended; nothing was cut short.")?,
        cut => writeln!(io::stdout(), "Ended; {cut} connections were cut.")?,
    }
    Ok(())
}

/// Waits until the other end of stdin is closed, as it is when the process that
/// holds it ends, in whatever way.
async fn stdin_closed() {
    let (open, closed) = oneshot::channel::<()>();
    // A thread and not a task: a runtime that ends would wait for its read.
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        drop(open);
    });
    let _ = closed.await;
}
