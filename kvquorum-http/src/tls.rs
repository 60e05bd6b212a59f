//! TLS: what either side shows, and whom it trusts.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{
    self, AlertDescription, ClientConfig, InvalidMessage, RootCertStore, ServerConfig,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::reload::Reloaded;
use crate::stream::Stream;
use crate::telemetry::{CertificateExpiry, Expiry, Side};

/// TLS for a [`Server`](crate::Server): its certificate, and whom it lets in.
///
/// It is made of PEM files, or of a configuration of the application's own:
/// `ServerTls::from(Arc<rustls::ServerConfig>)`.
///
/// Files are read again when they change, which is noticed within a second by
/// their time of modification or their length. Change them by renaming new files
/// over them: of one that is rewritten in place, the half that is there may be
/// read. Connections that are there are kept; new ones have the new certificates.
/// Where the files are not usable, as when a certificate has been replaced and its
/// key has not yet been, those read before stay in use.
/// [`refresh`](Self::refresh) tells.
///
/// Once a second at most, one handshake looks at the files, and blocks its thread
/// for as long as the file system takes. Meanwhile others go on with what there is:
/// a file system that hangs blocks one thread.
///
/// Versions 1.3 and 1.2 are spoken. Cloning it counts a reference.
#[derive(Clone)]
pub struct ServerTls(Arc<Reloaded<Arc<ServerConfig>, TlsError>>);

/// TLS for an [`HttpTransport`](crate::HttpTransport): whom it trusts, and what
/// it shows of itself.
///
/// It is made of PEM files, which are read again as those of a [`ServerTls`]
/// are, or of a configuration of the application's own:
/// `ClientTls::from(Arc<rustls::ClientConfig>)`.
#[derive(Clone)]
pub struct ClientTls(Arc<Reloaded<Arc<ClientConfig>, TlsError>>);

/// Why certificates or keys are not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// A file changed whenever they were read.
    #[error("the files change while they are read")]
    Changing,
    /// The file does not hold, in PEM, what it should.
    #[error("{} holds no {what}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why not.
        #[source]
        error: pem::Error,
    },
    /// The certificates or the key are not what they should be, or the one is
    /// not the other's.
    #[error("the certificates or the key cannot be used")]
    Unusable(#[source] rustls::Error),
    /// Clients cannot be told by the certificates that they are to be trusted
    /// for.
    #[error("clients cannot be verified")]
    Verifier(#[source] VerifierBuilderError),
}

impl ServerTls {
    /// With this certificate, followed in its file by those between it and its
    /// root, and its private key.
    ///
    /// # Errors
    ///
    /// Where the files are not usable.
    pub fn from_pem(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::of_files(Identity::new(Side::Server, chain, key), None)
    }

    /// As [`from_pem`](Self::from_pem), and only clients are let in that show a
    /// certificate which one of those in `clients` has signed.
    ///
    /// # Errors
    ///
    /// Where the files are not usable.
    pub fn mutual_from_pem(
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
        clients: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let clients = clients.as_ref().to_owned();
        Self::of_files(Identity::new(Side::Server, chain, key), Some(clients))
    }

    fn of_files(identity: Identity, clients: Option<PathBuf>) -> Result<Self, TlsError> {
        let mut paths = identity.paths();
        paths.extend(clients.clone());
        let load = move || {
            let provider = provider();
            let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Unusable)?;
            let builder = match &clients {
                Some(path) => builder.with_client_cert_verifier(
                    WebPkiClientVerifier::builder_with_provider(roots(path)?.into(), provider)
                        .build()
                        .map_err(TlsError::Verifier)?,
                ),
                None => builder.with_no_client_auth(),
            };
            let mut config = identity.show(|chain, key| builder.with_single_cert(chain, key))?;
            config.alpn_protocols = protocols();
            Ok(Arc::new(config))
        };
        let changing = || TlsError::Changing;
        Ok(Self(Arc::new(Reloaded::new(paths, load, changing)?)))
    }

    /// Reads the files now, where they have changed. It blocks until the file
    /// system answers, and until another look at the files is over.
    ///
    /// # Errors
    ///
    /// Where they are not usable. What they held before stays in use.
    pub fn refresh(&self) -> Result<(), TlsError> {
        self.0.refresh()
    }

    /// The server's side of a handshake. Where it fails, the connection comes
    /// back, with the alert sent.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Stream, (io::Error, TcpStream)> {
        let accept = TlsAcceptor::from(self.0.get()).accept(stream);
        let accepted = accept.into_fallible().await?;
        Ok(Stream::Tls(Box::new(accepted.into())))
    }
}

impl ClientTls {
    /// Trusts replicas whose certificate one of those in this file has signed,
    /// and no others.
    ///
    /// # Errors
    ///
    /// Where the file is not usable.
    pub fn from_pem(replicas: impl AsRef<Path>) -> Result<Self, TlsError> {
        Self::of_files(replicas.as_ref().to_owned(), None)
    }

    /// As [`from_pem`](Self::from_pem), and shows this certificate to replicas
    /// that ask for one: it, followed in its file by those between it and its
    /// root, and its private key.
    ///
    /// # Errors
    ///
    /// Where the files are not usable.
    pub fn mutual_from_pem(
        replicas: impl AsRef<Path>,
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let identity = Identity::new(Side::Client, chain, key);
        Self::of_files(replicas.as_ref().to_owned(), Some(identity))
    }

    fn of_files(replicas: PathBuf, identity: Option<Identity>) -> Result<Self, TlsError> {
        let mut paths = vec![replicas.clone()];
        paths.extend(identity.iter().flat_map(Identity::paths));
        let load = move || {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .map_err(TlsError::Unusable)?
                .with_root_certificates(roots(&replicas)?);
            let mut config = match &identity {
                Some(identity) => {
                    identity.show(|chain, key| builder.with_client_auth_cert(chain, key))?
                }
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = protocols();
            Ok(Arc::new(config))
        };
        let changing = || TlsError::Changing;
        Ok(Self(Arc::new(Reloaded::new(paths, load, changing)?)))
    }

    /// Reads the files now, where they have changed. It blocks until the file
    /// system answers, and until another look at the files is over.
    ///
    /// # Errors
    ///
    /// Where they are not usable. What they held before stays in use.
    pub fn refresh(&self) -> Result<(), TlsError> {
        self.0.refresh()
    }

    /// The client's side of a handshake with the server of this name.
    pub(crate) async fn connect(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> io::Result<Stream> {
        let connector = TlsConnector::from(self.0.get());
        let connected = connector.connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(connected.into())))
    }
}

impl From<Arc<ServerConfig>> for ServerTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(Reloaded::fixed(config)))
    }
}

impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Reloaded::fixed(config)))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// What a side shows of itself, in files.
#[derive(Clone)]
struct Identity {
    chain: PathBuf,
    key: PathBuf,
    expiry: CertificateExpiry,
}

impl Identity {
    fn new(side: Side, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        Self {
            chain: chain.as_ref().to_owned(),
            key: key.as_ref().to_owned(),
            expiry: CertificateExpiry::new(side, chain.as_ref()),
        }
    }

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.chain.clone(), self.key.clone()]
    }

    /// Makes a configuration of what the files hold.
    fn show<C>(
        &self,
        configure: impl FnOnce(
            Vec<CertificateDer<'static>>,
            PrivateKeyDer<'static>,
        ) -> Result<C, rustls::Error>,
    ) -> Result<C, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(pem_error(&self.key, "private key"))?;
        let chain = certificates(&self.chain)?;
        let expiry = Expiry::of(&chain);
        let config = configure(chain, key).map_err(TlsError::Unusable)?;
        self.expiry.set(expiry);
        Ok(config)
    }
}

/// The same whatever else the process uses.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// What is spoken over TLS here (ALPN).
fn protocols() -> Vec<Vec<u8>> {
    vec![b"http/1.1".to_vec()]
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(TlsError::Unusable)?;
    }
    Ok(roots)
}

/// All certificates in a file: one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    certificates
        .and_then(|all| match all.is_empty() {
            true => Err(pem::Error::NoItemsFound),
            false => Ok(all),
        })
        .map_err(pem_error(path, "certificate"))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Read {
        path: path.to_owned(),
        error,
    })
}

fn pem_error(path: &Path, what: &'static str) -> impl FnOnce(pem::Error) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError::Pem { path, what, error }
}

/// Whether a handshake failed because the peer speaks something else.
pub(crate) fn is_not_tls(error: &io::Error) -> bool {
    let invalid = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
    rustls_error(error) == Some(&invalid)
}

/// What a server says that does not take the client's certificate, where that is
/// what a connection failed with. In version 1.3 it says so when the handshake
/// is over for the client, which may have sent a request; but it has not read
/// that.
pub(crate) fn certificate_refused(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let error_within = error.downcast_ref().and_then(rustls_error);
        if let Some(refused @ rustls::Error::AlertReceived(alert)) = error_within {
            return is_of_certificate(*alert).then(|| refused.clone());
        }
        cause = error.source();
    }
    None
}

fn is_of_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            // Of a signature in the handshake.
            | AlertDescription::DecryptError
    )
}

fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
