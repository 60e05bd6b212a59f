//! How exchanges fail, and what that means to each of their calls.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use kvquorum_core::{Response, StoreError, TransportError};

use crate::error::{HttpError, RemoteStoreError};
use crate::problem::cut_to_size;
use crate::wire::{DecodeError, Outcome};

/// What a call comes to.
pub(crate) type Called = Result<Response, TransportError>;

/// Why an exchange has no more answers: each call that still waits for one is
/// told.
#[derive(Clone)]
pub(crate) enum Failure {
    Connect(Arc<io::Error>),
    ConnectTimedOut(Duration),
    Lost {
        error: Arc<hyper::Error>,
        /// Whether the peer may have received the requests.
        maybe_sent: bool,
    },
    Status {
        status: StatusCode,
        message: String,
    },
    Unframed,
    Unanswered,
    /// That, after a first try that may have reached the replica.
    AfterLost {
        lost: Arc<hyper::Error>,
        then: Box<Failure>,
    },
}

impl Failure {
    /// The same, where the first try may have reached the replica.
    pub(crate) fn after(self, lost: Option<Arc<hyper::Error>>) -> Self {
        match lost {
            Some(lost) => Self::AfterLost {
                lost,
                then: Box::new(self),
            },
            None => self,
        }
    }
}

impl From<Failure> for TransportError {
    fn from(failure: Failure) -> Self {
        let no_answer = |error: HttpError| Self::NoAnswer(error.into());
        match failure {
            Failure::Connect(error) => Self::NotSent(HttpError::Connect(error).into()),
            Failure::ConnectTimedOut(limit) => {
                Self::NotSent(HttpError::ConnectTimedOut(limit).into())
            }
            Failure::Lost {
                error,
                maybe_sent: false,
            } => Self::NotSent(HttpError::Connection(error).into()),
            Failure::Lost { error, .. } => no_answer(HttpError::Connection(error)),
            Failure::Status { status, message } => {
                let error = HttpError::Status { status, message };
                match status {
                    StatusCode::REQUEST_TIMEOUT => Self::NotSent(error.into()),
                    status if status.is_client_error() => Self::Rejected(error.into()),
                    _ => no_answer(error),
                }
            }
            Failure::Unframed => no_answer(HttpError::Decode(DecodeError::Unframed)),
            Failure::Unanswered => no_answer(HttpError::Unanswered),
            Failure::AfterLost { lost, then } => failed_after_lost_try(lost, Self::from(*then)),
        }
    }
}

/// What the outcome of a call's request means to a writer.
pub(crate) fn judge(outcome: Result<Outcome, DecodeError>) -> Called {
    match outcome {
        Ok(Outcome::Answered(response)) => Ok(response),
        Ok(Outcome::StoreFailed(message)) => {
            let error = RemoteStoreError::new(cut_to_size(message));
            Err(TransportError::Store(StoreError::new(error)))
        }
        Ok(Outcome::NotUnderstood(message)) => {
            let message = cut_to_size(message);
            let error = HttpError::NotUnderstood { message };
            Err(TransportError::Rejected(error.into()))
        }
        Err(error) => Err(TransportError::NoAnswer(HttpError::Decode(error).into())),
    }
}

/// What a call comes to whose first try may have reached the replica: nothing
/// may be reported as though it surely had not.
pub(crate) fn after_lost_try(lost: Arc<hyper::Error>, retried: Called) -> Called {
    match retried {
        Ok(Response::Refused(refusal)) => Err(TransportError::NoAnswer(
            HttpError::LostThenRefused { lost, refusal }.into(),
        )),
        Ok(response) => Ok(response),
        Err(then) => Err(failed_after_lost_try(lost, then)),
    }
}

fn failed_after_lost_try(lost: Arc<hyper::Error>, then: TransportError) -> TransportError {
    if then.may_have_applied() {
        return then;
    }
    let then = Box::new(then);
    TransportError::NoAnswer(HttpError::LostThenFailed { lost, then }.into())
}
