//! One connection, from its first request to its last answer.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use kvquorum_core::Store;
use tokio::sync::watch;
use tokio::time::sleep;

use super::answer::AnswerBody;
use super::eviction::Eviction;
use super::request_line::HadFragment;
use super::service::ReplicaService;
use super::socket::Socket;

/// How long a connection is idle before it may have to make room for another:
/// longer than it takes a client that has just connected, or has just had an
/// answer, to send its request.
const IDLE: Duration = Duration::from_millis(100);

/// How long a connection that has to close may take to send the rest of a head.
const HEAD_GRACE: Duration = Duration::from_millis(250);

/// Answers requests on one connection until either side is done with it.
pub(super) async fn serve<S: Store>(
    http: http1::Builder,
    socket: Socket,
    service: ReplicaService<S>,
    activity: Arc<Activity>,
    idle: Arc<Eviction>,
    mut stopped: watch::Receiver<()>,
) {
    let answer = service_fn(|mut request| {
        let (service, activity, idle) = (&service, &activity, &idle);
        async move {
            let exchange = Exchange::begin(activity);
            if activity.take_fragment() {
                request.extensions_mut().insert(HadFragment);
            }
            let answer = service.handle(request).await;
            let mut answer = answer.map(|body| AnswerUnderWay {
                body,
                _exchange: exchange,
            });
            if idle.is_asked() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = pin!(http.serve_connection(socket, answer));
    // How a connection ends is the client's affair: whatever became of its
    // requests was answered, or cannot be any more.
    tokio::select! {
        biased;
        // First: the connection may always have something to do.
        _ = stopped.changed() => {}
        () = activity.idle_and_asked(&idle) => {}
        _ = connection.as_mut() => return,
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        () = activity.stays_idle() => {}
        _ = connection => {}
    }
}

/// What one connection is at.
#[derive(Default)]
pub(super) struct Activity {
    /// How many exchanges have begun, plus how many have ended.
    exchanges: AtomicUsize,
    /// Whether the client has to read before more can be written.
    is_unread: AtomicBool,
    /// Whether the target of the next request has a fragment.
    has_fragment: AtomicBool,
}

impl Activity {
    /// Even while the connection is idle, odd while a request is under way.
    pub(super) fn exchanges(&self) -> usize {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// The number of the answer that is written last.
    pub(super) fn answer(&self) -> usize {
        self.exchanges().div_ceil(2)
    }

    pub(super) fn set_fragment(&self) {
        self.has_fragment.store(true, Ordering::Relaxed);
    }

    fn take_fragment(&self) -> bool {
        self.has_fragment.load(Ordering::Relaxed)
            && self.has_fragment.swap(false, Ordering::Relaxed)
    }

    pub(super) fn set_unread(&self, is_unread: bool) {
        self.is_unread.store(is_unread, Ordering::Relaxed);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.exchanges().is_multiple_of(2)
    }

    /// Returns once the connection has been idle for a while and has to make
    /// room. It is to be polled whenever the connection is.
    async fn idle_and_asked(&self, idle: &Eviction) {
        loop {
            let seen = self.exchanges();
            let is_past = || self.exchanges() != seen;
            sleep(IDLE).await;
            if is_past() || !self.is_idle() {
                continue;
            }
            tokio::select! {
                biased;
                () = poll_fn(|_| if is_past() { Poll::Ready(()) } else { Poll::Pending }) => {}
                () = idle.asked() => return,
            }
        }
    }

    /// Returns once a connection that has to close goes without a request for a
    /// while: it is in the middle of a head, or has nothing more to come.
    async fn stays_idle(&self) {
        loop {
            sleep(HEAD_GRACE).await;
            if self.is_idle() && !self.is_unread.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// A request under way, until its answer's last byte has been taken.
struct Exchange(Arc<Activity>);

impl Exchange {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.exchanges.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.exchanges.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer's body, and its exchange.
struct AnswerUnderWay {
    body: AnswerBody,
    _exchange: Exchange,
}

impl Body for AnswerUnderWay {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
