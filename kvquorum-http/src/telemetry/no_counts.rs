//! Without the feature `metrics`.

#[cfg(feature = "tls")]
use std::path::Path;

use hyper::StatusCode;
#[cfg(feature = "tls")]
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::RouteName;
#[cfg(feature = "tls")]
use super::Side;
use crate::wire::Reply;

pub(crate) struct ClientCounts;

impl ClientCounts {
    pub(crate) fn new(_: &str) -> Self {
        Self
    }

    pub(crate) fn connected(&self, _: bool) {}

    pub(crate) fn exchange_begins(&self, _: usize) {}

    pub(crate) fn exchange_begun(&self, _: bool) {}

    pub(crate) fn sent_again(&self) {}

    pub(crate) fn queued(&self, _: usize) {}

    pub(crate) fn unqueued(&self, _: usize) {}

    pub(crate) fn breaker_opened(&self) {}
}

#[derive(Clone)]
pub(crate) struct ServerCounts;

impl ServerCounts {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn accepted(&self) -> ConnectionCount {
        ConnectionCount
    }

    pub(crate) fn connection_refused(&self) {}

    pub(crate) fn not_accepted(&self) {}

    pub(crate) fn answered(&self, _: RouteName, _: Stopwatch) {}

    pub(crate) fn refused(&self, _: StatusCode) {}

    pub(crate) fn joining(&self) {}

    pub(crate) fn batch(&self, _: usize) {}

    pub(crate) fn reply(&self, _: &Reply) {}
}

pub(crate) struct ConnectionCount;

#[derive(Clone, Copy)]
pub(crate) struct Stopwatch;

impl Stopwatch {
    pub(crate) fn sampled() -> Self {
        Self
    }
}

#[cfg(feature = "tls")]
#[derive(Clone)]
pub(crate) struct CertificateExpiry;

#[cfg(feature = "tls")]
impl CertificateExpiry {
    pub(crate) fn new(_: Side, _: &Path) -> Self {
        Self
    }

    pub(crate) fn set(&self, _: Expiry) {}
}

#[cfg(feature = "tls")]
#[derive(Clone, Copy)]
pub(crate) struct Expiry;

#[cfg(feature = "tls")]
impl Expiry {
    pub(crate) fn of(_: &[CertificateDer<'_>]) -> Self {
        Self
    }
}
