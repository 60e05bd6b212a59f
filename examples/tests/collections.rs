//! Deletes that are collected, and what comes late, as processes.

#![cfg(unix)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvquorum_core::{
    Entry, Key, KeyRange, Request, RequestKind, Response, Status, Timestamp, Told, Transport,
};
use kvquorum_http::HttpTransport;
use serde_json::{Value, json};
use support::cluster::{Cluster, LONG, Map, status};
use support::{example, http, says};
use tempfile::tempdir;

/// Keys that are deleted, and keys that stay.
const DELETED: usize = 300;
const KEPT: usize = 100;

fn deleted(number: usize) -> String {
    format!("deleted {number:03}")
}

fn kept(number: usize) -> String {
    format!("kept {number:03}")
}

/// What a node itself holds and counts, tombstones included.
async fn held(link: &HttpTransport) -> Vec<(Key, Entry)> {
    let request = Request::scan(.., kvquorum_core::ScanLimit::NONE);
    match link.call(&request).await.unwrap() {
        Response::Page(page) if page.upto.is_none() => page.entries,
        other => panic!("{other:?}"),
    }
}

/// How many records a node has at all.
async fn records(link: &HttpTransport) -> usize {
    let request = Request::of(RequestKind::Records {
        range: KeyRange::from(..),
        max_keys: u64::MAX,
        max_bytes: u64::MAX,
    });
    match link.call(&request).await.unwrap() {
        Response::Told(told) => match *told {
            Told::Records(records) if records.upto.is_none() => records.records.len(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Writes values, and returns what was written under the keys that are going to be deleted.
async fn write_all(cluster: &Cluster, map: &Map) -> Vec<(Key, Entry)> {
    let keys = (0..DELETED).map(deleted).chain((0..KEPT).map(kept));
    for put in map.put_many(keys.map(|key| (key, "\"old\""))).await {
        put.unwrap();
    }
    map.drain().await;
    let mut held = held(&cluster.link(0)).await;
    held.retain(|(key, _)| key.as_bytes().starts_with(b"deleted"));
    assert_eq!(held.len(), DELETED);
    held
}

async fn delete_all(map: &Map) {
    for number in 0..DELETED {
        map.delete(deleted(number)).await.unwrap();
    }
    map.drain().await;
    next_millisecond().await;
}

/// What is collected is stamped before the present millisecond.
async fn next_millisecond() {
    let before = now();
    while now() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

/// Panics where a deleted key is seen, or one that was kept is not, whoever reads: any two
/// of those that are there, by a get or a scan.
async fn nothing_is_seen_again(cluster: &Cluster) {
    for _ in 0..3 {
        let map = cluster.map();
        for got in map.get_many((0..DELETED).map(deleted)).await {
            assert_eq!(got.unwrap(), None);
        }
        for got in map.get_many((0..KEPT).map(kept)).await {
            assert_eq!(got.unwrap().unwrap(), "\"old\"");
        }
        let mut scan = map.scan(..);
        let mut found = Vec::new();
        while let Some(page) = scan.next_page().await {
            found.extend(page.unwrap().into_iter().map(|(key, _)| key));
        }
        let expected: Vec<Key> = (0..KEPT).map(|number| kept(number).into()).collect();
        assert_eq!(found, expected);
    }
}

/// The rows of `three-node status`, without the addresses.
fn rows(cluster: &Cluster) -> Vec<String> {
    let (told, _) = says(cluster.client(&["status"]), 0);
    let rows = told.lines().skip(1).map(|row| {
        let (_, row) = row.trim().split_once(' ').unwrap();
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    rows.collect()
}

fn collect(cluster: &Cluster) {
    let (told, _) = says(cluster.client(&["collect", "--lag", "0"]), 0);
    assert!(told.starts_with("collected: what was deleted"), "{told}");
}

/// `POST /write` to one node: what it answers.
fn write(cluster: &Cluster, number: u16, key: &str, timestamp: u64) -> (u16, Value) {
    let body = json!({"key": key, "value": "late", "timestamp": timestamp}).to_string();
    let (status, body) = http(cluster.port(number), "POST", "/write", &body).unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

/// G-SEAL. Old writes of curl are refused, and the answer says from when on they are taken.
async fn old_writes_are_refused(cluster: &Cluster, old: &[(Key, Entry)]) {
    for number in 0..3 {
        let sealed = status(&cluster.link(number)).await.marks.sealed.millis();
        for (key, entry) in old.iter().step_by(7) {
            let (status, told) = write(
                cluster,
                number,
                &key.to_string(),
                entry.version.timestamp.millis(),
            );
            assert_eq!((status, &told["from"]), (409, &json!(sealed)), "{told}");
            assert!(told["error"].is_string(), "{told}");
        }
        assert_eq!(write(cluster, number, "probe", sealed - 1).0, 409);
        assert_eq!(write(cluster, number, "probe", sealed).0, 200);
    }
    cluster.map().delete("probe").await.unwrap();
}

/// A repair as it travels, by the tables of the replica face.
fn repair(key: &Key, entry: &Entry) -> Vec<u8> {
    fn int(mut number: u64, to: &mut Vec<u8>) {
        while number > 0x7f {
            to.push(number as u8 | 0x80);
            number >>= 7;
        }
        to.push(number as u8);
    }
    let value = entry.value.as_ref().unwrap();
    // To whichever replica, of whichever era.
    let mut request = vec![0, 0, 0x10];
    int(key.len() as u64, &mut request);
    request.extend(key.as_bytes());
    int(entry.version.timestamp.to_bits(), &mut request);
    int(entry.version.writer.get(), &mut request);
    // It does not expire, and is a value.
    request.extend([0, 1]);
    int(value.len() as u64, &mut request);
    request.extend_from_slice(value);
    let len = u32::try_from(request.len()).unwrap();
    [&len.to_le_bytes()[..], &request].concat()
}

/// The reply to such a request, among the bytes of the answer.
fn reply(cluster: &Cluster, number: u16, request: &[u8]) -> Vec<u8> {
    let address = (Ipv4Addr::LOCALHOST, cluster.port(number));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let length = request.len();
    let head = format!(
        "POST /v2/call HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    );
    stream
        .write_all(&[head.as_bytes(), request].concat())
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200"),
        "{}",
        answer.escape_ascii()
    );
    let end = answer.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    answer.split_off(end + 4)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|it| it == part)
}

/// The frame of the one reply, up to where it differs.
const ACKED: &[u8] = &[0, 0, 0, 0, 3, 0, 0, 0, 0, 1, 0];
const REFUSED_AS_BEFORE: &[u8] = &[0, 2, 0x0B];

/// G-COLLECT. Repairs that were taken before are refused, byte for byte the same.
fn old_repairs_are(cluster: &Cluster, old: &[(Key, Entry)], taken: bool) {
    for number in 0..3 {
        for (key, entry) in old.iter().step_by(11) {
            let reply = reply(cluster, number, &repair(key, entry));
            let (is_acked, is_refused) =
                (contains(&reply, ACKED), contains(&reply, REFUSED_AS_BEFORE));
            let shown = reply.escape_ascii();
            assert_eq!((is_acked, is_refused), (taken, !taken), "{shown}");
        }
    }
}

/// Nothing is left on any node but what was kept.
async fn nothing_is_left(cluster: &Cluster) {
    for number in 0..3 {
        let link = cluster.link(number);
        let keys = held(&link).await.into_iter().map(|(key, _)| key);
        let keys: Vec<Key> = keys.collect();
        let expected: Vec<Key> = (0..KEPT).map(|number| kept(number).into()).collect();
        assert_eq!(keys, expected);
        assert_eq!(records(&link).await, KEPT);
    }
    for row in rows(cluster) {
        assert!(row.starts_with("ready 100 0 "), "{row}");
        assert!(!row.contains("never"), "{row}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// G-SEAL, G-LEVEL, G-COLLECT, G-VOID. Bugs: tombstones stay, or one replica's do; an old
/// write or repair is taken, or the refusal does not say from when on it would be; what a
/// restored node holds is seen by a get or a scan, or brought to others by a pass; it
/// never forgets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_collect_a_deleted_key_is_never_seen_again() {
    let data = tempdir().unwrap();
    let mut cluster = Cluster::start(Some(data.path())).await;
    let map = cluster.map();
    let old = write_all(&cluster, &map).await;
    old_repairs_are(&cluster, &old, true);
    let restored = 1;
    let backup = data.path().join("backup");
    cluster.kill(restored);
    copy(&cluster.directory(restored), &backup);
    cluster.restart(restored);
    cluster.is_ready(restored).await;
    delete_all(&map).await;
    for row in rows(&cluster) {
        assert!(
            row.starts_with("ready 100 300 none never never none"),
            "{row}"
        );
    }
    collect(&cluster);
    nothing_is_left(&cluster).await;
    nothing_is_seen_again(&cluster).await;
    old_writes_are_refused(&cluster, &old).await;
    old_repairs_are(&cluster, &old, false);
    nothing_is_seen_again(&cluster).await;

    cluster.lose(restored);
    copy(&backup, &cluster.directory(restored));
    cluster.restart(restored);
    cluster.is_ready(restored).await;
    let link = cluster.link(restored);
    assert_eq!(held(&link).await.len(), DELETED + KEPT);
    nothing_is_seen_again(&cluster).await;
    // Each of the others alone with it.
    for other in [0, 2] {
        cluster.kill(other);
        nothing_is_seen_again(&cluster).await;
        cluster.restart(other);
        cluster.is_ready(other).await;
    }
    says(cluster.client(&["pass"]), 0);
    nothing_is_seen_again(&cluster).await;
    let values = held(&link).await.into_iter();
    let values = values.filter(|(_, entry)| entry.value.is_some());
    assert_eq!(values.count(), KEPT);
    for number in (0..DELETED).step_by(13) {
        let path = format!("/read/{}", deleted(number).replace(' ', "%20"));
        let (status, body) = http(cluster.port(restored), "GET", &path, "").unwrap();
        assert_eq!((status, body.as_str()), (200, "null"));
    }
    // And when that is collected as well.
    next_millisecond().await;
    collect(&cluster);
    nothing_is_left(&cluster).await;
    nothing_is_seen_again(&cluster).await;
    old_writes_are_refused(&cluster, &old).await;
    old_repairs_are(&cluster, &old, false);
}

/// G-VOID. Bug: a node that is restored from a backup, and rejoins, brings back what was
/// deleted and collected since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_void_a_restored_node_brings_nothing_back() {
    let data = tempdir().unwrap();
    let mut cluster = Cluster::start(Some(data.path())).await;
    let map = cluster.map();
    let old = write_all(&cluster, &map).await;
    let restored = 1;
    let backup = data.path().join("backup");
    let of = cluster.directory(restored);
    let made_of = |command: &str, data: &Path, other: &Path| {
        let mut three_node = example("three-node");
        let arguments = three_node.arg(command).arg("--data").arg(data).arg(other);
        says(arguments.output().unwrap(), 0);
    };
    cluster.kill(restored);
    made_of("backup", &of, &backup);
    cluster.restart(restored);
    cluster.is_ready(restored).await;
    delete_all(&map).await;
    collect(&cluster);
    cluster.lose(restored);
    made_of("restore", &of, &backup);
    cluster.restart(restored);
    cluster.is_ready(restored).await;
    nothing_is_left(&cluster).await;
    for other in [0, 2] {
        cluster.kill(other);
        nothing_is_seen_again(&cluster).await;
        cluster.restart(other);
        cluster.is_ready(other).await;
    }
    old_writes_are_refused(&cluster, &old).await;
    old_repairs_are(&cluster, &old, false);
    nothing_is_seen_again(&cluster).await;
}

/// J-COPY, G-SEAL. Bug: a node in memory that starts again has forgotten what it was sealed
/// up to, or what it has collected, and takes what the others refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_collect_a_node_in_memory_takes_over_the_marks() {
    let mut cluster = Cluster::start(None).await;
    let map = cluster.map();
    let old = write_all(&cluster, &map).await;
    delete_all(&map).await;
    collect(&cluster);
    nothing_is_left(&cluster).await;
    cluster.kill(2);
    cluster.restart(2);
    cluster.is_ready(2).await;
    nothing_is_left(&cluster).await;
    old_writes_are_refused(&cluster, &old).await;
    old_repairs_are(&cluster, &old, false);
    nothing_is_seen_again(&cluster).await;
}

/// Waits until a row of the status is so, for each node.
async fn until_rows(cluster: &Cluster, are: impl Fn(usize, &str) -> bool) {
    let began = Instant::now();
    loop {
        let rows = rows(cluster);
        if rows
            .iter()
            .enumerate()
            .all(|(number, row)| are(number, row))
        {
            return;
        }
        assert!(began.elapsed() < LONG, "{rows:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nodes that are given peers collect by themselves, and while one is away they say for
/// which they wait. Bugs: they never collect, or while one is away; it is not said which
/// one, or since when; they do not begin again when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g_collect_waits_for_a_node_that_is_away() {
    let data = tempdir().unwrap();
    let when = [
        "--pass-every",
        "0.2",
        "--collect-every",
        "0.2",
        "--collect-lag",
        "0.1",
    ];
    let mut cluster = Cluster::start_with(Some(data.path()), &when).await;
    let map = cluster.map();
    write_all(&cluster, &map).await;
    delete_all(&map).await;
    until_rows(&cluster, |_, row| row.starts_with("ready 100 0 ")).await;

    let away = cluster.address(2);
    cluster.kill(2);
    let waits = format!("waits for {away} since ");
    until_rows(&cluster, |number, row| number == 2 || row.contains(&waits)).await;
    let before = status(&cluster.link(0)).await;
    map.put("one more", "\"old\"").await.unwrap();
    map.delete("one more").await.unwrap();
    map.drain().await;
    let (told, _) = says(cluster.client(&["collect", "--lag", "0"]), 1);
    assert!(told.starts_with("nothing is collected: "), "{told}");
    assert!(told.contains(&away), "{told}");
    let later = after_some_passes(&cluster, &before).await;
    let waits = |status: &Status| status.last_collection.clone().unwrap().waits.unwrap();
    assert_eq!(waits(&later).since_millis, waits(&before).since_millis);
    assert_eq!(later.marks.collected, before.marks.collected);
    assert!(before.marks.collected > Timestamp::MIN);
    for row in &rows(&cluster)[..2] {
        assert!(row.starts_with("ready 100 1 "), "{row}");
    }

    cluster.restart(2);
    let is_collected = |row: &str| row.starts_with("ready 100 0 ") && !row.contains("waits");
    until_rows(&cluster, |_, row| is_collected(row)).await;
}

/// How a node is once it has tried to collect a few times more.
async fn after_some_passes(cluster: &Cluster, before: &Status) -> Status {
    let began = Instant::now();
    let mut last = before.clone();
    for _ in 0..3 {
        loop {
            let ended = |it: &Status| it.last_collection.as_ref().unwrap().ended_millis;
            let status = status(&cluster.link(0)).await;
            if ended(&status) > ended(&last) {
                last = status;
                break;
            }
            assert!(began.elapsed() < LONG, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    last
}

/// Bug: options that mean nothing are taken.
#[test]
fn wrong_options_are_refused() {
    let peers = ["--peers", "127.0.0.1:1,127.0.0.1:2"];
    for (arguments, said) in [
        (&["--collect-every", "1"][..], "--peers"),
        (&["--no-collect"], "--peers"),
        (&[peers[0], peers[1], "--collect-lag=-1"], "negative"),
        (
            &[peers[0], peers[1], "--no-collect", "--collect-every", "1"],
            "cannot be used with",
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
