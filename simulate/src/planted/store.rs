//! Stores with bugs.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{
    Ack, Action, Asked, Change, Conditional, Decision, Entry, Key, Record, Refusal, Response,
    ScanLimit, Store, StoreError, Timestamp, Told, Version,
};
use kvquorum_testing::sim::{Disk, Random};
use tokio::time::{Instant, sleep};

use super::Bug;
use super::conditional::Backend;
use super::promise;
use crate::oracle::{Floors, Shared};

/// Versions that a link with a bug has marked for stores to treat otherwise: a change
/// does not tell who has sent it.
pub type Marks = Arc<Mutex<HashSet<Version>>>;

/// A store with a bug, or without.
pub enum PlantedStore {
    Sound(Arc<Disk>),
    Conditional(Conditional<Backend>),
    Buggy(Arc<Buggy>),
}

pub struct Buggy {
    bug: Bug,
    marks: Marks,
    data: Mutex<Data>,
}

#[derive(Default)]
struct Data {
    records: BTreeMap<Key, Record>,
    /// What was replaced, and when.
    before: BTreeMap<Key, (Instant, Option<Record>)>,
}

impl PlantedStore {
    /// The disk, unless it is to be a conditional write that keeps the records.
    pub fn new(
        bug: Option<Bug>,
        disk: Arc<Disk>,
        is_conditional: bool,
        random: Random,
        marks: &Marks,
        (oracle, replica): (&Shared, usize),
    ) -> Arc<Self> {
        let ignores_tag = bug == Some(Bug::SwapIgnoresTag);
        Arc::new(match bug {
            _ if is_conditional || ignores_tag => {
                let oracle = oracle.clone();
                let backend = Backend::new(random, ignores_tag, oracle, replica);
                Self::Conditional(Conditional::new(backend))
            }
            Some(bug) if bug.is_store() => Self::Buggy(Arc::new(Buggy {
                bug,
                marks: Arc::clone(marks),
                data: Mutex::default(),
            })),
            _ => Self::Sound(disk),
        })
    }

    /// Whether the oracle is told of each change when it is made.
    pub fn tells_swaps(&self) -> bool {
        matches!(self, Self::Conditional(_))
    }

    pub fn record(&self, key: &Key) -> Option<Record> {
        match self {
            Self::Sound(disk) => disk.record(key),
            Self::Conditional(store) => store.backend().record(key),
            Self::Buggy(buggy) => buggy.record(key),
        }
    }

    /// Its node has crashed, and all of its data were to survive.
    pub fn crashed(&self) {
        let Self::Buggy(buggy) = self else { return };
        let mut data = buggy.data();
        if buggy.bug == Bug::PromiseNotDurable {
            let records = std::mem::take(&mut data.records).into_iter();
            let kept = |(key, record): (Key, Record)| Some((key, record.into_entry()?.into()));
            data.records = records.filter_map(kept).collect();
        }
        if let Some(mut own) = data.records.get(&Key::from("")).and_then(Record::entry)
            && let Some(marks) = &own.value
        {
            // As its documentation says: a byte for the format, whether it is joining, and
            // then the eras.
            let mut marks = marks.to_vec();
            match buggy.bug {
                Bug::EraNotDurable => marks[2..10].copy_from_slice(&1_u64.to_be_bytes()),
                Bug::JoiningNotDurable => marks[1] = 0,
                Bug::SealNotDurable => marks[18..26].fill(0),
                Bug::MarkNotDurable => marks[26..34].fill(0),
                _ => return,
            }
            own.value = Some(marks.into());
            data.records.insert(Key::from(""), own.into());
        }
    }

    /// Its node has crashed, and none of its data survive.
    pub fn lost(&self) {
        if let Self::Buggy(buggy) = self {
            *buggy.data() = Data::default();
        }
    }
}

impl Buggy {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, key: &Key) -> Option<Record> {
        self.data().records.get(key).cloned()
    }

    /// What its replica is sealed up to.
    fn sealed(&self) -> Timestamp {
        Floors::kept(self.record(&Key::from("")).as_ref()).sealed
    }

    fn is_marked(&self, version: Version) -> bool {
        let marks = self.marks.lock();
        let marks = marks.unwrap_or_else(PoisonError::into_inner);
        marks.contains(&version)
    }

    fn act(&self, key: &Key, action: Action) {
        let mut data = self.data();
        let before = match action {
            Action::Keep => return,
            Action::Replace(record) => data.records.insert(key.clone(), record),
            Action::Remove => data.records.remove(key),
        };
        data.before.insert(key.clone(), (Instant::now(), before));
    }

    async fn apply(self: Arc<Self>, key: Key, change: Change<'_>) -> Response {
        let held = self.record(&key);
        // What a replica keeps of itself is the business of one bug only.
        if key.is_empty() {
            let decision = change.decide(held.as_ref());
            let Decision { action, response } = match self.bug {
                Bug::SealPastClock => seal_past_clock(self.sealed(), decision),
                _ => decision,
            };
            self.act(&key, action);
            return response;
        }
        match self.bug {
            Bug::AcksBeforeStoring => {
                let change = change.into_owned();
                let response = change.clone().decide(held.as_ref()).response;
                tokio::spawn(async move {
                    sleep(Duration::from_millis(5)).await;
                    let held = self.record(&key);
                    self.act(&key, change.decide(held.as_ref()).action);
                });
                response
            }
            Bug::DecidesOutside => {
                let Decision { action, response } = change.decide(held.as_ref());
                sleep(Duration::from_millis(1)).await;
                self.act(&key, action);
                response
            }
            Bug::SeenAfterSeal => self.apply_late(key, change).await,
            bug => {
                let Decision { action, response } = if bug.is_promise() {
                    let is_marked = |version| self.is_marked(version);
                    promise::decide(bug, held.as_ref(), change, is_marked)
                } else if bug.is_of_collection() {
                    decide_marked(bug, held.as_ref(), change, self.sealed())
                } else {
                    decide(bug, held.as_ref(), change)
                };
                self.act(&key, action);
                response
            }
        }
    }
}

impl Buggy {
    /// A while after it was decided, unless another change came in between.
    async fn apply_late(&self, key: Key, change: Change<'_>) -> Response {
        loop {
            let held = self.record(&key);
            let Decision { action, response } = change.clone().decide(held.as_ref());
            sleep(Duration::from_millis(20)).await;
            if self.record(&key) == held {
                self.act(&key, action);
                return response;
            }
        }
    }
}

/// A seal that rises is one that was asked for by a clock that is a minute ahead.
fn seal_past_clock(before: Timestamp, mut decision: Decision) -> Decision {
    let Response::Told(told) = &mut decision.response else {
        return decision;
    };
    let Told::Marks(marks) = &mut **told else {
        return decision;
    };
    let Action::Replace(record) = &mut decision.action else {
        return decision;
    };
    let (Some(mut own), false) = (record.entry(), marks.is_joining) else {
        return decision;
    };
    let ahead = Timestamp::new(marks.sealed.millis() + 60_000, 0);
    if let (Some(kept), Some(ahead), true) = (&own.value, ahead, marks.sealed > before) {
        marks.sealed = ahead;
        let mut kept = kept.to_vec();
        kept[18..26].copy_from_slice(&ahead.to_bits().to_be_bytes());
        own.value = Some(kept.into());
        *record = own.into();
    }
    decision
}

/// What a change comes to that marks forbid, with a bug.
fn decide_marked(
    bug: Bug,
    held: Option<&Record>,
    change: Change<'_>,
    sealed: Timestamp,
) -> Decision {
    let is_sealed = |anchor: Version| anchor.timestamp < sealed;
    let asked = change.asked();
    let sound = change.decide(held);
    let is_before = matches!(sound.response, Response::Refused(Refusal::Before { .. }));
    match (bug, asked) {
        (Bug::BallotsIgnoreSeal, Asked::Prepare(ballot)) if is_before => {
            Change::prepare(ballot).decide(held)
        }
        (Bug::RepairsIgnoreMark, Asked::Repair(entry)) if is_before => {
            Change::write(entry).decide(held)
        }
        (Bug::SupersededBeforeSeal, Asked::Write(entry)) if is_before => {
            match held.and_then(Record::entry) {
                Some(held) if held > entry => Decision {
                    action: Action::Keep,
                    response: Response::Ack(Ack::Superseded { by: held.version }),
                },
                _ => sound,
            }
        }
        (Bug::TombstoneTakesAnchor, Asked::Sweep) => match &sound.action {
            Action::Replace(left) if left.entry().is_none() => Change::remove().decide(held),
            _ => sound,
        },
        (Bug::AnchorDroppedAtSeal, Asked::Sweep)
            if held.and_then(Record::anchor).is_some_and(is_sealed) =>
        {
            let entry = held.and_then(Record::entry);
            let action = entry.map_or(Action::Remove, |entry| Action::Replace(entry.into()));
            Decision { action, ..sound }
        }
        (Bug::AnchorStays, Asked::Sweep) => {
            let left = match &sound.action {
                Action::Keep => return sound,
                Action::Replace(left) => left.entry().map(Record::from),
                Action::Remove => None,
            };
            // It is promised again as soon as it is dropped.
            let anchor = held.and_then(Record::anchor);
            let again = anchor.map(|anchor| Change::prepare(anchor).decide(left.as_ref()));
            match again {
                Some(Decision { action, .. }) if action != Action::Keep => {
                    Decision { action, ..sound }
                }
                _ => sound,
            }
        }
        (Bug::SweepIgnoresMark, Asked::Sweep)
            if held
                .and_then(Record::entry)
                .is_some_and(|it| it.value.is_none()) =>
        {
            Change::remove().decide(held)
        }
        _ => sound,
    }
}

/// What a change comes to, with a bug.
fn decide(bug: Bug, held: Option<&Record>, change: Change<'_>) -> Decision {
    let sound = change.clone().decide(held);
    let refused = |decision: &Decision| matches!(decision.response, Response::Refused(_));
    if bug == Bug::NoneAsFar {
        let over_nothing = change.decide(None);
        return if refused(&over_nothing) {
            over_nothing
        } else {
            sound
        };
    }
    let (Asked::Write(entry) | Asked::Repair(entry)) = change.asked() else {
        return sound;
    };
    if let (Bug::TwoStepsAhead, true) = (bug, refused(&sound))
        && let Some(mut further) = held.and_then(Record::entry)
    {
        if let Some(next) = further.version.timestamp.next() {
            further.version.timestamp = next;
        }
        return change.decide(Some(&further.into()));
    }
    if refused(&sound) {
        return sound;
    }
    let stores = match bug {
        Bug::AcksWithoutStoring => !entry.version.timestamp.to_bits().is_multiple_of(5),
        Bug::IgnoresTombstones => entry.value.is_some(),
        _ => true,
    };
    let Decision { action, response } = sound;
    let ack = match held.and_then(Record::entry) {
        Some(held) => ack(bug, &held, &entry, &response),
        None => Ack::Applied,
    };
    let is_greater = ack == Ack::Applied && response == Response::Ack(ack);
    let action = match bug {
        _ if !stores => Action::Keep,
        Bug::DropsTombstones if is_greater && entry.value.is_none() && held.is_some() => {
            Action::Remove
        }
        _ if response == Response::Ack(ack) => action,
        _ if ack == Ack::Applied => Action::Replace(entry.into()),
        _ => Action::Keep,
    };
    let response = match bug {
        Bug::HidesSuperseding => Response::Ack(Ack::Applied),
        _ => Response::Ack(ack),
    };
    Decision { action, response }
}

/// How an entry compares with what is held, with a bug.
fn ack(bug: Bug, held: &Entry, entry: &Entry, sound: &Response) -> Ack {
    let (ours, theirs) = (held.version, entry.version);
    let superseded = Ack::Superseded { by: ours };
    let (our_millis, their_millis) = (ours.timestamp.millis(), theirs.timestamp.millis());
    match bug {
        Bug::Overwrites => Ack::Applied,
        Bug::GreaterOrEqual if held >= entry => superseded,
        Bug::TiesByArrival if ours == theirs => Ack::Applied,
        Bug::TiesForFirst if ours == theirs && held != entry => superseded,
        Bug::IgnoresCounter if our_millis == their_millis => Ack::Applied,
        Bug::WriterFirst if ours.writer > theirs.writer => superseded,
        Bug::WriterFirst if ours.writer < theirs.writer => Ack::Applied,
        _ => match sound {
            Response::Ack(ack) => *ack,
            _ => Ack::Applied,
        },
    }
}

impl Store for PlantedStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let buggy = match self {
            Self::Sound(disk) => return disk.get(key).await,
            Self::Conditional(store) => return store.get(key).await,
            Self::Buggy(buggy) => buggy,
        };
        if buggy.bug == Bug::StaleReads
            && !key.is_empty()
            && let Some((when, before)) = buggy.data().before.get(key)
            && when.elapsed() < Duration::from_millis(20)
        {
            return Ok(before.clone());
        }
        Ok(buggy.record(key))
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        match self {
            Self::Sound(disk) => disk.apply(key, change).await,
            Self::Conditional(store) => store.apply(key, change).await,
            Self::Buggy(buggy) => Ok(Arc::clone(buggy).apply(key.clone(), change).await),
        }
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        match self {
            Self::Sound(disk) => disk.scan(range, limit).await,
            Self::Conditional(store) => store.scan(range, limit).await,
            Self::Buggy(buggy) => Ok(limit.take(buggy.data().records.range::<Key, _>(range))),
        }
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        match self {
            Self::Sound(disk) => disk.try_get(key),
            _ => None,
        }
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        match self {
            Self::Sound(disk) => disk.try_apply(key, change),
            _ => Err(change),
        }
    }
}
