//! What an operation says of itself: receipts, errors and reports.

use std::fmt;

use tokio::sync::oneshot;

use crate::clock::ClockExhausted;
use crate::entry::{Entry, Version};
use crate::outcome::{Outcome, WithCauses};
use crate::tally::{WriteVerdict, may_be_seen, superseded_by};
use crate::transport::Ack;

/// The outcomes of stragglers, once the last of them has ended.
#[derive(Debug)]
pub(super) struct Late<A>(pub(super) oneshot::Receiver<Vec<Outcome<A>>>);

impl<A> Late<A> {
    /// Waits for the stragglers. In their places are their outcomes; there are none
    /// where the runtime was shut down.
    pub(super) async fn outcomes(self) -> Vec<Outcome<A>> {
        self.0.await.unwrap_or_default()
    }

    /// Waits for the stragglers, and puts their outcomes where they were
    /// pending. They stay pending where the runtime was shut down.
    async fn settle(self, outcomes: &mut [Outcome<A>]) {
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
    pub(super) version: Version,
    pub(super) attempts: u32,
    pub(super) outcomes: [Outcome<Ack>; N],
    pub(super) late: Option<Late<Ack>>,
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
    pub(super) entry: Option<Entry>,
    pub(super) outcomes: [Outcome<Option<Version>>; N],
}

impl<const N: usize> ReadReceipt<N> {
    /// The greatest entry among the first R answers, a tombstone included;
    /// `None` where none of them held one.
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// The value; `None` where there is no entry, or a tombstone.
    pub fn into_value(self) -> Option<bytes::Bytes> {
        self.entry?.value
    }

    /// Each replica's part, in the coordinator's order, as it was known when
    /// the read was decided: the version that it holds.
    pub fn replicas(&self) -> &[Outcome<Option<Version>>; N] {
        &self.outcomes
    }
}

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

/// A `put` or `delete` that was not acknowledged.
///
/// A failed write is never rolled back: rolling back needs the agreement that
/// was just missed. What matters to the caller is whether the entry may be
/// seen by a read, and each variant answers that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// Every replica refused the entry or was not reached. It will never be
    /// seen, and the write can safely be done again, or something else
    /// written instead.
    ///
    /// Where replicas refuse all writes because they are stamped
    /// [too far ahead](crate::Refusal::TooFarAhead), this coordinator's wall clock
    /// is ahead of theirs.
    #[error("the write failed and was not applied: {0}")]
    NotApplied(Box<WriteReport>),
    /// Too few replicas acked, and the entry may be seen: now, later, by some
    /// reads and not by others, or never; even over what is acknowledged
    /// meanwhile, where its timestamp is greater. Doing the write again through
    /// the same coordinator settles it, as the new entry is greater.
    #[error("the write failed and may have been applied: {0}")]
    MaybeApplied(Box<WriteReport>),
    /// Enough replicas acked, but told of a greater entry, which may be older
    /// than this write, and there were no [attempts](crate::CoordinatorBuilder::max_attempts)
    /// left to go past it (rule W-SUPERSEDED). The entry may never be seen.
    /// Where any two sets of W replicas meet, this happens only with a bound of 1,
    /// after attempts that were refused (rules L-PROMISE, C-DRIFT), or where the
    /// greater entry is at the end of time, past which there are no timestamps.
    #[error("the write was superseded by {by}: {report}")]
    #[non_exhaustive]
    Superseded {
        /// The greater entry's version.
        by: Version,
        /// What is known of the last attempt.
        report: Box<WriteReport>,
    },
    /// The coordinator's clock has no timestamps left, after its wall clock
    /// showed the end of time. Nothing was sent.
    #[error("the write was not stamped, and nothing was sent")]
    Clock(#[from] ClockExhausted),
}

impl WriteError {
    pub(super) fn of(verdict: WriteVerdict, report: Box<WriteReport>) -> Self {
        match verdict {
            WriteVerdict::Superseded { by } => Self::Superseded { by, report },
            WriteVerdict::Acked | WriteVerdict::Failed => Self::failed(report),
        }
    }

    fn failed(report: Box<WriteReport>) -> Self {
        if report.may_be_seen() {
            Self::MaybeApplied(report)
        } else {
            Self::NotApplied(report)
        }
    }

    /// What is known of the write, where it was sent at all.
    pub fn report(&self) -> Option<&WriteReport> {
        match self {
            Self::NotApplied(report)
            | Self::MaybeApplied(report)
            | Self::Superseded { report, .. } => Some(report),
            Self::Clock(_) => None,
        }
    }

    /// Waits until no replica is pending, and says what is known then. That
    /// takes no longer than the time limit of a call.
    ///
    /// A write fails as soon as its quorum is out of reach; where the other replicas
    /// have yet to answer, their answers tell how many hold the entry, and can
    /// turn *maybe applied* into *not applied*.
    pub async fn settled(self) -> Self {
        match self {
            Self::MaybeApplied(mut report) => {
                report.settle().await;
                Self::failed(report)
            }
            Self::Superseded { by, mut report } => {
                report.settle().await;
                Self::Superseded { by, report }
            }
            other => other,
        }
    }
}

/// A `get` that has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Fewer than R replicas answered. Trying again may help.
    #[error("the read failed: {0}")]
    Failed(Box<ReadReport>),
    /// R replicas answered, but where repair is blocking, fewer than W could
    /// be brought to hold what was found. A later read may not find it.
    #[error(
        "the read found an entry that {holders} replicas are known to hold and {needed} \
         were needed{}",
        ReplicaList(report)
    )]
    #[non_exhaustive]
    NotRepaired {
        /// What was found.
        entry: Option<Entry>,
        /// How many replicas are known to hold it.
        holders: usize,
        /// How many holders the read needed: W.
        needed: usize,
        /// What is known of each replica.
        report: Box<ReadReport>,
    },
}

impl ReadError {
    /// What is known of the read.
    pub fn report(&self) -> &ReadReport {
        match self {
            Self::Failed(report) | Self::NotRepaired { report, .. } => report,
        }
    }
}
