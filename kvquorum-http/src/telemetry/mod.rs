//! What an operator sees: counts and times through the `metrics` facade, events
//! through `tracing`.
//!
//! Here, and nowhere else, the features choose. Without them all of it is empty
//! types and empty functions.

#[cfg(feature = "metrics")]
mod counts;
#[cfg(not(feature = "metrics"))]
#[path = "no_counts.rs"]
mod counts;
#[cfg(feature = "tracing")]
mod events;
#[cfg(not(feature = "tracing"))]
#[path = "no_events.rs"]
mod events;

use counts::ClientCounts;
#[cfg(feature = "tls")]
pub(crate) use counts::{CertificateExpiry, Expiry};
pub(crate) use counts::{ServerCounts, Stopwatch};
use events::ClientEvents;
pub(crate) use events::ServerEvents;

use crate::error::HttpError;

/// Of one transport.
pub(crate) struct ClientTelemetry {
    pub(crate) counts: ClientCounts,
    events: ClientEvents,
}

impl ClientTelemetry {
    pub(crate) fn new(replica: &str) -> Self {
        Self {
            counts: ClientCounts::new(replica),
            events: ClientEvents::new(replica),
        }
    }

    pub(crate) fn breaker_opened(&self, last: Option<&HttpError>) {
        self.counts.breaker_opened();
        self.events.breaker_opened(last);
    }

    pub(crate) fn breaker_closed(&self) {
        self.events.breaker_closed();
    }
}

/// Who shows a certificate.
#[cfg(feature = "tls")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What a server's answers are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteName {
    Call,
    Write,
    Read,
    Other,
}
