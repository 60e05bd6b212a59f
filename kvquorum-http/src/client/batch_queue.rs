//! The calls to one replica that wait to be sent, and which of them share an
//! exchange: those that come while another is under way. Nothing here knows of
//! HTTP.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::client::failure::{Called, Failure};
use crate::error::HttpError;
use crate::telemetry::ClientTelemetry;
use crate::time::in_time;
use crate::wire::frames::Frames;

/// Calls wait here for as long as their callers wait for them.
///
/// What it holds is bounded by them: of each call that somebody waits for, its
/// one encoded frame, in place of the request that it was encoded from.
pub(crate) struct BatchQueue {
    state: Mutex<State>,
    /// Told to the sender when the answer to the inline call has begun.
    inline_answered: Notify,
    limits: Limits,
    telemetry: Arc<ClientTelemetry>,
}

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How many calls share an exchange.
    pub(crate) max_batch: usize,
    /// How many bytes their frames have together.
    pub(crate) max_batch_bytes: usize,
    /// Whether a call may run in its caller's task.
    pub(crate) inline: bool,
}

#[derive(Default)]
struct State {
    /// Whether a call runs in its caller's task: one at most.
    inline: bool,
    /// Whether others wait for the beginning of its answer.
    is_awaited: bool,
    /// Whether there is a sender. While there is, calls wait for it.
    has_sender: bool,
    /// In the order of arrival, which is that of their numbers.
    calls: VecDeque<Queued>,
    next_number: u64,
}

struct Queued {
    number: u64,
    frame: Frames,
    caller: oneshot::Sender<Called>,
}

/// Calls that share an exchange.
pub(crate) struct Batch {
    pub(crate) frames: Vec<Frames>,
    pub(crate) callers: Callers,
}

/// Who waits for the answers to a batch.
#[derive(Default)]
pub(crate) struct Callers {
    /// `None` for a call that has its answer.
    callers: Vec<Option<oneshot::Sender<Called>>>,
    /// How many have none.
    waiting: usize,
}

impl BatchQueue {
    pub(crate) fn new(limits: Limits, telemetry: Arc<ClientTelemetry>) -> Self {
        Self {
            state: Mutex::default(),
            inline_answered: Notify::new(),
            limits,
            telemetry,
        }
    }

    /// Whether a call of this length may share an exchange with others.
    pub(crate) fn may_share(&self, len: usize) -> bool {
        self.limits.max_batch > 1 && len <= self.limits.max_batch_bytes
    }

    /// Lets a call run in its caller's task, where no other does and none waits.
    /// Others wait for the beginning of its answer if it `is_awaited`.
    pub(crate) fn begin_inline(&self, is_awaited: bool) -> bool {
        let mut state = self.state();
        if !self.limits.inline || state.inline || state.has_sender {
            return false;
        }
        state.inline = true;
        state.is_awaited = is_awaited;
        true
    }

    /// The answer to the inline call has begun.
    pub(crate) fn inline_is_answered(&self) {
        self.await_inline_no_longer(&mut self.state());
    }

    /// The inline call has come to its end.
    pub(crate) fn end_inline(&self) {
        let mut state = self.state();
        state.inline = false;
        self.await_inline_no_longer(&mut state);
    }

    fn await_inline_no_longer(&self, state: &mut State) {
        if std::mem::take(&mut state.is_awaited) && state.has_sender {
            self.inline_answered.notify_one();
        }
    }

    /// Returns when the answer to the inline call has begun, or has not for too
    /// long. Only for the sender.
    pub(crate) async fn await_inline(&self, limit: Duration) {
        let answered = async {
            while self.state().is_awaited {
                self.inline_answered.notified().await;
            }
        };
        if in_time(limit, answered).await.is_err() {
            self.state().is_awaited = false;
        }
    }

    /// Adds a call to those that wait to be sent.
    pub(crate) fn push(&self, frame: Frames) -> Waiting<'_> {
        let (caller, answer) = oneshot::channel();
        let mut state = self.state();
        let number = state.next_number;
        // It does not come round in the lifetime of any process.
        state.next_number = number.wrapping_add(1);
        state.calls.push_back(Queued {
            number,
            frame,
            caller,
        });
        self.telemetry.counts.queued(1);
        let needs_sender = !std::mem::replace(&mut state.has_sender, true);
        Waiting {
            queue: self,
            number,
            needs_sender,
            answer,
        }
    }

    /// Takes out what is to be sent next. Where there is nothing, the sender
    /// has come to its end. Only for the sender.
    pub(crate) fn next_batch(&self) -> Option<Batch> {
        let mut state = self.state();
        let count = self.next_count(&state.calls);
        if count == 0 {
            state.has_sender = false;
            return None;
        }
        self.telemetry.counts.unqueued(count);
        let calls = state.calls.drain(..count);
        let (frames, callers) = calls.map(|call| (call.frame, Some(call.caller))).unzip();
        drop(state);
        Some(Batch {
            frames,
            callers: Callers::new(callers),
        })
    }

    /// How many calls go next: as many as fit, and at least one of several.
    fn next_count(&self, calls: &VecDeque<Queued>) -> usize {
        let mut len = 0_usize;
        let fitting = calls.iter().take(self.limits.max_batch).take_while(|call| {
            len = len.saturating_add(call.frame.len());
            len <= self.limits.max_batch_bytes
        });
        fitting.count().max(1).min(calls.len())
    }

    /// Takes all calls out, and with them the sender has come to its end. Only
    /// for the sender.
    pub(crate) fn take_all(&self) -> Callers {
        let mut state = self.state();
        state.has_sender = false;
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        self.telemetry.counts.unqueued(calls.len());
        Callers::new(calls.into_iter().map(|call| Some(call.caller)).collect())
    }

    fn remove(&self, number: u64) {
        let mut state = self.state();
        let found = state
            .calls
            .binary_search_by_key(&number, |call| call.number);
        // It is not there any more once it is sent.
        let removed = found.ok().and_then(|at| state.calls.remove(at));
        drop(state);
        self.telemetry
            .counts
            .unqueued(usize::from(removed.is_some()));
        drop(removed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits to be sent. Dropped, it is not sent any more, if it was not.
pub(crate) struct Waiting<'a> {
    queue: &'a BatchQueue,
    number: u64,
    /// Whether whoever made the call has to see to it that there is a sender.
    pub(crate) needs_sender: bool,
    answer: oneshot::Receiver<Called>,
}

impl Waiting<'_> {
    pub(crate) async fn called(mut self) -> Called {
        called(&mut self.answer).await
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answer.is_terminated() {
            self.queue.remove(self.number);
        }
    }
}

async fn called(answer: &mut oneshot::Receiver<Called>) -> Called {
    let called = answer.await;
    // Where the runtime ends, so do the tasks that send.
    called.unwrap_or(Err(Failure::NoAnswer(HttpError::Unanswered)))
}

impl Batch {
    /// A call that shares an exchange with no other, and its answer.
    pub(crate) fn of_one(frame: Frames) -> (Self, impl Future<Output = Called>) {
        let (caller, mut answer) = oneshot::channel();
        let batch = Self {
            frames: vec![frame],
            callers: Callers::new(vec![Some(caller)]),
        };
        (batch, async move { called(&mut answer).await })
    }

    /// Each call on its own. None may have its answer yet.
    pub(crate) fn split(self) -> impl Iterator<Item = Self> {
        let calls = self.frames.into_iter().zip(self.callers.callers);
        calls.map(|(frame, caller)| Self {
            frames: vec![frame],
            callers: Callers::new(vec![caller]),
        })
    }
}

impl Callers {
    fn new(callers: Vec<Option<oneshot::Sender<Called>>>) -> Self {
        let waiting = callers.len();
        Self { callers, waiting }
    }

    /// Gives a call its answer. Returns whether it had none before.
    pub(crate) fn answer(&mut self, which: u32, called: Called) -> bool {
        let at = usize::try_from(which).ok();
        let place = at.and_then(|at| self.callers.get_mut(at));
        let Some(caller) = place.and_then(Option::take) else {
            return false;
        };
        self.waiting = self.waiting.saturating_sub(1);
        // Nobody may be there to hear it any more.
        let _ = caller.send(called);
        true
    }

    /// Tells all who still wait.
    pub(crate) fn fail(&mut self, failure: &Failure) {
        self.waiting = 0;
        for caller in self.callers.iter_mut().filter_map(Option::take) {
            let _ = caller.send(Err(failure.clone()));
        }
    }

    /// Whether all have their answer.
    pub(crate) fn are_done(&self) -> bool {
        self.waiting == 0
    }

    /// Returns once none of those who wait for an answer is there any more.
    pub(crate) async fn closed(&mut self) {
        // One after the other: it is enough to be woken by the next that is
        // still there.
        for caller in self.callers.iter_mut().flatten() {
            caller.closed().await;
        }
    }
}
