//! Without the feature `tracing`.

use std::io;

use crate::error::HttpError;

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

    pub(crate) fn is_full(&self, _: usize) {}
}
