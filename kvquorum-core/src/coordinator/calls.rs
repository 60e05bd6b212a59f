//! The one driver of calls: everything that a coordinator awaits, it awaits
//! here.
//!
//! Calls are kept in an array and polled in place. A call that completes when
//! it is first polled costs no task, no timer and no look at the clock.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::background::{Background, Room};
use crate::outcome::{ReplicaFailure, admitted};
use crate::transport::{Request, Response, Transport, TransportError};

/// A time limit beyond this is taken for this: no timer reaches further.
const LONGEST_TIME_LIMIT: Duration = Duration::from_secs(60 * 60 * 24 * 365);

type Answer = (usize, Result<Response, ReplicaFailure>);

struct Call<'a> {
    future: Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send + 'a>>,
    /// From when the call was first found unfinished.
    deadline: Option<Instant>,
    /// In the background, its place there.
    room: Option<Room<'a>>,
}

/// The calls of one operation that are under way: at most one to each replica.
pub(super) struct Calls<'a, T, const N: usize> {
    transports: &'a [T; N],
    background: &'a Background<N>,
    time_limit: Duration,
    under_way: [Option<Call<'a>>; N],
    /// One timer for all calls, armed when one of them has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
    in_background: bool,
}

impl<'a, T: Transport, const N: usize> Calls<'a, T, N> {
    pub(super) fn new(
        transports: &'a [T; N],
        background: &'a Background<N>,
        time_limit: Duration,
    ) -> Self {
        Self {
            transports,
            background,
            time_limit: time_limit.min(LONGEST_TIME_LIMIT),
            under_way: [const { None }; N],
            timer: None,
            in_background: false,
        }
    }

    /// Prepares a call. It sets out when the calls are next awaited.
    ///
    /// In the background it is given up where there is no room for it.
    pub(super) fn start(&mut self, replica: usize, request: Request) -> Result<(), ReplicaFailure> {
        let room = if self.in_background {
            let room = self.background.reserve(replica);
            Some(room.ok_or(ReplicaFailure::GivenUp)?)
        } else {
            None
        };
        if let (Some(slot), Some(transport)) = (
            self.under_way.get_mut(replica),
            self.transports.get(replica),
        ) {
            *slot = Some(Call {
                future: transport.call(request),
                deadline: None,
                room,
            });
        }
        Ok(())
    }

    /// The next answer; `None` when no call is under way.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        poll_fn(|cx| match self.poll_calls(cx) {
            Poll::Pending => self.poll_time_limit(cx).map(Some),
            answer => answer,
        })
        .await
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

    /// From now on these calls are background work. Those for which there is
    /// no room are dropped, and named.
    pub(super) fn go_to_background(&mut self, mut given_up: impl FnMut(usize)) {
        self.in_background = true;
        for (replica, slot) in self.under_way.iter_mut().enumerate() {
            if let Some(call) = slot {
                call.room = self.background.reserve(replica);
                if call.room.is_none() {
                    *slot = None;
                    self.background.count_given_up(replica);
                    given_up(replica);
                }
            }
        }
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Poll<Option<Answer>> {
        let mut idle = true;
        for (replica, slot) in self.under_way.iter_mut().enumerate() {
            let Some(call) = slot else { continue };
            idle = false;
            if let Poll::Ready(result) = call.future.as_mut().poll(cx) {
                *slot = None;
                return Poll::Ready(Some((replica, admitted(result))));
            }
        }
        if idle {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    /// A call whose time is over, dropped.
    fn poll_time_limit(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut now = None;
        let mut first: Option<(Instant, usize)> = None;
        for (replica, slot) in self.under_way.iter_mut().enumerate() {
            let Some(call) = slot else { continue };
            let deadline = *call.deadline.get_or_insert_with(|| {
                let now = *now.get_or_insert_with(Instant::now);
                now.checked_add(self.time_limit).unwrap_or(now)
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
        ready!(timer.as_mut().poll(cx));
        if let Some(slot) = self.under_way.get_mut(replica) {
            *slot = None;
        }
        Poll::Ready((replica, Err(ReplicaFailure::TimedOut(self.time_limit))))
    }
}

impl<T, const N: usize> Drop for Calls<'_, T, N> {
    fn drop(&mut self) {
        for (replica, slot) in self.under_way.iter().enumerate() {
            if slot.is_some() {
                self.background.count_given_up(replica);
            }
        }
    }
}
