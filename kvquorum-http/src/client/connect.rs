//! A new connection to a host, which may have several addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;

use super::dns::Resolver;
use super::security::Security;
use crate::error::HttpError;
use crate::stream::Stream;
use crate::time::in_time;

/// How long an address has to itself before the next is tried beside it: what
/// RFC 8305 recommends.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How many addresses of a host are tried: each may take a socket.
const MOST_ADDRESSES: usize = 16;

/// Opens connections to one host.
pub(crate) struct Connector {
    resolver: Resolver,
    security: Security,
    timeout: Duration,
}

impl Connector {
    pub(crate) fn new(host: &str, port: u16, security: Security, timeout: Duration) -> Self {
        Self {
            resolver: Resolver::new(host, port),
            security,
            timeout,
        }
    }

    pub(crate) async fn connect(&self) -> Result<Stream, HttpError> {
        let connecting = async {
            let socket = self.connect_tcp().await;
            let socket = socket.map_err(|error| HttpError::Connect(Arc::new(error)))?;
            self.security.secure(socket).await
        };
        in_time(self.timeout, connecting)
            .await
            .unwrap_or(Err(HttpError::ConnectTimedOut(self.timeout)))
    }

    async fn connect_tcp(&self) -> io::Result<TcpStream> {
        let addresses = self.resolver.addresses().await?;
        let socket = race(&addresses, self.timeout, ATTEMPT_DELAY).await?;
        // A request is written in one piece; waiting for more to send with it
        // would only delay it.
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// The first connection of those to the first addresses (RFC 8305). Each address is
/// tried as soon as the one before it has failed, or has not answered for this
/// delay, or for less, so that all have been tried well within the time limit.
async fn race(addresses: &[SocketAddr], limit: Duration, delay: Duration) -> io::Result<TcpStream> {
    let count = addresses.len().min(MOST_ADDRESSES);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let share = limit.checked_div(count.saturating_add(1));
    let delay = share.unwrap_or(limit).min(delay);
    let untried = families_in_turn(addresses).into_iter();
    let mut untried = untried.take(MOST_ADDRESSES);
    let mut tried = FuturesUnordered::new();
    let mut error = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    loop {
        if let Some(address) = untried.next() {
            tried.push(TcpStream::connect(address));
        }
        let connected = match in_time(delay, tried.next()).await {
            Ok(connected) => connected,
            Err(_) if untried.len() > 0 => continue,
            Err(_) => tried.next().await,
        };
        match connected {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(failed)) => error = failed,
            None => return Err(error),
        }
    }
}

/// The addresses in the system's order of preference, except that families
/// take turns: where one family goes nowhere, the other is tried second.
fn families_in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let is_first_family = |address: &&SocketAddr| {
        addresses
            .first()
            .is_some_and(|first| first.is_ipv4() == address.is_ipv4())
    };
    let mut first = addresses.iter().filter(is_first_family);
    let mut second = addresses.iter().filter(|address| !is_first_family(address));
    let mut in_turn = Vec::with_capacity(addresses.len());
    while in_turn.len() < addresses.len() {
        in_turn.extend(first.next());
        in_turn.extend(second.next());
    }
    in_turn
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(200);
    const NEVER: Duration = Duration::from_secs(3600);

    /// An address at which connections are left unanswered: a listener whose
    /// queue is full.
    async fn unanswering() -> (SocketAddr, impl Sized) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = timeout(SHORT, TcpStream::connect(address)).await {
            queued.push(stream);
        }
        (address, (listener, queued))
    }

    async fn listening() -> (SocketAddr, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), listener)
    }

    async fn refusing() -> SocketAddr {
        listening().await.0
    }

    /// The first address that did not answer kept all others from being tried,
    /// until the system gave it up after two minutes.
    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_no_other() {
        let (silent, _queue) = unanswering().await;
        let (here, _listener) = listening().await;
        let all = [silent, silent, silent, here];
        let socket = timeout(LIMIT, race(&all, NEVER, SHORT)).await.unwrap();
        assert_eq!(socket.unwrap().peer_addr().unwrap(), here);
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_followed_by_the_next_at_once() {
        let (silent, _queue) = unanswering().await;
        let (here, _listener) = listening().await;
        let gone = refusing().await;
        let all = [gone, gone, here];
        let socket = timeout(LIMIT, race(&all, NEVER, LIMIT)).await.unwrap();
        assert_eq!(socket.unwrap().peer_addr().unwrap(), here);
        // One delay, for the address that says nothing; one for each would be
        // longer than the limit.
        let all = [&[silent][..], &[gone; MOST_ADDRESSES - 2], &[here]].concat();
        let socket = timeout(LIMIT, race(&all, NEVER, LIMIT / 10)).await.unwrap();
        assert_eq!(socket.unwrap().peer_addr().unwrap(), here);
    }

    /// However long the delay.
    #[tokio::test]
    async fn all_addresses_are_tried_within_the_limit() {
        let (silent, _queue) = unanswering().await;
        let (here, _listener) = listening().await;
        let limit = Duration::from_secs(6);
        let all = [silent, silent, here];
        let socket = timeout(limit, race(&all, limit, NEVER)).await.unwrap();
        assert_eq!(socket.unwrap().peer_addr().unwrap(), here);
    }

    #[tokio::test]
    async fn where_all_fail_the_last_failure_is_told() {
        let gone = refusing().await;
        let error = race(&[gone, gone], LIMIT, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = race(&[], LIMIT, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    /// Catches as many sockets at a time as somebody puts addresses under a name.
    #[tokio::test]
    async fn the_first_addresses_alone_are_tried() {
        let (silent, _queue) = unanswering().await;
        let (here, _listener) = listening().await;
        let limit = Duration::from_secs(2);
        let all = [&[silent; MOST_ADDRESSES][..], &[here]].concat();
        assert!(
            timeout(limit, race(&all, limit, ATTEMPT_DELAY))
                .await
                .is_err()
        );
        let all = [&[silent; MOST_ADDRESSES - 1][..], &[here; 100]].concat();
        let socket = timeout(limit, race(&all, limit, ATTEMPT_DELAY))
            .await
            .unwrap();
        assert_eq!(socket.unwrap().peer_addr().unwrap(), here);
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c]: [SocketAddr; 3] =
            ["1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1"].map(|it| it.parse().unwrap());
        let [x, y]: [SocketAddr; 2] = ["[::1]:1", "[::2]:1"].map(|it| it.parse().unwrap());
        assert_eq!(families_in_turn(&[a, b, c, x, y]), [a, x, b, y, c]);
        assert_eq!(families_in_turn(&[x, y, a]), [x, a, y]);
        assert_eq!(families_in_turn(&[a, b]), [a, b]);
    }
}
