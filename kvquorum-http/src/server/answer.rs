//! The body of an answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::Response;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::budget::{Lease, leased};
use crate::wire::frames::Frames;
use crate::wire::{EncodeError, Reply};

/// The body of a [`ReplicaService`](crate::ReplicaService)'s answer.
#[derive(Debug)]
pub struct AnswerBody(Inner);

#[derive(Debug)]
enum Inner {
    Whole(Made),
    /// In the making.
    Streamed(UnsyncBoxBody<Bytes, Infallible>),
}

/// What has been made of an answer and not been sent yet, and the memory that
/// was leased for it.
#[derive(Debug, Default)]
pub(super) struct Made {
    frames: Frames,
    lease: Option<Lease>,
}

impl AnswerBody {
    pub(super) fn json(body: Vec<u8>, lease: Option<Lease>) -> Response<Self> {
        let frames = body.into();
        Self::whole(Made { frames, lease }).into_response("application/json")
    }

    /// An answer that the application made.
    pub(super) fn of(answer: Response<Bytes>) -> Response<Self> {
        answer.map(|body| {
            let frames = Vec::from(body).into();
            Self::whole(Made {
                frames,
                lease: None,
            })
        })
    }

    pub(super) fn whole(made: Made) -> Self {
        Self(Inner::Whole(made))
    }

    pub(super) fn streamed(
        body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
    ) -> Self {
        Self(Inner::Streamed(UnsyncBoxBody::new(body)))
    }

    pub(super) fn into_response(self, content_type: &'static str) -> Response<Self> {
        let mut response = Response::new(self);
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Inner::Whole(made) => Poll::Ready(made.pop().map(|piece| Ok(Frame::data(piece)))),
            Inner::Streamed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole(made) => made.is_empty(),
            Inner::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole(made) => SizeHint::with_exact(made.len() as u64),
            Inner::Streamed(body) => body.size_hint(),
        }
    }
}

impl Made {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self {
            frames: Vec::with_capacity(bytes).into(),
            lease: None,
        }
    }

    /// Appends the answer to a request of a batch. Where that fails, nothing is
    /// appended.
    pub(super) fn push(
        &mut self,
        which: u32,
        reply: &Reply,
        lease: Option<Lease>,
    ) -> Result<(), EncodeError> {
        self.frames.push_answer(which, reply)?;
        match (&mut self.lease, lease) {
            (Some(all), Some(more)) => all.merge(more),
            (none, more) => *none = more.or(none.take()),
        }
        Ok(())
    }

    /// Takes the first piece. It keeps its share of the lease until it is sent.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.frames.pop()?;
        let piece = leased(piece, &mut self.lease);
        if self.frames.is_empty() {
            self.lease = None;
        }
        Some(piece)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many bytes.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }
}
