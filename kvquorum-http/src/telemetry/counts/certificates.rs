//! When the certificates expire that are shown.

use std::path::Path;

use metrics::{Gauge, Unit, describe_gauge, gauge};
use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

use crate::telemetry::Side;

const EXPIRY: &str = "kvquorum_http_certificate_expiry_timestamp_seconds";

/// Of the certificates in one file.
#[derive(Clone)]
pub(crate) struct CertificateExpiry(Gauge);

/// In seconds since 1970; 0 where it is not known.
#[derive(Clone, Copy)]
pub(crate) struct Expiry(f64);

impl CertificateExpiry {
    pub(crate) fn new(side: Side, file: &Path) -> Self {
        describe_gauge!(
            EXPIRY,
            Unit::Seconds,
            "When the first of the certificates in a file expires, since 1970"
        );
        let side = match side {
            Side::Client => "client",
            Side::Server => "server",
        };
        let file = file.display().to_string();
        Self(gauge!(EXPIRY, "side" => side, "file" => file))
    }

    /// Certificates of this expiry are in use from now on.
    pub(crate) fn set(&self, Expiry(seconds): Expiry) {
        self.0.set(seconds);
    }
}

impl Expiry {
    /// That of the first to expire: peers take none of a chain where one has expired.
    #[allow(clippy::cast_precision_loss, reason = "it is exact for ages")]
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Self {
        let parsed = chain
            .iter()
            .filter_map(|it| parse_x509_certificate(it).ok());
        let ends = parsed.map(|(_, it)| it.validity().not_after.timestamp());
        Self(ends.min().unwrap_or(0) as f64)
    }
}
