//! One connection, from its first request to its last answer.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use kvquorum_core::Store;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;

use super::answer::AnswerBody;
use super::budget::Held;
use super::eviction::Eviction;
#[cfg(feature = "tls")]
use super::handshake::Handshake;
use super::incoming_body::IncomingBody;
use super::problem::Problem;
use super::refused::{ConnectionRefused, Refusals};
use super::request_line::HadFragment;
use super::service::ReplicaService;
use super::socket::Socket;
use crate::stream::Stream;

/// How long a connection is idle before it may have to make room for another:
/// longer than it takes a client that has just connected, or has just had an
/// answer, to send its request.
const IDLE: Duration = Duration::from_millis(100);

/// How long a connection that has to close may take to send the rest of a head.
const HEAD_GRACE: Duration = Duration::from_millis(250);

/// What the connections of a server share.
pub(super) struct Shared<S> {
    pub(super) http: http1::Builder,
    pub(super) service: ReplicaService<S>,
    pub(super) write_timeout: Duration,
    pub(super) refusals: Refusals,
    /// Those that have been idle for a while.
    pub(super) idle: Eviction,
    /// `None` where plain HTTP is spoken.
    #[cfg(feature = "tls")]
    pub(super) handshake: Option<Handshake>,
}

/// One connection.
pub(super) struct Connection<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) stream: TcpStream,
    pub(super) client: SocketAddr,
    /// Changes when the server stops.
    pub(super) stopped: watch::Receiver<()>,
}

/// A connection on which HTTP is spoken.
pub(super) enum Opened {
    Served(Stream),
    /// Without TLS, which it should have. That is all that it is told.
    #[cfg(feature = "tls")]
    LacksTls(Stream),
}

impl<S: Store> Connection<S> {
    /// Answers requests until either side is done with it.
    pub(super) async fn run(self) {
        let Self {
            shared,
            stream,
            client,
            mut stopped,
        } = self;
        let activity = Arc::new(Activity::default());
        #[cfg(feature = "tls")]
        let opened = match &shared.handshake {
            None => Some(Opened::Served(Stream::Plain(stream))),
            Some(handshake) => tokio::select! {
                biased;
                _ = stopped.changed() => None,
                () = activity.idle_and_asked(&shared.idle) => None,
                opened = handshake.open(stream, client, &shared.refusals) => opened,
            },
        };
        #[cfg(not(feature = "tls"))]
        let opened = Some(Opened::Served(Stream::Plain(stream)));
        if let Some(opened) = opened {
            shared.serve(opened, &activity, &mut stopped).await;
        }
        if activity.began_tls() {
            let refused = ConnectionRefused::UnexpectedTls;
            shared.refusals.tell(client, &refused);
        }
    }
}

impl<S: Store> Shared<S> {
    async fn serve(
        &self,
        opened: Opened,
        activity: &Arc<Activity>,
        stopped: &mut watch::Receiver<()>,
    ) {
        let (service, stream) = match opened {
            Opened::Served(stream) => (Some(&self.service), stream),
            #[cfg(feature = "tls")]
            Opened::LacksTls(stream) => (None, stream),
        };
        let socket = Socket::new(
            stream,
            self.write_timeout,
            Arc::clone(activity),
            Arc::clone(self.service.bodies()),
            Arc::clone(self.service.answers()),
        );
        let answer = service_fn(|request| self.answer(service, request, activity));
        let mut connection = pin!(self.http.serve_connection(socket, answer));
        // How a connection ends is the client's affair: whatever became of its
        // requests was answered, or cannot be any more.
        tokio::select! {
            biased;
            // First: the connection may always have something to do.
            _ = stopped.changed() => {}
            () = activity.idle_and_asked(&self.idle) => {}
            _ = connection.as_mut() => return,
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            biased;
            () = activity.stays_idle() => {}
            _ = connection => {}
        }
    }

    /// The answer to a request: where no service is to have it, that TLS is
    /// needed.
    async fn answer(
        &self,
        service: Option<&ReplicaService<S>>,
        request: Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> Result<Response<AnswerUnderWay>, Infallible> {
        let exchange = Exchange::begin(activity);
        let mut request = request.map(|body| IncomingBody::new(body, activity));
        if activity.take_fragment() {
            request.extensions_mut().insert(HadFragment);
        }
        let answer = match service {
            Some(service) => service.handle(request).await,
            None => Problem::lacks_tls().into_response(),
        };
        let (mut head, body) = answer.into_parts();
        if let Some(held) = head.extensions.remove() {
            activity.set_held_body(held);
        }
        let answer = Response::from_parts(head, body);
        let mut answer = answer.map(|body| AnswerUnderWay {
            body,
            _exchange: exchange,
        });
        if service.is_none() || activity.is_body_given_up() || self.idle.is_asked() {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
        Ok(answer)
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
    /// Whether some of a request's body is still to come.
    is_body_left: AtomicBool,
    /// Whether nobody waits for the rest of it. Then it is not known where the
    /// next request begins.
    is_body_given_up: AtomicBool,
    /// Whether the client began with what is TLS where HTTP is spoken.
    began_tls: AtomicBool,
    /// The memory of the last request's body.
    held_body: Mutex<Held>,
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

    pub(super) fn take_fragment(&self) -> bool {
        self.has_fragment.load(Ordering::Relaxed)
            && self.has_fragment.swap(false, Ordering::Relaxed)
    }

    pub(super) fn set_body_left(&self, is_left: bool) {
        self.is_body_left.store(is_left, Ordering::Relaxed);
    }

    pub(super) fn is_body_left(&self) -> bool {
        self.is_body_left.load(Ordering::Relaxed)
    }

    pub(super) fn set_body_given_up(&self) {
        self.is_body_given_up.store(true, Ordering::Relaxed);
    }

    fn is_body_given_up(&self) -> bool {
        self.is_body_given_up.load(Ordering::Relaxed)
    }

    pub(super) fn set_began_tls(&self) {
        self.began_tls.store(true, Ordering::Relaxed);
    }

    fn began_tls(&self) -> bool {
        self.began_tls.load(Ordering::Relaxed)
    }

    pub(super) fn set_unread(&self, is_unread: bool) {
        self.is_unread.store(is_unread, Ordering::Relaxed);
    }

    fn set_held_body(&self, held: Held) {
        *self
            .held_body
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = held;
    }

    /// Whether requests that have not been answered hold memory of a body.
    pub(super) fn holds_body(&self) -> bool {
        let held = self.held_body.lock();
        held.unwrap_or_else(PoisonError::into_inner).is_held()
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
