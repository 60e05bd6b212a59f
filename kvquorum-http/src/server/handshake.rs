//! A server's side of TLS handshakes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connection::Opened;
use super::refused::{ConnectionRefused, Refusals, TLS_BEGINS};
use crate::stream::Stream;
use crate::time::in_time;
use crate::tls::ServerTls;

/// How long a client may take to read why its handshake has failed. Were the
/// connection closed at once, with bytes from it unread, it might see a reset
/// instead.
const LINGER: Duration = Duration::from_millis(500);

/// What each connection begins with.
pub(super) struct Handshake {
    pub(super) tls: ServerTls,
    pub(super) timeout: Duration,
}

/// What a handshake comes to.
enum Shaken {
    Opened(Opened),
    /// The client has gone without a word.
    Gone,
    Failed(ConnectionRefused, TcpStream),
}

impl Handshake {
    /// A connection on which HTTP is spoken, unless it is refused.
    pub(super) async fn open(
        &self,
        stream: TcpStream,
        client: SocketAddr,
        refusals: &Refusals,
    ) -> Option<Opened> {
        match in_time(self.timeout, self.shake(stream)).await {
            Ok(Shaken::Opened(opened)) => {
                if let Opened::LacksTls(_) = &opened {
                    refusals.tell(client, &ConnectionRefused::NotTls);
                }
                Some(opened)
            }
            Ok(Shaken::Gone) => None,
            Ok(Shaken::Failed(refused, stream)) => {
                refusals.tell(client, &refused);
                let _ = in_time(LINGER, let_read(stream)).await;
                None
            }
            Err(_) => {
                let refused = ConnectionRefused::HandshakeTimedOut(self.timeout);
                refusals.tell(client, &refused);
                None
            }
        }
    }

    async fn shake(&self, stream: TcpStream) -> Shaken {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1..) if first == [TLS_BEGINS] => {}
            Ok(1..) => return Shaken::Opened(Opened::LacksTls(Stream::Plain(stream))),
            Ok(0) | Err(_) => return Shaken::Gone,
        }
        match self.tls.accept(stream).await {
            Ok(stream) => Shaken::Opened(Opened::Served(stream)),
            Err((error, stream)) => Shaken::Failed(ConnectionRefused::Handshake(error), stream),
        }
    }
}

/// Lets the client read what was sent to it last.
async fn let_read(mut stream: TcpStream) {
    let mut ignored = [0; 1024];
    if stream.shutdown().await.is_ok() {
        while let Ok(1..) = stream.read(&mut ignored).await {}
    }
}
