//! What leads to a replica: connections, and exchanges over them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Uri};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::address::Address;
use crate::connection::{Connection, Incomplete, Lost};
use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::frames::Frames;
use crate::gather::Gathering;
use crate::pool::Pool;
use crate::resolve::Resolver;

/// What all calls to one replica share.
pub(crate) struct Link {
    pub(crate) address: Address,
    pub(crate) resolver: Resolver,
    pub(crate) uri: Uri,
    pub(crate) connect_time_limit: Duration,
    pub(crate) gather_time_limit: Duration,
    pub(crate) max_response_len: usize,
    pub(crate) pool: Pool,
    pub(crate) gathering: Gathering,
    /// One for each exchange that may be under way. Never closed.
    pub(crate) turns: Arc<Semaphore>,
}

impl Link {
    /// Sends requests, and returns when the answer begins.
    ///
    /// What is rare is in boxes, so that the future of a call stays small.
    pub(crate) async fn begin(&self, message: impl Fn() -> Frames) -> Result<Exchange, Failure> {
        let unanswered = Unanswered::since_now(&self.pool);
        let Some(pooled) = self.pool.take().await else {
            unanswered.disarm();
            return Box::pin(self.begin_anew(message(), None)).await;
        };
        match self.send(pooled, message()).await {
            Ok(incomplete) => {
                unanswered.disarm();
                Ok(Exchange::new(incomplete, self.max_response_len, None))
            }
            Err(lost) if lost.error.is_parse() => {
                unanswered.disarm();
                Err(lost.into())
            }
            Err(lost) => {
                drop(unanswered);
                let maybe_sent = lost.maybe_sent.then(|| Arc::new(lost.error));
                Box::pin(self.begin_anew(message(), maybe_sent)).await
            }
        }
    }

    /// The same over a new connection, after a first try that may have reached
    /// the replica where `lost` says how it ended.
    async fn begin_anew(
        &self,
        message: Frames,
        lost: Option<Arc<hyper::Error>>,
    ) -> Result<Exchange, Failure> {
        let begun = async {
            let connection = self.connect().await?;
            Ok(self.send(connection, message).await?)
        };
        match begun.await {
            Ok(incomplete) => Ok(Exchange::new(incomplete, self.max_response_len, lost)),
            Err(failure) => Err(Failure::after(failure, lost)),
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let connecting = async {
            let addresses = self.resolver.addresses().await?;
            let socket = TcpStream::connect(&*addresses).await?;
            // A request is written in one piece; waiting for more to send with
            // it would only delay it.
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let socket = timeout(self.connect_time_limit, connecting)
            .await
            .map_err(|_| Failure::ConnectTimedOut(self.connect_time_limit))?
            .map_err(|error| Failure::Connect(Arc::new(error)))?;
        Connection::open(socket)
            .await
            .map_err(|error| Failure::Lost {
                error: Arc::new(error),
                maybe_sent: false,
            })
    }

    fn send(
        &self,
        connection: Connection,
        message: Frames,
    ) -> impl Future<Output = Result<Incomplete, Lost>> {
        let mut request = hyper::Request::new(message);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.address.header.clone());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        connection.send(request)
    }

    /// Keeps the connection of an exchange of which no more is expected.
    pub(crate) async fn end(&self, exchange: &mut Exchange) {
        if let Some(connection) = exchange.end().await {
            self.pool.put(connection);
        }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Lost {
            error: Arc::new(lost.error),
            maybe_sent: lost.maybe_sent,
        }
    }
}

/// An exchange on a pooled connection whose answer has not begun.
///
/// Dropped as such, because the connection broke or nobody waits any longer,
/// it takes with it all connections that have not been used since it began.
/// They are unlikely to be any better, as where the peer has lost its power,
/// and each of them would cost another exchange.
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
