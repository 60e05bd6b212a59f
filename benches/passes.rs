//! What a pass, a scan and a rejoin cost over three replicas of a million keys, over HTTP,
//! beside a copy by hand: see README.md.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, io};

use futures_util::StreamExt;
use futures_util::stream::iter;
use kvquorum_benches::{cpu, runtime};
use kvquorum_core::{
    Change, Coordinator, Entry, Key, Limits, PassReport, PassSettings, Replica, Request, Response,
    Store, Timestamp, Transport, Version, WriterId,
};
use kvquorum_http::{HttpTransport, Server};
use kvquorum_mem::MemStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const KEYS: u64 = 1_000_000;
const VALUE_LEN: usize = 100;
const DIFFERENCES: [u64; 5] = [0, 1, 10, 1000, KEYS];
/// As many calls as a pass has under way.
const AT_ONCE: usize = 64;
/// How long operations beside a pass are measured, each time.
const BESIDE: Duration = Duration::from_secs(4);
const ROUNDS: usize = 5;
const BESIDE_ALONE: &str = "beside";

type Map = Coordinator<3, 2, 2, HttpTransport>;

fn main() {
    let only_beside = env::args().any(|argument| argument == BESIDE_ALONE);
    runtime::of_threads(2).block_on(async {
        let cluster = Cluster::new().await;
        if !only_beside {
            differences(&cluster).await;
            cut(&cluster, 100).await;
            scan(&cluster).await;
        }
        beside(&cluster).await;
        if !only_beside {
            rejoin(cluster).await;
        }
    });
}

/// How fast a scan reads all keys.
async fn scan(cluster: &Cluster) {
    let scan = async {
        let mut scan = cluster.map.scan(..);
        let mut entries = 0_u64;
        while let Some(page) = scan.next_page().await {
            entries += page.unwrap().len() as u64;
        }
        entries
    };
    let (cost, entries) = cluster.measured(scan).await;
    assert_eq!(entries, KEYS);
    let a_second = entries as f64 / cost.seconds;
    println!(
        "scan: {a_second:.0} entries a second, {:.3} s of processor, {} bytes",
        cost.processor, cost.bytes
    );
}

/// How long the third replica takes to rejoin that has lost all of its keys.
async fn rejoin(cluster: Cluster) {
    cluster.change(KEYS, 1 << 40).await;
    let (by_hand, _) = cluster.measured(cluster.copy(KEYS)).await;
    let lost = Server::bind((Ipv4Addr::LOCALHOST, 0), Replica::new(MemStore::new()))
        .await
        .unwrap();
    let [first, second, _] = cluster.map.transports();
    let address = counted(lost.local_addr(), Arc::clone(&cluster.bytes))
        .await
        .unwrap();
    let links: [Arc<dyn Transport>; 3] = [
        Arc::new(first.clone()),
        Arc::new(second.clone()),
        Arc::new(HttpTransport::new(address).unwrap()),
    ];
    let map = Coordinator::<3, 2, 2, _>::new(links);
    let rejoin = async { map.rejoin(2).run().await.unwrap().copied };
    let (rejoin, copied) = cluster.measured(rejoin).await;
    assert_eq!(copied, KEYS);
    println!(
        "rejoin of {KEYS} keys: {:.1} s, {:.1} s of processor, {} bytes",
        rejoin.seconds, rejoin.processor, rejoin.bytes
    );
    println!(
        "         copy by hand: {:.1} s, {:.1} s of processor, {} bytes",
        by_hand.seconds, by_hand.processor, by_hand.bytes
    );
}

/// What a pass costs by how many keys differ.
async fn differences(cluster: &Cluster) {
    for (keys, timestamp) in DIFFERENCES.into_iter().zip((2..).step_by(2)) {
        cluster.change(keys, timestamp).await;
        let by_hand = cluster.measured(cluster.copy(keys)).await.0;
        cluster.change(keys, timestamp + 1).await;
        let pass = cluster.map.pass(.., unbounded()).run();
        let (pass, report) = cluster.measured(pass).await;
        assert!(report.is_complete() && report.progress.differing == keys);
        println!("{keys:>7} differ   pass: {pass}");
        println!("               by hand: {by_hand}");
    }
    let pass = cluster.map.pass(.., PassSettings::default()).run();
    let (pass, _) = cluster.measured(pass).await;
    println!("      0 differ, default settings: {pass}");
}

/// No bound on how fast it goes.
fn unbounded() -> PassSettings {
    PassSettings::default()
        .max_keys_per_second(u64::MAX)
        .max_bytes_per_second(u64::MAX)
}

/// What a pass sends again that was cut in the middle.
async fn cut(cluster: &Cluster, timestamp: u64) {
    cluster.change(1000, timestamp).await;
    let (whole, _) = cluster
        .measured(cluster.map.pass(.., unbounded()).run())
        .await;
    cluster.change(1000, timestamp + 1).await;
    let (parts, repaired) = cluster
        .measured(async {
            let mut pass = cluster.map.pass(.., unbounded());
            while pass.progress().keys < KEYS / 2 {
                assert!(pass.step().await);
            }
            let cursor = pass.cursor().unwrap();
            let before = pass.report();
            let after = cluster.map.resume_pass(cursor, unbounded()).run().await;
            assert!(after.is_complete());
            repaired(&before) + repaired(&after)
        })
        .await;
    assert_eq!(repaired, 2000);
    let again = parts.bytes as f64 / whole.bytes as f64 - 1.0;
    println!(
        "cut in the middle, 1000 differ: {:.2} % sent again",
        100.0 * again
    );
}

fn repaired(report: &PassReport) -> u64 {
    report.progress.repaired.iter().sum()
}

/// How long puts and gets take while a pass goes on, and while none does, in turns.
async fn beside(cluster: &Cluster) {
    let default = PassSettings::default().rests;
    for rests in [0, default / 10, default] {
        let settings = PassSettings::default().rests(rests);
        let mut ratios = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let alone = operations(&cluster.map).await;
            let map = cluster.map.clone();
            let passes = tokio::spawn(async move {
                loop {
                    map.pass(.., settings).run().await;
                }
            });
            let beside = operations(&cluster.map).await;
            passes.abort();
            let _ = passes.await;
            for (ratios, (alone, beside)) in ratios.iter_mut().zip(alone.into_iter().zip(beside)) {
                ratios.push(beside.as_secs_f64() / alone.as_secs_f64());
            }
        }
        for (what, mut ratios) in ["put", "get"].into_iter().zip(ratios) {
            ratios.sort_by(f64::total_cmp);
            let median = ratios[ROUNDS / 2];
            println!(
                "p99 of a {what} beside a pass that rests {rests} times as long / with none: \
                 {median:.2} {ratios:.2?}"
            );
        }
    }
}

/// The 99th percentile of puts and of gets, a thousand of both a second.
async fn operations(map: &Map) -> [Duration; 2] {
    let mut took = [Vec::new(), Vec::new()];
    let began = Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(1));
    for at in 0.. {
        every.tick().await;
        if began.elapsed() > BESIDE {
            break;
        }
        let (key, at_once) = (key(at * 7919 % KEYS), Instant::now());
        if at % 2 == 0 {
            map.put(key, vec![b'w'; VALUE_LEN]).await.unwrap();
        } else {
            map.get(key).await.unwrap();
        }
        took[at as usize % 2].push(at_once.elapsed());
    }
    took.map(|mut took| {
        took.sort();
        took[took.len() * 99 / 100]
    })
}

fn key(at: u64) -> Key {
    Key::from(format!("key-{at:09}"))
}

fn entry(timestamp: u64) -> Entry {
    let version = Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(u64::MAX),
    };
    Entry::new(version, vec![b'v'; VALUE_LEN])
}

/// Three replicas behind HTTP, and what travels.
struct Cluster {
    stores: [Arc<MemStore>; 3],
    map: Map,
    bytes: Arc<AtomicU64>,
    _servers: [Server; 3],
}

/// What something took. The processor time is that of the client and all three
/// replicas.
struct Cost {
    requests: u64,
    bytes: u64,
    seconds: f64,
    processor: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            requests,
            bytes,
            seconds,
            processor,
        } = self;
        write!(
            f,
            "{requests:>8} requests {bytes:>11} bytes {seconds:>7.3} s {processor:>7.3} s of processor"
        )
    }
}

trait Requests {
    fn requests(&self) -> u64;
}

impl Requests for PassReport {
    fn requests(&self) -> u64 {
        self.progress.requests
    }
}

impl Requests for u64 {
    fn requests(&self) -> u64 {
        *self
    }
}

impl Cluster {
    async fn new() -> Self {
        let stores = [(); 3].map(|()| Arc::new(MemStore::new()));
        for store in &stores {
            for at in 0..KEYS {
                let change = Change::write(entry(1));
                store.apply(&key(at), change).await.unwrap();
            }
        }
        let bytes = Arc::new(AtomicU64::new(0));
        let mut servers = Vec::new();
        let mut links = Vec::new();
        for store in &stores {
            let replica = Replica::new(Arc::clone(store))
                .of_new_cluster()
                .with_limits(Limits::default());
            let server = Server::bind((Ipv4Addr::LOCALHOST, 0), replica)
                .await
                .unwrap();
            let counted = counted(server.local_addr(), Arc::clone(&bytes))
                .await
                .unwrap();
            links.push(HttpTransport::new(counted).unwrap());
            servers.push(server);
        }
        let map = Coordinator::new(links.try_into().unwrap_or_else(|_| unreachable!()));
        // Introductions are no part of what is measured.
        map.get("").await.unwrap_err();
        Self {
            stores,
            map,
            bytes,
            _servers: servers.try_into().unwrap_or_else(|_| unreachable!()),
        }
    }

    /// So many keys, evenly spread, have another value on the first replica.
    async fn change(&self, keys: u64, timestamp: u64) {
        for at in differing(keys) {
            let change = Change::write(entry(timestamp));
            self.stores[0].apply(&at, change).await.unwrap();
        }
    }

    /// What a pass would do that knew which keys differ: reads those of the first
    /// replica, and writes them to the others. Returns how many requests it made.
    async fn copy(&self, keys: u64) -> u64 {
        let [first, second, third] = self.map.transports();
        let copied = iter(differing(keys)).map(|key| async move {
            let Ok(Response::Entry(held)) = first.call(&Request::read(&key)).await else {
                panic!("no answer");
            };
            let write = Request::write(&key, held.entry.expect("it is there"));
            let (one, other) = tokio::join!(second.call(&write), third.call(&write));
            assert!(matches!(
                (one, other),
                (Ok(Response::Ack(_)), Ok(Response::Ack(_)))
            ));
        });
        let mut copied = copied.buffer_unordered(AT_ONCE);
        while copied.next().await.is_some() {}
        3 * keys
    }

    async fn measured<A: Requests>(&self, work: impl Future<Output = A>) -> (Cost, A) {
        let bytes = self.bytes.load(Ordering::SeqCst);
        let (began, processor) = (Instant::now(), cpu::own_seconds());
        let done = work.await;
        let cost = Cost {
            requests: done.requests(),
            bytes: self.bytes.load(Ordering::SeqCst) - bytes,
            seconds: began.elapsed().as_secs_f64(),
            processor: cpu::own_seconds() - processor,
        };
        (cost, done)
    }
}

fn differing(keys: u64) -> impl Iterator<Item = Key> {
    (0..keys).map(move |at| key(at * (KEYS / keys.max(1)) + KEYS / keys.max(1) / 2))
}

/// Where a server can be reached so that all bytes that travel are counted, heads
/// included.
async fn counted(server: SocketAddr, bytes: Arc<AtomicU64>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(server).await else {
                break;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(carry(from_client, to_server, Arc::clone(&bytes)));
            tokio::spawn(carry(from_server, to_client, Arc::clone(&bytes)));
        }
    });
    Ok(address)
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, bytes: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        bytes.fetch_add(read as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
}
