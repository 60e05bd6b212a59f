//! A link to one replica, and what travels over it.
//!
//! A transport moves a [`Request`] there and the [`Response`] back. It does
//! not look into either, retries at most what cannot do harm, and knows
//! nothing of quorums.

use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Key, Timestamp, Version};
use crate::store::{Merged, StoreError};

/// What a coordinator asks of a replica.
///
/// Both kinds are idempotent: delivering a request twice, or late, does no
/// harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request {
    /// Read the entry under a key. Answered by [`Response::Entry`].
    Get {
        /// The key.
        key: Key,
    },
    /// Merge an entry under a key. Answered by [`Response::Merged`].
    Merge {
        /// The key.
        key: Key,
        /// The entry.
        entry: Entry,
    },
}

impl Request {
    /// The key that it is about.
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Get { key } | Self::Merge { key, .. } => key,
        }
    }

    /// Gives the entry to be merged another version.
    pub(crate) fn restamp(&mut self, version: Version) {
        if let Self::Merge { entry, .. } = self {
            entry.version = version;
        }
    }
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response {
    /// To [`Request::Get`]: the entry, a tombstone included, or that there is
    /// none.
    Entry(Option<Entry>),
    /// To [`Request::Merge`]: the ack.
    Merged(Merged),
    /// To any request: the replica did not admit it, and nothing has changed.
    Refused(Refusal),
}

/// Why a replica did not admit a request. Nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// The key is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// The key is longer than the replica admits.
    #[error("the key has {len} bytes, and the replica admits at most {max}")]
    KeyTooLong {
        /// The key's length in bytes.
        len: u64,
        /// The replica's limit in bytes.
        max: u64,
    },
    /// The value is larger than the replica admits.
    #[error("the value has {len} bytes, and the replica admits at most {max}")]
    ValueTooLarge {
        /// The value's length in bytes.
        len: u64,
        /// The replica's limit in bytes.
        max: u64,
    },
    /// The entry is stamped further ahead of the replica's clock than it
    /// admits (rule C-DRIFT): one of the two clocks is wrong.
    #[error(
        "the entry is stamped {} ms, the replica's clock reads {now_millis} ms, \
         and it admits at most {max_drift_millis} ms between them",
        timestamp.millis()
    )]
    TooFarAhead {
        /// The entry's timestamp.
        timestamp: Timestamp,
        /// The replica's clock, in milliseconds since the Unix epoch.
        now_millis: u64,
        /// How far ahead of its clock the replica admits, in milliseconds.
        max_drift_millis: u64,
    },
}

/// A link to ONE replica: carries a request there and the response back.
///
/// It is dyn-compatible, so that one coordinator can reach replicas in
/// different ways: `[Arc<dyn Transport>; 3]` may hold an in-process
/// [`Replica`](crate::Replica) and two remote ones. Wrappers (metrics,
/// authentication, faults) are transports around transports.
///
/// [`conformance::transport`] tests the contract; run it on yours.
///
/// ```
/// use async_trait::async_trait;
/// use kvquorum_core::{Request, Response, Transport, TransportError};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// /// Counts the calls on their way through.
/// struct Counted<T> {
///     inner: T,
///     calls: AtomicU64,
/// }
///
/// #[async_trait]
/// impl<T: Transport> Transport for Counted<T> {
///     async fn call(&self, request: Request) -> Result<Response, TransportError> {
///         self.calls.fetch_add(1, Ordering::Relaxed);
///         self.inner.call(request).await
///     }
///
///     fn name(&self) -> &str {
///         self.inner.name()
///     }
/// }
/// ```
///
/// [`conformance::transport`]: crate::conformance::transport
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Carries a request to the replica, and returns its response.
    ///
    /// # Contract
    ///
    /// - The response is the replica's answer to exactly this request,
    ///   whatever else is under way.
    /// - Key, entry and response arrive unchanged, bit for bit.
    /// - A refusal is a response, not an error; unless an earlier try of the
    ///   same call may have been stored.
    /// - The error tells whether the replica can have acted:
    ///   [`NotSent`](TransportError::NotSent) and
    ///   [`Rejected`](TransportError::Rejected) only where it surely has not,
    ///   in no try.
    /// - Calls do not wait for each other beyond what the link needs.
    /// - Dropping the future is safe at any time. Whether the request still
    ///   reaches the replica is then unknown.
    ///
    /// # Time limits
    ///
    /// The coordinator puts a time limit on every call that does not complete
    /// at once, and drops those that exceed it. A transport needs none of its
    /// own, and must hold nothing for a call that was dropped.
    async fn call(&self, request: Request) -> Result<Response, TransportError>;

    /// What [`call`](Self::call) would bring back, where that needs no waiting;
    /// else `None`. It saves a future, and so an allocation. A coordinator may ask for
    /// this first, and then call where there is none.
    ///
    /// Nothing here is required. A transport to another machine has no use for
    /// it; a wrapper that leaves it out is asked by [`call`](Self::call) alone.
    /// One that hands it on does here too what it is there for, and counts
    /// results: after `None` the same request may come by `call`.
    ///
    /// # Contract
    ///
    /// - `None` means that the replica has not seen the request, and never will
    ///   from this.
    /// - A result is what `call` would have brought back.
    /// - It returns at once: it waits for no I/O, and for no lock that is held
    ///   for long.
    fn call_now(&self, request: &Request) -> Option<Result<Response, TransportError>> {
        let _ = request;
        None
    }

    /// What reports and errors call this replica: an address, for one.
    fn name(&self) -> &str;
}

macro_rules! transport_behind {
    ($($pointer:ident),*) => {$(
        #[async_trait]
        impl<T: Transport + ?Sized> Transport for $pointer<T> {
            // The inner future as it is: a second box would cost every call.
            fn call<'life0, 'async_trait>(
                &'life0 self,
                request: Request,
            ) -> std::pin::Pin<
                Box<dyn Future<Output = Result<Response, TransportError>> + Send + 'async_trait>,
            >
            where
                'life0: 'async_trait,
                Self: 'async_trait,
            {
                T::call(self, request)
            }

            fn call_now(&self, request: &Request) -> Option<Result<Response, TransportError>> {
                T::call_now(self, request)
            }

            fn name(&self) -> &str {
                T::name(self)
            }
        }
    )*};
}

transport_behind!(Arc, Box);

/// A call brought back no response.
///
/// The variants tell what matters to a writer: whether the replica can have
/// acted on the request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The request never reached the replica, and nothing was stored. It can
    /// be tried again.
    #[error("the replica was not reached")]
    NotSent(#[source] Box<dyn Error + Send + Sync>),
    /// The request may have reached the replica, but no usable answer came
    /// back: it may be stored, now or later.
    #[error("no answer came back")]
    NoAnswer(#[source] Box<dyn Error + Send + Sync>),
    /// The other side does not take such requests, and nothing was stored:
    /// another protocol version, say, or no replica at all. Trying again
    /// changes nothing.
    #[error("the other side does not take such requests")]
    Rejected(#[source] Box<dyn Error + Send + Sync>),
    /// The replica's store failed. The entry may be stored or not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl TransportError {
    /// Whether the replica can have acted on the request, now or later.
    pub fn may_have_applied(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Rejected(_) => false,
            Self::NoAnswer(_) | Self::Store(_) => true,
        }
    }
}
