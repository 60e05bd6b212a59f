//! The server side: a replica on a port of its own.

mod accept;
mod access;
mod answer;
mod ask;
mod batch;
mod budget;
mod connection;
mod eviction;
mod further;
#[cfg(feature = "tls")]
mod handshake;
mod incoming_body;
mod plain;
mod problem;
mod refused;
mod request_body;
mod request_line;
mod route;
mod service;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use kvquorum_core::Store;
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::answer::AnswerBody;
pub use self::refused::ConnectionRefused;
pub use self::service::{ReplicaService, ReplicaServiceBuilder};

use self::accept::Acceptor;
use self::connection::Shared;
use self::eviction::Eviction;
#[cfg(feature = "tls")]
use self::handshake::Handshake;
use self::refused::{OnRefused, Refusals};
use crate::time::{HEAD_TIMEOUT, within_reason};
#[cfg(feature = "tls")]
use crate::tls::ServerTls;

/// hyper does with no less.
const LEAST_HEAD_LEN: usize = 8 * 1024;

/// What a request has is kept in a map that holds no more.
const MOST_HEADERS: usize = 16 * 1024;

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
    head_timeout: Duration,
    max_head_len: usize,
    max_headers: Option<usize>,
    write_timeout: Duration,
    shutdown_timeout: Duration,
    on_refused: OnRefused,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
    #[cfg(feature = "tls")]
    handshake_timeout: Duration,
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
            head_timeout: HEAD_TIMEOUT,
            max_head_len: 64 * 1024,
            max_headers: None,
            write_timeout: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(10),
            on_refused: OnRefused::default(),
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "tls")]
            handshake_timeout: Duration::from_secs(10),
        }
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops gracefully: closes the port and idle connections at once, and
    /// lets requests under way finish, up to the
    /// [time limit for it](ServerBuilder::shutdown_timeout). Returns how many
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
    /// even where it has sent a part of a head. Where all have requests under
    /// way, the next of them to be answered closes. Those beyond the bound wait
    /// in the system's queue.
    ///
    /// Each connection takes a file descriptor, of which a process may often
    /// have no more than 1024 (`ulimit -n`), those of its store and of its own
    /// connections included. Where the system has none for a further
    /// connection, or no memory, idle connections make room as they do at the
    /// bound. A store may fare worse.
    pub fn max_connections(mut self, max: usize) -> Self {
        self.max_connections = max.max(1);
        self
    }

    /// How long a connection may go without the whole head of a next request,
    /// whether it is idle or in the middle of sending one. Then it is closed.
    /// 30 seconds by default; keep it above the
    /// [clients' idle timeout](crate::HttpTransportBuilder::idle_timeout).
    pub fn head_timeout(mut self, timeout: Duration) -> Self {
        self.head_timeout = within_reason(timeout);
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

    /// How long the server waits for a client to read one answer, all waits
    /// together. Then the connection is closed. 30 seconds by default.
    ///
    /// What fits into the system's buffers is not waited for, nor is the time
    /// counted that the store takes for the rest of a batch. So a client must
    /// read the largest answer that it asks for within this time.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = within_reason(timeout);
        self
    }

    /// How long a [shutdown](Server::shutdown) waits for requests under way.
    /// 10 seconds by default.
    pub fn shutdown_timeout(mut self, timeout: Duration) -> Self {
        self.shutdown_timeout = within_reason(timeout);
        self
    }

    /// Speaks TLS, and nothing else. Takes a [`ServerTls`], or an
    /// `Arc<rustls::ServerConfig>` of the application's own. What is plain HTTP
    /// is answered with 400, whatever it asks for.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: impl Into<ServerTls>) -> Self {
        self.tls = Some(tls.into());
        self
    }

    /// How long a TLS handshake may take. 10 seconds by default.
    ///
    /// A connection whose handshake is not over counts as one that is idle, where
    /// there are [too many](Self::max_connections).
    #[cfg(feature = "tls")]
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = within_reason(timeout);
        self
    }

    /// Calls this for each connection that is not served, with the client's
    /// address and the reason. By default nobody is told.
    ///
    /// It is called in the connection's task, and must not block. Strangers can
    /// make it be called as often as they can connect.
    pub fn on_refused(
        mut self,
        tell: impl Fn(SocketAddr, &ConnectionRefused) + Send + Sync + 'static,
    ) -> Self {
        self.on_refused = OnRefused::new(tell);
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
        let http = self.http();
        let service: ReplicaService<S> = service.into();
        let refusals = Refusals::new(self.on_refused, service.counts().clone());
        let acceptor = Acceptor {
            listener,
            max_connections: self.max_connections,
            shutdown_timeout: self.shutdown_timeout,
            shared: Arc::new(Shared {
                http,
                service,
                write_timeout: self.write_timeout,
                refusals,
                idle: Eviction::new(),
                #[cfg(feature = "tls")]
                handshake: self.tls.map(|tls| Handshake {
                    tls,
                    timeout: self.handshake_timeout,
                }),
            }),
        };
        let task = tokio::spawn(acceptor.run(stopped));
        Ok(Server {
            local_addr,
            stop,
            task: AbortOnDrop(task),
        })
    }

    fn http(&self) -> http1::Builder {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .max_header_size(self.max_head_len)
            // No larger than a head needs: each connection has such a buffer.
            .max_buf_size(self.max_head_len);
        if let Some(max) = self.max_headers {
            http.max_headers(max);
        }
        http
    }
}

/// A task that does not outlive its handle.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<usize>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
