//! What an operation says of itself: receipts, errors and reports.

mod error;
mod receipt;

use std::fmt;

pub use error::{ReadError, WriteError};
pub(super) use receipt::Late;
pub use receipt::{ReadReceipt, WriteReceipt};

use crate::entry::Version;
use crate::outcome::{Outcome, WithCauses};
use crate::request::Ack;
use crate::tally::may_be_seen;

/// One replica's part in an operation that failed.
#[derive(Debug)]
pub struct ReplicaReport<A> {
    name: String,
    outcome: Outcome<A>,
}

impl<A> ReplicaReport<A> {
    pub(super) fn all<const N: usize>(names: [String; N], outcomes: [Outcome<A>; N]) -> Vec<Self> {
        names
            .into_iter()
            .zip(outcomes)
            .map(|(name, outcome)| Self { name, outcome })
            .collect()
    }

    /// What its transport calls the replica.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What became of its part.
    pub fn outcome(&self) -> &Outcome<A> {
        &self.outcome
    }
}

/// What is known of a write that failed.
#[derive(Debug)]
pub struct WriteReport {
    version: Version,
    needed: usize,
    attempts: u32,
    /// Whether an attempt before the last may be seen by a read.
    earlier_may_be_seen: bool,
    replicas: Vec<ReplicaReport<Ack>>,
    late: Option<Late<Ack>>,
}

impl WriteReport {
    pub(super) fn new<const N: usize>(
        version: Version,
        needed: usize,
        attempts: u32,
        earlier_may_be_seen: bool,
        names: [String; N],
        outcomes: [Outcome<Ack>; N],
        late: Option<Late<Ack>>,
    ) -> Self {
        Self {
            version,
            needed,
            attempts,
            earlier_may_be_seen,
            replicas: ReplicaReport::all(names, outcomes),
            late,
        }
    }

    /// The version of the entry in the last attempt: reads show it under this one, if
    /// that attempt takes effect after all.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How many acks the write needed: W.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// How many replicas are known to have acked.
    pub fn acked(&self) -> usize {
        count_answered(self.outcomes())
    }

    /// How many times the entry was stamped (rule W-SUPERSEDED).
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the entry may be seen under the version of an earlier attempt. What is
    /// said of replicas and acks is of the last attempt.
    pub fn earlier_attempt_may_be_seen(&self) -> bool {
        self.earlier_may_be_seen
    }

    /// Each replica's part in the last attempt, in the coordinator's order.
    pub fn replicas(&self) -> &[ReplicaReport<Ack>] {
        &self.replicas
    }

    fn outcomes(&self) -> impl Iterator<Item = &Outcome<Ack>> {
        self.replicas.iter().map(ReplicaReport::outcome)
    }

    fn may_be_seen(&self) -> bool {
        self.earlier_may_be_seen || may_be_seen(self.outcomes())
    }

    async fn settle(&mut self) {
        let Some(late) = self.late.take() else { return };
        let mut outcomes: Vec<_> = self
            .replicas
            .iter_mut()
            .map(|replica| std::mem::replace(&mut replica.outcome, Outcome::Pending))
            .collect();
        late.settle(&mut outcomes).await;
        for (replica, outcome) in self.replicas.iter_mut().zip(outcomes) {
            replica.outcome = outcome;
        }
    }
}

pub(super) fn count_answered<'a, A: 'a>(
    outcomes: impl IntoIterator<Item = &'a Outcome<A>>,
) -> usize {
    let answers = outcomes.into_iter().filter_map(Outcome::answer);
    answers.count()
}

impl fmt::Display for WriteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (acked, of, needed) = (self.acked(), self.replicas.len(), self.needed);
        write!(f, "{acked} of {of} replicas acked and {needed} were needed")?;
        if self.attempts > 1 {
            write!(f, " in attempt {}", self.attempts)?;
        }
        if self.earlier_may_be_seen {
            f.write_str(", and an earlier attempt may be seen")?;
        }
        write_replicas(f, &self.replicas, |f, ack| match ack {
            Ack::Applied => f.write_str("acked"),
            Ack::Superseded { by } => write!(f, "acked, superseded by {by}"),
        })
    }
}

/// What is known of a read that failed.
#[derive(Debug)]
pub struct ReadReport {
    needed: usize,
    replicas: Vec<ReplicaReport<Option<Version>>>,
}

impl ReadReport {
    pub(super) fn new<const N: usize>(
        needed: usize,
        names: [String; N],
        outcomes: [Outcome<Option<Version>>; N],
    ) -> Self {
        Self {
            needed,
            replicas: ReplicaReport::all(names, outcomes),
        }
    }

    /// How many answers the read needed: R.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// How many replicas are known to have answered.
    pub fn answered(&self) -> usize {
        count_answered(self.replicas.iter().map(ReplicaReport::outcome))
    }

    /// Each replica's part, in the coordinator's order: the version that it
    /// answered with.
    pub fn replicas(&self) -> &[ReplicaReport<Option<Version>>] {
        &self.replicas
    }
}

impl fmt::Display for ReadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, of, needed) = (self.answered(), self.replicas.len(), self.needed);
        write!(
            f,
            "{answered} of {of} replicas answered and {needed} were needed{}",
            ReplicaList(self)
        )
    }
}

struct ReplicaList<'a>(&'a ReadReport);

impl fmt::Display for ReplicaList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_replicas(f, &self.0.replicas, |f, held| match held {
            Some(version) => write!(f, "holds {version}"),
            None => f.write_str("holds nothing"),
        })
    }
}

pub(super) fn write_replicas<A>(
    f: &mut fmt::Formatter<'_>,
    replicas: &[ReplicaReport<A>],
    write_answer: impl Fn(&mut fmt::Formatter<'_>, &A) -> fmt::Result,
) -> fmt::Result {
    for (position, replica) in replicas.iter().enumerate() {
        f.write_str(if position == 0 { " (" } else { "; " })?;
        write!(f, "{}: ", replica.name)?;
        match &replica.outcome {
            Outcome::NotAsked => f.write_str("not asked"),
            Outcome::Pending => f.write_str("still under way"),
            Outcome::Answered(answer) => write_answer(f, answer),
            Outcome::Failed(failure) => write!(f, "{}", WithCauses(failure)),
        }?;
    }
    f.write_str(")")
}
