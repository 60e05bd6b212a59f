//! What the client stores for what is typed, and what it prints of it.

#![cfg(unix)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use kvquorum_core::{Bytes, Coordinator};
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
    put_bytes(&nodes, b"bytes", b"\xff\x00\x1b[2J");
    let output = client(&nodes, &["get", "bytes"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"\xff\x00\x1b[2J\n");
}

fn put_bytes(nodes: &[Node; 3], key: &'static [u8], value: &'static [u8]) {
    let links = links(nodes);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let map = Coordinator::<3, 3, 1, _>::new(links);
        map.put(Bytes::from_static(key), value).await.unwrap();
    });
}

fn links(nodes: &[Node; 3]) -> [HttpTransport; 3] {
    let addresses = nodes.each_ref().map(Node::address);
    addresses.map(|address| HttpTransport::new(address).unwrap())
}

/// Catches a line that is no JSON, or two lines for one key; values that are changed,
/// keys that are left out, tombstones that are shown; pages after the first that are
/// not read.
#[test]
fn a_scan_prints_a_line_of_json_for_each_key() {
    let mut nodes = three_nodes();
    assert_eq!(
        says(client(&nodes, &["scan"]), 0),
        (String::new(), "0 keys\n".to_owned())
    );
    put_bytes(&nodes, b"tea/bytes", b"\xff\x00");
    put_bytes(&nodes, b"tea/\xff", b"1");
    for (key, value) in [
        ("teapot", "0"),
        ("tea/\"green\"\n", "[1,\n 1e400]"),
        ("tea/gone", "0"),
        ("water", "\"\\u001b\""),
    ] {
        says(client(&nodes, &["put", key, value]), 0);
    }
    says(client(&nodes, &["delete", "tea/gone"]), 0);
    nodes[1].kill();
    let of_tea = "{\"key\":\"tea/\\\"green\\\"\\n\",\"value\":[1,  1e400]}\n\
                  {\"key\":\"tea/bytes\",\"value_hex\":\"ff00\"}\n\
                  {\"key_hex\":\"7465612fff\",\"value\":1}\n";
    let (printed, said) = says(client(&nodes, &["scan", "tea/"]), 0);
    assert_eq!((printed.as_str(), said.as_str()), (of_tea, "3 keys\n"));
    let (printed, said) = says(client(&nodes, &["scan"]), 0);
    let rest = "{\"key\":\"teapot\",\"value\":0}\n{\"key\":\"water\",\"value\":\"\\u001b\"}\n";
    assert_eq!(printed, format!("{of_tea}{rest}"));
    assert_eq!(said, "5 keys\n");

    nodes[2].kill();
    let (printed, error) = says(client(&nodes, &["scan"]), 2);
    assert_eq!(printed, "");
    assert!(
        error.starts_with("error: the scan failed after 0 keys: "),
        "{error}"
    );
    assert_eq!(error.lines().count(), 4, "{error}");
    let (printed, _) = says(client(&nodes, &["scan", "water", "--read-quorum", "1"]), 0);
    assert_eq!(printed.lines().count(), 1);
}

/// Catches a scan that ends with the first page, or fails where its reader has seen
/// enough.
#[test]
fn a_scan_reads_page_by_page_as_long_as_somebody_reads() {
    let nodes = three_nodes();
    let links = links(&nodes);
    // More together than a pipe holds.
    let json = format!("\"{}\"", "v".repeat(100));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let map = Coordinator::<3, 3, 1, _>::new(links);
        for number in 0..3000 {
            map.put(format!("{number:04}"), json.clone()).await.unwrap();
        }
    });
    let expected = |key| format!("{{\"key\":\"{key}\",\"value\":{json}}}\n");
    let (printed, said) = says(client(&nodes, &["scan"]), 0);
    assert_eq!(
        (printed.lines().count(), said.as_str()),
        (3000, "3000 keys\n")
    );
    assert!(printed.ends_with(&expected("2999")));

    // As `head` does.
    let addresses = nodes.each_ref().map(Node::address).join(",");
    let mut scan = support::example("three-node");
    let scan = scan.args(["scan", "--nodes", &addresses]);
    let scan = scan.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut scan = scan.spawn().unwrap();
    let mut line = String::new();
    let mut printed = BufReader::new(scan.stdout.take().unwrap());
    printed.read_line(&mut line).unwrap();
    assert_eq!(line, expected("0000"));
    drop(printed);
    let (_, said) = says(scan.wait_with_output().unwrap(), 0);
    assert!(!said.contains("error"), "{said}");
}

/// Catches a value that can make the terminal of whoever reads it do things.
#[test]
fn on_a_terminal_control_characters_are_escaped() {
    let nodes = three_nodes();
    put_bytes(
        &nodes,
        b"bytes",
        "\x1b]0;title\x07\u{9b}2J\ttab é".as_bytes(),
    );
    let get = support::on_a_terminal(80, &nodes, &["get", "bytes"]);
    let escaped = "\\u{1b}]0;title\\u{7}\\u{9b}2J\ttab é\n";
    assert!(get.starts_with(escaped), "{get:?}");
}
