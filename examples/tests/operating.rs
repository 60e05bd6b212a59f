//! What an operator sees of a node and does with it.

#![cfg(unix)]

mod support;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kvquorum_core::{
    Change, Coordinator, Entry, Key, Replica, Request, RequestKind, Response, Status, Store,
    Timestamp, Told, Transport, Version, WriterId,
};
use kvquorum_http::{HttpTransport, ReplicaService, ServerTls};
use kvquorum_redb::RedbStore;
use kvquorum_testing::Recorded;
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use support::{
    Node, Process, example, free_base_port, http, http_with, read, says, wait_until, write,
};

/// A node on disk, with more arguments.
fn node(data: &Path, more: &[&str]) -> Node {
    for _ in 0..10 {
        let port = free_base_port();
        let mut command = example("three-node");
        let command = command.args(["node", "--while-stdin-is-open", "--port"]);
        let command = command
            .arg(port.to_string())
            .arg("--data")
            .arg(data)
            .args(more);
        let mut process = Process::start(command);
        if process.line().ends_with(&format!(":{port}")) {
            return Node { port, process };
        }
    }
    panic!("no port stayed free");
}

fn health(port: u16) -> (u16, Value) {
    let (status, body) = http(port, "GET", "/health", "").unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

/// Bugs: a route is missing or of the wrong type; what happens is not in the
/// metrics of its node; a metric has no help or two types.
#[test]
fn a_node_tells_its_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let node = node(&directory.path().join("data"), &[]);
    write(node.port, "tea", "1", 1);
    read(node.port, "tea");
    http(node.port, "GET", "/nowhere", "").unwrap();
    let (status, text) = http(node.port, "GET", "/metrics", "").unwrap();
    assert_eq!(status, 200);
    for line in [
        // The other one is what the replica keeps of itself.
        "kvquorum_redb_changes_total 2",
        "kvquorum_http_server_request_duration_seconds_count{route=\"write\"} 1",
        "kvquorum_http_server_refused_total{reason=\"no_route\"} 1",
        "kvquorum_http_server_connections 1",
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "{line} is not in\n{text}"
        );
    }
    let named = |prefix: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix));
        let names = lines.map(|line| line.split(' ').next().unwrap().to_owned());
        names.collect()
    };
    assert_eq!(named("# HELP "), named("# TYPE "));
}

/// Bugs: what Prometheus's own check finds: a name without its unit, a counter that does
/// not end in `_total`, a type or a help that is missing.
#[test]
fn promtool_has_nothing_to_say() {
    let directory = tempfile::tempdir().unwrap();
    // With peers it is a coordinator, too.
    let peers = ["--peers", "127.0.0.1:1,127.0.0.1:2"];
    let node = node(&directory.path().join("data"), &peers);
    let (_, text) = http(node.port, "GET", "/metrics", "").unwrap();
    assert!(text.contains("kvquorum_passes_total"), "{text}");
    let mut check = Command::new("promtool");
    let check = check.args(["check", "metrics"]).stdin(Stdio::piped());
    let Ok(mut check) = check.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        println!("skipped: there is no promtool, of Debian's prometheus");
        return;
    };
    let mut input = check.stdin.take().unwrap();
    writeln!(input, "{text}").unwrap();
    drop(input);
    let checked = check.wait_with_output().unwrap();
    assert_eq!(says(checked, 0), (String::new(), String::new()));
}

/// Bugs: a rule for Prometheus that is none, or names something that is not recorded; one
/// about passes or hints that tells an operator of what is well, or not of what is not.
#[test]
fn the_alerts_are_rules_about_what_is_recorded() {
    let rules = include_str!("../../docs/alerts.yml");
    let guide = include_str!("../../docs/OPERATING.md");
    let names = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut named = 0;
    for name in names.filter(|name| name.starts_with("kvquorum_")) {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(guide.contains(&format!("\n| `{name}`")), "{name}");
        named += 1;
    }
    assert!(named > 10, "{named}");
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/alerts.yml");
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/alerts.yml");
    for (does, file) in [("check", rules), ("test", tests)] {
        let ended = Command::new("promtool")
            .args([does, "rules", file])
            .output();
        match ended {
            Ok(ended) => drop(says(ended, 0)),
            Err(_) => println!("skipped: there is no promtool, of Debian's prometheus"),
        }
    }
}

/// Bugs: a node that asks for a token tells strangers what it counts, or does not tell a
/// scraper that has the token; a load balancer cannot ask for its health.
#[test]
fn metrics_ask_for_the_token_and_health_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    fs::write(&tokens, "one-of-us-and-nobody-else\n").unwrap();
    let tokens = tokens.to_str().unwrap();
    let node = node(&directory.path().join("data"), &["--token-file", tokens]);
    let status = |path: &str| http(node.port, "GET", path, "").unwrap().0;
    assert_eq!(status("/metrics"), 401);
    let token = "Authorization: Bearer one-of-us-and-nobody-else\r\n";
    let (admitted, _) = http_with(node.port, "GET", "/metrics", token, "").unwrap();
    assert_eq!(admitted, 200);
    assert_eq!(health(node.port).0, 200);
}

/// Bug: a node whose store takes no more writes says that it is well.
#[test]
fn a_node_whose_store_failed_is_not_well() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut node = node(&data, &["--log-format", "json"]);
    let (status, well) = health(node.port);
    assert_eq!((status, &well["status"]), (200, &Value::from("ok")));
    assert!(well["replica"].is_string(), "{well}");

    fs::remove_file(data.join("entries.redb")).unwrap();
    let body = "{\"key\": \"tea\", \"value\": 1, \"timestamp\": 1}";
    let (status, _) = http(node.port, "POST", "/write", body).unwrap();
    assert_eq!(status, 500);
    let (status, failing) = health(node.port);
    assert_eq!((status, &failing["status"]), (503, &Value::from("failing")));
    assert!(
        failing["error"].as_str().unwrap().contains("removed"),
        "{failing}"
    );

    // It is told once, in the log, and without the key.
    node.process.send(Signal::SIGTERM);
    let (_, _, log) = node.process.end();
    let logged: Vec<Value> = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let told = |line: &&Value| {
        line["fields"]["message"]
            .as_str()
            .unwrap()
            .contains("no more writes")
    };
    assert_eq!(logged.iter().filter(told).count(), 1, "{log}");
    assert!(!log.contains("tea"), "{log}");
}

/// Bugs: a running node makes no backup, or ends; a backup cannot be served; a
/// restored node has the id of the one that the backup was made of, or lacks what
/// one of the backups holds.
#[test]
fn a_replica_is_backed_up_and_restored() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let argument = |name: &str| path(name).to_str().unwrap().to_owned();
    fs::create_dir(path("backups")).unwrap();
    let mut running = node(&path("a"), &["--backups", &argument("backups")]);
    let (_, original) = health(running.port);
    write(running.port, "tea", "\"green\"", 1);
    running.process.send(Signal::SIGUSR1);
    let made = || fs::read_dir(path("backups")).unwrap().next();
    // Its name is the last thing that a backup gets.
    let is_whole = |backup: &Path| backup.join("entries.redb").exists();
    wait_until("there is a backup", || {
        made().is_some_and(|it| is_whole(&it.unwrap().path()))
    });
    write(running.port, "coffee", "\"black\"", 2);
    write(running.port, "tea", "\"white\"", 3);
    let first = made().unwrap().unwrap().path();
    running.process.send(Signal::SIGTERM);
    running.process.end();

    let three_node = |arguments: &[&str]| example("three-node").args(arguments).output().unwrap();
    let data = argument("a");
    says(three_node(&["backup", "--data", &data, &argument("b")]), 0);
    let again = three_node(&["backup", "--data", &data, &argument("b")]);
    assert!(says(again, 2).1.contains("already"));

    let served = node(&first, &[]);
    assert_eq!(read(served.port, "coffee"), "null");
    assert!(read(served.port, "tea").contains("green"));
    assert_eq!(health(served.port).1["replica"], original["replica"]);
    drop(served);

    let first = first.to_str().unwrap();
    let restored = argument("restored");
    says(
        three_node(&["restore", "--data", &restored, &argument("b"), first]),
        0,
    );
    let again = three_node(&["restore", "--data", &restored, first]);
    assert!(says(again, 2).1.contains("already"));
    let restored = node(&path("restored"), &[]);
    // It copies what it missed, before it answers. Where all are restored, that is nothing.
    let (status, joining) = http(restored.port, "GET", "/read/tea", "").unwrap();
    assert_eq!(status, 503, "{joining}");
    assert_eq!(http(restored.port, "GET", "/ready", "").unwrap().0, 503);
    let link = HttpTransport::new(restored.address()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tea = runtime.block_on(async {
        let alone = Coordinator::<1, 1, 1, _>::new([link]);
        alone.get("tea").await
    });
    assert_eq!(tea.unwrap().unwrap(), "\"white\"");
    assert!(read(restored.port, "tea").contains("white"));
    assert!(read(restored.port, "coffee").contains("black"));
    assert_ne!(health(restored.port).1["replica"], original["replica"]);
}

/// Bugs: something is recorded and not in the guide, or the other way round.
#[test]
fn the_guide_lists_every_metric() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let all = || {
        let path = directory.path().join("store");
        let store = runtime.block_on(RedbStore::create_new(path)).unwrap();
        let link = HttpTransport::new("127.0.0.1:1").unwrap();
        let links = [link.clone(), link.clone(), link];
        let path = |file: &str| directory.path().join(file);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([]).unwrap().self_signed(&key);
        fs::write(path("key.pem"), key.serialize_pem()).unwrap();
        fs::write(path("cert.pem"), certificate.unwrap().pem()).unwrap();
        (
            ServerTls::from_pem(path("cert.pem"), path("key.pem")).unwrap(),
            ReplicaService::new(Replica::new(store).of_new_cluster()),
            Coordinator::<3, 2, 2, _>::new(links),
        )
    };
    let (_all, recorded) = Recorded::of(all);
    let guide = include_str!("../../docs/OPERATING.md");
    let (_, table) = guide.split_once("## Metrics").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut listed: Vec<&str> = rows.map(|row| row.split('`').next().unwrap()).collect();
    listed.sort_unstable();
    let names = recorded.names();
    assert_eq!(listed, names.keys().map(String::as_str).collect::<Vec<_>>());
}

/// G-VOID. Bug: what one backup has collected comes back out of an older one.
#[test]
fn what_was_deleted_and_collected_is_not_restored() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let at = |millis| Timestamp::new(millis, 0).unwrap();
    let entry = |millis| {
        let version = Version {
            timestamp: at(millis),
            writer: WriterId::new(1),
        };
        Entry::new(version, millis.to_string())
    };
    runtime.block_on(async {
        for (name, collected, held) in [
            ("older", 10, &[("gone", 15), ("there", 15), ("new", 25)][..]),
            ("newer", 20, &[("there", 15)]),
        ] {
            let store = Arc::new(RedbStore::create_new(path(name)).await.unwrap());
            let replica = Replica::new(Arc::clone(&store)).of_new_cluster();
            for (key, millis) in held {
                let write = Request::write(*key, entry(*millis));
                replica.call(&write).await.unwrap();
            }
            let to = at(collected);
            let sealed = replica.call(&Request::of(RequestKind::Seal { to }));
            let Response::Told(told) = sealed.await.unwrap() else {
                panic!("not sealed");
            };
            let Told::Status(Status { boot, .. }) = *told else {
                panic!("{told:?}");
            };
            let collect = Request::of(RequestKind::Collect { to, boot });
            replica.call(&collect).await.unwrap();
            store.close().await.unwrap();
        }
        let restored = path("restored");
        let arguments = [
            "restore",
            "--data",
            &restored,
            &path("older"),
            &path("newer"),
        ];
        says(example("three-node").args(arguments).output().unwrap(), 0);
        let store = RedbStore::open(restored).await.unwrap();
        for (key, expected) in [("gone", None), ("there", Some(15)), ("new", Some(25))] {
            let held = store.get(&Key::from(key)).await.unwrap();
            let held = held.map(|record| record.entry().unwrap());
            assert_eq!(held, expected.map(entry), "{key}");
        }
    });
}

/// Bugs: of a key the lesser entry or promise is restored, or the greater one keeps the
/// other out; a key that one backup alone has is left out.
#[test]
fn the_greatest_entry_and_promise_are_restored() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let version = |at| Version {
        timestamp: Timestamp::from_bits(at),
        writer: WriterId::new(1),
    };
    let entry = |at: u64| Change::write(Entry::new(version(at), at.to_string()));
    let promise = |at| Change::prepare(version(at));
    let all = [("a", [entry(5), promise(9)]), ("b", [promise(3), entry(7)])];
    runtime.block_on(async {
        for (name, changes) in all {
            let store = RedbStore::create_new(path(name)).await.unwrap();
            for change in changes {
                store.apply(&Key::from("both"), change).await.unwrap();
            }
            // Here the entry is the greater one.
            let change = [promise(3), entry(9)]
                .into_iter()
                .nth(usize::from(name == "b"));
            store
                .apply(&Key::from("past"), change.unwrap())
                .await
                .unwrap();
            store.apply(&Key::from(name), entry(1)).await.unwrap();
            store.close().await.unwrap();
        }
        let restored = path("restored");
        let arguments = ["restore", "--data", &restored, &path("a"), &path("b")];
        says(example("three-node").args(arguments).output().unwrap(), 0);
        let store = RedbStore::open(restored).await.unwrap();
        let record = store.get(&Key::from("both")).await.unwrap().unwrap();
        assert_eq!(record.version(), Some(version(7)));
        assert_eq!(record.anchor(), Some(version(9)));
        let record = store.get(&Key::from("past")).await.unwrap().unwrap();
        assert_eq!(record.version(), Some(version(9)));
        assert_eq!(record.anchor(), Some(version(3)));
        for name in ["a", "b"] {
            let record = store.get(&Key::from(name)).await.unwrap().unwrap();
            assert_eq!(record.version(), Some(version(1)));
        }
    });
}
