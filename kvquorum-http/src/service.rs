//! A replica as an HTTP service: which request goes where, and how long and
//! how large it may be.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper::header::EXPECT;
use hyper::service::Service;
use hyper::{Request, Response, StatusCode};
use kvquorum_core::{Limits, Replica, Store};
use tokio::time::timeout;

use crate::answer::{AnswerBody, BatchAnswer, store_failed, too_slow};
use crate::body::{BodyError, discard, read_whole};
use crate::error::with_causes;
use crate::frames::Requests;
use crate::problem::Problem;
use crate::time::{in_time, within_reason};
use crate::{plain, wire};

/// A replica's two faces as one hyper service: `POST /write` and
/// `GET /read/{key}` for people, and the [replica face](crate::wire) for
/// coordinators.
///
/// [`Server`](crate::Server) serves it on a port of its own. To mount it in a
/// server that the application runs already, hand it to hyper, or call
/// [`handle`](Self::handle) for the routes that belong to it. It needs a tokio
/// runtime with timers.
///
/// Cloning it counts a reference.
///
/// # Promises
///
/// - The requests of a batch are all under way at once, each with a time limit
///   and an answer of its own.
/// - A request is read whole before the replica sees any of it: one that
///   breaks off half-way changes nothing.
/// - Whatever is answered with a status of the 400s has changed nothing.
/// - Where the client goes away while the store is at work, hyper drops the
///   answer's future, and the [`Store`]'s contract says what then holds: the
///   entry is stored, or it is not, and nothing between. A client that closes
///   its half of the connection after its request counts as gone.
/// - Every status but 200 has a JSON body, `{"error": string}`, with all that is
///   known of the cause.
pub struct ReplicaService<S> {
    replica: Arc<Replica<S>>,
    max_body_len: usize,
    max_batch: usize,
    body_time_limit: Duration,
    store_time_limit: Duration,
}

impl<S: Store> ReplicaService<S> {
    /// A service with the default settings.
    pub fn new(replica: impl Into<Arc<Replica<S>>>) -> Self {
        let replica = replica.into();
        Self {
            max_body_len: longest_body(replica.limits()),
            max_batch: 1024,
            body_time_limit: Duration::from_secs(10),
            store_time_limit: Duration::from_secs(30),
            replica,
        }
    }

    /// The longest body that is read, in bytes; a longer one is answered with
    /// 413. By default it follows from the replica's limits: the largest value
    /// it admits, its longest key with every byte written as `\u0000`, and
    /// 4 KiB for the rest; and it is at least 1 MiB, for
    /// [batches](crate::HttpTransportBuilder::max_batch_bytes).
    #[must_use]
    pub fn with_max_body_len(mut self, max: usize) -> Self {
        self.max_body_len = max;
        self
    }

    /// How many requests of a coordinator are taken in one exchange; more are
    /// answered with 413. 1024 by default, and at least 1.
    #[must_use]
    pub fn with_max_batch(mut self, max: usize) -> Self {
        self.max_batch = max.max(1);
        self
    }

    /// How long a body may take to arrive; a slower one is answered with 408.
    /// 10 seconds by default.
    #[must_use]
    pub fn with_body_time_limit(mut self, limit: Duration) -> Self {
        self.body_time_limit = within_reason(limit);
        self
    }

    /// How long the store may take for each request; a slower one is answered
    /// for, with 500 on the plain face, and its future dropped. 30 seconds by
    /// default. It keeps a store that hangs from holding connections forever;
    /// the coordinator's time limit is shorter.
    #[must_use]
    pub fn with_store_time_limit(mut self, limit: Duration) -> Self {
        self.store_time_limit = within_reason(limit);
        self
    }

    /// The replica behind this service.
    pub fn replica(&self) -> &Arc<Replica<S>> {
        &self.replica
    }

    /// Answers a request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<AnswerBody>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let answer = match Route::of(&request) {
            Ok(Route::Call) => self.call(request).await,
            Ok(Route::Write) => self.write(request).await,
            Ok(Route::Read) => self.read(request).await,
            Err(problem) => {
                self.ignore_body(request);
                Err(problem)
            }
        };
        answer.unwrap_or_else(Problem::into_response)
    }

    async fn call<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let body = self.read_body(request).await?;
        let (requests, count) =
            Requests::of(body).map_err(|error| Problem::bad_request(with_causes(&error)))?;
        if count > self.max_batch {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "{count} requests in a batch are more than the {} that are read",
                    self.max_batch
                ),
            ));
        }
        let replica = Arc::clone(&self.replica);
        let batch = BatchAnswer::new(replica, self.store_time_limit, requests);
        Ok(batch.begin().await.into_response())
    }

    async fn write<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let body = self.read_body(request).await?;
        let request = plain::parse_write(&body)?;
        drop(body);
        let response = self.ask(request).await?;
        plain::write_answer(response).map(AnswerBody::json)
    }

    async fn read<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let key = request.uri().path().strip_prefix(READ).unwrap_or_default();
        let read = plain::parse_read(key, request.uri().query());
        self.ignore_body(request);
        let response = self.ask(read?).await?;
        plain::read_answer(response).map(AnswerBody::json)
    }

    async fn read_body<B>(&self, request: Request<B>) -> Result<Bytes, Problem>
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        let asks_first = asks_first(&request);
        let mut body = request.into_body();
        let is_announced = body.size_hint().lower() > self.max_body_len as u64;
        let whole = read_whole(&mut body, self.max_body_len);
        match in_time(self.body_time_limit, whole).await {
            Ok(Ok(whole)) => Ok(whole),
            Ok(Err(BodyError::TooLarge)) => {
                // One that asks first was told to go on as soon as reading
                // began, and it began where nothing was wrong at the outset.
                if !(asks_first && is_announced) {
                    self.let_run_out(body);
                }
                Err(Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!(
                        "the body is longer than the {} bytes that are read",
                        self.max_body_len
                    ),
                ))
            }
            Ok(Err(BodyError::Failed(error))) => Err(Problem::bad_request(format!(
                "the body did not arrive whole: {}",
                with_causes(&error)
            ))),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body did not arrive within {:?}", self.body_time_limit),
            )),
        }
    }

    /// Deals with the body of a request that is answered without it.
    fn ignore_body<B>(&self, request: Request<B>)
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        // A client that asks first sends nothing before it is told to.
        if !asks_first(&request) {
            self.let_run_out(request.into_body());
        }
    }

    /// Takes in the rest of a body. A client that is still sending would see
    /// its connection reset, not its answer, if nobody read it.
    fn let_run_out<B>(&self, body: B)
    where
        B: Body<Data: Send, Error: Error> + Send + Unpin + 'static,
    {
        if !body.is_end_stream() {
            tokio::spawn(timeout(self.body_time_limit, discard(body)));
        }
    }

    async fn ask(
        &self,
        request: kvquorum_core::Request,
    ) -> Result<kvquorum_core::Response, Problem> {
        match in_time(self.store_time_limit, self.replica.handle(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Problem::internal(store_failed(&error))),
            Err(_) => Err(Problem::internal(too_slow(self.store_time_limit))),
        }
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

fn asks_first<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(EXPECT)
}

/// What the path of a read begins with.
const READ: &str = "/read/";

/// Where a request goes.
enum Route {
    Call,
    Write,
    Read,
}

impl Route {
    fn of<B>(request: &Request<B>) -> Result<Self, Problem> {
        let (route, method) = match request.uri().path() {
            wire::CALL_PATH => (Self::Call, "POST"),
            "/write" => (Self::Write, "POST"),
            path if path.starts_with(READ) => (Self::Read, "GET"),
            path => return Err(no_route(path)),
        };
        allow(request, method)?;
        Ok(route)
    }
}

fn allow<B>(request: &Request<B>, allowed: &'static str) -> Result<(), Problem> {
    if request.method().as_str() == allowed {
        return Ok(());
    }
    let (method, path) = (request.method(), request.uri().path());
    Err(Problem::not_allowed(
        format!("{method} is not for {path}, {allowed} is"),
        allowed,
    ))
}

fn no_route(path: &str) -> Problem {
    let version = path
        .strip_prefix("/v")
        .and_then(|rest| rest.split('/').next())
        .filter(|version| !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()));
    let message = match version {
        Some("1") | None => format!(
            "no such route; there are POST /write, GET /read/{{key}} and POST {}",
            wire::CALL_PATH
        ),
        Some(version) => format!(
            "version {version} of the replica protocol is not spoken here, version 1 is: POST {}",
            wire::CALL_PATH
        ),
    };
    Problem::new(StatusCode::NOT_FOUND, message)
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

impl<S: Store> From<Arc<Replica<S>>> for ReplicaService<S> {
    fn from(replica: Arc<Replica<S>>) -> Self {
        Self::new(replica)
    }
}

// Not derived: a store need not be `Clone`.
impl<S> Clone for ReplicaService<S> {
    fn clone(&self) -> Self {
        Self {
            replica: self.replica.clone(),
            ..*self
        }
    }
}

impl<S> std::fmt::Debug for ReplicaService<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaService")
            .field("replica", &self.replica)
            .field("max_body_len", &self.max_body_len)
            .field("max_batch", &self.max_batch)
            .field("body_time_limit", &self.body_time_limit)
            .field("store_time_limit", &self.store_time_limit)
            .finish()
    }
}
