//! Putting and deleting: rules W-ALL, W-QUORUM, W-FINISH, W-CANCEL, W-FAIL and
//! W-SUPERSEDED.

use std::mem::forget;
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_stream::stream;
use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::calls::{Calls, Pending, call_each, set};
use super::operation::{Decided, Start, decide};
use super::report::{Late, WriteError, WriteReceipt, WriteReport};
use super::{Coordinator, Inner};
use crate::clock::{Clock, ClockExhausted, Stamp};
use crate::entry::{Entry, Key, Version};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::request::{Ack, Refusal, Request, Response};
use crate::tally::{WriteTally, WriteVerdict, may_be_seen, superseded_by};
use crate::telemetry::{CallKind, Ended, Kind, OperationSpan, Stopwatch};
use crate::transport::Transport;

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// Whether any two sets of W replicas have one in common.
    const WRITES_MEET: bool = W > N / 2;

    /// Writes an entry, and stamps it anew where that is needed.
    pub(super) async fn write(
        &self,
        kind: Kind,
        key: Key,
        value: Option<Bytes>,
        expires_millis: Option<NonZeroU64>,
    ) -> Result<WriteReceipt<N>, WriteError> {
        let inner = &self.inner;
        let span = OperationSpan::new(kind);
        let mut waited = Stopwatch::stopped();
        let mut stamp = inner.clock.next().inspect_err(|_| {
            inner.telemetry.end(kind, Ended::ClockExhausted, &waited);
        })?;
        let version = stamp.version;
        let entry = Entry {
            version,
            expires_millis,
            value,
        };
        let mut request = Request::write(key, entry);
        let mut earlier = Earlier::default();
        let (mut attempts, mut again) = (1, 0);
        loop {
            request.era = Some(inner.introductions.era());
            let (verdict, outcomes, late) = match send_to_all(inner, W, &span, &mut request) {
                Start::Settled(sent) => sent,
                Start::Unsettled(sending) => {
                    waited.start();
                    sending.await
                }
            };
            inner.count_superseded(verdict);
            if earlier.acknowledges(verdict, Self::WRITES_MEET) {
                inner.telemetry.end(kind, Ended::Done, &waited);
                return Ok(WriteReceipt {
                    version: stamp.version,
                    attempts,
                    outcomes,
                    late,
                });
            }
            if earlier.calls_for_another(&inner.clock, stamp, verdict, &outcomes)
                && attempts < inner.settings.max_attempts
                && let Ok(later) = earlier.stamp_past(&inner.clock, attempts)
            {
                inner.telemetry.retries(kind);
                earlier.may_be_seen |= may_be_seen(&outcomes);
                earlier.is_out = false;
                stamp = later;
                request.restamp(stamp.version);
                attempts = attempts.saturating_add(1);
                continue;
            }
            if verdict == WriteVerdict::Failed
                && inner.asks_again(request.era, &outcomes, &mut again).await
            {
                earlier.goes_on_with_stamp(&outcomes);
                continue;
            }
            let (last, seen, names) = (stamp.version, earlier.may_be_seen, self.names());
            let report = WriteReport::new(last, W, attempts, seen, names, outcomes, late);
            let error = WriteError::of(verdict, Box::new(report));
            inner.telemetry.end(kind, ended(&error), &waited);
            return Err(error);
        }
    }
}

/// What attempts of a write told that were not acknowledged.
#[derive(Default)]
struct Earlier {
    /// Whether a read may see one of them.
    may_be_seen: bool,
    /// The greatest version that was told of.
    passed: Option<Version>,
    /// Whether replicas refused to go further past that than one step (C-DRIFT), as
    /// the clock has it, which is ahead of theirs.
    is_edge: bool,
    /// Whether what is passed is past all that was acknowledged before the write
    /// began. This is on W replicas: where any two sets of W meet, W acks tell of it,
    /// and every later attempt is stamped past it. So what supersedes a later one was
    /// not acknowledged by then: it overlaps with this write, or it failed and has yet
    /// to take effect. Either may as well come after this write.
    knows_acknowledged: bool,
    /// Whether a replica may have taken the last stamp when it was sent in an earlier era.
    is_out: bool,
}

impl Earlier {
    /// Whether a write that comes to this verdict is acknowledged.
    fn acknowledges(&self, verdict: WriteVerdict, writes_meet: bool) -> bool {
        match verdict {
            WriteVerdict::Acked => true,
            WriteVerdict::Superseded { .. } => self.knows_acknowledged && writes_meet,
            WriteVerdict::Failed => false,
        }
    }

    /// The entry is sent again as it is.
    fn goes_on_with_stamp(&mut self, outcomes: &[Outcome<Ack>]) {
        self.is_out |= may_be_seen(outcomes);
        self.may_be_seen |= self.is_out;
    }

    /// Takes in an attempt, and tells whether to stamp the entry anew.
    fn calls_for_another(
        &mut self,
        clock: &Clock,
        stamp: Stamp,
        verdict: WriteVerdict,
        outcomes: &[Outcome<Ack>],
    ) -> bool {
        if let WriteVerdict::Superseded { by } = verdict {
            self.knows_acknowledged = true;
            // Others may have promised a still greater ballot.
            self.passed = self.passed.max(Some(by)).max(refused_past(outcomes));
            return true;
        }
        match refused_past(outcomes) {
            // An update was promised a greater ballot, and would not see the entry.
            Some(by) => {
                let by = Some(by).max(superseded_by(outcomes));
                self.passed = self.passed.max(by);
                true
            }
            None if is_too_far_ahead(outcomes) => {
                let is_further = self.passed.is_some() && stamp.is_own;
                self.is_edge |= is_further;
                // It is this clock that is wrong, if it is ahead of its wall clock. The
                // next attempt is less then: what a replica may have taken of this one
                // would win over it, and over later puts.
                (clock.step_back(stamp) || is_further) && !may_be_seen(outcomes) && !self.is_out
            }
            None => false,
        }
    }

    /// A version past what was told of, a little further with each attempt, so that it
    /// is not always just behind those who do the same.
    fn stamp_past(&self, clock: &Clock, attempts: u32) -> Result<Stamp, ClockExhausted> {
        match self.passed {
            Some(passed) if self.is_edge => clock.right_after(passed.timestamp),
            Some(passed) if attempts == 1 => clock.past(passed.timestamp),
            Some(passed) => clock.ahead(passed.timestamp, attempts.into()),
            None => clock.next(),
        }
    }
}

fn ended(error: &WriteError) -> Ended {
    match error {
        WriteError::NotApplied(_) => Ended::NotApplied,
        WriteError::MaybeApplied(_) => Ended::MaybeApplied,
        WriteError::Superseded { .. } => Ended::Superseded,
        WriteError::Clock(_) => Ended::ClockExhausted,
    }
}

pub(super) fn is_too_far_ahead<A>(outcomes: &[Outcome<A>]) -> bool {
    let mut refusals = outcomes.iter().filter_map(Outcome::refusal);
    refusals.any(|refusal| matches!(refusal, Refusal::TooFarAhead { .. }))
}

/// The greatest version that replicas told to go past where they refused.
pub(super) fn refused_past<A>(outcomes: &[Outcome<A>]) -> Option<Version> {
    let refusals = outcomes.iter().filter_map(Outcome::refusal);
    refusals.filter_map(Refusal::by).max()
}

pub(super) type Sent<const N: usize> = (WriteVerdict, [Outcome<Ack>; N], Option<Late<Ack>>);

/// One attempt: sends an entry to all replicas, to be decided at `needed` acks.
pub(super) fn send_to_all<'a, T: Transport, const N: usize>(
    inner: &'a Arc<Inner<T, N>>,
    needed: usize,
    span: &OperationSpan,
    request: &mut Request,
) -> Start<Sent<N>, impl Future<Output = Sent<N>> + use<'a, T, N>> {
    let _entered = span.enter();
    let mut sent = (WriteTally::new(needed), [const { None }; N]);
    call_each(
        inner,
        request,
        0..N,
        &mut sent,
        |(tally, _), replica, result| {
            // What is usual goes straight in: `add` would move it twice more, and to
            // drop the response, of which an ack has nothing, would be a call.
            // Together they are a twentieth of a write's instructions.
            if let Ok(Response::Ack(ack)) = result {
                tally.add_ack(replica, ack);
                forget(result);
            } else {
                tally.add(replica, inner.admitted(replica, (result, None)));
            }
            ControlFlow::Continue(())
        },
        |(_, pending), replica, calling| set(inner, pending, replica, CallKind::Write, calling),
        |(tally, _), replica, failure| tally.add(replica, Err(failure)),
    );
    let (tally, _) = &sent;
    inner
        .telemetry
        .answered_at_once(|replica| tally.has_acked(replica));
    match tally.verdict() {
        Some(verdict) if !tally.is_pending() => {
            inner.observe(tally.superseded_by());
            if !tally.is_acked_by_all() {
                inner.remember_missed(request.key(), tally.outcomes());
            }
            Start::Settled((verdict, sent.0.into_outcomes(), None))
        }
        _ => {
            let span = span.clone();
            let (tally, pending) = sent;
            let key = request.key().cloned();
            let sending = await_rest(Arc::clone(inner), needed, tally, pending, key);
            Start::Unsettled(decide(&inner.background, span, sending))
        }
    }
}

/// Waits for the replicas that have not answered at once, and goes on until every
/// replica has answered or run out of time.
fn await_rest<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    needed: usize,
    mut tally: WriteTally<N>,
    pending: Pending<N>,
    key: Option<Key>,
) -> impl Stream<Item = Decided<Sent<N>>> + Send {
    stream! {
        let began = Instant::now();
        let mut calls = Calls::new(Arc::clone(&inner), pending);
        // Each call is polled before anything is decided: the entry goes to
        // all replicas, however fast the first of them are.
        while let Some((replica, result)) = calls.next_ready().await {
            tally.add(replica, result);
        }
        let verdict = loop {
            if let Some(verdict) = tally.verdict() {
                break verdict;
            }
            match calls.next().await {
                Some((replica, result)) => tally.add(replica, result),
                None => break WriteVerdict::Failed,
            }
        };
        if verdict == WriteVerdict::Failed && !tally.is_stale() {
            // As long again, as long as it can turn out not to be applied at all.
            let now = Instant::now();
            let grace = now.checked_add(began.elapsed()).unwrap_or(now);
            while tally.is_pending() && !tally.may_be_applied() {
                match timeout_at(grace, calls.next()).await {
                    Ok(Some((replica, result))) => tally.add(replica, result),
                    _ => break,
                }
            }
        }
        calls.go_to_background(|replica| tally.add(replica, Err(ReplicaFailure::GivenUp)));
        inner.observe(tally.superseded_by());
        let mut outcomes = tally.into_outcomes();
        inner.remember_missed(key.as_ref(), &outcomes);
        if !calls.are_under_way() {
            yield Decided { decision: (verdict, outcomes, None), unfinished: false };
            return;
        }
        let (report_late, late) = oneshot::channel();
        yield Decided { decision: (verdict, outcomes, Some(Late(late))), unfinished: true };

        let mut tally = WriteTally::<N>::new(needed);
        while let Some((replica, result)) = calls.next().await {
            tally.add(replica, result);
        }
        inner.observe(tally.superseded_by());
        outcomes = tally.into_outcomes();
        inner.remember_missed(key.as_ref(), &outcomes);
        // Nobody may be waiting for it.
        let _ = report_late.send(outcomes.into());
    }
}

impl<T, const N: usize> Inner<T, N> {
    #[inline]
    fn count_superseded(&self, verdict: WriteVerdict) {
        if let WriteVerdict::Superseded { .. } = verdict {
            self.telemetry.superseded();
        }
    }

    /// Leaves hints for the replicas that a write did not reach.
    fn remember_missed(&self, key: Option<&Key>, outcomes: &[Outcome<Ack>; N]) {
        if let Some(key) = key {
            self.hints.note(key, outcomes);
        }
    }

    /// C-MONOTONIC: later versions are greater than all that acks told of, as far
    /// as the clock follows.
    fn observe(&self, superseded_by: Option<Version>) {
        if let Some(by) = superseded_by {
            self.clock.observe(by.timestamp);
        }
    }
}
