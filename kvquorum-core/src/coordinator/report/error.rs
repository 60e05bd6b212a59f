//! Why a write or a read failed.

use super::{ReadReport, ReplicaList, WriteReport};
use crate::clock::ClockExhausted;
use crate::entry::{Entry, Version};
use crate::tally::WriteVerdict;

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
    pub(in crate::coordinator) fn of(verdict: WriteVerdict, report: Box<WriteReport>) -> Self {
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
        /// What was found; without its value, if that had expired (rule X-HIDE).
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
