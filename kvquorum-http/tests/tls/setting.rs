//! A server that writes down what it refuses.

use std::sync::{Arc, Mutex};

use kvquorum_core::{Replica, WithCauses};
use kvquorum_http::rustls::crypto::ring;
use kvquorum_http::rustls::pki_types::pem::PemObject;
use kvquorum_http::rustls::pki_types::{CertificateDer, ServerName};
use kvquorum_http::rustls::{ClientConfig, RootCertStore};
use kvquorum_http::{ClientTls, HttpTransport, Server, ServerBuilder, ServerTls};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::authority::{Authority, Signed};
use crate::common::*;

pub(crate) struct Setting {
    pub(crate) server: Server,
    pub(crate) store: TestStore,
    refused: Refused,
}

/// What was refused, with all causes.
#[derive(Clone, Default)]
pub(crate) struct Refused(Arc<Mutex<Vec<String>>>);

impl Refused {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Setting {
    pub(crate) async fn new(builder: ServerBuilder) -> Self {
        Self::of(builder, |store| Replica::new(store).of_new_cluster()).await
    }

    pub(crate) async fn of(
        builder: ServerBuilder,
        replica: impl FnOnce(TestStore) -> Replica<TestStore>,
    ) -> Self {
        let store = TestStore::new();
        let replica = replica(store.clone());
        let refused = Refused::default();
        let told = refused.clone();
        let server = builder
            .on_refused(move |client, refused| {
                assert!(client.ip().is_loopback());
                told.0.lock().unwrap().push(WithCauses(refused).to_string());
            })
            .bind("127.0.0.1:0", replica)
            .await
            .unwrap();
        Self {
            server,
            store,
            refused,
        }
    }

    /// Without anything asked of clients.
    pub(crate) async fn showing(signed: &Signed) -> Self {
        let tls = ServerTls::from_pem(&signed.chain, &signed.key).unwrap();
        Self::new(Server::builder().tls(tls)).await
    }

    /// With clients that one authority has signed.
    pub(crate) async fn mutual(signed: &Signed, clients: &Authority) -> Self {
        let tls = ServerTls::mutual_from_pem(&signed.chain, &signed.key, clients.file());
        Self::new(Server::builder().tls(tls.unwrap())).await
    }

    pub(crate) fn transport(&self, tls: ClientTls) -> HttpTransport {
        let address = format!("https://{}", self.server.local_addr());
        HttpTransport::builder(address)
            .connect_timeout(LIMIT)
            .tls(tls)
            .build()
            .unwrap()
    }

    /// Waits until something is refused, and returns the first of it.
    pub(crate) async fn refused(&self) -> String {
        until(async || !self.refused.all().is_empty()).await;
        self.refused.all().remove(0)
    }

    pub(crate) fn all_refused(&self) -> Vec<String> {
        self.refused.all()
    }
}

/// That trusts one authority.
pub(crate) fn trusting(authority: &Authority) -> ClientTls {
    ClientTls::from_pem(authority.file()).unwrap()
}

/// That trusts one authority, and shows this.
pub(crate) fn showing(signed: &Signed, trusted: &Authority) -> ClientTls {
    ClientTls::mutual_from_pem(trusted.file(), &signed.chain, &signed.key).unwrap()
}

/// A connection of which every byte is in the test's hands, without a certificate.
pub(crate) async fn connect(setting: &Setting, authority: &Authority) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(authority.file()).unwrap();
    roots.add(root).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(setting.server.local_addr())
        .await
        .unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    in_time(connector.connect(name, stream)).await.unwrap()
}
