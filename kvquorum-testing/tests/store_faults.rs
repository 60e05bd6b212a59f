//! The suite for stores, held to its word: sound stores pass, and each
//! deliberately broken one is caught under the sentence that it breaks.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use common::{are_caught, are_caught_at_once, complaint};
use kvquorum_core::{
    Ack, Action, Bytes, Change, Decision, Entry, Key, Record, Response, ScanLimit, Store,
    StoreError, Timestamp, Version, WriterId,
};
use kvquorum_testing::conformance;
use tokio::sync::{OnceCell, Semaphore, mpsc, oneshot};
use tokio::task::yield_now;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Changes decide by nothing, whatever is held.
    DecidesByNothing,
    /// The answer is always the same.
    AlwaysApplied,
    /// `Superseded` names another version.
    WrongBy,
    /// A tombstone takes the key away, as a map would.
    TombstoneRemoves,
    /// An empty value is kept as a tombstone.
    EmptyIsTombstone,
    /// Writer ids go through a floating-point number.
    RoundsWriters,
    /// Keys are kept as text.
    KeysAsText,
    /// Keys end at the first zero byte, as in C.
    KeysEndAtZero,
    /// Nothing is kept under the empty key.
    NoEmptyKey,
    /// What is to be removed stays.
    IgnoresRemove,
    /// A tombstone is kept in place of what is removed.
    RemoveLeavesTombstone,
    /// With a key goes every other that begins with it.
    RemoveTakesPrefix,
    /// Changes are answered and forgotten.
    Forgets,
    /// An entry is kept without the ballot that was promised.
    ForgetsPromises,
    /// Changes are kept some time after the answer.
    KeepsLater,
    /// Changes are seen some time after they were decided, and then answered; those of one
    /// key do not wait for another's.
    SeenLater,
    /// Decides outside the atomic step: another task can come in between.
    YieldBetween,
    /// Decides outside the atomic step: another thread can come in between; no task
    /// can.
    UnlockBetween,
    /// A fresh store has something in it.
    Leftover,
    /// Each change writes back the whole map as it found it.
    WritesBackAll,
    /// A record is kept in two steps; a change dropped between them leaves half.
    TwoSteps,
    /// The old record is taken out before the new one is put in.
    RemovesFirst,
    ScanUnsorted,
    ScanBySignedBytes,
    ScanSkipsTombstones,
    /// `Excluded` is taken for `Included` at the start.
    ScanIncludesExcluded,
    /// `Included` is taken for `Excluded` at the start.
    ScanExcludesIncluded,
    /// A scan goes on to the end of the store.
    ScanIgnoresEnd,
    /// `Excluded` is taken for `Included` at the end.
    ScanIncludesEnd,
    /// `Included` is taken for `Excluded` at the end.
    ScanExcludesEnd,
    /// The limit counts one too many.
    ScanOverCount,
    ScanIgnoresBytes,
    /// Keys are not counted.
    ScanCountsNoKeys,
    /// A page is empty where its first record has more bytes than the limit.
    ScanEmptyByBytes,
    /// A page of no records is empty.
    ScanEmptyByCount,
    /// The limit is taken at its word, as memory to allocate.
    ScanAllocatesLimit,
    ScanRepeats,
    /// The scan shows values without their bytes.
    ScanEmptiesValues,
    /// A scan takes half its page, and goes on by position some time later.
    ScanByPosition,
    /// A scan that changes come in the way of shows what the last one did that none
    /// came in the way of.
    ScanLags,
    /// Nothing: pages hold three records at most, whatever the limit.
    ScanShortPages,
    /// A read at once finds nothing.
    TryFindsNothing,
    /// A change at once is made, and handed back.
    TryHandsBackMade,
    /// A change is handed back, and made later.
    TryMakesLater,
    /// Another change is handed back.
    TryHandsBackAnother,
    /// A change at once is answered and forgotten.
    TryForgets,
    /// A change at once decides by nothing.
    TryDecidesByNothing,
    /// A call never comes back.
    Hangs,
    /// Callers' futures hold permits.
    Permits,
    /// Callers' futures hold the lock of a key.
    KeyLock,
    /// Callers' futures wait for a lock that is fair, and held by threads alone.
    FairLock,
    /// Callers' futures wait for room in a queue.
    FullQueue,
    /// Every call fails, for a reason that has reasons.
    Fails,
}

type Job = Box<dyn FnOnce() + Send>;
type KeyLocks = Mutex<BTreeMap<Key, Arc<tokio::sync::Mutex<()>>>>;

struct Faulty {
    map: Arc<Mutex<BTreeMap<Key, Record>>>,
    /// What the last scan showed that was not disturbed.
    shown: Mutex<Option<BTreeMap<Key, Record>>>,
    /// What is to be done once someone has looked.
    later: Mutex<Vec<(Key, Change<'static>)>>,
    locks: KeyLocks,
    /// Of keys whose changes are under way by themselves.
    changing: Arc<KeyLocks>,
    fair: tokio::sync::Mutex<()>,
    permits: Semaphore,
    queue: OnceCell<mpsc::Sender<Job>>,
    fault: Fault,
}

fn version(timestamp: u64, writer: u64) -> Version {
    Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(writer),
    }
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let mut map = BTreeMap::new();
        if fault == Fault::Leftover {
            let entry = Entry::new(version(0, 0), "left over");
            map.insert(Key::from("key"), Record::from(entry));
        }
        Self {
            map: Arc::new(Mutex::new(map)),
            shown: Mutex::default(),
            later: Mutex::default(),
            locks: Mutex::default(),
            changing: Arc::default(),
            fair: tokio::sync::Mutex::default(),
            permits: Semaphore::new(4),
            queue: OnceCell::new(),
            fault,
        }
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<Key, Record>> {
        self.map.lock().unwrap()
    }

    fn kept_key(&self, key: &Key) -> Key {
        match self.fault {
            Fault::KeysAsText => Key::from(String::from_utf8_lossy(key.as_bytes()).into_owned()),
            Fault::KeysEndAtZero => {
                Key::from(key.as_bytes().split(|byte| *byte == 0).next().unwrap())
            }
            _ => key.clone(),
        }
    }

    fn decide(&self, change: Change<'_>, held: Option<&Record>) -> Decision {
        let held = held.filter(|_| self.fault != Fault::DecidesByNothing);
        let mut decision = change.decide(held);
        match (self.fault, &mut decision.response) {
            (Fault::AlwaysApplied, response) => *response = Response::Ack(Ack::Applied),
            (Fault::WrongBy, Response::Ack(Ack::Superseded { by })) => by.writer = WriterId::new(7),
            _ => {}
        }
        decision
    }

    fn act(&self, map: &mut BTreeMap<Key, Record>, key: &Key, action: Action) {
        match action {
            Action::Keep => {}
            Action::Replace(record) if record.anchor().is_some() => {
                let kept = match self.fault {
                    Fault::ForgetsPromises => record.into_entry().map(Record::from),
                    _ => Some(record),
                };
                if let Some(kept) = kept {
                    map.insert(key.clone(), kept);
                }
            }
            Action::Replace(record) => {
                if let Some(entry) = record.into_entry() {
                    self.replace(map, key, entry);
                }
            }
            Action::Remove => self.remove(map, key),
        }
    }

    fn replace(&self, map: &mut BTreeMap<Key, Record>, key: &Key, mut entry: Entry) {
        match (self.fault, &entry.value) {
            (Fault::Forgets, _) => return,
            (Fault::NoEmptyKey, _) if key.is_empty() => return,
            (Fault::TombstoneRemoves, None) => {
                map.remove(key);
                return;
            }
            (Fault::EmptyIsTombstone, Some(value)) if value.is_empty() => entry.value = None,
            (Fault::RoundsWriters, _) => {
                let rounded = entry.version.writer.get() as f64 as u64;
                entry.version.writer = WriterId::new(rounded);
            }
            _ => {}
        }
        map.insert(key.clone(), entry.into());
    }

    fn remove(&self, map: &mut BTreeMap<Key, Record>, key: &Key) {
        match self.fault {
            Fault::IgnoresRemove => {}
            Fault::RemoveLeavesTombstone => {
                if let Some(held) = map.get_mut(key)
                    && let Some(version) = held.version()
                {
                    *held = Entry::tombstone(version).into();
                }
            }
            Fault::RemoveTakesPrefix => {
                map.retain(|other, _| !other.as_bytes().starts_with(key.as_bytes()));
            }
            _ => {
                map.remove(key);
                if map.is_empty() {
                    *self.shown.lock().unwrap() = None;
                }
            }
        }
    }

    /// Makes a change in one step.
    fn step(&self, key: &Key, change: Change<'_>) -> Response {
        let mut map = self.map();
        let Decision { action, response } = self.decide(change, map.get(key));
        self.act(&mut map, key, action);
        response
    }

    /// Makes a change in two steps, with this between them.
    async fn in_two_steps(&self, key: &Key, change: Change<'_>) -> Response {
        let mut all = self.map().clone();
        let Decision { action, response } = self.decide(change, all.get(key));
        match (self.fault, &action) {
            (Fault::UnlockBetween, _) => thread::sleep(Duration::from_micros(20)),
            (Fault::WritesBackAll, _) => {
                self.act(&mut all, key, action);
                yield_now().await;
                thread::sleep(Duration::from_micros(20));
                *self.map() = all;
                return response;
            }
            (Fault::RemovesFirst, Action::Replace(_)) => {
                self.map().remove(key);
                yield_now().await;
            }
            (Fault::TwoSteps, Action::Replace(record)) => {
                if let Some(version) = record.version() {
                    let half = Entry::new(version, "");
                    self.map().insert(key.clone(), half.into());
                }
                yield_now().await;
            }
            _ => yield_now().await,
        }
        self.act(&mut self.map(), key, action);
        response
    }

    /// Makes a change in a task of its own, which takes a while to be seen.
    async fn seen_later(&self, key: Key, change: Change<'static>) -> Response {
        let (map, locks) = (Arc::clone(&self.map), Arc::clone(&self.changing));
        let changing = tokio::spawn(async move {
            let lock = Arc::clone(locks.lock().unwrap().entry(key.clone()).or_default());
            let _changing = lock.lock().await;
            let held = map.lock().unwrap().get(&key).cloned();
            let Decision { action, response } = change.decide(held.as_ref());
            if !key.is_empty() {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            let mut map = map.lock().unwrap();
            match action {
                Action::Keep => None,
                Action::Replace(record) => map.insert(key, record),
                Action::Remove => map.remove(&key),
            };
            response
        });
        changing.await.unwrap()
    }

    /// What a caller waits for, and holds while its future lives.
    async fn admitted<'a>(
        &'a self,
        key_lock: &'a tokio::sync::Mutex<()>,
    ) -> Option<Box<dyn Send + 'a>> {
        match self.fault {
            Fault::Permits => {
                let permit = self.permits.acquire().await.unwrap();
                yield_now().await;
                Some(Box::new(permit))
            }
            Fault::KeyLock => {
                let locked = key_lock.lock().await;
                yield_now().await;
                Some(Box::new(locked))
            }
            Fault::FairLock => {
                let locked = self.fair.lock().await;
                thread::sleep(Duration::from_micros(20));
                Some(Box::new(locked))
            }
            Fault::FullQueue => {
                self.queued(|| ()).await;
                None
            }
            Fault::Hangs => std::future::pending().await,
            _ => None,
        }
    }

    async fn queued<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let start = async || {
            let (queue, mut jobs) = mpsc::channel::<Job>(8);
            tokio::spawn(async move {
                while let Some(job) = jobs.recv().await {
                    job();
                }
            });
            queue
        };
        let queue = self.queue.get_or_init(start).await;
        let (done, is_done) = oneshot::channel();
        let job: Job = Box::new(move || drop(done.send(job())));
        queue.send(job).await.unwrap();
        is_done.await.unwrap()
    }

    fn lock_of(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locks.lock().unwrap().entry(key.clone()).or_default())
    }

    fn result<T>(&self, result: T) -> Result<T, StoreError> {
        if self.fault == Fault::Fails {
            let cause = io::Error::other(TooHot {
                source: "no air".into(),
            });
            return Err(StoreError::new(cause));
        }
        Ok(result)
    }
}

/// A cause that has one.
#[derive(Debug)]
struct TooHot {
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl std::fmt::Display for TooHot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the disk is too hot")
    }
}

impl std::error::Error for TooHot {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

impl Store for Faulty {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let lock = self.lock_of(key);
        let _held = self.admitted(&lock).await;
        let found = self.map().get(&self.kept_key(key)).cloned();
        let later: Vec<_> = self.later.lock().unwrap().drain(..).collect();
        for (key, change) in later {
            self.step(&key, change);
        }
        self.result(found)
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let key = self.kept_key(key);
        let lock = self.lock_of(&key);
        let _held = self.admitted(&lock).await;
        let response = match self.fault {
            Fault::YieldBetween
            | Fault::UnlockBetween
            | Fault::RemovesFirst
            | Fault::WritesBackAll
            | Fault::TwoSteps => self.in_two_steps(&key, change).await,
            Fault::SeenLater => self.seen_later(key, change.into_owned()).await,
            Fault::KeepsLater => {
                let held = self.map().get(&key).cloned();
                let response = change.clone().decide(held.as_ref()).response;
                self.later.lock().unwrap().push((key, change.into_owned()));
                response
            }
            _ => self.step(&key, change),
        };
        self.result(response)
    }

    async fn scan(
        &self,
        (start, end): (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        let lock = self.lock_of(&Key::from("any"));
        let _held = self.admitted(&lock).await;
        let range = (self.start(start), self.end(end));
        let mut page = self.page(range, limit);
        match self.fault {
            Fault::ScanLags => page = limit.take(self.lagging().await.range::<Key, _>(range)),
            Fault::ScanUnsorted => page.reverse(),
            Fault::ScanBySignedBytes => page.sort_by_key(|(key, _)| {
                let bytes = key.as_bytes().iter();
                bytes.map(|byte| byte.cast_signed()).collect::<Vec<_>>()
            }),
            Fault::ScanRepeats if page.len() > 1 => {
                page.insert(0, page[0].clone());
                page.pop();
            }
            Fault::ScanEmptiesValues => {
                for (_, record) in &mut page {
                    if let Some(mut entry) = record.entry() {
                        entry.value = entry.value.map(|_| Bytes::new());
                        *record = entry.into();
                    }
                }
            }
            Fault::ScanByPosition => {
                let half = page.len() / 2;
                page.truncate(half);
                tokio::time::sleep(Duration::from_millis(2)).await;
                let all = self.page(range, ScanLimit::NONE);
                page.extend(all.into_iter().skip(half));
                let records = page.iter().map(|(key, record)| (key, record));
                page = limit.take(records);
            }
            _ => {}
        }
        self.result(page)
    }

    fn try_get(&self, _: &Key) -> Option<Result<Option<Record>, StoreError>> {
        (self.fault == Fault::TryFindsNothing).then_some(Ok(None))
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        match self.fault {
            Fault::TryHandsBackMade => {
                self.step(key, change.clone());
                Err(change)
            }
            Fault::TryMakesLater => {
                let later = (key.clone(), change.clone().into_owned());
                self.later.lock().unwrap().push(later);
                Err(change)
            }
            Fault::TryHandsBackAnother => {
                Err(Change::write(Entry::new(version(u64::MAX, 1), "another")))
            }
            Fault::TryForgets => Ok(Ok(change.decide(self.map().get(key)).response)),
            Fault::TryDecidesByNothing => {
                let Decision { action, response } = change.decide(None);
                self.act(&mut self.map(), key, action);
                Ok(Ok(response))
            }
            _ => Err(change),
        }
    }
}

/// The faults of scans.
impl Faulty {
    /// What a scan reads of a copy that is taken anew where nothing changes.
    async fn lagging(&self) -> BTreeMap<Key, Record> {
        let before = self.map().clone();
        for _ in 0..4 {
            yield_now().await;
            thread::sleep(Duration::from_micros(20));
        }
        let is_disturbed = *self.map() != before;
        let mut shown = self.shown.lock().unwrap();
        match &*shown {
            Some(shown) if is_disturbed => shown.clone(),
            _ => shown.insert(before).clone(),
        }
    }

    fn start<'a>(&self, start: Bound<&'a Key>) -> Bound<&'a Key> {
        match (self.fault, start) {
            (Fault::ScanIncludesExcluded, Bound::Excluded(key)) => Bound::Included(key),
            (Fault::ScanExcludesIncluded, Bound::Included(key)) => Bound::Excluded(key),
            _ => start,
        }
    }

    fn end<'a>(&self, end: Bound<&'a Key>) -> Bound<&'a Key> {
        match (self.fault, end) {
            (Fault::ScanIgnoresEnd, _) => Bound::Unbounded,
            (Fault::ScanIncludesEnd, Bound::Excluded(key)) => Bound::Included(key),
            (Fault::ScanExcludesEnd, Bound::Included(key)) => Bound::Excluded(key),
            _ => end,
        }
    }

    fn page(&self, range: (Bound<&Key>, Bound<&Key>), limit: ScanLimit) -> Vec<(Key, Record)> {
        if let (Bound::Excluded(start), Bound::Excluded(end)) = range
            && start == end
        {
            return Vec::new();
        }
        let limit = match self.fault {
            Fault::ScanOverCount => ScanLimit {
                max_keys: limit.max_keys.saturating_add(1),
                ..limit
            },
            Fault::ScanIgnoresBytes => ScanLimit::keys(limit.max_keys),
            Fault::ScanShortPages => ScanLimit {
                max_keys: limit.max_keys.min(3),
                ..limit
            },
            _ => limit,
        };
        let mut page: Vec<(Key, Record)> = match self.fault {
            Fault::ScanAllocatesLimit => Vec::with_capacity(limit.max_keys),
            _ => Vec::new(),
        };
        let mut bytes = 0_usize;
        for (key, record) in self.map().range::<Key, _>(range) {
            let counts_keys = self.fault != Fault::ScanCountsNoKeys;
            bytes += record.encoded_len() + if counts_keys { key.len() } else { 0 };
            let is_skipped = self.fault == Fault::ScanSkipsTombstones
                && record.entry().is_none_or(|entry| entry.value.is_none());
            let is_full = !limit.allows(page.len(), bytes)
                || (self.fault == Fault::ScanEmptyByBytes && bytes > limit.max_bytes)
                || (self.fault == Fault::ScanEmptyByCount && limit.max_keys == 0);
            if is_full {
                break;
            }
            if !is_skipped {
                page.push((key.clone(), record.clone()));
            }
        }
        page
    }
}

async fn store_complaint(fault: Fault) -> Option<String> {
    complaint(conformance::store(move || async move {
        (Faulty::new(fault), ())
    }))
    .await
}

const HELD: &str = "It returns the record that the last `apply` under exactly this key left";
const SEES: &str = "sees what that left, or something later";
const ATOMIC: &str = "are one atomic step for the key";
const RESPONSE: &str = "The response is the one that was decided at that step";
const DROPPED: &str = "Where the future is dropped half-way";
const EMPTY_KEY: &str = "When a change under the empty key has returned";
const ORDER: &str = "The keys of a page are in the range, and ascend by their bytes";
const LIMIT: &str = "A page holds no more than the `ScanLimit` allows";
const END: &str = "An empty page means that nothing is left in the range";
const ONCE: &str = "Each key comes at most once";
const COMPLETE: &str = "No key of the range up to the last of the page is left out";
const TRY_READS: &str = "A result is what `get` would have brought back";
const HANDED_BACK: &str = "A change that is handed back is as it was, has not been made";
const TRY_APPLIES: &str = "A result is what `apply` would have brought back";
const AT_REST: &str = "A call that is not polled holds up no other";

/// Each fault, and the sentences of which one must be named.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::DecidesByNothing, &[RESPONSE, HELD]),
    (Fault::AlwaysApplied, &[RESPONSE]),
    (Fault::WrongBy, &[RESPONSE]),
    (Fault::TombstoneRemoves, &[HELD]),
    (Fault::EmptyIsTombstone, &[HELD]),
    (Fault::RoundsWriters, &[HELD]),
    (Fault::KeysAsText, &[HELD]),
    (Fault::KeysEndAtZero, &[HELD]),
    (Fault::NoEmptyKey, &[HELD]),
    (Fault::IgnoresRemove, &[HELD]),
    (Fault::RemoveLeavesTombstone, &[HELD]),
    (Fault::RemoveTakesPrefix, &[HELD, ONCE]),
    (Fault::Forgets, &[HELD]),
    (Fault::ForgetsPromises, &[HELD]),
    (Fault::KeepsLater, &[HELD, SEES]),
    (Fault::SeenLater, &[EMPTY_KEY]),
    (Fault::YieldBetween, &[ATOMIC, SEES]),
    (Fault::UnlockBetween, &[ATOMIC, SEES, RESPONSE]),
    (Fault::Leftover, &[HELD]),
    (Fault::WritesBackAll, &[SEES, ATOMIC]),
    (Fault::TwoSteps, &[DROPPED, SEES, ATOMIC]),
    (Fault::RemovesFirst, &[SEES, ATOMIC]),
    (Fault::ScanUnsorted, &[ORDER]),
    (Fault::ScanBySignedBytes, &[ORDER]),
    (Fault::ScanSkipsTombstones, &[COMPLETE]),
    (Fault::ScanIncludesExcluded, &[ORDER]),
    (Fault::ScanExcludesIncluded, &[COMPLETE, END]),
    (Fault::ScanIgnoresEnd, &[ORDER]),
    (Fault::ScanIncludesEnd, &[ORDER]),
    (Fault::ScanExcludesEnd, &[END]),
    (Fault::ScanOverCount, &[LIMIT]),
    (Fault::ScanIgnoresBytes, &[LIMIT]),
    (Fault::ScanCountsNoKeys, &[LIMIT]),
    (Fault::ScanEmptyByBytes, &[END]),
    (Fault::ScanEmptyByCount, &[END]),
    (Fault::ScanAllocatesLimit, &["capacity overflow"]),
    (Fault::ScanRepeats, &[ONCE]),
    (Fault::ScanEmptiesValues, &[ONCE]),
    (Fault::ScanByPosition, &[ONCE, COMPLETE, ORDER]),
    (Fault::TryFindsNothing, &[TRY_READS, HELD]),
    (Fault::TryHandsBackMade, &[HANDED_BACK]),
    (Fault::TryMakesLater, &[HANDED_BACK]),
    (Fault::TryHandsBackAnother, &[HANDED_BACK, HELD, RESPONSE]),
    (Fault::TryForgets, &[TRY_APPLIES, HELD]),
    (Fault::TryDecidesByNothing, &[TRY_APPLIES, RESPONSE, HELD]),
];

/// Stores whose faults show in races alone.
const RACING: &[(Fault, &[&str])] = &[(Fault::ScanLags, &[ONCE, COMPLETE])];

async fn faults_are_caught() {
    for fault in [Fault::None, Fault::ScanShortPages] {
        assert_eq!(store_complaint(fault).await, None, "{fault:?}");
    }
    are_caught(FAULTS, store_complaint).await;
}

#[tokio::test]
async fn faults_are_caught_on_a_current_thread_runtime() {
    faults_are_caught().await;
    // On several threads the changes may be over before a scan has seen any.
    are_caught(RACING, store_complaint).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_caught_on_a_multi_thread_runtime() {
    faults_are_caught().await;
}

/// Stores that wait for ever, which takes a while to tell.
const WAITING: &[(Fault, &[&str])] = &[
    (Fault::Hangs, &["does a call wait forever?"]),
    (Fault::Permits, &[AT_REST]),
    (Fault::KeyLock, &[AT_REST]),
    (Fault::FairLock, &[AT_REST]),
    (Fault::FullQueue, &[AT_REST]),
];

#[tokio::test(start_paused = true)]
async fn calls_that_wait_forever_are_caught_on_a_current_thread_runtime() {
    are_caught(WAITING, store_complaint).await;
}

/// All at once, for each takes as long as the suite is patient.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_rest_are_caught_on_a_multi_thread_runtime() {
    let faults = WAITING.iter().filter(|(fault, _)| *fault != Fault::Hangs);
    are_caught_at_once(faults, store_complaint).await;
}

/// Bug: a store fails, and its user is told no more than that.
#[tokio::test]
async fn a_failure_is_shown_with_all_of_its_causes() {
    let complaint = store_complaint(Fault::Fails).await.unwrap();
    for part in [
        "`get` of key",
        "the store failed",
        "the disk is too hot",
        "no air",
    ] {
        assert!(complaint.contains(part), "{part}: {complaint}");
    }
}
