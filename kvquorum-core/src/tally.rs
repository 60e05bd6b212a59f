//! The deciding logic: quorum tallies, as plain values.
//!
//! A tally takes in what each replica answered, in any order, and tells
//! whether the operation is decided and how. It sends nothing and waits for
//! nothing: that is the coordinator's part.

use crate::entry::{Entry, Version};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::store::Merged;
use crate::transport::Response;

/// How a write was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteVerdict {
    /// Enough acks, and the entry is the greatest that any of them knows of.
    Acked,
    /// Enough acks, but a replica holds a greater entry: nobody may ever see
    /// this one.
    Superseded { by: Version },
    /// The acks can no longer reach the quorum.
    Failed,
}

/// Counts the acks of one entry.
#[derive(Debug)]
pub(crate) struct WriteTally<const N: usize> {
    needed: usize,
    outcomes: [Outcome<Merged>; N],
    acked: usize,
    failed: usize,
    superseded_by: Option<Version>,
}

impl<const N: usize> WriteTally<N> {
    pub(crate) fn new(needed: usize) -> Self {
        Self {
            needed,
            outcomes: [const { Outcome::Pending }; N],
            acked: 0,
            failed: 0,
            superseded_by: None,
        }
    }

    /// Takes in a replica's answer. Each replica answers once.
    pub(crate) fn add(&mut self, replica: usize, result: Result<Response, ReplicaFailure>) {
        let outcome = match result {
            Ok(Response::Merged(merged)) => {
                self.acked = self.acked.saturating_add(1);
                if let Merged::Superseded { by } = merged {
                    self.superseded_by = self.superseded_by.max(Some(by));
                }
                Outcome::Answered(merged)
            }
            other => {
                self.failed = self.failed.saturating_add(1);
                Outcome::Failed(other.err().unwrap_or(ReplicaFailure::Mismatched))
            }
        };
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
        } else if self.failed > N.saturating_sub(self.needed) {
            Some(WriteVerdict::Failed)
        } else {
            None
        }
    }

    pub(crate) fn into_outcomes(self) -> [Outcome<Merged>; N] {
        self.outcomes
    }
}

/// Whether an entry with these outcomes may be seen by a read, now or later.
pub(crate) fn may_be_seen<'a>(outcomes: impl IntoIterator<Item = &'a Outcome<Merged>>) -> bool {
    outcomes.into_iter().any(|outcome| match outcome {
        Outcome::NotAsked => false,
        // An entry that is superseded now may have been seen before, where the
        // transport had to send it twice.
        Outcome::Pending | Outcome::Answered(_) => true,
        Outcome::Failed(failure) => failure.may_have_applied(),
    })
}

/// What a read knows of one replica.
#[derive(Debug)]
enum Knowledge {
    NotAsked,
    Asked,
    /// It answered, or acked a repair: it holds this or a greater entry.
    Holds(Option<Entry>),
    /// It is being sent `repair`, greater than the `held` it answered with.
    Repairing {
        held: Option<Entry>,
        repair: Entry,
    },
    /// It answered a repair with the version of a still greater entry.
    Ahead(Version),
    /// It did not answer; or did not take a repair, and so holds what it
    /// answered with or a greater entry.
    Failed {
        /// Until it is reported.
        failure: Option<ReplicaFailure>,
        held: Option<Entry>,
    },
}

/// Gathers what replicas hold under one key.
#[derive(Debug)]
pub(crate) struct ReadTally<const N: usize> {
    needed: usize,
    replicas: [Knowledge; N],
    answered: usize,
    failed: usize,
    /// The greatest entry seen; a tombstone included.
    greatest: Option<Entry>,
}

/// What adding to a [`ReadTally`] came to, beyond the tally itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    Answer,
    Repaired,
    NotRepaired,
}

impl<const N: usize> ReadTally<N> {
    pub(crate) fn new(needed: usize) -> Self {
        Self {
            needed,
            replicas: [const { Knowledge::NotAsked }; N],
            answered: 0,
            failed: 0,
            greatest: None,
        }
    }

    /// Notes that a replica is being asked.
    pub(crate) fn asked(&mut self, replica: usize) {
        if let Some(knowledge) = self.replicas.get_mut(replica) {
            *knowledge = Knowledge::Asked;
        }
    }

    /// Takes in a replica's answer, to the read or to its repair.
    pub(crate) fn add(
        &mut self,
        replica: usize,
        result: Result<Response, ReplicaFailure>,
    ) -> Added {
        let Some(knowledge) = self.replicas.get_mut(replica) else {
            return Added::Answer;
        };
        let before = std::mem::replace(knowledge, Knowledge::Asked);
        let (after, added) = match (before, result) {
            (Knowledge::Repairing { repair, .. }, Ok(Response::Merged(merged))) => {
                let after = match merged {
                    Merged::Applied => Knowledge::Holds(Some(repair)),
                    Merged::Superseded { by } => Knowledge::Ahead(by),
                };
                (after, Added::Repaired)
            }
            (Knowledge::Asked, Ok(Response::Entry(entry))) => {
                // "No such key" is an answer like any other.
                self.answered = self.answered.saturating_add(1);
                if entry > self.greatest {
                    self.greatest.clone_from(&entry);
                }
                (Knowledge::Holds(entry), Added::Answer)
            }
            (before, result) => {
                let failure = Some(result.err().unwrap_or(ReplicaFailure::Mismatched));
                match before {
                    Knowledge::Repairing { held, .. } => {
                        (Knowledge::Failed { failure, held }, Added::NotRepaired)
                    }
                    _ => {
                        self.failed = self.failed.saturating_add(1);
                        let held = None;
                        (Knowledge::Failed { failure, held }, Added::Answer)
                    }
                }
            }
        };
        *knowledge = after;
        added
    }

    /// Whether there are enough answers, or can no longer be.
    pub(crate) fn is_decided(&self) -> bool {
        self.is_answered() || self.failed > N.saturating_sub(self.needed)
    }

    /// Whether there are enough answers.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered >= self.needed
    }

    /// The greatest entry seen so far.
    pub(crate) fn greatest(&self) -> Option<&Entry> {
        self.greatest.as_ref()
    }

    /// The replicas that were not asked yet.
    pub(crate) fn not_asked(&self) -> impl Iterator<Item = usize> {
        self.replicas_that(|knowledge| matches!(knowledge, Knowledge::NotAsked))
    }

    fn replicas_that(&self, is: impl Fn(&Knowledge) -> bool) -> impl Iterator<Item = usize> {
        self.replicas
            .iter()
            .enumerate()
            .filter_map(move |(replica, knowledge)| is(knowledge).then_some(replica))
    }

    /// A replica that is known to be behind the greatest entry, if there is
    /// one, and the entry to send it: with its original version, so that a
    /// repair never wins over a later write.
    pub(crate) fn next_repair(&mut self) -> Option<(usize, Entry)> {
        let greatest = self.greatest.as_ref()?;
        let (replica, knowledge) = self.replicas.iter_mut().enumerate().find(
            |(_, knowledge)| matches!(knowledge, Knowledge::Holds(held) if held.as_ref() < Some(greatest)),
        )?;
        let repair = greatest.clone();
        if let Knowledge::Holds(held) = knowledge {
            *knowledge = Knowledge::Repairing {
                held: held.take(),
                repair: repair.clone(),
            };
        }
        Some((replica, repair))
    }

    /// How many replicas are known to hold this entry or a greater one.
    pub(crate) fn holders(&self, entry: Option<&Entry>) -> usize {
        self.replicas_that(|knowledge| match knowledge {
            Knowledge::Holds(held)
            | Knowledge::Repairing { held, .. }
            | Knowledge::Failed {
                held: held @ Some(_),
                ..
            } => held.as_ref() >= entry,
            Knowledge::Ahead(_) => true,
            Knowledge::NotAsked | Knowledge::Asked | Knowledge::Failed { held: None, .. } => false,
        })
        .count()
    }

    /// How many replicas hold this entry or may yet turn out to.
    pub(crate) fn possible_holders(&self, entry: Option<&Entry>) -> usize {
        self.replicas_that(|knowledge| match knowledge {
            Knowledge::Failed { held, .. } => held.is_some() && held.as_ref() >= entry,
            _ => true,
        })
        .count()
    }

    /// What each replica answered, as far as it is known: the version that it
    /// holds. Failures are moved out, so this is asked once.
    pub(crate) fn report(&mut self) -> [Outcome<Option<Version>>; N] {
        let version = |held: &Option<Entry>| held.as_ref().map(|entry| entry.version);
        self.replicas.each_mut().map(|knowledge| match knowledge {
            Knowledge::NotAsked => Outcome::NotAsked,
            Knowledge::Asked => Outcome::Pending,
            Knowledge::Holds(held) | Knowledge::Repairing { held, .. } => {
                Outcome::Answered(version(held))
            }
            Knowledge::Ahead(by) => Outcome::Answered(Some(*by)),
            Knowledge::Failed { failure, .. } => {
                failure.take().map_or(Outcome::NotAsked, Outcome::Failed)
            }
        })
    }
}

#[cfg(test)]
mod tests;
