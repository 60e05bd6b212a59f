//! Rules L-REGISTER, L-VERSION, L-DOUBT and L-BESIDE under every fault that a network
//! in memory has, from a seed: clients run registers and plain operations on one key
//! while messages are lost, late, doubled and held back, links are cut, nodes crash,
//! clocks are wrong, and callers leave. Each history is checked to be linearizable.
//!
//! `KVQUORUM_SEEDS=100000` runs as many seeds, and `KVQUORUM_SEED=7` that one alone.

mod support;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvquorum_core::{
    Bytes, Conditional, ConditionalWrite, Coordinator, Edit, Key, Map, MapError, Registers,
    Replica, ScanLimit, StoreError, Swap, UpdateError, Version, WallClock, WriteError, WriterId,
};
use kvquorum_mem::{Link, Network, Node};
use kvquorum_testing::linearizability::{Called, History, Step};
use support::NOON;
use tokio::time::{Instant, sleep, timeout};

/// Each put writes a list of its own number alone, each update appends its number. So
/// a value tells what it was made of.
type Value = Vec<u32>;

const CLIENTS: usize = 3;
const KEY: &str = "key";

/// Numbers from a seed: SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.bits() >> 16) % bound
    }

    fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn fork(&mut self) -> Self {
        Self(self.bits())
    }
}

/// A disk: records are bytes, and what is not in them does not survive.
#[derive(Default)]
struct Disk(Mutex<BTreeMap<Key, Bytes>>);

impl ConditionalWrite for Disk {
    type Tag = Bytes;

    async fn load(&self, key: &Key) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        let held = self.0.lock().unwrap().get(key).cloned();
        Ok(held.map(|record| (record.clone(), record)))
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Option<Bytes>,
        record: Option<Bytes>,
    ) -> Result<bool, StoreError> {
        let mut map = self.0.lock().unwrap();
        let is_expected = map.get(key) == expected.as_ref();
        if is_expected {
            match record {
                Some(record) => map.insert(key.clone(), record),
                None => map.remove(key),
            };
        }
        Ok(is_expected)
    }

    async fn scan(
        &self,
        _: (Bound<&Key>, Bound<&Key>),
        _: ScanLimit,
    ) -> Result<Vec<(Key, Bytes)>, StoreError> {
        Ok(Vec::new())
    }
}

type Store = Conditional<Disk>;

/// A wall clock in virtual time that is wrong by so many milliseconds.
fn clock(start: Instant, skew: i64) -> impl WallClock {
    move || {
        let elapsed = start.elapsed().as_millis() as u64;
        (NOON + elapsed).saturating_add_signed(skew)
    }
}

type Outcomes = [u64; 3];

/// What all clients share.
struct World {
    history: History<&'static str, Value>,
    /// The greatest version that was returned so far.
    returned: Mutex<Option<Version>>,
    /// Numbers for values.
    drawn: AtomicU64,
    succeeded: AtomicU64,
    /// How many operations failed, those in doubt among them.
    failed: AtomicU64,
    in_doubt: AtomicU64,
    is_over: AtomicBool,
}

impl World {
    fn number(&self) -> u32 {
        self.drawn.fetch_add(1, Ordering::Relaxed) as u32
    }

    fn has_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn is_in_doubt(&self) {
        self.in_doubt.fetch_add(1, Ordering::Relaxed);
    }

    /// How many operations succeeded, failed, and are in doubt.
    fn outcomes(&self) -> Outcomes {
        [&self.succeeded, &self.failed, &self.in_doubt].map(|count| count.load(Ordering::Relaxed))
    }

    fn floor(&self) -> Option<Version> {
        *self.returned.lock().unwrap()
    }

    /// L-VERSION: what is returned is past what was returned before the call; of a
    /// read it may be the same.
    fn came(&self, floor: Option<Version>, version: Option<Version>, is_new: bool) {
        let rises = if is_new {
            version > floor
        } else {
            version >= floor
        };
        assert!(rises, "{version:?} after {floor:?}");
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        let mut returned = self.returned.lock().unwrap();
        *returned = (*returned).max(version);
    }
}

/// What a client may do, each as likely as it often is in the list.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Get,
    Put,
    Delete,
    Update,
    CompareAndSet,
    Create,
    Keep,
    PlainPut,
    PlainGet,
}

const ACTIONS: [Action; 9] = [
    Action::Get,
    Action::Put,
    Action::Delete,
    Action::Update,
    Action::CompareAndSet,
    Action::Create,
    Action::Keep,
    Action::PlainPut,
    Action::PlainGet,
];

struct Client {
    world: Arc<World>,
    registers: Registers<str, Value, 3, 2, 2, Link<Store>>,
}

impl Client {
    fn map(&self) -> &Map<str, Value, 3, 2, 2, Link<Store>> {
        self.registers.map()
    }

    async fn act(&self, action: Action) {
        match action {
            Action::Get => self.get().await,
            Action::Put => self.put().await,
            Action::Delete => self.delete().await,
            Action::Update => self.append().await,
            Action::CompareAndSet => self.compare_and_set().await,
            Action::Create => self.swap(None).await,
            Action::Keep => self.keep().await,
            Action::PlainPut => self.plain_put().await,
            Action::PlainGet => self.plain_get().await,
        }
    }

    async fn get(&self) {
        let World { history, .. } = &*self.world;
        let floor = self.world.floor();
        let call = history.call(KEY, Step::Read(None));
        if let Ok((found, version)) = self.registers.get_with_version(KEY).await {
            history.returned(call, Step::Read(found));
            self.world.came(floor, version, false);
        } else {
            self.world.has_failed();
        }
    }

    async fn put(&self) {
        let value = vec![self.world.number()];
        let step = Step::Write(Some(value.clone()));
        let (floor, call) = (
            self.world.floor(),
            self.world.history.call(KEY, step.clone()),
        );
        match self.registers.put(KEY, &value).await {
            Ok(version) => {
                self.world.history.returned(call, step);
                self.world.came(floor, Some(version), true);
            }
            Err(error) => self.failed(call, &error),
        }
    }

    async fn delete(&self) {
        let step = Step::Write(None);
        let (floor, call) = (
            self.world.floor(),
            self.world.history.call(KEY, step.clone()),
        );
        match self.registers.delete(KEY).await {
            Ok(version) => {
                self.world.history.returned(call, step);
                self.world.came(floor, Some(version), true);
            }
            Err(error) => self.failed(call, &error),
        }
    }

    async fn append(&self) {
        let number = self.world.number();
        let append = move |held: Option<&Value>| {
            let mut held = held.cloned().unwrap_or_default();
            held.push(number);
            held
        };
        let step = Step::Update(Arc::new(move |held: Option<&Value>| Some(append(held))));
        let (floor, call) = (self.world.floor(), self.world.history.call(KEY, step));
        let updated = self.registers.update(KEY, |held| Edit::Put(append(held)));
        match updated.await {
            Ok(updated) => {
                let (before, after) = (updated.before().cloned(), updated.after().cloned());
                self.world.history.returned(call, Step::Swap(before, after));
                self.world.came(floor, updated.version(), true);
            }
            Err(error) => self.failed(call, &error),
        }
    }

    /// An update that changes nothing is a read.
    async fn keep(&self) {
        let (floor, call) = (
            self.world.floor(),
            self.world.history.call(KEY, Step::Read(None)),
        );
        if let Ok(updated) = self.registers.update(KEY, |_| Edit::Keep).await {
            let step = Step::Read(updated.before().cloned());
            self.world.history.returned(call, step);
            self.world.came(floor, updated.version(), false);
        } else {
            self.world.has_failed();
        }
    }

    fn failed(&self, call: Called, error: &MapError) {
        self.world.has_failed();
        if matches!(error, MapError::Update(UpdateError::MaybeApplied(_))) {
            self.world.is_in_doubt();
        } else {
            self.world.history.never(call);
        }
    }

    /// Of what a plain get finds.
    async fn compare_and_set(&self) {
        let found = self.map().get(KEY).await;
        self.swap(found.unwrap_or(None)).await;
    }

    async fn swap(&self, expected: Option<Value>) {
        let new = vec![self.world.number()];
        let step = Step::Swap(expected.clone(), Some(new.clone()));
        let (floor, call) = (
            self.world.floor(),
            self.world.history.call(KEY, step.clone()),
        );
        let swap = self.registers.compare_and_set(KEY, expected.as_ref(), &new);
        match swap.await {
            Ok(Swap::Swapped { version }) => {
                self.world.history.returned(call, step);
                self.world.came(floor, Some(version), true);
            }
            Ok(Swap::Differs { current, version }) => {
                assert_ne!(current, expected);
                self.world.history.returned(call, Step::Read(current));
                self.world.came(floor, version, false);
            }
            Err(error) => self.failed(call, &error),
        }
    }

    /// L-BESIDE: the attempt that was acknowledged is a write between call and
    /// return, all others may be seen at any time.
    async fn plain_put(&self) {
        let value = vec![self.world.number()];
        let history = &self.world.history;
        let step = || Step::Write(Some(value.clone()));
        let call = history.call(KEY, step());
        // Whoever leaves may leave one of several attempts behind.
        history.at_any_time(KEY, step());
        history.at_any_time(KEY, step());
        let put = self.map().put(KEY, &value).await;
        match put {
            Ok(receipt) => {
                history.returned(call, step());
                assert!(receipt.attempts() <= 3);
                self.world.succeeded.fetch_add(1, Ordering::Relaxed);
                let mut returned = self.world.returned.lock().unwrap();
                *returned = (*returned).max(Some(receipt.version()));
            }
            Err(MapError::Write(WriteError::NotApplied(_))) => {
                self.world.has_failed();
                history.never(call);
            }
            // It may be seen as if it came before its call.
            Err(_) => {
                self.world.has_failed();
                self.world.is_in_doubt();
                history.at_any_time(KEY, step());
            }
        }
    }

    /// R + W > N: it finds no less than what was acknowledged before.
    async fn plain_get(&self) {
        let floor = self.world.floor();
        if let Ok((_, receipt)) = self.map().get_with_receipt(KEY).await {
            let version = receipt.entry().map(|entry| entry.version);
            assert!(version >= floor, "{version:?} after {floor:?}");
            self.world.succeeded.fetch_add(1, Ordering::Relaxed);
        } else {
            self.world.has_failed();
        }
    }
}

/// What a seed is like: how bad each fault is, and what clients like to do.
struct Weather {
    random: Random,
    loss: f64,
    again: f64,
    latency: u64,
    skew: u64,
    pause: u64,
    actions: Vec<Action>,
}

impl Weather {
    fn of(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut actions = Vec::new();
        for action in ACTIONS {
            let times = random.pick(&[0, 0, 1, 2, 4]);
            actions.extend(vec![action; times]);
        }
        actions.extend([Action::Get, Action::Update]);
        Self {
            loss: random.pick(&[0.0, 0.03, 0.1, 0.25]),
            again: random.pick(&[0.0, 0.1, 0.4]),
            latency: random.pick(&[2, 6, 12]),
            skew: random.pick(&[1, 6, 20, 60]),
            pause: random.pick(&[3, 12, 40]),
            actions,
            random,
        }
    }

    fn set(&mut self, link: &Link<Store>) {
        let random = &mut self.random;
        let latency = Duration::from_millis(random.below(self.latency));
        link.set_latency(Duration::ZERO..=latency);
        link.lose_requests(self.loss);
        link.lose_responses(self.loss);
        let after = Duration::from_millis(1)..=Duration::from_millis(10 * self.latency);
        link.duplicate(self.again, after);
    }
}

fn client(
    world: &Arc<World>,
    links: &[Link<Store>],
    number: usize,
    wall: impl WallClock,
) -> Client {
    let links: [Link<Store>; 3] = std::array::from_fn(|node| links[node].clone());
    let coordinator = Coordinator::<3, 2, 2, _>::builder(links)
        .writer(WriterId::new(number as u64 + 1))
        .wall_clock(wall)
        .time_limit(Duration::from_millis(30))
        .build();
    let registers = coordinator.registers("r");
    Client {
        world: Arc::clone(world),
        registers: registers
            .with_max_attempts(6)
            .with_time_limit(Duration::from_millis(150)),
    }
}

async fn work(client: Arc<Client>, mut random: Random, actions: Vec<Action>, pause: u64) {
    for _ in 0..5 {
        sleep(random.millis(pause)).await;
        let action = random.pick(&actions);
        if random.below(12) == 0 {
            // The caller leaves.
            let _ = timeout(random.millis(12), client.act(action)).await;
        } else {
            client.act(action).await;
        }
    }
}

/// Cuts, hangs and crashes, and their ends.
async fn rage(mut random: Random, nodes: &[Node<Store>], links: &[Link<Store>], world: &World) {
    let calm = random.pick(&[8, 20, 60]);
    while !world.is_over.load(Ordering::Relaxed) {
        sleep(random.millis(calm) + Duration::from_millis(1)).await;
        let link = &links[random.below(links.len() as u64) as usize];
        let node = &nodes[random.below(nodes.len() as u64) as usize];
        match random.below(8) {
            0 => link.cut(),
            1 => link.cut_responses(),
            2 => link.hang(),
            3 => node.crash(),
            4 | 5 => nodes.iter().for_each(Node::restart),
            _ => links.iter().for_each(Link::reconnect),
        }
    }
}

/// Returns what came of the operations in the storm.
async fn run(seed: u64) -> Outcomes {
    let mut weather = Weather::of(seed);
    let start = Instant::now();
    let network = Network::new(seed);
    let skews = |random: &mut Random, skew: u64| random.below(2 * skew) as i64 - skew as i64;
    let nodes: Vec<Node<Store>> = (0..3)
        .map(|node| {
            let skew = skews(&mut weather.random, weather.skew);
            let replica = Replica::new(Conditional::new(Disk::default())).of_new_cluster();
            let id = std::num::NonZeroU64::new(node + 1).unwrap();
            network.host(
                replica
                    .with_id(kvquorum_core::ReplicaId::new(id))
                    .with_wall_clock(clock(start, skew)),
            )
        })
        .collect();
    for node in &nodes {
        // Has it keep who it is before it can crash: else it would come back as one that
        // lost its data.
        node.replica().ready().await.unwrap();
    }
    let world = Arc::new(World {
        history: History::new(),
        returned: Mutex::default(),
        drawn: AtomicU64::new(1),
        succeeded: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        in_doubt: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
    });
    let mut all_links = Vec::new();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let links: Vec<_> = nodes.iter().map(Node::link).collect();
        let skew = skews(&mut weather.random, weather.skew);
        clients.push(Arc::new(client(&world, &links, number, clock(start, skew))));
        all_links.extend(links);
    }
    // Updates of clients that share a coordinator take turns.
    if weather.random.below(2) == 0 {
        clients[CLIENTS - 1] = Arc::clone(&clients[0]);
    }
    all_links.iter().for_each(|link| weather.set(link));
    let tasks: Vec<_> = clients
        .iter()
        .map(|client| {
            let random = weather.random.fork();
            tokio::spawn(work(
                Arc::clone(client),
                random,
                weather.actions.clone(),
                weather.pause,
            ))
        })
        .collect();
    let raging = {
        let (random, nodes) = (weather.random.fork(), nodes.clone());
        let (links, world) = (all_links.clone(), Arc::clone(&world));
        tokio::spawn(async move { rage(random, &nodes, &links, &world).await })
    };
    for task in tasks {
        task.await.unwrap();
    }
    world.is_over.store(true, Ordering::Relaxed);
    raging.await.unwrap();
    let outcomes = world.outcomes();
    calm(&clients, &nodes, &all_links, seed).await;
    if let Err(error) = world.history.check() {
        panic!("seed {seed}: {error}");
    }
    outcomes
}

/// All is well: everything works, and all clients find the same.
async fn calm(clients: &[Arc<Client>], nodes: &[Node<Store>], links: &[Link<Store>], seed: u64) {
    links.iter().for_each(Link::heal);
    nodes.iter().for_each(Node::restart);
    for client in clients {
        client.map().coordinator().drain().await;
    }
    sleep(Duration::from_secs(1)).await;
    for client in clients {
        let before = client.world.failed.load(Ordering::Relaxed);
        client.act(Action::Get).await;
        client.act(Action::Update).await;
        client.act(Action::PlainPut).await;
        client.act(Action::Update).await;
        client.act(Action::Get).await;
        let after = client.world.failed.load(Ordering::Relaxed);
        assert_eq!(
            after, before,
            "seed {seed}: it is calm, and an operation failed"
        );
    }
}

fn run_seed(seed: u64) -> Outcomes {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(run(seed))
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[test]
fn l_register_histories_are_linearizable_under_every_fault() {
    if let Some(seed) = number("KVQUORUM_SEED") {
        run_seed(seed);
        return;
    }
    let asked_for = number("KVQUORUM_SEEDS");
    let seeds = asked_for.unwrap_or(2_000);
    let next = AtomicU64::new(0);
    let all = Mutex::new([0; 3]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    // A seed that panics elsewhere is named by this.
                    let ran = std::panic::catch_unwind(|| run_seed(seed));
                    let outcomes = ran.unwrap_or_else(|_| panic!("KVQUORUM_SEED={seed} fails"));
                    let mut all = all.lock().unwrap();
                    *all = std::array::from_fn(|which| all[which] + outcomes[which]);
                }
            });
        }
    });
    let [succeeded, failed, in_doubt] = all.into_inner().unwrap();
    println!("{succeeded} operations succeeded, {failed} failed, {in_doubt} of them in doubt");
    if asked_for.is_none() {
        // Storms in which all goes well, or nothing does, prove little.
        let ended = succeeded + failed;
        assert!(succeeded > ended / 4);
        assert!(failed > ended / 4);
        assert!(in_doubt > ended / 20);
    }
}
