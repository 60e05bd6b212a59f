//! Whether what happened is what was promised.
//!
//! Every write carries a value of its own, so that each entry that turns up
//! anywhere is traced to the operation that made it, and every promise becomes
//! a comparison of versions: with what had been acknowledged when an operation
//! began, and with what each replica has acked since it last lost data. Each
//! event costs a constant number of comparisons; only where data are lost are
//! the entries gone through that the loss may have touched.
//!
//! The oracle watches at three places: what clients ask and are told, what goes
//! over each link, and what each store answers.

mod asked;
mod attempts;
mod clocks;
mod collected;
mod counts;
mod ends;
mod entries;
mod expiry;
mod history;
mod links;
mod marks;
mod ops;
mod passes;
mod reads;
mod registers;
mod scans;
mod stores;
mod storm;
mod writes;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clocks::{Bounds, Stamps};
use entries::{Held, KeyState, Origin, show};
use kvquorum_core::{
    Ack, Asked, Key, Record, Refusal, ReplicaStats, Request, RequestKind, Response, Timestamp,
    Version, WallClock, WriterId,
};
use kvquorum_testing::sim::{Clock, Event, Survives, World};
use ops::{Attempt, Call, Op, Reading};
use registers::Ballots;
use scans::PageState;

pub use collected::Floors;
pub use counts::Counts;
pub use entries::Stamp;
pub use ops::{Answered, End};
pub use scans::Scanned;
pub use stores::Admitted;

use crate::map::{Ask, Found, PageFailed, Part, Read, Said, Told, Written};
use crate::trace::{Trace, Who};

/// Tokio's timers go by whole milliseconds.
const TIMER_SLACK: u64 = 2_000;

/// How a coordinator is set, as far as promises depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub time_limit: Duration,
    pub attempts: u32,
    pub background: usize,
    pub repairs: bool,
    pub blocking: bool,
    pub max_drift: Duration,
    /// How many keys a page of a scan has at the most.
    pub page: usize,
    /// Of operations on registers.
    pub ballots: u32,
    pub patience: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
    Get,
    /// A write that brings its own timestamp, sent to all replicas without a
    /// coordinator. Nothing is promised to it.
    Foreign,
    /// An operation on a register.
    Register(Ask),
    Scan,
    /// A replica is to rejoin.
    Rejoin,
    Pass,
    /// Deletes are collected.
    Collect,
    /// Hints are delivered, for as long as the coordinator is there.
    Handoff,
}

impl Kind {
    /// Whether it sends an entry of its own to all replicas, at once.
    fn is_plain_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::Foreign)
    }

    /// Whether it is about no key of its own, and its calls are those of many steps.
    fn is_driven(self) -> bool {
        matches!(
            self,
            Self::Rejoin | Self::Pass | Self::Collect | Self::Handoff
        )
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    pub promise: &'static str,
    pub what: String,
}

/// Looks into a store, past the store itself.
pub type Look = Box<dyn Fn(&Key) -> Option<Record> + Send>;

struct ReplicaState {
    look: Look,
    clock: Clock,
    /// What it has acked under each key and not lost since: exactly what its
    /// store holds, if the store keeps its contract.
    holds: Vec<Held>,
    /// All that it has held under each key, one after the other, where its store tells of
    /// each change when it is made. Elsewhere that is when the answer is there.
    swaps: Option<Vec<Vec<Held>>>,
    synced: Vec<Held>,
    losses: u32,
    /// What it went by when its process ended, each time.
    lives: Vec<Floors>,
    era: u64,
    /// The latest time that its clock may ever have read, in milliseconds.
    latest: u64,
    /// Its seal and its mark, as its store keeps them, and as the replica goes by them.
    floors: Floors,
    in_force: Floors,
}

struct CoordinatorState {
    settings: Settings,
    stamps: Stamps,
    under_way: usize,
    /// For each replica.
    background: Vec<usize>,
    given_up: Vec<u64>,
    /// Dropped, and not necessarily counted.
    perhaps_given_up: Vec<u64>,
    timed_out: Vec<u64>,
    panicked: Vec<u64>,
    has_scanned: bool,
    /// Whether a replica refused a hint for good.
    hint_refused: bool,
}

/// A replica has just introduced itself, for this call.
#[derive(Clone, Copy)]
struct Introduced {
    end: End,
    op: Option<usize>,
    attempt: usize,
    started: u64,
}

/// Who sends an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    Put,
    Update,
    RepairOfScan,
    /// Any other, or one that goes on in the background.
    Repair,
}

/// The numbers that are promised something.
#[derive(Clone, Copy, Debug)]
pub struct Quorums {
    pub n: usize,
    pub w: usize,
    pub r: usize,
}

pub struct Oracle {
    world: World,
    quorums: Quorums,
    max_drift: Duration,
    keys: Vec<KeyState>,
    replicas: Vec<ReplicaState>,
    coordinators: Vec<CoordinatorState>,
    clock_steps: Vec<u32>,
    ops: Vec<Op>,
    calls: Vec<Option<Call>>,
    introduced: Option<Introduced>,
    /// A call that has just met another replica than was meant, which is asked who it
    /// is, in the time that the call has left.
    misled: Option<Call>,
    /// All that coordinators gave out.
    versions: HashSet<Version>,
    /// Counts the calls and returns of operations.
    ticks: u64,
    /// At which of them a replica first lost data that no promise outlives.
    lost: Option<u64>,
    /// Whether replicas know of their losses, and no more of them lose their data than
    /// the promises allow.
    knows_losses: bool,
    /// Whether stores may break L-PROMISE, so that it is for clients to notice.
    looks_away: bool,
    /// Whether a delete was ever collected, and the latest time up to which replicas were
    /// to be sealed.
    has_collected: bool,
    has_restored: bool,
    greatest_seal: Timestamp,
    /// Replicas, as a set of bits, that lost data and do not know it.
    unsound: u32,
    violation: Option<Violation>,
    /// Once the history is over, what is dropped is no longer looked at.
    over: bool,
    pub trace: Trace,
    pub counts: Counts,
}

/// The oracle, shared by all who tell it something.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Oracle>>);

impl Shared {
    pub fn new(oracle: Oracle) -> Self {
        Self(Arc::new(Mutex::new(oracle)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Oracle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key of a register: see [`Raw`](crate::map::Raw).
pub fn key(index: usize) -> Key {
    Key::from(format!("/{index}"))
}

/// `None` for the empty key, under which a replica keeps who it is.
fn index_of(key: &Key) -> Option<usize> {
    let digit = key.as_bytes().get(1)?;
    Some(usize::from(digit.saturating_sub(b'0')))
}

impl Oracle {
    pub fn new(
        world: World,
        quorums: Quorums,
        max_drift: Duration,
        keys: usize,
        trace: Trace,
    ) -> Self {
        Self {
            world,
            quorums,
            max_drift,
            keys: (0..keys).map(|_| KeyState::default()).collect(),
            replicas: Vec::new(),
            coordinators: Vec::new(),
            clock_steps: Vec::new(),
            ops: Vec::new(),
            calls: Vec::new(),
            introduced: None,
            misled: None,
            versions: HashSet::new(),
            ticks: 0,
            lost: None,
            knows_losses: false,
            looks_away: false,
            has_collected: false,
            has_restored: false,
            greatest_seal: Timestamp::MIN,
            unsound: 0,
            violation: None,
            over: false,
            trace,
            counts: Counts::default(),
        }
    }

    /// From now on no look is taken at whether stores keep their promises.
    pub fn look_away(&mut self) {
        self.looks_away = true;
    }

    /// From now on no loss breaks a promise.
    pub fn know_losses(&mut self) {
        self.knows_losses = true;
    }

    pub fn add_replica(&mut self, look: Look, clock: Clock, tells_swaps: bool) {
        let keys = self.keys.len();
        let swaps = tells_swaps.then(|| vec![vec![Held::default()]; keys]);
        self.replicas.push(ReplicaState {
            look,
            clock,
            holds: vec![Held::default(); keys],
            swaps,
            synced: vec![Held::default(); keys],
            losses: 0,
            lives: Vec::new(),
            era: 0,
            latest: 0,
            floors: Floors::default(),
            in_force: Floors::default(),
        });
    }

    /// Returns its number.
    pub fn add_coordinator(
        &mut self,
        settings: Settings,
        writer: WriterId,
        clock: Clock,
        clock_index: usize,
    ) -> usize {
        let n = self.quorums.n;
        self.coordinators.push(CoordinatorState {
            settings,
            stamps: Stamps::new(settings, writer, clock, clock_index),
            under_way: 0,
            background: vec![0; n],
            given_up: vec![0; n],
            perhaps_given_up: vec![0; n],
            has_scanned: false,
            hint_refused: false,
            timed_out: vec![0; n],
            panicked: vec![0; n],
        });
        self.coordinators.len() - 1
    }

    /// A coordinator begins where another ended.
    pub fn resumed(&mut self, coordinator: usize, before: usize) {
        *self.counts.faults.entry("client restart").or_default() += 1;
        let numbers = [13, coordinator as u64, before as u64];
        self.log(Who::World, &numbers, || {
            format!("coordinator {coordinator} begins where {before} ended")
        });
    }

    /// The value that somebody found under a key last.
    pub fn seen(&self, key: usize) -> Option<u64> {
        self.keys[key].seen
    }

    /// The keys that are used as registers.
    pub fn registers(&self) -> Vec<usize> {
        let keys = 0..self.keys.len();
        keys.filter(|key| self.keys[*key].is_register).collect()
    }

    /// Whether a replica has made a promise for a key that is no register.
    pub fn has_promises_beside(&self) -> bool {
        let has_promised = |key: usize| {
            let mut replicas = self.replicas.iter();
            replicas.any(|replica| replica.holds[key].anchor.is_some())
        };
        (0..self.keys.len()).any(|key| !self.keys[key].is_register && has_promised(key))
    }

    pub fn now(&self) -> u64 {
        self.world.elapsed().as_micros() as u64
    }

    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    pub fn is_over(&self) -> bool {
        self.over || self.violation.is_some()
    }

    pub fn end(&mut self) {
        self.over = true;
    }

    fn log(&mut self, who: Who, what: &[u64], line: impl FnOnce() -> String) {
        let now = self.now();
        self.trace.event(now, who, what, line);
    }

    pub fn broken(&mut self, promise: &'static str, what: impl FnOnce() -> String) {
        if self.violation.is_none() && !self.over {
            let what = what();
            self.log(Who::World, &[99], || format!("VIOLATION {promise}: {what}"));
            self.trace.end();
            self.violation = Some(Violation { promise, what });
        }
    }

    /// Whether the next call over this link is part of one with an introduction, and
    /// has less time than others.
    pub fn is_introduced(&self, end: End) -> bool {
        self.introduced
            .is_some_and(|introduced| introduced.end == end)
    }

    /// Whose call over this link one would be with this entry, where this is the
    /// operation whose caller makes it.
    pub fn author(&self, end: End, op: Option<usize>, version: Version) -> Author {
        match self.caller(end, op).map(|op| &self.ops[op]) {
            Some(op) if op.kind.is_plain_write() => Author::Put,
            Some(op) if op.ballots.are_of(version) => Author::Update,
            _ => self.repairer(end, op),
        }
    }

    /// The same, of a repair.
    pub fn repairer(&self, end: End, op: Option<usize>) -> Author {
        match self.caller(end, op).map(|op| self.ops[op].kind) {
            Some(Kind::Scan) => Author::RepairOfScan,
            _ => Author::Repair,
        }
    }

    /// The operation whose caller makes the next call over this link.
    fn caller(&self, end: End, op: Option<usize>) -> Option<usize> {
        let introduced = self.introduced.filter(|introduced| introduced.end == end);
        introduced.map_or(op, |introduced| introduced.op)
    }
}
