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

mod clocks;
mod ends;
mod entries;
mod links;
mod ops;
mod reads;
mod stores;
mod writes;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clocks::{Bounds, Stamps};
use entries::{KeyState, show};
use kvquorum_core::{
    Ack, Entry, Key, Refusal, ReplicaStats, Request, RequestKind, Response, Timestamp, Version,
    WallClock, WriterId,
};
use kvquorum_testing::sim::{Clock, Event, Survives, World};
use ops::{Attempt, Call, Op, Reading};

pub use entries::Stamp;
pub use ops::{Answered, End};

use crate::map::{Found, Part, Read, Said, Written};
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Put,
    Delete,
    Get,
    /// A write that brings its own timestamp, sent to all replicas without a
    /// coordinator. Nothing is promised to it.
    Foreign,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    pub promise: &'static str,
    pub what: String,
}

#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub operations: u64,
    pub acknowledged: u64,
    pub read: u64,
    pub failed: u64,
    pub superseded: u64,
    pub callers_left: u64,
    pub calls: u64,
    pub at_once: u64,
    pub without_answer: u64,
    pub refused: u64,
    pub repairs: u64,
    pub restamped: u64,
    pub faults: HashMap<&'static str, u64>,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.read += other.read;
        self.failed += other.failed;
        self.superseded += other.superseded;
        self.callers_left += other.callers_left;
        self.calls += other.calls;
        self.at_once += other.at_once;
        self.without_answer += other.without_answer;
        self.refused += other.refused;
        self.repairs += other.repairs;
        self.restamped += other.restamped;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}

/// Looks into a store, past the store itself.
pub type Look = Box<dyn Fn(&Key) -> Option<Entry> + Send>;

struct ReplicaState {
    look: Look,
    clock: Clock,
    /// What it has acked under each key and not lost since: exactly what its
    /// store holds, if the store keeps its contract.
    holds: Vec<Option<Stamp>>,
    synced: Vec<Option<Stamp>>,
    losses: u32,
}

struct CoordinatorState {
    settings: Settings,
    stamps: Stamps,
    under_way: usize,
    /// For each replica.
    background: Vec<usize>,
    given_up: Vec<u64>,
    timed_out: Vec<u64>,
    panicked: Vec<u64>,
}

/// A replica has just introduced itself, for this call.
#[derive(Clone, Copy)]
struct Introduced {
    end: End,
    op: Option<usize>,
    attempt: usize,
    started: u64,
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
    /// All that coordinators gave out.
    versions: HashSet<Version>,
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

pub fn key(index: usize) -> Key {
    Key::from(format!("k{index}"))
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
            versions: HashSet::new(),
            violation: None,
            over: false,
            trace,
            counts: Counts::default(),
        }
    }

    pub fn add_replica(&mut self, look: Look, clock: Clock) {
        let keys = self.keys.len();
        self.replicas.push(ReplicaState {
            look,
            clock,
            holds: vec![None; keys],
            synced: vec![None; keys],
            losses: 0,
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

    // What the storm does.

    pub fn event(&mut self, event: Event) {
        *self.counts.faults.entry(event.kind()).or_default() += 1;
        let kind = event.kind();
        let add = |code: u64, byte| code.wrapping_mul(31).wrapping_add(u64::from(byte));
        let code = kind.bytes().fold(0, add);
        let who = match event {
            Event::Crashed { node, .. } | Event::Restarted { node } | Event::Synced { node } => {
                Who::Replica(node)
            }
            _ => Who::World,
        };
        self.log(who, &[1, code], || event.to_string());
        match event {
            Event::Synced { node } => {
                let replica = &mut self.replicas[node];
                replica.synced.clone_from(&replica.holds);
            }
            Event::Crashed { node, survives } => self.crashed(node, survives),
            Event::Blackout { survives } => {
                for node in 0..self.quorums.n {
                    self.crashed(node, survives);
                }
            }
            Event::ClockSet { clock, .. } => self.clock_stepped(clock),
            _ => {}
        }
    }

    pub fn clock_stepped(&mut self, clock: usize) {
        if self.clock_steps.len() <= clock {
            self.clock_steps.resize(clock + 1, 0);
        }
        self.clock_steps[clock] += 1;
    }

    fn crashed(&mut self, node: usize, survives: Survives) {
        let replica = &mut self.replicas[node];
        match survives {
            Survives::All => {
                replica.synced.clone_from(&replica.holds);
                return;
            }
            Survives::Synced => replica.holds.clone_from(&replica.synced),
            Survives::Nothing => {
                replica.holds.fill(None);
                replica.synced.fill(None);
            }
        }
        replica.losses += 1;
        let (quorums, holds) = (self.quorums, &self.replicas[node].holds);
        for (key, held) in self.keys.iter_mut().zip(holds) {
            for acknowledged in &mut key.acknowledged {
                if *held < Some(acknowledged.stamp) {
                    acknowledged.holders &= !(1 << node);
                }
            }
            let all = key.acknowledged.len();
            key.read_floor = key.floor(all, quorums.n, quorums.r);
            key.write_floor = key.floor(all, quorums.n, quorums.w);
        }
    }

    // What clients ask.

    pub fn begin(&mut self, client: usize, coordinator: usize, kind: Kind, key: usize) -> usize {
        let index = self.ops.len();
        self.counts.operations += 1;
        let clock_steps = self.clock_steps_of(coordinator);
        let stamps = &mut self.coordinators[coordinator].stamps;
        stamps.look_at_wall();
        let op = Op {
            kind,
            coordinator,
            client,
            key,
            ended: false,
            denied: false,
            read_floor: self.keys[key].read_floor,
            write_floor: self.keys[key].write_floor,
            acknowledged: self.keys[key].acknowledged.len(),
            losses: self.replicas.iter().map(|replica| replica.losses).collect(),
            wall: stamps.wall(),
            clock_steps,
            writers: stamps.writers(),
            under_way: vec![0; self.quorums.n],
            attempts: Vec::new(),
            told: Vec::new(),
            reading: Reading::default(),
        };
        self.ops.push(op);
        let numbers = [8, index as u64, coordinator as u64, kind as u64, key as u64];
        self.log(Who::Client(client), &numbers, || {
            format!("#{index} {kind:?} k{key} through coordinator {coordinator}")
        });
        index
    }

    /// The operation's caller has left, or was told what it came to.
    fn finish(&mut self, index: usize) {
        let op = &mut self.ops[index];
        op.ended = true;
        let coordinator = op.coordinator;
        let under_way = std::mem::take(&mut op.under_way);
        for (replica, count) in under_way.into_iter().enumerate() {
            self.coordinators[coordinator].background[replica] += count as usize;
            self.check_background(End {
                coordinator,
                replica,
            });
        }
        let all = (1 << self.quorums.n) - 1;
        let op = &self.ops[index];
        if op.kind != Kind::Foreign && op.attempts.iter().any(|attempt| attempt.called != all) {
            self.broken("W-ALL", || format!("#{index} did not go to all replicas"));
        }
        let reading = &self.ops[index].reading;
        if reading.waits.is_some() && reading.asked != all {
            self.broken("a get that has to wait asks all", || {
                format!("#{index} left replicas unasked")
            });
        }
    }

    pub fn caller_left(&mut self, index: usize) {
        self.counts.callers_left += 1;
        self.log(
            Who::Client(self.ops[index].client),
            &[9, index as u64],
            || format!("#{index} the caller leaves"),
        );
        self.finish(index);
    }

    pub fn foreign_ended(&mut self, index: usize) {
        self.finish(index);
    }

    pub fn never_ended(&mut self, index: usize) {
        self.broken("time limit", || format!("#{index} never came to an end"));
    }

    /// Whether the next call over this link is part of one with an introduction, and
    /// has less time than others.
    pub fn is_introduced(&self, end: End) -> bool {
        self.introduced
            .is_some_and(|introduced| introduced.end == end)
    }

    /// Whether a call over this link would be that of a write, where this is the
    /// operation whose caller makes it.
    pub fn is_write(&self, end: End, op: Option<usize>) -> bool {
        let introduced = self.introduced.filter(|introduced| introduced.end == end);
        let op = introduced.map_or(op, |introduced| introduced.op);
        op.is_some_and(|op| self.ops[op].kind != Kind::Get)
    }
}
