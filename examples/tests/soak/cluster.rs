//! Three nodes that know each other, and what is done to them.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use kvquorum_http::HttpTransport;

use crate::LONG;
use crate::support::{Node, Paused, free_base_port, http, wait_until};
use crate::usage::Processes;

/// Seconds between the passes of a node, each of which collects what was deleted a moment
/// ago. The first begins within a fifth of it after the start.
const PASSES: [&str; 8] = [
    "--pass-every",
    "10",
    "--collect-every",
    "1",
    "--collect-lag",
    "1",
    "--rests",
    "4",
];

/// How many lines of the nodes' logs are kept.
const LINES: usize = 60;

pub struct Cluster {
    base: u16,
    /// `None` where replicas are in memory.
    data: Option<PathBuf>,
    nodes: [Option<Node>; 3],
    pub processes: Processes,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Cluster {
    pub fn start(data: Option<&Path>) -> Self {
        for _ in 0..10 {
            let base = free_base_port();
            let mut cluster = Self {
                base,
                data: data.map(|data| data.join(base.to_string())),
                nodes: [None, None, None],
                processes: Arc::new([0, 0, 0, process::id()].map(AtomicU32::new)),
                log: Arc::default(),
            };
            if (0..3).all(|node| cluster.try_start(node)) {
                return cluster;
            }
        }
        panic!("no three ports stayed free");
    }

    fn port(&self, node: usize) -> u16 {
        self.base + u16::try_from(node).unwrap()
    }

    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.port(node))
    }

    pub fn links(&self) -> [HttpTransport; 3] {
        [0, 1, 2].map(|node| HttpTransport::new(self.address(node)).unwrap())
    }

    fn directory(&self, node: usize) -> Option<PathBuf> {
        let data = self.data.as_ref();
        data.map(|data| data.join(node.to_string()))
    }

    fn try_start(&mut self, node: usize) -> bool {
        let peers = (0..3).filter(|peer| *peer != node);
        let peers: Vec<String> = peers.map(|peer| self.address(peer)).collect();
        let data = self.directory(node);
        let port = self.port(node);
        let peers = ["--peers", &peers.join(",")];
        let options = [&peers[..], &PASSES[..]].concat();
        let started = Node::try_start_in_or_not(port, data.as_deref(), &options);
        let Some(mut started) = started else {
            return false;
        };
        self.keep_log(node, &mut started);
        self.processes[node].store(started.process.id(), Ordering::SeqCst);
        self.nodes[node] = Some(started);
        true
    }

    /// Nobody else reads what a node logs, and a pipe that is full would hold it up.
    fn keep_log(&self, number: usize, node: &mut Node) {
        let errors = BufReader::new(node.process.take_stderr());
        let log = Arc::clone(&self.log);
        thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap();
                if log.len() == LINES {
                    log.pop_front();
                }
                log.push_back(format!("node {number}: {line}"));
            }
        });
    }

    /// The last lines that nodes have logged.
    pub fn log(&self) -> String {
        let log = self.log.lock().unwrap();
        log.iter().map(|line| format!("  {line}\n")).collect()
    }

    /// With SIGKILL.
    pub fn kill(&mut self, node: usize) {
        self.processes[node].store(0, Ordering::SeqCst);
        self.nodes[node].take().unwrap().kill();
    }

    /// Takes the disk of a node that does not run, if it has one.
    pub fn wipe(&self, node: usize) {
        if let Some(directory) = self.directory(node) {
            fs::remove_dir_all(directory).unwrap();
        }
    }

    /// Returns once it listens.
    pub fn restart(&mut self, node: usize) {
        wait_until("the node listens again", || self.try_start(node));
    }

    pub fn pause(&self, node: usize) -> Paused {
        self.nodes[node].as_ref().unwrap().process.pause()
    }

    pub fn until_ready(&self, node: usize) {
        let port = self.port(node);
        let is_ready = || http(port, "GET", "/ready", "").is_ok_and(|(status, _)| status == 200);
        let began = Instant::now();
        while !is_ready() {
            assert!(
                began.elapsed() < LONG,
                "node {node} is not ready after {LONG:?}"
            );
            sleep(Duration::from_millis(10));
        }
    }

    pub fn is_in_memory(&self) -> bool {
        self.data.is_none()
    }
}
