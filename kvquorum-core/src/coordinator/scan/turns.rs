//! One page at a time from each replica.

use std::array;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// The turns of one scan at its replicas: a page is asked of a replica when that is
/// through with the page before, repairs included. So a replica that is slow or
/// behind is left with one page, and the scan goes on with the others.
#[derive(Clone, Debug)]
pub(super) struct Turns<const N: usize>([Arc<Semaphore>; N]);

impl<const N: usize> Turns<N> {
    pub(super) fn new() -> Self {
        Self(array::from_fn(|_| Arc::new(Semaphore::new(1))))
    }

    /// One for each replica, to be waited for.
    pub(super) fn wait(&self) -> [Turn; N] {
        let turns = self.0.each_ref();
        turns.map(|turn| Turn::Waiting(PollSemaphore::new(Arc::clone(turn))))
    }
}

pub(super) enum Turn {
    Waiting(PollSemaphore),
    Taken(#[expect(dead_code, reason = "it is kept")] OwnedSemaphorePermit),
    Over,
}

impl Turn {
    /// Whether it has just come.
    pub(super) fn poll_comes(&mut self, cx: &mut Context<'_>) -> bool {
        if let Self::Waiting(turn) = self
            && let Poll::Ready(Some(taken)) = turn.poll_acquire(cx)
        {
            *self = Self::Taken(taken);
            return true;
        }
        false
    }

    pub(super) fn is_waited_for(&self) -> bool {
        matches!(self, Self::Waiting(_))
    }
}
