//! A soak: real processes under load, which are killed, wiped and paused in turn.
//!
//! Never is a second node hurt before the first is ready and reachable again, and so two of
//! three always are. No operation may fail (W-QUORUM, R-QUORUM, J-ERA), nothing that was
//! acknowledged may be lost (J-SILENT, J-COPY), nothing that was deleted may be seen again
//! though deletes are collected (G-COLLECT), a pass brings all nodes the same (P-CONVERGE),
//! and what processes use is bounded.
//!
//! Bugs: deletes are forgotten before all nodes have them; a node that lost its data answers before it has rejoined, or without having
//! copied; an operation fails that meets a new era, or a node that comes back; a file or
//! some bytes stay behind with each request.
//!
//! `KVQUORUM_SOAK_MINUTES=20` makes it long. Only then are processes old enough to tell
//! whether they grow.

// Processes are measured by what Linux tells of them.
#![cfg(target_os = "linux")]

mod clients;
mod cluster;
mod ledger;
#[path = "../support/mod.rs"]
mod support;
mod usage;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvquorum_core::{
    Entry, HintSettings, Key, PassSettings, Request, Response, ScanLimit, Timestamp, Transport,
};
use kvquorum_http::HttpTransport;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use clients::{CLIENTS, CONTENDED, Counters, MAYBE_APPLIED, Map, WORKERS, World};
use cluster::Cluster;
use ledger::{KEYS, Known, check, name};
use support::Random;
use usage::{Usage, median};

/// Of the normal test.
const SHORT: Duration = Duration::from_secs(40);

/// Of a call to one replica. A pause takes longer, or not.
const TIME_LIMIT: Duration = Duration::from_secs(3);
const LONGEST_PAUSE_MILLIS: u64 = 5000;

/// Far more than it takes, on a machine that has much else to do.
const LONG: Duration = Duration::from_secs(60);

/// Of files in a node, at any time: each of its clients and peers may have 16 exchanges
/// under way that it does not answer, and some connections from before.
const MOST_FILES: u64 = 256;
/// In KiB, of a node. It holds less than 2 MiB of entries, and the rest is the program, its
/// buffers and its caches.
const MOST_MEMORY: u64 = 64 * 1024;

/// From which age on a process may not grow any more. It is then warm for as long as idle
/// connections and passes take, many times.
const OLD: Duration = Duration::from_secs(180);

/// In KiB. An old node has answered some hundred requests a second, so that 100 bytes of
/// each would be more.
const MOST_GROWTH: u64 = 4 * 1024;
/// Connections that happen to be open. There are times without a pause, and a node has only
/// few then.
const MOST_MORE_FILES: u64 = 8;
/// The clients of two clusters have 16 to a node that was paused, each, for as long as idle
/// ones are kept, and there is no time without.
const MOST_MORE_FILES_OF_CLIENTS: u64 = 2 * 16 * CLIENTS as u64;

/// How old a process is when it is compared with those that started earlier.
const YOUNG: Duration = Duration::from_secs(5);

/// Of a hundred increments, so many at the most may be overtaken, and not be known to be
/// done; and a few more, as they come together, and a short soak has only some hundred.
const MOST_OVERTAKEN_PERCENT: u64 = 1;
const A_FEW: u64 = 10;

/// What a node itself holds.
type Held = BTreeMap<Key, Entry>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// With SIGKILL, and started again.
    Kill,
    /// The same, and what it had on disk is gone: it rejoins.
    Wipe,
    /// With SIGSTOP, for some seconds.
    Pause,
}

/// Faults come in this order. After one that makes a node miss writes, another one loses
/// those that it acked: at once, now and then, and so before anybody brings them.
const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Wipe, Fault::Pause, Fault::Wipe];

#[test]
fn nothing_fails_and_nothing_is_lost_on_disk() {
    let data = tempfile::tempdir().unwrap();
    Soak::start(Some(data.path())).run();
}

/// The same, where a node loses its data whenever it is killed.
#[test]
fn nothing_fails_and_nothing_is_lost_in_memory() {
    Soak::start(None).run();
}

struct Soak {
    cluster: Cluster,
    runtime: Runtime,
    world: Arc<World>,
    clients: Vec<(Map, Counters)>,
    random: Random,
    /// How often each fault was done.
    rounds: [u64; 3],
    rejoins: Vec<Duration>,
}

impl Soak {
    fn start(data: Option<&Path>) -> Self {
        let cluster = Cluster::start(data);
        for node in 0..3 {
            cluster.until_ready(node);
        }
        // Half of the clients repair nothing, so that what a node missed stays away for a
        // while.
        let clients = (0..CLIENTS).map(|client| {
            let map = Map::builder(cluster.links()).time_limit(TIME_LIMIT);
            let map = match client {
                0 => map.repair_in_background(),
                1 => map.repair_blocking(),
                _ => map.repair_off(),
            };
            let map = map.build();
            let counters = map.registers("counters");
            (map, counters)
        });
        Self {
            clients: clients.collect(),
            cluster,
            runtime: Runtime::new().unwrap(),
            world: Arc::new(World::new()),
            random: Random(17),
            rounds: [0; 3],
            rejoins: Vec::new(),
        }
    }

    fn run(mut self) {
        let lasts = env::var("KVQUORUM_SOAK_MINUTES");
        let lasts = lasts.map_or(SHORT, |minutes| {
            Duration::from_secs_f64(60.0 * minutes.parse::<f64>().unwrap())
        });
        let usage = Usage::new();
        let watching = usage.clone().watch(Arc::clone(&self.cluster.processes));
        let mut aside = JoinSet::new();
        aside.spawn_on(watching, self.runtime.handle());
        let mut working = JoinSet::new();
        for worker in 0..WORKERS {
            let (map, counters) = self.clients[worker % CLIENTS].clone();
            let work = Arc::clone(&self.world).work(map, counters, worker);
            working.spawn_on(work, self.runtime.handle());
        }
        // Hints are one way in which nodes get what they missed, and passes another: most
        // clients leave it to these.
        let handoff = self.clients[0].0.handoff(HintSettings::default());
        aside.spawn_on(async move { handoff.run().await }, self.runtime.handle());

        let began = Instant::now();
        self.hurt(began, lasts);
        self.world.end();
        // A client that panicked does so here as well.
        self.runtime.block_on(working.join_all());
        self.runtime.block_on(aside.shutdown());
        self.world.now("at the end".to_owned());
        self.runtime.block_on(self.check_all());
        self.report(&usage, began.elapsed());
    }

    /// Hurts one node after the other, for so long. The time has one part or two,
    /// and in each of them one node is only ever paused, so that it grows old.
    fn hurt(&mut self, began: Instant, lasts: Duration) {
        let parts = (lasts.as_secs() / 300).clamp(1, 2);
        let (mut round, mut node) = (0, 0);
        while began.elapsed() < lasts && !self.world.has_failed_much() {
            let passed = began.elapsed().as_secs_f64() / lasts.as_secs_f64();
            let spared = (passed * parts as f64) as usize;
            let fault = FAULTS[round % FAULTS.len()];
            self.rounds[fault as usize] += 1;
            // Another one than before.
            let others = (0..3).filter(|other| *other != node);
            let others = others.filter(|it| fault == Fault::Pause || *it != spared);
            let others: Vec<usize> = others.collect();
            node = others[self.random.below(others.len() as u64) as usize];
            self.world.now(format!("node {node}: {fault:?}"));
            self.hurt_one(node, fault);
            self.world.now(format!("after node {node}: {fault:?}"));
            self.rest(1000);
            round += 1;
        }
    }

    fn hurt_one(&mut self, node: usize, fault: Fault) {
        match fault {
            Fault::Pause => {
                let paused = self.cluster.pause(node);
                let pause = 1000 + self.random.below(LONGEST_PAUSE_MILLIS - 1000);
                sleep(Duration::from_millis(pause));
                drop(paused);
                self.cluster.until_ready(node);
            }
            Fault::Kill | Fault::Wipe => {
                let loses = fault == Fault::Wipe || self.cluster.is_in_memory();
                self.cluster.kill(node);
                if loses {
                    self.cluster.wipe(node);
                }
                self.rest(1500);
                let before = self.world.ledger.keys();
                self.cluster.restart(node);
                let began = Instant::now();
                self.cluster.until_ready(node);
                if loses {
                    self.rejoins.push(began.elapsed());
                    let link = &self.cluster.links()[node];
                    let (held, _) = self.runtime.block_on(held_by(link));
                    self.check_held(&before, [&held, &held], "a node that has rejoined, alone");
                }
            }
        }
        self.runtime.block_on(self.until_reachable(node));
    }

    /// Waits until a node is reachable: for all clients, whose transports do not try it
    /// all the time while it does not answer; and for each operation, of which some have
    /// begun before.
    async fn until_reachable(&self, node: usize) {
        let began = Instant::now();
        for (map, _) in &self.clients {
            let link = &map.transports()[node];
            while !matches!(
                timeout(LONG, link.call(&Request::status())).await,
                Ok(Ok(_))
            ) {
                assert!(began.elapsed() < LONG, "node {node} is not reachable");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let ended = timeout(2 * LONG, self.world.until_all_are_new()).await;
        ended.expect("all operations end");
    }

    fn rest(&mut self, millis: u64) {
        sleep(Duration::from_millis(self.random.below(millis)));
    }

    /// Once nobody writes any more: what was acknowledged is on any two nodes, is read and
    /// scanned; and after a pass all three hold the same.
    async fn check_all(&self) {
        let world = &self.world;
        for (map, _) in &self.clients {
            map.drain().await;
        }
        let links = self.cluster.links();
        let known = world.ledger.keys();
        let [one, other, third] = held(&links).await;
        for two in [[&one, &other], [&other, &third], [&one, &third]] {
            self.check_held(&known, two, "on two nodes");
        }
        let map = Map::builder(links.clone()).time_limit(TIME_LIMIT).build();
        for key in 0..KEYS {
            world.get(&map, key).await;
        }
        world.scan(&map, "key ").await;
        let counters = map.registers("counters");
        for counter in 0..world.ledger.counters() {
            world.count(&counters, counter).await;
        }
        let report = map.pass(.., PassSettings::default()).run().await;
        if !report.is_complete() {
            world.fail(&format!("a pass is not complete: {report:?}"));
        }
        let (_, collected) = held_by(&links[0]).await;
        // Or nothing of that was tested.
        if collected == Timestamp::MIN {
            world.fail("nothing was collected");
        }
        let [one, other, third] = held(&links).await;
        if one != other || other != third {
            let sizes = [one.len(), other.len(), third.len()];
            world.fail(&format!(
                "after a pass nodes are not alike: {sizes:?} entries"
            ));
        }
        self.check_held(&known, [&one, &one], "after a pass");
    }

    /// Whether two nodes together hold what was acknowledged before.
    fn check_held(&self, before: &[Known], two: [&Held; 2], place: &str) {
        let mut wrong = Vec::new();
        for (key, before) in before.iter().enumerate() {
            let held = two.map(|held| held.get(&Key::from(name(key))));
            let entry = held.into_iter().max().flatten();
            let value = entry.and_then(|entry| entry.value.as_ref());
            let number = value.map(|value| ledger::number(key, value)).transpose();
            let version = entry.map(|entry| entry.version);
            let after = self.world.ledger.key(key);
            let checked = number.and_then(|number| check(before, &after, version, number));
            wrong.extend(checked.err().map(|wrong| format!("{}: {wrong}", name(key))));
        }
        if let Some(first) = wrong.first() {
            let count = wrong.len();
            self.world
                .fail(&format!("{place}: {count} keys are wrong: {first}"));
        }
    }

    fn report(&self, usage: &Usage, lasted: Duration) {
        let world = &self.world;
        let place = ["on disk", "in memory"][usize::from(self.cluster.is_in_memory())];
        let [kills, wipes, pauses] = self.rounds;
        println!(
            "{place}, {:.0} s: {kills} kills, {wipes} wipes, {pauses} pauses",
            lasted.as_secs_f64()
        );
        print!("{}", world.told());
        let mut sums = [0; 3];
        for counter in 0..world.ledger.counters() {
            let it = world.ledger.counter(counter);
            sums = [
                sums[0] + it.begun,
                sums[1] + it.acked,
                sums[2] + it.maybe_applied,
            ];
        }
        let [begun, acked, maybe] = sums;
        println!("  increments: {begun}, {acked} acknowledged, {maybe} maybe applied");
        let mut rejoins = self.rejoins.clone();
        rejoins.sort_unstable();
        if let (Some(median), Some(longest)) = (rejoins.get(rejoins.len() / 2), rejoins.last()) {
            let count = rejoins.len();
            println!("  {count} rejoins, median {median:.2?}, longest {longest:.2?}");
        }
        self.check_usage(usage);
        let failures = world.failures();
        assert!(
            failures.is_empty(),
            "{}\nwhat nodes said last:\n{}",
            failures.join("\n"),
            self.cluster.log()
        );
        // Or nothing was tested.
        assert!(acked > 100 && self.rounds.iter().all(|rounds| *rounds > 0));
        let overtaken = world.times(MAYBE_APPLIED) + world.times(CONTENDED);
        assert!(
            overtaken <= A_FEW + MOST_OVERTAKEN_PERCENT * begun / 100,
            "{overtaken} of {begun}"
        );
    }

    /// Compares old processes with themselves, and young ones with earlier ones of that age.
    fn check_usage(&self, usage: &Usage) {
        let lives = usage.lives();
        for life in lives.iter() {
            let who = ["node 0", "node 1", "node 2", "clients"][life.place];
            let (lasted, growth) = (life.lasted(), life.growth());
            let (memory, files) = (life.most_memory(), life.most_files());
            let used = format!(
                "{who}, for {} s: {growth}, {memory} KiB and {files} files at most",
                lasted.as_secs()
            );
            let is_node = life.place < 3;
            let [[first, last], [least, least_at_last]] = [growth.memory, growth.files];
            let is_bounded = !is_node || memory <= MOST_MEMORY && files <= MOST_FILES;
            let more_files = match is_node {
                true => MOST_MORE_FILES,
                false => MOST_MORE_FILES_OF_CLIENTS,
            };
            let is_flat =
                lasted < OLD || last <= first + MOST_GROWTH && least_at_last <= least + more_files;
            if !is_bounded || !is_flat {
                self.world.fail(&used);
            }
            if !is_node || lasted >= SHORT / 2 {
                println!("  {used}");
            }
        }
        let young = lives.iter().filter(|life| life.place < 3);
        let young: Vec<u64> = young.filter_map(|life| life.memory_at(YOUNG)).collect();
        let third = young.len().div_ceil(3);
        let [first, last] = [&young[..third], &young[young.len() - third..]];
        let [first, last] = [first, last].map(|young| median(young.to_vec()));
        let told = format!("{first} KiB at the age of {YOUNG:?}, and those at the end {last}");
        println!("  nodes begin with {told}");
        if last > first + MOST_GROWTH {
            self.world.fail(&told);
        }
    }
}

/// What counts at any of them, and what counts at one alone if another has collected more.
async fn held(links: &[HttpTransport; 3]) -> [Held; 3] {
    let [a, b, c] = links.each_ref().map(held_by);
    let (a, b, c) = tokio::join!(a, b, c);
    let all = [a, b, c];
    let collected = all.iter().map(|(_, collected)| *collected).max();
    all.map(|(mut held, _)| {
        let counts = |entry: &Entry| Some(entry.version.timestamp) >= collected;
        held.retain(|_, entry| entry.value.is_some() || counts(entry));
        held
    })
}

/// What counts at a node, and up to when it has collected.
async fn held_by(link: &HttpTransport) -> (Held, Timestamp) {
    let mut held = Held::new();
    let mut collected = Timestamp::MIN;
    let mut request = Request::scan(.., ScanLimit::NONE);
    loop {
        let Response::Page(page) = link.call(&request).await.unwrap() else {
            panic!("no page");
        };
        held.extend(page.entries);
        collected = collected.max(page.collected);
        match page.upto {
            Some(upto) => request = Request::scan(upto.., ScanLimit::NONE),
            None => return (held, collected),
        }
    }
}
