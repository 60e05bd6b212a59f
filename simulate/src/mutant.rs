//! A coordinator to plant bugs in: the deciding parts of kvquorum's own, written
//! again as plainly as they can be, with one `if` for each bug. Without a bug
//! it has to pass as kvquorum does, or what the bugs show would not count.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use async_trait::async_trait;
use kvquorum_core::{
    Bytes, Entry, Key, Merged, ReplicaStats, Request, Response, Timestamp, Transport, Version,
    WallClock, WriterId,
};
use kvquorum_mem::sim::Clock;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::map::{Found, Map, Part, Read, Said, Settling, Written};
use crate::oracle::{Quorums, Settings};
use crate::planted::Bug;
use crate::spy::{current, on_behalf};

pub struct Mutant {
    pub bug: Option<Bug>,
    pub links: Arc<[Arc<dyn Transport>]>,
    pub quorums: Quorums,
    pub settings: Settings,
    pub writer: WriterId,
    pub clock: MutantClock,
}

pub struct MutantClock {
    pub bug: Option<Bug>,
    pub wall: Clock,
    pub given: AtomicU64,
    pub observed: AtomicU64,
    pub lent: AtomicU64,
}

impl MutantClock {
    fn tick(&self) -> u64 {
        let now = self.wall.now_millis() << 16;
        let given = self.given.load(Ordering::Relaxed);
        let observed = self.observed.load(Ordering::Relaxed);
        let last = given.max(observed);
        let next = match self.bug {
            Some(Bug::ClockFollowsWall) => now,
            Some(Bug::EqualIgnored) => now.max(given + 1).max(observed),
            Some(Bug::CounterWraps) if now <= last => {
                last & !0xffff | u64::from((last as u16).wrapping_add(1))
            }
            _ => now.max(last + 1),
        };
        self.given.store(next, Ordering::Relaxed);
        next
    }

    fn observe(&self, seen: Timestamp, max_drift_millis: u64) -> bool {
        let given = self.given.load(Ordering::Relaxed);
        let observed = self.observed.load(Ordering::Relaxed);
        let followed = seen.to_bits() <= given.max(observed)
            || seen.millis() <= self.wall.now_millis() + max_drift_millis;
        if followed {
            self.observed.fetch_max(seen.to_bits(), Ordering::Relaxed);
        }
        followed
    }
}

type Answer = (usize, Option<Result<Response, bool>>);

/// Calls of one operation, each in a task of its own.
struct Calls {
    send: UnboundedSender<Answer>,
    receive: UnboundedReceiver<Answer>,
    pending: usize,
    tasks: Vec<AbortHandle>,
    cancels: bool,
}

impl Calls {
    fn new(cancels: bool) -> Self {
        let (send, receive) = unbounded_channel();
        Self {
            send,
            receive,
            pending: 0,
            tasks: Vec::new(),
            cancels,
        }
    }

    fn start(&mut self, mutant: &Mutant, op: Option<usize>, replica: usize, request: Request) {
        let link = Arc::clone(&mutant.links[replica]);
        let send = self.send.clone();
        let unbounded = mutant.bug == Some(Bug::NoTimeLimit);
        let limit = mutant.settings.time_limit * if unbounded { 1_000 } else { 1 };
        let mut call = Box::pin(on_behalf(op, async move {
            let answer = timeout(limit, link.call(request)).await;
            let answer = answer
                .ok()
                .map(|answer| answer.map_err(|error| error.may_have_applied()));
            let _ = send.send((replica, answer));
        }));
        self.pending += 1;
        // It sets out now, and not when its task has its turn.
        let mut context = Context::from_waker(Waker::noop());
        if call.as_mut().poll(&mut context).is_pending() {
            self.tasks.push(tokio::spawn(call).abort_handle());
        }
    }

    async fn next(&mut self) -> Option<Answer> {
        if self.pending == 0 {
            return None;
        }
        self.pending -= 1;
        self.receive.recv().await
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if self.cancels {
            self.tasks.iter().for_each(AbortHandle::abort);
        }
    }
}

impl Mutant {
    fn is(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn max_drift_millis(&self) -> u64 {
        self.settings.max_drift.as_millis() as u64
    }

    /// One attempt. The calls are handed back, to be waited for or left.
    async fn send(&self, key: &Key, entry: &Entry) -> (Vec<Part>, Calls) {
        let Quorums { n, w, .. } = self.quorums;
        let mut calls = Calls::new(self.is(Bug::DropCancels));
        for replica in 0..n {
            let (key, entry) = (key.clone(), entry.clone());
            calls.start(self, current(), replica, Request::Merge { key, entry });
        }
        let mut parts = vec![Part::Pending; n];
        while let Some((replica, answer)) = calls.next().await {
            parts[replica] = part(answer);
            let acked = parts.iter().filter(|part| part.is_ack()).count();
            let failed = parts.iter().filter(|part| is_failure(part)).count();
            let out_of_reach = failed > n - w || (failed > 0 && self.is(Bug::FailsAtFirst));
            if (acked >= w || out_of_reach) && !self.is(Bug::WaitsForAll) {
                break;
            }
        }
        calls.cancels = self.is(Bug::StragglersCancelled);
        (parts, calls)
    }
}

fn part(answer: Option<Result<Response, bool>>) -> Part {
    let may_have_applied = match answer {
        Some(Ok(Response::Merged(Merged::Applied))) => return Part::Applied,
        Some(Ok(Response::Merged(Merged::Superseded { by }))) => return Part::Superseded(by),
        Some(Ok(Response::Refused(_))) => false,
        Some(Ok(_)) => true,
        Some(Err(may_have_applied)) => may_have_applied,
        None => true,
    };
    Part::Failed { may_have_applied }
}

fn may_be_seen(bug: Option<Bug>, part: &Part) -> bool {
    match part {
        Part::Applied | Part::Superseded(_) => true,
        Part::Pending => bug != Some(Bug::PendingNotApplied),
        Part::Failed { may_have_applied } => *may_have_applied,
        _ => false,
    }
}

fn is_failure(part: &Part) -> bool {
    matches!(part, Part::Failed { .. })
}

#[async_trait]
impl Map for Mutant {
    async fn write(&self, key: Key, value: Option<Bytes>) -> (Written, Settling) {
        let Quorums { n, w, .. } = self.quorums;
        let mut bits = self.clock.tick();
        let mut earlier = false;
        let mut attempts = 1;
        loop {
            let timestamp = Timestamp::from_bits(bits);
            let version = Version {
                timestamp,
                writer: self.writer,
            };
            let value = value.clone();
            let (parts, mut calls) = self.send(&key, &Entry { version, value }).await;
            let seen = parts.iter().any(|part| may_be_seen(self.bug, part));
            let by = parts.iter().filter_map(|part| match part {
                Part::Superseded(by) => Some(*by),
                _ => None,
            });
            let by = by.max();
            if let Some(by) = by {
                self.clock.observe(by.timestamp, self.max_drift_millis());
            }
            let acked = parts.iter().filter(|part| part.is_ack()).count();
            let may_come_after = attempts > 1 && 2 * w > n;
            let said = match by {
                _ if acked < w && (seen || earlier) => Said::MaybeApplied,
                _ if acked < w => Said::NotApplied,
                Some(_) if self.is(Bug::SupersededIgnored) => Said::Acked(version, by),
                Some(by) if !may_come_after && attempts < self.settings.attempts => {
                    earlier |= seen && !self.is(Bug::EarlierForgotten);
                    attempts += 1;
                    let lent = by.timestamp.to_bits()
                        + 1
                        + self.clock.lent.fetch_add(1, Ordering::Relaxed);
                    bits = match self.clock.observe(by.timestamp, self.max_drift_millis()) {
                        _ if self.is(Bug::RestampedEqual) => bits,
                        true => self.clock.tick(),
                        false => lent,
                    };
                    continue;
                }
                Some(by) if !may_come_after => Said::Superseded(by),
                _ => {
                    if 2 * w > n {
                        self.clock.given.fetch_max(bits, Ordering::Relaxed);
                    }
                    Said::Acked(version, by)
                }
            };
            let written = Written {
                said,
                attempts,
                parts,
            };
            let (mut settled, bug) = (written.clone(), self.bug);
            let settling = async move {
                while let Some((replica, answer)) = calls.next().await {
                    settled.parts[replica] = part(answer);
                }
                let nowhere = !earlier && !settled.parts.iter().any(|part| may_be_seen(bug, part));
                if settled.said == Said::MaybeApplied && nowhere {
                    settled.said = Said::NotApplied;
                }
                settled
            };
            return (written, Box::pin(settling));
        }
    }

    async fn read(&self, key: Key) -> Read {
        let Quorums { n, w, r } = self.quorums;
        let mut reading = Reading {
            calls: Calls::new(self.is(Bug::DropCancels)),
            key,
            answers: Vec::new(),
            held: vec![Held::Unknown; n],
            failed: 0,
        };
        for replica in 0..n {
            let key = reading.key.clone();
            reading
                .calls
                .start(self, current(), replica, Request::Get { key });
        }
        while reading.answers.len() < r && reading.failed <= n - r && reading.next().await {}
        let answered = reading.answers.len() >= r;
        let entry = self.choose(&reading.answers);
        if let Some(entry) = &entry {
            self.clock
                .observe(entry.version.timestamp, self.max_drift_millis());
        }
        let mut found = if answered {
            Found::Entry(entry.clone())
        } else {
            Found::Failed
        };
        if self.settings.repairs {
            reading.repair(self, current());
        }
        if self.settings.blocking && answered && entry.is_some() {
            while !self.is(Bug::BlockingReturnsEarly)
                && reading.holders(&entry) < w
                && reading.next().await
            {
                reading.repair(self, current());
            }
            if reading.holders(&entry) < w && !self.is(Bug::BlockingReturnsEarly) {
                found = Found::NotRepaired(entry);
            }
        }
        let parts = reading.parts();
        if self.settings.repairs && !self.is(Bug::LateNotRepaired) {
            // A copy of what a repair needs to know, to go on without the caller.
            let mutant = Self {
                bug: self.bug,
                links: Arc::clone(&self.links),
                clock: MutantClock {
                    bug: None,
                    wall: self.clock.wall.clone(),
                    given: AtomicU64::default(),
                    observed: AtomicU64::default(),
                    lent: AtomicU64::default(),
                },
                ..*self
            };
            tokio::spawn(async move {
                while reading.next().await {
                    reading.repair(&mutant, None);
                }
            });
        }
        Read { found, parts }
    }

    fn stats(&self) -> Vec<ReplicaStats> {
        vec![ReplicaStats::default(); self.quorums.n]
    }
}

impl Mutant {
    fn choose(&self, answers: &[Option<Entry>]) -> Option<Entry> {
        let answers = || answers.iter();
        let chosen = match self.bug {
            Some(Bug::FirstAnswer) => answers().next(),
            Some(Bug::Majority) => {
                let alike = |one: &&Option<Entry>| answers().filter(|other| other == one).count();
                answers().max_by_key(|one| (alike(one), (*one).clone()))
            }
            Some(Bug::TombstoneIsAbsent) => answers()
                .filter(|answer| answer.as_ref().is_some_and(|entry| entry.value.is_some()))
                .max(),
            _ => answers().max(),
        };
        chosen.cloned().flatten()
    }
}

#[derive(Clone)]
enum Held {
    Unknown,
    Entry(Option<Entry>),
    Repairing(Option<Entry>, Entry),
    Ahead,
}

struct Reading {
    calls: Calls,
    key: Key,
    answers: Vec<Option<Entry>>,
    held: Vec<Held>,
    failed: usize,
}

impl Reading {
    async fn next(&mut self) -> bool {
        let Some((replica, answer)) = self.calls.next().await else {
            return false;
        };
        let before = std::mem::replace(&mut self.held[replica], Held::Unknown);
        self.held[replica] = match (before, answer) {
            (Held::Unknown, Some(Ok(Response::Entry(entry)))) => {
                self.answers.push(entry.clone());
                Held::Entry(entry)
            }
            (Held::Repairing(_, entry), Some(Ok(Response::Merged(Merged::Applied)))) => {
                Held::Entry(Some(entry))
            }
            (Held::Repairing(..), Some(Ok(Response::Merged(_)))) => Held::Ahead,
            (Held::Repairing(..), _) => Held::Unknown,
            _ => {
                self.failed += 1;
                Held::Unknown
            }
        };
        true
    }

    fn repair(&mut self, mutant: &Mutant, op: Option<usize>) {
        let Some(greatest) = self.answers.iter().flatten().max().cloned() else {
            return;
        };
        for replica in 0..self.held.len() {
            if let Held::Entry(held) = &self.held[replica]
                && held.as_ref() < Some(&greatest)
            {
                self.held[replica] = Held::Repairing(held.clone(), greatest.clone());
                let (key, entry) = (self.key.clone(), greatest.clone());
                self.calls
                    .start(mutant, op, replica, Request::Merge { key, entry });
            }
        }
    }

    fn holders(&self, entry: &Option<Entry>) -> usize {
        let holds = |held: &&Held| match held {
            Held::Entry(held) | Held::Repairing(held, _) => held >= entry,
            Held::Ahead => true,
            Held::Unknown => false,
        };
        self.held.iter().filter(holds).count()
    }

    fn parts(&self) -> Vec<Part> {
        let part = |held: &Held| match held {
            Held::Entry(held) | Held::Repairing(held, _) => {
                Part::Holds(held.as_ref().map(|entry| entry.version))
            }
            _ => Part::Pending,
        };
        self.held.iter().map(part).collect()
    }
}
