//! The suite for transports, held to its word: sound links pass, and each
//! deliberately broken one is caught under the sentence that it breaks.

mod common;

use std::future::pending;
use std::io;
use std::num::NonZeroU64;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{OneLock, are_caught, are_caught_at_once, complaint};
use kvquorum_core::{
    Ack, Call, Change, Era, Key, KeyRange, Quorums, Record, Refusal, Replica, ReplicaId, Request,
    RequestKind, Response, Store, StoreError, Timestamp, Told, Transport, TransportError,
    WindowEnd, WriterId,
};
use kvquorum_testing::conformance;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep;

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
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
    /// The ack does not say that a greater entry was there.
    AlwaysApplied,
    /// A refusal becomes an error.
    RefusalIsError,
    /// Only the refusal of another replica becomes an error.
    OtherReplicaIsError,
    /// Refusals lose their numbers.
    BlursRefusals,
    /// A refused write is kept all the same.
    KeepsRefused,
    /// For which replica a request is meant is not sent.
    DropsTo,
    /// Replica ids go through a JSON number.
    RoundsIds,
    /// The quorums of the caller are not sent.
    DropsQuorums,
    /// Quorums are signed numbers on the way.
    SignedQuorums,
    /// Tombstones are left out of pages.
    PagesWithoutTombstones,
    /// Pages lose their last entry.
    CutsPages,
    /// Pages do not say that there is more.
    PagesAreTheLast,
    /// Keys of a page are text on the way.
    PageKeysAreText,
    /// A range begins after its first key.
    SkipsFirstKeys,
    /// A range has no end on the way.
    DropsEnds,
    /// How many entries are wanted is not sent.
    DropsMaxKeys,
    /// How many bytes are wanted is not sent.
    DropsMaxBytes,
    /// The key of a hash has 64 bits on the way.
    HalvesHashKeys,
    /// Where windows are to end is not sent.
    DropsCuts,
    /// How many entries a window may have is not sent.
    DropsEvery,
    /// How much is to be hashed is not sent.
    DropsWork,
    /// Sums of hashes go through a JSON number.
    RoundsSums,
    /// Windows lose the last of them.
    CutsWindows,
    /// A window does not say where it ends.
    WindowsAreTheLast,
    /// Lists of versions leave out one.
    CutsVersions,
    /// Hashes in a list have 64 bits on the way.
    HalvesHashes,
    /// A list does not say that there is more.
    VersionsAreTheLast,
    /// A promise does not tell the entry.
    DropsPromisedEntry,
    /// Ballots go through a JSON number.
    BlursBallot,
    /// A promise is answered as a read is.
    PromiseIsEntry,
    /// Of which era a request is, is not sent.
    DropsEra,
    /// Eras go through a number of single precision.
    RoundsEras,
    /// Which start of a process is meant is cut to 32 bits.
    CutsBoots,
    /// What is copied loses the ballot that was promised.
    DropsCopiedPromise,
    /// Where what is found is to be dropped is not sent.
    ForgetsEverywhere,
    /// How much of it is to be dropped is not sent.
    ForgetsAtOnce,
    /// Before when it is to be stamped is of a whole millisecond on the way.
    BlursForgotten,
    /// Pages of records lose the last one.
    CutsRecords,
    /// Pages of records lose the ballots that were promised.
    DropsPromises,
    /// Pages of records do not say that there is more.
    RecordsAreTheLast,
    /// Marks do not tell what was announced.
    BlursMarks,
    /// A replica that is joining does not say how far it is.
    BlursJoining,
    /// Only the refusal of an older era becomes an error.
    StaleIsError,
    /// Nothing is told of how much was copied.
    DropsCopied,
    /// A seal is of a whole millisecond on the way.
    BlursSeals,
    /// Up to when is to be collected goes through a JSON number.
    RoundsCollections,
    /// Repairs are writes on the way.
    RepairIsWrite,
    /// What was collected is not told with an entry, or that there is none.
    DropsMarks,
    /// What was collected is not told with a page.
    PagesWithoutMarks,
    /// Which tombstones are to be left out is not sent.
    DropsLeftOut,
    /// What tombstones were left out is not told.
    BlursLeftOut,
    /// Sweeps do not say that there is more.
    SweepsAreTheLast,
    /// Marks do not tell what was collected.
    BlursCollected,
    /// When a value expires goes through a JSON number.
    RoundsExpiries,
    /// Sweeps do not tell what has expired.
    DropsExpired,
    /// Only the refusal of what is stamped too early becomes an error.
    BeforeIsError,
    /// Calls go to two replicas in turns.
    TwoReplicas,
    /// Only calls that meet others go to a second replica.
    SecondReplicaUnderLoad,
    /// A call waits until no other is under way.
    HangsTogether,
    /// One call at a time, behind a lock.
    OneAtATime,
    /// Callers' futures hold permits.
    Permits,
    /// Callers' futures wait for a lock that is fair, and held by threads alone.
    FairLock,
    /// Callers' futures wait for room in a queue.
    FullQueue,
    /// What is read waits in a buffer for its caller.
    FullBuffer,
    /// A call fails, for a reason that has a reason.
    Fails,
    /// Nothing: the way there and back takes long, and that is all.
    FarAway,
    /// Nothing: calls are at once over where they can be.
    AtOnce,
    /// Nothing: calls that find the queue full fail as not sent.
    RefusesWhenFull,
}

/// What becomes of what a replica tells.
fn bend(fault: Fault, told: &mut Told) {
    match (fault, told) {
        (Fault::RoundsSums, Told::Windows(windows)) => {
            for window in &mut windows.windows {
                window.fingerprint.sum = window.fingerprint.sum as f64 as u128;
            }
        }
        (Fault::CutsWindows, Told::Windows(windows)) if windows.windows.len() > 1 => {
            windows.windows.pop();
        }
        (Fault::WindowsAreTheLast, Told::Windows(windows)) => {
            let last = windows.windows.last_mut();
            last.into_iter()
                .for_each(|last| last.end = WindowEnd::Range);
        }
        (Fault::CutsVersions, Told::Versions(told)) => drop(told.versions.pop()),
        (Fault::HalvesHashes, Told::Versions(told)) => {
            for it in &mut told.versions {
                it.hash = (it.hash as u64).into();
            }
        }
        (Fault::VersionsAreTheLast, Told::Versions(told)) => told.upto = None,
        (Fault::CutsRecords, Told::Records(told)) => drop(told.records.pop()),
        (Fault::DropsPromises, Told::Records(told)) => {
            for (_, record) in &mut told.records {
                drop_promise(record);
            }
        }
        (Fault::RecordsAreTheLast, Told::Records(told)) => told.upto = None,
        (Fault::BlursMarks, Told::Marks(marks)) => marks.announced = marks.era,
        (Fault::DropsCopied, Told::Status(status)) => status.copied = 0,
        (Fault::BlursCollected, Told::Marks(marks)) => marks.collected = Timestamp::MIN,
        (Fault::BlursLeftOut, Told::Versions(told)) => told.collected = Timestamp::MIN,
        (Fault::BlursLeftOut, Told::Windows(told)) => told.collected = Timestamp::MIN,
        (Fault::DropsExpired, Told::Swept(swept)) => swept.expired.clear(),
        (Fault::SweepsAreTheLast, Told::Swept(swept)) => swept.upto = None,
        _ => {}
    }
}

fn drop_promise(record: &mut Record) {
    if let Some(entry) = record.entry() {
        *record = entry.into();
    }
}

type Job = (Request, oneshot::Sender<Result<Response, TransportError>>);

struct Shared {
    replica: Replica<OneLock>,
    other: Replica<OneLock>,
    waiting: Mutex<Vec<Response>>,
    calls: AtomicU64,
    under_way: AtomicU64,
    one: tokio::sync::Mutex<()>,
    permits: Semaphore,
    queue: mpsc::Sender<Job>,
    fault: Fault,
}

struct FaultyLink(Arc<Shared>);

impl FaultyLink {
    fn new(fault: Fault) -> Self {
        let replica = Replica::new(OneLock::default());
        let room = match fault {
            Fault::RefusesWhenFull => 128,
            _ => 8,
        };
        let (queue, mut jobs) = mpsc::channel::<Job>(room);
        let behind = replica.clone();
        tokio::spawn(async move {
            while let Some((request, answer)) = jobs.recv().await {
                drop(answer.send(behind.call(&request).await));
            }
        });
        Self(Arc::new(Shared {
            replica,
            other: Replica::new(OneLock::default()),
            waiting: Mutex::default(),
            calls: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            one: tokio::sync::Mutex::default(),
            permits: Semaphore::new(8),
            queue,
            fault,
        }))
    }
}

/// Stays on the link when it is dropped.
struct Unread<'a>(&'a Mutex<Vec<Response>>, Option<Response>);

impl Drop for Unread<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().extend(self.1.take());
    }
}

/// Counts a call as under way until it is dropped.
struct UnderWay<'a>(&'a AtomicU64);

impl<'a> UnderWay<'a> {
    /// With how many others.
    fn new(count: &'a AtomicU64) -> (Self, u64) {
        let others = count.fetch_add(1, Ordering::SeqCst);
        (Self(count), others)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn rounded(number: u64) -> u64 {
    number as f64 as u64
}

fn rounded_id(id: ReplicaId) -> ReplicaId {
    NonZeroU64::new(rounded(id.get())).map_or(id, ReplicaId::new)
}

fn rounded_era(era: Era) -> Era {
    NonZeroU64::new(era.get() as f32 as u64).map_or(era, Era::new)
}

fn no_room() -> TransportError {
    TransportError::NotSent("the queue is full".into())
}

impl Shared {
    /// What becomes of a request on its way.
    fn sent(&self, request: &Request) -> Request {
        let mut request = request.clone();
        match (self.fault, &mut request.kind) {
            (
                Fault::RoundsWriters,
                RequestKind::Write { entry, .. } | RequestKind::Repair { entry, .. },
            ) => {
                entry.version.writer = WriterId::new(rounded(entry.version.writer.get()));
            }
            (Fault::RoundsExpiries, RequestKind::Write { entry, .. }) => {
                let expires = entry.expires_millis.map(NonZeroU64::get).map(rounded);
                entry.expires_millis = expires.and_then(NonZeroU64::new);
            }
            (Fault::BlursBallot, RequestKind::Prepare { ballot, .. }) => {
                ballot.writer = WriterId::new(rounded(ballot.writer.get()));
            }
            (Fault::DropsQuorums, RequestKind::Identify { quorums }) => *quorums = None,
            (Fault::SignedQuorums, RequestKind::Identify { quorums }) => {
                *quorums = quorums.map(|Quorums { n, w, r }| Quorums {
                    n: n.min(127),
                    w: w.min(127),
                    r,
                });
            }
            (Fault::SkipsFirstKeys, RequestKind::Scan { range, .. }) => {
                if let Bound::Included(first) = range.start_bound() {
                    let bounds = (Bound::Excluded(first.clone()), range.end_bound().cloned());
                    *range = KeyRange::from(bounds);
                }
            }
            (Fault::DropsEnds, RequestKind::Scan { range, .. }) => {
                *range = KeyRange::from((range.start_bound().cloned(), Bound::Unbounded));
            }
            (Fault::DropsMaxKeys, RequestKind::Scan { max_keys, .. }) => *max_keys = u64::MAX,
            (Fault::DropsMaxBytes, RequestKind::Scan { max_bytes, .. }) => *max_bytes = u64::MAX,
            (Fault::HalvesHashKeys, RequestKind::Fingerprint(asked)) => {
                asked.hash_key = (asked.hash_key as u64).into();
            }
            (Fault::HalvesHashKeys, RequestKind::Versions(asked)) => {
                asked.hash_key = (asked.hash_key as u64).into();
            }
            (Fault::DropsCuts, RequestKind::Fingerprint(asked)) => asked.cuts.clear(),
            (Fault::DropsEvery, RequestKind::Fingerprint(asked)) => asked.every = u64::MAX,
            (Fault::DropsWork, RequestKind::Fingerprint(asked)) => asked.max_keys = u64::MAX,
            (Fault::DropsWork, RequestKind::Versions(asked)) => asked.max_keys = u64::MAX,
            (
                Fault::CutsBoots,
                RequestKind::Join { boot, .. }
                | RequestKind::Open { boot }
                | RequestKind::Collect { boot, .. },
            ) => *boot = u64::from(*boot as u32),
            (Fault::BlursSeals, RequestKind::Seal { to }) => {
                *to = Timestamp::from_bits(to.to_bits() >> 16 << 16);
            }
            (Fault::ForgetsEverywhere, RequestKind::Forget { range, .. }) => {
                *range = KeyRange::from(..);
            }
            (Fault::ForgetsAtOnce, RequestKind::Forget { max_keys, .. }) => *max_keys = u64::MAX,
            (Fault::BlursForgotten, RequestKind::Forget { before, .. }) => {
                *before = Timestamp::from_bits(before.to_bits() >> 16 << 16);
            }
            (Fault::RoundsCollections, RequestKind::Collect { to, .. }) => {
                *to = Timestamp::from_bits(rounded(to.to_bits()));
            }
            (Fault::RepairIsWrite, RequestKind::Repair { key, entry }) => {
                request.kind = RequestKind::Write {
                    key: key.clone(),
                    entry: entry.clone(),
                };
            }
            (Fault::DropsLeftOut, RequestKind::Fingerprint(asked)) => {
                asked.collected = Timestamp::MIN;
            }
            (Fault::DropsLeftOut, RequestKind::Versions(asked)) => {
                asked.collected = Timestamp::MIN;
            }
            (Fault::DropsCopiedPromise, RequestKind::Copy { record, .. }) => drop_promise(record),
            (Fault::DropsEra, _) => request.era = None,
            (Fault::RoundsEras, _) => request.era = request.era.map(rounded_era),
            (Fault::DropsTo, _) => request.to = None,
            (Fault::RoundsIds, _) => request.to = request.to.map(rounded_id),
            _ => {}
        }
        request
    }

    /// What becomes of a response on its way.
    fn received(&self, mut response: Response) -> Result<Response, TransportError> {
        match (self.fault, &mut response) {
            (Fault::DropsTombstone, Response::Entry(held)) => {
                held.entry.take_if(|entry| entry.value.is_none());
            }
            (Fault::EmptyIsTombstone, Response::Entry(held)) => {
                if let Some(entry) = &mut held.entry {
                    entry.value.take_if(|value| value.is_empty());
                }
            }
            (Fault::CutsValues, Response::Entry(held)) => {
                if let Some(value) = held.entry.as_mut().and_then(|it| it.value.as_mut()) {
                    value.truncate(65_536);
                }
            }
            (Fault::DropsMarks, Response::Entry(held)) => held.collected = Timestamp::MIN,
            (Fault::PagesWithoutMarks, Response::Page(page)) => page.collected = Timestamp::MIN,
            (Fault::PagesWithoutTombstones, Response::Page(page)) => {
                page.entries.retain(|(_, entry)| entry.value.is_some());
            }
            (Fault::CutsPages, Response::Page(page)) => drop(page.entries.pop()),
            (Fault::PagesAreTheLast, Response::Page(page)) => page.upto = None,
            (Fault::PageKeysAreText, Response::Page(page)) => {
                for (key, _) in &mut page.entries {
                    *key = Key::from(String::from_utf8_lossy(key.as_bytes()).into_owned());
                }
            }
            (fault, Response::Told(told)) => bend(fault, told),
            (Fault::DropsPromisedEntry, Response::Promise(held)) => held.entry = None,
            (Fault::PromiseIsEntry, Response::Promise(held)) => {
                return Ok(Response::Entry(std::mem::take(held)));
            }
            (Fault::AlwaysApplied, Response::Ack(ack)) => *ack = Ack::Applied,
            (Fault::RefusalIsError, Response::Refused(refusal)) => {
                return Err(TransportError::Rejected(refusal.clone().into()));
            }
            (Fault::OtherReplicaIsError, Response::Refused(Refusal::OtherReplica { .. })) => {
                return Err(TransportError::Rejected("421".into()));
            }
            (Fault::BlursJoining, Response::Refused(Refusal::Joining { has_begun })) => {
                *has_begun = false;
            }
            (Fault::StaleIsError, Response::Refused(Refusal::Stale { .. })) => {
                return Err(TransportError::NoAnswer("409".into()));
            }
            (Fault::BeforeIsError, Response::Refused(Refusal::Before { .. })) => {
                return Err(TransportError::Rejected("409".into()));
            }
            (Fault::BlursRefusals, Response::Refused(Refusal::KeyTooLong { len, .. })) => *len = 0,
            (Fault::RoundsIds, Response::Identity(identity)) => {
                identity.id = rounded_id(identity.id);
            }
            (Fault::RoundsIds, Response::Refused(Refusal::OtherReplica { is })) => {
                *is = rounded_id(*is);
            }
            _ => {}
        }
        Ok(response)
    }

    async fn call(self: Arc<Self>, request: Request) -> Result<Response, TransportError> {
        let (_under_way, others) = UnderWay::new(&self.under_way);
        match self.fault {
            Fault::Fails => {
                let cause = io::Error::other(StoreError::new("no air"));
                return Err(TransportError::NoAnswer(cause.into()));
            }
            Fault::FullQueue => return self.queued(request).await,
            _ => {}
        }
        let replica = match self.fault {
            Fault::TwoReplicas if self.calls.fetch_add(1, Ordering::SeqCst) % 2 == 1 => &self.other,
            Fault::SecondReplicaUnderLoad if others > 0 => &self.other,
            _ => &self.replica,
        };
        let response = replica.call(&self.sent(&request)).await?;
        self.wait(others).await;
        match self.fault {
            Fault::SwapsAnswers => return Ok(self.swapped(response).await),
            Fault::LeavesAnswers => {
                if let Some(left) = self.waiting.lock().unwrap().pop() {
                    return Ok(left);
                }
                let mut unread = Unread(&self.waiting, Some(response.clone()));
                yield_now().await;
                unread.1 = None;
            }
            Fault::KeepsRefused => {
                if let (
                    Response::Refused(_),
                    RequestKind::Write { key, entry } | RequestKind::Repair { key, entry },
                ) = (&response, request.kind)
                {
                    let change = Change::write(entry);
                    self.replica.store().apply(&key, change).await?;
                }
            }
            Fault::FullBuffer => {
                let value = match &response {
                    Response::Entry(held) => held.entry.as_ref().and_then(|it| it.value.as_ref()),
                    _ => None,
                };
                let len = value.map_or(0, |value| value.len());
                if len > 65_536 {
                    let _buffer = self.permits.acquire().await.unwrap();
                    yield_now().await;
                }
            }
            _ => {}
        }
        self.received(response)
    }

    /// What a caller waits for.
    async fn wait(&self, others: u64) {
        match self.fault {
            Fault::FarAway => sleep(Duration::from_millis(120)).await,
            Fault::SecondReplicaUnderLoad => yield_now().await,
            Fault::HangsTogether => {
                yield_now().await;
                if others > 0 {
                    pending::<()>().await;
                }
            }
            Fault::OneAtATime => {
                let _only = self.one.lock().await;
                yield_now().await;
            }
            Fault::Permits => {
                let _permit = self.permits.acquire().await.unwrap();
                yield_now().await;
            }
            Fault::FairLock => {
                let _locked = self.one.lock().await;
                thread::sleep(Duration::from_micros(20));
            }
            _ => {}
        }
    }

    async fn swapped(&self, response: Response) -> Response {
        self.waiting.lock().unwrap().push(response.clone());
        for _ in 0..100 {
            yield_now().await;
        }
        let mut waiting = self.waiting.lock().unwrap();
        let other = waiting.iter().position(|other| *other != response);
        waiting.remove(other.unwrap_or(0))
    }

    /// Waits for room in the queue.
    async fn queued(&self, request: Request) -> Result<Response, TransportError> {
        let (answer, answered) = oneshot::channel();
        self.queue.send((request, answer)).await.unwrap();
        answered.await.unwrap()
    }
}

impl Transport for FaultyLink {
    fn call(&self, request: &Request) -> Call {
        match self.0.fault {
            Fault::AtOnce => self.0.replica.call(request),
            Fault::RefusesWhenFull => {
                let (answer, answered) = oneshot::channel();
                let sent = self.0.queue.try_send((request.clone(), answer));
                Call::new(async move {
                    sent.map_err(|_| no_room())?;
                    answered.await.unwrap()
                })
            }
            _ => Call::new(Arc::clone(&self.0).call(request.clone())),
        }
    }

    fn name(&self) -> &str {
        match self.0.fault {
            Fault::NoName => "",
            _ => "faulty",
        }
    }
}

async fn link_complaint(fault: Fault) -> Option<String> {
    complaint(conformance::transport(move || async move {
        (FaultyLink::new(fault), ())
    }))
    .await
}

const OWN: &str = "the replica's answer to exactly this request";
const UNCHANGED: &str = "Request and response arrive unchanged, bit for bit";
const REFUSAL: &str = "A refusal is a response, not an error";
const SAME_REPLICA: &str = "All calls lead to the same replica";
const DROPPED: &str = "Dropping the call is safe at any time";
const NOT_WAITING: &str = "Calls do not wait for each other";
const AT_REST: &str = "A call that is not polled holds up no other";

/// Each fault, and the sentences of which one must be named.
const FAULTS: &[(Fault, &[&str])] = &[
    (Fault::NoName, &["It is not empty"]),
    (Fault::SwapsAnswers, &[OWN]),
    // An answer of another kind shows it too.
    (Fault::LeavesAnswers, &[DROPPED, OWN]),
    (Fault::DropsTombstone, &[UNCHANGED]),
    (Fault::EmptyIsTombstone, &[UNCHANGED]),
    (Fault::CutsValues, &[UNCHANGED, OWN]),
    (Fault::RoundsWriters, &[UNCHANGED]),
    (Fault::AlwaysApplied, &[UNCHANGED]),
    (Fault::RefusalIsError, &[REFUSAL]),
    (Fault::OtherReplicaIsError, &[REFUSAL]),
    (Fault::BlursRefusals, &[UNCHANGED]),
    (Fault::KeepsRefused, &[REFUSAL]),
    (Fault::DropsTo, &[REFUSAL]),
    (Fault::RoundsIds, &[UNCHANGED]),
    (Fault::DropsQuorums, &[UNCHANGED]),
    (Fault::SignedQuorums, &[UNCHANGED]),
    (Fault::PagesWithoutTombstones, &[UNCHANGED]),
    (Fault::CutsPages, &[UNCHANGED]),
    (Fault::PagesAreTheLast, &[UNCHANGED]),
    (Fault::PageKeysAreText, &[UNCHANGED]),
    (Fault::SkipsFirstKeys, &[UNCHANGED]),
    (Fault::DropsEnds, &[UNCHANGED]),
    (Fault::DropsMaxKeys, &[UNCHANGED]),
    (Fault::DropsMaxBytes, &[UNCHANGED]),
    (Fault::HalvesHashKeys, &[UNCHANGED]),
    (Fault::DropsCuts, &[UNCHANGED]),
    (Fault::DropsEvery, &[UNCHANGED]),
    (Fault::DropsWork, &[UNCHANGED]),
    (Fault::RoundsSums, &[UNCHANGED]),
    (Fault::CutsWindows, &[UNCHANGED]),
    (Fault::WindowsAreTheLast, &[UNCHANGED]),
    (Fault::CutsVersions, &[UNCHANGED]),
    (Fault::HalvesHashes, &[UNCHANGED]),
    (Fault::VersionsAreTheLast, &[UNCHANGED]),
    (Fault::DropsPromisedEntry, &[UNCHANGED]),
    (Fault::BlursBallot, &[UNCHANGED, REFUSAL]),
    (Fault::PromiseIsEntry, &[OWN]),
    (Fault::DropsEra, &[UNCHANGED]),
    (Fault::RoundsEras, &[UNCHANGED, REFUSAL, OWN]),
    (Fault::CutsBoots, &[UNCHANGED]),
    (Fault::DropsCopiedPromise, &[UNCHANGED]),
    (Fault::ForgetsEverywhere, &[UNCHANGED]),
    (Fault::ForgetsAtOnce, &[UNCHANGED]),
    (Fault::BlursForgotten, &[UNCHANGED]),
    (Fault::CutsRecords, &[UNCHANGED]),
    (Fault::DropsPromises, &[UNCHANGED]),
    (Fault::RecordsAreTheLast, &[UNCHANGED]),
    (Fault::BlursMarks, &[UNCHANGED]),
    (Fault::BlursJoining, &[UNCHANGED]),
    (Fault::StaleIsError, &[REFUSAL]),
    (Fault::DropsCopied, &[UNCHANGED]),
    (Fault::BlursSeals, &[UNCHANGED]),
    (Fault::RoundsCollections, &[UNCHANGED, REFUSAL]),
    (Fault::RepairIsWrite, &[OWN]),
    (Fault::DropsMarks, &[UNCHANGED]),
    (Fault::PagesWithoutMarks, &[UNCHANGED]),
    (Fault::DropsLeftOut, &[UNCHANGED]),
    (Fault::BlursLeftOut, &[UNCHANGED]),
    (Fault::SweepsAreTheLast, &[UNCHANGED]),
    (Fault::BlursCollected, &[UNCHANGED]),
    (Fault::RoundsExpiries, &[UNCHANGED]),
    (Fault::DropsExpired, &[UNCHANGED]),
    (Fault::BeforeIsError, &[REFUSAL]),
    (Fault::TwoReplicas, &[SAME_REPLICA]),
    (Fault::SecondReplicaUnderLoad, &[SAME_REPLICA]),
];

async fn faults_are_caught() {
    for fault in [Fault::None, Fault::AtOnce, Fault::RefusesWhenFull] {
        assert_eq!(link_complaint(fault).await, None, "{fault:?}");
    }
    are_caught(FAULTS, link_complaint).await;
}

#[tokio::test]
async fn faults_are_caught_on_a_current_thread_runtime() {
    faults_are_caught().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_caught_on_a_multi_thread_runtime() {
    faults_are_caught().await;
}

/// Links that wait for ever, which takes a while to tell.
const WAITING: &[(Fault, &[&str])] = &[
    (Fault::HangsTogether, &[NOT_WAITING]),
    (Fault::OneAtATime, &[AT_REST]),
    (Fault::Permits, &[AT_REST]),
    (Fault::FairLock, &[AT_REST]),
    (Fault::FullQueue, &[AT_REST]),
    (Fault::FullBuffer, &[AT_REST]),
];

#[tokio::test(start_paused = true)]
async fn calls_that_wait_forever_are_caught_on_a_current_thread_runtime() {
    are_caught(WAITING, link_complaint).await;
}

/// All at once, for each takes as long as the suite is patient.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_forever_are_caught_on_a_multi_thread_runtime() {
    are_caught_at_once(WAITING, link_complaint).await;
}

/// A sound link to another continent conforms.
#[tokio::test(start_paused = true)]
async fn a_slow_link_conforms() {
    assert_eq!(link_complaint(Fault::FarAway).await, None);
}

/// Bug: a call fails, and its user is told no more than that.
#[tokio::test]
async fn a_failure_is_shown_with_all_of_its_causes() {
    let complaint = link_complaint(Fault::Fails).await.unwrap();
    for part in ["no answer came back", "the store failed", "no air"] {
        assert!(complaint.contains(part), "{part}: {complaint}");
    }
}

/// A transport behind a pointer, as a coordinator of mixed links has it.
#[tokio::test]
async fn a_transport_behind_a_pointer_conforms() {
    conformance::transport(|| async {
        let link: Arc<dyn Transport> = Arc::new(Replica::new(OneLock::default()));
        (link, ())
    })
    .await;
}
