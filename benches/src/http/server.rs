//! Replica servers in processes of their own: the benchmark runs itself again.

use std::ffi::OsStr;
use std::future::pending;
use std::io::{BufRead, BufReader, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, io, process, thread};

use kvquorum_core::{Change, Key, Record, Replica, Response, ScanLimit, Store, StoreError};
use kvquorum_http::{ReplicaService, Server, ServerBuilder};
use kvquorum_mem::MemStore;
use kvquorum_redb::RedbStore;
use tokio::time::sleep;

use crate::{cpu, runtime};

/// How long a late replica takes longer.
const DELAY: Duration = Duration::from_millis(50);

/// How a replica answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    Healthy,
    /// 50 milliseconds late.
    Delayed,
    /// Never.
    Hanging,
}

impl Pace {
    /// All, the healthy one first.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Delayed, Self::Hanging];

    /// As it stands in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Delayed => "delayed",
            Self::Hanging => "hanging",
        }
    }

    async fn keep(self) {
        match self {
            Self::Healthy => {}
            Self::Delayed => sleep(DELAY).await,
            Self::Hanging => pending().await,
        }
    }
}

/// A store in memory with a pace.
struct Paced(MemStore, Pace);

impl Store for Paced {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.1.keep().await;
        self.0.get(key).await
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        self.1.keep().await;
        self.0.apply(key, change).await
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        self.0.scan(range, limit).await
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        match self.1 {
            Pace::Healthy => self.0.try_get(key),
            Pace::Delayed | Pace::Hanging => None,
        }
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        match self.1 {
            Pace::Healthy => self.0.try_apply(key, change),
            Pace::Delayed | Pace::Hanging => Err(change),
        }
    }
}

/// What tells a process that it is a server, before its pace.
const SERVE: &str = "--serve";

/// As [`SERVE`], before the directory of its store.
const SERVE_DISK: &str = "--serve-disk";

/// Makes this process a server, if it was started as one. To be called first.
pub fn serve_if_told() {
    let arguments: Vec<String> = env::args().collect();
    match &arguments[..] {
        [_, serve, pace] if serve == SERVE => {
            let pace = Pace::ALL.into_iter().find(|known| known.name() == pace);
            let replica = Replica::new(Paced(MemStore::new(), pace.unwrap())).of_new_cluster();
            let service = async move { ReplicaService::new(replica) };
            serve_until_told(Server::builder(), service);
        }
        [_, serve, directory] if serve == SERVE_DISK => {
            let directory = PathBuf::from(directory);
            let service = async move {
                let store = RedbStore::open_or_create(directory).await.unwrap();
                ReplicaService::new(Replica::new(store).of_new_cluster())
            };
            serve_until_told(Server::builder(), service);
        }
        _ => {}
    }
}

/// Serves on one thread, and tells of itself on another, until its parent
/// closes the pipe or is gone.
pub(crate) fn serve_until_told<S: Store>(
    server: ServerBuilder,
    service: impl Future<Output = ReplicaService<S>> + Send + 'static,
) -> ! {
    thread::spawn(move || {
        runtime::of_this_thread().block_on(async {
            let service = service.await;
            // The floor opens connections without a bound, and a server that makes
            // room closes idle ones, which the floor's client may just reuse.
            let server = server.max_connections(8192);
            let server = server.bind("127.0.0.1:0", service).await.unwrap();
            say(server.local_addr());
            pending::<()>().await;
        });
    });
    for question in io::stdin().lines() {
        question.unwrap();
        say(cpu::own_seconds());
    }
    process::exit(0)
}

fn say(answer: impl std::fmt::Display) {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{answer}").unwrap();
    stdout.flush().unwrap();
}

/// A server process. It ends with this value, or with this process.
pub struct ServerProcess {
    child: Child,
    /// `None` once it is to end.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// `host:port`.
    pub address: String,
}

impl ServerProcess {
    /// Starts one in memory.
    pub fn start(pace: Pace) -> Self {
        Self::run(&[SERVE.as_ref(), pace.name().as_ref()])
    }

    /// Starts one on disk, in this directory.
    pub fn start_on_disk(directory: &Path) -> Self {
        Self::run(&[SERVE_DISK.as_ref(), directory.as_os_str()])
    }

    /// This program again, with these arguments.
    pub(crate) fn run(arguments: &[&OsStr]) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let address = read_line(&mut stdout);
        Self {
            child,
            stdin,
            stdout,
            address,
        }
    }

    /// Seconds that it has spent on a processor so far.
    pub(super) fn cpu_seconds(&mut self) -> f64 {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "How long?").unwrap();
        read_line(&mut self.stdout).parse().unwrap()
    }
}

fn read_line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
