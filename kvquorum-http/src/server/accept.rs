//! Accepting connections, as many as there is room for.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::connection::{Connection, Shared};
use crate::time::in_time;

/// How long to wait for a connection to make room before a further one is asked
/// to: it may take long to leave. Where the system had no file descriptor or no
/// memory for a connection, it may have one again after this time.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves each connection to a listener.
pub(super) struct Acceptor<S> {
    pub(super) listener: TcpListener,
    pub(super) shared: Arc<Shared<S>>,
    pub(super) max_connections: usize,
    pub(super) shutdown_timeout: Duration,
}

/// The connections of a server.
struct Connections<S> {
    shared: Arc<Shared<S>>,
    /// They end with this set.
    tasks: JoinSet<()>,
    /// Changes when the server stops.
    stopped: watch::Receiver<()>,
}

impl<S: Store> Acceptor<S> {
    /// Serves until it is stopped. Returns how many connections were cut.
    pub(super) async fn run(self, stopped: watch::Receiver<()>) -> usize {
        let mut connections = Connections {
            shared: Arc::clone(&self.shared),
            tasks: JoinSet::new(),
            stopped,
        };
        let None = self.accept(&mut connections).await;
        drop(self.listener);
        let mut tasks = connections.tasks;
        let finished = async { while tasks.join_next().await.is_some() {} };
        let _ = in_time(self.shutdown_timeout, finished).await;
        let cut = tasks.len();
        tasks.shutdown().await;
        cut
    }

    /// Accepts connections until the server is stopped: then it returns `None`.
    async fn accept(&self, connections: &mut Connections<S>) -> Option<Infallible> {
        let events = &self.shared.refusals.events;
        loop {
            let accepted = tokio::select! {
                _ = connections.stopped.changed() => return None,
                Some(_) = connections.tasks.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => {
                    if connections.tasks.len() >= self.max_connections {
                        events.is_full(self.max_connections);
                    }
                    while connections.tasks.len() >= self.max_connections {
                        connections.make_room().await?;
                    }
                    connections.serve(stream, client);
                    // It needs nobody's place any more.
                    self.shared.idle.withdraw();
                }
                // That one connection has ended before it was accepted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // The system has no file descriptor or no memory for it, and
                // would say so again at once.
                Err(error) => {
                    self.shared.service.counts().not_accepted();
                    events.not_accepted(&error);
                    connections.make_room().await?;
                }
            }
        }
    }
}

impl<S: Store> Connections<S> {
    fn serve(&mut self, stream: TcpStream, client: SocketAddr) {
        // An answer is written in one piece; waiting for more to send with it
        // would only delay it. Without this it is late, not wrong.
        let _ = stream.set_nodelay(true);
        let connection = Connection {
            shared: Arc::clone(&self.shared),
            stream,
            client,
            stopped: self.stopped.clone(),
        };
        let count = self.shared.service.counts().accepted();
        self.tasks.spawn(async move {
            let _count = count;
            connection.run().await;
        });
    }

    /// Asks a connection to leave, and waits for one that does, for a while.
    /// `None` where the server is stopped.
    async fn make_room(&mut self) -> Option<()> {
        self.shared.idle.ask_one();
        tokio::select! {
            _ = self.stopped.changed() => return None,
            Some(_) = self.tasks.join_next() => self.shared.idle.withdraw(),
            () = sleep(PAUSE) => {}
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use kvquorum_core::{Change, Key, Record, Replica, Response, ScanLimit, StoreError};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::server::eviction::Eviction;
    use crate::server::refused::{OnRefused, Refusals};
    use crate::server::{ReplicaService, Server};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A store that is not asked for anything.
    struct Unasked;

    impl Store for Unasked {
        async fn get(&self, _: &Key) -> Result<Option<Record>, StoreError> {
            std::future::pending().await
        }

        async fn apply(&self, _: &Key, _: Change<'_>) -> Result<Response, StoreError> {
            std::future::pending().await
        }

        async fn scan(
            &self,
            _: (Bound<&Key>, Bound<&Key>),
            _: ScanLimit,
        ) -> Result<Vec<(Key, Record)>, StoreError> {
            std::future::pending().await
        }
    }

    /// Catches a connection that has to leave for one that has a place by now.
    #[tokio::test]
    async fn nobody_leaves_for_a_connection_that_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let service = ReplicaService::new(Replica::new(Unasked).of_new_cluster());
        let shared = Arc::new(Shared {
            http: Server::builder().http(),
            refusals: Refusals::new(OnRefused::default(), service.counts().clone()),
            service,
            write_timeout: LIMIT,
            idle: Eviction::new(),
            #[cfg(feature = "tls")]
            handshake: None,
        });
        // As where the system had no descriptor, and has one again.
        shared.idle.ask_one();
        let acceptor = Acceptor {
            listener,
            shared: Arc::clone(&shared),
            max_connections: 8,
            shutdown_timeout: LIMIT,
        };
        let (stop, stopped) = watch::channel(());
        let running = tokio::spawn(acceptor.run(stopped));

        let mut client = TcpStream::connect(addr).await.unwrap();
        let request = b"GET /none HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = [0; 1024];
        let len = in_time(LIMIT, client.read(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..len.unwrap()]);
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        assert!(!shared.idle.is_asked());
        drop(stop);
        assert_eq!(running.await.unwrap(), 0);
    }
}
