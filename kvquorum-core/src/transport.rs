//! A link to one replica.
//!
//! A transport moves a [`Request`] there and the [`Response`] back. It does
//! not look into either, retries at most what cannot do harm, and knows
//! nothing of quorums.

use std::error::Error;
use std::fmt;
use std::future::{Future, pending};
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::request::{Request, Response};
use crate::store::StoreError;

/// A link to ONE replica: carries a request there and the response back.
///
/// It is dyn-compatible, so that one coordinator can reach replicas in
/// different ways: `[Arc<dyn Transport>; 3]` may hold an in-process
/// [`Replica`](crate::Replica) and two remote ones. Wrappers (metrics,
/// authentication, faults) are transports around transports.
///
/// The conformance suite of
/// `kvquorum-testing` tests the contract; run it
/// on yours.
///
/// A transport that has to wait returns [`Call::new`] of an `async` block:
///
/// ```
/// use kvquorum_core::{Call, Request, Transport, TransportError};
/// use tokio::sync::{mpsc, oneshot};
/// # use kvquorum_core::Response;
///
/// /// Sends requests to a task that holds a replica.
/// struct Channel(mpsc::Sender<(Request, oneshot::Sender<Response>)>);
///
/// impl Transport for Channel {
///     fn call(&self, request: &Request) -> Call {
///         let (answer, answered) = oneshot::channel();
///         // To wait for room in the queue would hold up others, should nobody
///         // poll the call.
///         let sent = self.0.try_send((request.clone(), answer));
///         Call::new(async move {
///             sent.map_err(|full| TransportError::NotSent(full.to_string().into()))?;
///             // The replica may have acted: `NotSent` would be a lie.
///             answered.await.map_err(|lost| TransportError::NoAnswer(lost.into()))
///         })
///     }
///
///     fn name(&self) -> &str {
///         "channel"
///     }
/// }
/// ```
///
/// A wrapper that only looks on hands on the call as it is:
///
/// ```
/// # use kvquorum_core::{Call, Request, Transport};
/// # use std::sync::atomic::{AtomicU64, Ordering};
/// struct Counted<T> {
///     inner: T,
///     calls: AtomicU64,
/// }
///
/// impl<T: Transport> Transport for Counted<T> {
///     fn call(&self, request: &Request) -> Call {
///         self.calls.fetch_add(1, Ordering::Relaxed);
///         self.inner.call(request)
///     }
///
///     fn name(&self) -> &str {
///         self.inner.name()
///     }
/// }
/// ```
pub trait Transport: Send + Sync + 'static {
    /// Carries a request to the replica. The call sets out here, or when it is
    /// first polled.
    ///
    /// # Contract
    ///
    /// - The response is the replica's answer to exactly this request,
    ///   whatever else is under way.
    /// - All calls lead to the same replica.
    /// - Request and response arrive unchanged, bit for bit.
    /// - A refusal is a response, not an error; unless an earlier try of the
    ///   same call may have been stored.
    /// - The error tells whether the replica can have acted:
    ///   [`NotSent`](TransportError::NotSent) and
    ///   [`Rejected`](TransportError::Rejected) only where it surely has not,
    ///   in no try.
    /// - Calls do not wait for each other beyond what the link needs.
    /// - A call that is not polled holds up no other.
    /// - Dropping the call is safe at any time. Whether the request still
    ///   reaches the replica is then unknown.
    /// - `call` itself does not block.
    ///
    /// # Time limits
    ///
    /// The coordinator puts a time limit on every call that does not complete
    /// at once, and drops those that exceed it. A transport needs none of its
    /// own, and must hold nothing for a call that was dropped.
    fn call(&self, request: &Request) -> Call;

    /// What reports and errors call this replica: an address, for one.
    ///
    /// # Contract
    ///
    /// - It is not empty.
    fn name(&self) -> &str;
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn call(&self, request: &Request) -> Call {
        T::call(self, request)
    }

    fn name(&self) -> &str {
        T::name(self)
    }
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn call(&self, request: &Request) -> Call {
        T::call(self, request)
    }

    fn name(&self) -> &str {
        T::name(self)
    }
}

/// A request on its way: what [`Transport::call`] returns, to be awaited.
///
/// A call to a replica in the same process is often [over](Self::Ready) when it
/// is made. Then it allocates nothing, and a coordinator need not wait for it.
#[must_use = "a call may set out only when it is polled"]
pub enum Call {
    /// It is over, and this is what it came to.
    Ready(Result<Response, TransportError>),
    /// It has to be waited for.
    Pending(Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send>>),
}

impl Call {
    /// A call that has to be waited for.
    pub fn new(
        call: impl Future<Output = Result<Response, TransportError>> + Send + 'static,
    ) -> Self {
        Self::Pending(Box::pin(call))
    }
}

/// Polled again after it is over, it is pending for ever.
impl Future for Call {
    type Output = Result<Response, TransportError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Pending(call) => call.as_mut().poll(cx),
            // The box of a future without a size allocates nothing.
            Self::Ready(_) => match mem::replace(&mut *self, Self::new(pending())) {
                Self::Ready(result) => Poll::Ready(result),
                Self::Pending(_) => Poll::Pending,
            },
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(result) => f.debug_tuple("Ready").field(result).finish(),
            Self::Pending(_) => f.write_str("Pending"),
        }
    }
}

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
