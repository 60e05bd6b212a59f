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

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{Entry, Key, Merged, Request, Response, Version, WallClock};
use kvquorum_mem::sim::{Clock, Event, Survives, World};

use crate::map::{Found, Part, Read, Said, Written};
use crate::trace::{Trace, Who};

/// Tokio's timers go by whole milliseconds.
const TIMER_SLACK: u64 = 2_000;

/// An entry, as the order of entries sees it: the values of a simulation are
/// eight bytes, most significant first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub version: Version,
    tombstone: bool,
    value: u64,
}

impl Stamp {
    pub fn of(entry: &Entry) -> Self {
        let value = entry.value.as_ref().map(|bytes| {
            let bytes = <[u8; 8]>::try_from(&bytes[..]);
            // A value that nobody wrote is known as such by its number.
            bytes.map_or(u64::MAX, u64::from_be_bytes)
        });
        Self {
            version: entry.version,
            tombstone: value.is_none(),
            value: value.unwrap_or(0),
        }
    }

    fn numbers(stamp: Option<Self>) -> [u64; 3] {
        stamp.map_or([0; 3], |stamp| {
            [
                stamp.version.timestamp.to_bits(),
                stamp.version.writer.get(),
                if stamp.tombstone { 1 } else { stamp.value },
            ]
        })
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Clocks start at a round number of milliseconds.
        let millis = self.version.timestamp.millis() as i64 - 1_800_000_000_000;
        let counter = self.version.timestamp.counter();
        let writer = self.version.writer.get() % 0x1_0000;
        write!(f, "{millis}.{counter}@{writer:04x}")?;
        if self.tombstone {
            write!(f, " (tombstone)")
        } else {
            write!(f, " #{}", self.value)
        }
    }
}

fn show(stamp: Option<Stamp>) -> String {
    stamp.map_or("nothing".into(), |stamp| stamp.to_string())
}

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
        self.without_answer += other.without_answer;
        self.refused += other.refused;
        self.repairs += other.repairs;
        self.restamped += other.restamped;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}

struct Op {
    kind: Kind,
    coordinator: usize,
    client: usize,
    key: usize,
    ended: bool,
    /// Whether its caller was told that it was not applied.
    denied: bool,
    /// What a read, or a write, that begins now must not fall behind.
    read_floor: Option<usize>,
    write_floor: Option<usize>,
    /// How many entries were known to be acknowledged.
    acknowledged: usize,
    losses: Vec<u32>,
    wall: u64,
    clock_steps: u32,
    stamps: Vec<Stamped>,
    acks: usize,
    failed: usize,
    answered: usize,
    /// The greatest of the answers up to the deciding one, and of all.
    best: Option<Stamp>,
    best_of_all: Option<Stamp>,
    decided: Option<u64>,
    under_way: Vec<u32>,
}

/// One attempt of a write.
struct Stamped {
    stamp: Stamp,
    /// Replicas, as sets of bits.
    sent: u32,
    applied: u32,
    superseded: u32,
}

/// Who made an entry. Two deletes of one coordinator that are lent the same
/// timestamp make the very same one.
#[derive(Default)]
struct Origin {
    /// Operations, and which of their attempts.
    makers: Vec<(usize, usize)>,
    /// How many of them were told that it was not applied.
    denied: usize,
}

impl Origin {
    fn is_forbidden(&self) -> bool {
        self.denied >= self.makers.len()
    }
}

struct Acknowledged {
    stamp: Stamp,
    /// Which replicas have acked it and not lost it since.
    holders: u32,
}

#[derive(Default)]
struct KeyState {
    acknowledged: Vec<Acknowledged>,
    read_floor: Option<usize>,
    write_floor: Option<usize>,
    origins: HashMap<Stamp, Origin>,
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
    clock: Clock,
    clock_index: usize,
    /// Every later timestamp has to be greater.
    must_exceed: u64,
    under_way: usize,
    background: Vec<usize>,
    given_up: Vec<u64>,
    timed_out: Vec<u64>,
}

struct Call {
    coordinator: usize,
    replica: usize,
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

fn index_of(key: &Key) -> usize {
    key.as_bytes()
        .get(1)
        .map_or(0, |digit| usize::from(digit.saturating_sub(b'0')))
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

    pub fn add_coordinator(&mut self, settings: Settings, clock: Clock, clock_index: usize) {
        let n = self.quorums.n;
        self.coordinators.push(CoordinatorState {
            settings,
            clock,
            clock_index,
            must_exceed: 0,
            under_way: 0,
            background: vec![0; n],
            given_up: vec![0; n],
            timed_out: vec![0; n],
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
            self.violation = Some(Violation { promise, what });
        }
    }

    // What the storm does.

    pub fn event(&mut self, event: Event) {
        *self.counts.faults.entry(event.kind()).or_default() += 1;
        let kind = event.kind();
        let code = kind
            .bytes()
            .fold(0, |code, byte| code * 31 + u64::from(byte));
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

    // What stores answer.

    pub fn store_got(&mut self, replica: usize, key: &Key, entry: Option<&Entry>) {
        let key = index_of(key);
        let got = entry.map(Stamp::of);
        let holds = self.replicas[replica].holds[key];
        let [a, b, c] = Stamp::numbers(got);
        self.log(Who::Replica(replica), &[2, key as u64, a, b, c], || {
            format!("get k{key} → {}", show(got))
        });
        if got != holds {
            self.broken("an ack is true", || {
                format!(
                    "replica {replica} has acked {} and answers {}",
                    show(holds),
                    show(got)
                )
            });
        }
    }

    pub fn store_merged(&mut self, replica: usize, key: &Key, entry: &Entry, merged: Merged) {
        let key = index_of(key);
        let stamp = Stamp::of(entry);
        let bit = 1 << replica;
        let [a, b, c] = Stamp::numbers(Some(stamp));
        let code = u64::from(merged == Merged::Applied);
        self.log(
            Who::Replica(replica),
            &[3, key as u64, a, b, c, code],
            || match merged {
                Merged::Applied => format!("merge k{key} {stamp}: applied"),
                Merged::Superseded { .. } => format!("merge k{key} {stamp}: superseded"),
            },
        );
        let wall = self.replicas[replica].clock.now_millis();
        let latest = wall.saturating_add(self.max_drift.as_millis() as u64);
        if stamp.version.timestamp.millis() > latest {
            self.broken("C-DRIFT", || {
                format!("replica {replica} took in {stamp}, and its clock reads {wall} ms")
            });
        }
        let holds = &mut self.replicas[replica].holds[key];
        let before = *holds;
        let expected = if before > Some(stamp) {
            let by = before.unwrap_or(stamp).version;
            Merged::Superseded { by }
        } else {
            *holds = Some(stamp);
            Merged::Applied
        };
        if merged != expected {
            self.broken("a superseded write says so", || {
                format!(
                    "replica {replica} held {}, merged {stamp}, and answers {merged:?}",
                    show(before)
                )
            });
        }
        let Some(origin) = self.keys[key].origins.get(&stamp) else {
            self.broken("nothing that nobody wrote", || {
                format!("replica {replica} took in {stamp}")
            });
            return;
        };
        for (op, attempt) in &origin.makers {
            let attempt = &mut self.ops[*op].stamps[*attempt];
            match merged {
                Merged::Applied => attempt.applied |= bit,
                Merged::Superseded { .. } => attempt.superseded |= bit,
            }
        }
        if origin.is_forbidden() && merged == Merged::Applied {
            self.broken("a write that was not applied is never seen", || {
                format!("replica {replica} took in {stamp} afterwards")
            });
        }
    }

    // What goes over links.

    /// A call that sets out. `op` is the operation whose caller drives it.
    pub fn call_started(
        &mut self,
        coordinator: usize,
        replica: usize,
        request: &Request,
        op: Option<usize>,
    ) -> usize {
        self.counts.calls += 1;
        let mut attempt = 0;
        if let Request::Merge { key, entry } = request {
            let (key, stamp) = (index_of(key), Stamp::of(entry));
            match op {
                Some(op) if self.ops[op].kind != Kind::Get => {
                    attempt = self.stamped(op, replica, key, stamp);
                }
                _ => self.repairing(coordinator, replica, key, stamp),
            }
        }
        let state = &mut self.coordinators[coordinator];
        state.under_way += 1;
        match op {
            Some(op) if !self.ops[op].ended => self.ops[op].under_way[replica] += 1,
            _ => state.background[replica] += 1,
        }
        self.check_background(coordinator, replica);
        self.calls.push(Some(Call {
            coordinator,
            replica,
            op,
            attempt,
            started: self.now(),
        }));
        self.calls.len() - 1
    }

    /// A write sends its entry to a replica: its first stamp, or a later one.
    fn stamped(&mut self, op_index: usize, replica: usize, key: usize, stamp: Stamp) -> usize {
        let op = &mut self.ops[op_index];
        if let Some(last) = op.stamps.last_mut()
            && last.stamp == stamp
        {
            last.sent |= 1 << replica;
            return op.stamps.len() - 1;
        }
        let attempt = op.stamps.len();
        let (kind, client, last) = (op.kind, op.client, op.stamps.last().map(|last| last.stamp));
        let coordinator = op.coordinator;
        let own = key == op.key
            && match op.kind {
                Kind::Delete => stamp.tombstone,
                _ => stamp.value == op_index as u64,
            };
        op.stamps.push(Stamped {
            stamp,
            sent: 1 << replica,
            applied: 0,
            superseded: 0,
        });
        op.acks = 0;
        op.failed = 0;
        op.decided = None;
        let origin = self.keys[key].origins.entry(stamp).or_default();
        origin.makers.push((op_index, attempt));
        let [a, b, c] = Stamp::numbers(Some(stamp));
        self.log(Who::Client(client), &[4, key as u64, a, b, c], || {
            format!("  stamps #{op_index} as {stamp}")
        });
        if !own {
            self.broken("nothing that nobody wrote", || {
                format!("operation #{op_index} sends {stamp} under k{key}")
            });
        }
        if kind == Kind::Foreign {
            return attempt;
        }
        if last >= Some(stamp) {
            self.broken("C-MONOTONIC", || {
                format!(
                    "operation #{op_index} was stamped {}, then {stamp}",
                    show(last)
                )
            });
        }
        let state = &mut self.coordinators[coordinator];
        let (bits, must_exceed) = (stamp.version.timestamp.to_bits(), state.must_exceed);
        if attempt == 0 {
            state.must_exceed = must_exceed.max(bits);
        } else {
            self.counts.restamped += 1;
        }
        if bits <= must_exceed {
            self.broken("C-MONOTONIC", || {
                format!("coordinator {coordinator} stamps {bits:#x} after it knew {must_exceed:#x}")
            });
        }
        attempt
    }

    fn repairing(&mut self, coordinator: usize, replica: usize, key: usize, stamp: Stamp) {
        self.counts.repairs += 1;
        let [a, b, c] = Stamp::numbers(Some(stamp));
        let numbers = [5, coordinator as u64, key as u64, a, b, c];
        self.log(Who::Replica(replica), &numbers, || {
            format!("  coordinator {coordinator} repairs k{key} with {stamp}")
        });
        if !self.keys[key].origins.contains_key(&stamp) {
            self.broken("R-REPAIR", || {
                format!("coordinator {coordinator} repairs with {stamp}, which nobody wrote")
            });
        }
        if !self.coordinators[coordinator].settings.repairs {
            self.broken("R-REPAIR", || {
                format!("coordinator {coordinator} repairs, and was told not to")
            });
        }
    }

    /// A call that came to its end.
    pub fn call_answered(&mut self, call: usize, response: Option<&Response>) {
        let Some((call, now)) = self.call_ended(call) else {
            return;
        };
        let code = match response {
            Some(Response::Entry(_)) => 1,
            Some(Response::Merged(Merged::Applied)) => 2,
            Some(Response::Merged(_)) => 3,
            Some(_) => 4,
            None => 5,
        };
        if code == 4 {
            self.counts.refused += 1;
        }
        let who = call.op.map_or(Who::Replica(call.replica), |op| {
            Who::Client(self.ops[op].client)
        });
        self.log(who, &[6, call.replica as u64, code], || {
            let what = match response {
                Some(Response::Entry(entry)) => show(entry.as_ref().map(Stamp::of)),
                Some(Response::Merged(Merged::Applied)) => "applied".into(),
                Some(Response::Merged(_)) => "superseded".into(),
                Some(Response::Refused(refusal)) => format!("refused: {refusal}"),
                _ => "an error".into(),
            };
            format!("  replica {} answers: {what}", call.replica)
        });
        let Quorums { n, w, r } = self.quorums;
        let Some(op) = call.op.map(|op| &mut self.ops[op]) else {
            return;
        };
        if op.ended || (op.kind != Kind::Get && call.attempt + 1 != op.stamps.len()) {
            return;
        }
        match (op.kind, response) {
            (Kind::Get, Some(Response::Entry(entry))) => {
                let stamp = entry.as_ref().map(Stamp::of);
                op.best_of_all = op.best_of_all.max(stamp);
                if op.decided.is_none() {
                    op.answered += 1;
                    op.best = op.best.max(stamp);
                }
            }
            (Kind::Get, Some(Response::Merged(_))) => {}
            (Kind::Put | Kind::Delete | Kind::Foreign, Some(Response::Merged(_))) => op.acks += 1,
            _ => op.failed += 1,
        }
        op.decide(n, w, r, now);
    }

    /// A call that was dropped before it came to its end.
    pub fn call_dropped(&mut self, call: usize) {
        let Some((call, now)) = self.call_ended(call) else {
            return;
        };
        let age = now - call.started;
        let state = &self.coordinators[call.coordinator];
        let limit = state.settings.time_limit.as_micros() as u64;
        self.log(Who::Replica(call.replica), &[7, age], || {
            format!("  a call is dropped after {} ms", age / 1_000)
        });
        if age < limit {
            // `under_way` no longer counts this one.
            let state = &mut self.coordinators[call.coordinator];
            state.given_up[call.replica] += 1;
            if state.under_way < state.settings.background {
                self.broken("W-FINISH, W-CANCEL", || {
                    format!(
                        "a call to replica {} was dropped after {} ms, with room in the background",
                        call.replica,
                        age / 1_000
                    )
                });
            }
            return;
        }
        self.counts.without_answer += 1;
        self.coordinators[call.coordinator].timed_out[call.replica] += 1;
        let Quorums { n, w, r } = self.quorums;
        if let Some(op) = call.op.map(|op| &mut self.ops[op])
            && !op.ended
            && (op.kind == Kind::Get || call.attempt + 1 == op.stamps.len())
        {
            op.failed += 1;
            op.decide(n, w, r, now);
        }
    }

    fn call_ended(&mut self, call: usize) -> Option<(Call, u64)> {
        let call = self.calls[call].take()?;
        let now = self.now();
        let state = &mut self.coordinators[call.coordinator];
        state.under_way -= 1;
        let limit = state.settings.time_limit.as_micros() as u64;
        match call.op {
            Some(op) if !self.ops[op].ended => self.ops[op].under_way[call.replica] -= 1,
            _ => state.background[call.replica] -= 1,
        }
        if now > call.started + limit + TIMER_SLACK {
            self.broken("time limit", || {
                format!(
                    "a call to replica {} took {} ms of {} ms",
                    call.replica,
                    (now - call.started) / 1_000,
                    limit / 1_000
                )
            });
        }
        (!self.over).then_some((call, now))
    }

    fn check_background(&mut self, coordinator: usize, replica: usize) {
        let state = &self.coordinators[coordinator];
        let (now, bound) = (state.background[replica], state.settings.background);
        // As many again may belong to operations whose callers have left.
        if now > bound.saturating_mul(2) {
            self.broken("bound on background work", || {
                format!("{now} calls to replica {replica} in the background, and {bound} allowed")
            });
        }
    }

    // What clients ask, and are told.

    pub fn begin(&mut self, client: usize, coordinator: usize, kind: Kind, key: usize) -> usize {
        let index = self.ops.len();
        self.counts.operations += 1;
        let state = &self.coordinators[coordinator];
        let steps = self.clock_steps.get(state.clock_index);
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
            wall: state.clock.now_millis(),
            clock_steps: steps.copied().unwrap_or(0),
            stamps: Vec::new(),
            acks: 0,
            failed: 0,
            answered: 0,
            best: None,
            best_of_all: None,
            decided: None,
            under_way: vec![0; self.quorums.n],
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
            self.check_background(coordinator, replica);
        }
        let all = (1 << self.quorums.n) - 1;
        let op = &self.ops[index];
        if op.kind != Kind::Foreign && op.stamps.iter().any(|stamped| stamped.sent != all) {
            self.broken("W-ALL", || format!("#{index} did not go to all replicas"));
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

    pub fn wrote(&mut self, index: usize, written: &Written) {
        let client = self.ops[index].client;
        let (code, version) = match written.said {
            Said::Acked(version, _) => (0, Some(version)),
            Said::NotApplied => (1, None),
            Said::MaybeApplied => (2, None),
            Said::Superseded(by) => (3, Some(by)),
            Said::ClockExhausted => (4, None),
        };
        let bits = version.map_or(0, |version| version.timestamp.to_bits());
        self.log(Who::Client(client), &[10, index as u64, code, bits], || {
            let said = [
                "acknowledged",
                "not applied",
                "maybe applied",
                "superseded",
                "no clock",
            ];
            format!("#{index} is told: {}", said[code as usize])
        });
        self.finish(index);
        let op = &self.ops[index];
        let (now, n, w) = (self.now(), self.quorums.n, self.quorums.w);
        let settings = self.coordinators[op.coordinator].settings;
        let attempts = op.stamps.len();
        let Some(last) = op.stamps.last() else {
            return self.broken("W-ALL", || format!("#{index} was never sent"));
        };
        let stamp = last.stamp;
        let acked = written.parts.iter().filter(|part| part.is_ack()).count();
        if written.attempts as usize != attempts || attempts > settings.attempts as usize {
            self.broken("W-SUPERSEDED", || {
                format!(
                    "#{index} was stamped {attempts} times of {}, and says {}",
                    settings.attempts, written.attempts
                )
            });
        }
        let op = &self.ops[index];
        let (acks, failed, decided) = (op.acks, op.failed, op.decided);
        match decided {
            None => self.broken("W-QUORUM", || {
                format!("#{index} was decided with {acks} acks and {failed} failures")
            }),
            Some(decided) if decided < now => self.broken("W-QUORUM, W-FAIL", || {
                let late = (now - decided) / 1_000;
                format!("#{index} was decided, and told so {late} ms later")
            }),
            _ => {}
        }
        self.check_writing_parts(index, &written.parts);
        match written.said {
            Said::Acked(version, superseded_by) => {
                self.counts.acknowledged += 1;
                if version != stamp.version || acked < w || acks < w {
                    self.broken("W-QUORUM", || {
                        format!(
                            "#{index} {stamp}: {acks} acks came, it names {acked} and {version}"
                        )
                    });
                }
                self.acknowledged(index, stamp, superseded_by, &written.parts);
            }
            Said::NotApplied | Said::MaybeApplied => {
                self.counts.failed += 1;
                if acks >= w || failed <= n - w {
                    self.broken("W-FAIL", || {
                        format!("#{index} failed with {acks} acks and {failed} failures")
                    });
                }
                let refused = |part: &Part| {
                    matches!(
                        part,
                        Part::Failed {
                            may_have_applied: false
                        }
                    )
                };
                let nowhere = attempts == 1 && written.parts.iter().all(refused);
                if written.said == Said::NotApplied {
                    self.not_applied(index);
                } else if nowhere {
                    self.broken("W-FAIL", || {
                        format!("#{index} says maybe applied, and no replica took it")
                    });
                }
            }
            Said::Superseded(by) => {
                self.counts.superseded += 1;
                let early = (attempts as u32) < settings.attempts;
                let in_vain = 2 * w > n && attempts > 1;
                if acks < w || by < stamp.version || early || in_vain {
                    self.broken("W-SUPERSEDED", || {
                        format!("#{index} {stamp} gave up after {attempts} attempts, {acks} acks")
                    });
                }
            }
            Said::ClockExhausted => {
                self.broken("C-MONOTONIC", || format!("#{index} found no timestamp"));
            }
        }
    }

    fn acknowledged(
        &mut self,
        index: usize,
        stamp: Stamp,
        superseded_by: Option<Version>,
        parts: &[Part],
    ) {
        let Quorums { n, w, .. } = self.quorums;
        let op = &self.ops[index];
        let key = op.key;
        let coordinator = op.coordinator;
        let told = parts.iter().filter_map(|part| match part {
            Part::Superseded(by) => Some(*by),
            _ => None,
        });
        // Only what was stamped past all that was acknowledged before may be.
        let may_be = 2 * w > n && op.stamps.len() > 1;
        if told.max() != superseded_by || (superseded_by.is_some() && !may_be) {
            self.broken("W-SUPERSEDED", || {
                format!("#{index} {stamp} is acknowledged, and superseded by {superseded_by:?}")
            });
        }
        if 2 * w > n
            && let Some(floor) = self.floor_of(index, w)
            && stamp <= floor
        {
            self.broken("an acknowledged write is greater than all before", || {
                format!("#{index} {stamp} is acknowledged after {floor} was")
            });
        }
        let bits = stamp.version.timestamp.to_bits();
        if 2 * w > n {
            let state = &mut self.coordinators[coordinator];
            state.must_exceed = state.must_exceed.max(bits);
        }
        let named = parts.iter().enumerate().filter(|(_, part)| part.is_ack());
        let holders = named
            .filter(|(replica, _)| self.replicas[*replica].holds[key] >= Some(stamp))
            .fold(0, |holders, (replica, _)| holders | 1 << replica);
        self.oblige(key, stamp, holders);
    }

    /// From now on a quorum that meets these holders finds this or greater.
    fn oblige(&mut self, key: usize, stamp: Stamp, holders: u32) {
        let Quorums { n, w, r } = self.quorums;
        let state = &mut self.keys[key];
        let new = state.acknowledged.len();
        state.acknowledged.push(Acknowledged { stamp, holders });
        for (floor, quorum) in [(&mut state.read_floor, r), (&mut state.write_floor, w)] {
            let above = floor.is_none_or(|floor| state.acknowledged[floor].stamp < stamp);
            if above && meets(holders, n, quorum) {
                *floor = Some(new);
            }
        }
    }

    /// The greatest entry that was acknowledged before an operation began, and
    /// is held by so many replicas still that each quorum of this size has one
    /// of them.
    fn floor_of(&self, index: usize, quorum: usize) -> Option<Stamp> {
        let op = &self.ops[index];
        let key = &self.keys[op.key];
        let floor = if quorum == self.quorums.w && quorum != self.quorums.r {
            op.write_floor
        } else {
            op.read_floor
        }?;
        let n = self.quorums.n;
        let floor = if meets(key.acknowledged[floor].holders, n, quorum) {
            floor
        } else {
            key.floor(op.acknowledged, n, quorum)?
        };
        Some(key.acknowledged[floor].stamp)
    }

    fn not_applied(&mut self, index: usize) {
        let op = &mut self.ops[index];
        if std::mem::replace(&mut op.denied, true) {
            return;
        }
        let key = op.key;
        for attempt in 0..self.ops[index].stamps.len() {
            let stamp = self.ops[index].stamps[attempt].stamp;
            let Some(origin) = self.keys[key].origins.get_mut(&stamp) else {
                continue;
            };
            origin.denied += 1;
            let applied = self.ops[index].stamps[attempt].applied;
            if origin.is_forbidden() && applied != 0 {
                self.broken("a write that was not applied is never seen", || {
                    format!("#{index} {stamp} is held by replicas {applied:#b}")
                });
            }
        }
    }

    /// Later news of a write that was told of before.
    pub fn settled(&mut self, index: usize, written: &Written) {
        let code = written.said == Said::NotApplied;
        let numbers = [11, index as u64, u64::from(code)];
        self.log(Who::Client(self.ops[index].client), &numbers, || {
            format!("#{index} has settled")
        });
        if written.parts.contains(&Part::Pending) {
            self.broken("receipts are true", || {
                format!("#{index} has settled, and a replica is pending")
            });
        }
        self.check_writing_parts(index, &written.parts);
        if written.said == Said::NotApplied {
            self.not_applied(index);
        }
    }

    fn check_writing_parts(&mut self, index: usize, parts: &[Part]) {
        let Some(stamped) = self.ops[index].stamps.last() else {
            return;
        };
        let (stamp, applied, superseded) = (stamped.stamp, stamped.applied, stamped.superseded);
        for (replica, part) in parts.iter().enumerate() {
            let acked = match part {
                Part::Applied => applied,
                Part::Superseded(_) => superseded,
                _ => continue,
            };
            if acked & (1 << replica) == 0 {
                self.broken("receipts are true", || {
                    format!("#{index}: replica {replica} is named as {part:?}, and was not")
                });
            }
            self.check_holds(index, replica, stamp);
        }
    }

    /// A replica that is named as a holder holds the entry or a greater one.
    fn check_holds(&mut self, index: usize, replica: usize, stamp: Stamp) {
        let op = &self.ops[index];
        let state = &self.replicas[replica];
        let lost = op.losses[replica] != state.losses;
        let held = (state.look)(&key(op.key)).as_ref().map(Stamp::of);
        if !lost && held < Some(stamp) {
            self.broken("receipts are true", || {
                format!(
                    "#{index}: replica {replica} is named as a holder of {stamp}, and holds {}",
                    show(held)
                )
            });
        }
    }

    pub fn read(&mut self, index: usize, read: &Read) {
        let client = self.ops[index].client;
        let (code, entry) = match &read.found {
            Found::Entry(entry) => (0, entry.as_ref()),
            Found::Failed => (1, None),
            Found::NotRepaired(entry) => (2, entry.as_ref()),
        };
        let stamp = entry.map(Stamp::of);
        let [a, b, c] = Stamp::numbers(stamp);
        self.log(
            Who::Client(client),
            &[12, index as u64, code, a, b, c],
            || {
                let said = ["finds", "fails", "finds, but cannot repair,"];
                format!("#{index} {} {}", said[code as usize], show(stamp))
            },
        );
        self.finish(index);
        let Quorums { n, w, r } = self.quorums;
        let now = self.now();
        let op = &self.ops[index];
        let (key, coordinator, decided) = (op.key, op.coordinator, op.decided);
        let (answered, failed) = (op.answered, op.failed);
        let settings = self.coordinators[coordinator].settings;
        let waits = settings.blocking && code != 1 && stamp.is_some();
        match decided {
            None => self.broken("R-QUORUM", || {
                format!("#{index} was decided with {answered} answers and {failed} failures")
            }),
            Some(decided) if decided < now && !waits => self.broken("R-QUORUM, R-FAIL", || {
                let late = (now - decided) / 1_000;
                format!("#{index} was decided, and told so {late} ms later")
            }),
            _ => {}
        }
        if code == 1 {
            self.counts.failed += 1;
            if answered >= r || failed <= n - r {
                self.broken("R-FAIL", || {
                    format!("#{index} failed with {answered} answers and {failed} failures")
                });
            }
            return;
        }
        self.counts.read += 1;
        let op = &self.ops[index];
        let (best, best_of_all) = (op.best, op.best_of_all);
        if answered < r || stamp < best || stamp > best_of_all {
            self.broken("R-QUORUM", || {
                format!(
                    "#{index} finds {} in {answered} answers, the greatest of which is {}",
                    show(stamp),
                    show(best)
                )
            });
        }
        if let Some(stamp) = stamp {
            match self.keys[key].origins.get(&stamp) {
                None => self.broken("nothing that nobody wrote", || {
                    format!("#{index} finds {stamp}")
                }),
                Some(origin) if origin.is_forbidden() => {
                    self.broken("a write that was not applied is never seen", || {
                        format!("#{index} finds {stamp}")
                    });
                }
                Some(_) => {}
            }
            self.observed(index, stamp);
        }
        if r + w > n
            && let Some(floor) = self.floor_of(index, r)
            && stamp < Some(floor)
        {
            self.broken("a get finds what was acknowledged", || {
                format!(
                    "#{index} finds {} after {floor} was acknowledged",
                    show(stamp)
                )
            });
        }
        for (replica, part) in read.parts.iter().enumerate() {
            let Part::Holds(Some(version)) = part else {
                continue;
            };
            let state = &self.replicas[replica];
            let holds = state.holds[key].map(|stamp| stamp.version);
            let lost = self.ops[index].losses[replica] != state.losses;
            if !lost && holds < Some(*version) {
                self.broken("receipts are true", || {
                    format!("#{index}: replica {replica} is said to hold {version}")
                });
            }
        }
        if code == 0
            && settings.blocking
            && let Some(stamp) = stamp
        {
            self.held_back(index, stamp);
        }
    }

    /// A read that has repaired first: reads after it must not go back.
    fn held_back(&mut self, index: usize, stamp: Stamp) {
        let key = self.ops[index].key;
        let losses = &self.ops[index].losses;
        let (mut holders, mut unknown) = (0_u32, 0);
        for (number, (replica, losses)) in self.replicas.iter().zip(losses).enumerate() {
            if replica.holds[key] >= Some(stamp) {
                holders |= 1 << number;
            } else if replica.losses != *losses {
                unknown += 1;
            }
        }
        if holders.count_ones() as usize + unknown < self.quorums.w {
            self.broken("no get goes back when repair is blocking", || {
                format!("#{index} returns {stamp}, which only replicas {holders:#b} hold")
            });
        }
        self.oblige(key, stamp, holders);
    }

    /// C-MONOTONIC: later timestamps are greater than what was read, unless it
    /// is further ahead of the wall clock than the bound.
    fn observed(&mut self, index: usize, stamp: Stamp) {
        let op = &self.ops[index];
        let (wall, steps) = (op.wall, op.clock_steps);
        let state = &mut self.coordinators[op.coordinator];
        let drift = state.settings.max_drift.as_millis() as u64;
        let untouched = self
            .clock_steps
            .get(state.clock_index)
            .copied()
            .unwrap_or(0)
            == steps;
        if untouched && stamp.version.timestamp.millis() <= wall.saturating_add(drift) {
            state.must_exceed = state.must_exceed.max(stamp.version.timestamp.to_bits());
        }
    }

    // When all is over.

    /// Nothing is under way any more, and what was given up was counted.
    pub fn check_quiet(&mut self, coordinator: usize, stats: &[(usize, u64)]) {
        let state = &self.coordinators[coordinator];
        let under_way = state.under_way;
        let in_background: usize = stats.iter().map(|(in_background, _)| in_background).sum();
        if under_way > 0 || in_background > 0 {
            self.broken("bound on background work", || {
                format!(
                    "coordinator {coordinator} has {under_way} calls under way, and says \
                     {in_background}, long after the last operation"
                )
            });
        }
        let state = &self.coordinators[coordinator];
        for (replica, (_, counted)) in stats.iter().enumerate() {
            let given_up = state.given_up[replica];
            // Of two calls whose time is over at once, the end of the first can
            // decide the operation, and the second is given up.
            let possible = given_up + state.timed_out[replica];
            if *counted < given_up || *counted > possible {
                let counted = *counted;
                return self.broken("W-FINISH", || {
                    format!(
                        "coordinator {coordinator} gave up {given_up} calls to replica {replica}, \
                         and counted {counted}"
                    )
                });
            }
        }
    }

    /// All replicas agree, and hold what they have acked.
    pub fn check_converged(&mut self) {
        for index in 0..self.keys.len() {
            let name = key(index);
            let held: Vec<_> = self
                .replicas
                .iter()
                .map(|replica| (replica.look)(&name).as_ref().map(Stamp::of))
                .collect();
            if held.iter().any(|stamp| *stamp != held[0]) {
                self.broken("all replicas converge", || {
                    let held: Vec<_> = held.iter().map(|stamp| show(*stamp)).collect();
                    format!("under k{index} they hold {}", held.join(", "))
                });
            }
        }
    }

    /// The latest time that any clock reads or any entry bears.
    pub fn latest_millis(&self) -> u64 {
        let clocks = self.world.clocks().iter().map(Clock::now_millis).max();
        let keys = self.keys.iter().flat_map(|key| key.origins.keys());
        let stamps = keys.map(|stamp| stamp.version.timestamp.millis()).max();
        clocks.max(stamps).unwrap_or(0)
    }

    pub fn is_write(&self, op: usize) -> bool {
        self.ops[op].kind != Kind::Get
    }
}

impl Op {
    fn decide(&mut self, n: usize, w: usize, r: usize, now: u64) {
        let (got, needed) = match self.kind {
            Kind::Get => (self.answered, r),
            _ => (self.acks, w),
        };
        if self.decided.is_none() && (got >= needed || self.failed > n - needed) {
            self.decided = Some(now);
        }
    }
}

impl KeyState {
    /// The greatest of the first so many acknowledged entries that every quorum
    /// of this size finds.
    fn floor(&self, first: usize, n: usize, quorum: usize) -> Option<usize> {
        let known = self.acknowledged.iter().take(first).enumerate();
        known
            .filter(|(_, acknowledged)| meets(acknowledged.holders, n, quorum))
            .max_by_key(|(_, acknowledged)| acknowledged.stamp)
            .map(|(index, _)| index)
    }
}

/// Whether every quorum of this size has one of these replicas in it.
fn meets(holders: u32, n: usize, quorum: usize) -> bool {
    holders.count_ones() as usize + quorum > n
}
