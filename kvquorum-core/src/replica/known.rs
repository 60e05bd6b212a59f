//! What a replica knows of itself: who it is, its marks, and who called it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::watch;

use crate::cache_padded::CachePadded;
use crate::coordinator::CollectError;
use crate::entry::Key;
use crate::identity::{Identity, Quorums, ReplicaId};
use crate::marks::{Era, Marks, Own};
use crate::random;
use crate::record::Record;
use crate::rules::Floors;
use crate::store::StoreError;
use crate::told::{LastCollection, LastPass, Status, Waits};

/// Shared by all clones of a replica.
pub(super) struct Known {
    /// The era and whether the replica answers in it, as [`State`] has them. It only
    /// rises. 0 until it is known.
    state: AtomicU64,
    /// As the store keeps it, once it was read; 0 until then.
    id: AtomicU64,
    /// What the store is to keep where it keeps none: the same, however many ask at
    /// the same time, so that nobody learns one that is replaced.
    new_id: OnceLock<ReplicaId>,
    /// Drawn anew at each start of the process.
    pub(super) boot: u64,
    announced: AtomicU64,
    /// What it takes no more, and what counts no more.
    floors: Arc<Floors>,
    copied: AtomicU64,
    /// Apart, since whoever serves writes it.
    served: CachePadded<AtomicU64>,
    is_ready: watch::Sender<bool>,
    /// Of the coordinators that called.
    quorums: Mutex<Vec<Quorums>>,
    last_pass: Mutex<Option<LastPass>>,
    last_collection: Mutex<Option<LastCollection>>,
}

/// An era, and whether the replica answers in it: two numbers for each era, so that
/// both are one number, which only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(u64);

impl State {
    fn new(era: Era, is_open: bool) -> Self {
        Self(era.get() << 1 | u64::from(is_open))
    }

    /// That of a request of whichever era, which counts for itself alone, and so cannot
    /// come too late.
    const WHICHEVER: Self = Self(u64::MAX);

    /// Where the replica answers requests of an era, or of any: what has to be
    /// [still](Known::is_still) so when it does.
    #[inline]
    pub(super) fn admits(self, era: Option<Era>) -> Option<Self> {
        match era {
            Some(era) => (self == Self::new(era, true)).then_some(self),
            None => (self.0 & 1 == 1).then_some(Self::WHICHEVER),
        }
    }
}

impl Known {
    pub(super) fn new(floors: &Arc<Floors>) -> Self {
        Self {
            state: AtomicU64::new(0),
            id: AtomicU64::new(0),
            new_id: OnceLock::new(),
            boot: random::number(),
            announced: AtomicU64::new(0),
            floors: Arc::clone(floors),
            copied: AtomicU64::new(0),
            served: CachePadded::default(),
            is_ready: watch::Sender::new(false),
            quorums: Mutex::default(),
            last_pass: Mutex::default(),
            last_collection: Mutex::default(),
        }
    }

    pub(super) fn id(&self) -> Option<ReplicaId> {
        let id = self.id.load(Ordering::Relaxed);
        Some(ReplicaId::new(id.try_into().ok()?))
    }

    /// Whether it is the replica that is meant, or any is.
    #[inline]
    pub(super) fn is(&self, meant: Option<ReplicaId>) -> bool {
        meant.is_none_or(|meant| meant.get() == self.id.load(Ordering::Relaxed))
    }

    /// What the store is to keep where it keeps no id.
    pub(super) fn new_id(&self, id: Option<ReplicaId>) -> ReplicaId {
        let new_id = || id.unwrap_or_else(ReplicaId::random);
        *self.new_id.get_or_init(new_id)
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Whether no era has begun since.
    #[inline]
    pub(super) fn is_still(&self, state: State) -> bool {
        self.state() == state || state == State::WHICHEVER
    }

    /// The marks, once they are known.
    pub(super) fn marks(&self) -> Option<Marks> {
        let State(now) = self.state();
        let number = |number: u64| number.try_into().ok().map(Era::new);
        let era = number(now >> 1)?;
        let announced = number(self.announced.load(Ordering::Relaxed)).unwrap_or(era);
        Some(Marks {
            era,
            announced,
            is_joining: now & 1 == 0,
            sealed: self.floors.sealed(),
            collected: self.floors.collected(),
        })
    }

    /// Takes in who the replica is, as its store keeps it.
    pub(super) fn learn(&self, held: &Record) -> Result<(), StoreError> {
        let own = Own::of(held);
        let Own { id, marks } = own.ok_or_else(|| {
            StoreError::new("what the replica keeps of itself is damaged, or of a later release")
        })?;
        self.id.store(id.get(), Ordering::Relaxed);
        self.take_in(&marks);
        Ok(())
    }

    /// Takes in marks that the store keeps.
    pub(super) fn take_in(&self, marks: &Marks) {
        let announced = marks.announced.get();
        self.announced.fetch_max(announced, Ordering::Relaxed);
        // Before it answers.
        self.floors.take_in(marks);
        let is_open = !marks.is_joining;
        let State(state) = State::new(marks.era, is_open);
        self.state.fetch_max(state, Ordering::AcqRel);
        if is_open {
            self.is_ready.send_if_modified(|is_ready| {
                let was_ready = std::mem::replace(is_ready, true);
                !was_ready
            });
        }
    }

    pub(super) fn readiness(&self) -> watch::Receiver<bool> {
        self.is_ready.subscribe()
    }

    pub(super) fn count_copied(&self) {
        self.copied.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    pub(super) fn count_served(&self) {
        // Two at once may count as one: that it changes is enough, and costs less so.
        let served = self.served.0.load(Ordering::Relaxed);
        self.served
            .0
            .store(served.wrapping_add(1), Ordering::Relaxed);
    }

    /// A number that changes when it is told of a read or a write.
    pub(super) fn served(&self) -> u64 {
        self.served.0.load(Ordering::Relaxed)
    }

    pub(super) fn status(&self, marks: Marks, now_millis: u64) -> Status {
        let last_pass = self.last_pass.lock();
        let last_pass = last_pass.unwrap_or_else(PoisonError::into_inner).clone();
        Status {
            marks,
            boot: self.boot,
            now_millis,
            copied: self.copied(),
            last_pass,
            last_collection: self.last_collection().clone(),
        }
    }

    fn last_collection(&self) -> MutexGuard<'_, Option<LastCollection>> {
        let last = self.last_collection.lock();
        last.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a collection came to, which has ended just now.
    pub(super) fn tell_collection(&self, failure: Option<&CollectError>, ended_millis: u64) {
        let mut last = self.last_collection();
        let before = last.take().and_then(|last| last.waits);
        let waits = failure.map(|failure| {
            let replica = match failure {
                CollectError::Waiting { replica, .. } => Some(replica.clone()),
                CollectError::NotLevel | CollectError::Rejoined => None,
            };
            let since = before.filter(|before| before.replica == replica);
            Waits {
                replica,
                reason: failure.to_string(),
                since_millis: since.map_or(ended_millis, |before| before.since_millis),
            }
        });
        *last = Some(LastCollection {
            ended_millis,
            waits,
        });
    }

    pub(super) fn tell_pass(&self, pass: LastPass) {
        let last_pass = self.last_pass.lock();
        *last_pass.unwrap_or_else(PoisonError::into_inner) = Some(pass);
    }

    pub(super) fn remember(&self, quorums: Quorums) {
        let seen = self.quorums.lock();
        let mut seen = seen.unwrap_or_else(PoisonError::into_inner);
        if seen.len() < Identity::MAX_QUORUMS && !seen.contains(&quorums) {
            seen.push(quorums);
        }
    }

    pub(super) fn quorums(&self) -> Vec<Quorums> {
        let seen = self.quorums.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Under which a replica keeps who it is, and which no request can name.
pub(super) fn own_key() -> Key {
    Key::from("")
}
