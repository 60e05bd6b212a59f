//! A coordinator to plant bugs in: the deciding parts of kvquorum's own, written
//! again as plainly as they can be, with one `if` for each bug. Without a bug
//! it has to pass as kvquorum does, or what the bugs show would not count.

mod calls;
mod clock;
mod read;
mod scan;
mod update;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use calls::{Answer, Calls, Links};
use clock::MutantClock;
use kvquorum_core::{
    Ack, Entry, Key, KeyRange, Refusal, ReplicaStats, Request, Response, Transport, Version,
    WriterId,
};
use kvquorum_testing::sim::Clock;
use scan::Pages;
use tokio::time::{Instant, timeout_at};

use crate::map::{Ask, Map, Operation, Paging, Part, Put, Read, Said, Settling, Told, Written};
use crate::oracle::{Quorums, Settings, key};
use crate::planted::Bug;
use crate::spy::current;

pub struct Mutant {
    links: Arc<Links>,
    quorums: Quorums,
    settings: Settings,
    clock: MutantClock,
}

/// What one attempt came to.
struct Sent {
    parts: Vec<Part>,
    too_far_ahead: bool,
    /// The greatest version that it was refused for.
    refused_past: Option<Version>,
    /// To be waited for, or left.
    calls: Calls,
}

impl Sent {
    fn take_in(&mut self, (replica, answer): Answer) {
        self.too_far_ahead |= matches!(
            answer,
            Some(Ok(Response::Refused(Refusal::TooFarAhead { .. })))
        );
        self.refused_past = self.refused_past.max(refused_past(&answer));
        self.parts[replica] = part(answer);
    }

    fn count(&self, is: impl Fn(&Part) -> bool) -> usize {
        self.parts.iter().filter(|part| is(part)).count()
    }

    fn may_be_applied(&self) -> bool {
        self.count(|part| *part != Part::Pending && may_be_seen(None, part)) > 0
    }
}

impl Mutant {
    pub fn new(
        bug: Option<Bug>,
        transports: Vec<Arc<dyn Transport>>,
        quorums: Quorums,
        settings: Settings,
        writer: WriterId,
        wall: Clock,
    ) -> Self {
        let max_drift_millis = settings.max_drift.as_millis() as u64;
        Self {
            clock: MutantClock::new(bug, wall, max_drift_millis, writer),
            links: Arc::new(Links {
                bug,
                settings,
                panicked: transports.iter().map(|_| AtomicU64::new(0)).collect(),
                transports,
            }),
            quorums,
            settings,
        }
    }

    fn is(&self, bug: Bug) -> bool {
        self.links.bug == Some(bug)
    }

    /// What is put now, or deleted.
    fn entry(&self, version: Version, put: Option<Put>) -> Entry {
        let Some(Put { value, ttl }) = put else {
            return Entry::tombstone(version);
        };
        let expires = |ttl: Duration| {
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            NonZeroU64::new(self.clock.wall_millis().saturating_add(ttl))
        };
        Entry {
            version,
            expires_millis: ttl.and_then(expires),
            value: Some(value),
        }
    }

    fn has_expired(&self, entry: &Entry) -> bool {
        entry.has_expired(self.clock.wall_millis())
    }

    /// One attempt.
    async fn send(&self, key: &Key, entry: &Entry) -> Sent {
        let Quorums { n, w, .. } = self.quorums;
        let began = Instant::now();
        let mut sent = Sent {
            parts: vec![Part::Pending; n],
            too_far_ahead: false,
            refused_past: None,
            calls: Calls::new(self.is(Bug::DropCancels)),
        };
        for replica in 0..n {
            let request = Request::write(key, entry.clone());
            sent.calls.start(&self.links, current(), replica, request);
        }
        let mut out_of_reach = false;
        while let Some(answer) = sent.calls.next().await {
            sent.take_in(answer);
            let failed = sent.count(is_failure);
            out_of_reach = failed > n - w || (failed > 0 && self.is(Bug::FailsAtFirst));
            let decided = out_of_reach || sent.count(|part| part.is_ack()) >= w;
            if decided && !self.is(Bug::WaitsForAll) {
                break;
            }
        }
        let until = Instant::now() + began.elapsed();
        while out_of_reach && !sent.may_be_applied() && !self.is(Bug::FailsAtOnce) {
            match timeout_at(until, sent.calls.next()).await {
                Ok(Some(answer)) => sent.take_in(answer),
                _ => break,
            }
        }
        sent.calls.cancels = self.is(Bug::StragglersCancelled);
        sent
    }
}

/// The version that what was refused has to go past.
fn refused_past(answer: &Option<Result<Response, bool>>) -> Option<Version> {
    match answer {
        Some(Ok(Response::Refused(Refusal::Promised { by } | Refusal::Superseded { by }))) => {
            Some(*by)
        }
        _ => None,
    }
}

fn part(answer: Option<Result<Response, bool>>) -> Part {
    let may_have_applied = match answer {
        Some(Ok(Response::Ack(Ack::Applied))) => return Part::Applied,
        Some(Ok(Response::Ack(Ack::Superseded { by }))) => return Part::Superseded(by),
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

impl Map for Mutant {
    fn write(&self, key: Key, put: Option<Put>) -> Operation<'_, (Written, Settling)> {
        Box::pin(self.write_all(key, put))
    }

    fn read(&self, key: Key) -> Operation<'_, Read> {
        Box::pin(self.read_from_all(key))
    }

    fn ask(&self, register: usize, ask: Ask, own: u64) -> Operation<'_, Told> {
        let key = key(register);
        Box::pin(async move {
            match ask {
                Ask::Get => self.get_settled(&key).await,
                ask => self.update(&key, ask, own).await,
            }
        })
    }

    fn scan(&self, range: KeyRange, _: bool) -> Box<dyn Paging + '_> {
        Box::new(Pages::new(self, range))
    }

    fn stats(&self) -> Vec<ReplicaStats> {
        let panicked = self.links.panicked.iter();
        let stats = panicked.map(|panicked| {
            let mut stats = ReplicaStats::default();
            stats.panicked = panicked.load(Ordering::Relaxed);
            stats
        });
        stats.collect()
    }
}

impl Mutant {
    async fn write_all(&self, key: Key, put: Option<Put>) -> (Written, Settling) {
        let Quorums { n, w, .. } = self.quorums;
        let mut stamp = self.clock.next();
        let mut entry = self.entry(stamp.version, put);
        let mut passed = None;
        let mut knows_acknowledged = false;
        let mut earlier = false;
        let mut attempts = 1;
        loop {
            entry.version = stamp.version;
            let sent = self.send(&key, &entry).await;
            let bug = self.links.bug;
            let seen = sent.count(|part| may_be_seen(bug, part)) > 0;
            let by = sent.parts.iter().filter_map(|part| match part {
                Part::Superseded(by) => Some(*by),
                _ => None,
            });
            let by = by.max();
            if let Some(by) = by {
                self.clock.observe(by.timestamp);
            }
            let acked = sent.count(|part| part.is_ack()) >= w;
            let may_come_after = knows_acknowledged && 2 * w > n;
            let again = if acked {
                knows_acknowledged |= by.is_some();
                passed = passed.max(by.filter(|_| !may_come_after));
                by.is_some() && !may_come_after && !self.is(Bug::SupersededIgnored)
            } else if sent.refused_past.is_some() {
                passed = passed.max(sent.refused_past).max(by);
                true
            } else {
                sent.too_far_ahead
                    && self.clock.step_back(stamp)
                    && (!seen || self.is(Bug::TakenStampedLower))
                    && !self.is(Bug::RefusedNotRestamped)
            };
            if again && attempts < self.settings.attempts {
                earlier |= seen && !self.is(Bug::EarlierForgotten);
                attempts += 1;
                stamp = match passed {
                    _ if self.is(Bug::RestampedEqual) => stamp,
                    Some(passed) => self.clock.past(passed.timestamp),
                    None => self.clock.next(),
                };
                continue;
            }
            let said = match by {
                _ if !acked && (seen || earlier) => Said::MaybeApplied,
                _ if !acked => Said::NotApplied,
                Some(by) if again => Said::Superseded(by),
                _ => Said::Acked(entry.version, by),
            };
            return settling(sent, said, attempts, earlier, bug);
        }
    }
}

/// What a write came to, and what it comes to once all have answered.
fn settling(
    sent: Sent,
    said: Said,
    attempts: u32,
    earlier: bool,
    bug: Option<Bug>,
) -> (Written, Settling) {
    let Sent {
        parts, mut calls, ..
    } = sent;
    let written = Written {
        said,
        attempts,
        parts,
    };
    let mut settled = written.clone();
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
    (written, Box::pin(settling))
}
