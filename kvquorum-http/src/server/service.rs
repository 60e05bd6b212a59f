//! A replica as an HTTP service.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body;
use hyper::service::Service;
use hyper::{Request, Response, StatusCode};
use kvquorum_core::{Limits, Replica, Store};

use super::access::{Access, Admission};
use super::answer::AnswerBody;
use super::ask::{Asked, Asking, ask};
use super::batch::{Batch, no_memory};
use super::budget::{Budget, Held, UNCOUNTED};
use super::further::FurtherRoutes;
use super::plain;
use super::problem::Problem;
use super::route::{READ, Route};
use crate::telemetry::{RouteName, ServerCounts, Stopwatch};
use crate::time::within_reason;
use crate::token::Tokens;
use crate::wire;
use crate::wire::frames::Requests;
use kvquorum_core::WithCauses;

/// A replica's two faces as one hyper service: `POST /write` and
/// `GET /read/{key}` for people, and the [replica face](crate::wire) for
/// coordinators.
///
/// [`Server`](crate::Server) serves it on a port of its own. To mount it in a
/// server that the application runs already, hand it to hyper, or call
/// [`handle`](Self::handle) for the routes that belong to it. It needs a tokio
/// runtime with timers.
///
/// Cloning it counts a reference: clones share their bounds.
///
/// # Promises
///
/// - The requests of a batch are all under way at once, each with a time limit
///   and an answer of its own. Where the answers that are ready fill 64 KiB,
///   the requests that have not begun wait until those are read.
/// - A request of a batch that has begun runs on for as long as the connection
///   lasts, whether or not the client reads the answer.
/// - A request is read whole before the replica sees any of it: one that
///   breaks off half-way changes nothing.
/// - Whatever is answered with a status of the 400s, or with 503, has changed
///   nothing.
/// - A store that fails, panics or takes too long does so for one request. The
///   others of the batch and the connection are not concerned.
/// - Where the client goes away while the store is at work, the future of the
///   request is dropped, and the [`Store`]'s contract says what then holds: the
///   entry is stored, or it is not, and nothing between. A client that closes
///   its half of the connection after its request counts as gone.
/// - Every status but 200 has a JSON body, `{"error": string}`, with all that is
///   known of the cause.
pub struct ReplicaService<S>(Arc<Inner<S>>);

/// What clones of a service share.
pub(super) struct Inner<S> {
    replica: Replica<S>,
    pub(super) settings: Settings,
    /// For request bodies, until their requests are done.
    pub(super) bodies: Arc<Budget>,
    /// For answers, until they are sent.
    pub(super) answers: Arc<Budget>,
    pub(super) counts: ServerCounts,
    further: FurtherRoutes,
}

/// Settings of a [`ReplicaService`].
#[must_use]
pub struct ReplicaServiceBuilder<S> {
    replica: Replica<S>,
    settings: Settings,
    pub(super) further: FurtherRoutes,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    access: Access,
    pub(super) max_body_len: usize,
    max_total_body_len: Option<usize>,
    max_total_answer_len: Option<usize>,
    max_batch: usize,
    pub(super) body_timeout: Duration,
    pub(super) store_timeout: Duration,
}

impl<S: Store> ReplicaService<S> {
    /// A service with the default settings.
    pub fn new(replica: Replica<S>) -> Self {
        Self::builder(replica).build()
    }

    /// The settings of a service.
    pub fn builder(replica: Replica<S>) -> ReplicaServiceBuilder<S> {
        ReplicaServiceBuilder {
            settings: Settings {
                access: Access::open(),
                max_body_len: longest_body(replica.limits()),
                max_total_body_len: None,
                max_total_answer_len: None,
                max_batch: 1024,
                body_timeout: Duration::from_secs(10),
                store_timeout: Duration::from_secs(30),
            },
            replica,
            further: FurtherRoutes::default(),
        }
    }

    /// The replica behind this service.
    pub fn replica(&self) -> &Replica<S> {
        &self.0.replica
    }

    /// Answers a request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<AnswerBody>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let began = Stopwatch::sampled();
        let route = self.0.settings.route(&request, &self.0.further);
        let name = route.as_ref().map_or(RouteName::Other, Route::name);
        let answer = match route {
            Ok(Route::Call) => self.call(request).await,
            Ok(Route::Write) => self.write(request).await,
            Ok(Route::Read) => self.read(request).await,
            Ok(Route::Further(route)) => {
                self.0.settings.ignore_body(request);
                Ok(AnswerBody::of((route.answer)().await))
            }
            Err(problem) => {
                self.0.settings.ignore_body(request);
                Err(problem)
            }
        };
        self.0.counts.answered(name, began);
        answer.unwrap_or_else(|problem| {
            self.0.counts.refused(problem.status());
            problem.into_response()
        })
    }

    async fn call<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let (body, lease) = self.0.read_body(request).await?;
        let (requests, count) = Requests::of(body)
            .map_err(|error| Problem::bad_request(WithCauses(&error).to_string()))?;
        let max = self.0.settings.max_batch;
        if count > max {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("{count} requests in a batch are more than the {max} that are read"),
            ));
        }
        self.0.counts.batch(count);
        let batch = Batch::new(Arc::clone(&self.0), requests, lease);
        let held = batch.held();
        let answer = batch.begin().await;
        let mut answer = answer.into_response(wire::CONTENT_TYPE);
        if let Some(held) = held.filter(Held::is_held) {
            // For the connection, if it is a server's of this crate.
            answer.extensions_mut().insert(held);
        }
        Ok(answer)
    }

    async fn write<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let (body, _lease) = self.0.read_body(request).await?;
        let request = plain::parse_write(&body)?;
        drop(body);
        let response = self.0.answer(&request).await.map_err(Problem::internal)?;
        let answer = plain::write_answer(response)?;
        Ok(AnswerBody::json(answer, None))
    }

    async fn read<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let key = request.uri().path().strip_prefix(READ).unwrap_or_default();
        let read = plain::parse_read(key);
        self.0.settings.ignore_body(request);
        let response = self.0.answer(&read?).await.map_err(Problem::internal)?;
        let answer = plain::read_answer(response)?;
        let len = answer.len();
        let lease = (len > UNCOUNTED).then(|| self.0.answers.try_take(len));
        match lease {
            Some(None) => Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                no_memory(len),
            )),
            lease => Ok(AnswerBody::json(answer, lease.flatten())),
        }
    }

    /// The memory for request bodies.
    pub(super) fn bodies(&self) -> &Arc<Budget> {
        &self.0.bodies
    }

    pub(super) fn counts(&self) -> &ServerCounts {
        &self.0.counts
    }

    /// The memory for answers.
    pub(super) fn answers(&self) -> &Arc<Budget> {
        &self.0.answers
    }
}

impl Settings {
    /// Where a request goes, if it may.
    fn route<'a, B>(
        &self,
        request: &Request<B>,
        further: &'a FurtherRoutes,
    ) -> Result<Route<'a>, Problem> {
        let route = Route::of(request, further)?;
        self.access.check(&route, request)?;
        route.check(request)?;
        Ok(route)
    }
}

impl<S: Store> Inner<S> {
    pub(super) fn ask(&self, request: &kvquorum_core::Request) -> Asking {
        ask(&self.replica, request)
    }

    async fn answer(&self, request: &kvquorum_core::Request) -> Asked {
        self.ask(request).answer(self.settings.store_timeout).await
    }
}

impl<S: Store> ReplicaServiceBuilder<S> {
    /// The secrets of which every request must have one. By default none is
    /// asked for. What has none, or a wrong one, is answered with 401, before
    /// its body is read; only an unknown route, one that is switched off, and a page
    /// of another server are refused before that.
    ///
    /// It stands for all that follow. Of settings for the same route the last holds.
    pub fn tokens(self, tokens: &Tokens) -> Self {
        self.read_tokens(tokens)
            .write_tokens(tokens)
            .replica_tokens(tokens)
    }

    /// The secrets for reading on the plain face, and for [routes](Self::route) of
    /// the application.
    pub fn read_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.read.require(tokens);
        self.route_tokens(tokens)
    }

    /// The secrets for [routes](Self::route) of the application alone, as for a
    /// Prometheus server that is to read no value. It is called after
    /// [`read_tokens`](Self::read_tokens) and [`tokens`](Self::tokens), which set them
    /// too.
    pub fn route_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.further.require(tokens);
        self
    }

    /// The secrets for writing on the plain face.
    pub fn write_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.write.require(tokens);
        self
    }

    /// The secrets for the replica face, and so for coordinators, which
    /// [send](crate::HttpTransportBuilder::tokens) the first of theirs.
    pub fn replica_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.call.require(tokens);
        self
    }

    /// Switches the plain face off: its routes are answered with 404.
    pub fn without_plain_face(mut self) -> Self {
        self.settings.access.read = Admission::Nobody;
        self.settings.access.write = Admission::Nobody;
        self
    }

    /// Switches the replica face off: its route is answered with 404.
    pub fn without_replica_face(mut self) -> Self {
        self.settings.access.call = Admission::Nobody;
        self
    }

    /// A name, without a port, by which the plain face and the application's routes may
    /// be asked where they need no token, at any port. With a port it allows nothing. By default that
    /// is an IP address or `localhost`; what comes by another `Host` is answered
    /// with 421. May be called again, for further names.
    ///
    /// This is for browsers. A web page can have its own server's name lead
    /// here, and then a browser takes the two for one (DNS rebinding). Coordinators
    /// may use any name: what they send is not what a browser sends, unless it
    /// names its page's server as well.
    pub fn allow_host(mut self, name: impl Into<String>) -> Self {
        self.settings.access.hosts.push(name.into());
        self
    }

    /// A server, such as `https://tea.example`, whose pages' requests are taken.
    /// Those of others are answered with 403: where a browser names another
    /// `Origin` than the `Host`, or a `Sec-Fetch-Site` other than `same-origin`
    /// and `none`. May be called again, for further servers.
    ///
    /// It is compared with what a browser sends: the scheme, the name, and the port
    /// unless that is the scheme's own, without a slash at the end. Written otherwise
    /// it allows nothing.
    ///
    /// It is for a proxy that sends what it gets under another `Host`. For
    /// browsers to let a page of another server read answers, the application has
    /// to add the headers of CORS, around this service.
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.settings.access.origins.push(origin.into());
        self
    }

    /// The longest body that is read, in bytes; a longer one is answered with
    /// 413. By default it follows from the replica's limits: the largest value
    /// it admits, its longest key with every byte written as `\u0000`, and
    /// 4 KiB for the rest; and it is at least 1 MiB, for
    /// [batches](crate::HttpTransportBuilder::max_batch_bytes).
    pub fn max_body_len(mut self, max: usize) -> Self {
        self.settings.max_body_len = max;
        self
    }

    /// How many bytes the bodies under way may have together, from when they
    /// are begun to be read until their requests are done. 64 MiB by default,
    /// or sixteen of the [longest](Self::max_body_len) where that is more, and
    /// at most 4 GiB. Where it is less than the longest body, one such body has
    /// all of it.
    ///
    /// A body that is longer than 64 KiB, or of unknown length, waits until
    /// there is room for it. Where there is none within the
    /// [time limit](Self::body_timeout), it is answered with 503. So is a body
    /// that has been arriving for longer than a second while others wait, the
    /// oldest first. A batch whose answers a client of a
    /// [`Server`](crate::Server) has left unread for as long, so that the rest of
    /// its requests cannot begin, has its connection closed. Shorter bodies are
    /// not counted: each connection has at most one.
    pub fn max_total_body_len(mut self, max: usize) -> Self {
        self.settings.max_total_body_len = Some(max);
        self
    }

    /// How many bytes of answers may wait together for their clients to read
    /// them. 64 MiB by default, or sixteen of the [longest](Self::max_body_len)
    /// bodies where that is more, and at most 4 GiB.
    ///
    /// A value that does not fit is not sent: its read is answered as a failure
    /// of the store, or with 503 on the plain face. Then the client that has
    /// kept a [`Server`](crate::Server) waiting for longest, and for longer
    /// than a second, has its connection closed. Up to 128 KiB for each
    /// connection are not counted.
    pub fn max_total_answer_len(mut self, max: usize) -> Self {
        self.settings.max_total_answer_len = Some(max);
        self
    }

    /// How many requests of a coordinator are taken in one exchange; more are
    /// answered with 413. 1024 by default, and at least 1.
    pub fn max_batch(mut self, max: usize) -> Self {
        self.settings.max_batch = max.max(1);
        self
    }

    /// How long a body may take to arrive; a slower one is answered with 408.
    /// 10 seconds by default. A body waits as long at most for
    /// [memory](Self::max_total_body_len) before it is read.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = within_reason(timeout);
        self
    }

    /// How long the store may take for each request; a slower one is answered
    /// for, with 500 on the plain face, and its future dropped. 30 seconds by
    /// default. It keeps a store that hangs from holding connections forever;
    /// the coordinator's time limit is shorter.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.settings.store_timeout = within_reason(timeout);
        self
    }

    /// The service.
    pub fn build(self) -> ReplicaService<S> {
        const TOTAL: usize = 64 * 1024 * 1024;
        let Self {
            replica,
            settings,
            further,
        } = self;
        let total = settings.max_body_len.saturating_mul(16).max(TOTAL);
        ReplicaService(Arc::new(Inner {
            replica,
            bodies: Arc::new(Budget::new(settings.max_total_body_len.unwrap_or(total))),
            answers: Arc::new(Budget::new(settings.max_total_answer_len.unwrap_or(total))),
            counts: ServerCounts::new(),
            further,
            settings,
        }))
    }
}

/// What a body needs at most to carry what the replica admits, on either face,
/// or a batch.
fn longest_body(limits: &Limits) -> usize {
    const ESCAPED: usize = r"\u0000".len();
    const FRAMING: usize = 4 * 1024;
    const BATCH: usize = 1024 * 1024;
    limits
        .max_value_len
        .saturating_add(limits.max_key_len.saturating_mul(ESCAPED))
        .saturating_add(FRAMING)
        .max(BATCH)
}

impl<S, B> Service<Request<B>> for ReplicaService<S>
where
    S: Store,
    B: Body<Data: Send, Error: Error + Send> + Send + Unpin + 'static,
{
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.handle(request).await) })
    }
}

impl<S: Store> From<Replica<S>> for ReplicaService<S> {
    fn from(replica: Replica<S>) -> Self {
        Self::new(replica)
    }
}

// Not derived: a store need not be `Clone`.
impl<S> Clone for ReplicaService<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> std::fmt::Debug for ReplicaService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaService")
            .field("replica", &self.0.replica)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl<S> std::fmt::Debug for ReplicaServiceBuilder<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaServiceBuilder")
            .field("replica", &self.replica)
            .field("settings", &self.settings)
            .finish()
    }
}
