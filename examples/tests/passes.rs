//! Nodes that converge without a read, as processes.

mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvquorum_core::{Coordinator, LastPass, Request, Response, ScanLimit, Told, Transport};
use kvquorum_http::HttpTransport;
use support::{Node, client, example, free_base_port, http, says, wait_until};
use tempfile::tempdir;

const MISSED: u64 = 10_000;
/// Far more than it takes, on a machine that has much else to do.
const LONG: Duration = Duration::from_secs(60);

struct Nodes {
    base: u16,
    data: PathBuf,
}

impl Nodes {
    fn start(&self, number: u16) -> Option<Node> {
        let port = |number: u16| self.base + number;
        let peers: Vec<String> = (0..3)
            .filter(|peer| *peer != number)
            .map(|peer| format!("127.0.0.1:{}", port(peer)))
            .collect();
        let data = self.data.join(number.to_string());
        Node::try_start_beside(port(number), Some(&data), &peers.join(","), "1")
    }
}

async fn status(link: &HttpTransport) -> Option<LastPass> {
    match link.call(&Request::status()).await.unwrap() {
        Response::Told(told) => match *told {
            Told::Status(status) => status.last_pass,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// How many entries a node itself holds.
async fn count(link: &HttpTransport) -> u64 {
    let mut count = 0;
    let mut request = Request::scan(.., ScanLimit::NONE);
    loop {
        let Response::Page(page) = link.call(&request).await.unwrap() else {
            panic!("no page");
        };
        count += page.entries.len() as u64;
        match page.upto {
            Some(upto) => request = Request::scan(upto.., ScanLimit::NONE),
            None => return count,
        }
    }
}

/// P-CONVERGE. Bugs: what a node missed while it was down arrives only when it is read,
/// or not within two passes; a node tells nothing of its passes, or not in its metrics.
#[tokio::test]
async fn p_converge_what_a_node_missed_arrives_within_two_passes() {
    let data = tempdir().unwrap();
    let (nodes, [one, other, mut third]) = loop {
        let nodes = Nodes {
            base: free_base_port(),
            data: data.path().to_owned(),
        };
        if let (Some(one), Some(other), Some(third)) =
            (nodes.start(0), nodes.start(1), nodes.start(2))
        {
            break (nodes, [one, other, third]);
        }
    };
    for node in [&one, &other, &third] {
        wait_until("the new nodes are ready", || {
            http(node.port, "GET", "/ready", "").unwrap().0 == 200
        });
    }
    let links = [&one, &other, &third].map(|node| HttpTransport::new(node.address()).unwrap());
    let map = Coordinator::<3, 2, 2, _>::new(links.clone());
    map.put("before", "all three")
        .await
        .unwrap()
        .settled()
        .await;
    third.kill();
    let missed = (0..MISSED).map(|at| (format!("key {at:05}"), "a value of a hundred bytes or so"));
    for put in map.put_many(missed).await {
        put.unwrap();
    }
    map.drain().await;
    let third = nodes.start(2).unwrap();
    // One that knows nothing of the time when it was down.
    let link = &HttpTransport::new(third.address()).unwrap();
    // Each pass that it ran is told of once.
    let mut ended = BTreeSet::new();
    let began = Instant::now();
    while ended.len() < 2 {
        ended.extend(status(link).await.map(|pass| pass.ended_millis));
        assert!(began.elapsed() < LONG, "no passes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(count(link).await, MISSED + 1);

    // And what it then says is of a pass that found nothing.
    while status(link).await.is_none_or(|pass| pass.differing > 0) {
        assert!(began.elapsed() < LONG, "it finds differences on and on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_, metrics) = http(third.port, "GET", "/metrics", "").unwrap();
    let recorded = |name: &str| -> f64 {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name));
        value
            .unwrap_or_else(|| panic!("{metrics}"))
            .trim()
            .parse()
            .unwrap()
    };
    assert!(recorded("kvquorum_passes_total{outcome=\"complete\"}") >= 1.0);
    assert!(recorded("kvquorum_pass_keys_total") >= MISSED as f64);
    let last = recorded("kvquorum_last_complete_pass_timestamp_seconds");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let ago = now.as_secs_f64() - last;
    assert!((0.0..LONG.as_secs_f64()).contains(&ago), "{ago} s ago");

    let mut nodes = [one, other, third];
    let told = says(client(&nodes, &["status"]), 0).0;
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    for part in ["keys", "tombstones", "last pass", "repaired"] {
        assert!(lines[0].contains(part), "{told}");
    }
    let third: Vec<&str> = lines[3].split_whitespace().collect();
    assert_eq!(third[1..4], ["ready", "10001", "0"], "{told}");
    assert!(
        told.contains("s ago") && told.contains("0 entries"),
        "{told}"
    );
    nodes[1].kill();
    let told = says(client(&nodes, &["status"]), 0).0;
    assert!(
        told.lines().nth(2).unwrap().contains("not reachable"),
        "{told}"
    );
    drop(nodes);
}

/// Bug: a wrong list of peers is taken, or takes down a node later.
#[test]
fn wrong_peers_are_refused() {
    for (arguments, said) in [
        (&["--peers", "127.0.0.1:1"][..], "1 addresses, not two"),
        (&["--peers", "127.0.0.1:1,127.0.0.1:1"], "must be different"),
        (&["--pass-every", "1"], "--peers"),
        (
            &["--peers", "127.0.0.1:1,127.0.0.1:2", "--pass-every=-1"],
            "negative",
        ),
        (
            &["--peers", "127.0.0.1:1,127.0.0.1:2", "--pass-every", "soon"],
            "expected number",
        ),
    ] {
        let mut node = example("three-node");
        let node = node
            .args(["node", "--memory", "--port", "0"])
            .args(arguments);
        let (_, errors) = says(node.output().unwrap(), 2);
        assert!(errors.contains(said), "{errors}");
    }
}
