//! What an update knows of its earlier attempts: rule L-DOUBT.

use crate::coordinator::report::Late;
use crate::entry::Version;
use crate::outcome::Outcome;
use crate::request::{Ack, Held};
use crate::tally::may_be_seen;

/// What an update knows of its attempts that may have been applied.
pub(super) struct Memory<O> {
    doubts: Vec<Doubt>,
    outputs: Vec<O>,
}

/// An attempt that may have been applied.
struct Doubt {
    /// Under which it may have been written.
    ballot: Version,
    /// The place of its output.
    output: usize,
    /// Where it is not known that a replica stored it: those that had yet to answer,
    /// and their answers.
    pending: Option<(Vec<usize>, Late<Ack>)>,
}

/// What the closure of an update returned beside what an attempt writes.
pub(super) enum Output<O> {
    New(O),
    /// The attempt writes what an earlier one wrote.
    Earlier(usize),
}

/// What became of earlier attempts, as a new promise shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// One of them was applied: that with this place.
    Applied(usize),
    /// None was, and none can be acknowledged as it is.
    NotApplied,
    Unknown,
}

impl<O> Memory<O> {
    pub(super) fn new() -> Self {
        Self {
            doubts: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Takes in an attempt that failed, and the answers to it that are still to come.
    pub(super) fn remember(
        &mut self,
        ballot: Version,
        output: Output<O>,
        outcomes: &[Outcome<Ack>],
        late: &mut Option<Late<Ack>>,
    ) {
        let output = match output {
            Output::New(output) => {
                self.outputs.push(output);
                self.outputs.len().saturating_sub(1)
            }
            Output::Earlier(at) => at,
        };
        let pending: Vec<usize> = (0..outcomes.len())
            .filter(|place| outcomes.get(*place).is_some_and(Outcome::is_pending))
            .collect();
        let answered = outcomes.iter().filter(|outcome| !outcome.is_pending());
        let late = late.take_if(|_| !may_be_seen(answered));
        self.doubts.push(Doubt {
            ballot,
            output,
            pending: late.map(|late| (pending, late)),
        });
    }

    /// Waits for late answers, within the time limits of their calls: what all
    /// replicas refused in the end is in doubt no more.
    pub(super) async fn settle(&mut self) {
        let mut doubts = Vec::with_capacity(self.doubts.len());
        for mut doubt in self.doubts.drain(..) {
            if let Some((places, late)) = doubt.pending.take() {
                let outcomes = late.outcomes().await;
                let is_refused = |place: &usize| {
                    let outcome = outcomes.get(*place);
                    outcome.is_some_and(|outcome| !may_be_seen([outcome]))
                };
                if places.iter().all(is_refused) {
                    continue;
                }
            }
            doubts.push(doubt);
        }
        self.doubts = doubts;
    }

    /// What a new promise shows of the earlier attempts.
    pub(super) async fn became(&mut self, base: &Held) -> Became {
        match self.shown_by(base) {
            Became::Unknown => {
                self.settle().await;
                self.shown_by(base)
            }
            became => became,
        }
    }

    /// Whatever of theirs the promise did not find can't be acknowledged by W replicas
    /// any more.
    /// Where nothing was found, one of them may have been a delete that is forgotten.
    fn shown_by(&self, base: &Held) -> Became {
        let collected = base.collected;
        let base = base.entry.as_ref().map(|base| base.version);
        let found = |doubt: &&Doubt| Some(doubt.ballot) == base;
        let first = self.doubts.iter().map(|doubt| doubt.ballot).min();
        match (self.doubts.iter().find(found), first) {
            (Some(doubt), _) => Became::Applied(doubt.output),
            (None, Some(first)) if base > Some(first) => Became::Unknown,
            (None, Some(first)) if base.is_none() && first.timestamp < collected => Became::Unknown,
            _ => Became::NotApplied,
        }
    }

    /// The output that has this place.
    pub(super) fn output(&mut self, place: usize) -> O {
        self.outputs.swap_remove(place)
    }

    /// Whether no attempt is in doubt.
    pub(super) fn is_empty(&self) -> bool {
        self.doubts.is_empty()
    }

    /// Those of the attempts that are in doubt.
    pub(super) fn ballots(&self) -> Vec<Version> {
        self.doubts.iter().map(|doubt| doubt.ballot).collect()
    }
}

#[cfg(test)]
mod tests;
