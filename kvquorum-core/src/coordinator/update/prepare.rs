//! The first phase of an update.

use std::sync::Arc;

use async_stream::stream;
use futures_core::Stream;

use crate::coordinator::Inner;
use crate::coordinator::calls::Calls;
use crate::coordinator::operation::Decided;
use crate::entry::Version;
use crate::outcome::{Outcome, ReplicaFailure};
use crate::request::{Held, Request, Response};
use crate::tally::ReadTally;
use crate::transport::Transport;

/// What replicas answered to a ballot.
pub(super) struct Promises<const N: usize> {
    /// Whether as many promised as were needed.
    pub(super) is_enough: bool,
    /// The greatest entry that they hold, and the greatest mark that they told.
    pub(super) held: Held,
    /// How many of them hold it.
    pub(super) holders: usize,
    pub(super) outcomes: [Outcome<Option<Version>>; N],
}

/// Sends a ballot to all replicas, until as many as are needed have promised it, or
/// no longer can.
pub(super) fn prepare<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    needed: usize,
    mut request: Request,
) -> impl Stream<Item = Decided<Promises<N>>> + Send {
    stream! {
        let mut calls = Calls::new(Arc::clone(&inner), [const { None }; N]);
        let mut tally = ReadTally::<N>::new(needed);
        for replica in 0..N {
            tally.asked(replica);
            if let Some(result) = calls.start(replica, &mut request) {
                tally.add(replica, promise(result));
            }
        }
        // Each call is polled before anything is decided: the ballot goes to all.
        while let Some((replica, result)) = calls.next_ready().await {
            tally.add(replica, promise(result));
        }
        while !tally.is_decided() {
            let Some((replica, result)) = calls.next().await else {
                break;
            };
            tally.add(replica, promise(result));
        }
        calls.go_to_background(|replica| {
            tally.add(replica, Err(ReplicaFailure::GivenUp));
        });
        if let Some(greatest) = tally.greatest() {
            inner.clock.observe(greatest.version.timestamp);
        }
        let holders = tally.holders(tally.greatest());
        let decision = Promises {
            is_enough: tally.is_answered(),
            outcomes: tally.report(),
            held: Held {
                collected: tally.collected(),
                entry: tally.take_greatest(),
            },
            holders,
        };
        yield Decided { decision, unfinished: calls.are_under_way() };
        while calls.next().await.is_some() {}
    }
}

/// A promise tells what a read would.
fn promise(result: Result<Response, ReplicaFailure>) -> Result<Response, ReplicaFailure> {
    match result {
        Ok(Response::Promise(held)) => Ok(Response::Entry(held)),
        Ok(_) => Err(ReplicaFailure::Mismatched),
        Err(failure) => Err(failure),
    }
}
