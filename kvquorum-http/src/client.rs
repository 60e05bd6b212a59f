//! The client side: a transport that reaches its replica over HTTP.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use kvquorum_core::{Request, Response, StoreError, Transport, TransportError};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::address::{Address, AddressError};
use crate::body::BodyError;
use crate::connection::{Answer, Connection, Lost};
use crate::error::{HttpError, RemoteStoreError};
use crate::pool::Pool;
use crate::resolve::Resolver;
use crate::server::HEAD_TIME_LIMIT;
use crate::service::error_message;
use crate::time::within_reason;
use crate::wire::{self, Message};

/// Half of a coordinator's time limit by default, so that a call can tell that
/// it was not sent before it is dropped.
const CONNECT_TIME_LIMIT: Duration = Duration::from_secs(1);

/// Below the server's by default, so that the client is the first to close.
const IDLE_TIME_LIMIT: Duration = Duration::from_secs(15);

const _: () = assert!(IDLE_TIME_LIMIT.as_secs() < HEAD_TIME_LIMIT.as_secs());

/// A link to one replica over HTTP/1.1, on kept-alive connections.
///
/// Cloning it counts a reference: clones share connections and bounds. It
/// opens no connection before the first call, so a replica may come up later.
/// Calls run on tokio with its I/O and timers enabled, all on one runtime.
///
/// # Promises
///
/// - Each call under way has a connection of its own, up to the
///   [bound](HttpTransportBuilder::max_connections); a call beyond waits
///   for its turn, in order of arrival.
/// - A call whose future is dropped closes its connection and gives back its
///   turn. The request may still reach the replica. Idle connections that have
///   not been used since that call began are closed with it: a replica that
///   went away without a word costs one call that gets no answer, not one for
///   each connection.
/// - There is at most one retry, and only where a connection from the pool
///   breaks before an answer begins: the replica has then most likely closed
///   it while it was idle, or was restarted. The retry goes over a new
///   connection. A request may so reach the replica twice, which does no harm.
/// - There is no time limit on the answer: that is the coordinator's part.
///
/// # Errors
///
/// | [`TransportError`] | when |
/// |---|---|
/// | `NotSent` | there was no connection, or it was closed before the request was begun; 408 |
/// | `NoAnswer` | the connection broke later, or the response was too long or made no sense; other statuses |
/// | `Rejected` | a status of the 400s: not a replica, another protocol version, a body longer than it reads |
/// | `Store` | 500, with a [`RemoteStoreError`] inside |
///
/// The cause is an [`HttpError`]. Where a first try may have reached the
/// replica, no outcome of the retry is reported as though nothing was stored.
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

struct Link {
    address: Address,
    resolver: Resolver,
    uri: Uri,
    connect_time_limit: Duration,
    max_response_len: usize,
    pool: Pool,
    /// One for each call that may be under way. Never closed.
    turns: Semaphore,
}

/// Settings of an [`HttpTransport`].
#[derive(Clone, Debug)]
#[must_use]
pub struct HttpTransportBuilder {
    address: String,
    connect_time_limit: Duration,
    idle_time_limit: Duration,
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
    /// [server's](crate::ServerBuilder::head_time_limit), so that a request
    /// does not meet the server's close half-way.
    ///
    /// Older connections are closed by the next call, whichever it uses.
    pub fn idle_time_limit(mut self, limit: Duration) -> Self {
        self.idle_time_limit = within_reason(limit);
        self
    }

    /// How many calls may be under way at once, each with its own connection.
    /// 256 by default, and at least 1.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max;
        self
    }

    /// The longest body of a response that is taken, in bytes. 1 MiB and
    /// 64 KiB by default: enough for the largest value that a replica admits
    /// by default. Raise it together with the replicas' limit.
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
        Ok(HttpTransport {
            link: Arc::new(Link {
                resolver: Resolver::new(&address.host, address.port),
                address,
                uri: Uri::from_static(wire::CALL_PATH),
                connect_time_limit: self.connect_time_limit,
                max_response_len: self.max_response_len,
                pool: Pool::new(self.idle_time_limit),
                turns: Semaphore::new(self.max_connections.clamp(1, Semaphore::MAX_PERMITS)),
            }),
        })
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        self.link.call(&request).await
    }

    /// The address, `host:port`.
    fn name(&self) -> &str {
        &self.link.address.text
    }
}

impl Link {
    async fn call(&self, request: &Request) -> Result<Response, TransportError> {
        // First, so that a call that waits holds its request once.
        let _turn = self.turns.acquire().await;
        let body = wire::encode_request(request)
            .map_err(|error| TransportError::NotSent(HttpError::Encode(error.into()).into()))?;
        let unanswered = Unanswered::since_now(&self.pool);
        if let Some(pooled) = self.pool.take().await {
            match self.exchange(pooled, body.clone()).await {
                Err(lost) if !lost.error.is_parse() => {
                    drop(unanswered);
                    let retried = self.call_anew(body).await;
                    return if lost.maybe_sent {
                        after_lost_try(lost.error, retried)
                    } else {
                        retried
                    };
                }
                outcome => {
                    unanswered.disarm();
                    return self.judge(outcome);
                }
            }
        }
        unanswered.disarm();
        self.call_anew(body).await
    }

    /// The call over a new connection.
    async fn call_anew(&self, body: Message) -> Result<Response, TransportError> {
        let connection = self
            .connect()
            .await
            .map_err(|error| TransportError::NotSent(error.into()))?;
        let outcome = self.exchange(connection, body).await;
        self.judge(outcome)
    }

    async fn connect(&self) -> Result<Connection, HttpError> {
        let connecting = async {
            let addresses = self.resolver.addresses().await?;
            TcpStream::connect(&*addresses).await
        };
        let socket = timeout(self.connect_time_limit, connecting)
            .await
            .map_err(|_| HttpError::ConnectTimedOut(self.connect_time_limit))?
            .map_err(HttpError::Connect)?;
        // A request is written in one piece; waiting for more to send with it
        // would only delay it.
        socket.set_nodelay(true).map_err(HttpError::Connect)?;
        Connection::open(socket)
            .await
            .map_err(HttpError::Connection)
    }

    async fn exchange(&self, mut connection: Connection, body: Message) -> Result<Answer, Lost> {
        let mut request = hyper::Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.address.header.clone());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        let answer = connection.call(request, self.max_response_len).await?;
        if answer.body.is_ok() {
            self.pool.put(connection);
        }
        Ok(answer)
    }

    /// What an exchange means to a writer.
    fn judge(&self, outcome: Result<Answer, Lost>) -> Result<Response, TransportError> {
        let Answer { status, body } = match outcome {
            Ok(answer) => answer,
            Err(Lost { error, maybe_sent }) => {
                let error = HttpError::Connection(error).into();
                return Err(if maybe_sent {
                    TransportError::NoAnswer(error)
                } else {
                    TransportError::NotSent(error)
                });
            }
        };
        if status == StatusCode::OK {
            return self
                .decode(body)
                .map_err(|error| TransportError::NoAnswer(error.into()));
        }
        // The status alone says what happened, should its explanation be lost.
        let message = error_message(&body.unwrap_or_default());
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            let error = StoreError::new(RemoteStoreError { message });
            return Err(TransportError::Store(error));
        }
        let error = HttpError::Status { status, message }.into();
        Err(match status {
            StatusCode::REQUEST_TIMEOUT => TransportError::NotSent(error),
            status if status.is_client_error() => TransportError::Rejected(error),
            _ => TransportError::NoAnswer(error),
        })
    }

    fn decode(&self, body: Result<Bytes, BodyError<hyper::Error>>) -> Result<Response, HttpError> {
        let body = body.map_err(|error| match error {
            BodyError::TooLarge => HttpError::ResponseTooLarge {
                max: self.max_response_len,
            },
            BodyError::Failed(error) => HttpError::Connection(error),
        })?;
        wire::decode(&body).map_err(HttpError::Decode)
    }
}

/// A call on a pooled connection that has had no answer yet.
///
/// Dropped as such, because the connection broke or the caller's time ran out,
/// it takes with it all connections that have not been used since it began.
/// They are unlikely to be any better, as where the peer has lost its power,
/// and each of them would cost another call.
struct Unanswered<'a> {
    pool: &'a Pool,
    since: Instant,
}

impl<'a> Unanswered<'a> {
    fn since_now(pool: &'a Pool) -> Self {
        let since = Instant::now();
        Self { pool, since }
    }

    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        self.pool.forget(self.since);
    }
}

/// The outcome of a call whose first try may have reached the replica: nothing
/// may be reported as though it surely had not.
fn after_lost_try(
    lost: hyper::Error,
    retried: Result<Response, TransportError>,
) -> Result<Response, TransportError> {
    match retried {
        Ok(Response::Refused(refusal)) => Err(TransportError::NoAnswer(
            HttpError::LostThenRefused { lost, refusal }.into(),
        )),
        Err(then) if !then.may_have_applied() => {
            let then = Box::new(then);
            Err(TransportError::NoAnswer(
                HttpError::LostThenFailed { lost, then }.into(),
            ))
        }
        outcome => outcome,
    }
}

impl std::fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpTransport({})", self.name())
    }
}
