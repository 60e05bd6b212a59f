//! Connections that are not served, and why.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::{ServerCounts, ServerEvents};

/// The first byte of TLS, and of nothing that is HTTP.
pub(super) const TLS_BEGINS: u8 = 22;

/// Why a [`Server`](crate::Server) does not serve a connection: what
/// [`ServerBuilder::on_refused`](crate::ServerBuilder::on_refused) is told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionRefused {
    /// The TLS handshake failed. The cause says why: a client's certificate that
    /// is missing or not to be trusted, or what the client does not like about
    /// the server's.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The TLS handshake took too long.
    #[error("the TLS handshake took longer than {0:?}")]
    HandshakeTimedOut(Duration),
    /// The client does not speak TLS, most likely plain HTTP, and the server
    /// does. Its request is answered with 400, in plain HTTP.
    #[error("the client does not speak TLS, which is spoken on this port")]
    NotTls,
    /// The client speaks TLS, and the server plain HTTP.
    #[error("the client speaks TLS, and plain HTTP is spoken on this port")]
    UnexpectedTls,
}

/// Whom to tell of refused connections.
#[derive(Clone, Default)]
pub(super) struct OnRefused(Option<Arc<Tell>>);

type Tell = dyn Fn(SocketAddr, &ConnectionRefused) + Send + Sync;

impl OnRefused {
    pub(super) fn new(
        tell: impl Fn(SocketAddr, &ConnectionRefused) + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(tell)))
    }
}

/// Who hears of refused connections.
pub(super) struct Refusals {
    on_refused: OnRefused,
    counts: ServerCounts,
    pub(super) events: ServerEvents,
}

impl Refusals {
    pub(super) fn new(on_refused: OnRefused, counts: ServerCounts) -> Self {
        Self {
            on_refused,
            counts,
            events: ServerEvents::new(),
        }
    }

    pub(super) fn tell(&self, client: SocketAddr, refused: &ConnectionRefused) {
        self.counts.connection_refused();
        self.events.connection_refused(client, refused);
        if let Some(tell) = &self.on_refused.0 {
            tell(client, refused);
        }
    }
}

impl fmt::Debug for OnRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Some" } else { "None" })
    }
}
