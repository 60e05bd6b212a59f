//! What became of one replica's part in an operation.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::request::Refusal;
use crate::transport::TransportError;

/// What is known of one replica's part in an operation, at the moment it is
/// asked about.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome<A> {
    /// The replica was not asked: the others had decided already.
    NotAsked,
    /// The call is still under way: a straggler, if the operation is decided.
    Pending,
    /// The replica answered.
    Answered(A),
    /// No answer came from the replica, or a refusal.
    Failed(ReplicaFailure),
}

impl<A> Outcome<A> {
    /// The answer, if there is one.
    pub fn answer(&self) -> Option<&A> {
        match self {
            Self::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// The failure, if there is one.
    pub fn failure(&self) -> Option<&ReplicaFailure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Why the replica did not admit its part, if that is what became of it.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self.failure() {
            Some(ReplicaFailure::Refused(refusal)) => Some(refusal),
            _ => None,
        }
    }

    /// Whether the call is still under way.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending)
    }
}

/// Why a replica did not answer as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicaFailure {
    /// The call brought back no response.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The replica did not admit the request, and has changed nothing, unless the refusal
    /// [says so](Refusal::may_have_applied).
    #[error("the replica refused")]
    Refused(#[source] Refusal),
    /// The call took longer than the coordinator's time limit. What it carried
    /// may have been stored, or may yet be.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The call was still under way when the operation was decided, and was
    /// dropped because as much background work as is allowed was going on
    /// already. What it carried may have been stored, or may yet be.
    #[error("given up: too much background work for this replica")]
    GivenUp,
    /// The transport, or the store behind it, panicked. What it carried may have
    /// been stored, or may yet be.
    #[error("the transport panicked: {0}")]
    Panicked(String),
    /// The response does not belong to the request: the transport mixed up
    /// its calls.
    #[error("the response does not belong to the request")]
    Mismatched,
}

impl ReplicaFailure {
    /// Whether the replica was asked in an era that is over.
    pub(crate) fn is_stale(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Stale { .. }))
    }

    /// Whether the replica can have stored what it was sent, now or later.
    pub fn may_have_applied(&self) -> bool {
        match self {
            Self::Transport(error) => error.may_have_applied(),
            Self::Refused(refusal) => refusal.may_have_applied(),
            Self::TimedOut(_) | Self::GivenUp | Self::Panicked(_) | Self::Mismatched => true,
        }
    }
}

/// An error with all of its causes in one line, for where only text can go. An error's
/// own words leave out those of its cause.
///
/// ```
/// use kvquorum_core::{StoreError, WithCauses};
///
/// let error = StoreError::new("the disk is full");
/// assert_eq!(WithCauses(&error).to_string(), "the store failed: the disk is full");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WithCauses<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
