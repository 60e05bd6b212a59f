//! How calls fail, and what that means to a writer.

use std::sync::Arc;

use kvquorum_core::{Response, StoreError, TransportError};

use crate::error::{HttpError, RemoteStoreError};
use crate::wire::{DecodeError, EncodeError};

/// What a call comes to.
pub(crate) type Called = Result<Response, Failure>;

/// Why a call has no response: what its [`TransportError`] will be. Calls that
/// share an exchange share its failure, so that this can be cloned.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    NotSent(HttpError),
    NoAnswer(HttpError),
    Rejected(HttpError),
    Store(RemoteStoreError),
}

impl Failure {
    pub(crate) fn unframed() -> Self {
        Self::NoAnswer(HttpError::Decode(Arc::new(DecodeError::Unframed)))
    }

    pub(crate) fn not_encoded(error: EncodeError) -> Self {
        Self::NotSent(HttpError::Encode(error.into()))
    }

    /// What went wrong on the way, if that is what failed.
    pub(crate) fn cause(&self) -> Option<&HttpError> {
        match self {
            Self::NotSent(error) | Self::NoAnswer(error) | Self::Rejected(error) => Some(error),
            Self::Store(_) => None,
        }
    }

    /// The same, where a first try may have reached the replica: nothing may be
    /// reported as though it surely had not.
    pub(crate) fn after(self, first: Option<&HttpError>) -> Self {
        match (first, self) {
            (Some(first), Self::NotSent(second) | Self::Rejected(second)) => {
                Self::NoAnswer(HttpError::after(first, second))
            }
            (_, failure) => failure,
        }
    }
}

/// What a call comes to whose first try may have reached the replica.
pub(crate) fn after(called: Called, first: &HttpError) -> Called {
    match called {
        Ok(Response::Refused(refusal)) if !refusal.may_have_applied() => Err(Failure::NoAnswer(
            HttpError::after(first, HttpError::Refused(refusal)),
        )),
        Ok(response) => Ok(response),
        Err(failure) => Err(failure.after(Some(first))),
    }
}

impl From<Failure> for TransportError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent(error) => Self::NotSent(error.into()),
            Failure::NoAnswer(error) => Self::NoAnswer(error.into()),
            Failure::Rejected(error) => Self::Rejected(error.into()),
            Failure::Store(error) => Self::Store(StoreError::new(error)),
        }
    }
}

impl HttpError {
    fn after(first: &Self, second: Self) -> Self {
        Self::TriedTwice {
            first: Arc::new(first.clone()),
            second: Arc::new(second),
        }
    }
}
