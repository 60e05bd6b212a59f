//! Whether connections have TLS, and how they come to it.

use std::error::Error;
#[cfg(feature = "tls")]
use std::io;
#[cfg(feature = "tls")]
use std::sync::Arc;

use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::rustls::{self, CertificateError, pki_types::ServerName};

use super::address::{Address, AddressError, Scheme};
#[cfg(feature = "tls")]
use super::peer_text::fit_to_print;
use crate::error::HttpError;
use crate::stream::Stream;
#[cfg(feature = "tls")]
use crate::tls::{self, ClientTls};

/// What connections to a replica have.
pub(crate) enum Security {
    Plain,
    /// TLS with the server of this name.
    #[cfg(feature = "tls")]
    Tls(ClientTls, ServerName<'static>),
}

impl Security {
    /// That of an address without TLS settings.
    pub(crate) fn plain(address: &Address) -> Result<Self, AddressError> {
        match address.scheme {
            Some(Scheme::Https) => Err(AddressError::NoTls(address.text.clone())),
            Some(Scheme::Http) | None => Ok(Self::Plain),
        }
    }

    /// That of an address with TLS settings.
    #[cfg(feature = "tls")]
    pub(crate) fn tls(address: &Address, tls: ClientTls) -> Result<Self, AddressError> {
        if address.scheme == Some(Scheme::Http) {
            return Err(AddressError::NotTls(address.text.clone()));
        }
        let name = ServerName::try_from(address.host.clone());
        let name = name.map_err(|_| AddressError::Malformed(address.text.clone()))?;
        Ok(Self::Tls(tls, name))
    }

    /// A connection on which HTTP can be spoken.
    #[allow(clippy::unused_async, reason = "TLS waits for the peer")]
    pub(crate) async fn secure(&self, socket: TcpStream) -> Result<Stream, HttpError> {
        match self {
            Self::Plain => Ok(Stream::Plain(socket)),
            #[cfg(feature = "tls")]
            Self::Tls(tls, name) => {
                let connected = tls.connect(name.clone(), socket).await;
                connected.map_err(|error| match tls::is_not_tls(&error) {
                    true => HttpError::NotTls,
                    false => HttpError::Handshake(Arc::new(with_fit_names(error))),
                })
            }
        }
    }
}

/// The same, with the names in the peer's certificate made fit to print: they are
/// the one thing in it that a peer has written.
#[cfg(feature = "tls")]
fn with_fit_names(error: io::Error) -> io::Error {
    let within = error.get_ref().and_then(|it| it.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
        expected,
        presented,
    })) = within
    else {
        return error;
    };
    if presented.is_empty() {
        return error;
    }
    let fit = CertificateError::NotValidForNameContext {
        expected: expected.clone(),
        presented: vec![fit_to_print(&presented.join(", "))],
    };
    io::Error::new(error.kind(), rustls::Error::InvalidCertificate(fit))
}

/// Why the peer does not take the certificate, where that is what a connection
/// failed with. Then it has read no request.
pub(crate) fn refused_certificate(error: &(dyn Error + 'static)) -> Option<HttpError> {
    #[cfg(feature = "tls")]
    if let Some(refused) = tls::certificate_refused(error) {
        let refused = io::Error::other(refused);
        return Some(HttpError::Handshake(Arc::new(refused)));
    }
    #[cfg(not(feature = "tls"))]
    let _ = error;
    None
}
