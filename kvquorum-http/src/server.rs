//! A replica on a port of its own.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use kvquorum_core::Store;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::answer::AnswerBody;
use crate::service::ReplicaService;
use crate::socket::Socket;
use crate::time::within_reason;

/// hyper does with no less.
const LEAST_HEAD_LEN: usize = 8 * 1024;

/// What a request has is kept in a map that holds no more.
const MOST_HEADERS: usize = 16 * 1024;

/// How long a connection is idle before it may have to make room for another:
/// longer than it takes a client that has just connected, or has just had an
/// answer, to send its request.
const IDLE_FOR_A_WHILE: Duration = Duration::from_millis(100);

/// By default; clients close what is idle before that.
pub(crate) const HEAD_TIME_LIMIT: Duration = Duration::from_secs(30);

/// How long to wait after the system had no file descriptor or no memory for
/// a new connection: it may have one again when another connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running server: a [`ReplicaService`] over HTTP/1.1 on a port of its own.
///
/// Dropping it stops it at once: the port is closed, and connections are cut
/// whatever they are at. [`shutdown`](Self::shutdown) lets them finish.
#[derive(Debug)]
#[must_use = "dropping the server stops it"]
pub struct Server {
    local_addr: SocketAddr,
    /// Dropped to ask for a graceful end.
    stop: watch::Sender<()>,
    task: AbortOnDrop,
}

/// Settings of a [`Server`]. Those of what it serves are on
/// [`ReplicaService`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerBuilder {
    max_connections: usize,
    head_time_limit: Duration,
    max_head_len: usize,
    max_headers: Option<usize>,
    write_time_limit: Duration,
    shutdown_time_limit: Duration,
}

impl Server {
    /// Serves a replica on this address, with the default settings. Port 0
    /// stands for any free port: see [`local_addr`](Self::local_addr).
    ///
    /// Takes a [`Replica`](kvquorum_core::Replica), one in an
    /// [`Arc`](std::sync::Arc), or a [`ReplicaService`] with settings. It must
    /// be called on a tokio runtime with I/O and timers, and serves there.
    ///
    /// # Errors
    ///
    /// Where the address cannot be listened on.
    pub async fn bind<S: Store>(
        address: impl ToSocketAddrs,
        service: impl Into<ReplicaService<S>>,
    ) -> io::Result<Self> {
        Self::builder().bind(address, service).await
    }

    /// The settings of a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            max_connections: 512,
            head_time_limit: HEAD_TIME_LIMIT,
            max_head_len: 64 * 1024,
            max_headers: None,
            write_time_limit: Duration::from_secs(30),
            shutdown_time_limit: Duration::from_secs(10),
        }
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops gracefully: closes the port and idle connections at once, and
    /// lets requests under way finish, up to the
    /// [time limit for it](ServerBuilder::shutdown_time_limit). Returns how many
    /// connections had to be cut then.
    ///
    /// Dropping the future before it is done cuts them at once.
    pub async fn shutdown(self) -> usize {
        let Self { stop, mut task, .. } = self;
        drop(stop);
        // It ends early only together with its runtime.
        (&mut task.0).await.unwrap_or(0)
    }
}

impl ServerBuilder {
    /// How many connections are served at once. 512 by default, and at least
    /// 1.
    ///
    /// A further one makes the connection that has been idle for longest close,
    /// and where all have requests under way, the next of them to be answered.
    /// Those beyond it wait in the system's queue.
    ///
    /// Each connection takes a file descriptor, of which a process may often
    /// have no more than 1024 (`ulimit -n`), those of its store and of its own
    /// connections included. With too few, connections wait longer, and nothing
    /// else happens to them; a store may fare worse.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max.max(1);
        self
    }

    /// How long a connection may go without the whole head of a next request,
    /// whether it is idle or in the middle of sending one. Then it is closed.
    /// 30 seconds by default; keep it above the
    /// [clients' idle time limit](crate::HttpTransportBuilder::idle_time_limit).
    pub fn head_time_limit(mut self, limit: Duration) -> Self {
        self.head_time_limit = within_reason(limit);
        self
    }

    /// The longest head of a request, in bytes; a longer one is answered with
    /// 431. 64 KiB by default, and at least 8 KiB. Keys to be read are part of
    /// it, percent-encoded.
    pub fn max_head_len(mut self, max: usize) -> Self {
        self.max_head_len = max.max(LEAST_HEAD_LEN);
        self
    }

    /// The most headers of a request; more are answered with 431. 100 by
    /// default, and at most 16384.
    pub fn max_headers(mut self, max: usize) -> Self {
        self.max_headers = Some(max.min(MOST_HEADERS));
        self
    }

    /// How long a client may take to read a response, as far as that does not
    /// fit into the system's buffers. Then the connection is closed. 30 seconds
    /// by default.
    pub fn write_time_limit(mut self, limit: Duration) -> Self {
        self.write_time_limit = within_reason(limit);
        self
    }

    /// How long a [shutdown](Server::shutdown) waits for requests under way.
    /// 10 seconds by default.
    pub fn shutdown_time_limit(mut self, limit: Duration) -> Self {
        self.shutdown_time_limit = within_reason(limit);
        self
    }

    /// As [`Server::bind`], with these settings.
    ///
    /// # Errors
    ///
    /// Where the address cannot be listened on.
    pub async fn bind<S: Store>(
        self,
        address: impl ToSocketAddrs,
        service: impl Into<ReplicaService<S>>,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(address).await?;
        let local_addr = listener.local_addr()?;
        let (stop, stopped) = watch::channel(());
        let task = tokio::spawn(self.serve(listener, service.into(), stopped));
        Ok(Server {
            local_addr,
            stop,
            task: AbortOnDrop(task),
        })
    }

    /// Serves until it is stopped. Returns how many connections were cut.
    async fn serve<S: Store>(
        self,
        listener: TcpListener,
        service: ReplicaService<S>,
        mut stopped: watch::Receiver<()>,
    ) -> usize {
        let http = self.http();
        let leave = Arc::new(Leave::new());
        // They end with this set, and so with this task.
        let mut connections = JoinSet::new();
        'serving: loop {
            let stream = tokio::select! {
                _ = stopped.changed() => break,
                Some(_) = connections.join_next() => continue,
                stream = accept(&listener) => stream,
            };
            while connections.len() >= self.max_connections {
                leave.ask_one();
                tokio::select! {
                    _ = stopped.changed() => break 'serving,
                    Some(_) = connections.join_next() => leave.ask_no_more(),
                    // Whoever it was takes long to leave: its answer may be
                    // slow to be read.
                    () = sleep(IDLE_FOR_A_WHILE) => {}
                }
            }
            let socket = Socket::new(stream, self.write_time_limit);
            let visit = Arc::new(Visit {
                leave: leave.clone(),
                turns: AtomicUsize::new(0),
            });
            let stopped = stopped.clone();
            connections.spawn(converse(
                http.clone(),
                socket,
                service.clone(),
                visit,
                stopped,
            ));
        }
        drop(listener);
        let finished = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(self.shutdown_time_limit, finished).await;
        let cut = connections.len();
        connections.shutdown().await;
        cut
    }

    fn http(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.head_time_limit)
            .max_header_size(self.max_head_len);
        if let Some(max) = self.max_headers {
            http.max_headers(max);
        }
        http
    }
}

/// The next connection. Errors are the system's, and pass.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A response is written in one piece; waiting for more to send
                // with it would only delay it. Without this it is late, not
                // wrong.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            // That one connection has ended before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            // Accepting again at once would fail again, and again.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Asks connections to make room for another, where there are too many.
struct Leave {
    /// A permit for each connection that is to leave. The semaphore hands them
    /// out in the order in which they are waited for, so that the connection
    /// that has been idle for longest is the first to go.
    asked: Semaphore,
}

impl Leave {
    fn new() -> Self {
        Self {
            asked: Semaphore::new(0),
        }
    }

    /// The next to hear it leaves.
    fn ask_one(&self) {
        if self.asked.available_permits() == 0 {
            self.asked.add_permits(1);
        }
    }

    fn ask_no_more(&self) {
        self.asked.forget_permits(usize::MAX);
    }

    /// Returns when the one who waits has to leave. Never closed.
    async fn heard(&self) {
        if let Ok(asked) = self.asked.acquire().await {
            asked.forget();
        }
    }

    /// Whether the one who asks has to leave, with nobody waiting to do so.
    fn is_heard(&self) -> bool {
        self.asked.try_acquire().map(|asked| asked.forget()).is_ok()
    }
}

/// What one connection is at.
struct Visit {
    leave: Arc<Leave>,
    /// Even while the connection is idle, odd while a request is under way.
    turns: AtomicUsize,
}

impl Visit {
    /// Returns once the connection has been idle for a while and has to make
    /// room. It is to be polled whenever the connection has been.
    async fn outstayed(&self) {
        loop {
            let turn = self.turns.load(Ordering::Relaxed);
            let goes_on = || self.turns.load(Ordering::Relaxed) != turn;
            sleep(IDLE_FOR_A_WHILE).await;
            if goes_on() || turn % 2 == 1 {
                continue;
            }
            tokio::select! {
                biased;
                () = poll_fn(|_| if goes_on() { Poll::Ready(()) } else { Poll::Pending }) => {}
                () = self.leave.heard() => return,
            }
        }
    }
}

/// A request under way, until its answer's last byte has been taken.
struct Turn(Arc<Visit>);

impl Turn {
    fn begin(visit: &Arc<Visit>) -> Self {
        visit.turns.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(visit))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// An answer's body, and its turn.
struct AnswerUnderWay {
    body: AnswerBody,
    _turn: Turn,
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

/// Answers requests on one connection until either side is done with it.
async fn converse<S: Store>(
    http: http1::Builder,
    socket: Socket,
    service: ReplicaService<S>,
    visit: Arc<Visit>,
    mut stopped: watch::Receiver<()>,
) {
    let answer = service_fn(|request| {
        let (service, visit) = (&service, &visit);
        async move {
            let turn = Turn::begin(visit);
            let mut response = service
                .handle(request)
                .await
                .map(|body| AnswerUnderWay { body, _turn: turn });
            if visit.leave.is_heard() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(http.serve_connection(socket, answer));
    // How a connection ends is the client's affair: whatever became of its
    // requests was answered, or cannot be any more.
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = stopped.changed() => {}
        () = visit.outstayed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// A task that does not outlive its handle.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<usize>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
