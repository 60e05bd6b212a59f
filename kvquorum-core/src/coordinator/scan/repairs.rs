//! Bringing a replica what a page showed that it lacks.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::{array, mem, vec};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::task::unconstrained;
use tokio::time::{Sleep, sleep};

use super::tally::PageTally;
use crate::coordinator::Inner;
use crate::coordinator::calls::Calls;
use crate::entry::{Entry, Key};
use crate::marks::Era;
use crate::outcome::ReplicaFailure;
use crate::request::{Ack, Request, Response};
use crate::transport::Transport;

/// How many entries a replica that is behind is sent at the same time.
const AT_ONCE: usize = 64;

/// What one replica is being sent. All of it takes no longer than one call may.
pub(super) struct Repairs<T, const N: usize> {
    inner: Arc<Inner<T, N>>,
    replica: usize,
    /// That in which was read what it lacks.
    era: Era,
    left: vec::IntoIter<(Key, Entry)>,
    under_way: FuturesUnordered<Sending<T, N>>,
    in_background: bool,
    /// Armed when it has to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

/// An entry on its way.
struct Sending<T, const N: usize> {
    calls: Calls<T, N>,
    key: Key,
    entry: Entry,
}

impl<T: Transport, const N: usize> Repairs<T, N> {
    pub(super) fn new(
        inner: Arc<Inner<T, N>>,
        (replica, era): (usize, Era),
        due: Vec<(Key, Entry)>,
        in_background: bool,
    ) -> Self {
        Self {
            inner,
            replica,
            era,
            left: due.into_iter(),
            under_way: FuturesUnordered::new(),
            in_background,
            timer: None,
        }
    }

    /// Sends what is left, and tells the tally what was acked; over when there is no
    /// more, or no more time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, tally: &mut PageTally<N>) -> Poll<()> {
        loop {
            while self.under_way.len() < AT_ONCE
                && let Some((key, entry)) = self.left.next()
            {
                self.start(key, entry, tally);
            }
            match self.under_way.poll_next_unpin(cx) {
                Poll::Ready(Some((key, entry, result))) => {
                    self.take_in(&key, &entry, result, tally);
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        let time_limit = self.inner.settings.time_limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(time_limit)));
        ready!(pin!(unconstrained(timer.as_mut())).poll(cx));
        // What is not sent by then is left to the next reader.
        let given_up = self.under_way.len().saturating_add(self.left.len());
        for _ in 0..given_up {
            self.inner.background.count_not_repaired(self.replica);
        }
        Poll::Ready(())
    }

    /// From now on this is background work: within the bound, and what there is no
    /// room for is dropped.
    pub(super) fn go_to_background(&mut self) {
        self.in_background = true;
        // Put in anew, so that those that were dropped are polled, and end.
        let under_way = mem::take(&mut self.under_way);
        self.under_way = under_way
            .into_iter()
            .map(|mut sending| {
                sending.calls.go_to_background(|_| {});
                sending
            })
            .collect();
    }

    fn start(&mut self, key: Key, entry: Entry, tally: &mut PageTally<N>) {
        let mut calls = Calls::new(Arc::clone(&self.inner), array::from_fn(|_| None));
        if self.in_background {
            calls.go_to_background(|_| {});
        }
        let mut request = Request::repair(&key, entry.clone()).in_era(self.era);
        match calls.start(self.replica, &mut request) {
            Some(result) => self.take_in(&key, &entry, Some(result), tally),
            None => self.under_way.push(Sending { calls, key, entry }),
        }
    }

    fn take_in(
        &self,
        key: &Key,
        entry: &Entry,
        result: Option<Result<Response, ReplicaFailure>>,
        tally: &mut PageTally<N>,
    ) {
        let Some(Ok(Response::Ack(ack))) = result else {
            return self.inner.background.count_not_repaired(self.replica);
        };
        if let Ack::Superseded { by } = ack {
            self.inner.clock.observe(by.timestamp);
        }
        self.inner.background.count_repaired(self.replica);
        tally.repaired(self.replica, key, entry);
    }
}

/// `None` where there was no room for it.
impl<T: Transport, const N: usize> Future for Sending<T, N> {
    type Output = (Key, Entry, Option<Result<Response, ReplicaFailure>>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.calls.poll_next(cx));
        let result = answer.map(|(_, result)| result);
        Poll::Ready((self.key.clone(), self.entry.clone(), result))
    }
}
