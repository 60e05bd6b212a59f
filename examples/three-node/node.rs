//! One node: a replica on disk or in memory, served over HTTP.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use kvquorum_core::{Replica, Store};
use kvquorum_http::ReplicaService;
use kvquorum_mem::MemStore;
use kvquorum_redb::{OpenError, RedbStore};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::backup::backup_into;
use crate::passes::{self, Peers};
use crate::rejoin::Rejoining;
use crate::security::NodeSecurity;
use crate::signals::{BackupAsked, interrupted};
use crate::watch::{self, LogFormat};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The port to listen on; 0 stands for any free one
    #[arg(long)]
    port: u16,

    /// The address to listen on; 0.0.0.0 stands for all of this machine's
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,

    /// The directory that holds the replica, and is created where it is
    /// missing; three-node-data/PORT by default
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Keep the replica in memory: what it holds ends with the node
    #[arg(long, conflicts_with = "data")]
    memory: bool,

    /// Where to make a backup when SIGUSR1 comes, under the time in milliseconds
    #[arg(long, value_name = "DIR", conflicts_with = "memory")]
    backups: Option<PathBuf>,

    /// How to log to stderr. RUST_LOG says what to log: info by default
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,

    #[command(flatten)]
    peers: Peers,

    #[command(flatten)]
    security: NodeSecurity,

    /// A replica that is empty has lost its data, as with --peers: it waits for who has it
    /// rejoin
    #[arg(long, hide = true)]
    lost_if_empty: bool,

    /// End as soon as stdin is closed
    #[arg(long, hide = true)]
    while_stdin_is_open: bool,
}

impl Arguments {
    /// A node with peers may have lost its data: they know. One without may as well, and
    /// nobody would tell it.
    fn replica<S: Store>(&self, store: S) -> Replica<S> {
        let replica = Replica::new(store);
        match self.peers.are_given() || self.lost_if_empty {
            true => replica,
            false => replica.of_new_cluster(),
        }
    }
}

/// Serves until it is asked to end. The first line on stdout says that it
/// listens.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    watch::log(arguments.log_format);
    // First, as what is made before is not recorded.
    let recorded = watch::record()?;
    let cut = if arguments.memory {
        let rejoining = Rejoining::new(arguments.replica(MemStore::new()));
        let service = arguments.security.service(rejoining.replica.clone())?;
        let service = watch::serve(service, &rejoining, recorded, || async { Ok(()) });
        serve(&arguments, &rejoining, service, "in memory").await?
    } else {
        let directory = match &arguments.data {
            Some(directory) => directory.clone(),
            None if arguments.port == 0 => {
                return Err("a node on any free port needs --data or --memory".into());
            }
            None => PathBuf::from("three-node-data").join(arguments.port.to_string()),
        };
        let store = open(&directory, (arguments.listen, arguments.port)).await?;
        let place = format!("in {}", directory.display());
        let checked = Arc::clone(&store);
        let rejoining = Rejoining::new(arguments.replica(Arc::clone(&store)));
        let service = arguments.security.service(rejoining.replica.clone())?;
        let service = watch::serve(service, &rejoining, recorded, move || {
            let store = Arc::clone(&checked);
            async move { Ok(store.check().await?) }
        });
        let backups = make_backups(BackupAsked::listen()?, &store, arguments.backups.as_deref());
        let served = tokio::select! {
            served = serve(&arguments, &rejoining, service, &place) => served,
            never = backups => match never {},
        };
        store.close().await?;
        served?
    };
    let ended = match cut {
        0 => "Ended; nothing was cut short.".to_owned(),
        cut => format!("Ended; {cut} connections were cut."),
    };
    // The terminal may be gone, and then it is nobody's error.
    let _ = writeln!(io::stdout(), "{ended}");
    Ok(())
}

/// Makes a backup each time that one is asked for, and nothing else.
async fn make_backups(
    mut asked: BackupAsked,
    store: &RedbStore,
    directory: Option<&Path>,
) -> Infallible {
    loop {
        asked.next().await;
        match directory {
            Some(directory) => backup_into(store, directory).await,
            None => tracing::warn!("no backup is made: --backups does not say where to"),
        }
    }
}

/// Opens the store, and creates it where there is none; but not for a node that
/// could not listen anyway.
async fn open(directory: &Path, address: (IpAddr, u16)) -> Result<Arc<RedbStore>, Box<dyn Error>> {
    let listener = TcpListener::bind(address).await;
    drop(listener.map_err(|error| cannot_listen(address.1, &error))?);
    match RedbStore::open_or_create(directory).await {
        Ok(store) => Ok(Arc::new(store)),
        Err(OpenError::Locked { path }) => {
            Err(format!("{} is in use by another node", path.display()).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Serves until it is asked to end. Returns how many connections were cut then.
async fn serve<S: Store>(
    arguments: &Arguments,
    rejoining: &Rejoining<S>,
    service: ReplicaService<S>,
    place: &str,
) -> Result<usize, Box<dyn Error>> {
    // Listened for before anybody is told that the node is there: whoever
    // reads so may send a signal at once.
    let ended = ended(arguments.while_stdin_is_open);
    tokio::pin!(ended);
    let (port, security) = (arguments.port, &arguments.security);
    let server = security.server()?;
    let server = tokio::select! {
        biased;
        ended = &mut ended => return Ok(ended.map(|()| 0)?),
        bound = server.bind((arguments.listen, port), service) => bound,
    };
    let server = server.map_err(|error| cannot_listen(port, &error))?;
    if !arguments.listen.is_loopback() && !security.is_guarded() {
        tracing::warn!("whoever reaches the port reads and writes every key: see --token-file");
    }
    let url = format!("{}://{}", security.scheme(), server.local_addr());
    let options = security.curl();
    // The timestamp is the end of the present second: a write that is stamped
    // in the past changes nothing where there is a newer value.
    writeln!(
        io::stdout(),
        "A replica {place}, on {url}\n\n  \
         curl{options} -d '{{\"key\": \"tea\", \"value\": \"green\", \"timestamp\": '$(date +%s)999'}}' {url}/write\n  \
         curl{options} {url}/read/tea\n\n\
         Ctrl-C ends it."
    )?;
    tokio::select! {
        biased;
        ended = ended => ended?,
        // They end only where no link can be made.
        passes = passes::run(&arguments.peers, security, rejoining) => match passes? {},
    }
    Ok(server.shutdown().await)
}

fn cannot_listen(port: u16, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => port_in_use(port),
        _ => format!("port {port} cannot be listened on: {error}"),
    }
}

/// What a node says whose port another process listens on.
pub(crate) fn port_in_use(port: u16) -> String {
    format!("port {port} is in use")
}

/// Waits until the node is asked to end.
async fn ended(when_stdin_is_closed: bool) -> io::Result<()> {
    if when_stdin_is_closed {
        tokio::select! {
            biased;
            interrupted = interrupted() => interrupted,
            () = stdin_closed() => Ok(()),
        }
    } else {
        interrupted().await
    }
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
