//! The plain face, by a client that knows nothing but HTTP: what anybody can do
//! with curl, written byte for byte.

#![cfg(unix)]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::{Node, http, pasted, read, three_nodes, write};

#[test]
fn a_client_of_its_own_drives_three_nodes() {
    let mut nodes = three_nodes();
    let ports = nodes.each_ref().map(|node| node.port);
    for port in ports {
        assert_eq!(read(port, "tea"), "null");
    }

    for port in ports {
        write(port, "tea", "\"green\"", 1000);
    }
    for port in ports {
        assert_eq!(
            read(port, "tea"),
            "{\"value\":\"green\",\"timestamp\":1000}"
        );
    }

    // In whatever order writes arrive, the newest timestamp wins.
    let [first, second, third] = ports;
    write(first, "tea", "\"black\"", 3000);
    let late = r#"{"key": "tea", "value": "white", "timestamp": 2000}"#;
    let superseded = r#"{"status":"ok","superseded_by":{"timestamp":3000}}"#;
    let (status, answer) = http(first, "POST", "/write", late).unwrap();
    assert_eq!((status, &*answer), (200, superseded));
    write(second, "tea", "\"white\"", 2000);
    write(second, "tea", "\"black\"", 3000);
    write(third, "tea", "\"black\"", 3000);
    for port in ports {
        assert_eq!(
            read(port, "tea"),
            "{\"value\":\"black\",\"timestamp\":3000}"
        );
    }

    nodes[2].kill();
    assert!(http(third, "GET", "/read/tea", "").is_err());
    for port in [first, second] {
        assert_eq!(
            read(port, "tea"),
            "{\"value\":\"black\",\"timestamp\":3000}"
        );
        write(port, "tea", "{\"cups\": [1, 2]}", 4000);
        assert_eq!(
            read(port, "tea"),
            "{\"value\":{\"cups\": [1, 2]},\"timestamp\":4000}"
        );
    }
}

/// Does as these lines say of this port, on a node where an older entry is
/// there already.
fn paste(node: &Node, lines: &str) {
    let port = node.port;
    let ago = Duration::from_secs(60);
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - ago;
    write(port, "tea", "\"old\"", then.as_millis().try_into().unwrap());
    let [written, asked] = &pasted(lines)[..] else {
        panic!("two calls of curl: {lines}");
    };
    let [flag, body, url] = &written[..] else {
        panic!("curl -d body url: {written:?}");
    };
    assert_eq!(flag, "-d");
    assert_eq!(url, &format!("http://127.0.0.1:{port}/write"));
    let (status, answer) = http(port, "POST", "/write", body).unwrap();
    assert_eq!((status, &*answer), (200, "{\"status\":\"ok\"}"));
    assert_eq!(asked, &[format!("http://127.0.0.1:{port}/read/tea")]);
    assert!(!read(port, "tea").contains("old"), "{lines}");
}

/// Catches lines whose timestamp has passed: the write then changes nothing as
/// soon as anything newer is there.
#[test]
fn what_nodes_and_readmes_say_works_when_it_is_pasted() {
    let [mut first, second, third] = three_nodes();
    assert_eq!(first.process.line(), "");
    let printed = [first.process.line(), first.process.line()].join("\n");
    paste(&first, &printed);
    for (node, readme) in [
        (second, include_str!("../../README.md")),
        (third, include_str!("../../kvquorum-http/README.md")),
    ] {
        let mut blocks = readme.split("```sh").skip(1);
        let block = blocks.find_map(|rest| {
            let block = rest.split("```").next()?;
            block.contains("curl -d").then_some(block)
        });
        let port = format!(":{}", node.port);
        paste(&node, &block.unwrap().replace(":3001", &port));
    }
}
