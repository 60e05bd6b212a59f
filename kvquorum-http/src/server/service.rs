//! A replica as an HTTP service.

mod builder;

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Body;
use hyper::service::Service;
use hyper::{Request, Response, StatusCode};
use kvquorum_core::{Replica, Store, WithCauses};

pub use self::builder::ReplicaServiceBuilder;
use super::access::Access;
use super::answer::AnswerBody;
use super::ask::{Asked, Asking, ask};
use super::batch::{Batch, no_memory};
use super::budget::{Budget, Held, UNCOUNTED};
use super::further::FurtherRoutes;
use super::plain;
use super::problem::Problem;
use super::route::{READ, Route};
use crate::telemetry::{RouteName, ServerCounts, Stopwatch};
use crate::wire;
use crate::wire::frames::Requests;

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
/// - A replica that is [joining](kvquorum_core::Coordinator::rejoin) answers reads and
///   writes of the plain face with 503, and says why.
/// - A store that fails, panics or takes too long does so for one request. The
///   others of the batch and the connection are not concerned.
/// - Where the client goes away while the store is at work, the future of the
///   request is dropped, and the [`Store`]'s contract says what then holds: the
///   entry is stored, or it is not, and nothing between. A client that closes
///   its half of the connection after its request counts as gone.
/// - A write of the plain face that is stamped before what the replica is
///   [sealed](kvquorum_core::Marks::sealed) up to, or below what is promised under the
///   key, is answered with 409.
/// - Every status but 200 has a JSON body, `{"error": string}`, with all that is
///   known of the cause; with 409 it also has `"from": milliseconds`, the time from which
///   on such a write is taken.
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
        ReplicaServiceBuilder::new(replica)
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
            match problem.is_joining() {
                true => self.0.counts.joining(),
                false => self.0.counts.refused(problem.status()),
            }
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
