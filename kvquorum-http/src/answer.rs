//! What a replica answers, and how it comes to be while it is sent.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use kvquorum_core::{Replica, Request, Response, Store, StoreError};
use tokio::time::timeout;

use crate::error::with_causes;
use crate::frames::{Frames, Requests};
use crate::wire::Outcome;

/// How much of an answer is made at a time, and then sent before there is more:
/// so much, and one answer frame.
const CHUNK: usize = 64 * 1024;

/// Room for a few answers without values.
const SMALL_ANSWERS: usize = 128;

/// The body of a [`ReplicaService`](crate::ReplicaService)'s answer.
#[derive(Debug)]
pub struct AnswerBody(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Frames),
    /// In the making.
    Streamed(UnsyncBoxBody<Bytes, Infallible>),
}

impl AnswerBody {
    pub(crate) fn json(body: Vec<u8>) -> hyper::Response<Self> {
        of_type("application/json", Self(Inner::Whole(body.into())))
    }

    /// Of a batch.
    pub(crate) fn into_response(self) -> hyper::Response<Self> {
        of_type("application/octet-stream", self)
    }
}

fn of_type(content_type: &'static str, body: AnswerBody) -> hyper::Response<AnswerBody> {
    let mut response = hyper::Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Inner::Whole(frames) => Pin::new(frames).poll_frame(cx),
            Inner::Streamed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(frames) => frames.is_end_stream(),
            Inner::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(frames) => frames.size_hint(),
            Inner::Streamed(body) => body.size_hint(),
        }
    }
}

/// A batch at a replica, whose requests are all under way at once.
///
/// Answers are made as they are asked for: where they are not read, no more
/// are made than fit a chunk, and the requests beyond it wait.
pub(crate) struct BatchAnswer<S> {
    replica: Arc<Replica<S>>,
    store_time_limit: Duration,
    /// Those that have not begun.
    requests: Requests,
    /// Those that were not answered at once, if any.
    under_way: Option<FuturesUnordered<UnderWay>>,
    /// What has been made.
    made: Frames,
}

type UnderWay = Pin<Box<dyn Future<Output = (u32, Outcome)> + Send>>;

impl<S: Store> BatchAnswer<S> {
    pub(crate) fn new(
        replica: Arc<Replica<S>>,
        store_time_limit: Duration,
        requests: Requests,
    ) -> Self {
        Self {
            replica,
            store_time_limit,
            requests,
            under_way: None,
            made: Vec::with_capacity(SMALL_ANSWERS).into(),
        }
    }

    /// Begins with the requests. Where all are answered at once, the body is
    /// whole.
    pub(crate) async fn begin(mut self) -> AnswerBody {
        poll_fn(|cx| {
            self.make(cx);
            Poll::Ready(())
        })
        .await;
        AnswerBody(if self.is_made() {
            Inner::Whole(self.made)
        } else {
            Inner::Streamed(UnsyncBoxBody::new(self))
        })
    }

    /// Makes what can be made now.
    fn make(&mut self, cx: &mut Context<'_>) {
        self.begin_requests(cx);
        while self.made.len() < CHUNK
            && let Some(under_way) = &mut self.under_way
            && let Poll::Ready(Some((which, outcome))) = under_way.poll_next_unpin(cx)
        {
            self.push(which, &outcome);
        }
    }

    fn begin_requests(&mut self, cx: &mut Context<'_>) {
        while self.made.len() < CHUNK {
            let Some((which, request)) = self.requests.next() else {
                return;
            };
            match request {
                Ok(request) => self.begin_request(cx, which, request),
                Err(error) => self.push(which, &Outcome::NotUnderstood(with_causes(&error))),
            }
        }
    }

    fn begin_request(&mut self, cx: &mut Context<'_>, which: u32, request: Request) {
        if let Some(answer) = self.replica.handle_now(&request) {
            return self.push(which, &outcome(answer));
        }
        let replica = Arc::clone(&self.replica);
        let mut asked = Box::pin(async move { replica.handle(request).await });
        if let Poll::Ready(answer) = asked.as_mut().poll(cx) {
            return self.push(which, &outcome(answer));
        }
        let limit = self.store_time_limit;
        let under_way = self.under_way.get_or_insert_default();
        under_way.push(Box::pin(async move {
            let outcome = match timeout(limit, asked).await {
                Ok(answer) => outcome(answer),
                Err(_) => Outcome::StoreFailed(too_slow(limit)),
            };
            (which, outcome)
        }));
    }

    fn push(&mut self, which: u32, outcome: &Outcome) {
        // One that cannot be put into bytes is left out: the coordinator then
        // knows that it had no answer.
        let _ = self.made.push_answer(which, outcome);
    }

    fn is_made(&self) -> bool {
        self.under_way
            .as_ref()
            .is_none_or(FuturesUnordered::is_empty)
            && self.requests.is_empty()
    }
}

impl<S: Store> Body for BatchAnswer<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.made.is_empty() {
            self.make(cx);
        }
        match self.made.pop() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.is_made() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.made.is_empty() && self.is_made()
    }
}

fn outcome(answer: Result<Response, StoreError>) -> Outcome {
    match answer {
        Ok(response) => Outcome::Answered(response),
        Err(error) => Outcome::StoreFailed(store_failed(&error)),
    }
}

/// What is said of a store that failed.
pub(crate) fn store_failed(error: &StoreError) -> String {
    // Whoever reads it knows that it is the store that failed.
    std::error::Error::source(error).map_or_else(|| error.to_string(), with_causes)
}

/// What is said of a store that did not answer in time.
pub(crate) fn too_slow(limit: Duration) -> String {
    format!("the store did not answer within {limit:?}")
}
