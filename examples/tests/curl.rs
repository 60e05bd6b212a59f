//! The curl lines that nodes print and that README.md has, as a shell
//! understands them.

#![cfg(unix)]

mod support;

use std::process::Command;

use kvquorum_core::Coordinator;
use kvquorum_http::HttpTransport;
use serde_json::{Value, json};
use support::{Node, client, http, pasted, read, says, three_nodes};

const README: &str = include_str!("../README.md");

/// The path of a URL on this port.
fn path(url: &str, port: u16) -> &str {
    let host = format!("http://127.0.0.1:{port}");
    url.strip_prefix(&host).unwrap_or_else(|| panic!("{url}"))
}

/// Does as a `curl -d` says.
fn write(call: &[String], port: u16) {
    let [flag, body, url] = call else {
        panic!("no curl -d BODY URL: {call:?}");
    };
    assert_eq!((flag.as_str(), path(url, port)), ("-d", "/write"));
    let (status, answer) = http(port, "POST", "/write", body).unwrap();
    assert_eq!((status, answer.as_str()), (200, "{\"status\":\"ok\"}"));
}

/// Catches a timestamp that has passed: the write changes nothing where there
/// is a newer value, and the newest that there can be was written just now.
#[test]
fn what_a_node_prints_works_on_a_key_in_use() {
    let mut nodes = three_nodes();
    for node in &mut nodes {
        assert_eq!(node.process.line(), "");
        let lines = [node.process.line(), node.process.line()].join("\n");
        let port = node.port;
        let address = node.address();
        let put = ["put", "tea", "\"new\"", "--nodes"];
        // Anything but the other two nodes: they are not there, and need not be.
        let nodes = format!("{address},127.0.0.1:1,127.0.0.1:2");
        let mut command = support::example("three-node");
        let command = command.args(put).args([&nodes, "--write-quorum", "1"]);
        says(command.output().unwrap(), 0);
        assert!(read(port, "tea").starts_with("{\"value\":\"new\""));

        let [written, asked] = &pasted(&lines)[..] else {
            panic!("not two calls of curl: {lines}");
        };
        write(written, port);
        let (status, answer) = http(port, "GET", path(&asked[0], port), "").unwrap();
        assert_eq!(status, 200);
        assert!(answer.starts_with("{\"value\":\"green\""), "{answer}");
    }
}

/// The blocks of a section of README.md, for this port.
fn blocks(section: &str, port: u16) -> Vec<String> {
    let section = README.split("\n## ").find(|text| text.starts_with(section));
    let blocks = section.unwrap().split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    blocks
        .map(|block| block.replace(":3001", &format!(":{port}")))
        .collect()
}

/// Catches a URL that is not encoded as the map encodes its keys.
#[tokio::test(flavor = "multi_thread")]
async fn readme_reads_and_writes_typed_maps() {
    let nodes = three_nodes();
    let port = nodes[0].port;
    let links = nodes.each_ref().map(Node::address);
    let links = links.map(|address| HttpTransport::new(address).unwrap());
    let coordinator = Coordinator::<3, 3, 3, _>::new(links);
    let users = coordinator.map::<str, Value>("users");
    users.put("alice", &json!({"age": 34})).await.unwrap();
    let orders = coordinator.map::<u64, bool>("orders");
    orders.put(&17, &true).await.unwrap();
    let carts = coordinator.map::<(String, u8), Vec<u8>>("carts");
    carts.put(&("alice".into(), 3), &vec![1, 2]).await.unwrap();
    let offers = coordinator.map::<str, String>("50% off");
    offers.put("who?", &"all".into()).await.unwrap();

    let blocks = blocks("Typed maps with curl", port);
    let [reads, with_jq, writes] = &blocks[..] else {
        panic!("{blocks:?}");
    };
    let mut calls = pasted(reads);
    // Not everybody has jq.
    if Command::new("jq").arg("--version").output().is_ok() {
        calls.extend(pasted(with_jq));
    }
    let values = ["{\"age\":34}", "true", "[1,2]", "\"all\"", "{\"age\":34}"];
    assert!(calls.len() >= 4);
    for (call, value) in calls.iter().zip(values) {
        let (status, answer) = http(port, "GET", path(&call[0], port), "").unwrap();
        assert_eq!(status, 200, "{call:?}: {answer}");
        let expected = format!("{{\"value\":{value},\"timestamp\":");
        assert!(answer.starts_with(&expected), "{call:?}: {answer}");
    }

    write(&pasted(writes)[0], port);
    let alice = users.get("alice").await.unwrap();
    assert_eq!(alice, Some(json!({"age": 35})));
}

/// Catches a transcript in README.md that has become another program's.
#[test]
fn readme_shows_what_the_client_says() {
    let nodes = three_nodes();
    // Which replica answers first is chance, so all have the first one's name.
    let as_the_first = |text: String| {
        let addresses = nodes.iter().map(Node::address);
        addresses.fold(text, |text, address| {
            text.replace(&address, "127.0.0.1:3001")
        })
    };
    let mut lines = 0;
    for (arguments, code) in [
        (&["put", "tea", "\"green\""][..], 0),
        (&["delete", "tea"], 0),
        (&["get", "tea"], 1),
    ] {
        let (_, said) = says(client(&nodes, arguments), code);
        for line in as_the_first(said).lines() {
            // Versions differ from run to run.
            let line = match line.split_once(", 1") {
                Some((line, _version)) => line,
                None => line,
            };
            assert!(!line.is_empty(), "{arguments:?}");
            assert!(README.contains(line), "{line}");
            lines += 1;
        }
    }
    assert!(lines >= 4, "the client says {lines} lines");
}
