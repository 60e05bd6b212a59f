//! The body of a request, as its connection sees it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::connection::Activity;

/// A body that tells its connection whether some of it is still to come. It may
/// outlive the exchange.
pub(super) struct IncomingBody {
    body: Incoming,
    /// `None` once all of it is there.
    activity: Option<Arc<Activity>>,
}

impl IncomingBody {
    pub(super) fn new(body: Incoming, activity: &Arc<Activity>) -> Self {
        let activity = (!body.is_end_stream()).then(|| Arc::clone(activity));
        if let Some(activity) = &activity {
            activity.set_body_left(true);
        }
        Self { body, activity }
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if (frame.is_none() || self.body.is_end_stream())
            && let Some(activity) = self.activity.take()
        {
            activity.set_body_left(false);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for IncomingBody {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.set_body_given_up();
        }
    }
}
