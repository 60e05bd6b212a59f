//! Putting and deleting: rules W-ALL, W-QUORUM, W-FINISH, W-CANCEL, W-FAIL and
//! W-SUPERSEDED.

use std::sync::Arc;

use async_stream::stream;
use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::oneshot;

use super::calls::Calls;
use super::operation::{Decided, Start, decide};
use super::report::{Late, WriteError, WriteReceipt, WriteReport};
use super::{Coordinator, Inner};
use crate::clock::Stamp;
use crate::entry::{Entry, Key, Version};
use crate::outcome::{Outcome, ReplicaFailure, admitted};
use crate::store::Merged;
use crate::tally::{WriteTally, WriteVerdict, may_be_seen};
use crate::transport::{Refusal, Request, Response, Transport};

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// Whether any two sets of W replicas have one in common.
    const WRITES_MEET: bool = W > N / 2;

    /// Writes an entry, and stamps it anew where that is needed.
    pub(super) async fn write(
        &self,
        key: Key,
        value: Option<Bytes>,
    ) -> Result<WriteReceipt<N>, WriteError> {
        let inner = &self.inner;
        let Stamp {
            timestamp,
            mut past_floor,
        } = inner.clock.stamp()?;
        let writer = inner.settings.writer;
        let mut version = Version { timestamp, writer };
        let entry = Entry { version, value };
        let mut request = Request::Merge { key, entry };
        let mut earlier_may_be_seen = false;
        let mut acked_before = false;
        let mut attempt = 1;
        loop {
            let (verdict, outcomes, late) = match send_to_all(inner, W, &request) {
                Start::Settled(sent) => sent,
                Start::Unsettled(sending) => sending.await,
            };
            let report = move |outcomes, late| {
                Box::new(WriteReport::new(
                    version,
                    W,
                    attempt,
                    earlier_may_be_seen,
                    self.names(),
                    outcomes,
                    late,
                ))
            };
            let superseded_by = match verdict {
                WriteVerdict::Acked => None,
                WriteVerdict::Superseded { by } => Some(by),
                WriteVerdict::Failed => {
                    if past_floor && is_mistaken::<N, W>(&outcomes) {
                        inner.clock.forget_floor();
                        past_floor = false;
                        if attempt < inner.settings.max_attempts
                            && let Ok(now) = inner.clock.tick()
                        {
                            earlier_may_be_seen |= may_be_seen(&outcomes);
                            version.timestamp = now;
                            request.restamp(version);
                            attempt = attempt.saturating_add(1);
                            continue;
                        }
                    }
                    return Err(WriteError::failed(report(outcomes, late)));
                }
            };
            // What was acknowledged before this write began is on W replicas.
            // Where any two sets of W meet, the first acks told of it, and every
            // later attempt is stamped past it. So what supersedes a later one
            // was not acknowledged by then: it overlaps with this write, or it
            // failed and has yet to take effect. Either may as well come after
            // this write.
            let may_come_after = acked_before && Self::WRITES_MEET;
            let Some(by) = superseded_by.filter(|_| !may_come_after) else {
                // A minority may be wrong about the time. What the clock gave out
                // by itself it has behind it.
                if Self::WRITES_MEET && (past_floor || attempt > 1) {
                    inner.clock.confirm(version.timestamp);
                }
                return Ok(WriteReceipt {
                    version,
                    attempts: attempt,
                    outcomes,
                    late,
                });
            };
            // The floor was admitted. What is refused from here on is what lies past
            // the entry that supersedes this one.
            past_floor = false;
            match inner.clock.tick_past(by.timestamp) {
                Ok(later) if attempt < inner.settings.max_attempts => {
                    earlier_may_be_seen |= may_be_seen(&outcomes);
                    version.timestamp = later;
                    request.restamp(version);
                    acked_before = true;
                    attempt = attempt.saturating_add(1);
                }
                _ => {
                    let report = report(outcomes, late);
                    return Err(WriteError::Superseded { by, report });
                }
            }
        }
    }
}

/// Whether the clock was held to a timestamp that only a wrong clock can have
/// given out: a replica says so, and either none says otherwise, or so many say
/// so that the others are too few.
fn is_mistaken<const N: usize, const W: usize>(outcomes: &[Outcome<Merged>; N]) -> bool {
    let refusals = outcomes.iter().filter(|it| is_too_far_ahead(it)).count();
    let admitted = outcomes.iter().any(|it| matches!(it, Outcome::Answered(_)));
    refusals > 0 && (!admitted || refusals > N.saturating_sub(W))
}

fn is_too_far_ahead(outcome: &Outcome<Merged>) -> bool {
    matches!(
        outcome.failure(),
        Some(ReplicaFailure::Refused(Refusal::TooFarAhead { .. }))
    )
}

type Sent<const N: usize> = (WriteVerdict, [Outcome<Merged>; N], Option<Late<Merged>>);

/// One attempt: sends an entry to all replicas, to be decided at `needed` acks.
fn send_to_all<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    needed: usize,
    request: &Request,
) -> Start<Sent<N>, impl Future<Output = Sent<N>>> {
    let mut tally = WriteTally::new(needed);
    for (replica, transport) in inner.transports.iter().enumerate() {
        match transport.call_now(request) {
            // What is usual goes straight in: `add` would move it twice more,
            // which is a twentieth of a write's instructions.
            Some(Ok(Response::Merged(merged))) => tally.add_ack(replica, merged),
            Some(result) => tally.add(replica, admitted(result)),
            None => {}
        }
    }
    match tally.verdict() {
        Some(verdict) if !tally.is_pending() => {
            let outcomes = tally.into_outcomes();
            inner.observe(&outcomes);
            Start::Settled((verdict, outcomes, None))
        }
        _ => {
            let sending = send_to_rest(Arc::clone(inner), needed, tally, request.clone());
            Start::Unsettled(decide(&inner.background, sending))
        }
    }
}

/// Sends an entry to the replicas that have not answered at once, and goes on
/// until every replica has answered or run out of time.
fn send_to_rest<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    needed: usize,
    mut tally: WriteTally<N>,
    request: Request,
) -> impl Stream<Item = Decided<Sent<N>>> + Send {
    stream! {
        let mut calls = Calls::new(&inner.transports, &inner.background, inner.settings.time_limit);
        for replica in tally.pending() {
            // Only background work can lack room.
            let _ = calls.start(replica, request.clone());
        }
        drop(request);
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
        calls.go_to_background(|replica| tally.add(replica, Err(ReplicaFailure::GivenUp)));
        let mut outcomes = tally.into_outcomes();
        inner.observe(&outcomes);
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
        outcomes = tally.into_outcomes();
        inner.observe(&outcomes);
        // Nobody may be waiting for it.
        let _ = report_late.send(outcomes.into());
    }
}

impl<T, const N: usize> Inner<T, N> {
    /// C-MONOTONIC: later timestamps are greater than all that acks told of.
    fn observe(&self, outcomes: &[Outcome<Merged>; N]) {
        for outcome in outcomes {
            if let Outcome::Answered(Merged::Superseded { by }) = outcome {
                self.clock.observe(by.timestamp);
            }
        }
    }
}
