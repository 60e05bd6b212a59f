//! The one driver of calls: everything that a coordinator awaits, it awaits
//! here.
//!
//! Calls are kept in an array and polled in place. A call that is over when it is
//! made costs no task, no timer and no look at the clock.

use std::any::Any;
use std::future::poll_fn;
use std::iter;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Inner;
use super::introductions::{CallResult, IdentityError, Introduced, call_again, introduce};
use crate::identity::ReplicaId;
use crate::outcome::ReplicaFailure;
use crate::request::{Refusal, Request, Response};
use crate::telemetry::{CallKind, Stopwatch};
use crate::transport::{Call, Transport, TransportError};

/// A time limit beyond this, a year, is taken for this: no timer reaches further.
pub const LONGEST_TIME_LIMIT: Duration = Duration::from_secs(60 * 60 * 24 * 365);

type Answer = (usize, Result<Response, ReplicaFailure>);

/// What a call that was not over at once goes on with.
pub(crate) type Calling = Pin<Box<dyn Future<Output = CallResult> + Send>>;

/// The calls that were not over at once, at most one to each replica.
pub(super) type Pending<const N: usize> = [Option<Calling>; N];

/// Calls replicas in this order, until `take_in` breaks off. It gets the results that
/// are there at once, `wait` the calls that have to be waited for, and `fail` the
/// others.
///
/// A panic is the failure of the one call that it comes from. All are made within
/// one `catch_unwind`, as each of those costs.
#[inline]
pub(super) fn call_each<S, T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    request: &mut Request,
    mut replicas: impl Iterator<Item = usize>,
    state: &mut S,
    take_in: impl Fn(&mut S, usize, Result<Response, TransportError>) -> ControlFlow<()>,
    wait: impl Fn(&mut S, usize, Calling),
    fail: impl Fn(&mut S, usize, ReplicaFailure),
) {
    let mut called = 0;
    while let Err(panic) = catch_unwind(AssertUnwindSafe(|| {
        for replica in &mut replicas {
            called = replica;
            let Some(transport) = inner.transports.get(replica) else {
                continue;
            };
            request.to = inner.introductions.id(replica);
            if request.to.is_none() {
                match introduce(inner, replica, transport, request) {
                    Introduced::Known(id) => request.to = Some(id),
                    Introduced::Pending(calling) => {
                        wait(state, replica, calling);
                        continue;
                    }
                    Introduced::Failed(error) => {
                        if let Err(failure) = inner.admitted(replica, (Err(error), None)) {
                            fail(state, replica, failure);
                        }
                        continue;
                    }
                }
            }
            match transport.call(request) {
                Call::Ready(result) => {
                    if take_in(state, replica, result).is_break() {
                        break;
                    }
                }
                Call::Pending(calling) => {
                    let calling = call_again(Arc::clone(inner), replica, request.clone(), calling);
                    wait(state, replica, Box::pin(calling));
                }
            }
        }
    })) {
        fail(state, called, inner.panicked(called, &*panic));
    }
}

/// Puts a call among those that have to be waited for.
pub(super) fn set<T, const N: usize>(
    inner: &Inner<T, N>,
    pending: &mut Pending<N>,
    replica: usize,
    kind: CallKind,
    call: Calling,
) {
    if let Some(slot) = pending.get_mut(replica) {
        *slot = Some(inner.telemetry.in_call_span(replica, kind, call));
    }
}

impl<T, const N: usize> Inner<T, N> {
    /// A response as an answer or a failure: a refusal is a failure.
    #[inline]
    pub(super) fn admitted(
        &self,
        replica: usize,
        (result, meant): CallResult,
    ) -> Result<Response, ReplicaFailure> {
        let failure = match result {
            Ok(Response::Refused(refusal)) => match refusal {
                Refusal::Stale { era } if !self.introductions.observe_era(era) => {
                    ReplicaFailure::Mismatched
                }
                Refusal::OtherReplica { .. } => {
                    // The next call asks who it is.
                    self.introductions.forget(replica, meant);
                    ReplicaFailure::Refused(refusal)
                }
                refusal => ReplicaFailure::Refused(refusal),
            },
            Ok(response) => return Ok(response),
            Err(error) => ReplicaFailure::Transport(error),
        };
        self.telemetry.failed(replica, &failure);
        Err(failure)
    }

    fn panicked(&self, replica: usize, panic: &(dyn Any + Send)) -> ReplicaFailure {
        self.background.count_panicked(replica);
        let literal = panic.downcast_ref::<&str>().copied();
        let formatted = || panic.downcast_ref::<String>().map(String::as_str);
        let message = literal.or_else(formatted).unwrap_or("no message");
        let failure = ReplicaFailure::Panicked(message.to_owned());
        self.telemetry.failed(replica, &failure);
        failure
    }
}

fn is_failure(result: &Result<Response, TransportError>) -> bool {
    matches!(result, Err(_) | Ok(Response::Refused(_)))
}

struct UnderWay {
    calling: Calling,
    /// From when the call was first found unfinished.
    deadline: Option<Instant>,
    /// Whether it counts as background work.
    in_background: bool,
    waited: Stopwatch,
}

impl UnderWay {
    fn new(calling: Calling, in_background: bool) -> Self {
        Self {
            calling,
            deadline: None,
            in_background,
            waited: Stopwatch::sampled(),
        }
    }
}

/// The calls of one operation that are under way: at most one to each replica.
pub(super) struct Calls<T, const N: usize> {
    inner: Arc<Inner<T, N>>,
    under_way: [Option<UnderWay>; N],
    /// Which replica each answer came from that had to be waited for. What is over at
    /// once comes from a replica in this process, which stays where it is.
    answered: [Option<ReplicaId>; N],
    /// One timer for all calls, armed when one of them has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
    in_background: bool,
}

impl<T: Transport, const N: usize> Calls<T, N> {
    pub(super) fn new(inner: Arc<Inner<T, N>>, pending: Pending<N>) -> Self {
        Self {
            inner,
            under_way: pending.map(|calling| calling.map(|calling| UnderWay::new(calling, false))),
            answered: [None; N],
            timer: None,
            in_background: false,
        }
    }

    /// Makes a call to a replica that has none under way, and returns its result
    /// where there is one at once.
    ///
    /// In the background it is given up where there is no room for it.
    pub(super) fn start(
        &mut self,
        replica: usize,
        request: &mut Request,
    ) -> Option<Result<Response, ReplicaFailure>> {
        let in_background = self.in_background;
        if in_background && !self.inner.background.reserve(replica, false) {
            return Some(Err(ReplicaFailure::GivenUp));
        }
        let inner = &self.inner;
        let mut made = (None, None);
        call_each(
            inner,
            request,
            iter::once(replica),
            &mut made,
            |(result, _), replica, told| {
                *result = Some(inner.admitted(replica, (told, None)));
                ControlFlow::Break(())
            },
            |(_, pending), _, calling| *pending = Some(calling),
            |(result, _), _, failure| *result = Some(Err(failure)),
        );
        let (result, pending) = made;
        if let (Some(calling), Some(slot)) = (pending, self.under_way.get_mut(replica)) {
            let kind = CallKind::of(request);
            let calling = inner.telemetry.in_call_span(replica, kind, calling);
            *slot = Some(UnderWay::new(calling, in_background));
            return None;
        }
        if in_background {
            inner.background.release(replica);
        }
        result
    }

    /// The next answer; `None` when no call is under way.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next).
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        match self.poll_calls(cx) {
            Poll::Pending => self.poll_time_limit(cx).map(Some),
            answer => answer,
        }
    }

    /// The next answer that is there without waiting.
    pub(super) async fn next_ready(&mut self) -> Option<Answer> {
        poll_fn(|cx| match self.poll_calls(cx) {
            Poll::Pending => Poll::Ready(None),
            answer => answer,
        })
        .await
    }

    pub(super) fn are_under_way(&self) -> bool {
        self.under_way.iter().any(Option::is_some)
    }

    pub(super) fn is_under_way(&self, replica: usize) -> bool {
        self.under_way.get(replica).is_some_and(Option::is_some)
    }

    /// From now on these calls are background work. Those for which there is
    /// no room are dropped, and named.
    pub(super) fn go_to_background(&mut self, mut given_up: impl FnMut(usize)) {
        self.in_background = true;
        for (replica, slot) in self.under_way.iter_mut().enumerate() {
            if let Some(call) = slot {
                call.in_background = self.inner.background.reserve(replica, true);
                if !call.in_background {
                    *slot = None;
                    self.inner.background.count_given_up(replica);
                    given_up(replica);
                }
            }
        }
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let mut idle = true;
        for replica in 0..N {
            let Some(Some(call)) = self.under_way.get_mut(replica) else {
                continue;
            };
            idle = false;
            let calling = call.calling.as_mut();
            let result = match catch_unwind(AssertUnwindSafe(|| calling.poll(cx))) {
                Ok(Poll::Pending) => continue,
                Ok(Poll::Ready(told)) => {
                    let told = self.counted_once(replica, told);
                    self.inner.admitted(replica, told)
                }
                Err(panic) => Err(self.inner.panicked(replica, &*panic)),
            };
            if let (Some(ended), true) = (self.end(replica), result.is_ok()) {
                self.inner.telemetry.answered(replica, &ended.waited);
            }
            return Poll::Ready(Some((replica, result)));
        }
        if idle {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    /// Fails an answer from a replica that has answered at another place: that has moved
    /// from there to here meanwhile, and its one copy would be two votes.
    fn counted_once(&mut self, replica: usize, (result, meant): CallResult) -> CallResult {
        let (Some(id), false) = (meant, is_failure(&result)) else {
            return (result, meant);
        };
        let mut others = self.answered.iter().enumerate();
        if let Some((other, _)) = others.find(|(at, it)| *at != replica && **it == meant) {
            let error = IdentityError::SameReplica { id, other };
            self.inner.telemetry.misidentified(replica, &error);
            return (Err(TransportError::NoAnswer(error.into())), meant);
        }
        if let Some(answered) = self.answered.get_mut(replica) {
            *answered = meant;
        }
        (result, meant)
    }

    /// A call whose time is over, dropped.
    fn poll_time_limit(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        let time_limit = self.inner.settings.time_limit;
        let reach = time_limit.min(LONGEST_TIME_LIMIT);
        let mut now = None;
        let mut first: Option<(Instant, usize)> = None;
        for (replica, slot) in self.under_way.iter_mut().enumerate() {
            let Some(call) = slot else { continue };
            let deadline = *call.deadline.get_or_insert_with(|| {
                let now = *now.get_or_insert_with(Instant::now);
                now.checked_add(reach).unwrap_or(now)
            });
            if first.is_none_or(|(earliest, _)| deadline < earliest) {
                first = Some((deadline, replica));
            }
        }
        let Some((deadline, replica)) = first else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        // Unconstrained: calls that always have something to do would otherwise
        // leave the timer nothing of the task's budget, and never run out of time.
        ready!(pin!(unconstrained(timer.as_mut())).poll(cx));
        self.end(replica);
        let failure = ReplicaFailure::TimedOut(reach);
        self.inner.telemetry.failed(replica, &failure);
        Poll::Ready((replica, Err(failure)))
    }
}

impl<T, const N: usize> Calls<T, N> {
    /// Takes out a call, if there is one.
    fn end(&mut self, replica: usize) -> Option<UnderWay> {
        let call = self.under_way.get_mut(replica).and_then(Option::take)?;
        if call.in_background {
            self.inner.background.release(replica);
        }
        Some(call)
    }
}

impl<T, const N: usize> Drop for Calls<T, N> {
    fn drop(&mut self) {
        for replica in 0..N {
            if self.end(replica).is_some() {
                self.inner.background.count_given_up(replica);
            }
        }
    }
}
