//! Which calls share an exchange: those that come while another is under way.
//! Nothing here knows of HTTP.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use kvquorum_core::Request;
use tokio::sync::{Semaphore, oneshot};

use crate::failure::{Called, Failure};
use crate::frames::Frames;
use crate::time::in_time;
use crate::wire::{self, EncodeError};

/// What a gathered call takes beside its bytes, roughly.
const BESIDE: usize = 256;

/// The calls to one replica that wait to be sent.
pub(crate) struct Gathering {
    state: Mutex<State>,
    /// A permit for each byte that may be held here. Never closed.
    room: Semaphore,
    limits: Limits,
}

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Of one exchange.
    pub(crate) max_batch: usize,
    /// Of one exchange.
    pub(crate) max_batch_bytes: usize,
    /// Of all that wait.
    pub(crate) max_gathered_bytes: usize,
}

#[derive(Default)]
struct State {
    /// The call that leads: it is under way alone, and others gather.
    leader: Option<u64>,
    /// Whether there is someone to send what has gathered. While there is, no
    /// other call leads.
    has_gatherer: bool,
    /// Wakes it when the leader is done.
    gatherer: Option<Waker>,
    /// In the order of arrival, which is that of their numbers.
    calls: VecDeque<Gathered>,
    next_number: u64,
}

struct Gathered {
    number: u64,
    frame: Frames,
    waiter: oneshot::Sender<Called>,
    room: usize,
}

/// Calls that are sent together.
pub(crate) struct Batch {
    pub(crate) frames: Vec<Frames>,
    pub(crate) waiters: Waiters,
}

/// Who waits for the answers to a batch.
pub(crate) struct Waiters {
    /// `None` for a call that has its answer.
    waiters: Vec<Option<oneshot::Sender<Called>>>,
    /// How many have none.
    waiting: usize,
}

impl Gathering {
    pub(crate) fn new(limits: Limits) -> Self {
        let room = limits
            .max_gathered_bytes
            .clamp(1, u32::MAX as usize)
            .min(Semaphore::MAX_PERMITS);
        Self {
            state: Mutex::default(),
            room: Semaphore::new(room),
            limits: Limits {
                max_gathered_bytes: room,
                ..limits
            },
        }
    }

    /// Whether a call may share an exchange with others.
    pub(crate) fn takes(&self, request: &Request) -> bool {
        self.limits.max_batch > 1 && wire::longest_frame(request) <= self.limits.max_batch_bytes
    }

    /// Lets a call go at once, where no exchange is under way.
    pub(crate) fn lead(&self) -> Option<Lead<'_>> {
        let mut state = self.state();
        if state.leader.is_some() || state.has_gatherer {
            return None;
        }
        let number = state.number();
        state.leader = Some(number);
        Some(Lead {
            gathering: self,
            number,
        })
    }

    /// Adds a call to those that wait to be sent, as soon as there is room for
    /// it.
    pub(crate) async fn join(&self, request: &Request) -> Result<Joined<'_>, EncodeError> {
        let room = wire::longest_frame(request)
            .saturating_add(BESIDE)
            .min(self.limits.max_gathered_bytes);
        let permits = u32::try_from(room).unwrap_or(u32::MAX);
        let held = self.room.acquire_many(permits).await;
        let frame = Frames::of_request(request)?;
        // It is given back when the call is taken out.
        if let Ok(held) = held {
            held.forget();
        }
        let (waiter, answer) = oneshot::channel();
        let mut state = self.state();
        let number = state.number();
        state.calls.push_back(Gathered {
            number,
            frame,
            waiter,
            room,
        });
        let needs_gatherer = !std::mem::replace(&mut state.has_gatherer, true);
        Ok(Joined {
            gathering: self,
            number,
            needs_gatherer,
            answer,
        })
    }

    /// Returns when no call leads any more, or when it has for too long. Only
    /// for the gatherer.
    pub(crate) async fn leader_is_done(&self, limit: Duration) {
        let done = poll_fn(|cx| {
            let mut state = self.state();
            if state.leader.is_none() {
                return Poll::Ready(());
            }
            state.gatherer = Some(cx.waker().clone());
            Poll::Pending
        });
        if in_time(limit, done).await.is_err() {
            let mut state = self.state();
            state.leader = None;
            state.gatherer = None;
        }
    }

    /// Takes out what is to be sent next. Where there is nothing, the gatherer
    /// has come to its end. Only for the gatherer.
    pub(crate) fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state();
        let count = self.next_count(&state.calls);
        if count == 0 {
            state.has_gatherer = false;
            return None;
        }
        let mut room = 0_usize;
        let mut frames = Vec::with_capacity(count);
        let mut waiters = Vec::with_capacity(count);
        for call in state.calls.drain(..count) {
            room = room.saturating_add(call.room);
            frames.push(call.frame);
            waiters.push(Some(call.waiter));
        }
        drop(state);
        self.room.add_permits(room);
        Some(Batch {
            frames,
            waiters: Waiters::new(waiters),
        })
    }

    /// How many calls go next: as many as fit, and at least one of several.
    fn next_count(&self, calls: &VecDeque<Gathered>) -> usize {
        let mut len = 0_usize;
        let fitting = calls.iter().take(self.limits.max_batch).take_while(|call| {
            len = len.saturating_add(call.frame.len());
            len <= self.limits.max_batch_bytes
        });
        fitting.count().max(1).min(calls.len())
    }

    /// Ends a gatherer that was not let come to its end, as where its runtime
    /// ends. The calls are not sent.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.has_gatherer = false;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        let room = calls.iter().map(|call| call.room);
        self.room.add_permits(room.fold(0, usize::saturating_add));
    }

    fn remove(&self, number: u64) {
        let mut state = self.state();
        let found = state
            .calls
            .binary_search_by_key(&number, |call| call.number);
        // It is not there any more once it is sent.
        let removed = found.ok().and_then(|at| state.calls.remove(at));
        drop(state);
        if let Some(call) = removed {
            self.room.add_permits(call.room);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn number(&mut self) -> u64 {
        let number = self.next_number;
        // Not in the lifetime of any process.
        self.next_number = number.wrapping_add(1);
        number
    }
}

/// A call that is under way alone. While it is held, others gather.
pub(crate) struct Lead<'a> {
    gathering: &'a Gathering,
    number: u64,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.gathering.state();
        // Another may lead by now, if this took too long.
        if state.leader == Some(self.number) {
            state.leader = None;
            let gatherer = state.gatherer.take();
            drop(state);
            if let Some(gatherer) = gatherer {
                gatherer.wake();
            }
        }
    }
}

/// A call that has gathered. Dropped, it is not sent any more, if it was not.
pub(crate) struct Joined<'a> {
    gathering: &'a Gathering,
    number: u64,
    /// Whether whoever made the call has to see to it that there is a gatherer.
    pub(crate) needs_gatherer: bool,
    answer: oneshot::Receiver<Called>,
}

impl Joined<'_> {
    pub(crate) async fn called(mut self) -> Called {
        let called = (&mut self.answer).await;
        called.unwrap_or_else(|_| Err(Failure::Unanswered.into()))
    }
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        if !self.answer.is_terminated() {
            self.gathering.remove(self.number);
        }
    }
}

impl Waiters {
    fn new(waiters: Vec<Option<oneshot::Sender<Called>>>) -> Self {
        let waiting = waiters.len();
        Self { waiters, waiting }
    }

    /// Gives a call its answer. Returns whether it had none before.
    pub(crate) fn answer(&mut self, which: u32, called: Called) -> bool {
        let at = usize::try_from(which).ok();
        let place = at.and_then(|at| self.waiters.get_mut(at));
        let Some(waiter) = place.and_then(Option::take) else {
            return false;
        };
        self.waiting = self.waiting.saturating_sub(1);
        // Nobody may be there to hear it any more.
        let _ = waiter.send(called);
        true
    }

    /// Tells all who still wait.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        self.waiting = 0;
        for waiter in self.waiters.iter_mut().filter_map(Option::take) {
            let _ = waiter.send(Err(failure.clone().into()));
        }
    }

    /// Whether all have their answer.
    pub(crate) fn are_done(&self) -> bool {
        self.waiting == 0
    }

    /// Each on its own.
    pub(crate) fn split(self) -> impl Iterator<Item = Self> {
        let waiters = self.waiters.into_iter();
        waiters.map(|waiter| Self::new(vec![waiter]))
    }

    /// Returns once none of those who wait for an answer is there any more.
    pub(crate) async fn gone(&mut self) {
        // One after the other: it is enough to be woken by the next that is
        // still there.
        for waiter in self.waiters.iter_mut().flatten() {
            waiter.closed().await;
        }
    }
}
