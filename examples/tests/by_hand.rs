//! Nodes and clients by hand, as in four terminals.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod support;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Output;

use nix::sys::signal::Signal;
use support::{Node, Process, client, example, read, three_nodes, write};

/// A client that succeeds: its output.
fn succeeds(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A client that fails with this exit code: its error.
fn fails(output: Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_client_goes_on_without_one_of_three() {
    let mut nodes = three_nodes();
    let said = succeeds(client(&nodes, &["put", "tea", "green"]));
    assert!(said.starts_with("3 of 3 replicas acked"), "{said}");
    assert!(succeeds(client(&nodes, &["get", "tea"])).starts_with("\"green\"\n"));

    nodes[2].kill();

    let said = succeeds(client(&nodes, &["put", "tea", "{\"cups\": 2}"]));
    assert!(said.starts_with("2 of 3 replicas acked"), "{said}");
    let third = format!("  {}  failed: not reached\n", nodes[2].address());
    assert!(said.ends_with(&third), "{said}");
    assert!(succeeds(client(&nodes, &["get", "tea"])).starts_with("{\"cups\": 2}\n"));

    let three = ["put", "tea", "black", "--write-quorum", "3"];
    let error = fails(client(&nodes, &three), 1);
    assert!(error.contains("may have been applied: 2 of 3"), "{error}");
    let three = ["get", "tea", "--read-quorum", "3"];
    let error = fails(client(&nodes, &three), 1);
    assert!(error.contains("the read failed"), "{error}");
    // What failed to be written three times is there twice.
    assert!(succeeds(client(&nodes, &["get", "tea"])).starts_with("\"black\"\n"));

    succeeds(client(&nodes, &["delete", "tea"]));
    assert!(succeeds(client(&nodes, &["get", "tea"])).starts_with("tea is absent\n"));
    assert!(read(nodes[0].port, "tea") == "null");
}

/// A client that ended at W acks would take the rest of the write with it.
#[test]
fn a_write_reaches_all_three_before_the_client_ends() {
    let nodes = three_nodes();
    for round in 0..20 {
        let value = round.to_string();
        succeeds(client(&nodes, &["put", "n", &value, "--write-quorum", "1"]));
        for node in &nodes {
            let held = read(node.port, "n");
            assert!(held.starts_with(&format!("{{\"value\":{value},")), "{held}");
        }
    }
}

/// As a write, a repair goes on after the read has its answer.
#[test]
fn a_read_has_repaired_before_the_client_ends() {
    let nodes = three_nodes();
    for round in 0..20 {
        let value = round.to_string();
        write(nodes[round % 3].port, "n", &value, 1000 + round as u64);
        let said = succeeds(client(&nodes, &["get", "n", "--read-quorum", "3"]));
        assert!(said.starts_with(&format!("{value}\n")), "{said}");
        for node in &nodes {
            let held = read(node.port, "n");
            assert!(held.starts_with(&format!("{{\"value\":{value},")), "{held}");
        }
    }
}

#[test]
fn numbers_and_nodes_that_make_no_sense_are_usage_errors() {
    let run = |arguments: &[&str]| example("three-node").args(arguments).output().unwrap();
    let error = fails(run(&["get", "k", "--read-quorum", "4"]), 2);
    assert!(error.contains("4 is not in 1..=3"), "{error}");
    let error = fails(run(&["put", "k", "v", "--write-quorum", "0"]), 2);
    assert!(error.contains("0 is not in 1..=3"), "{error}");
    let error = fails(run(&["get", "k", "--nodes", "a:1,b:2"]), 2);
    assert!(error.contains("2 addresses, not three"), "{error}");
    let error = fails(run(&["get", "k", "--nodes", "a:1,b:2,a:1"]), 2);
    assert!(error.contains("must be different"), "{error}");
    let error = fails(run(&["--base-port", "65534"]), 2);
    assert!(error.contains("65534 is not in 1..=65533"), "{error}");
}

#[test]
fn a_node_names_a_port_in_use() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut node =
        Process::start(example("three-node").args(["node", "--memory", "--port", &port]));
    let (status, _, stderr) = node.end();
    assert_eq!(status.code(), Some(1));
    assert_eq!(stderr, format!("error: port {port} is in use\n"));
}

#[test]
fn a_node_ends_gracefully_when_asked() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut process =
            Process::start(example("three-node").args(["node", "--memory", "--port", "0"]));
        let address = process.line();
        let address = address.strip_prefix("A replica in memory, on http://");
        // Neither holds anything up, nor ends it by itself.
        let _idle = TcpStream::connect(address.unwrap()).unwrap();
        process.close_stdin();
        assert!(!process.has_ended());
        process.send(signal);
        let (status, stdout, stderr) = process.end();
        assert_eq!(status.code(), Some(0), "{stderr}");
        assert!(
            stdout.ends_with("Ended; nothing was cut short.\n"),
            "{stdout}"
        );
    }
}

/// A node started again on its directory still holds what it had acked, and one
/// that keeps it in memory does not.
#[test]
fn a_killed_node_comes_back_with_its_data() {
    let data = tempfile::tempdir().unwrap();
    let directory = data.path().join("node");
    let mut node = any_node(|port| Node::try_start_in(port, &directory));
    write(node.port, "tea", "\"green\"", 1);
    for round in 2..5 {
        node.kill();
        node = any_node(|port| Node::try_start_in(port, &directory));
        let held = read(node.port, "tea");
        assert_eq!(
            held,
            format!("{{\"value\":\"green\",\"timestamp\":{}}}", round - 1)
        );
        write(node.port, "tea", "\"green\"", round);
    }
    let mut second = example("three-node");
    let second = second
        .args(["node", "--port", "0", "--data"])
        .arg(&directory);
    let error = fails(second.output().unwrap(), 1);
    let held = format!("error: {} is held by another store\n", directory.display());
    assert_eq!(error, held);

    let mut node = any_node(Node::try_start);
    write(node.port, "tea", "\"green\"", 1);
    node.kill();
    let node = any_node(Node::try_start);
    assert_eq!(read(node.port, "tea"), "null");
}

/// A node on some free port.
fn any_node(start: impl Fn(u16) -> Option<Node>) -> Node {
    let node = (0..10).find_map(|_| start(support::free_base_port()));
    node.unwrap_or_else(|| panic!("no port stayed free"))
}

#[test]
fn a_node_keeps_its_data_in_a_directory_of_its_port() {
    let data = tempfile::tempdir().unwrap();
    let port = support::free_base_port().to_string();
    let mut command = example("three-node");
    let command = command.current_dir(data.path());
    let mut node = Process::start(command.args(["node", "--port", &port]));
    let said = node.line();
    let expected = format!("A replica in three-node-data/{port}, on http://127.0.0.1:{port}");
    assert_eq!(said, expected);
    node.send(Signal::SIGTERM);
    node.end();
    assert!(data.path().join("three-node-data").join(&port).is_dir());
    let mut command = example("three-node");
    let error = fails(command.args(["node", "--port", "0"]).output().unwrap(), 1);
    assert!(error.contains("needs --data or --memory"), "{error}");
    let mut command = example("three-node");
    let both = ["node", "--port", "0", "--memory", "--data", "d"];
    fails(command.args(both).output().unwrap(), 2);
}
