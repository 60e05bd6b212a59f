//! Three nodes that know each other, and what is done to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kvquorum_core::{Coordinator, Request, Response, Status, Told, Transport};
use kvquorum_http::HttpTransport;
use serde_json::Value;

use super::{Node, example, free_base_port, http};

/// Far more than it takes, on a machine that has much else to do.
pub const LONG: Duration = Duration::from_secs(60);

pub type Map = Coordinator<3, 2, 2, HttpTransport>;

/// Three nodes that know each other.
pub struct Cluster {
    base: u16,
    /// `None` where replicas are in memory.
    data: Option<PathBuf>,
    /// When passes and collections are.
    when: Vec<String>,
    pub nodes: [Option<Node>; 3],
}

impl Cluster {
    /// None of its passes begins before the test ends.
    pub async fn start(data: Option<&Path>) -> Self {
        Self::start_with(data, &["--pass-every", "3600"]).await
    }

    pub async fn start_with(data: Option<&Path>, when: &[&str]) -> Self {
        let cluster = loop {
            let mut cluster = Self::stopped(data, when);
            cluster.nodes = [0, 1, 2].map(|number| cluster.try_start(number));
            if cluster.nodes.iter().all(Option::is_some) {
                break cluster;
            }
        };
        for number in 0..3 {
            cluster.is_ready(number).await;
        }
        cluster
    }

    fn stopped(data: Option<&Path>, when: &[&str]) -> Self {
        Self {
            base: free_base_port(),
            data: data.map(Path::to_owned),
            when: when.iter().map(|it| (*it).to_owned()).collect(),
            nodes: [None, None, None],
        }
    }

    fn try_start(&self, number: u16) -> Option<Node> {
        let peers = (0..3).filter(|peer| *peer != number);
        let peers: Vec<String> = peers.map(|peer| self.address(peer)).collect();
        let data = self.data.as_ref().map(|_| self.directory(number));
        let peers = peers.join(",");
        let mut more = vec!["--peers", peers.as_str()];
        more.extend(self.when.iter().map(String::as_str));
        Node::try_start_in_or_not(self.port(number), data.as_deref(), &more)
    }

    pub fn port(&self, number: u16) -> u16 {
        self.base + number
    }

    pub fn address(&self, number: u16) -> String {
        format!("127.0.0.1:{}", self.port(number))
    }

    pub fn is_on_disk(&self) -> bool {
        self.data.is_some()
    }

    pub fn directory(&self, number: u16) -> PathBuf {
        self.data.as_ref().unwrap().join(number.to_string())
    }

    pub fn link(&self, number: u16) -> HttpTransport {
        HttpTransport::new(self.address(number)).unwrap()
    }

    /// One that repairs nothing, so that nothing converges by being read.
    pub fn map(&self) -> Map {
        let links = [0, 1, 2].map(|number| self.link(number));
        Coordinator::builder(links).repair_off().build()
    }

    pub fn restart(&mut self, number: u16) {
        self.nodes[usize::from(number)] = Some(self.try_start(number).unwrap());
    }

    /// Without its peers: nobody has it rejoin.
    pub fn restart_alone(&mut self, number: u16) {
        let directory = self.data.as_ref().map(|_| self.directory(number));
        let node = Node::try_start_alone(self.port(number), directory.as_deref());
        self.nodes[usize::from(number)] = Some(node.unwrap());
    }

    pub fn kill(&mut self, number: u16) {
        self.nodes[usize::from(number)].take().unwrap().kill();
    }

    /// Kills a node, and takes its disk away if it has one.
    pub fn lose(&mut self, number: u16) {
        self.kill(number);
        if self.data.is_some() {
            fs::remove_dir_all(self.directory(number)).unwrap();
        }
    }

    /// What it says to an orchestrator.
    pub fn ready(&self, number: u16) -> (u16, Value) {
        let (status, body) = http(self.port(number), "GET", "/ready", "").unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    pub async fn is_ready(&self, number: u16) {
        self.says(number, |told| told == &(200, ready())).await;
    }

    pub async fn says(&self, number: u16, is_expected: impl Fn(&(u16, Value)) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let told = self.ready(number);
            if is_expected(&told) {
                return told.1;
            }
            assert!(began.elapsed() < LONG, "{told:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn client(&self, arguments: &[&str]) -> std::process::Output {
        let nodes = [0, 1, 2].map(|number| self.address(number)).join(",");
        let mut command = example("three-node");
        command.args(arguments).args(["--nodes", &nodes]);
        command.output().unwrap()
    }
}

pub fn ready() -> Value {
    serde_json::json!({"status": "ready"})
}

pub async fn status(link: &HttpTransport) -> Status {
    match link.call(&Request::status()).await.unwrap() {
        Response::Told(told) => match *told {
            Told::Status(status) => status,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}
