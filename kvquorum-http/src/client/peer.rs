//! What all calls to one replica share, and the way of a call there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Uri};
use tokio::sync::Semaphore;

use super::address::Address;
use super::batch_queue::{Batch, BatchQueue};
use super::batch_sender::{BatchSender, send_separately};
use super::breaker::{Breaker, Denied, Try};
use super::connect::Connector;
use super::connection::{Answer, Connection, Lost};
use super::exchange::Exchange;
use super::failure::{Called, Failure};
use super::pool::Pool;
use super::security::refused_certificate;
use crate::error::HttpError;
use crate::telemetry::ClientTelemetry;
use crate::token::Tokens;
use crate::wire;
use crate::wire::frames::Frames;

/// A replica, as all calls to it know it.
///
/// Whatever calls can wait for each other for, a permit for a connection above
/// all, belongs to a task of its own, which runs whether or not any caller is
/// polled. One call at a time may run in its caller's task, which is faster:
/// what it holds is kept for that one call, and nobody waits for it.
pub(crate) struct Peer {
    pub(crate) address: Address,
    pub(crate) uri: Uri,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) connector: Connector,
    pub(crate) pool: Pool,
    pub(crate) queue: BatchQueue,
    pub(crate) breaker: Breaker,
    pub(crate) telemetry: Arc<ClientTelemetry>,
    /// One for each connection that may be in use by a task. Never closed.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) batch_wait: Duration,
    pub(crate) max_head_len: usize,
    pub(crate) max_response_len: usize,
}

impl Peer {
    pub(crate) async fn call(self: &Arc<Self>, frame: Frames) -> Called {
        let may_share = self.queue.may_share(frame.len());
        if self.queue.begin_inline(may_share) {
            let inline = Inline(Arc::clone(self));
            match Attempt::try_new(self) {
                // In boxes, so that the future of a call that waits is small.
                Ok(attempt) => return Box::pin(self.call_inline(inline, attempt, frame)).await,
                Err(Denied::Open(error)) => return Err(Failure::NotSent(error)),
                Err(Denied::Wait(_)) => {}
            }
        }
        self.breaker.check().map_err(Failure::NotSent)?;
        if may_share {
            let waiting = self.queue.push(frame);
            if waiting.needs_sender {
                tokio::spawn(BatchSender::new(Arc::clone(self)).run());
            }
            waiting.called().await
        } else {
            let (batch, called) = Batch::of_one(frame);
            tokio::spawn(send_separately(Arc::clone(self), batch, None));
            called.await
        }
    }

    /// A call in an exchange of its own, in its caller's task.
    async fn call_inline(&self, inline: Inline, attempt: Attempt, frame: Frames) -> Called {
        self.telemetry.counts.exchange_begins(1);
        let mut exchange = self.begin(attempt, || frame.clone(), None).await?;
        self.queue.inline_is_answered();
        let called = match exchange.next().await {
            Ok(Some((0, called))) => called,
            Ok(Some(_)) => Err(Failure::unframed()),
            Ok(None) => Err(Failure::NoAnswer(HttpError::Unanswered)),
            Err(failure) => Err(failure),
        };
        if exchange.is_complete() {
            self.end(exchange).await;
        } else {
            // The answer is there, and does not wait for the end of the body.
            tokio::spawn(async move {
                inline.0.end(exchange).await;
                drop(inline);
            });
        }
        called
    }

    /// Sends requests, and returns when the answer begins. `first` tells how an
    /// earlier try of them ended, where that may have reached the replica.
    pub(crate) async fn begin(
        &self,
        mut attempt: Attempt,
        requests: impl Fn() -> Frames,
        mut first: Option<HttpError>,
    ) -> Result<Exchange, Failure> {
        let begun = Instant::now();
        attempt.begun = Some(begun);
        if attempt.permitted.is_probe {
            // Over a new connection: the replica may answer again, and all that
            // were there before may be dead.
            self.pool.forget(begun);
        }
        let answered = self.answer(begun, requests, &mut first).await;
        self.telemetry.counts.exchange_begun(answered.is_ok());
        match answered {
            Ok(answer) => {
                attempt.answered();
                Ok(Exchange::new(answer, self.max_response_len, first))
            }
            Err(failure) => {
                let failure = failure.after(first.as_ref());
                attempt.failed(&failure);
                Err(failure)
            }
        }
    }

    async fn answer(
        &self,
        begun: Instant,
        requests: impl Fn() -> Frames,
        first: &mut Option<HttpError>,
    ) -> Result<Answer, Failure> {
        if let Some(pooled) = self.pool.take().await {
            match self.send(pooled, requests()).await {
                Err(lost) if !lost.error.is_parse() => {
                    self.pool.forget(begun);
                    self.telemetry.counts.sent_again();
                    if lost.maybe_sent {
                        *first = Some(HttpError::Connection(Arc::new(lost.error)));
                    }
                }
                sent => return Ok(sent?),
            }
        }
        // In a box, so that the future of a call stays small: it is rare.
        let anew = Box::pin(async {
            let connection = self.connect().await?;
            Ok(self.send(connection, requests()).await?)
        });
        anew.await
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let connected = async {
            let socket = self.connector.connect().await?;
            let opened = Connection::open(socket).await;
            opened.map_err(|error| HttpError::Connection(Arc::new(error)))
        };
        let connected = connected.await;
        self.telemetry.counts.connected(connected.is_ok());
        connected.map_err(Failure::NotSent)
    }

    fn send(
        &self,
        connection: Connection,
        requests: Frames,
    ) -> impl Future<Output = Result<Answer, Lost>> {
        let mut request = hyper::Request::new(requests);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, self.address.header.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::CONTENT_TYPE));
        if let Some(token) = self.tokens.as_ref().and_then(Tokens::header) {
            headers.insert(AUTHORIZATION, token);
        }
        connection.send(request, self.max_head_len)
    }

    /// Keeps the connection of an exchange of which no more is expected.
    pub(crate) async fn end(&self, exchange: Exchange) {
        if let Some(connection) = exchange.end().await {
            self.pool.put(connection);
        }
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        if let Some(refused) = refused_certificate(&lost.error) {
            return Self::NotSent(refused);
        }
        let error = HttpError::Connection(Arc::new(lost.error));
        if lost.maybe_sent {
            Self::NoAnswer(error)
        } else {
            Self::NotSent(error)
        }
    }
}

/// The place of the call that runs in its caller's task.
struct Inline(Arc<Peer>);

impl Drop for Inline {
    fn drop(&mut self) {
        self.0.queue.end_inline();
    }
}

/// An exchange whose answer has not begun.
///
/// Dropped as such after it was begun, because it failed or nobody waits any
/// longer, it takes with it all idle connections that have not been used since.
/// They are unlikely to be any better, as where the peer has lost its power, and
/// each of them would cost another exchange.
pub(crate) struct Attempt {
    /// `None` once its answer has begun.
    peer: Option<Arc<Peer>>,
    permitted: Try,
    /// From when on a connection was looked for. Not begun, it leaves no trace.
    begun: Option<Instant>,
    /// How it failed. `None` where it is given up.
    error: Option<HttpError>,
}

impl Attempt {
    fn try_new(peer: &Arc<Peer>) -> Result<Self, Denied> {
        Ok(Self::permitted(peer, peer.breaker.try_begin()?))
    }

    /// As soon as an exchange may begin, unless the replica does not answer.
    pub(crate) async fn new(peer: &Arc<Peer>) -> Result<Self, Failure> {
        let permitted = peer.breaker.begin().await.map_err(Failure::NotSent)?;
        Ok(Self::permitted(peer, permitted))
    }

    fn permitted(peer: &Arc<Peer>, permitted: Try) -> Self {
        Self {
            peer: Some(Arc::clone(peer)),
            permitted,
            begun: None,
            error: None,
        }
    }

    fn answered(mut self) {
        if let Some(peer) = self.peer.take() {
            peer.breaker.answered();
        }
    }

    fn failed(mut self, failure: &Failure) {
        self.error = failure.cause().cloned();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(peer) = self.peer.take() else {
            return;
        };
        match self.begun {
            Some(begun) => {
                peer.breaker.failed(self.permitted, self.error.take());
                peer.pool.forget(begun);
            }
            None => peer.breaker.withdraw(self.permitted),
        }
    }
}
