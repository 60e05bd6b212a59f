//! Where a replica listens: `host:port`, `http://host:port` or
//! `https://host:port`.

use hyper::header::HeaderValue;
use hyper::http::uri::Authority;

/// A replica's address, taken apart once.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// `host:port`, as given.
    pub(crate) text: String,
    /// The name or the IP address, without the brackets of IPv6.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What the `Host` header says.
    pub(crate) header: HeaderValue,
    pub(crate) scheme: Option<Scheme>,
}

/// Whether an address says how to speak to the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// An address that no replica can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The address has a scheme other than `http://` and `https://`.
    #[error("the address {0:?} has a scheme other than http:// and https://")]
    Scheme(String),
    /// The address is `https://`, and the transport was not told whom to trust:
    /// see `HttpTransportBuilder::tls`, of the feature `tls`.
    #[error("the address {0:?} is for TLS, and the transport has no settings for that")]
    NoTls(String),
    /// The address is `http://`, and the transport has settings for TLS. Nothing
    /// falls back to plain HTTP.
    #[error("the address {0:?} is for plain HTTP, and the transport has settings for TLS")]
    NotTls(String),
    /// The address has more than a host and a port: a path, a query or a user.
    #[error("the address {0:?} has more than a host and a port")]
    NotOnlyHostAndPort(String),
    /// The address names no port, or port 0.
    #[error("the address {0:?} names no port")]
    NoPort(String),
    /// The address is not `host:port` at all.
    #[error("the address {0:?} is not host:port")]
    Malformed(String),
}

impl Address {
    pub(crate) fn parse(given: &str) -> Result<Self, AddressError> {
        let (scheme, text) = match given.split_once("://") {
            Some(("http", rest)) => (Some(Scheme::Http), rest),
            Some(("https", rest)) => (Some(Scheme::Https), rest),
            Some(_) => return Err(AddressError::Scheme(given.to_owned())),
            None => (None, given),
        };
        let text = match scheme {
            Some(_) => text.strip_suffix('/').unwrap_or(text),
            None => text,
        };
        if text.contains(['/', '?', '#', '@']) {
            return Err(AddressError::NotOnlyHostAndPort(given.to_owned()));
        }
        let malformed = || AddressError::Malformed(given.to_owned());
        let authority: Authority = text.parse().map_err(|_| malformed())?;
        let host = authority.host();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(malformed());
        }
        let port = authority.port_u16().filter(|port| *port != 0);
        Ok(Self {
            text: text.to_owned(),
            host: host.to_owned(),
            port: port.ok_or_else(|| AddressError::NoPort(given.to_owned()))?,
            header: HeaderValue::from_str(text).map_err(|_| malformed())?,
            scheme,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_host_and_port_with_or_without_the_scheme() {
        let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
        for (given, scheme, text, host, port) in [
            ("127.0.0.1:3001", None, "127.0.0.1:3001", "127.0.0.1", 3001),
            (
                "http://10.0.0.7:3001",
                http,
                "10.0.0.7:3001",
                "10.0.0.7",
                3001,
            ),
            (
                "http://replica-1:80/",
                http,
                "replica-1:80",
                "replica-1",
                80,
            ),
            (
                "https://replica-1:443/",
                https,
                "replica-1:443",
                "replica-1",
                443,
            ),
            ("[::1]:3001", None, "[::1]:3001", "::1", 3001),
        ] {
            let address = Address::parse(given).unwrap();
            assert_eq!(address.scheme, scheme);
            assert_eq!(address.text, text);
            assert_eq!(address.host, host);
            assert_eq!(address.port, port);
            assert_eq!(address.header, text);
        }
    }

    #[test]
    fn says_what_is_wrong_with_an_address() {
        let refused = |given: &str| Address::parse(given).unwrap_err();
        let own = |given: &str| given.to_owned();
        for given in ["httpss://a:1", "ftp://a:1", "://a:1"] {
            assert_eq!(refused(given), AddressError::Scheme(own(given)));
        }
        for given in ["http://a:1/map", "a:1/", "a:1?x", "me@a:1"] {
            assert_eq!(refused(given), AddressError::NotOnlyHostAndPort(own(given)));
        }
        for given in ["a", "http://a", "a:0", "127.0.0.1", "[::1]"] {
            assert_eq!(refused(given), AddressError::NoPort(own(given)));
        }
        for given in [
            "", ":3001", "a b:1", "a:port", "a:65536", "http://", "::1:3001",
        ] {
            let error = refused(given);
            assert!(
                matches!(error, AddressError::Malformed(_) | AddressError::NoPort(_)),
                "{given:?}: {error:?}"
            );
        }
    }
}
