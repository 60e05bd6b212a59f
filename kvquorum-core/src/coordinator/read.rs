//! Getting: rules R-QUORUM, R-REPAIR and R-FAIL.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_stream::stream;
use futures_core::Stream;
use tokio::time::{Instant, timeout_at};

use super::calls::{Calls, Pending, call_each, set};
use super::operation::{Decided, Start, decide};
use super::report::{ReadError, ReadReceipt, ReadReport};
use super::{Coordinator, Inner, Repair, is_overtaken};
use crate::entry::{Entry, Key, Version};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::request::{Ack, Refusal, Request, Response};
use crate::tally::{Added, ReadTally};
use crate::telemetry::{CallKind, Ended, Kind, OperationSpan, Stopwatch};
use crate::transport::Transport;

/// What is wanted of a read that is done: the entry, or a receipt, which costs more.
pub(super) trait Found<const N: usize>: Sized {
    /// What a tally has, which is used up by that.
    fn of_tally(tally: &mut ReadTally<N>) -> Self;

    fn new(entry: Option<Entry>, outcomes: [Outcome<Option<Version>>; N]) -> Self;
}

impl<const N: usize> Found<N> for Option<Entry> {
    #[inline]
    fn of_tally(tally: &mut ReadTally<N>) -> Self {
        tally.take_greatest()
    }

    fn new(entry: Option<Entry>, _: [Outcome<Option<Version>>; N]) -> Self {
        entry
    }
}

impl<const N: usize> Found<N> for ReadReceipt<N> {
    #[inline]
    fn of_tally(tally: &mut ReadTally<N>) -> Self {
        let outcomes = tally.report();
        Self::new(tally.take_greatest(), outcomes)
    }

    fn new(entry: Option<Entry>, outcomes: [Outcome<Option<Version>>; N]) -> Self {
        Self { entry, outcomes }
    }
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    pub(super) async fn read<F: Found<N>>(&self, key: Key, repair: Repair) -> Result<F, ReadError> {
        let inner = &self.inner;
        let mut request = Request::read(key).in_era(inner.introductions.era());
        let mut waited = Stopwatch::stopped();
        let mut times = 0;
        loop {
            let read = match self.ask_at_once(&mut request, repair, &waited) {
                Start::Settled(Ok(found)) => return Ok(found),
                Start::Settled(Err(read)) => read,
                Start::Unsettled(asking) => {
                    waited.start();
                    asking.await
                }
            };
            if read.is_done(W) || !(inner.asks_again(request.era, &read.outcomes, &mut times)).await
            {
                return self.end(read, repair, &waited);
            }
            request.era = Some(inner.introductions.era());
        }
    }

    fn end<F: Found<N>>(
        &self,
        read: Read<N>,
        repair: Repair,
        waited: &Stopwatch,
    ) -> Result<F, ReadError> {
        let is_done = read.is_done(W);
        let Read {
            mut entry,
            answered,
            holders,
            outcomes,
        } = read;
        let end = |ended| self.inner.telemetry.end(Kind::Get, ended, waited);
        if is_done {
            end(Ended::Done);
            return Ok(F::new(entry, outcomes));
        }
        let report = Box::new(ReadReport::new(R, self.names(), outcomes));
        if !answered {
            end(Ended::Unanswered);
            return Err(ReadError::Failed(report));
        }
        self.inner.hide_expired(&mut entry);
        let error = ReadError::NotRepaired {
            entry,
            holders,
            needed: W,
            report,
        };
        // Else it ends when the key is settled.
        if repair != Repair::Register || !is_overtaken(&error) {
            end(Ended::NotRepaired);
        }
        Err(error)
    }

    /// Asks replicas one after the other as long as they answer at once, and all
    /// others together as soon as one does not.
    fn ask_at_once<F: Found<N>>(
        &self,
        request: &mut Request,
        repair: Repair,
        waited: &Stopwatch,
    ) -> Start<Result<F, Read<N>>, impl Future<Output = Read<N>> + use<'_, F, N, W, R, T>> {
        let span = OperationSpan::new(Kind::Get);
        let entered = span.enter();
        let inner = &self.inner;
        let mut asked = (ReadTally::new(R), [const { None }; N], false);
        call_each(
            inner,
            request,
            inner.rotation.next::<N>(),
            &mut asked,
            |(tally, _, waits), replica, result| {
                match result {
                    // What is usual goes straight in: `add` would move it twice
                    // more, which is a seventh of a read's instructions.
                    Ok(Response::Entry(held)) => {
                        tally.add_answer(replica, held);
                    }
                    result => {
                        tally.asked(replica);
                        tally.add(replica, inner.admitted(replica, (result, None)));
                    }
                }
                if tally.is_decided() && !*waits {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
            |(tally, pending, waits), replica, calling| {
                tally.asked(replica);
                set(inner, pending, replica, CallKind::Read, calling);
                *waits = true;
            },
            |(tally, ..), replica, failure| {
                tally.asked(replica);
                tally.add(replica, Err(failure));
            },
        );
        let (tally, _, waits) = &mut asked;
        let telemetry = &*inner.telemetry;
        telemetry.answered_at_once(|replica| tally.has_answered(replica));
        if *waits || !is_settled(tally, repair, W) {
            drop(entered);
            let (tally, pending, _) = asked;
            let (owned, request) = (Arc::clone(inner), request.clone());
            let asking = ask(owned, tally, pending, (repair, W), request);
            return Start::Unsettled(decide(&inner.background, span, asking));
        }
        inner.observe_greatest(tally);
        if tally.is_answered() {
            telemetry.end(Kind::Get, Ended::Done, waited);
            return Start::Settled(Ok(F::of_tally(tally)));
        }
        Start::Settled(Err(Read {
            answered: false,
            holders: W,
            outcomes: tally.report(),
            entry: tally.take_greatest(),
        }))
    }
}

/// Whether a read is decided, and leaves nothing to be done.
#[inline]
fn is_settled<const N: usize>(tally: &ReadTally<N>, repair: Repair, holders_needed: usize) -> bool {
    tally.is_decided()
        && match repair {
            Repair::Off => true,
            Repair::Background => !tally.is_repair_due(),
            Repair::Blocking | Repair::Register => {
                let greatest = tally.greatest();
                let is_held = greatest.is_none() || tally.holders(greatest) >= holders_needed;
                is_held && !tally.is_repair_due()
            }
        }
}

struct Read<const N: usize> {
    entry: Option<Entry>,
    /// Whether R replicas answered.
    answered: bool,
    /// How many replicas are known to hold the entry. As many as are needed,
    /// where none are.
    holders: usize,
    outcomes: [Outcome<Option<Version>>; N],
}

impl<const N: usize> Read<N> {
    fn is_done(&self, holders_needed: usize) -> bool {
        self.answered && self.holders >= holders_needed
    }
}

/// Waits until the read is decided, repairs the replicas that are behind, and goes
/// on until every replica that was asked has answered, and those that answered late
/// are repaired too.
fn ask<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    tally: ReadTally<N>,
    pending: Pending<N>,
    (repair, holders_needed): (Repair, usize),
    request: Request,
) -> impl Stream<Item = Decided<Read<N>>> + Send {
    stream! {
        let calls = Calls::new(Arc::clone(&inner), pending);
        let is_refused = false;
        let began = Instant::now();
        let mut asking = Asking { calls, tally, inner: &inner, request, is_refused };

        // Each call is polled before anything is decided: all replicas are asked,
        // however fast the first of them are.
        while asking.next_ready().await {}
        while !asking.tally.is_decided() && asking.next().await {}
        let answered = asking.tally.is_answered();
        let mut entry = asking.tally.greatest().cloned();
        inner.observe_greatest(&asking.tally);

        if repair != Repair::Off {
            // What can be repaired at once is not left to a background task.
            asking.repair();
            while asking.next_ready().await {
                asking.repair();
            }
        }
        let mut holders = holders_needed;
        match repair {
            Repair::Blocking if answered && entry.is_some() => {
                asking.hold(entry.as_ref(), holders_needed).await;
                holders = asking.tally.holders(entry.as_ref());
            }
            Repair::Register if answered && entry.is_some() => {
                // What a replica holds that is greater need not have seen this entry:
                // it can be returned in its place, but does not vouch for it.
                asking.hold_greatest(holders_needed, began).await;
                entry = asking.tally.greatest().cloned();
                inner.observe_greatest(&asking.tally);
                holders = asking.tally.holders(entry.as_ref());
            }
            _ => {}
        }

        asking.go_to_background();
        let outcomes = asking.tally.report();
        let unfinished = asking.calls.are_under_way();
        yield Decided { decision: Read { entry, answered, holders, outcomes }, unfinished };

        while asking.next().await {
            if repair != Repair::Off {
                asking.repair();
            }
        }
        inner.observe_greatest(&asking.tally);
    }
}

/// A read under way.
struct Asking<'a, T, const N: usize> {
    inner: &'a Inner<T, N>,
    calls: Calls<T, N>,
    tally: ReadTally<N>,
    request: Request,
    /// Whether a repair was refused because the replica is ahead of it.
    is_refused: bool,
}

impl<T: Transport, const N: usize> Asking<'_, T, N> {
    fn ask(&mut self, replica: usize) {
        self.tally.asked(replica);
        if let Some(result) = self.calls.start(replica, &mut self.request) {
            self.add(replica, result);
        }
    }

    /// Sends the greatest entry to those that are known to be behind.
    fn repair(&mut self) {
        let Some(key) = self.request.key().cloned() else {
            return;
        };
        while let Some((replica, entry)) = self.tally.next_repair() {
            let mut request = Request::repair(&key, entry);
            request.era = self.request.era;
            if let Some(result) = self.calls.start(replica, &mut request) {
                self.add(replica, result);
            }
        }
    }

    /// Goes on until `needed` replicas hold the entry, or no longer can.
    async fn hold(&mut self, entry: Option<&Entry>, needed: usize) {
        self.ask_others(entry, needed);
        while self.is_open(entry, needed) && self.next().await {
            self.repair();
        }
    }

    /// Goes on until `needed` replicas hold the greatest entry, or no longer can.
    /// Where a promise keeps one from it, the others are waited for only as long again
    /// as the read has taken since it `began`.
    async fn hold_greatest(&mut self, needed: usize, began: Instant) {
        let greatest = self.tally.greatest().cloned();
        self.ask_others(greatest.as_ref(), needed);
        let mut until = None;
        while self.is_open(self.tally.greatest(), needed) {
            if self.is_refused && until.is_none() {
                until = Instant::now().checked_add(began.elapsed());
            }
            let has_next = match until {
                None => self.next().await,
                Some(until) => timeout_at(until, self.next()).await.unwrap_or(false),
            };
            if !has_next {
                break;
            }
            self.repair();
        }
    }

    /// Asks those that were not asked yet, where fewer than `needed` are known to hold
    /// the entry.
    fn ask_others(&mut self, entry: Option<&Entry>, needed: usize) {
        if self.tally.holders(entry) < needed {
            let not_asked: Vec<usize> = self.tally.not_asked().collect();
            for replica in not_asked {
                self.ask(replica);
            }
        }
    }

    /// Whether fewer than `needed` are known to hold the entry, and may yet.
    fn is_open(&self, entry: Option<&Entry>, needed: usize) -> bool {
        self.tally.holders(entry) < needed && self.tally.possible_holders(entry) >= needed
    }

    /// Takes in the next answer; `false` when there is none to wait for.
    async fn next(&mut self) -> bool {
        let answer = self.calls.next().await;
        self.take_in(answer)
    }

    /// Takes in the next answer that is there already, if there is one.
    async fn next_ready(&mut self) -> bool {
        let answer = self.calls.next_ready().await;
        self.take_in(answer)
    }

    fn take_in(&mut self, answer: Option<(usize, Result<Response, ReplicaFailure>)>) -> bool {
        match answer {
            Some((replica, result)) => {
                self.add(replica, result);
                true
            }
            None => false,
        }
    }

    fn add(&mut self, replica: usize, result: Result<Response, ReplicaFailure>) {
        let refusal = result.as_ref().err();
        self.is_refused |= matches!(
            refusal,
            Some(ReplicaFailure::Refused(
                Refusal::Promised { .. } | Refusal::Before { .. }
            ))
        );
        record(self.inner, &mut self.tally, replica, result);
    }

    fn go_to_background(&mut self) {
        let Self {
            inner,
            calls,
            tally,
            ..
        } = self;
        calls.go_to_background(|replica| {
            record(inner, tally, replica, Err(ReplicaFailure::GivenUp));
        });
    }
}

fn record<T, const N: usize>(
    inner: &Inner<T, N>,
    tally: &mut ReadTally<N>,
    replica: usize,
    result: Result<Response, ReplicaFailure>,
) {
    if let Ok(Response::Ack(Ack::Superseded { by })) = &result {
        inner.clock.observe(by.timestamp);
    }
    match tally.add(replica, result) {
        Added::Answer => {}
        Added::Repaired => inner.background.count_repaired(replica),
        Added::NotRepaired => inner.background.count_not_repaired(replica),
    }
}

impl<T, const N: usize> Inner<T, N> {
    /// X-HIDE. Takes a value away that has expired, by this coordinator's clock.
    #[inline]
    pub(super) fn hide_expired(&self, entry: &mut Option<Entry>) {
        if let Some(entry) = entry
            && entry.expires_millis.is_some()
            && self.has_expired(entry)
        {
            entry.value = None;
        }
    }

    /// Whether the value has expired, by this coordinator's clock.
    #[cold]
    pub(super) fn has_expired(&self, entry: &Entry) -> bool {
        entry.expires_millis.is_some() && entry.has_expired(self.clock.wall_millis())
    }

    /// C-MONOTONIC: later timestamps are greater than all that answers told of, as far
    /// as the clock follows.
    fn observe_greatest(&self, tally: &ReadTally<N>) {
        if let Some(greatest) = tally.greatest() {
            self.clock.observe(greatest.version.timestamp);
        }
    }
}
