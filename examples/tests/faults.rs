//! One replica of three dies, or hangs, while many operations are under way over
//! HTTP: none of them fails, and none waits for it.

#![cfg(unix)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvquorum_core::Coordinator;
use kvquorum_http::HttpTransport;
use nix::sys::signal::Signal;
use support::three_nodes;
use tokio::task::JoinSet;
use tokio::time::sleep;

const IN_FLIGHT: usize = 64;
const BEFORE: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(1);

/// The longest time without a success, and for one operation. Many times what
/// it takes, as a busy machine has pauses of its own, and well below the time
/// limit of a call, which is long here: whoever waits for that is found out.
const BOUND: Duration = Duration::from_secs(10);
const TIME_LIMIT: Duration = Duration::from_secs(30);

type Map = Coordinator<3, 2, 2, HttpTransport>;

/// One at a time, so that they do not measure each other.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn nothing_fails_or_waits_when_a_replica_dies() {
    hit_one_of_three_by(Signal::SIGKILL);
}

#[test]
fn nothing_fails_or_waits_when_a_replica_hangs() {
    hit_one_of_three_by(Signal::SIGSTOP);
}

fn hit_one_of_three_by(signal: Signal) {
    let alone = ALONE.lock();
    let nodes = three_nodes();
    let links = nodes
        .each_ref()
        .map(|node| HttpTransport::new(node.address()).unwrap());
    let map = Map::builder(links).time_limit(TIME_LIMIT).build();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let began = Instant::now();
    let (mut successes, fault) = runtime.block_on(async {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut clients: JoinSet<_> = (0..IN_FLIGHT)
            .map(|client| work(map.clone(), client, Arc::clone(&is_over)))
            .collect();
        sleep(BEFORE).await;
        nodes[2].process.send(signal);
        let fault = Instant::now();
        sleep(AFTER).await;
        is_over.store(true, Ordering::SeqCst);
        let mut successes = Vec::new();
        while let Some(client) = clients.join_next().await {
            successes.append(&mut client.unwrap());
        }
        (successes, fault)
    });
    drop(alone);

    successes.sort_unstable_by_key(|success| success.at);
    let begun_after = |success: &&Success| success.at - success.took > fault;
    let after = successes.iter().filter(begun_after).count();
    assert!(after >= 2 * IN_FLIGHT, "{after} successes after the fault");
    let gaps = successes
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at, pair[0].at));
    let (gap, from) = gaps.max().unwrap();
    let from = from - began;
    let slowest = successes.iter().map(|success| success.took).max().unwrap();
    let count = successes.len();
    println!(
        "{signal}: {count} operations, none failed; longest time without a success {gap:?}, \
         from {from:?} on, slowest operation {slowest:?}"
    );
    assert!(gap < BOUND, "{gap:?} without a success");
    assert!(slowest < BOUND, "an operation took {slowest:?}");
}

struct Success {
    at: Instant,
    took: Duration,
}

impl Success {
    fn since(began: Instant) -> Self {
        let at = Instant::now();
        let took = at - began;
        Self { at, took }
    }
}

/// One client: puts, and gets what it has put, until the end and once more, so
/// that each does so after the fault. Panics where an operation does not succeed.
async fn work(map: Map, client: usize, is_over: Arc<AtomicBool>) -> Vec<Success> {
    let mut successes = Vec::new();
    for round in 0_u64.. {
        let is_last = is_over.load(Ordering::SeqCst);
        // Nobody else writes them, so that the last value put is known.
        let key = format!("client {client}, key {}", round % 16);
        let value = round.to_string();
        let began = Instant::now();
        let put = map.put(&key, value.clone()).await;
        put.unwrap_or_else(|error| panic!("put {round}: {error}"));
        successes.push(Success::since(began));
        let began = Instant::now();
        let got = map.get(&key).await;
        let got = got.unwrap_or_else(|error| panic!("get {round}: {error}"));
        successes.push(Success::since(began));
        assert_eq!(got.as_deref(), Some(value.as_bytes()));
        if is_last {
            break;
        }
    }
    successes
}
