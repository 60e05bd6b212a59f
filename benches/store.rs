//! A million entries in `MemStore`, beside a `BTreeMap` of the same bytes behind a
//! lock: see README.md.

use std::collections::BTreeMap;
use std::env;
use std::hint::black_box;
use std::ops::Bound;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Spread, Turn, in_turns};
use kvquorum_benches::work::{Operation, nanos};
use kvquorum_benches::{cpu, runtime};
use kvquorum_core::{
    Action, Bytes, Change, Entry, Key, Record, Response, ScanLimit, Store, StoreError, Timestamp,
    Version, WriterId,
};
use kvquorum_mem::MemStore;
use nix::sys::resource::{UsageWho, getrusage};

const ENTRIES: usize = 1_000_000;
const VALUE_LEN: usize = 100;
const ROUNDS: usize = 15;
const SCANS: usize = 5;
const FILL: &str = "--fill";
const NAMES: [&str; 2] = ["MemStore", "BTreeMap"];

fn main() {
    let arguments: Vec<String> = env::args().collect();
    match &arguments[1..] {
        [fill, name] if fill == FILL => println!("{}", bytes_an_entry(name)),
        _ => measure_all(),
    }
}

/// The simplest store there is.
#[derive(Default)]
struct Tree(Mutex<BTreeMap<Key, Record>>);

impl Store for Tree {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let mut map = self.0.lock().unwrap();
        let decision = change.decide(map.get(key));
        match decision.action {
            Action::Keep => None,
            Action::Replace(record) => map.insert(key.clone(), record),
            Action::Remove => map.remove(key),
        };
        Ok(decision.response)
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(limit.take(self.0.lock().unwrap().range::<Key, _>(range)))
    }
}

/// All keys, in no order that caches could foresee.
fn keys() -> Vec<Key> {
    let mut numbers: Vec<usize> = (0..ENTRIES).collect();
    let mut random = 1;
    for number in 1..ENTRIES {
        numbers.swap(number, next(&mut random) % (number + 1));
    }
    let key = |number| Key::from(format!("key-{number:09}"));
    numbers.into_iter().map(key).collect()
}

fn next(random: &mut u64) -> usize {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*random >> 33) as usize
}

fn write(timestamp: u64, value: Bytes) -> Change<'static> {
    let version = Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(1),
    };
    Change::write(Entry::new(version, value))
}

/// Fills a store as a coordinator with several replicas does: whoever puts a value
/// has a reference of his own to it.
fn fill(store: &impl Store, keys: &[Key]) {
    for key in keys {
        // A key of its own, which the store may keep or not.
        let key = Key::from(key.as_bytes());
        let value = Bytes::from(vec![b'v'; VALUE_LEN]);
        ready(store.apply(&key, write(1, value.clone())));
    }
}

/// By how much this process has grown: the allocator's own needs count.
fn bytes_an_entry(name: &str) -> f64 {
    let keys = keys();
    let (mem, tree) = (MemStore::new(), Tree::default());
    let before = most_resident();
    if name == NAMES[0] {
        fill(&mem, &keys);
    } else {
        fill(&tree, &keys);
    }
    (most_resident() - before) / ENTRIES as f64
}

/// The most bytes that were ever in memory, on Linux, which counts in KiB.
fn most_resident() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).unwrap().max_rss() as f64 * 1024.0
}

fn measure_all() {
    let mut table = Table::default();
    let [mem, tree] = NAMES.map(|name| {
        let mut command = Command::new(env::current_exe().unwrap());
        let output = command.args([FILL, name]).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        told.trim().parse::<f64>().unwrap()
    });
    println!("Bytes an entry: MemStore {mem:.0}, BTreeMap {tree:.0}\n");
    table.push(
        "bytes an entry",
        Spread::exactly(mem),
        Some(Goal::AtMost(250.0)),
    );
    table.push(
        "bytes an entry / BTreeMap",
        Spread::exactly(mem / tree),
        None,
    );

    let (mem, tree) = (MemStore::new(), Tree::default());
    let keys = keys();
    fill(&mem, &keys);
    fill(&tree, &keys);
    scans(&mem, &tree, &mut table);
    let with_value = |key| (key, Bytes::from(vec![b'w'; VALUE_LEN]));
    let pairs: Vec<(Key, Bytes)> = keys.into_iter().map(with_value).collect();
    for operation in Operation::ALL {
        for threads in [1, 2] {
            let on_mem = |count| time(&mem, operation, &pairs, threads, count);
            let on_tree = |count| time(&tree, operation, &pairs, threads, count);
            let mut ways: [Turn<'_, f64>; 2] = [Box::new(nanos(on_mem)), Box::new(nanos(on_tree))];
            let turns = in_turns(ROUNDS, &mut ways);
            let id = format!("{operation}, {threads} threads");
            push(&mut table, &id, "ns", &turns);
        }
    }
    println!("{table}");
}

/// Adds MemStore's figure, and its ratio to the tree's.
fn push(table: &mut Table, what: &str, unit: &str, turns: &[Vec<f64>]) {
    let [mem, tree] = [0, 1].map(|way| Spread::of(turns[way].iter().copied()));
    println!("{what}: MemStore {mem} {unit}, BTreeMap {tree} {unit}");
    let ratio = Spread::of_ratios(&turns[0], &turns[1], |figure| *figure);
    table.push(format!("{what} / BTreeMap"), ratio, None);
}

fn scans(mem: &MemStore, tree: &Tree, table: &mut Table) {
    for (what, limit) in [
        ("a scan in one page", ScanLimit::NONE),
        ("a scan in pages of 1000", ScanLimit::keys(1_000)),
    ] {
        let mut ways: [Turn<'_, f64>; 2] = [
            Box::new(|| scan_seconds(mem, limit)),
            Box::new(|| scan_seconds(tree, limit)),
        ];
        let turns = in_turns(SCANS, &mut ways);
        push(table, what, "s", &turns);
        let seconds = Spread::of(turns[0].iter().copied());
        let goal = Goal::AtMost(0.5);
        table.push(format!("{what}: seconds"), seconds, Some(goal));
    }
}

/// How many seconds on a processor it takes to walk all entries.
fn scan_seconds(store: &impl Store, limit: ScanLimit) -> f64 {
    let start = cpu::own_seconds();
    let found = runtime::of_this_thread().block_on(async {
        let mut found = 0;
        let mut last = None;
        loop {
            let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = store.scan((from, Bound::Unbounded), limit).await.unwrap();
            found += page.len();
            match page.into_iter().next_back() {
                Some((key, _)) => last = Some(key),
                None => return found,
            }
        }
    });
    assert_eq!(found, ENTRIES);
    cpu::own_seconds() - start
}

/// How long so many operations take, each on a key drawn at random.
fn time(
    store: &impl Store,
    operation: Operation,
    pairs: &[(Key, Bytes)],
    threads: usize,
    operations: usize,
) -> Duration {
    // Each turn writes later versions, so that all are kept.
    static TURN: AtomicU64 = AtomicU64::new(2);
    let turn = TURN.fetch_add(1, Ordering::Relaxed);
    let work = |thread: usize| {
        let mut random = turn ^ ((thread as u64) << 32);
        for _ in 0..operations / threads {
            let (key, value) = &pairs[next(&mut random) % pairs.len()];
            match operation {
                Operation::Get => drop(black_box(ready(store.get(key)))),
                Operation::Put => {
                    ready(store.apply(key, write(turn, value.clone())));
                }
            }
        }
    };
    let start = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
    start.elapsed()
}

/// What a store in memory brings back at once.
fn ready<T>(result: impl Future<Output = Result<T, StoreError>>) -> T {
    result.now_or_never().unwrap().unwrap()
}
