//! What an operation that was decided in its favour says of itself.

use tokio::sync::oneshot;

use super::count_answered;
use crate::entry::{Entry, Version};
use crate::outcome::Outcome;
use crate::request::Ack;
use crate::tally::superseded_by;

/// The outcomes of stragglers, once the last of them has ended.
#[derive(Debug)]
pub(in crate::coordinator) struct Late<A>(
    pub(in crate::coordinator) oneshot::Receiver<Vec<Outcome<A>>>,
);

impl<A> Late<A> {
    /// Waits for the stragglers. In their places are their outcomes; there are none
    /// where the runtime was shut down.
    pub(in crate::coordinator) async fn outcomes(self) -> Vec<Outcome<A>> {
        self.0.await.unwrap_or_default()
    }

    /// Waits for the stragglers, and puts their outcomes where they were
    /// pending. They stay pending where the runtime was shut down.
    pub(super) async fn settle(self, outcomes: &mut [Outcome<A>]) {
        for (outcome, late) in outcomes.iter_mut().zip(self.outcomes().await) {
            if outcome.is_pending() {
                *outcome = late;
            }
        }
    }
}

/// An acknowledged write: what `put` and `delete` return.
///
/// W replicas hold the entry, or a greater one that was written meanwhile.
#[derive(Debug)]
pub struct WriteReceipt<const N: usize> {
    pub(in crate::coordinator) version: Version,
    pub(in crate::coordinator) attempts: u32,
    pub(in crate::coordinator) outcomes: [Outcome<Ack>; N],
    pub(in crate::coordinator) late: Option<Late<Ack>>,
}

impl<const N: usize> WriteReceipt<N> {
    /// The version of the entry that was acked.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many times the entry was stamped: 1, and one more each time it was found
    /// superseded (rule W-SUPERSEDED), refused by a promise (rule L-PROMISE), or
    /// refused as too far ahead of replicas' clocks (rule C-DRIFT) until the clock had
    /// stepped back.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The greatest version that an ack told of, if one told of a greater
    /// entry. That one's write was not yet acknowledged when this one began, and wins
    /// as if it had come just after: it overlapped with this one, or it had failed and
    /// took effect late. A [late](Self::settled) ack can tell of one
    /// too.
    pub fn superseded_by(&self) -> Option<Version> {
        superseded_by(&self.outcomes)
    }

    /// Each replica's part in the last attempt, in the coordinator's order, as
    /// it was known when the write was decided.
    pub fn replicas(&self) -> &[Outcome<Ack>; N] {
        &self.outcomes
    }

    /// How many replicas are known to have acked: W or more.
    pub fn acked(&self) -> usize {
        count_answered(&self.outcomes)
    }

    /// Waits until no replica is pending: every straggler has acked, failed or
    /// run out of time. That takes no longer than the time limit of a call.
    pub async fn settled(mut self) -> Self {
        if let Some(late) = self.late.take() {
            late.settle(&mut self.outcomes).await;
        }
        self
    }
}

/// What a read found: what `get_with_receipt` returns.
#[derive(Debug)]
pub struct ReadReceipt<const N: usize> {
    pub(in crate::coordinator) entry: Option<Entry>,
    pub(in crate::coordinator) outcomes: [Outcome<Option<Version>>; N],
}

impl<const N: usize> ReadReceipt<N> {
    /// The greatest entry among the first R answers, a tombstone included; `None` where
    /// none of them held one. One that had [expired](crate::Entry::expires_millis) when it
    /// was read is here without its value (rule X-HIDE).
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// The value; `None` where there is no entry, or a tombstone, or where it had expired.
    pub fn into_value(self) -> Option<bytes::Bytes> {
        self.entry?.value
    }

    /// Each replica's part, in the coordinator's order, as it was known when
    /// the read was decided: the version that it holds.
    pub fn replicas(&self) -> &[Outcome<Option<Version>>; N] {
        &self.outcomes
    }
}
