//! Replicas whose links do as a test says.

#![allow(dead_code, reason = "each test uses its own part of it")]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvquorum_core::{
    Ack, Action, Bytes, Call, Change, Coordinator, Entry, Key, Limits, Record, Replica, Request,
    RequestKind, Response, ScanLimit, Store, StoreError, Timestamp, Transport, TransportError,
    Version, WallClock, WriterId,
};

/// A wall clock that a test turns.
#[derive(Clone, Default)]
pub struct Wall(Arc<AtomicU64>);

impl Wall {
    pub fn at(millis: u64) -> Self {
        let wall = Self::default();
        wall.set(millis);
        wall
    }

    pub fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::Relaxed);
    }
}

impl WallClock for Wall {
    fn now_millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub struct MapStore(Mutex<BTreeMap<Key, Record>>);

impl MapStore {
    pub fn entry(&self, key: &str) -> Option<Entry> {
        let map = self.0.lock().unwrap();
        map.get(key.as_bytes())?.entry()
    }

    pub fn value(&self, key: &str) -> Option<Bytes> {
        self.entry(key)?.value
    }

    /// All entries, without what the replica keeps of itself.
    pub fn entries(&self) -> BTreeMap<Key, Entry> {
        let map = self.0.lock().unwrap();
        let entries = map.iter().filter(|(key, _)| !key.is_empty());
        let entries = entries.filter_map(|(key, record)| Some((key.clone(), record.entry()?)));
        entries.collect()
    }

    /// What is kept under a key, also where it is no entry.
    pub fn record(&self, key: &str) -> Option<Record> {
        self.0.lock().unwrap().get(key.as_bytes()).cloned()
    }

    /// All that is kept, the replica's own included.
    pub fn contents(&self) -> BTreeMap<Key, Record> {
        self.0.lock().unwrap().clone()
    }

    pub fn set_contents(&self, contents: BTreeMap<Key, Record>) {
        *self.0.lock().unwrap() = contents;
    }

    pub fn wipe(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn change(&self, key: &Key, change: Change<'_>) -> Response {
        let mut map = self.0.lock().unwrap();
        let decision = change.decide(map.get(key));
        match decision.action {
            Action::Keep => None,
            Action::Replace(record) => map.insert(key.clone(), record),
            Action::Remove => map.remove(key),
        };
        decision.response
    }
}

impl Store for MapStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        Ok(self.change(key, change))
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        Some(Ok(self.0.lock().unwrap().get(key).cloned()))
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        Ok(Ok(self.change(key, change)))
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(limit.take(self.0.lock().unwrap().range::<Key, _>(range)))
    }
}

/// What a link does with a call.
#[derive(Clone, Copy, Debug)]
pub enum Line {
    /// Carries it at once.
    Up,
    /// Takes this long each way.
    Slow(Duration),
    /// Fails at once, before anything was sent.
    Refused,
    /// Carries the request and loses the answer.
    LosesAnswers,
    /// Never carries anything, and never ends.
    Hangs,
    /// The answer belongs to another kind of request.
    MixesUp,
    /// Panics after this long.
    Panics(Duration),
    /// Panics when it is called.
    PanicsAtOnce,
}

#[derive(Debug, thiserror::Error)]
#[error("the test says so")]
pub struct TestSaysSo;

/// A link to a replica of its own.
pub struct Link {
    pub replica: Replica<MapStore>,
    name: String,
    /// Whether it has results at once, where its line lets it.
    at_once: bool,
    gets: Mutex<Line>,
    /// Of ballots, where they don't fare as merges do.
    prepares: Mutex<Option<Line>>,
    merges: Mutex<Line>,
    pub seen: Mutex<Vec<Request>>,
    /// Refuses merges once it has seen so many.
    pub refuse_merges_after: Mutex<Option<usize>>,
    /// Entries of other writers, each of which arrives just before a merge.
    pub overlapping: Mutex<Vec<Entry>>,
    /// Calls that were dropped before they ended.
    pub dropped: Arc<AtomicUsize>,
}

impl Link {
    pub fn set(&self, line: Line) {
        self.set_gets(line);
        self.set_merges(line);
    }

    pub fn set_gets(&self, line: Line) {
        *self.gets.lock().unwrap() = line;
    }

    pub fn set_merges(&self, line: Line) {
        *self.merges.lock().unwrap() = line;
    }

    pub fn set_prepares(&self, line: Line) {
        *self.prepares.lock().unwrap() = Some(line);
    }

    pub fn store(&self) -> &MapStore {
        self.replica.store()
    }

    /// Carries once more what it was handed, as a late copy of it would come.
    pub fn deliver_again(&self, is_meant: impl Fn(&RequestKind) -> bool) {
        let mut late = self.seen.lock().unwrap().clone();
        late.retain(|request| is_meant(&request.kind));
        for request in late {
            assert!(matches!(self.replica.call(&request), Call::Ready(Ok(_))));
        }
    }

    /// How many requests were handed to this link.
    pub fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

struct Unfinished(Arc<AtomicUsize>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Link {
    /// What is to be done with this request.
    fn line(&self, request: &Request) -> Line {
        let refuses = *self.refuse_merges_after.lock().unwrap();
        match request.kind {
            RequestKind::Read { .. }
            | RequestKind::Scan { .. }
            | RequestKind::Fingerprint(_)
            | RequestKind::Versions(_) => *self.gets.lock().unwrap(),
            RequestKind::Prepare { .. } => {
                let prepares = *self.prepares.lock().unwrap();
                prepares.unwrap_or(*self.merges.lock().unwrap())
            }
            _ if refuses.is_some_and(|after| self.calls() >= after) => Line::Refused,
            _ => *self.merges.lock().unwrap(),
        }
    }

    fn take_in(&self, request: &Request) {
        self.seen.lock().unwrap().push(request.clone());
        if let RequestKind::Write { key, .. } | RequestKind::Repair { key, .. } = &request.kind {
            let overlapping = self.overlapping.lock().unwrap().pop();
            if let Some(entry) = overlapping {
                self.store().change(key, Change::write(entry));
            }
        }
    }
}

impl Transport for Link {
    fn call(&self, request: &Request) -> Call {
        // Nothing goes wrong, and nothing is noted, while they introduce themselves.
        if let RequestKind::Identify { .. } = request.kind {
            return self.replica.call(request);
        }
        let line = self.line(request);
        self.take_in(request);
        match line {
            Line::Up if self.at_once => return self.replica.call(request),
            Line::Refused if self.at_once => {
                return Call::Ready(Err(TransportError::NotSent(Box::new(TestSaysSo))));
            }
            Line::PanicsAtOnce => panic!("the test says so"),
            _ => {}
        }
        let (replica, request) = (self.replica.clone(), request.clone());
        let unfinished = Unfinished(Arc::clone(&self.dropped));
        Call::new(async move {
            let result = carry(line, replica, request).await;
            std::mem::forget(unfinished);
            result
        })
    }

    fn name(&self) -> &str {
        &self.name
    }
}

async fn carry(
    line: Line,
    replica: Replica<MapStore>,
    request: Request,
) -> Result<Response, TransportError> {
    match line {
        Line::Up => replica.call(&request).await,
        Line::Slow(each_way) => {
            tokio::time::sleep(each_way).await;
            let answer = replica.call(&request).await;
            tokio::time::sleep(each_way).await;
            answer
        }
        Line::Refused => Err(TransportError::NotSent(Box::new(TestSaysSo))),
        Line::LosesAnswers => {
            replica.call(&request).await.unwrap();
            Err(TransportError::NoAnswer(Box::new(TestSaysSo)))
        }
        Line::Hangs => std::future::pending().await,
        Line::Panics(after) => {
            tokio::time::sleep(after).await;
            panic!("the test says so");
        }
        Line::PanicsAtOnce => unreachable!("it has panicked"),
        Line::MixesUp => Ok(match request.kind {
            RequestKind::Read { .. } => Response::Ack(Ack::Applied),
            _ => Response::Entry(None.into()),
        }),
    }
}

/// Links to N fresh replicas, whose clock is `wall`. Every other one has results
/// at once, so that a coordinator goes both ways.
pub fn links_at<const N: usize>(wall: &Wall) -> [Arc<Link>; N] {
    links_where(wall, |index| index % 2 == 0)
}

/// Links to N fresh replicas that all have results at once.
pub fn links_at_once<const N: usize>() -> [Arc<Link>; N] {
    links_where(&Wall::at(NOON), |_| true)
}

/// Links to N fresh replicas that have these limits.
pub fn links_with<const N: usize>(wall: &Wall, limits: impl Fn(usize) -> Limits) -> [Arc<Link>; N] {
    links_that(wall, |index| index % 2 == 0, limits)
}

fn links_where<const N: usize>(wall: &Wall, at_once: impl Fn(usize) -> bool) -> [Arc<Link>; N] {
    links_that(wall, at_once, |_| Limits::default())
}

fn links_that<const N: usize>(
    wall: &Wall,
    at_once: impl Fn(usize) -> bool,
    limits: impl Fn(usize) -> Limits,
) -> [Arc<Link>; N] {
    std::array::from_fn(|index| {
        Arc::new(Link {
            at_once: at_once(index),
            replica: Replica::new(MapStore::default())
                .of_new_cluster()
                .with_wall_clock(wall.clone())
                .with_limits(limits(index)),
            name: format!("replica-{index}"),
            gets: Mutex::new(Line::Up),
            prepares: Mutex::default(),
            merges: Mutex::new(Line::Up),
            seen: Mutex::default(),
            refuse_merges_after: Mutex::default(),
            overlapping: Mutex::default(),
            dropped: Arc::default(),
        })
    })
}

/// The time at which all clocks of a test stand, unless it turns them.
pub const NOON: u64 = 1_700_000_000_000;

pub fn links<const N: usize>() -> [Arc<Link>; N] {
    links_at(&Wall::at(NOON))
}

/// A coordinator whose clock stands at noon.
pub fn coordinator<const W: usize>(links: &[Arc<Link>; 3]) -> Coordinator<3, W, 2, Arc<Link>> {
    Coordinator::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .build()
}

/// How many hold this value.
pub fn holding(links: &[Arc<Link>], key: &str, value: &str) -> usize {
    let holds = |link: &&Arc<Link>| link.store().value(key).as_deref() == Some(value.as_bytes());
    links.iter().filter(holds).count()
}

/// An entry as another writer would have stamped it.
pub fn entry(millis: u64, value: &'static str) -> Entry {
    let version = Version {
        timestamp: Timestamp::new(millis, 0).unwrap(),
        writer: WriterId::new(77),
    };
    Entry::new(version, value)
}

/// Puts an entry into a link's store, past every door.
pub fn plant(link: &Link, key: &str, entry: Entry) {
    link.store().change(&Key::from(key), Change::write(entry));
}

/// Gives background tasks the time they need, under paused time.
pub async fn let_background_finish() {
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

/// What a broken time limit would leave hanging ends after an hour, which takes
/// no real time; and so does what goes on for ever without waiting for anything.
pub async fn within_an_hour<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut polls = 0..10_000;
    let bounded = std::future::poll_fn(|cx| {
        assert!(polls.next().is_some(), "it does not end");
        future.as_mut().poll(cx)
    });
    let hour = Duration::from_secs(3600);
    tokio::time::timeout(hour, bounded).await.expect("it hangs")
}
