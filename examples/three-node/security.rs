//! Tokens and TLS on the command line.

use std::error::Error;
use std::path::PathBuf;

use kvquorum_core::{Replica, Store};
use kvquorum_http::{
    ClientTls, HttpTransport, ReplicaService, ReplicaServiceBuilder, Server, ServerBuilder,
    ServerTls, TlsError, Tokens,
};

/// Whom a node lets in.
#[derive(clap::Args)]
pub(crate) struct NodeSecurity {
    /// Let in only who has one of the tokens in this file, one a line
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Speak TLS, with this certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Let in only who shows a certificate that is signed by one of these in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,

    /// A name by which curl and browsers may ask without a token, beside
    /// localhost; may be repeated
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
}

/// What a client shows, and whom it trusts.
#[derive(clap::Args)]
pub(crate) struct ClientSecurity {
    /// Send the first token in this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Speak TLS, with nodes that show a certificate signed by one of these in
    /// PEM
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// Show this certificate in PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl NodeSecurity {
    pub(crate) fn service<S: Store>(
        &self,
        replica: Replica<S>,
    ) -> Result<ReplicaServiceBuilder<S>, Box<dyn Error>> {
        let mut service = ReplicaService::builder(replica);
        if let Some(file) = &self.token_file {
            service = service.tokens(&Tokens::from_file(file)?);
        }
        for name in &self.allow_host {
            service = service.allow_host(name);
        }
        Ok(service)
    }

    /// Links to the other nodes, which have the same tokens, and where clients show
    /// certificates, take this node's.
    pub(crate) fn peers(
        &self,
        [one, other]: &[String; 2],
        tls_ca: Option<PathBuf>,
    ) -> Result<[HttpTransport; 2], Box<dyn Error>> {
        let client = ClientSecurity {
            token_file: self.token_file.clone(),
            tls_ca,
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
        };
        Ok([client.link(one)?, client.link(other)?])
    }

    pub(crate) fn server(&self) -> Result<ServerBuilder, Box<dyn Error>> {
        let server = Server::builder();
        let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) else {
            return Ok(server);
        };
        Ok(server.tls(match &self.tls_client_ca {
            Some(clients) => ServerTls::mutual_from_pem(cert, key, clients)?,
            None => ServerTls::from_pem(cert, key)?,
        }))
    }

    /// Whether not everybody who reaches the port is let in.
    pub(crate) fn is_guarded(&self) -> bool {
        self.token_file.is_some() || self.tls_client_ca.is_some()
    }

    pub(crate) fn scheme(&self) -> &'static str {
        match self.tls_cert {
            Some(_) => "https",
            None => "http",
        }
    }

    /// What curl needs beside the address.
    pub(crate) fn curl(&self) -> String {
        let mut options = String::new();
        if self.token_file.is_some() {
            options.push_str(" -H 'Authorization: Bearer TOKEN'");
        }
        if self.tls_cert.is_some() {
            options.push_str(" --cacert CA");
        }
        if self.tls_client_ca.is_some() {
            options.push_str(" --cert CERT --key KEY");
        }
        options
    }
}

impl ClientSecurity {
    /// A link to each node.
    pub(crate) fn links(
        &self,
        [a, b, c]: &[String; 3],
    ) -> Result<[HttpTransport; 3], Box<dyn Error>> {
        Ok([self.link(a)?, self.link(b)?, self.link(c)?])
    }

    fn link(&self, address: &str) -> Result<HttpTransport, Box<dyn Error>> {
        let mut link = HttpTransport::builder(address);
        if let Some(file) = &self.token_file {
            link = link.tokens(&Tokens::from_file(file)?);
        }
        if let Some(tls) = self.tls()? {
            link = link.tls(tls);
        }
        Ok(link.build()?)
    }

    fn tls(&self) -> Result<Option<ClientTls>, TlsError> {
        let Some(ca) = &self.tls_ca else {
            return Ok(None);
        };
        let tls = match (&self.tls_cert, &self.tls_key) {
            (Some(cert), Some(key)) => ClientTls::mutual_from_pem(ca, cert, key),
            _ => ClientTls::from_pem(ca),
        };
        tls.map(Some)
    }
}
