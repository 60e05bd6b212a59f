//! Rules P-CONVERGE, P-HONEST, P-RESUME and H-KEY under faults of a network in memory,
//! from a seed: replicas that hold unlike entries are compared by several passes at the
//! same time, which are cut and gone on with, while messages are lost, late and doubled,
//! links are cut, nodes crash, and clients write.
//!
//! `KVQUORUM_SEEDS=100000` runs as many seeds, and `KVQUORUM_SEED=7` that one alone.

mod support;

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use kvquorum_core::{
    Change, Coordinator, Entry, HintSettings, Key, Limits, PassReport, PassSettings, Replica,
    ScanLimit, Store, WriterId,
};
use kvquorum_mem::{Link, MemStore, Network, Node};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use support::{NOON, Wall, entry};
use tokio::time::{sleep, timeout};

const DEFAULT_SEEDS: u64 = 20;
const KEYS: u64 = 400;

type Nodes = [Node; 3];
type Map = Coordinator<3, 2, 2, Link>;
type Held = BTreeMap<Key, Entry>;

struct Random(Xoshiro256PlusPlus);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        (self.0.next_u64() >> 16) % bound
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }

    fn fork(&mut self) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(self.0.next_u64()))
    }
}

fn key(at: u64) -> Key {
    Key::from(format!("{at:04}"))
}

async fn held(node: &Node) -> Held {
    let all = node.store().scan(full(), ScanLimit::NONE).await.unwrap();
    let entries = all.into_iter().filter(|(key, _)| !key.is_empty());
    entries
        .filter_map(|(key, record)| Some((key, record.into_entry()?)))
        .collect()
}

fn full<'a>() -> (std::ops::Bound<&'a Key>, std::ops::Bound<&'a Key>) {
    (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)
}

async fn all_held(nodes: &Nodes) -> [Held; 3] {
    [
        held(&nodes[0]).await,
        held(&nodes[1]).await,
        held(&nodes[2]).await,
    ]
}

async fn fill(nodes: &Nodes, random: &mut Random) {
    let unlike = [20, 300, 1000][random.below(3) as usize];
    for at in 0..KEYS {
        for node in nodes {
            let it = match (random.below(1000) < unlike, random.below(3)) {
                (false, _) => entry(5, "common"),
                (true, 0) => continue,
                (true, 1) => entry(4 + random.below(4), "unlike"),
                (true, _) => Entry::tombstone(entry(4 + random.below(4), "").version),
            };
            node.store()
                .apply(&key(at), Change::write(it))
                .await
                .unwrap();
        }
    }
}

/// Links with faults of their own, and small bounds everywhere.
fn map(nodes: &Nodes, random: &mut Random, writer: u64) -> Map {
    let links = nodes.each_ref().map(|node| {
        let link = node.link();
        let most = random.millis(20);
        link.set_latency(Duration::ZERO..=most);
        link.lose_requests(random.below(8) as f64 / 100.0);
        link.lose_responses(random.below(8) as f64 / 100.0);
        link.duplicate(
            random.below(20) as f64 / 100.0,
            Duration::ZERO..=random.millis(100),
        );
        link
    });
    Coordinator::builder(links)
        .wall_clock(Wall::at(NOON))
        .writer(WriterId::new(writer))
        .time_limit(Duration::from_millis(100))
        .page(ScanLimit::keys(1 + random.below(50) as usize))
        .build()
}

fn settings(random: &mut Random) -> PassSettings {
    PassSettings::default()
        .window(1 + random.below(200))
        .rests(random.below(2) as u32)
        .tries(1 + random.below(4) as u32)
}

/// A pass, which may be cut at any moment, in the middle of a step too.
async fn pass(map: Map, mut random: Random) -> PassReport {
    let settings = settings(&mut random);
    let mut pass = map.pass(.., settings);
    loop {
        let limit = random.millis(2000);
        let cut = async { while pass.step().await {} };
        if timeout(limit, cut).await.is_ok() {
            return pass.report();
        }
        let Some(cursor) = pass.cursor() else {
            return pass.report();
        };
        pass = map.resume_pass(cursor, settings);
    }
}

/// Among those that a pass calls done, each holds at least what any of them held when it
/// began; and what they hold never goes back.
fn check(report: &PassReport, before: &[Held; 3], after: &[Held; 3]) {
    for (at, replica) in report.replicas.iter().enumerate() {
        for (key, entry) in &before[at] {
            assert!(after[at].get(key) >= Some(entry), "{key} went back");
        }
        if !replica.is_done {
            continue;
        }
        for (other, it) in report.replicas.iter().enumerate() {
            if it.is_done {
                for (key, entry) in &before[other] {
                    let holds = after[at].get(key);
                    assert!(
                        holds >= Some(entry),
                        "{key}: {} holds {holds:?}, and {} held {entry:?}",
                        replica.name,
                        it.name
                    );
                }
            }
        }
    }
}

async fn storm(seed: u64) -> usize {
    let mut random = Random(Xoshiro256PlusPlus::seed_from_u64(seed));
    let network = Network::new(seed);
    let nodes: Nodes = std::array::from_fn(|at| {
        let limits = Limits::default()
            .max_hashed_keys(20 + random.below(400) as usize)
            .max_windows(2 + random.below(30) as usize)
            .max_scan_keys(5 + random.below(100) as usize);
        let replica = Replica::new(MemStore::new())
            .of_new_cluster()
            .with_limits(limits);
        network.host(
            replica
                .with_wall_clock(Wall::at(NOON))
                .with_name(format!("{at}")),
        )
    });
    fill(&nodes, &mut random).await;
    let before = all_held(&nodes).await;
    let maps = [1, 2].map(|writer| map(&nodes, &mut random, writer));
    let faults = tokio::spawn(fail(nodes.clone(), maps.clone(), random.fork()));
    let writer = maps[0].clone();
    let handoff = writer.handoff(HintSettings::default().max_keys(20));
    let delivering = tokio::spawn(async move { handoff.run().await });
    let mut choose = random.fork();
    let writing = tokio::spawn(async move {
        loop {
            let key = key(choose.below(KEYS));
            // It may fail, and may be seen then.
            let _ = match choose.below(4) {
                0 => writer.delete(key).await,
                _ => writer.put(key, "meanwhile").await,
            };
            sleep(choose.millis(200)).await;
        }
    });
    let running = maps
        .each_ref()
        .map(|map| tokio::spawn(pass(map.clone(), random.fork())));
    let mut complete = 0;
    for report in running {
        let report = timeout(Duration::from_secs(3600), report);
        let report = report.await.expect("a pass hangs").unwrap();
        check(&report, &before, &all_held(&nodes).await);
        complete += usize::from(report.is_complete());
    }
    writing.abort();
    faults.abort();
    let _ = (writing.await, faults.await);
    // When all is calm again hints are delivered, and one pass levels what is left.
    for node in &nodes {
        node.restart();
    }
    for map in &maps {
        map.transports().iter().for_each(Link::heal);
        map.drain().await;
    }
    while maps[0].hints().iter().any(|it| it.waiting > 0) {
        sleep(Duration::from_secs(1)).await;
    }
    delivering.abort();
    let report = maps[1].pass(.., PassSettings::default()).run().await;
    assert!(report.is_complete(), "{report:?}");
    let [one, two, three] = all_held(&nodes).await;
    assert!(
        one == two && two == three,
        "a complete pass leaves replicas unlike"
    );
    complete
}

/// Nodes that crash and return with their data, and links that are cut.
async fn fail(nodes: Nodes, maps: [Map; 2], mut random: Random) {
    loop {
        sleep(random.millis(1500)).await;
        let at = random.below(3) as usize;
        let link = &maps[random.below(2) as usize].transports()[at];
        match random.below(3) {
            0 => {
                nodes[at].crash();
                sleep(random.millis(600)).await;
                nodes[at].restart();
            }
            1 => {
                link.cut();
                sleep(random.millis(600)).await;
                link.reconnect();
            }
            _ => {}
        }
    }
}

fn run(seed: u64) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(storm(seed))
}

#[test]
fn passes_keep_their_promises_in_storms() {
    let number = |name| env::var(name).ok().and_then(|number| number.parse().ok());
    if let Some(seed) = number("KVQUORUM_SEED") {
        run(seed);
        return;
    }
    let seeds = number("KVQUORUM_SEEDS").unwrap_or(DEFAULT_SEEDS);
    let mut complete = 0;
    for seed in 0..seeds {
        let storm = std::panic::catch_unwind(|| run(seed));
        complete += storm.unwrap_or_else(|_| panic!("KVQUORUM_SEED={seed}"));
    }
    // Else nothing was held to the whole promise.
    assert!(
        complete as u64 > seeds / 10,
        "{complete} of {seeds} seeds had a pass that was complete"
    );
    assert!((complete as u64) < seeds * 2, "nothing went wrong");
}
