//! What can go wrong on the way to a replica and back.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use kvquorum_core::{Refusal, TransportError};

use crate::wire::DecodeError;

/// Why a call over HTTP brought back no response: the cause inside the
/// [`TransportError`] that [`HttpTransport`](crate::HttpTransport) returns.
///
/// The [`TransportError`] says what a writer needs to know, and this what an
/// operator does. It is found there as the
/// [source](Error::source), by `downcast_ref::<HttpError>()`. Its own causes
/// are its source in turn, and not part of its text. Calls that share an
/// exchange share the cause of its failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No connection: the address did not resolve, or nobody listens there.
    #[error("connecting failed")]
    Connect(#[source] Arc<io::Error>),
    /// No connection within the time limit for connecting.
    #[error("connecting took longer than {0:?}")]
    ConnectTimedOut(Duration),
    /// The request could not be put into bytes.
    #[error("the request cannot be encoded")]
    Encode(#[source] Box<dyn Error + Send + Sync>),
    /// The connection broke, or the peer does not speak HTTP.
    #[error("the connection failed")]
    Connection(#[source] Arc<hyper::Error>),
    /// The answer is longer than this transport takes.
    #[error("the answer has more than {max} bytes")]
    ResponseTooLarge {
        /// The bound in bytes.
        max: usize,
    },
    /// The answer's bytes are not an answer of the replica protocol.
    #[error("the answer cannot be decoded")]
    Decode(#[source] DecodeError),
    /// The exchange came to its end without an answer to this call.
    #[error("the exchange ended without an answer to this call")]
    Unanswered,
    /// The replica does not know such a request. Other calls of the same
    /// exchange are not concerned.
    #[error("the replica did not understand the request: {message}")]
    NotUnderstood {
        /// What the replica says, at most a few hundred characters of it.
        message: String,
    },
    /// The peer answered with a status other than 200 OK.
    #[error("the peer answered {status}: {message}")]
    Status {
        /// The status.
        status: StatusCode,
        /// What the peer says, at most a few hundred characters of it.
        message: String,
    },
    /// A pooled connection broke after the request may have reached the
    /// replica, and the second try surely did not reach it, or was rejected.
    /// What became of the first is unknown.
    #[error(
        "the connection failed ({}), and so did the call over a new one",
        with_causes(lost)
    )]
    LostThenFailed {
        /// How the first try ended.
        lost: Arc<hyper::Error>,
        /// How the second try ended.
        #[source]
        then: Box<TransportError>,
    },
    /// A pooled connection broke after the request may have reached the
    /// replica, and the replica refused the second try. It may have admitted
    /// the first.
    #[error(
        "the connection failed ({}), and the replica refused the second try",
        with_causes(lost)
    )]
    LostThenRefused {
        /// How the first try ended.
        lost: Arc<hyper::Error>,
        /// Why the second was refused.
        #[source]
        refusal: Refusal,
    },
}

/// A remote replica's store failed; this is what the replica said of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica says: {message}")]
pub struct RemoteStoreError {
    message: String,
}

impl RemoteStoreError {
    pub(crate) fn new(message: String) -> Self {
        Self { message }
    }

    /// The replica's own words, at most a few hundred characters of them.
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// An error and all its causes, for where only text can go.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
