//! Whether connections have TLS, and how they come to it.

use std::error::Error;
#[cfg(feature = "tls")]
use std::sync::Arc;

use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::rustls::pki_types::ServerName;

use super::address::{Address, AddressError, Scheme};
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
                    false => HttpError::Handshake(Arc::new(error)),
                })
            }
        }
    }
}

/// Why the peer does not take the certificate, where that is what a connection
/// failed with. Then it has read no request.
pub(crate) fn refused_certificate(error: &(dyn Error + 'static)) -> Option<HttpError> {
    #[cfg(feature = "tls")]
    if let Some(refused) = tls::certificate_refused(error) {
        let refused = std::io::Error::other(refused);
        return Some(HttpError::Handshake(Arc::new(refused)));
    }
    #[cfg(not(feature = "tls"))]
    let _ = error;
    None
}
