//! One page at a time from each replica.

use std::array;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;

/// The permits of one scan, one for each replica: a page is asked of a replica when that is
/// through with the page before, repairs included. So a replica that is slow or
/// behind is left with one page, and the scan goes on with the others.
#[derive(Clone, Debug)]
pub(super) struct Permits<const N: usize>([Arc<Semaphore>; N]);

impl<const N: usize> Permits<N> {
    pub(super) fn new() -> Self {
        Self(array::from_fn(|_| Arc::new(Semaphore::new(1))))
    }

    /// One for each replica, to be waited for.
    pub(super) fn wait(&self) -> [Permit; N] {
        let permits = self.0.each_ref();
        permits.map(|permit| Permit::Waiting(PollSemaphore::new(Arc::clone(permit))))
    }
}

pub(super) enum Permit {
    Waiting(PollSemaphore),
    Taken(#[expect(dead_code, reason = "it is kept")] OwnedSemaphorePermit),
    Over,
}

impl Permit {
    /// Whether it was just granted.
    pub(super) fn poll_granted(&mut self, cx: &mut Context<'_>) -> bool {
        if let Self::Waiting(permit) = self
            && let Poll::Ready(Some(taken)) = permit.poll_acquire(cx)
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
