//! Nodes that lose their data, as processes.

#![cfg(unix)]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use kvquorum_core::{
    Coordinator, Entry, Request, RequestKind, Status, Timestamp, Transport, Version, WriterId,
};
use kvquorum_http::HttpTransport;
use serde_json::Value;
use support::cluster::{Cluster, LONG, Map, status};
use support::{example, http, says};
use tempfile::tempdir;
use tokio::task::JoinHandle;

const KEYS: u64 = 1000;

fn key(number: u64) -> String {
    format!("key {number:04}")
}

async fn write_all(map: &Map) {
    let all = (0..KEYS).map(|number| (key(number), number.to_string()));
    for put in map.put_many(all).await {
        put.unwrap();
    }
    map.drain().await;
}

/// Reads all keys. Returns how many were found, and panics where one reads as absent: a
/// read may fail, and never be wrong.
async fn found(map: &Map) -> u64 {
    let keys = (0..KEYS).map(key);
    let mut found = 0;
    let mut absent = Vec::new();
    for (number, got) in (0..).zip(map.get_many(keys).await) {
        match got {
            Ok(Some(value)) => {
                assert_eq!(value, number.to_string());
                found += 1;
            }
            Ok(None) => absent.push(number),
            Err(_) => {}
        }
    }
    assert!(absent.is_empty(), "{} keys read as absent", absent.len());
    found
}

/// Reads on and on beside what happens, with a coordinator that has seen all of it, and
/// with ones that come to it.
struct Readers {
    is_over: Arc<AtomicBool>,
    found: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Readers {
    fn start(cluster: &Cluster, seen: Map) -> Self {
        let links = [0, 1, 2].map(|number| cluster.address(number));
        let (is_over, all) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (over, sum) = (Arc::clone(&is_over), Arc::clone(&all));
        let task = tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                let links = links.each_ref().map(|it| HttpTransport::new(it).unwrap());
                let fresh: Map = Coordinator::builder(links).repair_off().build();
                let (one, other) = tokio::join!(found(&seen), found(&fresh));
                sum.fetch_add(one + other, Ordering::SeqCst);
            }
        });
        Self {
            is_over,
            found: all,
            task,
        }
    }

    /// How many reads found their key, beside none that found it absent.
    async fn end(self) -> u64 {
        self.is_over.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        self.found.load(Ordering::SeqCst)
    }
}

/// One node misses all writes, and another one, which acked them, loses them. Wherever
/// too few are left that know, nothing is said.
async fn nothing_acknowledged_reads_as_absent(data: Option<&Path>) {
    let [missed, lost, knows] = [0, 1, 2];
    let mut cluster = Cluster::start(data).await;
    let map = cluster.map();
    map.put("before", "all three").await.unwrap();
    cluster.kill(missed);
    write_all(&map).await;
    cluster.restart(missed);
    // In memory it has lost its data as well. That is one loss after the other; with both
    // at once nobody but the last node would know.
    cluster.is_ready(missed).await;
    let readers = Readers::start(&cluster, map.clone());
    assert_eq!(found(&map).await, KEYS);
    cluster.lose(lost);
    found(&map).await;
    // First with nobody who has it rejoin.
    cluster.restart_alone(lost);
    assert_eq!(cluster.ready(lost).0, 503);
    assert_eq!(found(&map).await, KEYS);
    assert_eq!(found(&cluster.map()).await, KEYS);
    cluster.kill(lost);
    cluster.restart(lost);
    found(&cluster.map()).await;
    cluster.is_ready(lost).await;
    assert!(readers.end().await > 0);
    assert_eq!(found(&map).await, KEYS);
    // It has copied what it had acked, and does not lean on who told it.
    cluster.kill(knows);
    assert_eq!(found(&cluster.map()).await, KEYS);
    assert_eq!(found(&map).await, KEYS);
}

/// J-SILENT, J-COPY, J-ERA. Bugs: a node that lost its disk answers reads, or acks; it
/// copies from one peer alone, the one that was down, or nothing; a coordinator that was
/// there before goes on in the old era, or never finds the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j_silent_a_lost_disk_makes_no_key_absent() {
    let data = tempdir().unwrap();
    nothing_acknowledged_reads_as_absent(Some(data.path())).await;
}

/// The same, where each end of a process is a loss.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j_silent_a_restart_in_memory_makes_no_key_absent() {
    nothing_acknowledged_reads_as_absent(None).await;
}

/// J-SILENT. Bugs: `/ready` says 200 of a node that answers nothing, or does not say whom
/// it waits for, how far it is, or why it does not get on; it never becomes 200; a read
/// is answered while one node alone knows.
#[tokio::test]
async fn j_silent_an_orchestrator_sees_a_node_become_ready() {
    let data = tempdir().unwrap();
    let mut cluster = Cluster::start(Some(data.path())).await;
    let map = cluster.map();
    map.put("tea", "\"green\"").await.unwrap().settled().await;
    cluster.lose(1);
    cluster.kill(2);
    cluster.restart(1);
    let has_tried = |told: &(u16, Value)| told.0 == 503 && told.1["error"].is_string();
    let told = cluster.says(1, has_tried).await;
    assert_eq!(told["status"], "waiting");
    let error = told["error"].as_str().unwrap();
    assert!(
        error.contains("1 peers") && error.contains("2 are needed"),
        "{error}"
    );
    assert_eq!(told["peers"][cluster.address(0)], "ready");
    assert_eq!(told["peers"][cluster.address(2)], "not reachable");
    let (status_code, body) = http(cluster.port(1), "GET", "/read/tea", "").unwrap();
    assert_eq!(status_code, 503, "{body}");
    let (health, _) = http(cluster.port(1), "GET", "/health", "").unwrap();
    assert_eq!(health, 200);
    assert!(map.get("tea").await.is_err());
    assert!(map.put("tea", "\"black\"").await.is_err());
    let told = says(cluster.client(&["status"]), 0).0;
    for (line, is) in [(1, " ready "), (2, " joining "), (3, " not reachable")] {
        let line = told.lines().nth(line).unwrap();
        assert!(format!("{line} ").contains(is), "{told}");
    }

    // Somebody else has it rejoin, and breaks off half-way.
    let link = cluster.link(1);
    let Status { boot, marks, .. } = status(&link).await;
    let of = |kind| {
        let mut request = Request::status();
        (request.era, request.kind) = (Some(marks.announced), kind);
        request
    };
    let mut join = of(RequestKind::Join {
        boot,
        sealed: Timestamp::MIN,
        collected: Timestamp::MIN,
    });
    // An era that nobody else begins.
    let era = kvquorum_core::Era::new((1 << 20).try_into().unwrap());
    join.era = Some(era);
    link.call(&join).await.unwrap();
    let version = Version {
        timestamp: Timestamp::MIN,
        writer: WriterId::new(1),
    };
    let mut copy = of(RequestKind::Copy {
        key: "tea".into(),
        record: Entry::new(version, "\"weak\"").into(),
    });
    copy.era = Some(era);
    link.call(&copy).await.unwrap();
    let (code, told) = cluster.ready(1);
    assert_eq!((code, &told["status"]), (503, &Value::from("copying")));
    assert_eq!(told["copied"], 1);

    cluster.restart(2);
    cluster.is_ready(1).await;
    let (code, body) = http(cluster.port(1), "GET", "/read/tea", "").unwrap();
    assert_eq!(code, 200);
    assert!(body.contains("green") || body.contains("black"), "{body}");
    assert!(map.get("tea").await.unwrap().is_some());
    assert!(status(&link).await.marks.era > era);
}

/// Bugs: an operator is not told what is lost, or loses it without having said so; the
/// node opens without what is left; the other one has to be accepted too; a node that is
/// well, or not there, is opened.
#[tokio::test]
async fn an_operator_accepts_the_loss_of_two_disks() {
    let data = tempdir().unwrap();
    let mut cluster = Cluster::start(Some(data.path())).await;
    let map = cluster.map();
    write_all(&map).await;
    cluster.kill(0);
    map.put("gone", "on the other two").await.unwrap();
    map.drain().await;
    cluster.restart(0);
    for number in [1, 2] {
        cluster.lose(number);
    }
    let node = cluster.address(1);
    let accept = |more: &[&str]| cluster.client(&[&["accept-loss", &node], more].concat());
    let (_, errors) = says(accept(&["--yes"]), 2);
    assert!(errors.contains("not reachable"), "{errors}");
    for number in [1, 2] {
        cluster.restart(number);
    }
    assert_eq!(found(&cluster.map()).await, 0);
    let accept = |more: &[&str]| cluster.client(&[&["accept-loss", &node], more].concat());
    let (_, errors) = says(accept(&[]), 2);
    let sound = cluster.address(0);
    assert!(
        errors.contains(&format!("is not on {sound} may be lost")) && errors.contains("--yes"),
        "{errors}"
    );
    assert_eq!(cluster.ready(1).0, 503);

    let began = Instant::now();
    loop {
        let accepted = accept(&["--yes"]);
        if accepted.status.success() {
            let (_, told) = says(accepted, 0);
            assert!(told.contains(&format!("{node} is ready")), "{told}");
            break;
        }
        // One of the nodes may be at it just then: that is said, and nothing is lost.
        let (_, told) = says(accepted, 2);
        assert!(
            told.contains("are needed") || told.contains("not joining"),
            "{told}"
        );
        assert!(began.elapsed() < LONG);
    }
    cluster.is_ready(1).await;
    cluster.is_ready(2).await;
    assert_eq!(found(&cluster.map()).await, KEYS);
    assert_eq!(cluster.map().get("gone").await.unwrap(), None);
    let (_, errors) = says(accept(&["--yes"]), 2);
    assert!(errors.contains("nothing is lost"), "{errors}");
    // Each of the two has a copy of its own.
    cluster.kill(0);
    assert_eq!(found(&cluster.map()).await, KEYS);
}

/// J-SILENT. Bugs: a node that is restored from an old backup answers with what it has
/// forgotten; it drops what it has; three that are restored wait for each other for ever.
#[tokio::test]
async fn j_silent_a_restored_node_copies_what_it_missed() {
    let data = tempdir().unwrap();
    let mut cluster = Cluster::start(Some(data.path())).await;
    let map = cluster.map();
    map.put("old", "\"1\"").await.unwrap().settled().await;
    map.put("both", "\"1\"").await.unwrap().settled().await;
    cluster.kill(1);
    let backup = data.path().join("backup");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let three_node = |arguments: &[&str]| {
        let mut command = example("three-node");
        says(command.args(arguments).output().unwrap(), 0)
    };
    let directory = path(&cluster.directory(1));
    let restore = |to: &str| three_node(&["restore", "--data", to, &path(&backup)]);
    three_node(&["backup", "--data", &directory, &path(&backup)]);
    cluster.restart(1);
    cluster.is_ready(1).await;
    map.put("new", "\"2\"").await.unwrap().settled().await;
    map.put("both", "\"2\"").await.unwrap().settled().await;

    cluster.lose(1);
    cluster.kill(2);
    restore(&directory);
    cluster.restart(1);
    assert_eq!(cluster.ready(1).0, 503);
    assert_eq!(
        http(cluster.port(1), "GET", "/read/old", "").unwrap().0,
        503
    );
    assert!(map.get("both").await.is_err());
    cluster.restart(2);
    cluster.is_ready(1).await;
    for (key, value) in [("old", "1"), ("both", "2"), ("new", "2")] {
        let body = support::read(cluster.port(1), key);
        assert!(body.contains(&format!("\"{value}\"")), "{key}: {body}");
    }

    // All at once: a new cluster, with what the backup has.
    for number in 0..3 {
        cluster.lose(number);
        restore(&path(&cluster.directory(number)));
    }
    for number in 0..3 {
        cluster.restart(number);
    }
    for number in 0..3 {
        cluster.is_ready(number).await;
    }
    assert_eq!(map.get("both").await.unwrap().unwrap(), "\"1\"");
    assert_eq!(map.get("new").await.unwrap(), None);
    map.put("new", "\"3\"").await.unwrap();
}
