//! The same with etcd's transactions, where Debian's package `etcd-server` is
//! installed: three members on this machine, started here and ended with it.
//!
//! etcd is reached by its JSON gateway, as kvquorum is by HTTP, on hyper-util's pooled
//! client. An update reads the key, and writes it where it has not been changed since:
//! two requests to one member, which passes them on to the leader.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kvquorum_benches::runtime;
use kvquorum_benches::turns::{Turn, in_turns};
use kvquorum_core::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::rates::{AT_A_TIME, Came, KEYS, LENGTH, Place, ROUNDS, Rate, Until, WRITERS, drive};

/// How long the members may take to find a leader.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn measure(place: Place) {
    if Command::new("etcd").arg("--version").output().is_err() {
        println!("\netcd is not installed (apt-get install etcd-server): not measured");
        return;
    }
    // Files in memory are flushed to nowhere.
    let parent = match place {
        Place::Memory => "/dev/shm",
        Place::Disk => env!("CARGO_TARGET_TMPDIR"),
    };
    let directory = TempDir::new_in(parent).unwrap();
    let (_members, url) = start(directory.path());
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let runtime = runtime::of_this_thread();
    let etcd = Etcd {
        client: Client::builder(TokioExecutor::new()).build(connector),
        url,
    };
    println!("\netcd, with its files in {parent}\n");
    runtime.block_on(etcd.ready());
    Rate::print_head();
    many_keys(&runtime, &etcd, place);
    one_key(&runtime, &etcd, place);
}

fn many_keys(runtime: &Runtime, etcd: &Etcd, place: Place) {
    let key = |worker, number| format!("key-{:09}", (worker + number * AT_A_TIME) % KEYS);
    let mut ways: [Turn<'_, Rate>; 2] = [
        Box::new(|| {
            drive(runtime, AT_A_TIME, Until::Past(LENGTH), |worker, number| {
                etcd.put(key(worker, number))
            })
        }),
        Box::new(|| {
            drive(runtime, AT_A_TIME, Until::Past(LENGTH), |worker, number| {
                etcd.update(key(worker, number))
            })
        }),
    ];
    let turns = in_turns(ROUNDS, &mut ways);
    for (name, turns) in ["put", "update"].iter().zip(&turns) {
        Rate::print(
            &format!("etcd/{place}/{KEYS} keys/{AT_A_TIME}/{name}"),
            turns,
        );
    }
}

fn one_key(runtime: &Runtime, etcd: &Etcd, place: Place) {
    let turn_number = AtomicUsize::new(0);
    for writers in WRITERS {
        let mut ways: [Turn<'_, Rate>; 1] = [Box::new(|| {
            let key = format!("one-{}", turn_number.fetch_add(1, Ordering::Relaxed));
            drive(runtime, writers, Until::Past(LENGTH), |_, _| {
                etcd.update(key.clone())
            })
        })];
        let turns = in_turns(ROUNDS, &mut ways);
        Rate::print(&format!("etcd/{place}/one key/{writers}/update"), &turns[0]);
    }
}

/// The members of a cluster. They end with this value.
struct Members([Child; 3]);

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.0 {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Starts three members, and returns the URL of one.
fn start(directory: &Path) -> (Members, String) {
    // All are held until all are known, so that they are different.
    let listeners = [(); 6].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = listeners
        .each_ref()
        .map(|listener| listener.local_addr().unwrap().port());
    drop(listeners);
    let client = |member: usize| format!("http://127.0.0.1:{}", ports[member]);
    let peer = |member: usize| format!("http://127.0.0.1:{}", ports[3 + member]);
    let cluster = [0, 1, 2].map(|member| format!("m{member}={}", peer(member)));
    let members = [0, 1, 2].map(|member| {
        Command::new("etcd")
            .args(["--name", &format!("m{member}"), "--log-level", "error"])
            .arg("--data-dir")
            .arg(directory.join(member.to_string()))
            .args(["--listen-client-urls", &client(member)])
            .args(["--advertise-client-urls", &client(member)])
            .args(["--listen-peer-urls", &peer(member)])
            .args(["--initial-advertise-peer-urls", &peer(member)])
            .args(["--initial-cluster", &cluster.join(",")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    (Members(members), client(0))
}

struct Etcd {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
}

impl Etcd {
    /// Waits until there is a leader.
    async fn ready(&self) {
        let began = Instant::now();
        let put = json!({"key": encode("ready"), "value": ""});
        while self.call("put", &put).await.is_none() {
            assert!(began.elapsed() < PATIENCE, "etcd has no leader");
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn put(&self, key: String) -> Came {
        let put = json!({"key": encode(&key), "value": encode("1")});
        self.call("put", &put).await.unwrap();
        Came::Done { attempts: 1 }
    }

    /// Increments a key.
    async fn update(&self, key: String) -> Came {
        let key = encode(&key);
        for attempts in 1.. {
            let found = self.call("range", &json!({"key": key})).await.unwrap();
            let held = &found["kvs"][0];
            let count = held["value"].as_str().map_or(0, |value| {
                let value = BASE64_STANDARD.decode(value).unwrap();
                String::from_utf8(value).unwrap().parse().unwrap()
            });
            let revision = held["mod_revision"].as_str().unwrap_or("0");
            let transaction = json!({
                "compare": [{"key": key, "target": "MOD", "mod_revision": revision}],
                "success": [{"requestPut": {"key": key, "value": encode(&(count + 1_u64).to_string())}}],
            });
            let done = self.call("txn", &transaction).await.unwrap();
            if done["succeeded"] == true {
                return Came::Done { attempts };
            }
        }
        Came::Contended
    }

    /// The answer; none where there is no leader, or nobody listens.
    async fn call(&self, method: &str, body: &Value) -> Option<Value> {
        let body = Bytes::from(serde_json::to_vec(body).unwrap());
        let request = hyper::Request::post(format!("{}/v3/kv/{method}", self.url))
            .body(Full::new(body))
            .unwrap();
        let (head, body) = self.client.request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let is_ok = head.status.is_success();
        is_ok.then(|| serde_json::from_slice(&body).unwrap())
    }
}

fn encode(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}
