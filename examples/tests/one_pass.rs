//! `three-node pass`: one pass from the command line, over real processes.

#![cfg(unix)]

mod support;

use kvquorum_core::{
    Coordinator, Entry, FingerprintRequest, Key, Request, RequestKind, Response, ScanLimit,
    Timestamp, Told, Transport, Version, WriterId,
};
use kvquorum_http::HttpTransport;
use nix::sys::signal::Signal;
use support::{Node, Process, client, example, on_a_terminal, says, three_nodes};

const KEYS: u64 = 2000;

/// Nodes of which only the first holds entries: values, and one tombstone.
async fn one_of_three_holds(keys: u64) -> [Node; 3] {
    let nodes = three_nodes();
    let first = HttpTransport::new(nodes[0].address()).unwrap();
    let map = Coordinator::<1, 1, 1, _>::new([first]);
    let puts = (1..keys).map(|at| (format!("key {at:05}"), "a value"));
    for put in map.put_many(puts).await {
        put.unwrap();
    }
    map.delete("key 00000").await.unwrap();
    nodes
}

/// Nodes that all hold entries, and the first newer ones under each key, and one key
/// more. So whichever replica's keys windows are cut by, no window is much larger than
/// it may be.
async fn one_of_three_is_ahead(keys: u64) -> [Node; 3] {
    let nodes = three_nodes();
    let links = nodes
        .each_ref()
        .map(|node| HttpTransport::new(node.address()).unwrap());
    let all = Coordinator::<3, 3, 1, _>::new(links.clone());
    let puts = (0..keys).map(|at| (format!("key {at:05}"), "old"));
    let mut newest = None;
    for put in all.put_many(puts).await {
        newest = newest.max(Some(put.unwrap().version().timestamp));
    }
    let [first, ..] = links;
    for at in 0..=keys {
        let version = Version {
            timestamp: newest.unwrap(),
            writer: WriterId::new(u64::MAX),
        };
        let entry = Entry::new(version, "new");
        let write = Request::write(format!("key {at:05}"), entry);
        first.call(&write).await.unwrap();
    }
    nodes
}

/// All entries that a node holds.
async fn entries(node: &Node) -> Vec<(Key, Entry)> {
    let link = HttpTransport::new(node.address()).unwrap();
    match link
        .call(&Request::scan(.., ScanLimit::NONE))
        .await
        .unwrap()
    {
        Response::Page(page) if page.upto.is_none() => page.entries,
        other => panic!("{other:?}"),
    }
}

/// How many entries a node holds, tombstones included, and the sum of their hashes.
async fn held(node: &Node) -> (u64, u128) {
    let link = HttpTransport::new(node.address()).unwrap();
    let kind = RequestKind::Fingerprint(Box::new(FingerprintRequest {
        range: (..).into(),
        hash_key: 7,
        cuts: Vec::new(),
        every: u64::MAX,
        max_keys: u64::MAX,
        max_bytes: u64::MAX,
        collected: Timestamp::MIN,
    }));
    let Response::Told(told) = link.call(&Request::of(kind)).await.unwrap() else {
        panic!("no answer to what was asked");
    };
    match *told {
        Told::Windows(windows) => {
            assert_eq!(
                windows.windows.len(),
                1,
                "the map is larger than one request"
            );
            let window = windows.windows[0].fingerprint;
            (window.count, window.sum)
        }
        other => panic!("{other:?}"),
    }
}

/// The next line of a pass that tells of how many keys there are. They are counted while
/// it goes on.
fn counted(pass: &mut Process) -> String {
    loop {
        let line = pass.error_line();
        assert!(!line.is_empty(), "it came to its end");
        if line.contains(" of about ") {
            return line;
        }
    }
}

/// The words of the table's rows, without the addresses.
fn rows(printed: &str) -> Vec<Vec<&str>> {
    let rows = printed.lines().skip(2);
    rows.map(|row| row.split_whitespace().skip(1).collect())
        .collect()
}

/// P-CONVERGE. Bugs: a pass from the command line compares a part of the map, or says
/// that it sent what it did not send, or to whom it did not; it draws a bar where nobody
/// sees it.
#[tokio::test(flavor = "multi_thread")]
async fn p_converge_a_pass_brings_the_others_all_that_one_holds() {
    let nodes = one_of_three_holds(KEYS).await;
    let (printed, said) = says(client(&nodes, &["pass"]), 0);
    assert_eq!(said, "", "a short pass has nothing to tell meanwhile");
    let first = printed.lines().next().unwrap();
    assert!(
        first.starts_with("complete: 2000 keys compared in "),
        "{printed}"
    );
    assert!(first.ends_with(" s, 2000 of them differed"), "{printed}");
    let expected = [
        ["done", "0", "0"],
        ["done", "2000", "0"],
        ["done", "2000", "0"],
    ];
    assert_eq!(rows(&printed), expected, "{printed}");
    let all = held(&nodes[0]).await;
    assert_eq!(all.0, KEYS);
    assert_eq!([held(&nodes[1]).await, held(&nodes[2]).await], [all; 2]);

    let (printed, _) = says(client(&nodes, &["pass"]), 0);
    assert!(printed.contains(" s, 0 of them differed\n"), "{printed}");
    assert_eq!(rows(&printed), [["done", "0", "0"]; 3], "{printed}");

    let (status, _) = says(client(&nodes, &["status"]), 0);
    for node in rows(&status[status.find('\n').unwrap()..]) {
        assert_eq!(node[..3], ["ready", "1999", "1"], "{status}");
    }
}

/// P-HONEST. Bugs: a pass that left out a node is called complete, by its words or by its
/// exit code; it does not say why, or leaves out the others too.
#[tokio::test(flavor = "multi_thread")]
async fn p_honest_a_pass_without_one_node_is_not_complete() {
    let mut nodes = one_of_three_holds(100).await;
    nodes[2].kill();
    let (printed, _) = says(client(&nodes, &["pass"]), 1);
    assert!(
        printed.starts_with("not complete: 100 keys compared"),
        "{printed}"
    );
    let rows = rows(&printed);
    assert_eq!(
        rows[..2],
        [["done", "0", "0"], ["done", "100", "0"]],
        "{printed}"
    );
    assert_eq!(rows[2][..2], ["not", "done"], "{printed}");
    assert!(printed.contains("Connection refused"), "{printed}");
    assert_eq!(held(&nodes[1]).await, held(&nodes[0]).await);

    nodes[1].kill();
    let (printed, _) = says(client(&nodes, &["pass"]), 1);
    assert!(
        printed.starts_with("not complete: 0 keys compared"),
        "{printed}"
    );
}

/// Bugs: the lines of a pass that takes long come with a terminal's escapes, or not at
/// all; they do not tell of how many keys; Ctrl-C leaves it unsaid what was done, or has
/// it called complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_pass_tells_how_far_it_is_and_can_be_interrupted() {
    let nodes = one_of_three_is_ahead(KEYS).await;
    let addresses = nodes.each_ref().map(Node::address).join(",");
    let mut command = example("three-node");
    // Some forty seconds for all.
    let command = command.args(["pass", "--keys-per-second", "100", "--nodes", &addresses]);
    let mut pass = Process::start(command);
    let told = counted(&mut pass);
    let (keys, rest) = told.split_once(" of about 2001 keys, ").unwrap();
    let keys: u64 = keys.parse().unwrap();
    assert!(keys > 0 && keys < KEYS, "{told}");
    assert!(rest.contains(" differ, repaired 0 + "), "{told}");
    assert!(rest.ends_with("B/s"), "{told}");

    pass.send(Signal::SIGINT);
    let (status, printed, _) = pass.end();
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(printed.starts_with("not complete: "), "{printed}");
    let rows = rows(&printed);
    assert!(
        rows.iter().all(|row| row[..2] == ["not", "done"]),
        "{printed}"
    );
    let repaired: u64 = rows[1][2].parse().unwrap();
    assert!(repaired > 0, "{told}\n{printed}");
    // What was on its way when it was interrupted may have arrived.
    let (ahead, behind) = (entries(&nodes[0]).await, entries(&nodes[1]).await);
    let equal = ahead
        .iter()
        .zip(&behind)
        .filter(|(one, other)| one == other);
    let equal = equal.count() as u64;
    assert!(repaired <= equal && equal < KEYS, "{equal}: {printed}");
}

/// Bugs: there is no bar on a terminal, or it does not get to its end, or its line is
/// wider than the terminal, or it is left there.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_sees_a_bar() {
    let nodes = one_of_three_is_ahead(KEYS).await;
    let shown = on_a_terminal(70, &nodes, &["pass", "--keys-per-second", "2000"]);
    let (drawn, printed) = shown.split_once("complete: ").unwrap();
    assert!(drawn.contains('█') && drawn.contains('░'), "{drawn:?}");
    assert!(drawn.contains(" of about 2001 keys, "), "{drawn:?}");
    assert!(!printed.contains('█'), "{printed:?}");
    // A carriage return and an escape sequence begin each drawing of the line.
    let lines = drawn.split(['\r', '\n', '\u{1b}']);
    let widest = lines.map(|line| line.chars().count()).max().unwrap();
    assert!(widest > 40 && widest <= 70 + "[2K".len(), "{drawn:?}");
    assert!(drawn.ends_with("\r\u{1b}[2K"), "{drawn:?}");
    assert!(printed.starts_with("2001 keys compared"), "{printed}");
}

/// Bug: of a map that is larger than what a node reads for one request, 16 MiB, only the
/// beginning is counted, or it is counted for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_map_of_many_requests_is_counted() {
    const LARGE: u64 = 40;
    let nodes = three_nodes();
    let first = HttpTransport::new(nodes[0].address()).unwrap();
    let map = Coordinator::<1, 1, 1, _>::new([first]);
    for at in 0..LARGE {
        map.put(format!("key {at}"), vec![7; 512 * 1024])
            .await
            .unwrap();
    }
    let addresses = nodes.each_ref().map(Node::address).join(",");
    let mut command = example("three-node");
    let command = command.args(["pass", "--keys-per-second", "10", "--nodes", &addresses]);
    let mut pass = Process::start(command);
    let told = counted(&mut pass);
    assert!(told.contains(" of about 40 keys, "), "{told}");
}
