//! Where a replica listens: `host:port`, or `http://host:port`.

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
}

/// An address that no replica can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The address has a scheme other than `http://`. For TLS, put a
    /// [`Transport`](kvquorum_core::Transport) of your own around your client.
    #[error("the address {0:?} has a scheme other than http://")]
    Scheme(String),
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
        let text = match given.split_once("://") {
            Some(("http", rest)) => rest.strip_suffix('/').unwrap_or(rest),
            Some(_) => return Err(AddressError::Scheme(given.to_owned())),
            None => given,
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
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_host_and_port_with_or_without_the_scheme() {
        for (given, text, host, port) in [
            ("127.0.0.1:3001", "127.0.0.1:3001", "127.0.0.1", 3001),
            ("http://127.0.0.1:3001", "127.0.0.1:3001", "127.0.0.1", 3001),
            ("http://replica-1:80/", "replica-1:80", "replica-1", 80),
            ("[::1]:3001", "[::1]:3001", "::1", 3001),
        ] {
            let address = Address::parse(given).unwrap();
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
        for given in ["https://a:1", "ftp://a:1", "://a:1"] {
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
