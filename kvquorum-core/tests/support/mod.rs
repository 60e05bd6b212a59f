//! Replicas whose links do as a test says.

#![allow(dead_code, reason = "each test uses its own part of it")]
#![allow(
    unreachable_pub,
    reason = "each test includes it as a module of its own"
)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is how a broken promise shows"
)]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use kvquorum_core::{
    Bytes, Entry, Key, Limits, Merged, Replica, Request, Response, Store, StoreError, Timestamp,
    Transport, TransportError, Version, WallClock, WriterId,
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
pub struct MapStore(Mutex<BTreeMap<Key, Entry>>);

impl MapStore {
    pub fn entry(&self, key: &str) -> Option<Entry> {
        self.0.lock().unwrap().get(key.as_bytes()).cloned()
    }

    pub fn value(&self, key: &str) -> Option<Bytes> {
        self.entry(key)?.value
    }

    pub fn wipe(&self) {
        self.0.lock().unwrap().clear();
    }

    fn keep_greater(&self, key: &Key, entry: Entry) -> Merged {
        let mut map = self.0.lock().unwrap();
        let merged = Merged::verdict(map.get(key), &entry);
        if merged == Merged::Applied {
            map.insert(key.clone(), entry);
        }
        merged
    }
}

impl Store for MapStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.0.lock().unwrap().get(key).cloned())
    }

    async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
        Ok(self.keep_greater(key, entry))
    }

    fn get_now(&self, key: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        Some(Ok(self.0.lock().unwrap().get(key).cloned()))
    }

    fn merge_now(&self, key: &Key, entry: &Entry) -> Option<Result<Merged, StoreError>> {
        Some(Ok(self.keep_greater(key, entry.clone())))
    }

    async fn scan(&self, from: Bound<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
        let map = self.0.lock().unwrap();
        let range = map.range::<Key, _>((from, Bound::Unbounded));
        Ok(range
            .take(limit)
            .map(|(k, e)| (k.clone(), e.clone()))
            .collect())
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
    merges: Mutex<Line>,
    pub seen: Mutex<Vec<Request>>,
    /// Refuses merges once it has seen so many.
    pub refuse_merges_after: Mutex<Option<usize>>,
    /// Entries of other writers, each of which arrives just before a merge.
    pub overlapping: Mutex<Vec<Entry>>,
    /// Calls that were dropped before they ended.
    pub dropped: AtomicUsize,
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

    pub fn store(&self) -> &MapStore {
        self.replica.store()
    }

    /// How many requests were handed to this link.
    pub fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

struct Unfinished<'a>(&'a AtomicUsize);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Link {
    /// What is to be done with this request.
    fn line(&self, request: &Request) -> Line {
        let refuses = *self.refuse_merges_after.lock().unwrap();
        match request {
            Request::Get { .. } => *self.gets.lock().unwrap(),
            _ if refuses.is_some_and(|after| self.calls() >= after) => Line::Refused,
            _ => *self.merges.lock().unwrap(),
        }
    }

    fn take_in(&self, request: &Request) {
        self.seen.lock().unwrap().push(request.clone());
        if let Request::Merge { key, .. } = request {
            let overlapping = self.overlapping.lock().unwrap().pop();
            if let Some(entry) = overlapping {
                self.store().keep_greater(key, entry);
            }
        }
    }
}

#[async_trait]
impl Transport for Link {
    fn call_now(&self, request: &Request) -> Option<Result<Response, TransportError>> {
        let line = self.line(request);
        if !self.at_once || !matches!(line, Line::Up | Line::Refused) {
            return None;
        }
        self.take_in(request);
        Some(match line {
            Line::Refused => Err(TransportError::NotSent(Box::new(TestSaysSo))),
            _ => self.replica.call_now(request).unwrap(),
        })
    }

    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let line = self.line(&request);
        self.take_in(&request);
        let unfinished = Unfinished(&self.dropped);
        let result = match line {
            Line::Up => self.replica.call(request).await,
            Line::Slow(each_way) => {
                tokio::time::sleep(each_way).await;
                let answer = self.replica.call(request).await;
                tokio::time::sleep(each_way).await;
                answer
            }
            Line::Refused => Err(TransportError::NotSent(Box::new(TestSaysSo))),
            Line::LosesAnswers => {
                self.replica.call(request).await.unwrap();
                Err(TransportError::NoAnswer(Box::new(TestSaysSo)))
            }
            Line::Hangs => std::future::pending().await,
            Line::Panics(after) => {
                tokio::time::sleep(after).await;
                panic!("the test says so");
            }
            Line::MixesUp => Ok(match request {
                Request::Get { .. } => Response::Merged(Merged::Applied),
                _ => Response::Entry(None),
            }),
        };
        std::mem::forget(unfinished);
        result
    }

    fn name(&self) -> &str {
        &self.name
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

fn links_where<const N: usize>(wall: &Wall, at_once: impl Fn(usize) -> bool) -> [Arc<Link>; N] {
    std::array::from_fn(|index| {
        Arc::new(Link {
            at_once: at_once(index),
            replica: Replica::new(MapStore::default())
                .with_wall_clock(wall.clone())
                .with_limits(Limits::default()),
            name: format!("replica-{index}"),
            gets: Mutex::new(Line::Up),
            merges: Mutex::new(Line::Up),
            seen: Mutex::default(),
            refuse_merges_after: Mutex::default(),
            overlapping: Mutex::default(),
            dropped: AtomicUsize::new(0),
        })
    })
}

/// The time at which all clocks of a test stand, unless it turns them.
pub const NOON: u64 = 1_700_000_000_000;

pub fn links<const N: usize>() -> [Arc<Link>; N] {
    links_at(&Wall::at(NOON))
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
pub async fn plant(link: &Link, key: &str, entry: Entry) {
    link.store().merge(&Key::from(key), entry).await.unwrap();
}

/// Gives background tasks the time they need, under paused time.
pub async fn let_background_finish() {
    tokio::time::sleep(Duration::from_secs(3600)).await;
}

/// What a broken time limit would leave hanging ends after an hour, which takes
/// no real time.
pub async fn within_an_hour<T>(future: impl Future<Output = T>) -> T {
    let hour = Duration::from_secs(3600);
    tokio::time::timeout(hour, future).await.expect("it hangs")
}
