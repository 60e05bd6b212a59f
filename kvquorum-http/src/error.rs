//! What can go wrong on the way to a replica and back.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use kvquorum_core::{Refusal, WithCauses};

use crate::wire::DecodeError;

/// Why a call over HTTP brought back no response: the cause inside the
/// [`TransportError`](kvquorum_core::TransportError) that
/// [`HttpTransport`](crate::HttpTransport) returns.
///
/// The `TransportError` says what a writer needs to know, and this what an
/// operator does. It is found there as the [source](Error::source), by
/// `downcast_ref::<HttpError>()`. Its own causes are its source in turn, and not
/// part of its text. Calls that share an exchange share the cause of its
/// failure.
///
/// What a peer says is cut to a few hundred characters, and those of them that
/// do not print are escaped.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No connection: the address did not resolve, or nobody listens there.
    #[error("connecting failed")]
    Connect(#[source] Arc<io::Error>),
    /// No connection within the time limit for connecting.
    #[error("connecting took longer than {0:?}")]
    ConnectTimedOut(Duration),
    /// The TLS handshake failed. The cause says why: the certificate of either
    /// side is missing, expired, of another name, or not signed by anybody whom
    /// the other trusts.
    #[error("the TLS handshake failed")]
    Handshake(#[source] Arc<io::Error>),
    /// TLS was to be spoken, and the peer speaks something else, most likely
    /// plain HTTP.
    #[error("the peer does not speak TLS on this port")]
    NotTls,
    /// Several exchanges in a row had no answer, and the replica is not tried
    /// again before the end of a
    /// [pause](crate::HttpTransportBuilder::max_backoff).
    #[error("the last {unanswered} exchanges had no answer, the next is tried in {pause:?}")]
    NotAnswering {
        /// How many exchanges were begun since the replica last answered.
        unanswered: usize,
        /// When it is tried again, from now.
        pause: Duration,
        /// How the last of them failed. `None` where they were given up.
        #[source]
        last: Option<Arc<HttpError>>,
    },
    /// The request could not be put into bytes.
    #[error("the request cannot be encoded")]
    Encode(#[source] Arc<dyn Error + Send + Sync>),
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
    Decode(#[source] Arc<DecodeError>),
    /// The exchange came to its end without an answer to this call.
    #[error("the exchange ended without an answer to this call")]
    Unanswered,
    /// The replica does not know such a request. Other calls of the same
    /// exchange are not concerned.
    #[error("the replica did not understand the request: {message}")]
    NotUnderstood {
        /// What the replica says.
        message: String,
    },
    /// The peer answered with a status other than 200 OK.
    #[error("the peer answered {status}: {message}")]
    Status {
        /// The status.
        status: StatusCode,
        /// What the peer says.
        message: String,
    },
    /// The replica refused the request: only as the second of
    /// [two tries](Self::TriedTwice).
    #[error("the replica refused the request")]
    Refused(#[source] Refusal),
    /// A first try failed that may have reached the replica, and the second
    /// surely stored nothing. What became of the first is unknown.
    #[error("the first try failed ({}), and so did the second", WithCauses(first.as_ref()))]
    TriedTwice {
        /// How the first try ended.
        first: Arc<HttpError>,
        /// How the second try ended.
        #[source]
        second: Arc<HttpError>,
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

    /// The replica's own words, at most a few hundred characters of them. Those
    /// that do not print are escaped.
    pub fn message(&self) -> &str {
        &self.message
    }
}
