//! Without the feature `tracing`.

use std::io;
use std::net::SocketAddr;

use crate::error::HttpError;
use crate::server::ConnectionRefused;

pub(crate) struct ClientEvents;

impl ClientEvents {
    pub(crate) fn new(_: &str) -> Self {
        Self
    }

    pub(crate) fn breaker_opened(&self, _: Option<&HttpError>) {}

    pub(crate) fn breaker_closed(&self) {}
}

pub(crate) struct ServerEvents;

impl ServerEvents {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn not_accepted(&self, _: &io::Error) {}

    pub(crate) fn connection_refused(&self, _: SocketAddr, _: &ConnectionRefused) {}

    pub(crate) fn is_full(&self, _: usize) {}
}
