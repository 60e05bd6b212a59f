//! Three nodes that are restarted one after the other, under load.

#![cfg(unix)]

mod support;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvquorum_core::Coordinator;
use kvquorum_http::HttpTransport;
use nix::sys::signal::Signal;
use support::{Node, example, free_base_port, says, three_nodes};
use tokio::time::{sleep, timeout};

type Map = Coordinator<3, 2, 2, HttpTransport>;

/// How many tasks put and get, each a key of its own.
const CLIENTS: u64 = 16;

/// What an operation of the load may take beyond any limit of its own.
const PATIENCE: Duration = Duration::from_secs(30);

fn start(program: &Path, base: u16, directory: &Path) -> Option<[Node; 3]> {
    let nodes = [0, 1, 2].map(|number| {
        let data = directory.join(number.to_string());
        Node::try_start_of(Command::new(program), base + number, &data)
    });
    let [a, b, c] = nodes;
    Some([a?, b?, c?])
}

/// Puts and gets until it is told to stop; counts what it does.
async fn load(map: Map, client: u64, done: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let key = format!("client {client}");
    for step in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let value = step.to_string();
        let put = map.put(key.as_str(), value.clone()).await;
        put.unwrap_or_else(|error| panic!("put {step}: {error}"));
        let got = map.get(key.as_str()).await;
        let got = got.unwrap_or_else(|error| panic!("get {step}: {error}"));
        assert_eq!(
            got.as_deref(),
            Some(value.as_bytes()),
            "what was acked is lost"
        );
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits until a coordinator reaches all three nodes again: only then may the next
/// one be restarted.
async fn all_answer(map: &Map) {
    let all = async {
        while map.put("probe", "").await.unwrap().settled().await.acked() < 3 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, all).await.unwrap();
}

/// Bugs: an operation fails while one node of three is down, or while it goes or
/// comes; what was acked is gone after a restart, by SIGKILL too; a node that is
/// back is not called again.
async fn no_operation_fails(signal: Signal, before: &Path, after: &Path) {
    let directory = tempfile::tempdir().unwrap();
    let base_and_nodes = (0..10).find_map(|_| {
        let base = free_base_port();
        Some((base, start(before, base, directory.path())?))
    });
    let (base, mut nodes) = base_and_nodes.unwrap();
    let links = nodes
        .each_ref()
        .map(|node| HttpTransport::new(node.address()).unwrap());
    let map = Map::new(links);
    let (done, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(load(map.clone(), client, done.clone(), stop.clone())))
        .collect();
    let some_more = async || {
        let before = done.load(Ordering::SeqCst);
        let more = async {
            while done.load(Ordering::SeqCst) < before + 4 * CLIENTS
                && !clients.iter().any(|client| client.is_finished())
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, more).await.unwrap();
    };
    for (number, node) in nodes.iter_mut().enumerate() {
        all_answer(&map).await;
        some_more().await;
        node.process.send(signal);
        node.process.end();
        some_more().await;
        let data = directory.path().join(number.to_string());
        let port = base + u16::try_from(number).unwrap();
        let restarted = (0..10).find_map(|_| Node::try_start_of(Command::new(after), port, &data));
        *node = restarted.unwrap();
    }
    all_answer(&map).await;
    some_more().await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
}

/// The program of this version.
fn this() -> PathBuf {
    example("three-node").get_program().into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operation_fails_while_nodes_are_restarted_gracefully() {
    no_operation_fails(Signal::SIGTERM, &this(), &this()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operation_fails_while_nodes_are_killed_and_started_again() {
    no_operation_fails(Signal::SIGKILL, &this(), &this()).await;
}

/// The program of an earlier version, which `KVQUORUM_PREVIOUS` names as git knows it.
///
/// It has a target directory of its own, which stays, and so builds in a minute or two.
fn previous() -> Option<PathBuf> {
    let Ok(commit) = env::var("KVQUORUM_PREVIOUS") else {
        println!("skipped: KVQUORUM_PREVIOUS names no commit of an earlier version");
        return None;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("previous");
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive.tar");
    let run = |command: &mut Command| {
        let status = command.status().unwrap();
        assert!(status.success(), "{command:?}");
    };
    let mut git = Command::new("git");
    let git = git.arg("-C").arg(root).args(["archive", "--output"]);
    run(git.arg(&archive).arg(&commit));
    run(Command::new("tar")
        .arg("-xmf")
        .arg(&archive)
        .arg("-C")
        .arg(directory.path()));
    let mut cargo = Command::new(env!("CARGO"));
    let cargo = cargo.args(["build", "--locked", "--package", "kvquorum-examples"]);
    let cargo = cargo.args(["--example", "three-node", "--target-dir"]);
    run(cargo.arg(&target).current_dir(directory.path()));
    Some(target.join("debug/examples/three-node"))
}

/// Bugs: two versions side by side do not understand each other's wire, or files: a
/// coordinator of this one and nodes of the one before, some of which are already of
/// this one; and on the way back. A client of the one before and nodes of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_operation_fails_while_nodes_are_upgraded_and_set_back() {
    let Some(previous) = previous() else {
        return;
    };
    no_operation_fails(Signal::SIGTERM, &previous, &this()).await;
    no_operation_fails(Signal::SIGTERM, &this(), &previous).await;

    let nodes = three_nodes();
    let nodes = nodes.each_ref().map(Node::address).join(",");
    let client = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = command.args(arguments).args(["--nodes", &nodes]).output();
        says(output.unwrap(), 0).0
    };
    client(&previous, &["put", "tea", "green"]);
    assert_eq!(
        client(&this(), &["get", "tea"]),
        client(&previous, &["get", "tea"])
    );
    client(&this(), &["put", "tea", "black"]);
    assert_eq!(client(&previous, &["get", "tea"]).trim_end(), "\"black\"");
}
