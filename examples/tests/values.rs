//! What the client stores for what is typed, and what it prints of it.

#![cfg(unix)]

mod support;

use kvquorum_core::Coordinator;
use kvquorum_http::HttpTransport;
use support::{Node, client, read, says, three_nodes};

/// Catches JSON that Rust's numbers, or a parser's depth, cannot hold: it was
/// stored as a string, without a word.
#[test]
fn json_is_stored_as_it_is_typed() {
    let nodes = three_nodes();
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for value in [
        "1e400",
        "-1e400",
        "-5",
        "-1e-5",
        "-0",
        "1.10",
        "123456789012345678901234567890",
        "0.1234567890123456789012345678901234567890",
        "{\"b\": 1,\"a\":2, \"a\" :3}",
        "\"\\ud800\"",
        "\"green\"",
        "null",
        &deep,
    ] {
        let (_, said) = says(client(&nodes, &["put", "value", value]), 0);
        assert!(said.starts_with("3 of 3 replicas acked"), "{said}");
        let (printed, _) = says(client(&nodes, &["get", "value"]), 0);
        assert_eq!(printed, format!("{value}\n"));
        for node in &nodes {
            let held = read(node.port, "value");
            assert!(
                held.starts_with(&format!("{{\"value\":{value},\"timestamp\":")),
                "{held}"
            );
        }
    }
}

/// Catches a string that is stored in the place of JSON that was mistyped,
/// without a word.
#[test]
fn what_is_not_json_is_stored_as_a_string_and_the_client_says_so() {
    let nodes = three_nodes();
    for (typed, stored) in [
        ("green", "\"green\""),
        ("{\"cups\": 2", "\"{\\\"cups\\\": 2\""),
        ("NaN", "\"NaN\""),
        ("007", "\"007\""),
        ("", "\"\""),
        ("two\nlines", "\"two\\nlines\""),
    ] {
        let (_, said) = says(client(&nodes, &["put", "value", typed]), 0);
        assert!(said.starts_with("The value is not JSON ("), "{said}");
        let note = format!("). It is stored as a JSON string: {stored}\n");
        assert!(said.contains(&note), "{said}");
        let (printed, _) = says(client(&nodes, &["get", "value"]), 0);
        assert_eq!(printed, format!("{stored}\n"));
    }
}

/// Catches a table among the values, which `three-node get tea | jq .` would
/// take for one; and a value that is printed where there is none.
#[test]
fn a_value_stands_alone_on_stdout_and_exit_codes_tell_the_rest() {
    let mut nodes = three_nodes();
    let (printed, said) = says(client(&nodes, &["get", "tea"]), 1);
    assert_eq!(printed, "");
    assert!(said.starts_with("tea is absent\n"), "{said}");
    assert_eq!(said.lines().count(), 4, "{said}");

    let (printed, _) = says(client(&nodes, &["put", "tea", "[1, 2]"]), 0);
    assert_eq!(printed, "");
    let (printed, said) = says(client(&nodes, &["get", "tea"]), 0);
    assert_eq!(printed, "[1, 2]\n");
    assert_eq!(said.lines().count(), 3, "{said}");

    let (printed, _) = says(client(&nodes, &["delete", "tea"]), 0);
    assert_eq!(printed, "");
    let all = ["get", "tea", "--read-quorum", "3"];
    let (printed, said) = says(client(&nodes, &all), 1);
    assert_eq!(printed, "");
    assert!(
        said.starts_with("tea is absent: it was deleted\n"),
        "{said}"
    );
    assert_eq!(said.matches("  holds a tombstone, ").count(), 3, "{said}");

    for node in &mut nodes {
        node.kill();
    }
    let (printed, said) = says(client(&nodes, &["get", "tea"]), 2);
    assert_eq!(printed, "");
    assert!(said.starts_with("error: the read failed"), "{said}");
}

/// Catches a failure that is told of a write that was done, and a repair that is
/// cut short, where nobody reads what the client says.
#[test]
#[cfg(target_os = "linux")]
fn nobody_need_read_what_the_client_says() {
    use std::fs::File;
    use std::time::{SystemTime, UNIX_EPOCH};

    let nodes = three_nodes();
    let addresses = nodes.each_ref().map(Node::address).join(",");
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let mut put = support::example("three-node");
    let put = put.args(["put", "tea", "1", "--nodes", &addresses]);
    let put = put.stderr(full()).status().unwrap();
    assert_eq!(put.code(), Some(0));

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    support::write(nodes[0].port, "tea", "2", now + 1000);
    let mut get = support::example("three-node");
    let get = get.args(["get", "tea", "--read-quorum", "3", "--nodes", &addresses]);
    let get = get.stdout(full()).output().unwrap();
    assert_eq!(get.status.code(), Some(2), "{get:?}");
    for node in &nodes {
        assert!(read(node.port, "tea").starts_with("{\"value\":2,"));
    }
}

/// Another application may store what is no JSON, or no text. Catches a value
/// that is not the same any more once it has been through a pipe.
#[test]
fn values_of_any_bytes_are_printed_as_they_are() {
    let nodes = three_nodes();
    put_bytes(&nodes, "bytes", b"\xff\x00\x1b[2J");
    let output = client(&nodes, &["get", "bytes"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"\xff\x00\x1b[2J\n");
}

fn put_bytes(nodes: &[Node; 3], key: &str, value: &'static [u8]) {
    let links = nodes.each_ref().map(Node::address);
    let links = links.map(|address| HttpTransport::new(address).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let map = Coordinator::<3, 3, 1, _>::new(links);
        map.put(key, value).await.unwrap();
    });
}

/// Catches a value that can make the terminal of whoever reads it do things.
#[test]
fn on_a_terminal_control_characters_are_escaped() {
    let nodes = three_nodes();
    put_bytes(
        &nodes,
        "bytes",
        "\x1b]0;title\x07\u{9b}2J\ttab é".as_bytes(),
    );
    let get = support::on_a_terminal(80, &nodes, &["get", "bytes"]);
    let escaped = "\\u{1b}]0;title\\u{7}\\u{9b}2J\ttab é\n";
    assert!(get.starts_with(escaped), "{get:?}");
}
