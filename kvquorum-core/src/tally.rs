//! The deciding logic: quorum tallies, as plain values.
//!
//! A tally takes in what each replica answered, in any order, and tells
//! whether the operation is decided and how. It sends nothing and waits for
//! nothing: that is the coordinator's part.

mod write;

use std::array;
use std::cmp::Ordering;
use std::mem;

use crate::entry::{Entry, Timestamp, Version};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::request::{Ack, Held, Response};
pub(crate) use write::{WriteTally, WriteVerdict, may_be_seen, superseded_by};

/// What a read knows of one replica.
#[derive(Debug)]
enum Knowledge {
    NotAsked,
    Asked,
    /// It answered, or acked a repair: it holds this or a greater entry.
    Holds(Held),
    Rare(Box<Rare>),
}

// What is rare lies in a box, all of it in one: so that a tally is small, and quick to
// make, to move and to drop.

#[derive(Debug)]
enum Rare {
    /// It is being sent an entry greater than the one that it answered with.
    Repairing(Repairing),
    /// It answered a repair of one version with that of a still greater entry.
    Ahead { of: Version, by: Version },
    /// It did not answer; or did not take a repair, and so holds what it
    /// answered with or a greater entry.
    Failed {
        /// Until it is reported.
        failure: Option<ReplicaFailure>,
        held: Option<Held>,
    },
}

#[derive(Debug)]
struct Repairing {
    held: Held,
    repair: Entry,
    /// The greatest mark when it was sent. It counted beside answers of that.
    collected: Timestamp,
}

impl Knowledge {
    fn is_behind(&self, greatest: Option<&Entry>) -> bool {
        matches!(self, Self::Holds(held) if held.entry.as_ref() < greatest)
    }

    fn rare(rare: Rare) -> Self {
        Self::Rare(Box::new(rare))
    }

    fn into_repairing(self) -> Option<Repairing> {
        match self {
            Self::Rare(rare) => match *rare {
                Rare::Repairing(repairing) => Some(repairing),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Rare {
    /// Whether it is known that the replica holds this entry or a greater one.
    fn holds(&self, entry: Option<&Entry>, collected: Timestamp) -> bool {
        match self {
            Self::Repairing(repairing) => repairing.held.holds(entry, collected),
            Self::Ahead { of, .. } => Some(*of) >= entry.map(|entry| entry.version),
            Self::Failed { held, .. } => {
                let held = held.as_ref().filter(|held| held.entry.is_some());
                held.is_some_and(|held| held.holds(entry, collected))
            }
        }
    }

    fn is_repairing(&self) -> bool {
        matches!(self, Self::Repairing(_))
    }

    /// What the replica answered. A failure is moved out.
    fn report(&mut self) -> Outcome<Option<Version>> {
        match self {
            Self::Repairing(repairing) => repairing.held.report(),
            Self::Ahead { by, .. } => Outcome::Answered(Some(*by)),
            Self::Failed { failure, .. } => {
                failure.take().map_or(Outcome::NotAsked, Outcome::Failed)
            }
        }
    }
}

impl Held {
    /// What counts of the answer beside others, the greatest mark of which is this.
    ///
    /// **G-VOID.** What is stamped before that mark counts only from answers of that very
    /// mark. Every replica held at least the greatest such entry when the mark was given.
    /// So one that has it, and holds something else or nothing, says what became of the
    /// entry; another may hold what was deleted and forgotten, out of a backup.
    #[inline]
    pub(crate) fn counting(&self, collected: Timestamp) -> Option<&Entry> {
        let entry = self.entry.as_ref()?;
        let counts = self.collected == collected || entry.version.timestamp >= collected;
        counts.then_some(entry)
    }

    /// Whether it is known by the answer that the replica holds this entry or a greater
    /// one that counts.
    fn holds(&self, entry: Option<&Entry>, collected: Timestamp) -> bool {
        self.counting(collected) >= entry || self.entry.as_ref() == entry
    }

    fn report(&self) -> Outcome<Option<Version>> {
        Outcome::Answered(self.entry.as_ref().map(|entry| entry.version))
    }
}

/// Gathers what replicas hold under one key.
#[derive(Debug)]
pub(crate) struct ReadTally<const N: usize> {
    needed: usize,
    replicas: [Knowledge; N],
    answered: usize,
    failed: usize,
    /// The replica that answered with the greatest entry seen that counts, a tombstone
    /// included; any, where none was. It is never behind, and so keeps holding
    /// that entry until another is the greatest.
    greatest: usize,
    /// The greatest mark that was told.
    collected: Timestamp,
    /// Whether unlike ones were: else all that was told counts.
    is_mixed: bool,
    /// Whether any two answers were not the same.
    differing: bool,
    /// Whether a replica has told that the era is over.
    is_stale: bool,
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
            // A constant would be copied with all the room that a place has.
            replicas: array::from_fn(|_| Knowledge::NotAsked),
            answered: 0,
            failed: 0,
            greatest: 0,
            collected: Timestamp::MIN,
            is_mixed: false,
            differing: false,
            is_stale: false,
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
        let before = mem::replace(knowledge, Knowledge::Asked);
        let (repairing, result) = match (before, result) {
            (Knowledge::Asked, Ok(Response::Entry(held))) => {
                self.add_answer(replica, held);
                return Added::Answer;
            }
            (before, result) => (before.into_repairing(), result),
        };
        let (after, added) = match (repairing, result) {
            (Some(repairing), Ok(Response::Ack(ack))) => {
                let after = match ack {
                    Ack::Applied => Knowledge::Holds(Held {
                        entry: Some(repairing.repair),
                        collected: repairing.collected,
                    }),
                    Ack::Superseded { by } => {
                        let of = repairing.repair.version;
                        Knowledge::rare(Rare::Ahead { of, by })
                    }
                };
                (after, Added::Repaired)
            }
            (repairing, result) => {
                let failure = result.err().unwrap_or(ReplicaFailure::Mismatched);
                self.is_stale |= failure.is_stale();
                let (held, added) = match repairing {
                    Some(repairing) => (Some(repairing.held), Added::NotRepaired),
                    None => {
                        self.failed = self.failed.saturating_add(1);
                        (None, Added::Answer)
                    }
                };
                let failure = Some(failure);
                (Knowledge::rare(Rare::Failed { failure, held }), added)
            }
        };
        *knowledge = after;
        added
    }

    /// Takes in a replica's answer to the read. "No such key" is one like any
    /// other.
    #[inline]
    pub(crate) fn add_answer(&mut self, replica: usize, held: Held) {
        if held.collected != self.collected {
            self.take_in_mark(held.collected);
        }
        let counting = match self.is_mixed {
            false => held.entry.as_ref(),
            true => held.counting(self.collected),
        };
        match counting.cmp(&self.greatest()) {
            Ordering::Less => self.differing = true,
            Ordering::Equal => {}
            Ordering::Greater => {
                self.differing |= self.answered > 0;
                self.greatest = replica;
            }
        }
        self.answered = self.answered.saturating_add(1);
        if let Some(knowledge) = self.replicas.get_mut(replica) {
            *knowledge = Knowledge::Holds(held);
        }
    }

    /// Takes in another mark: some of what was told before, or is told with it, may not
    /// count.
    fn take_in_mark(&mut self, collected: Timestamp) {
        if self.answered == 0 {
            self.collected = collected;
            return;
        }
        (self.is_mixed, self.differing) = (true, true);
        if collected < self.collected {
            return;
        }
        self.collected = collected;
        let mut greatest = (None, 0);
        for (replica, knowledge) in self.replicas.iter().enumerate() {
            if let Knowledge::Holds(held) = knowledge {
                greatest = greatest.max((held.counting(collected), replica));
            }
        }
        (_, self.greatest) = greatest;
    }

    /// Whether there are enough answers, or can no longer be; or the era is over, and all
    /// are asked again.
    pub(crate) fn is_decided(&self) -> bool {
        self.is_answered() || self.is_stale || self.failed > N.saturating_sub(self.needed)
    }

    /// Whether there are enough answers.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered >= self.needed
    }

    pub(crate) fn has_answered(&self, replica: usize) -> bool {
        matches!(self.replicas.get(replica), Some(Knowledge::Holds(_)))
    }

    /// The greatest entry seen so far.
    pub(crate) fn greatest(&self) -> Option<&Entry> {
        match self.replicas.get(self.greatest) {
            Some(Knowledge::Holds(held)) if !self.is_mixed => held.entry.as_ref(),
            Some(Knowledge::Holds(held)) => held.counting(self.collected),
            _ => None,
        }
    }

    /// The greatest mark that was told.
    pub(crate) fn collected(&self) -> Timestamp {
        self.collected
    }

    /// The greatest entry seen, moved out: so this is asked last.
    pub(crate) fn take_greatest(&mut self) -> Option<Entry> {
        if self.is_mixed {
            self.greatest()?;
        }
        match self.replicas.get_mut(self.greatest) {
            Some(Knowledge::Holds(held)) => held.entry.take(),
            _ => None,
        }
    }

    /// The replicas that were not asked yet.
    pub(crate) fn not_asked(&self) -> impl Iterator<Item = usize> {
        self.replicas_that(|knowledge| matches!(knowledge, Knowledge::NotAsked))
    }

    /// Whether a replica is known to be behind the greatest entry.
    pub(crate) fn is_repair_due(&self) -> bool {
        // What is usual first: that all are alike.
        if !self.differing {
            return false;
        }
        let greatest = self.greatest();
        let mut replicas = self.replicas.iter();
        replicas.any(|knowledge| knowledge.is_behind(greatest))
    }

    fn replicas_that(&self, is: impl Fn(&Knowledge) -> bool) -> impl Iterator<Item = usize> {
        positions(&self.replicas, is)
    }

    /// A replica that is known to be behind the greatest entry, if there is
    /// one, and the entry to send it: with its original version, so that a
    /// repair never wins over a later write.
    pub(crate) fn next_repair(&mut self) -> Option<(usize, Entry)> {
        if !self.differing {
            return None;
        }
        let (repair, collected) = (self.greatest()?.clone(), self.collected);
        let mut replicas = self.replicas.iter_mut().enumerate();
        let is_behind = |knowledge: &Knowledge| knowledge.is_behind(Some(&repair));
        let (replica, knowledge) = replicas.find(|(_, knowledge)| is_behind(knowledge))?;
        if let Knowledge::Holds(held) = knowledge {
            *knowledge = Knowledge::rare(Rare::Repairing(Repairing {
                held: mem::take(held),
                repair: repair.clone(),
                collected,
            }));
        }
        Some((replica, repair))
    }

    /// How many replicas are known to hold this entry or a greater one. One that
    /// answered a repair so is known to of what was repaired alone: it would have
    /// refused a lesser one, if it had promised a ballot in between.
    pub(crate) fn holders(&self, entry: Option<&Entry>) -> usize {
        self.replicas_that(|knowledge| match knowledge {
            Knowledge::Holds(held) => held.holds(entry, self.collected),
            Knowledge::Rare(rare) => rare.holds(entry, self.collected),
            Knowledge::NotAsked | Knowledge::Asked => false,
        })
        .count()
    }

    /// How many replicas hold this entry or may yet turn out to.
    pub(crate) fn possible_holders(&self, entry: Option<&Entry>) -> usize {
        self.replicas_that(|knowledge| match knowledge {
            Knowledge::Rare(rare) => rare.is_repairing() || rare.holds(entry, self.collected),
            _ => true,
        })
        .count()
    }

    /// What each replica answered, as far as it is known: the version that it
    /// holds. Failures are moved out, so this is asked once.
    pub(crate) fn report(&mut self) -> [Outcome<Option<Version>>; N] {
        self.replicas.each_mut().map(|knowledge| match knowledge {
            Knowledge::NotAsked => Outcome::NotAsked,
            Knowledge::Asked => Outcome::Pending,
            Knowledge::Holds(held) => held.report(),
            Knowledge::Rare(rare) => rare.report(),
        })
    }
}

/// The replicas of which something is true.
fn positions<A>(replicas: &[A], is: impl Fn(&A) -> bool) -> impl Iterator<Item = usize> {
    let replicas = replicas.iter().enumerate();
    replicas.filter_map(move |(replica, of_it)| is(of_it).then_some(replica))
}

#[cfg(test)]
mod tests;
