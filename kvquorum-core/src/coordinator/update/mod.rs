//! Updating registers: rules L-REGISTER, L-DOUBT and L-FAIR.
//!
//! This is CASPaxos (Rystsov, *CASPaxos: Replicated State Machines without Logs*,
//! 2018) for each key, where the ballot is the version that is then written. Its
//! second phase is a write like any other.

mod memory;
mod prepare;
mod report;
mod turns;

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use memory::{Became, Memory, Output};
use prepare::{Promises, prepare};
use report::Phase;
pub use report::{UpdateError, UpdateReport};
pub(super) use turns::Turns;

use super::operation::{Start, decide};
use super::report::{ReadReport, WriteReport};
use super::write::{is_too_far_ahead, refused_past, send_to_all};
use super::{Coordinator, ReadError, Repair, ReplicaReport};
use crate::clock::{ClockExhausted, Stamp, mix};
use crate::entry::{Entry, Key, Version};
use crate::request::{Refusal, Request};
use crate::tally::{WriteVerdict, may_be_seen, superseded_by};
use crate::telemetry::{Ended, Kind, OperationSpan, Settling, Stopwatch};
use crate::transport::Transport;

/// How long an update goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) max_attempts: u32,
    /// Within which the last attempt begins.
    pub(crate) time_limit: Duration,
    /// What its ballots are greater than.
    pub(crate) past: Option<Version>,
}

/// What an update does with the value that it finds.
///
/// ```
/// # use kvquorum_core::Edit;
/// let count = |old: Option<&u64>| Edit::Put(old.map_or(1, |old| old + 1));
/// let expire = |old: Option<&u64>| match old {
///     Some(since) if *since < 100 => Edit::<u64>::Delete,
///     _ => Edit::Keep,
/// };
/// # let _ = (count(None), expire(None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit<V> {
    /// This value takes its place.
    Put(V),
    /// It is deleted.
    Delete,
    /// It stays.
    Keep,
}

/// What an update leaves under its key.
#[derive(Clone, Debug)]
pub(crate) struct Left {
    pub(crate) value: Option<Bytes>,
    pub(crate) expires_millis: Option<NonZeroU64>,
}

impl Left {
    pub(crate) const NOTHING: Self = Self {
        value: None,
        expires_millis: None,
    };

    /// What is there already.
    pub(crate) fn same(held: Option<&Entry>) -> Self {
        held.map_or(Self::NOTHING, |held| Self {
            value: held.value.clone(),
            expires_millis: held.expires_millis,
        })
    }
}

impl Edit<Bytes> {
    /// What is left of this edit of a value; `None` where it keeps what there is. A value
    /// that is put in place of one that expires does so at the same time.
    pub(crate) fn leaves(self, held: Option<&Entry>) -> Option<Left> {
        match self {
            Self::Put(value) => Some(Left {
                value: Some(value),
                expires_millis: held.and_then(|held| held.expires_millis),
            }),
            Self::Delete => Some(Left::NOTHING),
            Self::Keep => None,
        }
    }
}

/// An update that came to its end.
pub(crate) struct Done {
    /// The version of what it has written, if it has.
    pub(crate) ballot: Version,
    /// What is held now.
    pub(crate) entry: Option<Entry>,
    pub(crate) attempts: u32,
}

impl Done {
    fn new(ballot: Version, entry: Option<Entry>, attempts: u32) -> Self {
        Self {
            ballot,
            entry,
            attempts,
        }
    }
}

impl Bounds {
    pub(crate) const DEFAULT: Self = Self {
        max_attempts: 100,
        time_limit: Duration::from_secs(10),
        past: None,
    };
}

/// What an attempt came to that failed.
struct Failure {
    phase: Phase,
    /// The greatest version of others that were in its way.
    by: Option<Version>,
    /// Whether its own clock was too far ahead.
    is_too_far_ahead: bool,
    /// Whether it can't be found out any more what became of earlier attempts.
    is_unknown: bool,
    /// Whether all are to be asked again, in an era that has begun meanwhile.
    is_asked_again: bool,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// Updates a key by a function of its entry: what is left, or nothing where that is to
    /// stay. `edit` also has an output for each attempt, and that of the one that was
    /// applied is returned.
    pub(crate) async fn update_within<O>(
        &self,
        key: Key,
        bounds: Bounds,
        edit: impl FnMut(Option<&Entry>) -> (Option<Left>, O),
    ) -> Result<(Done, O), UpdateError> {
        let span = OperationSpan::new(Kind::Update);
        let waited = Stopwatch::started();
        let updated = self.try_update(&span, key, bounds, edit).await;
        let ended = updated.as_ref().map_or_else(ended, |_| Ended::Done);
        self.inner.telemetry.end(Kind::Update, ended, &waited);
        updated
    }

    async fn try_update<O>(
        &self,
        span: &OperationSpan,
        key: Key,
        bounds: Bounds,
        mut edit: impl FnMut(Option<&Entry>) -> (Option<Left>, O),
    ) -> Result<(Done, O), UpdateError> {
        let (inner, clock, began) = (&self.inner, &self.inner.clock, Instant::now());
        let turn = inner.turns.wait(&key, inner.settings.time_limit).await;
        inner.telemetry.turn(&turn.waited, turn.is_missed());
        let mut memory = Memory::new();
        let mut passed = bounds.past;
        let first = passed.map_or_else(|| clock.next(), |passed| clock.past(passed.timestamp));
        let mut stamp = first?;
        let mut attempts = 1_u32;
        // Whether replicas refused to go further past that than one step (C-DRIFT).
        let mut is_edge = false;
        loop {
            let started = Instant::now();
            let attempt = self.attempt(span, &key, stamp.version, &mut memory, &mut edit);
            let failure = match attempt.await {
                Ok((entry, output)) => {
                    return Ok((Done::new(stamp.version, entry, attempts), output));
                }
                Err(failure) => failure,
            };
            // L-DOUBT: it goes on also where others are not in its way, as long as it
            // is not known what became of it.
            let is_further =
                failure.is_too_far_ahead && stamp.is_own && passed.is_some() && memory.is_empty();
            is_edge |= is_further;
            passed = passed.max(failure.by);
            let helps = failure.by.is_some()
                || failure.is_asked_again
                || !memory.is_empty()
                || failure.is_too_far_ahead && clock.step_back(stamp)
                || is_further;
            let goes_on = helps
                && !failure.is_unknown
                && attempts < bounds.max_attempts
                && began.elapsed() < bounds.time_limit;
            if !goes_on {
                return Err(failure.into_error(attempts, memory).await);
            }
            sleep(pause(stamp.version, attempts, started.elapsed())).await;
            let later = match passed {
                Some(passed) if is_edge => clock.right_after(passed.timestamp),
                _ => self.later(failure.by, began.elapsed()),
            };
            let Ok(later) = later else {
                return Err(failure.into_error(attempts, memory).await);
            };
            self.inner.telemetry.retries(Kind::Update);
            stamp = later;
            attempts = attempts.saturating_add(1);
        }
    }

    /// L-FAIR. The next ballot: ahead of those that were in the way by as long as the
    /// update has taken, so that what is stamped meanwhile is not in its way again.
    fn later(&self, by: Option<Version>, taken: Duration) -> Result<Stamp, ClockExhausted> {
        let millis = u64::try_from(taken.as_millis()).unwrap_or(u64::MAX);
        match by {
            Some(by) => self.inner.clock.ahead(by.timestamp, millis.max(1)),
            None => self.inner.clock.next(),
        }
    }

    /// One attempt: what is held then, and the output of the edit that it comes from.
    async fn attempt<O>(
        &self,
        span: &OperationSpan,
        key: &Key,
        ballot: Version,
        memory: &mut Memory<O>,
        edit: &mut impl FnMut(Option<&Entry>) -> (Option<Left>, O),
    ) -> Result<(Option<Entry>, O), Failure> {
        let base = self.promised(span, key, ballot).await?;
        let is_settled = base.is_settled(W);
        let became = memory.became(&base.held).await;
        let held = base.held.entry;
        let same = || Left::same(held.as_ref());
        let (left, output) = match became {
            Became::Unknown => {
                let report = ReadReport::new(R, self.names(), base.outcomes);
                return Err(Failure::unknown(Phase::Prepare(report)));
            }
            Became::Applied(output) => (same(), Output::Earlier(output)),
            Became::NotApplied => match edit(held.as_ref()) {
                // Nothing of this update, or of another, is half done.
                (None, output) if is_settled && memory.is_empty() => {
                    return Ok((held, output));
                }
                (left, output) => (left.unwrap_or_else(same), Output::New(output)),
            },
        };
        let entry = Entry {
            version: ballot,
            expires_millis: left.expires_millis,
            value: left.value,
        };
        let output = self
            .accepted(span, key, entry.clone(), output, memory)
            .await?;
        Ok((Some(entry), output))
    }

    /// The first phase: R replicas promise to take nothing below the ballot.
    async fn promised(
        &self,
        span: &OperationSpan,
        key: &Key,
        ballot: Version,
    ) -> Result<Promises<N>, Failure> {
        let inner = &self.inner;
        let era = inner.introductions.era();
        let request = Request::prepare(key, ballot).in_era(era);
        let preparing = prepare(self.inner.clone(), R, request);
        let promises = decide(&self.inner.background, span.clone(), preparing).await;
        if promises.is_enough {
            return Ok(promises);
        }
        let outcomes = promises.outcomes;
        Err(Failure {
            is_asked_again: inner.asks_again(Some(era), &outcomes, &mut 0).await,
            by: refused_past(&outcomes),
            is_too_far_ahead: is_too_far_ahead(&outcomes),
            is_unknown: false,
            phase: Phase::Prepare(ReadReport::new(R, self.names(), outcomes)),
        })
    }

    /// The second phase: W replicas take the entry, or hold a greater one, which has
    /// seen it, or was written over it.
    async fn accepted<O>(
        &self,
        span: &OperationSpan,
        key: &Key,
        entry: Entry,
        output: Output<O>,
        memory: &mut Memory<O>,
    ) -> Result<O, Failure> {
        let version = entry.version;
        let inner = &self.inner;
        let era = inner.introductions.era();
        let mut request = Request::write(key, entry).in_era(era);
        let (verdict, outcomes, mut late) = match send_to_all(&self.inner, W, span, &mut request) {
            Start::Settled(sent) => sent,
            Start::Unsettled(sending) => sending.await,
        };
        if verdict != WriteVerdict::Failed {
            return Ok(match output {
                Output::New(output) => output,
                Output::Earlier(at) => memory.output(at),
            });
        }
        if may_be_seen(&outcomes) {
            memory.remember(version, output, &outcomes, &mut late);
        }
        let by = refused_past(&outcomes);
        Err(Failure {
            is_asked_again: inner.asks_again(Some(era), &outcomes, &mut 0).await,
            by: by.map(|by| superseded_by(&outcomes).map_or(by, |other| by.max(other))),
            is_too_far_ahead: is_too_far_ahead(&outcomes),
            is_unknown: false,
            phase: Phase::Accept(WriteReport::new(
                version,
                W,
                1,
                false,
                self.names(),
                outcomes,
                late,
            )),
        })
    }

    /// Reads what W replicas are known to hold. Where some are ahead of it, that is an
    /// error, and the key has yet to be [settled](Self::settle).
    pub(crate) async fn get_agreed(&self, key: Key) -> Result<Option<Entry>, ReadError> {
        self.read(key, Repair::Register).await
    }

    /// Settles a key of which a read failed because replicas are ahead of it: gives it
    /// a version that all can take.
    pub(crate) async fn settle(
        &self,
        key: Key,
        bounds: Bounds,
        error: ReadError,
    ) -> Result<Option<Entry>, ReadError> {
        let waited = Stopwatch::started();
        let settling = self.update_within(key, bounds, |_| (None, ()));
        let settled = settling.await.map(|(done, ())| done.entry);
        let telemetry = &self.inner.telemetry;
        telemetry.settled(Settling::Get, settled.is_ok());
        let ended = settled.as_ref().map_or(Ended::NotRepaired, |_| Ended::Done);
        telemetry.end(Kind::Get, ended, &waited);
        settled.map_err(|_| error)
    }
}

fn ended(error: &UpdateError) -> Ended {
    match error {
        UpdateError::NotApplied(_) => Ended::NotApplied,
        UpdateError::MaybeApplied(_) => Ended::MaybeApplied,
        UpdateError::Contended(_) => Ended::Contended,
        UpdateError::Clock(_) => Ended::ClockExhausted,
    }
}

/// Whether replicas did not take what was read because they are ahead of it: they
/// promised a greater ballot, or hold a greater entry, which need not have seen it, or
/// have collected what it was deleted by.
pub(crate) fn is_overtaken(error: &ReadError) -> bool {
    let ReadError::NotRepaired { entry, report, .. } = error else {
        return false;
    };
    let read = entry.as_ref().map(|entry| entry.version);
    let mut outcomes = report.replicas().iter().map(ReplicaReport::outcome);
    outcomes.any(|outcome| match outcome.refusal() {
        Some(refusal) => matches!(refusal, Refusal::Promised { .. } | Refusal::Before { .. }),
        None => outcome.answer().is_some_and(|held| *held > read),
    })
}

/// The longest that an update waits before its next attempt.
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// How long to wait after an attempt: at random, up to a bound that begins with as
/// long as the attempt `took`, and doubles each time. Of those who are in each
/// other's way one comes first then, and is done before the next begins.
fn pause(ballot: Version, attempts: u32, took: Duration) -> Duration {
    let doubled = took
        .max(Duration::from_millis(1))
        .saturating_mul(1 << attempts.min(8));
    let bound = doubled.min(LONGEST_PAUSE).as_nanos();
    // No ballot comes twice, so that this draws another number each time, and yet the
    // same whenever a test is repeated.
    let random = mix(ballot.timestamp.to_bits() ^ mix(ballot.writer.get()));
    let nanos = bound.saturating_mul(random.into()) >> u64::BITS;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

impl Failure {
    fn unknown(phase: Phase) -> Self {
        Self {
            phase,
            by: None,
            is_too_far_ahead: false,
            is_unknown: true,
            is_asked_again: false,
        }
    }

    async fn into_error<O>(self, attempts: u32, mut memory: Memory<O>) -> UpdateError {
        memory.settle().await;
        let doubts = memory.ballots();
        let is_in_doubt = !doubts.is_empty();
        let report = Box::new(UpdateReport::new(attempts, doubts, self.phase));
        match self.by {
            _ if is_in_doubt => UpdateError::MaybeApplied(report),
            Some(_) => UpdateError::Contended(report),
            None => UpdateError::NotApplied(report),
        }
    }
}

/// Whether what was found needs no second phase to be safe.
impl<const N: usize> Promises<N> {
    fn is_settled(&self, needed: usize) -> bool {
        self.held.entry.is_none() || self.holders >= needed
    }
}
