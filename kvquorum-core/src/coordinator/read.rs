//! Getting: rules R-QUORUM, R-REPAIR and R-FAIL.

use std::sync::Arc;

use async_stream::stream;
use futures_core::Stream;

use super::calls::Calls;
use super::operation::{Decided, decide};
use super::report::{ReadError, ReadReceipt, ReadReport};
use super::{Coordinator, Inner, Repair};
use crate::entry::{Entry, Key, Version};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::store::Merged;
use crate::tally::{Added, ReadTally};
use crate::transport::{Request, Response, Transport};

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    pub(super) async fn read(&self, key: Key) -> Result<ReadReceipt<N>, ReadError> {
        let inner = &self.inner;
        let asking = ask(Arc::clone(inner), R, W, key);
        let Read {
            entry,
            answered,
            holders,
            outcomes,
        } = decide(&inner.background, asking).await;
        if answered && holders >= W {
            return Ok(ReadReceipt { entry, outcomes });
        }
        let report = Box::new(ReadReport::new(R, self.names(), outcomes));
        Err(if answered {
            ReadError::NotRepaired {
                entry,
                holders,
                needed: W,
                report,
            }
        } else {
            ReadError::Failed(report)
        })
    }
}

struct Read<const N: usize> {
    entry: Option<Entry>,
    /// Whether R replicas answered.
    answered: bool,
    /// How many replicas are known to hold the entry. As many as are needed,
    /// where none are.
    holders: usize,
    outcomes: [Outcome<Option<Version>>; N],
}

/// Asks replicas until `needed` have answered, repairs those that are behind,
/// and goes on until every replica that was asked has answered, and those that
/// answered late are repaired too.
fn ask<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    needed: usize,
    holders_needed: usize,
    key: Key,
) -> impl Stream<Item = Decided<Read<N>>> + Send {
    stream! {
        let repair = inner.settings.repair;
        let calls = Calls::new(&inner.transports, &inner.background, inner.settings.time_limit);
        let mut asking = Asking { calls, tally: ReadTally::new(needed), inner: &inner, key };

        // One after the other as long as they answer at once, and all together
        // as soon as one does not: a read that need not wait asks no more
        // replicas than it needs.
        for replica in inner.in_turn() {
            if asking.tally.is_decided() {
                break;
            }
            asking.ask(replica);
            while !asking.tally.is_decided() && asking.next_ready().await {}
        }
        while !asking.tally.is_decided() && asking.next().await {}
        let answered = asking.tally.is_answered();
        let entry = asking.tally.greatest().cloned();
        if let Some(entry) = &entry {
            inner.clock.observe(entry.version.timestamp);
        }

        if repair != Repair::Off {
            // What can be repaired at once is not left to a background task.
            asking.repair();
            while asking.next_ready().await {
                asking.repair();
            }
        }
        let mut holders = holders_needed;
        if repair == Repair::Blocking && answered && entry.is_some() {
            asking.hold(entry.as_ref(), holders_needed).await;
            holders = asking.tally.holders(entry.as_ref());
        }

        asking.go_to_background();
        let outcomes = asking.tally.report();
        let unfinished = asking.calls.are_under_way();
        yield Decided { decision: Read { entry, answered, holders, outcomes }, unfinished };

        while asking.next().await {
            if repair != Repair::Off {
                asking.repair();
            }
        }
        if let Some(latest) = asking.tally.greatest() {
            inner.clock.observe(latest.version.timestamp);
        }
    }
}

/// A read under way.
struct Asking<'a, T, const N: usize> {
    inner: &'a Inner<T, N>,
    calls: Calls<'a, T, N>,
    tally: ReadTally<N>,
    key: Key,
}

impl<T: Transport, const N: usize> Asking<'_, T, N> {
    fn ask(&mut self, replica: usize) {
        self.tally.asked(replica);
        let key = self.key.clone();
        if let Err(failure) = self.calls.start(replica, Request::Get { key }) {
            self.add(replica, Err(failure));
        }
    }

    /// Sends the greatest entry to those that are known to be behind.
    fn repair(&mut self) {
        while let Some((replica, entry)) = self.tally.next_repair() {
            let key = self.key.clone();
            if let Err(failure) = self.calls.start(replica, Request::Merge { key, entry }) {
                self.add(replica, Err(failure));
            }
        }
    }

    /// Goes on until `needed` replicas hold the entry, or no longer can.
    async fn hold(&mut self, entry: Option<&Entry>, needed: usize) {
        let not_asked: Vec<usize> = if self.tally.holders(entry) < needed {
            self.tally.not_asked().collect()
        } else {
            Vec::new()
        };
        for replica in not_asked {
            self.ask(replica);
        }
        while self.tally.holders(entry) < needed
            && self.tally.possible_holders(entry) >= needed
            && self.next().await
        {
            self.repair();
        }
    }

    /// Takes in the next answer; `false` when there is none to wait for.
    async fn next(&mut self) -> bool {
        let answer = self.calls.next().await;
        self.take_in(answer)
    }

    /// Takes in the next answer that is there already, if there is one.
    async fn next_ready(&mut self) -> bool {
        let answer = self.calls.next_ready().await;
        self.take_in(answer)
    }

    fn take_in(&mut self, answer: Option<(usize, Result<Response, ReplicaFailure>)>) -> bool {
        match answer {
            Some((replica, result)) => {
                self.add(replica, result);
                true
            }
            None => false,
        }
    }

    fn add(&mut self, replica: usize, result: Result<Response, ReplicaFailure>) {
        record(self.inner, &mut self.tally, replica, result);
    }

    fn go_to_background(&mut self) {
        let Self {
            inner,
            calls,
            tally,
            ..
        } = self;
        calls.go_to_background(|replica| {
            record(inner, tally, replica, Err(ReplicaFailure::GivenUp));
        });
    }
}

fn record<T, const N: usize>(
    inner: &Inner<T, N>,
    tally: &mut ReadTally<N>,
    replica: usize,
    result: Result<Response, ReplicaFailure>,
) {
    if let Ok(Response::Merged(Merged::Superseded { by })) = &result {
        inner.clock.observe(by.timestamp);
    }
    match tally.add(replica, result) {
        Added::Answer => {}
        Added::Repaired => inner.background.count_repaired(replica),
        Added::NotRepaired => inner.background.count_not_repaired(replica),
    }
}
