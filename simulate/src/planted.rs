//! Bugs, to find out whether the oracle finds them.
//!
//! Each is a few lines in a wrapper around a store or a link, a lie about a
//! setting, or a change to the coordinator in `mutant`. None of them is in the
//! library.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kvquorum_core::{
    Entry, Key, Limits, Merged, Request, Response, Store, StoreError, Timestamp, Transport,
    TransportError, Version,
};
use kvquorum_mem::sim::Disk;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::oracle::{Settings, Shared};
use crate::spy::{current, on_behalf};

macro_rules! bugs {
    ($($(#[$rule:meta])* $bug:ident: $name:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $($(#[$rule])* $bug,)* }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)* }
            }

            pub fn id(self) -> &'static str {
                match self { $(Self::$bug => stringify!($bug),)* }
            }
        }
    };
}

bugs! {
    // Stores.
    Overwrites: "a store overwrites without comparing",
    GreaterOrEqual: "a store compares with >=: an equal entry is superseded",
    TiesByArrival: "a store decides ties of versions by arrival, for the last",
    TiesForFirst: "a store decides ties of versions by arrival, for the first",
    IgnoresCounter: "a store compares milliseconds, and no counters",
    WriterFirst: "a store compares writers before timestamps",
    AcksBeforeStoring: "a replica acks, and stores a while later",
    AcksWithoutStoring: "a replica acks, and sometimes does not store",
    DropsTombstones: "a store removes the entry when it merges a tombstone",
    IgnoresTombstones: "a store acks a tombstone, and keeps the value",
    HidesSuperseding: "a store keeps the greater entry, and says applied",
    StaleReads: "a store answers with what it held a moment ago",
    LosesMerge: "a store compares and stores in two steps",

    // Replicas.
    DriftUnit: "the bound on drift is in the wrong unit",
    DriftUnchecked: "the bound on drift is not looked at",

    // Links.
    AbsentIsError: "a replica that answers \"no such key\" is not counted",
    HangIsAck: "a call that hangs is counted as an ack",
    RefusalIsAck: "a refusal is counted as an ack",
    SupersededHidden: "a superseded ack is counted, and hidden",
    LostIsNotSent: "a lost answer is taken for a request that was not sent",
    FailureIsRefusal: "a store's failure is taken for a refusal",
    AnswersSwapped: "an answer is given to another call",
    SentToQuorum: "a write is sent to W replicas only",
    RefusedComesAgain: "a link reports a refusal, and delivers the request once more",
    RepairRestamps: "a repair has a fresh version",
    RepairDeletes: "a repair deletes",
    RepairPretends: "a repair is not sent, and counted as acked",

    // Coordinators: settings.
    WriteQuorum: "W is off by one",
    ReadQuorum: "R is off by one",
    NoBackground: "stragglers are given up when the operation is decided",
    NoBound: "background work has no bound",
    NoRepair: "replicas found behind are not repaired",
    ObservesNothing: "a clock ignores what it observes",
    NewClock: "a clock forgets what it gave out",
    NotBeforeIgnored: "a coordinator that begins anew stamps below what its store holds",
    NeverRestamped: "a superseded write is not stamped again",

    // Coordinators: code.
    Majority: "the majority of equal answers wins",
    FirstAnswer: "the first answer wins",
    TombstoneIsAbsent: "a read passes over tombstones",
    ClockFollowsWall: "a clock goes back with the wall clock",
    CounterWraps: "a counter overflows within a millisecond",
    EqualIgnored: "a clock ignores an observed time that equals its own",
    PendingNotApplied: "a write that is under way is called not applied",
    EarlierForgotten: "earlier attempts are forgotten when a write is called not applied",
    DropCancels: "a dropped future cancels the calls",
    StragglersCancelled: "stragglers are cancelled",
    BlockingReturnsEarly: "a read that repairs first returns early",
    LateNotRepaired: "replicas that answer after the decision are not repaired",
    WaitsForAll: "a write waits for all replicas",
    FailsAtFirst: "a write fails at the first error",
    NoTimeLimit: "a call has no time limit",
    SupersededIgnored: "a superseded ack is taken for an ack",
    RestampedEqual: "a superseded write is sent again as it was",
}

impl Bug {
    /// Whether it is in the coordinator of `mutant`.
    pub fn is_mutant(self) -> bool {
        self as usize >= Self::Majority as usize
    }

    pub fn is_store(self) -> bool {
        self as usize <= Self::LosesMerge as usize
    }

    fn is_link(self) -> bool {
        let place = self as usize;
        Self::AbsentIsError as usize <= place && place <= Self::RepairPretends as usize
    }

    /// What a replica admits.
    pub fn limits(bug: Option<Self>, mut limits: Limits) -> Limits {
        match bug {
            Some(Self::DriftUnit) => limits.max_drift *= 1_000,
            Some(Self::DriftUnchecked) => limits.max_drift = Duration::MAX,
            _ => {}
        }
        limits
    }

    /// How a coordinator is really set.
    pub fn settings(bug: Option<Self>, mut settings: Settings) -> Settings {
        match bug {
            Some(Self::NoBackground) => settings.background = 0,
            Some(Self::NoBound) => settings.background = usize::MAX,
            Some(Self::NoRepair) => {
                settings.repairs = false;
                settings.blocking = false;
            }
            Some(Self::ObservesNothing) => settings.max_drift = Duration::ZERO,
            Some(Self::NeverRestamped) => settings.attempts = 1,
            _ => {}
        }
        settings
    }
}

/// A store with a bug, or without.
pub enum PlantedStore {
    Sound(Arc<Disk>),
    Buggy(Arc<Buggy>),
}

pub struct Buggy {
    bug: Bug,
    data: Mutex<Data>,
}

#[derive(Default)]
struct Data {
    entries: BTreeMap<Key, Entry>,
    /// What was replaced, and when.
    before: BTreeMap<Key, (Instant, Option<Entry>)>,
}

impl PlantedStore {
    pub fn new(bug: Option<Bug>, disk: Arc<Disk>) -> Arc<Self> {
        Arc::new(match bug {
            Some(bug) if bug.is_store() => Self::Buggy(Arc::new(Buggy {
                bug,
                data: Mutex::default(),
            })),
            _ => Self::Sound(disk),
        })
    }

    pub fn entry(&self, key: &Key) -> Option<Entry> {
        match self {
            Self::Sound(disk) => disk.entry(key),
            Self::Buggy(buggy) => buggy.data().entries.get(key).cloned(),
        }
    }
}

impl Buggy {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, key: &Key, entry: Entry) {
        let mut data = self.data();
        let before = data.entries.insert(key.clone(), entry);
        data.before.insert(key.clone(), (Instant::now(), before));
    }

    fn merge(&self, key: &Key, entry: Entry) -> Merged {
        let stored = self.data().entries.get(key).cloned();
        let sound = Merged::verdict(stored.as_ref(), &entry);
        let Some(stored) = stored else {
            if self.bug != Bug::AcksWithoutStoring || !one_in_five(&entry) {
                self.set(key, entry);
            }
            return Merged::Applied;
        };
        let by = stored.version;
        let (ours, theirs) = (by, entry.version);
        let superseded = Merged::Superseded { by };
        let verdict = match self.bug {
            Bug::Overwrites => Merged::Applied,
            Bug::GreaterOrEqual if stored >= entry => superseded,
            Bug::TiesByArrival if ours == theirs => Merged::Applied,
            Bug::TiesForFirst if ours == theirs && stored != entry => superseded,
            Bug::IgnoresCounter if ours.timestamp.millis() == theirs.timestamp.millis() => {
                Merged::Applied
            }
            Bug::WriterFirst if ours.writer > theirs.writer => superseded,
            Bug::WriterFirst if ours.writer < theirs.writer => Merged::Applied,
            _ => sound,
        };
        let stores = match self.bug {
            Bug::AcksWithoutStoring => !one_in_five(&entry),
            Bug::IgnoresTombstones => entry.value.is_some(),
            _ => true,
        };
        if verdict == Merged::Applied && stores {
            if self.bug == Bug::DropsTombstones && entry.value.is_none() {
                self.data().entries.remove(key);
            } else {
                self.set(key, entry);
            }
        }
        match self.bug {
            Bug::HidesSuperseding => Merged::Applied,
            _ => verdict,
        }
    }
}

fn one_in_five(entry: &Entry) -> bool {
    entry.version.timestamp.to_bits().is_multiple_of(5)
}

impl Store for PlantedStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        if let Self::Buggy(buggy) = self
            && buggy.bug == Bug::StaleReads
            && let Some((when, before)) = buggy.data().before.get(key)
            && when.elapsed() < Duration::from_millis(20)
        {
            return Ok(before.clone());
        }
        Ok(self.entry(key))
    }

    async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
        let buggy = match self {
            Self::Sound(disk) => return disk.merge(key, entry).await,
            Self::Buggy(buggy) => buggy,
        };
        match buggy.bug {
            Bug::AcksBeforeStoring => {
                let merged = Merged::verdict(self.entry(key).as_ref(), &entry);
                let (buggy, key) = (Arc::clone(buggy), key.clone());
                tokio::spawn(async move {
                    sleep(Duration::from_millis(5)).await;
                    buggy.merge(&key, entry);
                });
                Ok(merged)
            }
            Bug::LosesMerge => {
                let merged = Merged::verdict(self.entry(key).as_ref(), &entry);
                sleep(Duration::from_millis(1)).await;
                if merged == Merged::Applied {
                    buggy.set(key, entry);
                }
                Ok(merged)
            }
            _ => Ok(buggy.merge(key, entry)),
        }
    }

    fn get_now(&self, key: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        match self {
            Self::Sound(disk) => disk.get_now(key),
            Self::Buggy(_) => None,
        }
    }

    fn merge_now(&self, key: &Key, entry: &Entry) -> Option<Result<Merged, StoreError>> {
        match self {
            Self::Sound(disk) => disk.merge_now(key, entry),
            Self::Buggy(_) => None,
        }
    }

    async fn scan(&self, _: Bound<&Key>, _: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
        Ok(Vec::new())
    }
}

/// What a link with a bug has to know.
pub struct Place {
    pub oracle: Shared,
    pub time_limit: Duration,
    pub replica: usize,
    pub w: usize,
}

/// A link with a bug, or the link as it is.
pub fn link(bug: Option<Bug>, inner: Arc<dyn Transport>, place: Place) -> Arc<dyn Transport> {
    match bug {
        Some(bug) if bug.is_link() => Arc::new(BuggyLink {
            bug,
            inner,
            place,
            last: Mutex::default(),
        }),
        _ => inner,
    }
}

struct BuggyLink {
    bug: Bug,
    inner: Arc<dyn Transport>,
    place: Place,
    /// The last answer to a get, and how many are under way.
    last: Mutex<(Option<Response>, usize)>,
}

#[derive(Debug, thiserror::Error)]
#[error("planted")]
struct Planted;

impl BuggyLink {
    /// What came back within half the time limit. The call itself goes on.
    async fn hasty(&self, request: Request) -> Option<Result<Response, TransportError>> {
        let (send, receive) = oneshot::channel();
        let (inner, limit, op) = (Arc::clone(&self.inner), self.place.time_limit, current());
        tokio::spawn(on_behalf(op, async move {
            if let Ok(result) = timeout(limit, inner.call(request)).await {
                let _ = send.send(result);
            }
        }));
        timeout(self.place.time_limit / 2, receive).await.ok()?.ok()
    }

    fn is_repair(&self, request: &Request) -> bool {
        let oracle = self.place.oracle.lock();
        matches!(request, Request::Merge { .. }) && !current().is_some_and(|op| oracle.is_write(op))
    }

    fn repair(&self, mut request: Request) -> Request {
        if let Request::Merge { entry, .. } = &mut request {
            let Version { timestamp, .. } = &mut entry.version;
            match self.bug {
                Bug::RepairRestamps => *timestamp = Timestamp::from_bits(timestamp.to_bits() + 1),
                _ => entry.value = None,
            }
        }
        request
    }

    fn last(&self) -> MutexGuard<'_, (Option<Response>, usize)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Transport for BuggyLink {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        let is_merge = matches!(request, Request::Merge { .. });
        match self.bug {
            Bug::HangIsAck if is_merge => {
                let answer = self.hasty(request).await;
                answer.unwrap_or(Ok(Response::Merged(Merged::Applied)))
            }
            Bug::LostIsNotSent if is_merge => {
                let answer = self.hasty(request).await;
                answer.unwrap_or_else(|| Err(TransportError::NotSent(Planted.into())))
            }
            Bug::FailureIsRefusal => match self.inner.call(request).await {
                Err(TransportError::Store(error)) => Err(TransportError::Rejected(error.into())),
                answer => answer,
            },
            Bug::SentToQuorum if is_merge && self.place.replica >= self.place.w => {
                Err(TransportError::NoAnswer(Planted.into()))
            }
            Bug::RepairRestamps | Bug::RepairDeletes if self.is_repair(&request) => {
                self.inner.call(self.repair(request)).await
            }
            Bug::RepairPretends if self.is_repair(&request) => {
                Ok(Response::Merged(Merged::Applied))
            }
            Bug::AnswersSwapped if !is_merge => {
                self.last().1 += 1;
                let answer = self.inner.call(request).await;
                let mut last = self.last();
                last.1 = last.1.saturating_sub(1);
                match (answer, last.1) {
                    (Ok(answer), 1..) => {
                        let other = last.0.replace(answer.clone());
                        Ok(other.unwrap_or(answer))
                    }
                    (answer, _) => answer,
                }
            }
            Bug::RefusedComesAgain if is_merge => {
                let answer = self.inner.call(request.clone()).await?;
                if let Response::Refused(_) = answer {
                    let (inner, limit) = (Arc::clone(&self.inner), self.place.time_limit);
                    tokio::spawn(on_behalf(current(), async move {
                        sleep(limit).await;
                        drop(timeout(limit, inner.call(request)).await);
                    }));
                }
                Ok(answer)
            }
            bug => match (bug, self.inner.call(request).await?) {
                (Bug::AbsentIsError, Response::Entry(None)) => {
                    Err(TransportError::NoAnswer(Planted.into()))
                }
                (Bug::SupersededHidden, Response::Merged(_))
                | (Bug::RefusalIsAck, Response::Refused(_))
                    if is_merge =>
                {
                    Ok(Response::Merged(Merged::Applied))
                }
                (_, answer) => Ok(answer),
            },
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
