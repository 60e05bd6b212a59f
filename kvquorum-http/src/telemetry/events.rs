//! With the feature `tracing`.

use std::io;
use std::net::SocketAddr;

use kvquorum_core::EventLimit;
use tracing::{error, info, warn};

use crate::error::HttpError;
use crate::server::ConnectionRefused;
use kvquorum_core::WithCauses;

pub(crate) struct ClientEvents {
    replica: Box<str>,
    opened: EventLimit,
    closed: EventLimit,
}

impl ClientEvents {
    pub(crate) fn new(replica: &str) -> Self {
        Self {
            replica: replica.into(),
            opened: EventLimit::default(),
            closed: EventLimit::default(),
        }
    }

    pub(crate) fn breaker_opened(&self, last: Option<&HttpError>) {
        if let Some(held_back) = self.opened.pass() {
            let error = last.map(|error| WithCauses(error).to_string());
            warn!(
                replica = &*self.replica,
                error, held_back, "the breaker opened: few calls are tried"
            );
        }
    }

    pub(crate) fn breaker_closed(&self) {
        if let Some(held_back) = self.closed.pass() {
            info!(replica = &*self.replica, held_back, "the breaker closed");
        }
    }
}

pub(crate) struct ServerEvents {
    not_accepted: EventLimit,
    is_full: EventLimit,
    /// By their reason.
    refused: [EventLimit; 4],
}

impl ServerEvents {
    pub(crate) fn new() -> Self {
        Self {
            not_accepted: EventLimit::default(),
            is_full: EventLimit::default(),
            refused: Default::default(),
        }
    }

    pub(crate) fn not_accepted(&self, error: &io::Error) {
        if let Some(held_back) = self.not_accepted.pass() {
            error!(%error, held_back, "a connection could not be accepted");
        }
    }

    pub(crate) fn connection_refused(&self, client: SocketAddr, refused: &ConnectionRefused) {
        let reason = match refused {
            ConnectionRefused::Handshake(_) => 0,
            ConnectionRefused::HandshakeTimedOut(_) => 1,
            ConnectionRefused::NotTls => 2,
            ConnectionRefused::UnexpectedTls => 3,
        };
        if let Some(held_back) = self.refused.get(reason).and_then(EventLimit::pass) {
            let error = WithCauses(refused).to_string();
            warn!(%client, error, held_back, "a connection is not served");
        }
    }

    pub(crate) fn is_full(&self, max_connections: usize) {
        if let Some(held_back) = self.is_full.pass() {
            warn!(
                max_connections,
                held_back, "as many connections as are allowed"
            );
        }
    }
}
