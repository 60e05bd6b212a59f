//! What an update that failed says of itself.

use std::fmt;

use crate::clock::ClockExhausted;
use crate::coordinator::{ReadReport, WriteReport};
use crate::entry::Version;

/// What is known of an update that failed.
#[derive(Debug)]
pub struct UpdateReport {
    attempts: u32,
    maybe_applied: Vec<Version>,
    last: Phase,
}

/// How far the last attempt came.
#[derive(Debug)]
pub(super) enum Phase {
    Prepare(ReadReport),
    Accept(WriteReport),
}

impl UpdateReport {
    pub(super) fn new(attempts: u32, maybe_applied: Vec<Version>, last: Phase) -> Self {
        Self {
            attempts,
            maybe_applied,
            last,
        }
    }

    /// How many attempts were made, the first included.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The versions under which the update may be seen, now or later, in the order of
    /// its attempts.
    pub fn maybe_applied(&self) -> &[Version] {
        &self.maybe_applied
    }

    /// What each replica answered to the last attempt's first phase, where that was
    /// how far it came: the version that it holds.
    pub fn prepare(&self) -> Option<&ReadReport> {
        match &self.last {
            Phase::Prepare(report) => Some(report),
            Phase::Accept(_) => None,
        }
    }

    /// What each replica answered to the last attempt's second phase, where it came
    /// so far.
    pub fn accept(&self) -> Option<&WriteReport> {
        match &self.last {
            Phase::Prepare(_) => None,
            Phase::Accept(report) => Some(report),
        }
    }
}

impl fmt::Display for UpdateReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in attempt {} ", self.attempts)?;
        match &self.last {
            Phase::Prepare(report) => write!(f, "for a promise, {report}"),
            Phase::Accept(report) => write!(f, "to write, {report}"),
        }
    }
}

/// An update of a register that did not come to its end.
///
/// What matters to the caller is whether it may be seen, and each variant answers
/// that.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// Too few replicas answered. It was not applied, and never will be.
    #[error("the update failed and was not applied: {0}")]
    NotApplied(Box<UpdateReport>),
    /// It may be seen, now or later, or be seen no more because another update went
    /// over it; or it may never have been applied. It was tried to find out (rule
    /// L-DOUBT), in vain.
    #[error("the update failed and may have been applied: {0}")]
    MaybeApplied(Box<UpdateReport>),
    /// Other updates, or puts, came first in each attempt, and there were no attempts
    /// or no time left. It was not applied, and never will be.
    #[error("the update was overtaken by others and was not applied: {0}")]
    Contended(Box<UpdateReport>),
    /// The coordinator's clock has no timestamps left, after its wall clock showed
    /// the end of time. Nothing was sent.
    #[error("the update was not stamped, and nothing was sent")]
    Clock(#[from] ClockExhausted),
}

impl UpdateError {
    /// What is known of the update, where it was sent at all.
    pub fn report(&self) -> Option<&UpdateReport> {
        match self {
            Self::NotApplied(report) | Self::MaybeApplied(report) | Self::Contended(report) => {
                Some(report)
            }
            Self::Clock(_) => None,
        }
    }

    /// Whether it may be seen, now or later.
    pub fn may_be_applied(&self) -> bool {
        matches!(self, Self::MaybeApplied(_))
    }
}
