//! When certificates expire, as it is told.

use kvquorum_http::{ClientTls, ServerTls, TlsError};
use kvquorum_testing::Recorded;
use rcgen::date_time_ymd;

use crate::authority::{Authority, copy, rewrite};

const EXPIRY: &str = "kvquorum_http_certificate_expiry_timestamp_seconds";

/// The beginning of a year.
fn seconds(year: i32) -> f64 {
    let seconds = date_time_ymd(year, 1, 1).unix_timestamp();
    f64::from(u32::try_from(seconds).unwrap())
}

/// Bugs: it is that of the first in the file, and not that of the first to expire; a
/// renewed certificate is not told of, or one that is not in use yet is; one side is
/// taken for the other.
#[test]
#[allow(clippy::float_cmp, reason = "whole seconds")]
fn when_certificates_expire_is_told() {
    let authority = Authority::new();
    for side in ["server", "client"] {
        let [shown, between, renewed] =
            [2041, 2040, 2042].map(|year| authority.sign_until("127.0.0.1", year));
        let chain = [&shown, &between].map(|it| std::fs::read(&it.chain).unwrap());
        rewrite(&shown.chain, chain.concat());
        let (refresh, recorded) = Recorded::of(|| -> Box<dyn Fn() -> Result<(), TlsError>> {
            if side == "server" {
                let tls = ServerTls::from_pem(&shown.chain, &shown.key).unwrap();
                return Box::new(move || tls.refresh());
            }
            let tls = ClientTls::mutual_from_pem(authority.file(), &shown.chain, &shown.key);
            let tls = tls.unwrap();
            Box::new(move || tls.refresh())
        });
        let file = shown.chain.to_str().unwrap();
        // All that was told so far, added up.
        let told = || recorded.sum(EXPIRY, &[("side", side), ("file", file)]);
        assert_eq!(told(), seconds(2040));
        copy(&renewed.chain, &shown.chain);
        assert!(matches!(refresh(), Err(TlsError::Unusable(_))));
        assert_eq!(told(), seconds(2040));
        copy(&renewed.key, &shown.key);
        refresh().unwrap();
        assert_eq!(told(), seconds(2040) + seconds(2042));
    }
}

/// Bug: a client tells when the authorities expire that it trusts, which it does not show.
#[test]
fn who_shows_no_certificate_tells_of_none() {
    let authority = Authority::new();
    let (_tls, recorded) = Recorded::of(|| ClientTls::from_pem(authority.file()).unwrap());
    assert!(!recorded.names().contains_key(EXPIRY));
}
