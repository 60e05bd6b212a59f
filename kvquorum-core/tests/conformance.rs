//! The conformance suites, held to their word: sound subjects pass, and each
//! deliberately broken one is caught under the sentence that it breaks.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is how a broken promise shows"
)]

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use kvquorum_core::{
    Bytes, Entry, Key, Merged, Refusal, Replica, Request, Response, Store, StoreError, Timestamp,
    Transport, TransportError, Version, WriterId, conformance,
};
use tokio::task::yield_now;

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Every merge overwrites.
    LastArrivalWins,
    /// Versions are compared, and what arrives later wins a tie.
    TieByArrival,
    /// An equal entry counts as superseded.
    EqualIsSuperseded,
    /// Timestamps are compared as signed numbers.
    SignedTimestamps,
    /// A tombstone takes the key away, as a map would.
    TombstoneRemoves,
    /// An empty value is stored as a tombstone.
    EmptyIsTombstone,
    /// Keys are stored as text.
    KeysAsText,
    /// Keys end at the first zero byte, as in C.
    KeysEndAtZero,
    /// Merges are acked and forgotten.
    AckWithoutStoring,
    /// Merges are stored some time after the ack.
    StoresLater,
    /// `Superseded` names the incoming entry's version.
    WrongBy,
    /// Another task can come in between compare and store.
    YieldBetween,
    /// Another thread can come in between compare and store; no task can.
    UnlockBetween,
    /// A fresh store has something in it.
    Leftover,
    /// Merges of one key wait for each other, and each writes back the whole
    /// map as it found it.
    WritesBackAll,
    /// An entry is written in two steps, behind a lock; a merge dropped between
    /// them releases it.
    TwoSteps,
    /// The old entry is taken out before the new one is put in.
    RemovesFirst,
    ScanUnsorted,
    ScanBySignedBytes,
    ScanSkipsTombstones,
    /// `Excluded` is taken for `Included`.
    ScanIncludesExcluded,
    /// `Included` is taken for `Excluded`.
    ScanExcludesIncluded,
    /// The limit counts one too many.
    ScanOverLimit,
    /// Pages of at most three, whatever the limit.
    ScanShortPages,
    /// The limit is taken at its word, as memory to allocate.
    ScanAllocatesLimit,
    ScanRepeats,
    /// The scan shows values without their bytes.
    ScanEmptiesValues,
    /// A scan takes half its page, and goes on by position some time later.
    ScanByPosition,
    /// A call never comes back.
    Hangs,
    /// A read at once finds nothing.
    NowFindsNothing,
    /// A merge at once is made, and nothing is said of it.
    NowMergesSilently,
    /// A merge at once is acked and forgotten.
    NowForgets,
    /// What is merged at once wins a tie.
    NowTieByArrival,
}

struct Faulty {
    map: Mutex<BTreeMap<Key, Entry>>,
    later: Mutex<Vec<(Key, Entry)>>,
    locks: Mutex<BTreeMap<Key, Arc<tokio::sync::Mutex<()>>>>,
    fault: Fault,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let mut map = BTreeMap::new();
        if fault == Fault::Leftover {
            let version = Version {
                timestamp: Timestamp::MIN,
                writer: WriterId::ANONYMOUS,
            };
            map.insert(Key::from("key"), Entry::new(version, "left over"));
        }
        Self {
            map: Mutex::new(map),
            later: Mutex::default(),
            locks: Mutex::default(),
            fault,
        }
    }

    fn lock_of(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.locks.lock().unwrap().entry(key.clone()).or_default())
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.map.lock().unwrap()
    }

    fn stored(&self, key: &Key) -> Key {
        match self.fault {
            Fault::KeysAsText => Key::from(String::from_utf8_lossy(key.as_bytes()).into_owned()),
            Fault::KeysEndAtZero => {
                Key::from(key.as_bytes().split(|byte| *byte == 0).next().unwrap())
            }
            _ => key.clone(),
        }
    }

    fn merged(&self, current: Option<&Entry>, incoming: &Entry) -> Merged {
        let Some(stored) = current else {
            return Merged::Applied;
        };
        let superseded = match self.fault {
            Fault::LastArrivalWins => false,
            Fault::TieByArrival => stored.version > incoming.version,
            Fault::EqualIsSuperseded => stored >= incoming,
            Fault::SignedTimestamps => {
                let signed = |entry: &Entry| entry.version.timestamp.to_bits().cast_signed();
                (signed(stored), stored) > (signed(incoming), incoming)
            }
            _ => stored > incoming,
        };
        match superseded {
            true if self.fault == Fault::WrongBy => Merged::Superseded {
                by: incoming.version,
            },
            true => Merged::Superseded { by: stored.version },
            false => Merged::Applied,
        }
    }

    fn put(&self, map: &mut BTreeMap<Key, Entry>, key: Key, entry: Entry) {
        match (self.fault, &entry.value) {
            (Fault::AckWithoutStoring, _) => {}
            (Fault::TombstoneRemoves, None) => {
                map.remove(&key);
            }
            (Fault::EmptyIsTombstone, Some(value)) if value.is_empty() => {
                map.insert(key, Entry::tombstone(entry.version));
            }
            _ => {
                map.insert(key, entry);
            }
        }
    }
}

impl Store for Faulty {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let lock = self.lock_of(key);
        let _locked = match self.fault {
            Fault::TwoSteps => Some(lock.lock().await),
            _ => None,
        };
        let found = self.map().get(&self.stored(key)).cloned();
        // What is to be stored later is stored once someone has looked.
        for (key, entry) in self.later.lock().unwrap().drain(..) {
            self.map().insert(key, entry);
        }
        Ok(found)
    }

    async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
        let key = self.stored(key);
        match self.fault {
            Fault::Hangs => std::future::pending().await,
            Fault::YieldBetween | Fault::UnlockBetween | Fault::RemovesFirst => {
                let current = self.map().get(&key).cloned();
                let merged = self.merged(current.as_ref(), &entry);
                match self.fault {
                    Fault::YieldBetween => yield_now().await,
                    Fault::UnlockBetween => std::thread::sleep(Duration::from_micros(20)),
                    _ if merged == Merged::Applied => {
                        self.map().remove(&key);
                        yield_now().await;
                    }
                    _ => {}
                }
                if merged == Merged::Applied {
                    self.put(&mut self.map(), key, entry);
                }
                Ok(merged)
            }
            Fault::WritesBackAll | Fault::TwoSteps => {
                let lock = self.lock_of(&key);
                let _locked = lock.lock().await;
                let mut all = self.map().clone();
                let merged = self.merged(all.get(&key), &entry);
                if merged == Merged::Applied {
                    if self.fault == Fault::TwoSteps {
                        let half = Entry::new(entry.version, "");
                        self.map().insert(key.clone(), half);
                    }
                    yield_now().await;
                    std::thread::sleep(Duration::from_micros(20));
                    if self.fault == Fault::TwoSteps {
                        self.map().insert(key, entry);
                    } else {
                        all.insert(key, entry);
                        *self.map() = all;
                    }
                }
                Ok(merged)
            }
            Fault::StoresLater => {
                let merged = self.merged(self.map().get(&key), &entry);
                if merged == Merged::Applied {
                    self.later.lock().unwrap().push((key, entry));
                }
                Ok(merged)
            }
            _ => {
                let mut map = self.map();
                let merged = self.merged(map.get(&key), &entry);
                if merged == Merged::Applied {
                    self.put(&mut map, key, entry);
                }
                Ok(merged)
            }
        }
    }

    fn get_now(&self, _: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        (self.fault == Fault::NowFindsNothing).then_some(Ok(None))
    }

    fn merge_now(&self, key: &Key, entry: &Entry) -> Option<Result<Merged, StoreError>> {
        match self.fault {
            Fault::NowMergesSilently => {
                self.map().insert(key.clone(), entry.clone());
                None
            }
            Fault::NowForgets => Some(Ok(self.merged(self.map().get(key), entry))),
            Fault::NowTieByArrival => {
                let mut map = self.map();
                let stored = map.get(key).filter(|stored| stored.version > entry.version);
                let merged = Merged::verdict(stored, entry);
                if merged == Merged::Applied {
                    map.insert(key.clone(), entry.clone());
                }
                Some(Ok(merged))
            }
            _ => None,
        }
    }

    async fn scan(&self, from: Bound<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
        let from = match (self.fault, from) {
            (Fault::ScanIncludesExcluded, Bound::Excluded(key)) => Bound::Included(key),
            (Fault::ScanExcludesIncluded, Bound::Included(key)) => Bound::Excluded(key),
            (_, from) => from,
        };
        let limit = match self.fault {
            Fault::ScanOverLimit => limit.saturating_add(1),
            Fault::ScanShortPages => limit.min(3),
            _ => limit,
        };
        let mut page: Vec<(Key, Entry)> = match self.fault {
            Fault::ScanAllocatesLimit => Vec::with_capacity(limit),
            _ => Vec::new(),
        };
        let range = |skip: usize, limit: usize| -> Vec<(Key, Entry)> {
            self.map()
                .range::<Key, _>((from, Bound::Unbounded))
                .filter(|(_, entry)| {
                    self.fault != Fault::ScanSkipsTombstones || entry.value.is_some()
                })
                .skip(skip)
                .take(limit)
                .map(|(key, entry)| (key.clone(), entry.clone()))
                .collect()
        };
        if self.fault == Fault::ScanByPosition {
            let half = limit.min(self.map().len()) / 2;
            page.extend(range(0, half));
            tokio::time::sleep(Duration::from_millis(2)).await;
            page.extend(range(half, limit - half));
        } else {
            page.extend(range(0, limit));
        }
        match self.fault {
            Fault::ScanUnsorted => page.reverse(),
            Fault::ScanBySignedBytes => page.sort_by_key(|(key, _)| {
                key.as_bytes()
                    .iter()
                    .map(|byte| byte.cast_signed())
                    .collect::<Vec<_>>()
            }),
            Fault::ScanRepeats if page.len() > 1 => {
                page.insert(0, page[0].clone());
                page.truncate(limit);
            }
            Fault::ScanEmptiesValues => {
                for (_, entry) in &mut page {
                    entry.value = entry.value.as_ref().map(|_| Bytes::new());
                }
            }
            _ => {}
        }
        Ok(page)
    }
}

/// What a suite said, run as its own task: `None` where it passed.
async fn complaint(suite: impl Future<Output = ()> + Send + 'static) -> Option<String> {
    let panic = tokio::spawn(suite).await.err()?.into_panic();
    let message = panic.downcast_ref::<String>().cloned();
    Some(
        message
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap(),
    )
}

async fn store_complaint(fault: Fault) -> Option<String> {
    complaint(conformance::store(move || async move {
        (Faulty::new(fault), ())
    }))
    .await
}

const GREATEST: &str = "It returns the greatest entry ever merged under exactly this key";
const SEES: &str = "sees that merge";
const ATOMIC: &str = "one atomic step for each key";
const VERDICT: &str = "The answer is `Merged::verdict`";
const ORDER: &str = "in ascending order of the keys' bytes, tombstones included";
const END: &str = "Fewer than `limit` entries mean that the end was reached";
const ONCE: &str = "Each key comes at most once";
const COMPLETE: &str = "A key merged before the call began is among them";

/// Each fault, and the sentences of which one must be named.
const STORE_FAULTS: &[(Fault, &[&str])] = &[
    (Fault::LastArrivalWins, &[VERDICT, GREATEST]),
    (Fault::TieByArrival, &[VERDICT, GREATEST]),
    (Fault::NowFindsNothing, &[NOW_RESULT, GREATEST]),
    (
        Fault::NowMergesSilently,
        &[NOW_NOTHING, SEES, VERDICT, GREATEST],
    ),
    (Fault::NowTieByArrival, &[VERDICT, GREATEST]),
    (Fault::NowForgets, &[NOW_RESULT, SEES, GREATEST]),
    (Fault::EqualIsSuperseded, &[VERDICT]),
    (Fault::SignedTimestamps, &[VERDICT, GREATEST]),
    (Fault::TombstoneRemoves, &[GREATEST]),
    (Fault::EmptyIsTombstone, &[GREATEST]),
    (Fault::KeysAsText, &[GREATEST]),
    (Fault::KeysEndAtZero, &[GREATEST]),
    (Fault::AckWithoutStoring, &[GREATEST]),
    (Fault::StoresLater, &[GREATEST, SEES]),
    (Fault::WrongBy, &[VERDICT]),
    (Fault::YieldBetween, &[ATOMIC, SEES]),
    (Fault::UnlockBetween, &[ATOMIC, SEES, VERDICT]),
    (Fault::Leftover, &[GREATEST]),
    (Fault::WritesBackAll, &[SEES]),
    (Fault::TwoSteps, &["where the future is dropped half-way"]),
    (Fault::RemovesFirst, &[SEES, ATOMIC]),
    (Fault::ScanUnsorted, &[ORDER]),
    (Fault::ScanBySignedBytes, &[ORDER]),
    (Fault::ScanSkipsTombstones, &[ORDER]),
    (Fault::ScanIncludesExcluded, &[ORDER]),
    (Fault::ScanExcludesIncluded, &[COMPLETE]),
    (Fault::ScanOverLimit, &[ORDER]),
    (Fault::ScanShortPages, &[END]),
    (Fault::ScanAllocatesLimit, &["capacity overflow"]),
    (Fault::ScanRepeats, &[ONCE]),
    (Fault::ScanEmptiesValues, &[ONCE]),
    (Fault::ScanByPosition, &[ONCE, COMPLETE, ORDER]),
];

async fn store_faults_are_caught() {
    assert_eq!(store_complaint(Fault::None).await, None);
    for (fault, sentences) in STORE_FAULTS {
        let complaint = store_complaint(*fault).await;
        let complaint = complaint.unwrap_or_else(|| panic!("{fault:?} passed"));
        println!("{fault:?}: {complaint}\n");
        assert!(
            sentences
                .iter()
                .any(|sentence| complaint.contains(sentence)),
            "{fault:?} was caught under another sentence: {complaint}",
        );
    }
}

#[tokio::test]
async fn store_faults_are_caught_on_a_current_thread_runtime() {
    store_faults_are_caught().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_faults_are_caught_on_a_multi_thread_runtime() {
    store_faults_are_caught().await;
}

/// A deadlock is reported, and by name, instead of hanging the suite.
#[tokio::test(start_paused = true)]
async fn a_call_that_never_returns_is_caught() {
    let complaint = store_complaint(Fault::Hangs).await.unwrap();
    assert!(
        complaint.contains("does a call wait forever?"),
        "{complaint}"
    );
    for fault in [LinkFault::HangsTogether, LinkFault::OneAtATime] {
        let complaint = link_complaint(fault).await.unwrap();
        assert!(
            complaint.contains("Calls do not wait for each other"),
            "{complaint}"
        );
    }
}

/// A sound link to another continent conforms.
#[tokio::test(start_paused = true)]
async fn a_slow_link_conforms() {
    assert_eq!(link_complaint(LinkFault::FarAway).await, None);
}

/// A guard is kept as long as its check, and longer than the store.
#[tokio::test]
async fn the_guard_outlives_its_subject() {
    struct Guard(Arc<AtomicU64>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(0, Ordering::SeqCst);
        }
    }
    struct Guarded(Faulty, Arc<AtomicU64>);
    impl Guarded {
        fn assert_guarded(&self) {
            assert_eq!(self.1.load(Ordering::SeqCst), 1, "the guard is gone");
        }
    }
    impl Drop for Guarded {
        fn drop(&mut self) {
            self.assert_guarded();
        }
    }
    impl Store for Guarded {
        async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
            self.assert_guarded();
            self.0.get(key).await
        }
        async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
            self.assert_guarded();
            self.0.merge(key, entry).await
        }
        async fn scan(
            &self,
            from: Bound<&Key>,
            limit: usize,
        ) -> Result<Vec<(Key, Entry)>, StoreError> {
            self.assert_guarded();
            self.0.scan(from, limit).await
        }
    }
    conformance::store(|| async {
        let alive = Arc::new(AtomicU64::new(1));
        let store = Guarded(Faulty::new(Fault::None), Arc::clone(&alive));
        (store, Guard(alive))
    })
    .await;
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq)]
enum LinkFault {
    None,
    NoName,
    /// A call takes another's answer where there is one.
    SwapsAnswers,
    /// An answer stays on the link when its call was dropped.
    LeavesAnswers,
    /// A tombstone reads as no entry.
    DropsTombstone,
    /// An empty value reads as a tombstone.
    EmptyIsTombstone,
    /// Values are cut at 64 KiB.
    CutsValues,
    /// Writer ids go through a JSON number.
    RoundsWriters,
    /// The ack does not say that a newer entry was there.
    AlwaysApplied,
    /// A refusal becomes an error.
    RefusalIsError,
    /// Refusals lose their numbers.
    BlursRefusals,
    /// A refused merge is put into the store all the same.
    StoresRefused,
    /// A call waits until no other is under way.
    HangsTogether,
    /// One call at a time, behind a lock.
    OneAtATime,
    /// Nothing: the way there and back takes long, and that is all.
    FarAway,
    /// A call at once is made, and nothing is said of it.
    NowSilently,
    /// A read at once finds nothing.
    NowFindsNothing,
    /// A call at once goes past the door.
    NowAdmitsAll,
}

struct FaultyLink {
    replica: Replica<Faulty>,
    waiting: Mutex<Vec<Response>>,
    under_way: AtomicU64,
    one: tokio::sync::Mutex<()>,
    fault: LinkFault,
}

impl FaultyLink {
    fn new(fault: LinkFault) -> Self {
        Self {
            replica: Replica::new(Faulty::new(Fault::None)),
            waiting: Mutex::default(),
            under_way: AtomicU64::new(0),
            one: tokio::sync::Mutex::default(),
            fault,
        }
    }
}

/// Stays on the link when it is dropped.
struct Unread<'a>(&'a Mutex<Vec<Response>>, Option<Response>);

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().extend(self.1.take());
    }
}

#[async_trait]
impl Transport for FaultyLink {
    async fn call(&self, mut request: Request) -> Result<Response, TransportError> {
        if let (LinkFault::RoundsWriters, Request::Merge { entry, .. }) = (self.fault, &mut request)
        {
            let rounded = entry.version.writer.get() as f64 as u64;
            entry.version.writer = kvquorum_core::WriterId::new(rounded);
        }
        let mut response = self.replica.call(request.clone()).await?;
        match (self.fault, &mut response) {
            (LinkFault::OneAtATime, _) => {
                let _only = self.one.lock().await;
                yield_now().await;
            }
            (LinkFault::FarAway, _) => tokio::time::sleep(Duration::from_millis(120)).await,
            (LinkFault::SwapsAnswers, _) => {
                self.waiting.lock().unwrap().push(response.clone());
                for _ in 0..100 {
                    yield_now().await;
                }
                let mut waiting = self.waiting.lock().unwrap();
                let other = waiting.iter().position(|other| *other != response);
                return Ok(waiting.remove(other.unwrap_or(0)));
            }
            (LinkFault::LeavesAnswers, _) => {
                if let Some(left) = self.waiting.lock().unwrap().pop() {
                    return Ok(left);
                }
                let mut unread = Unread(&self.waiting, Some(response.clone()));
                yield_now().await;
                unread.1 = None;
            }
            (LinkFault::DropsTombstone, Response::Entry(entry)) => {
                entry.take_if(|entry| entry.value.is_none());
            }
            (LinkFault::EmptyIsTombstone, Response::Entry(Some(entry))) => {
                entry.value.take_if(|value| value.is_empty());
            }
            (LinkFault::CutsValues, Response::Entry(Some(entry))) => {
                if let Some(value) = &mut entry.value {
                    value.truncate(65_536);
                }
            }
            (LinkFault::AlwaysApplied, Response::Merged(merged)) => *merged = Merged::Applied,
            (LinkFault::RefusalIsError, Response::Refused(refusal)) => {
                return Err(TransportError::Rejected(refusal.clone().into()));
            }
            (LinkFault::BlursRefusals, Response::Refused(Refusal::KeyTooLong { len, .. })) => {
                *len = 0;
            }
            (LinkFault::StoresRefused, Response::Refused(_)) => {
                if let Request::Merge { key, entry } = request {
                    self.replica.store().merge(&key, entry).await?;
                }
            }
            (LinkFault::HangsTogether, _) => {
                let others = self.under_way.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                if others > 0 {
                    std::future::pending::<()>().await;
                }
                self.under_way.fetch_sub(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Ok(response)
    }

    fn call_now(&self, request: &Request) -> Option<Result<Response, TransportError>> {
        match (self.fault, request) {
            (LinkFault::NowSilently, Request::Merge { key, entry }) => {
                self.replica
                    .store()
                    .map()
                    .insert(key.clone(), entry.clone());
                None
            }
            (LinkFault::NowFindsNothing, Request::Get { .. }) => Some(Ok(Response::Entry(None))),
            (LinkFault::NowAdmitsAll, Request::Merge { key, entry }) => {
                let store = self.replica.store();
                let merged = store.merged(store.map().get(key), entry);
                if merged == Merged::Applied {
                    store.map().insert(key.clone(), entry.clone());
                }
                Some(Ok(Response::Merged(merged)))
            }
            _ => None,
        }
    }

    fn name(&self) -> &str {
        match self.fault {
            LinkFault::NoName => "",
            _ => "faulty",
        }
    }
}

async fn link_complaint(fault: LinkFault) -> Option<String> {
    complaint(conformance::transport(move || async move {
        (FaultyLink::new(fault), ())
    }))
    .await
}

const OWN: &str = "the replica's answer to exactly this request";
/// An answer of another kind shows it too.
const ANSWERED_BY: &str = "was answered by";
const UNCHANGED: &str = "arrive unchanged, bit for bit";
/// Of a call, or of a merge.
const NOW_NOTHING: &str = "`None` means that";
const NOW_RESULT: &str = "would have brought back";
const REFUSAL: &str = "A refusal is a response, not an error";

const LINK_FAULTS: &[(LinkFault, &[&str])] = &[
    (
        LinkFault::NoName,
        &["What reports and errors call this replica"],
    ),
    (LinkFault::SwapsAnswers, &[OWN]),
    (
        LinkFault::LeavesAnswers,
        &["Dropping the future is safe at any time", ANSWERED_BY],
    ),
    (
        LinkFault::NowSilently,
        &[NOW_NOTHING, REFUSAL, OWN, UNCHANGED],
    ),
    (LinkFault::NowAdmitsAll, &[REFUSAL]),
    (LinkFault::NowFindsNothing, &[NOW_RESULT, OWN, UNCHANGED]),
    (LinkFault::DropsTombstone, &[UNCHANGED]),
    (LinkFault::EmptyIsTombstone, &[UNCHANGED]),
    (LinkFault::CutsValues, &[UNCHANGED]),
    (LinkFault::RoundsWriters, &[UNCHANGED]),
    (LinkFault::AlwaysApplied, &[UNCHANGED]),
    (LinkFault::RefusalIsError, &[REFUSAL]),
    (LinkFault::BlursRefusals, &[UNCHANGED]),
    (LinkFault::StoresRefused, &[REFUSAL]),
];

async fn link_faults_are_caught() {
    assert_eq!(link_complaint(LinkFault::None).await, None);
    for (fault, sentences) in LINK_FAULTS {
        let complaint = link_complaint(*fault).await;
        let complaint = complaint.unwrap_or_else(|| panic!("{fault:?} passed"));
        println!("{fault:?}: {complaint}\n");
        assert!(
            sentences
                .iter()
                .any(|sentence| complaint.contains(sentence)),
            "{fault:?} was caught under another sentence: {complaint}",
        );
    }
}

#[tokio::test]
async fn link_faults_are_caught_on_a_current_thread_runtime() {
    link_faults_are_caught().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn link_faults_are_caught_on_a_multi_thread_runtime() {
    link_faults_are_caught().await;
}

/// A transport behind a pointer, as a coordinator of mixed links has it.
#[tokio::test]
async fn a_transport_behind_a_pointer_conforms() {
    conformance::transport(|| async {
        let link: Arc<dyn Transport> = Arc::new(Replica::new(Faulty::new(Fault::None)));
        (link, ())
    })
    .await;
}
