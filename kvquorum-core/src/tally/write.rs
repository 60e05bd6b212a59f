//! The tally of a write.

use crate::entry::Version;
use crate::outcome::{Outcome, ReplicaFailure};
use crate::request::{Ack, Response};

/// How a write was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteVerdict {
    /// Enough acks, and the entry is the greatest that any of them knows of.
    Acked,
    /// Enough acks, but a replica holds a greater entry: nobody may ever see
    /// this one.
    Superseded { by: Version },
    /// The acks can no longer reach the quorum, or a replica has told that the era is
    /// over: then all are asked again.
    Failed,
}

/// Counts the acks of one entry.
#[derive(Debug)]
pub(crate) struct WriteTally<const N: usize> {
    needed: usize,
    outcomes: [Outcome<Ack>; N],
    acked: usize,
    failed: usize,
    is_stale: bool,
    superseded_by: Option<Version>,
}

impl<const N: usize> WriteTally<N> {
    pub(crate) fn new(needed: usize) -> Self {
        Self {
            needed,
            outcomes: [const { Outcome::Pending }; N],
            acked: 0,
            failed: 0,
            is_stale: false,
            superseded_by: None,
        }
    }

    /// Takes in a replica's answer. Each replica answers once.
    pub(crate) fn add(&mut self, replica: usize, result: Result<Response, ReplicaFailure>) {
        match result {
            Ok(Response::Ack(ack)) => self.add_ack(replica, ack),
            other => {
                self.failed = self.failed.saturating_add(1);
                let failure = other.err().unwrap_or(ReplicaFailure::Mismatched);
                self.is_stale |= failure.is_stale();
                self.note(replica, Outcome::Failed(failure));
            }
        }
    }

    /// Takes in a replica's ack.
    #[inline]
    pub(crate) fn add_ack(&mut self, replica: usize, ack: Ack) {
        self.acked = self.acked.saturating_add(1);
        if let Ack::Superseded { by } = ack {
            self.superseded_by = self.superseded_by.max(Some(by));
        }
        self.note(replica, Outcome::Answered(ack));
    }

    #[inline]
    fn note(&mut self, replica: usize, outcome: Outcome<Ack>) {
        if let Some(slot) = self.outcomes.get_mut(replica) {
            *slot = outcome;
        }
    }

    /// How the write is decided, as soon as it is.
    pub(crate) fn verdict(&self) -> Option<WriteVerdict> {
        if self.acked >= self.needed {
            Some(match self.superseded_by {
                Some(by) => WriteVerdict::Superseded { by },
                None => WriteVerdict::Acked,
            })
        } else if self.is_stale || self.failed > N.saturating_sub(self.needed) {
            Some(WriteVerdict::Failed)
        } else {
            None
        }
    }

    /// The greatest version that an ack told of, if one told of a greater entry.
    pub(crate) fn superseded_by(&self) -> Option<Version> {
        self.superseded_by
    }

    /// Whether a replica that has answered may have the entry, now or later.
    pub(crate) fn may_be_applied(&self) -> bool {
        let answered = self.outcomes.iter().filter(|outcome| !outcome.is_pending());
        may_be_seen(answered)
    }

    /// Whether a replica has told that the era is over.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale
    }

    pub(crate) fn is_acked_by_all(&self) -> bool {
        self.acked == N
    }

    /// Whether a replica has yet to answer.
    pub(crate) fn is_pending(&self) -> bool {
        self.acked.saturating_add(self.failed) < N
    }

    pub(crate) fn has_acked(&self, replica: usize) -> bool {
        let outcome = self.outcomes.get(replica);
        outcome.is_some_and(|outcome| outcome.answer().is_some())
    }

    pub(crate) fn outcomes(&self) -> &[Outcome<Ack>; N] {
        &self.outcomes
    }

    pub(crate) fn into_outcomes(self) -> [Outcome<Ack>; N] {
        self.outcomes
    }
}

/// Whether an entry with these outcomes may be seen by a read, now or later.
pub(crate) fn may_be_seen<'a>(outcomes: impl IntoIterator<Item = &'a Outcome<Ack>>) -> bool {
    outcomes.into_iter().any(|outcome| match outcome {
        Outcome::NotAsked => false,
        // An entry that is superseded now may have been seen before, where the
        // transport had to send it twice.
        Outcome::Pending | Outcome::Answered(_) => true,
        Outcome::Failed(failure) => failure.may_have_applied(),
    })
}

/// The greatest version that an ack told of, if one told of a greater entry.
pub(crate) fn superseded_by(outcomes: &[Outcome<Ack>]) -> Option<Version> {
    let told = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Answered(Ack::Superseded { by }) => Some(*by),
        _ => None,
    });
    told.max()
}
