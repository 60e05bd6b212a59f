//! One page of a scan.

use std::array;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_stream::stream;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, iter};
use tokio::time::timeout;

use super::permits::{Permit, Permits};
use super::tally::PageTally;
use crate::coordinator::calls::Calls;
use crate::coordinator::operation::Decided;
use crate::coordinator::{Inner, Repair};
use crate::entry::{Entry, Key};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::range::KeyRange;
use crate::transport::{Ack, Request, Response, Transport};

/// How many entries a replica that is behind is sent at the same time.
const REPAIRS_AT_ONCE: usize = 64;

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
        repairs: FuturesUnordered::new(),
        repairing: [false; N],
        in_background: false,
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
        if repair != Repair::Off && answered {
            // What can be repaired at once is not left to a background task.
            asking.repair(0);
            while asking.next_ready().await {
                asking.repair(0);
            }
        }
        asking.release_permits();
        let not_held = match repair {
            Repair::Blocking => asking.tally.not_held(holders_needed),
            Repair::Off | Repair::Background | Repair::Register => None,
        };
        let read = PageRead {
            not_held: not_held.map(|(key, holders)| (key.clone(), holders)),
            values: asking.tally.values(),
            rest: asking.tally.rest(),
            answered,
            outcomes: asking.tally.report(),
        };
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

/// A replica, and what it acked of what it was sent.
type Repaired = (usize, Vec<(Key, Entry)>);

/// A page under way.
struct Asking<T, const N: usize> {
    inner: Arc<Inner<T, N>>,
    calls: Calls<T, N>,
    tally: PageTally<N>,
    permits: [Permit; N],
    repairs: FuturesUnordered<Pin<Box<dyn Future<Output = Repaired> + Send>>>,
    /// Which replicas are being sent what they lack.
    repairing: [bool; N],
    in_background: bool,
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
        match self.repairs.poll_next_unpin(cx) {
            Poll::Ready(Some((replica, acked))) => {
                for (key, entry) in &acked {
                    self.tally.repaired(replica, key, entry);
                }
                if let Some(repairing) = self.repairing.get_mut(replica) {
                    *repairing = false;
                }
                return Poll::Ready(true);
            }
            Poll::Ready(None) => {}
            Poll::Pending => is_idle = false,
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
                let mut request = Request::scan(self.tally.range().clone(), limit);
                if let Some(result) = self.calls.start(replica, &mut request) {
                    self.tally.add(replica, result);
                }
            }
        }
    }

    /// Gives up the permits of those that are through with this page, or have yet to be
    /// asked for it.
    fn release_permits(&mut self) {
        let permits = self.permits.iter_mut().zip(self.repairing);
        for (replica, (permit, is_repairing)) in permits.enumerate() {
            if !is_repairing && !self.calls.is_under_way(replica) {
                *permit = Permit::Over;
            }
        }
    }

    /// Sends those that have answered what they lack.
    fn repair(&mut self, holders_needed: usize) {
        for (replica, repairing) in self.repairing.iter_mut().enumerate() {
            if *repairing {
                continue;
            }
            let due = self.tally.take_due(replica, holders_needed);
            if !due.is_empty() {
                *repairing = true;
                let inner = Arc::clone(&self.inner);
                let repair = send_all(inner, replica, due, self.in_background);
                self.repairs.push(Box::pin(repair));
            }
        }
    }

    /// From now on what is under way is background work.
    fn go_to_background(&mut self) {
        self.in_background = true;
        let Self { calls, tally, .. } = self;
        calls.go_to_background(|replica| tally.add(replica, Err(ReplicaFailure::GivenUp)));
    }

    fn is_under_way(&self) -> bool {
        self.calls.are_under_way() || !self.repairs.is_empty()
    }

    /// C-MONOTONIC: later timestamps are greater than all that answers told of.
    fn observe(&self) {
        if let Some(latest) = self.tally.latest() {
            self.inner.clock.observe(latest);
        }
    }
}

/// Sends a replica entries that it lacks, and returns those that it acked. It takes
/// no longer than one call may.
async fn send_all<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    replica: usize,
    due: Vec<(Key, Entry)>,
    in_background: bool,
) -> Repaired {
    let mut left = due.len();
    let mut acked = Vec::new();
    let time_limit = inner.settings.time_limit;
    let sent = iter(due).map(|(key, entry)| {
        let inner = Arc::clone(&inner);
        async move {
            let request = Request::write(&key, entry.clone());
            let result = send(inner, replica, request, in_background).await;
            (key, entry, result)
        }
    });
    let mut sent = sent.buffer_unordered(REPAIRS_AT_ONCE);
    let sending = async {
        while let Some((key, entry, result)) = sent.next().await {
            left = left.saturating_sub(1);
            if let Ok(Response::Ack(ack)) = result {
                if let Ack::Superseded { by } = ack {
                    inner.clock.observe(by.timestamp);
                }
                inner.background.count_repaired(replica);
                acked.push((key, entry));
            } else {
                inner.background.count_not_repaired(replica);
            }
        }
    };
    // What is not sent by then is left to the next reader.
    let _ = timeout(time_limit, sending).await;
    for _ in 0..left {
        inner.background.count_not_repaired(replica);
    }
    (replica, acked)
}

/// One call to one replica.
async fn send<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    replica: usize,
    mut request: Request,
    in_background: bool,
) -> Result<Response, ReplicaFailure> {
    let mut calls = Calls::new(inner, array::from_fn(|_| None));
    if in_background {
        calls.go_to_background(|_| {});
    }
    match calls.start(replica, &mut request) {
        Some(result) => result,
        None => match calls.next().await {
            Some((_, result)) => result,
            None => Err(ReplicaFailure::Mismatched),
        },
    }
}
