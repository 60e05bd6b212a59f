//! The client side: a transport that reaches its replica over HTTP.
//!
//! A call goes through [`peer`], which all calls to one replica share: at once,
//! in an exchange of its own, or by way of the [`batch_queue`] and the
//! [`batch_sender`]. The [`breaker`] says whether an [`exchange`] may begin, the
//! [`pool`] or [`connect`] has a [`connection`] for it.

mod address;
mod batch_queue;
mod batch_sender;
mod breaker;
mod connect;
mod connection;
mod dns;
mod exchange;
mod failure;
mod peer;
mod peer_text;
mod pool;
mod security;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use kvquorum_core::{Call, Request, Transport};
use tokio::sync::Semaphore;

use self::address::Address;
use self::batch_queue::BatchQueue;
use self::breaker::Breaker;
use self::connect::Connector;
use self::failure::Failure;
use self::peer::Peer;
use self::pool::Pool;
use self::security::Security;
use crate::telemetry::ClientTelemetry;
use crate::time::{HEAD_TIMEOUT, within_reason};
#[cfg(feature = "tls")]
use crate::tls::ClientTls;
use crate::token::Tokens;
use crate::wire;
use crate::wire::frames::Frames;

pub use self::address::AddressError;

/// Half of a coordinator's time limit by default, so that a call can tell that
/// it was not sent before it is dropped.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Below the server's by default, so that the client is the first to close.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

const _: () = assert!(IDLE_TIMEOUT.as_secs() < HEAD_TIMEOUT.as_secs());

/// A link to one replica over HTTP/1.1, on kept-alive connections.
///
/// Cloning it counts a reference: clones share connections and bounds. It
/// opens no connection before the first call, so a replica may come up later.
/// Calls run on tokio with its I/O and timers enabled, all on one runtime.
///
/// # Promises
///
/// - A call that finds no other under way is sent at once, in an HTTP exchange
///   of its own. While an exchange is under way, calls are queued, and go out
///   together in the next: when the answer begins, which a slow store does not
///   hold up, and at the latest after a
///   [wait](HttpTransportBuilder::batch_wait). Each has its own answer, as soon
///   as that is there, and its own failure.
/// - Queued calls go out in their order of arrival. A batch is bounded in
///   [number](HttpTransportBuilder::max_batch) and
///   [bytes](HttpTransportBuilder::max_batch_bytes); a call that is longer has
///   an exchange of its own. Where a batch is too much for the replica, or for
///   a proxy before it (413), its calls are sent again one by one.
/// - A call that waits holds its request once, encoded. So what is queued is
///   bounded by what the callers wait for, and is gone with them.
/// - Nobody waits for a caller that does not poll its call. Exchanges run in
///   tasks of the transport's own; only one at a time runs in its caller's, and
///   nothing that it holds is needed by others. One more task sends what is
///   queued while there is something.
/// - Each exchange under way has a connection of its own, up to the
///   [bound](HttpTransportBuilder::max_connections); calls beyond wait.
/// - A call whose future is dropped before it was sent is not sent. After that
///   the request may still reach the replica, and when nobody waits for any
///   answer of an exchange, its connection is closed. Where no answer had
///   begun, idle connections that have not been used since it was sent are
///   closed with it: a replica that went away without a word costs the calls
///   of one exchange, not those of one for each connection.
/// - There is at most one retry of an exchange, and only where a connection
///   from the pool breaks before an answer begins: the replica has then most
///   likely closed it while it was idle, or was restarted. The retry goes over a
///   new connection, with all calls of the exchange. A request may so reach the
///   replica twice, which does no harm.
/// - Few exchanges try a replica that does not answer: after so many
///   [without an answer](HttpTransportBuilder::max_unanswered), each next one
///   begins after a pause, which grows up to a
///   [bound](HttpTransportBuilder::max_backoff). Meanwhile calls wait, and once
///   one of those exchanges has failed or was given up, they fail at once with
///   `NotSent`; except that for a moment, a tenth of a second, they wait for the
///   next that tries. The first answer ends that, so that a replica that is back
///   is used again within the bound.
/// - Calls that have their answer keep it, whatever becomes of the exchange,
///   and have it as soon as it is there.
/// - There is no time limit on the answer: that is the coordinator's part.
///
/// # Errors
///
/// | [`TransportError`](kvquorum_core::TransportError) | when |
/// |---|---|
/// | `NotSent` | there was no connection, or it was closed before the request was begun; or the replica has not answered lately, and is not tried now |
/// | `NoAnswer` | the connection broke later; the answer was too long or made no sense; any status but 200 that is not surely the replica's own |
/// | `Rejected` | the replica did not understand the request; or its own server [says](crate::wire::NOTHING_STORED) that nothing was stored: no valid token, another protocol version, a body longer than it reads |
/// | `Store` | the replica's store failed, with a [`RemoteStoreError`](crate::RemoteStoreError) inside |
///
/// The cause is an [`HttpError`](crate::HttpError). Where a first try may have
/// reached the replica, no outcome of the next is reported as though nothing
/// was stored. A gateway that repeats requests by itself, which none does with
/// a `POST` unless it is told to, can only be as right as the last of its tries.
///
/// ```
/// use std::time::Duration;
/// use kvquorum_http::HttpTransport;
///
/// let replica = HttpTransport::new("127.0.0.1:3001")?;
/// let nearby = HttpTransport::builder("http://replica-2.example:3001")
///     .connect_timeout(Duration::from_millis(200))
///     .build()?;
/// # Ok::<(), kvquorum_http::AddressError>(())
/// ```
#[derive(Clone)]
pub struct HttpTransport {
    peer: Arc<Peer>,
}

/// Settings of an [`HttpTransport`].
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpTransportBuilder {
    address: String,
    tokens: Option<Tokens>,
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
    connect_timeout: Duration,
    idle_timeout: Duration,
    batch_wait: Duration,
    max_batch: usize,
    max_batch_bytes: usize,
    max_connections: usize,
    max_unanswered: usize,
    max_backoff: Duration,
    max_head_len: usize,
    max_response_len: usize,
}

impl HttpTransport {
    /// A transport to the replica at `host:port`, or `http://host:port`, with
    /// the default settings. One for `https://` needs a setting: see
    /// [`builder`](Self::builder).
    ///
    /// A name is resolved anew for each connection, except for one that is made
    /// while the name is being resolved: the two share the result. So no more
    /// than one lookup is under way at a time, even where calls are dropped.
    /// Where it has several addresses, they are raced as RFC 8305 has it, so
    /// that one that does not answer holds up no other.
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
            tokens: None,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            batch_wait: Duration::from_millis(10),
            max_batch: 256,
            max_batch_bytes: 256 * 1024,
            max_connections: 256,
            max_unanswered: 16,
            max_backoff: Duration::from_millis(500),
            max_head_len: 64 * 1024,
            max_response_len: 1024 * 1024 + 64 * 1024,
        }
    }
}

impl HttpTransportBuilder {
    /// The secrets of which the first is sent to the replica. None by default.
    ///
    /// Where the replica does not take it, calls fail as `Rejected`, and the
    /// cause is [`HttpError::Status`](crate::HttpError::Status) with 401.
    pub fn tokens(mut self, tokens: &Tokens) -> Self {
        self.tokens = Some(tokens.clone());
        self
    }

    /// Speaks TLS with the replica, and nothing else. Takes a [`ClientTls`], or
    /// an `Arc<rustls::ClientConfig>` of the application's own.
    ///
    /// The replica's certificate must be for the name or the IP address by which
    /// it is reached here. A name goes along for the server to choose by (SNI); an
    /// IP address does not. The handshake is part of
    /// [connecting](Self::connect_timeout). Where it fails, calls fail as
    /// `NotSent`, with a [cause](crate::HttpError::Handshake) that says why.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// How long connecting may take, resolving the name included, trying each of
    /// its first 16 addresses, and the TLS handshake. 1 second by default.
    ///
    /// Keep it below the
    /// [coordinator's time limit](kvquorum_core::CoordinatorBuilder::time_limit). A call
    /// that runs into that one first is dropped before it can tell that it was
    /// not sent, and a write that reached nobody is reported as maybe applied.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = within_reason(limit);
        self
    }

    /// How long a connection may be idle and still be used again. 15 seconds
    /// by default; keep it below the
    /// [server's](crate::ServerBuilder::head_timeout), so that a request
    /// does not meet the server's close half-way.
    ///
    /// Older connections are closed by the next call, whichever it uses.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = within_reason(limit);
        self
    }

    /// How long calls are queued at most while the answer to an exchange has not
    /// begun: then they go out over another connection. 10 milliseconds by
    /// default.
    ///
    /// It is met where the replica is far away, or has gone away without a
    /// word, or where whoever made the call under way does not poll it.
    pub fn batch_wait(mut self, limit: Duration) -> Self {
        self.batch_wait = within_reason(limit);
        self
    }

    /// How many calls may share an exchange. 256 by default, and at most as many
    /// as the [server takes](crate::ReplicaServiceBuilder::max_batch). With 1,
    /// each call has an exchange of its own, and a connection.
    pub fn max_batch(mut self, max: usize) -> Self {
        self.max_batch = max;
        self
    }

    /// How many bytes the requests may have that share an exchange. 256 KiB by
    /// default; keep it below what the
    /// [server reads](crate::ReplicaServiceBuilder::max_body_len). A longer
    /// request has an exchange of its own.
    pub fn max_batch_bytes(mut self, max: usize) -> Self {
        self.max_batch_bytes = max;
        self
    }

    /// How many exchanges may be under way at once, each with its own
    /// connection. 256 by default, and at least 1.
    ///
    /// With 1, every exchange runs in a task of its own, and a call that is
    /// alone takes a little longer.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// How many exchanges may begin one after the other while none of them is
    /// answered. After that they begin at pauses, which grow up to
    /// [`max_backoff`](Self::max_backoff). 16 by default, and at least 1.
    ///
    /// It bounds what a replica costs that accepts and never answers, in
    /// connections. An answer has begun when its head is there, and any answer
    /// lets as many begin again, so this slows down no replica that answers.
    pub fn max_unanswered(mut self, max: usize) -> Self {
        self.max_unanswered = max;
        self
    }

    /// The longest pause between two exchanges that try a replica which does not
    /// answer, and so how long one that is back may go unused. 500 milliseconds
    /// by default. The first pause is 20 milliseconds, each has twice the length
    /// of the one before, and is then shortened at random by up to half.
    pub fn max_backoff(mut self, limit: Duration) -> Self {
        self.max_backoff = within_reason(limit);
        self
    }

    /// The most bytes of an answer that are read before it has begun: its head,
    /// and the interim ones (statuses of the 100s) before that. 64 KiB by
    /// default; as bytes come in many at a time, a few more may be read.
    pub fn max_head_len(mut self, max: usize) -> Self {
        self.max_head_len = max;
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
    /// Where the address is not `host:port`, `http://host:port` or
    /// `https://host:port`, or where it has the one scheme and the settings are
    /// for the other. Without a scheme, `tls` alone decides.
    pub fn build(self) -> Result<HttpTransport, AddressError> {
        let address = Address::parse(&self.address)?;
        let security = self.security(&address)?;
        let max_connections = self.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        // The connection of the one call that runs in its caller's task is not
        // one that a task could wait for.
        let inline = max_connections > 1;
        let telemetry = Arc::new(ClientTelemetry::new(&address.text));
        let permits = max_connections.saturating_sub(usize::from(inline));
        Ok(HttpTransport {
            peer: Arc::new(Peer {
                connector: Connector::new(
                    &address.host,
                    address.port,
                    security,
                    self.connect_timeout,
                ),
                address,
                uri: Uri::from_static(wire::CALL_PATH),
                tokens: self.tokens,
                pool: Pool::new(self.idle_timeout),
                queue: BatchQueue::new(
                    batch_queue::Limits {
                        max_batch: self.max_batch,
                        max_batch_bytes: self.max_batch_bytes,
                        inline,
                    },
                    Arc::clone(&telemetry),
                ),
                breaker: Breaker::new(
                    self.max_unanswered,
                    self.max_backoff,
                    Arc::clone(&telemetry),
                ),
                telemetry,
                permits: Arc::new(Semaphore::new(permits)),
                batch_wait: self.batch_wait,
                max_head_len: self.max_head_len,
                max_response_len: self.max_response_len,
            }),
        })
    }

    fn security(&self, address: &Address) -> Result<Security, AddressError> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Security::tls(address, tls.clone());
        }
        Security::plain(address)
    }
}

impl Transport for HttpTransport {
    fn call(&self, request: &Request) -> Call {
        // Encoded once, here at the door.
        match Frames::of_request(request) {
            Ok(frame) => {
                let peer = Arc::clone(&self.peer);
                Call::new(async move { Ok(peer.call(frame).await?) })
            }
            Err(error) => Call::Ready(Err(Failure::not_encoded(error).into())),
        }
    }

    /// The address, `host:port`.
    fn name(&self) -> &str {
        &self.peer.address.text
    }
}

impl std::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpTransport({})", self.name())
    }
}
