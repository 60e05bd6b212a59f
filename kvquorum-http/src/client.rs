//! The client side: a transport that reaches its replica over HTTP.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::Uri;
use kvquorum_core::{Request, Response, Transport, TransportError};
use tokio::sync::Semaphore;

use crate::address::{Address, AddressError};
use crate::call::call;
use crate::gather::{self, Gathering};
use crate::link::Link;
use crate::pool::Pool;
use crate::resolve::Resolver;
use crate::time::{HEAD_TIMEOUT, within_reason};
use crate::wire;

/// Half of a coordinator's time limit by default, so that a call can tell that
/// it was not sent before it is dropped.
const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(1);

/// Below the server's by default, so that the client is the first to close.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(15);

const _: () = assert!(IDLE_TIME_LIMIT.as_secs() < HEAD_TIMEOUT.as_secs());

/// A link to one replica over HTTP/1.1, on kept-alive connections.
///
/// Cloning it counts a reference: clones share connections and bounds. It
/// opens no connection before the first call, so a replica may come up later.
/// Calls run on tokio with its I/O and timers enabled, all on one runtime.
///
/// # Promises
///
/// - A call that finds no other under way is sent at once, in an HTTP exchange
///   of its own. While an exchange is under way, calls gather, and go out
///   together in the next: when the answer begins, which a slow store does not
///   hold up, and at the latest after a
///   [time limit](HttpTransportBuilder::gather_time_limit). Each has its own
///   answer, as soon as that is there, and its own failure.
/// - What gathers is bounded in [number](HttpTransportBuilder::max_batch) and
///   bytes for [one exchange](HttpTransportBuilder::max_batch_bytes), and in
///   bytes for [all that wait](HttpTransportBuilder::max_gathered_bytes). A
///   replica that takes no such batch (413) is sent its calls one by one.
/// - Each exchange under way has a connection of its own, up to the
///   [bound](HttpTransportBuilder::max_connections); calls beyond wait for
///   their turn, in order of arrival.
/// - A call whose future is dropped before it was sent is not sent. After that
///   the request may still reach the replica, and when nobody waits for any
///   answer of an exchange, its connection is closed and its turn given back.
///   Where no answer had begun, idle connections that have not been used since
///   it was sent are closed with it: a replica that went away without a word
///   costs the calls of one exchange, not those of one for each connection.
/// - There is at most one retry, and only where a connection from the pool
///   breaks before an answer begins: the replica has then most likely closed
///   it while it was idle, or was restarted. The retry goes over a new
///   connection, with all calls of the exchange. A request may so reach the
///   replica twice, which does no harm.
/// - Calls that have their answer keep it, whatever becomes of the exchange.
/// - There is no time limit on the answer: that is the coordinator's part.
///
/// # Errors
///
/// | [`TransportError`] | when |
/// |---|---|
/// | `NotSent` | there was no connection, or it was closed before the request was begun; 408 |
/// | `NoAnswer` | the connection broke later, or the answer was too long or made no sense; other statuses |
/// | `Rejected` | the replica did not understand the request; a status of the 400s: not a replica, another protocol version, a body longer than it reads |
/// | `Store` | the replica's store failed, with a [`RemoteStoreError`](crate::RemoteStoreError) inside |
///
/// The cause is an [`HttpError`](crate::HttpError). Where a first try may have
/// reached the replica, no outcome of the retry is reported as though nothing
/// was stored.
///
/// ```
/// use std::time::Duration;
/// use kvquorum_http::HttpTransport;
///
/// let replica = HttpTransport::new("127.0.0.1:3001")?;
/// let nearby = HttpTransport::builder("http://replica-2.example:3001")
///     .connect_time_limit(Duration::from_millis(200))
///     .build()?;
/// # Ok::<(), kvquorum_http::AddressError>(())
/// ```
#[derive(Clone)]
pub struct HttpTransport {
    link: Arc<Link>,
}

/// Settings of an [`HttpTransport`].
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpTransportBuilder {
    address: String,
    connect_time_limit: Duration,
    idle_time_limit: Duration,
    gather_time_limit: Duration,
    gathering: gather::Limits,
    max_connections: usize,
    max_response_len: usize,
}

impl HttpTransport {
    /// A transport to the replica at `host:port`, or `http://host:port`, with
    /// the default settings.
    ///
    /// A name is resolved anew for each connection, except for one that is made
    /// while the name is being resolved: the two share the result. So no more
    /// than one lookup is under way at a time, even where calls are dropped.
    ///
    /// # Errors
    ///
    /// Where the address is not of that form. Nothing is connected yet.
    pub fn new(address: impl ToString) -> Result<Self, AddressError> {
        Self::builder(address).build()
    }

    /// The settings of a transport to the replica at this address.
    pub fn builder(address: impl ToString) -> HttpTransportBuilder {
        HttpTransportBuilder {
            address: address.to_string(),
            connect_time_limit: CONNECT_TIME_LIMIT,
            idle_time_limit: IDLE_TIME_LIMIT,
            gather_time_limit: Duration::from_millis(10),
            gathering: gather::Limits {
                max_batch: 256,
                max_batch_bytes: 256 * 1024,
                max_gathered_bytes: 16 * 1024 * 1024,
            },
            max_connections: 256,
            max_response_len: 1024 * 1024 + 64 * 1024,
        }
    }
}

impl HttpTransportBuilder {
    /// How long connecting may take, resolving the name included. 1 second by
    /// default.
    ///
    /// Keep it below the
    /// [coordinator's time limit](kvquorum_core::CoordinatorBuilder::time_limit). A call
    /// that runs into that one first is dropped before it can tell that it was
    /// not sent, and a write that reached nobody is reported as maybe applied.
    pub fn connect_time_limit(mut self, limit: Duration) -> Self {
        self.connect_time_limit = within_reason(limit);
        self
    }

    /// How long a connection may be idle and still be used again. 15 seconds
    /// by default; keep it below the
    /// [server's](crate::ServerBuilder::head_timeout), so that a request
    /// does not meet the server's close half-way.
    ///
    /// Older connections are closed by the next call, whichever it uses.
    pub fn idle_time_limit(mut self, limit: Duration) -> Self {
        self.idle_time_limit = within_reason(limit);
        self
    }

    /// How many calls may share an exchange. 256 by default, and at most as many
    /// as the [server takes](crate::ReplicaServiceBuilder::max_batch). With 1,
    /// calls do not gather: each has an exchange of its own, and a connection.
    pub fn max_batch(mut self, max: usize) -> Self {
        self.gathering.max_batch = max;
        self
    }

    /// How many bytes the requests may have that share an exchange. 256 KiB by
    /// default; keep it below what the
    /// [server reads](crate::ReplicaServiceBuilder::max_body_len). A longer
    /// request does not gather: it has an exchange of its own.
    pub fn max_batch_bytes(mut self, max: usize) -> Self {
        self.gathering.max_batch_bytes = max;
        self
    }

    /// How many bytes the calls may take that have gathered and wait to be sent:
    /// each its request's, and 256 more for what goes with it, which bounds
    /// their number. 16 MiB by default, at most 4 GiB, and always enough for
    /// one call. A call beyond waits for its turn, in order of arrival, and
    /// holds nothing.
    pub fn max_gathered_bytes(mut self, max: usize) -> Self {
        self.gathering.max_gathered_bytes = max;
        self
    }

    /// How long calls gather at most while the answer to an exchange has not
    /// begun: then they go out over another connection. 10 milliseconds by
    /// default.
    ///
    /// It is met where the replica is far away, or has gone away without a
    /// word, or where whoever made the call under way does not poll it.
    pub fn gather_time_limit(mut self, limit: Duration) -> Self {
        self.gather_time_limit = within_reason(limit);
        self
    }

    /// How many exchanges may be under way at once, each with its own
    /// connection. 256 by default, and at least 1.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// The longest answer to a call that is taken, in bytes. 1 MiB and 64 KiB by
    /// default: enough for the largest value that a replica admits by default.
    /// Raise it together with the replicas' limit. Of an exchange's answers,
    /// one is held at a time.
    pub fn max_response_len(mut self, max: usize) -> Self {
        self.max_response_len = max;
        self
    }

    /// The transport.
    ///
    /// # Errors
    ///
    /// Where the address is not `host:port` or `http://host:port`.
    pub fn build(self) -> Result<HttpTransport, AddressError> {
        let address = Address::parse(&self.address)?;
        let turns = self.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        Ok(HttpTransport {
            link: Arc::new(Link {
                resolver: Resolver::new(&address.host, address.port),
                address,
                uri: Uri::from_static(wire::CALL_PATH),
                connect_time_limit: self.connect_time_limit,
                gather_time_limit: self.gather_time_limit,
                max_response_len: self.max_response_len,
                pool: Pool::new(self.idle_time_limit),
                gathering: Gathering::new(self.gathering),
                turns: Arc::new(Semaphore::new(turns)),
            }),
        })
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        call(&self.link, &request).await
    }

    /// The address, `host:port`.
    fn name(&self) -> &str {
        &self.link.address.text
    }
}

impl std::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpTransport({})", self.name())
    }
}
