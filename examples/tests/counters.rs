//! L-REGISTER, L-DOUBT and L-FAIR with real processes: clients increment counters
//! while nodes are killed, paused and started again.
//!
//! `KVQUORUM_COUNTERS_SECONDS=300` makes it long.

#![cfg(unix)]

mod support;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvquorum_core::{Coordinator, Edit, MapError, Registers, UpdateError, Version};
use kvquorum_http::HttpTransport;
use kvquorum_testing::linearizability::{Function, History, Step};
use nix::sys::signal::Signal;
use support::{Node, Random, free_base_port};
use tokio::task::JoinSet;

const CLIENTS: usize = 8;
const COUNTERS: usize = 16;

/// Of a call to one replica, so that one that is paused holds up little.
const TIME_LIMIT: Duration = Duration::from_millis(500);

/// An update begins no further attempt past its own limit, and the last one makes two
/// calls. The rest is for a machine that has much else to do.
const LONGEST: Duration = Duration::from_secs(10 + 1 + 20);

type Counters = Registers<str, u64, 3, 2, 2, HttpTransport>;

#[test]
fn counters_are_right_while_nodes_are_killed_paused_and_restarted() {
    let seconds = env::var("KVQUORUM_COUNTERS_SECONDS");
    let seconds = seconds.map_or(4, |seconds| seconds.parse().unwrap());
    let data = tempfile::tempdir().unwrap();
    let mut nodes = Nodes::start(data.path());
    let world = Arc::new(World::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let clients: Vec<Counters> = (0..CLIENTS).map(|_| nodes.counters()).collect();
    let running: JoinSet<()> = clients
        .into_iter()
        .enumerate()
        .map(|(number, counters)| client(Arc::clone(&world), counters, number))
        .fold(JoinSet::new(), |mut running, client| {
            running.spawn_on(client, runtime.handle());
            running
        });

    let faults = nodes.hurt(Instant::now() + Duration::from_secs(seconds));
    world.is_over.store(true, Ordering::SeqCst);
    // A client that panicked does so here as well.
    runtime.block_on(running.join_all());

    let counted = runtime.block_on(async {
        let counters = nodes.counters();
        let mut counted = Vec::new();
        for counter in 0..COUNTERS {
            let call = world.history.call(counter, Step::Read(None));
            let count = counters.get(&name(counter)).await.unwrap();
            world.history.returned(call, Step::Read(count));
            counted.push(count.unwrap_or(0));
        }
        counted
    });
    let mut all = [0; 3];
    for (counter, count) in counted.into_iter().enumerate() {
        let [acked, maybe] = [&world.acked, &world.maybe_applied]
            .map(|counts| counts[counter].load(Ordering::SeqCst));
        assert!(
            (acked..=acked + maybe).contains(&count),
            "counter {counter} is {count}, of {acked} acknowledged and {maybe} in doubt"
        );
        all = [all[0] + count, all[1] + acked, all[2] + maybe];
    }
    let [count, acked, maybe] = all;
    let failed = world.failed.load(Ordering::SeqCst);
    let slowest = Duration::from_micros(world.slowest.load(Ordering::SeqCst));
    println!(
        "{faults} faults in {seconds} s: {acked} increments acknowledged, {maybe} maybe \
         applied, {failed} not applied; the counters' sum is {count}; the slowest operation \
         took {slowest:?}"
    );
    // Or nothing was tested.
    assert!(
        acked > 100 && faults > 1,
        "{acked} increments, {faults} faults"
    );
    assert!(slowest < LONGEST, "an operation took {slowest:?}");
    let began = Instant::now();
    world
        .history
        .check()
        .unwrap_or_else(|error| panic!("{error}"));
    println!(
        "the history is linearizable, checked in {:?}",
        began.elapsed()
    );
}

fn name(counter: usize) -> String {
    format!("counter {counter}")
}

/// What the clients share.
struct World {
    history: History<usize, u64>,
    add_one: Arc<Function<u64>>,
    acked: [AtomicU64; COUNTERS],
    maybe_applied: [AtomicU64; COUNTERS],
    failed: AtomicU64,
    /// In microseconds.
    slowest: AtomicU64,
    is_over: AtomicBool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            history: History::new(),
            add_one: Arc::new(|held: Option<&u64>| Some(held.map_or(1, |held| held + 1))),
            acked: Default::default(),
            maybe_applied: Default::default(),
            failed: AtomicU64::new(0),
            slowest: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }
}

/// Increments one counter after the other, and reads now and then.
async fn client(world: Arc<World>, counters: Counters, number: usize) {
    let mut random = Random(number as u64 + 1);
    let mut greatest: [Option<Version>; COUNTERS] = [None; COUNTERS];
    while !world.is_over.load(Ordering::SeqCst) {
        let counter = random.below(COUNTERS as u64) as usize;
        let began = Instant::now();
        let version = if random.below(8) == 0 {
            read(&world, &counters, counter).await
        } else {
            increment(&world, &counters, counter).await
        };
        let took = u64::try_from(began.elapsed().as_micros()).unwrap();
        world.slowest.fetch_max(took, Ordering::SeqCst);
        // L-VERSION.
        if version.is_some() {
            assert!(
                version >= greatest[counter],
                "{version:?} after {greatest:?}"
            );
            greatest[counter] = version;
        }
    }
}

async fn increment(world: &World, counters: &Counters, counter: usize) -> Option<Version> {
    let call = world
        .history
        .call(counter, Step::Update(Arc::clone(&world.add_one)));
    let add_one = |held: Option<&u64>| Edit::Put(held.map_or(1, |held| held + 1));
    match counters.update(&name(counter), add_one).await {
        Ok(updated) => {
            let (before, after) = (updated.before().copied(), updated.after().copied());
            world.history.returned(call, Step::Swap(before, after));
            world.acked[counter].fetch_add(1, Ordering::SeqCst);
            return updated.version();
        }
        Err(MapError::Update(UpdateError::MaybeApplied(_))) => {
            world.maybe_applied[counter].fetch_add(1, Ordering::SeqCst);
        }
        Err(MapError::Update(UpdateError::NotApplied(_) | UpdateError::Contended(_))) => {
            world.failed.fetch_add(1, Ordering::SeqCst);
            world.history.never(call);
        }
        Err(error) => panic!("{error}"),
    }
    None
}

async fn read(world: &World, counters: &Counters, counter: usize) -> Option<Version> {
    let call = world.history.call(counter, Step::Read(None));
    match counters.get_with_version(&name(counter)).await {
        Ok((count, version)) => {
            world.history.returned(call, Step::Read(count));
            version
        }
        Err(MapError::Read(_)) => {
            world.failed.fetch_add(1, Ordering::SeqCst);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Three nodes on disk. They end with this value.
struct Nodes {
    base_port: u16,
    data: PathBuf,
    running: [Option<Node>; 3],
}

impl Nodes {
    fn start(data: &Path) -> Self {
        for _ in 0..10 {
            let base_port = free_base_port();
            let mut nodes = Self {
                base_port,
                data: data.join(base_port.to_string()),
                running: [None, None, None],
            };
            if (0..3).all(|node| nodes.start_one(node)) {
                return nodes;
            }
        }
        panic!("no three ports stayed free");
    }

    fn port(&self, node: usize) -> u16 {
        self.base_port + u16::try_from(node).unwrap()
    }

    fn start_one(&mut self, node: usize) -> bool {
        let directory = self.data.join(node.to_string());
        self.running[node] = Node::try_start_in(self.port(node), &directory);
        self.running[node].is_some()
    }

    /// A coordinator of its own, with connections of its own.
    fn counters(&self) -> Counters {
        let links = [0, 1, 2]
            .map(|node| HttpTransport::new(format!("127.0.0.1:{}", self.port(node))).unwrap());
        let builder = Coordinator::<3, 2, 2, _>::builder(links);
        builder.time_limit(TIME_LIMIT).build().registers("counters")
    }

    /// Hurts one node after the other until then, and now and then two at a time.
    /// Returns how often. All run afterwards.
    fn hurt(&mut self, until: Instant) -> u64 {
        let mut random = Random(17);
        let mut faults = 0;
        while Instant::now() < until {
            pause(&mut random, 300);
            let first = random.below(3) as usize;
            let second = (first + 1) % 3;
            let hurt = if random.below(4) == 0 {
                vec![first, second]
            } else {
                vec![first]
            };
            let is_killed = random.below(2) == 0;
            let mut paused = Vec::new();
            for node in &hurt {
                let process = &self.running[*node].as_ref().unwrap().process;
                if is_killed {
                    process.send(Signal::SIGKILL);
                } else {
                    paused.push(process.pause());
                }
                faults += 1;
            }
            pause(&mut random, 900);
            drop(paused);
            for node in hurt.into_iter().filter(|_| is_killed) {
                // The old one is gone before the new one opens its directory.
                self.running[node].take().unwrap().process.end();
                support::wait_until("the node listens again", || self.start_one(node));
            }
        }
        faults
    }
}

fn pause(random: &mut Random, millis: u64) {
    std::thread::sleep(Duration::from_millis(random.below(millis)));
}
