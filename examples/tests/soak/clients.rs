//! Clients: what they do, and what they hold to be true of each answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvquorum_core::{
    Coordinator, Edit, KeyRange, MapError, ReadError, Registers, UpdateError, Version, WithCauses,
};
use kvquorum_http::HttpTransport;
use tokio::time::{sleep, timeout};

use crate::ledger::{Counter, KEYS, Known, Ledger, check, name, number, value};
use crate::support::Random;

pub type Map = Coordinator<3, 2, 2, HttpTransport>;
pub type Counters = Registers<str, u64, 3, 2, 2, HttpTransport>;

/// Coordinators, each with connections of its own.
pub const CLIENTS: usize = 4;
/// Tasks for each.
const TASKS: usize = 4;
pub const WORKERS: usize = CLIENTS * TASKS;

/// Counters that all increment. Each worker has another one of its own.
const SHARED: usize = 8;

/// Keys that are written more often than others, so that writes of them meet.
const OFTEN: usize = 40;

/// The longest that a worker waits between two operations, in milliseconds.
const THINK: u64 = 80;

/// An operation that takes longer hangs: an update has 10 seconds, and the time limits
/// of the calls of its last attempt.
const LONGEST: Duration = Duration::from_secs(60);

/// So many failures, and nobody reads on.
const MOST_FAILURES: usize = 20;

/// What becomes of an operation.
const DONE: &str = "done";
pub const MAYBE_APPLIED: &str = "maybe applied";
pub const CONTENDED: &str = "contended";
const FAILED: &str = "FAILED";

/// How often something became of an operation.
#[derive(Default)]
struct Ended {
    times: u64,
    longest: Duration,
}

/// What an operation is on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum On {
    Plain,
    /// A register that no other worker changes.
    Own,
    /// One that all change.
    Shared,
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "",
            Self::Own => " of an own register",
            Self::Shared => " of a shared register",
        })
    }
}

/// What the clients share.
pub struct World {
    pub ledger: Ledger,
    is_over: AtomicBool,
    began: Instant,
    ended: Mutex<BTreeMap<(&'static str, On, &'static str), Ended>>,
    failures: Mutex<Vec<String>>,
    /// What is done to which node.
    fault: Mutex<String>,
    numbers: AtomicU64,
    /// Held by each operation from its beginning to its end.
    generation: Mutex<Arc<()>>,
}

impl World {
    pub fn new() -> Self {
        Self {
            ledger: Ledger::new(SHARED + WORKERS),
            is_over: AtomicBool::new(false),
            began: Instant::now(),
            ended: Mutex::default(),
            failures: Mutex::default(),
            fault: Mutex::default(),
            numbers: AtomicU64::new(0),
            generation: Mutex::default(),
        }
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub fn now(&self, fault: String) {
        *self.fault.lock().unwrap() = fault;
    }

    /// Waits until all operations have ended that are under way. One of them may have
    /// found a node missing, and not ask it again.
    pub async fn until_all_are_new(&self) {
        let before = std::mem::take(&mut *self.generation.lock().unwrap());
        while Arc::strong_count(&before) > 1 {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Something was not as promised.
    pub fn fail(&self, what: &str) {
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < MOST_FAILURES {
            let fault = self.fault.lock().unwrap();
            let at = self.began.elapsed().as_secs_f64();
            failures.push(format!("at {at:.1} s, {fault}: {what}"));
        }
    }

    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().unwrap().clone()
    }

    pub fn has_failed_much(&self) -> bool {
        self.failures.lock().unwrap().len() == MOST_FAILURES
    }

    /// How often any operation came to this.
    pub fn times(&self, outcome: &str) -> u64 {
        let ended = self.ended.lock().unwrap();
        let all = ended.iter().filter(|((_, _, it), _)| *it == outcome);
        all.map(|(_, ended)| ended.times).sum()
    }

    /// A line for each kind of operation and outcome.
    pub fn told(&self) -> String {
        let ended = self.ended.lock().unwrap();
        let lines = ended.iter().map(|((kind, on, outcome), ended)| {
            let (times, longest) = (ended.times, ended.longest);
            format!("  {kind}{on}: {times} {outcome}, the longest {longest:.1?}\n")
        });
        lines.collect()
    }

    /// Runs an operation, which must not fail: two of three nodes are ready and
    /// reachable. `None` where it failed.
    ///
    /// On a register an operation may be overtaken, by those of others, and by passes and
    /// rejoins, which settle what they find half done. An update then says that it was not
    /// applied, or that it may have been where nobody can find out any more (L-DOUBT). That
    /// is rare, and counted.
    async fn run<T>(
        &self,
        kind: &'static str,
        on: On,
        operation: impl Future<Output = Result<T, MapError>>,
    ) -> Option<T> {
        let _under_way = Arc::clone(&self.generation.lock().unwrap());
        let began = Instant::now();
        let result = timeout(LONGEST, operation).await;
        let took = began.elapsed();
        let may_be_overtaken = on != On::Plain;
        let outcome = match &result {
            Ok(Ok(_)) => DONE,
            Ok(Err(MapError::Update(UpdateError::MaybeApplied(_)))) if may_be_overtaken => {
                MAYBE_APPLIED
            }
            Ok(Err(MapError::Update(UpdateError::Contended(_)))) if may_be_overtaken => CONTENDED,
            Ok(Err(MapError::Read(ReadError::NotRepaired { .. }))) if may_be_overtaken => CONTENDED,
            Ok(Err(error)) => {
                self.fail(&format!(
                    "{kind}{on}, after {took:.1?}: {}",
                    WithCauses(error)
                ));
                FAILED
            }
            Err(_) => {
                self.fail(&format!("{kind}{on}: not over after {took:?}"));
                FAILED
            }
        };
        let mut all = self.ended.lock().unwrap();
        let ended = all.entry((kind, on, outcome)).or_default();
        ended.times += 1;
        ended.longest = ended.longest.max(took);
        drop(all);
        result.ok()?.ok()
    }

    /// One client's one task.
    pub async fn work(self: Arc<Self>, map: Map, counters: Counters, worker: usize) {
        let mut random = Random(worker as u64 + 1);
        while !self.is_over.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(random.below(THINK))).await;
            let keys = [KEYS, OFTEN][usize::from(random.below(4) == 0)];
            let key = random.below(keys as u64) as usize;
            let counter = match random.below(2) {
                0 => random.below(SHARED as u64) as usize,
                _ => SHARED + worker,
            };
            match random.below(1000) {
                0..360 => self.put(&map, key).await,
                360..450 => self.delete(&map, key).await,
                450..820 => self.get(&map, key).await,
                820..829 => self.scan(&map, &format!("key {:02}", key / 100)).await,
                829 => self.scan(&map, "key ").await,
                830..920 => self.increment(&counters, counter).await,
                _ => self.count(&counters, counter).await,
            }
        }
    }

    async fn put(&self, map: &Map, key: usize) {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        let before = self.ledger.begin(key, false);
        let put = async { Ok(map.put(name(key), value(key, number)).await?.version()) };
        if let Some(version) = self.run("put", On::Plain, put).await {
            self.written(key, &before, version, Some(number));
        }
    }

    async fn delete(&self, map: &Map, key: usize) {
        let before = self.ledger.begin(key, true);
        let delete = async { Ok(map.delete(name(key)).await?.version()) };
        if let Some(version) = self.run("delete", On::Plain, delete).await {
            self.written(key, &before, version, None);
        }
    }

    /// W-SUPERSEDED: it is greater than all that was acknowledged before it began.
    fn written(&self, key: usize, before: &Known, version: Version, number: Option<u64>) {
        if before.version() >= Some(version) {
            let before = before.acked;
            self.fail(&format!(
                "{} written under {version:?}, after {before:?}",
                name(key)
            ));
        }
        self.ledger.acked(key, version, number);
    }

    /// R-QUORUM: what was acknowledged before it began, or a greater entry.
    pub async fn get(&self, map: &Map, key: usize) {
        let before = self.ledger.key(key);
        let get = async { Ok(map.get_with_receipt(name(key)).await?) };
        let Some(receipt) = self.run("get", On::Plain, get).await else {
            return;
        };
        let version = receipt.entry().map(|entry| entry.version);
        let found = receipt.into_value().map(|value| number(key, &value));
        let checked = found
            .transpose()
            .and_then(|number| check(&before, &self.ledger.key(key), version, number));
        if let Err(wrong) = checked {
            self.fail(&format!("get of {}: {wrong}", name(key)));
        }
    }

    /// R-RANGE: each key once, in order; those that nobody writes meanwhile as they are.
    pub async fn scan(&self, map: &Map, prefix: &str) {
        let keys: Vec<usize> = (0..KEYS)
            .filter(|key| name(*key).starts_with(prefix))
            .collect();
        let before: Vec<Known> = keys.iter().map(|key| self.ledger.key(*key)).collect();
        let mut scan = map.scan(KeyRange::prefix(prefix));
        let mut all = Vec::new();
        loop {
            let page = async { Ok(scan.next_page().await.transpose()?) };
            match self.run("page of a scan", On::Plain, page).await {
                Some(Some(page)) => all.extend(page),
                Some(None) => break,
                None => return,
            }
        }
        if !all.is_sorted_by(|(one, _), (next, _)| one < next) {
            self.fail("a scan brings keys twice, or not in order");
        }
        let mut found: BTreeMap<String, _> = BTreeMap::new();
        for (key, value) in all {
            found.insert(key.to_string(), value);
        }
        for (key, before) in keys.into_iter().zip(before) {
            let found = found.remove(&name(key));
            let is_known = before.is_the_same(&self.ledger.key(key));
            match found.map(|value| number(key, &value)).transpose() {
                Ok(number) if is_known && number != before.number() => {
                    let before = before.acked;
                    self.fail(&format!(
                        "scan: {} is {number:?}, not {before:?}",
                        name(key)
                    ));
                }
                Ok(_) => {}
                Err(wrong) => self.fail(&format!("scan: {wrong}")),
            }
        }
        if !found.is_empty() {
            self.fail(&format!("a scan finds {found:?}, which nobody wrote"));
        }
    }

    /// L-REGISTER, L-VERSION.
    async fn increment(&self, counters: &Counters, counter: usize) {
        self.ledger.change(counter, |counter| counter.begun += 1);
        let before = self.ledger.counter(counter);
        let (on, name) = (on(counter), counter_name(counter));
        let mut is_in_doubt = false;
        let update = async {
            let add_one = |held: Option<&u64>| Edit::Put(held.map_or(1, |held| held + 1));
            let updated = counters.update(&name, add_one).await;
            is_in_doubt = matches!(updated, Err(MapError::Update(UpdateError::MaybeApplied(_))));
            updated
        };
        let Some(updated) = self.run("update", on, update).await else {
            self.ledger
                .change(counter, |it| it.maybe_applied += u64::from(is_in_doubt));
            return;
        };
        let (count, version) = (updated.after().copied(), updated.version());
        self.counted(counter, &before, count, version, true);
        self.ledger.change(counter, |it| it.acked += 1);
    }

    pub async fn count(&self, counters: &Counters, counter: usize) {
        let before = self.ledger.counter(counter);
        let (on, name) = (on(counter), counter_name(counter));
        let get = counters.get_with_version(&name);
        if let Some((count, version)) = self.run("get", on, get).await {
            self.counted(counter, &before, count, version, false);
        }
    }

    /// The version has risen, and the count is of all that was acknowledged before, and
    /// of nothing that has not begun.
    fn counted(
        &self,
        counter: usize,
        before: &Counter,
        count: Option<u64>,
        version: Option<Version>,
        is_new: bool,
    ) {
        let begun = self.ledger.counter(counter).begun;
        let least = before.acked + u64::from(is_new);
        let has_risen = version > before.version || !is_new && version == before.version;
        if !has_risen || !(least..=begun).contains(&count.unwrap_or(0)) {
            self.fail(&format!(
                "counter {counter} is {count:?} under {version:?}, after {} acknowledged and {:?}; \
                 {begun} have begun",
                before.acked, before.version
            ));
        }
        self.ledger
            .change(counter, |it| it.version = it.version.max(version));
    }
}

fn on(counter: usize) -> On {
    match counter < SHARED {
        true => On::Shared,
        false => On::Own,
    }
}

fn counter_name(counter: usize) -> String {
    format!("counter {counter}")
}
