//! What a round of collection takes that finds a million deletes, and what it leaves: see
//! README.md.

use std::alloc::System;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Bound;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::iter;
use kvquorum_benches::http::{Pace, ServerProcess, serve_if_told};
use kvquorum_benches::runtime;
use kvquorum_core::{
    Coordinator, Key, PassReport, PassSettings, Replica, ScanLimit, Store, Transport,
};
use kvquorum_http::{HttpTransport, Server};
use kvquorum_mem::MemStore;
use kvquorum_redb::RedbStore;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{sleep, timeout};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KEYS: u64 = 1_000_000;
const VALUE_LEN: usize = 100;
/// How many writes are under way, when keys are put and deleted.
const AT_ONCE: usize = 512;
/// As many, where each goes to three processes.
const AT_ONCE_REMOTE: usize = 64;
/// The keys of the operations beside a round. They stay.
const OTHERS: u64 = 50_000;
/// How long operations are measured at a time, without a round and beside it.
const TURN: Duration = Duration::from_secs(4);
/// Up to so many keys, operations are measured beside a whole round, and of more beside
/// parts of it.
const WHOLE: u64 = 200_000;
/// How long a round goes on between two parts, with nobody else there.
const BETWEEN: Duration = Duration::from_millis(1200);
/// How many operations there are in a second beside a round, somewhat less.
const A_SECOND: u32 = 1000;

type Map = Coordinator<3, 2, 2, HttpTransport>;

fn main() {
    serve_if_told();
    let keys = env::args().filter_map(|it| it.parse().ok()).next();
    let keys = keys.unwrap_or(KEYS);
    let is_part = |part: &&str| ["memory", "disk", "beside"].contains(part);
    let arguments: Vec<String> = env::args().collect();
    let only: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(is_part)
        .collect();
    let runs = |part| only.is_empty() || only.contains(&part);
    runtime::of_threads(2).block_on(async {
        println!("{keys} keys, values of {VALUE_LEN} bytes, three replicas over HTTP");
        if runs("memory") {
            in_memory(keys).await;
        }
        if runs("disk") {
            on_disk(keys).await;
        }
        if runs("beside") {
            beside(keys).await;
        }
    });
}

/// Bytes that are allocated and in use.
fn live_bytes() -> u64 {
    let stats = INSTRUMENTED_SYSTEM.stats();
    (stats.bytes_allocated - stats.bytes_deallocated) as u64
}

async fn in_memory(keys: u64) {
    let cluster = Cluster::new([(); 3].map(|()| MemStore::new())).await;
    let size = || async { live_bytes() };
    cluster.round("in memory, bytes in use", keys, size).await;
}

async fn on_disk(keys: u64) {
    let directory = tempfile::tempdir().unwrap();
    let paths = [0, 1, 2].map(|number| directory.path().join(number.to_string()));
    let stores = paths.each_ref().map(RedbStore::create_new);
    let [a, b, c] = stores;
    let (a, b, c) = tokio::try_join!(a, b, c).unwrap();
    let cluster = Cluster::new([a, b, c]).await;
    let size = || async { paths.iter().map(|path| file_len(path)).sum() };
    cluster.round("on disk, bytes of files", keys, size).await;
    let began = Instant::now();
    for store in &cluster.stores {
        store.compact().await.unwrap();
    }
    println!(
        "  compacted: {} bytes, {:.1} s",
        size().await,
        began.elapsed().as_secs_f64()
    );
}

fn file_len(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap();
    files.map(|it| it.unwrap().metadata().unwrap().len()).sum()
}

/// How long puts and gets of other keys take while a round goes on, and while it is held
/// up, in turns. Each replica is a process of its own, and the round has a coordinator of its
/// own, as that of a node has.
async fn beside(keys: u64) {
    let servers = [(); 3].map(|()| ServerProcess::start(Pace::Healthy));
    let new_map = || {
        Map::new(servers.each_ref().map(|server| {
            let address: SocketAddr = server.address.parse().unwrap();
            HttpTransport::new(address).unwrap()
        }))
    };
    let (map, collector) = (new_map(), new_map());
    put_all(&map, (0..OTHERS).map(other), AT_ONCE_REMOTE).await;
    put_all(&map, (0..keys).map(key), AT_ONCE_REMOTE).await;
    delete_all(&map, keys, AT_ONCE_REMOTE).await;
    let (mut round, mut report) = (pin!(collect(&collector)), None);
    let (mut lasted, mut ratios) = (Duration::ZERO, [Vec::new(), Vec::new()]);
    while report.is_none() {
        if keys > WHOLE && !ratios[0].is_empty() {
            report = timeout(BETWEEN, &mut round).await.ok();
            if report.is_some() {
                break;
            }
        }
        let alone = Took::until(&map, sleep(TURN)).await;
        let began = Instant::now();
        let turn = async { report = timeout(TURN, &mut round).await.ok() };
        let beside = Took::until(&map, turn).await;
        lasted += began.elapsed();
        // The last turn may be too short to tell.
        if report.is_none() || ratios[0].is_empty() {
            for (ratios, (alone, beside)) in ratios.iter_mut().zip(alone.p99().zip(beside.p99())) {
                ratios.push(beside.as_secs_f64() / alone.as_secs_f64());
            }
        }
    }
    check(&report.unwrap(), keys);
    let (turns, lasted) = (ratios[0].len(), lasted.as_secs_f64());
    let took = match keys > WHOLE {
        true => "parts of the round, together",
        false => "the round took",
    };
    println!("beside {A_SECOND} operations a second, in memory: {took} {lasted:.1} s");
    for (what, mut ratios) in ["put", "get"].into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        let [low, median, high] = [1, 2, 3].map(|part| ratios[turns * part / 4]);
        println!(
            "  p99 of a {what} beside it / without: {median:.2} ({low:.2}–{high:.2}) of {turns} turns"
        );
    }
}

/// When operations begin: at random times, since a timer would have them begin together
/// with what else waits for one.
fn moments() -> Receiver<()> {
    let (sender, moments) = channel(1);
    thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(1);
        loop {
            let apart = -(1.0 - random.f64()).ln() / f64::from(A_SECOND);
            thread::sleep(Duration::from_secs_f64(apart));
            if sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    moments
}

/// How long puts and gets took.
#[derive(Default)]
struct Took([Vec<Duration>; 2]);

impl Took {
    /// Puts and gets by turns, as long as something goes on.
    async fn until(map: &Map, it: impl Future<Output = ()>) -> Self {
        let mut took = Self::default();
        let operations = async {
            let mut moments = moments();
            for at in 0.. {
                moments.recv().await;
                let (key, began) = (other(at * 769 % OTHERS), Instant::now());
                if at % 2 == 0 {
                    map.put(key, vec![b'w'; VALUE_LEN]).await.unwrap();
                } else {
                    map.get(key).await.unwrap();
                }
                took.0[at as usize % 2].push(began.elapsed());
            }
        };
        tokio::select! {
            () = operations => {}
            () = it => {}
        }
        took
    }

    fn p99(self) -> impl Iterator<Item = Duration> {
        self.0.into_iter().map(|mut took| {
            took.sort();
            took[took.len() * 99 / 100]
        })
    }
}

struct Cluster<S> {
    stores: [Arc<S>; 3],
    /// In this process, to put and delete by.
    local: Coordinator<3, 3, 2, Replica<Arc<S>>>,
    map: Map,
    _servers: Vec<Server>,
}

impl<S: Store> Cluster<S> {
    async fn new(stores: [S; 3]) -> Self {
        let stores = stores.map(Arc::new);
        let replicas = stores
            .each_ref()
            .map(|store| Replica::new(Arc::clone(store)).of_new_cluster());
        let mut servers = Vec::new();
        let mut links = Vec::new();
        for replica in &replicas {
            let server = Server::bind((Ipv4Addr::LOCALHOST, 0), replica.clone());
            let server = server.await.unwrap();
            links.push(HttpTransport::new(server.local_addr()).unwrap());
            servers.push(server);
        }
        let map = Coordinator::new(links.try_into().unwrap_or_else(|_| unreachable!()));
        let cluster = Self {
            stores,
            local: Coordinator::new(replicas),
            map,
            _servers: servers,
        };
        put_all(&cluster.local, (0..OTHERS).map(other), AT_ONCE).await;
        cluster
    }

    /// Puts and deletes so many keys, and collects: what is there in between, and how long
    /// the round takes.
    async fn round<F: Future<Output = u64>>(&self, what: &str, keys: u64, size: impl Fn() -> F) {
        // Its buffers are there from then on.
        check(&collect(&self.map).await, 0);
        let before = size().await;
        put_all(&self.local, (0..keys).map(key), AT_ONCE).await;
        let put = size().await;
        delete_all(&self.local, keys, AT_ONCE).await;
        let deleted = size().await;
        let began = Instant::now();
        let report = collect(&self.map).await;
        let took = began.elapsed();
        check(&report, keys);
        let after = size().await;
        let left = join_all(self.stores.iter().map(records)).await;
        println!("{what}:");
        println!(
            "  {before} before, {put} once put, {deleted} once deleted, {after} once collected"
        );
        println!(
            "  {:.3} of before, records left {left:?} of {OTHERS}; the round took {:.1} s",
            after as f64 / before as f64,
            took.as_secs_f64()
        );
    }
}

async fn put_all<T: Transport, const W: usize>(
    map: &Coordinator<3, W, 2, T>,
    keys: impl Iterator<Item = Key>,
    at_once: usize,
) {
    let puts = iter(keys).map(|key| map.put(key, vec![b'v'; VALUE_LEN]));
    puts.buffer_unordered(at_once)
        .for_each(async |put| drop(put.unwrap()))
        .await;
    map.drain().await;
}

async fn delete_all<T: Transport, const W: usize>(
    map: &Coordinator<3, W, 2, T>,
    keys: u64,
    at_once: usize,
) {
    let deletes = iter(0..keys).map(|at| map.delete(key(at)));
    deletes
        .buffer_unordered(at_once)
        .for_each(async |delete| drop(delete.unwrap()))
        .await;
    map.drain().await;
    // What is collected is stamped before this millisecond.
    sleep(Duration::from_millis(5)).await;
}

async fn collect(map: &Map) -> PassReport {
    let settings = PassSettings::default().collect_lag(Duration::ZERO);
    map.collect(settings).await
}

/// All is collected, on all three.
fn check(report: &PassReport, keys: u64) {
    let collected = report.collection.as_ref().unwrap().as_ref().unwrap();
    for replica in &collected.replicas {
        assert!(replica.failure.is_none(), "{replica:?}");
        assert_eq!((replica.dropped, replica.tombstones), (keys, 0));
    }
}

async fn records(store: &impl Store) -> usize {
    let mut records = 0;
    // After the empty key, under which a replica keeps who it is.
    let mut last = Key::from("");
    loop {
        let rest = (Bound::Excluded(&last), Bound::Unbounded);
        let page = store.scan(rest, ScanLimit::keys(4096)).await.unwrap();
        records += page.len();
        match page.into_iter().next_back() {
            Some((key, _)) => last = key,
            None => return records,
        }
    }
}

fn key(at: u64) -> Key {
    Key::from(format!("key-{at:09}"))
}

fn other(at: u64) -> Key {
    Key::from(format!("other-{at:05}"))
}
