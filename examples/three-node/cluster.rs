//! Three nodes, each a child process.

use std::env;
use std::error::Error;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use kvquorum_core::{Refusal, Request, Response, Transport};
use kvquorum_http::HttpTransport;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, copy, sink};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::node::port_in_use;
use crate::words::Held;

/// How long a node may take to start, or to tell what it holds.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Cluster {
    pub(crate) nodes: [Node; 3],
    /// Goes with the cluster. `None` where the replicas are in memory.
    data: Option<TempDir>,
}

pub(crate) struct Node {
    pub(crate) number: u16,
    port: u16,
    /// `None` where the replica is in memory.
    data: Option<PathBuf>,
    link: HttpTransport,
    process: Option<Process>,
}

/// A running node. It ends with this process, however that ends: its stdin is
/// a pipe from here, and it watches for the pipe to close.
struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Cluster {
    /// Three nodes, not yet started, on this port and the next two.
    pub(crate) fn new(base_port: u16, memory: bool) -> Result<Self, Box<dyn Error>> {
        let data = match memory {
            true => None,
            false => Some(tempfile::Builder::new().prefix("three-node-").tempdir()?),
        };
        let node = |number: u16| {
            let port = base_port.saturating_add(number).saturating_sub(1);
            let link = HttpTransport::new(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            Ok::<_, Box<dyn Error>>(Node {
                number,
                port,
                data: data
                    .as_ref()
                    .map(|data| data.path().join(number.to_string())),
                link: link?,
                process: None,
            })
        };
        Ok(Self {
            nodes: [node(1)?, node(2)?, node(3)?],
            data,
        })
    }

    pub(crate) fn in_memory(&self) -> bool {
        self.data.is_none()
    }

    pub(crate) fn links(&self) -> [HttpTransport; 3] {
        self.nodes.each_ref().map(|node| node.link.clone())
    }

    /// What each replica holds under a key.
    pub(crate) async fn held(&self, key: &str) -> [Held; 3] {
        let [a, b, c] = &self.nodes;
        [a.held(key).await, b.held(key).await, c.held(key).await]
    }

    /// Kills what runs, and returns once it has ended.
    pub(crate) async fn kill_all(&mut self) {
        for node in &mut self.nodes {
            // One that cannot be killed has ended already.
            let _ = node.kill().await;
        }
    }

    /// The same, and clears away what the nodes have on disk.
    pub(crate) async fn end(&mut self) {
        self.kill_all().await;
        // What is left of it is the system's to clear away.
        let _ = self.data.take().map(TempDir::close);
    }
}

impl Node {
    /// Starts the node, and returns once it listens.
    pub(crate) async fn start(&mut self) -> Result<(), Box<dyn Error>> {
        self.start_with(&[]).await
    }

    /// The same, where the node has lost its data.
    pub(crate) async fn start_without_data(&mut self) -> Result<(), Box<dyn Error>> {
        self.start_with(&["--lost-if-empty"]).await
    }

    async fn start_with(&mut self, more: &[&str]) -> Result<(), Box<dyn Error>> {
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["node", "--while-stdin-is-open", "--port"])
            .arg(self.port.to_string())
            .args(more);
        match &self.data {
            Some(data) => command.arg("--data").arg(data),
            None => command.arg("--memory"),
        };
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("a child without stdout")?;
        let stdout = BufReader::new(stdout);
        // Kept from the start, so that it is ended even where it never listens.
        let process = self.process.insert(Process { child, stdout });
        let number = self.number;
        let Ok(complaint) = timeout(PATIENCE, process.complaint()).await else {
            return Err(format!("node {number} took too long to start").into());
        };
        let Some(mut said) = complaint? else {
            process.is_heard();
            return Ok(());
        };
        if said == port_in_use(self.port) {
            said.push_str("; choose another --base-port");
        }
        Err(format!("node {number} did not start: {said}").into())
    }

    /// Kills the node: with SIGKILL, where there are signals.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        match self.process.take() {
            Some(mut process) => process.child.kill().await,
            None => Ok(()),
        }
    }

    /// Stops the node's process, or has it go on: its connections stay, and it does
    /// nothing.
    #[cfg(unix)]
    pub(crate) fn pause(&self, stops: bool) -> io::Result<()> {
        use nix::sys::signal::{Signal, kill};
        use nix::unistd::Pid;

        let id = self.process_id().and_then(|id| i32::try_from(id).ok());
        let id = id.ok_or_else(|| io::Error::other("the node does not run"))?;
        let signal = match stops {
            true => Signal::SIGSTOP,
            false => Signal::SIGCONT,
        };
        Ok(kill(Pid::from_raw(id), signal)?)
    }

    #[cfg(not(unix))]
    pub(crate) fn pause(&self, _: bool) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Removes what the node has on disk, while it does not run.
    pub(crate) fn lose_data(&self) -> io::Result<()> {
        match self.data.as_ref().map(fs::remove_dir_all) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn address(&self) -> &str {
        self.link.name()
    }

    pub(crate) fn link(&self) -> &HttpTransport {
        &self.link
    }

    /// Whether its process is there: it may have ended by itself.
    pub(crate) fn is_running(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| matches!(process.child.try_wait(), Ok(None)))
    }

    pub(crate) fn process_id(&self) -> Option<u32> {
        self.process.as_ref()?.child.id()
    }

    /// What the replica holds under a key, asked of it alone.
    async fn held(&self, key: &str) -> Held {
        let asked = timeout(PATIENCE, self.link.call(&Request::read(key)));
        match asked.await {
            Ok(Ok(Response::Entry(held))) => held.entry.map_or(Held::Nothing, Held::Entry),
            Ok(Ok(Response::Refused(Refusal::Joining { .. }))) => Held::Joining,
            _ => Held::NoAnswer,
        }
    }
}

impl Process {
    /// Reads what the node logs, so that it never waits for a reader.
    fn is_heard(&mut self) {
        if let Some(mut stderr) = self.child.stderr.take() {
            tokio::spawn(async move { copy(&mut stderr, &mut sink()).await });
        }
    }

    /// Waits until the node says on stdout that it listens. Where it ends
    /// without, returns what it said on stderr, or else how it ended.
    async fn complaint(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line).await? > 0 {
            return Ok(None);
        }
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said).await?;
        }
        let ended = self.child.wait().await?;
        Ok(Some(match said.trim().trim_start_matches("error: ") {
            "" => ended.to_string(),
            said => said.to_owned(),
        }))
    }
}
