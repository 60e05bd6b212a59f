//! One page of a scan.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_stream::stream;
use bytes::Bytes;
use futures_core::Stream;

use super::permits::{Permit, Permits};
use super::repairs::Repairs;
use super::tally::PageTally;
use crate::coordinator::calls::Calls;
use crate::coordinator::operation::Decided;
use crate::coordinator::{Inner, Repair};
use crate::entry::Key;
use crate::marks::Era;
use crate::outcome::{Outcome, ReplicaFailure};
use crate::range::KeyRange;
use crate::request::Request;
use crate::transport::Transport;

/// What a page came to.
pub(super) struct PageRead<const N: usize> {
    pub(super) values: Vec<(Key, Bytes)>,
    /// What of the range is left.
    pub(super) rest: Option<KeyRange>,
    /// Whether R replicas answered.
    pub(super) answered: bool,
    /// A key whose entry too few replicas are known to hold, and how many do.
    pub(super) not_held: Option<(Key, usize)>,
    pub(super) outcomes: [Outcome<usize>; N],
    /// In which it was read.
    pub(super) era: Era,
}

/// Asks all replicas, waits until the page is decided, repairs those that are
/// behind, and goes on until all that were asked have answered and are repaired.
pub(super) fn read_page<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    permits: &Permits<N>,
    range: KeyRange,
    needed: usize,
    holders_needed: usize,
) -> impl Stream<Item = Decided<PageRead<N>>> + Send + use<T, N> {
    let mut asking = Asking {
        calls: Calls::new(Arc::clone(&inner), [const { None }; N]),
        tally: PageTally::new(range, needed),
        permits: permits.wait(),
        repairs: [const { None }; N],
        in_background: false,
        era: inner.introductions.era(),
        inner,
    };
    stream! {
        let repair = asking.inner.settings.repair;
        // Each call is polled before anything is decided: all replicas are asked,
        // however fast the first of them are.
        while asking.next_ready().await {}
        while !asking.tally.is_decided() && asking.next().await {}
        let answered = asking.tally.is_answered();
        if repair == Repair::Blocking && answered {
            asking.repair(holders_needed);
            while asking.tally.not_held(holders_needed).is_some() && asking.next().await {
                asking.repair(holders_needed);
            }
        }
        asking.observe();
        asking.go_to_background();
        // Before further answers come in: they may tell of what fewer hold.
        let read = asking.page(holders_needed);
        if repair != Repair::Off && answered {
            // What can be repaired at once is not left to a background task.
            asking.repair(0);
            while asking.next_ready().await {
                asking.repair(0);
            }
        }
        asking.release_permits();
        yield Decided { decision: read, unfinished: asking.is_under_way() };

        while asking.next().await {
            if repair != Repair::Off && answered {
                asking.repair(0);
            }
            asking.release_permits();
        }
        asking.observe();
    }
}

/// A page under way.
struct Asking<T, const N: usize> {
    inner: Arc<Inner<T, N>>,
    calls: Calls<T, N>,
    tally: PageTally<N>,
    permits: [Permit; N],
    /// Of the replicas that are being sent what they lack.
    repairs: [Option<Repairs<T, N>>; N],
    in_background: bool,
    era: Era,
}

impl<T: Transport, const N: usize> Asking<T, N> {
    /// Waits for the next thing to happen; `false` when there is none to wait for.
    async fn next(&mut self) -> bool {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next), and `false` where it has to be waited for.
    async fn next_ready(&mut self) -> bool {
        poll_fn(|cx| Poll::Ready(self.poll_next(cx) == Poll::Ready(true))).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_permits(cx);
        let mut is_idle = !self.permits.iter().any(Permit::is_waited_for);
        match self.calls.poll_next(cx) {
            Poll::Ready(Some((replica, result))) => {
                self.tally.add(replica, result);
                return Poll::Ready(true);
            }
            Poll::Ready(None) => {}
            Poll::Pending => is_idle = false,
        }
        for slot in &mut self.repairs {
            let Some(repairs) = slot else { continue };
            if repairs.poll(cx, &mut self.tally).is_ready() {
                *slot = None;
                return Poll::Ready(true);
            }
            is_idle = false;
        }
        if is_idle {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    }

    /// Asks those whose permit was granted.
    fn poll_permits(&mut self, cx: &mut Context<'_>) {
        for (replica, permit) in self.permits.iter_mut().enumerate() {
            if permit.poll_granted(cx) {
                self.tally.asked(replica);
                let limit = self.inner.settings.page;
                let request = Request::scan(self.tally.range().clone(), limit);
                let mut request = request.in_era(self.era);
                if let Some(result) = self.calls.start(replica, &mut request) {
                    self.tally.add(replica, result);
                }
            }
        }
    }

    /// Gives up the permits of those that are through with this page, or have yet to be
    /// asked for it.
    fn release_permits(&mut self) {
        let permits = self.permits.iter_mut().zip(&self.repairs);
        for (replica, (permit, repairs)) in permits.enumerate() {
            if repairs.is_none() && !self.calls.is_under_way(replica) {
                *permit = Permit::Over;
            }
        }
    }

    /// Sends those that have answered what they lack.
    fn repair(&mut self, holders_needed: usize) {
        for (replica, repairs) in self.repairs.iter_mut().enumerate() {
            if repairs.is_some() {
                continue;
            }
            let due = self.tally.take_due(replica, holders_needed);
            if !due.is_empty() {
                let inner = Arc::clone(&self.inner);
                *repairs = Some(Repairs::new(
                    inner,
                    (replica, self.era),
                    due,
                    self.in_background,
                ));
            }
        }
    }

    /// From now on what is under way is background work.
    fn go_to_background(&mut self) {
        self.in_background = true;
        let repairs = self.repairs.iter_mut().flatten();
        repairs.for_each(Repairs::go_to_background);
        let Self { calls, tally, .. } = self;
        calls.go_to_background(|replica| tally.add(replica, Err(ReplicaFailure::GivenUp)));
    }

    fn is_under_way(&self) -> bool {
        self.calls.are_under_way() || self.repairs.iter().any(Option::is_some)
    }

    /// What the page came to.
    fn page(&mut self, holders_needed: usize) -> PageRead<N> {
        let not_held = match self.inner.settings.repair {
            Repair::Blocking => self.tally.not_held(holders_needed),
            Repair::Off | Repair::Background | Repair::Register => None,
        };
        PageRead {
            not_held: not_held.map(|(key, holders)| (key.clone(), holders)),
            values: self.tally.values(|entry| self.inner.has_expired(entry)),
            rest: self.tally.rest(),
            answered: self.tally.is_answered(),
            era: self.era,
            outcomes: self.tally.report(),
        }
    }

    /// C-MONOTONIC: later timestamps are greater than all that answers told of, as far
    /// as the clock follows. It follows each for itself: one key from the future does not
    /// keep it from the others.
    fn observe(&self) {
        for timestamp in self.tally.timestamps() {
            self.inner.clock.observe(timestamp);
        }
    }
}
