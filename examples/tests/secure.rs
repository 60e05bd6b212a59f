//! Nodes and clients with a token and TLS.

#![cfg(unix)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use support::{Process, example, says};
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    /// A token, an authority, and a certificate signed by it.
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        files.write("ca.pem", &params.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        let signed = params.signed_by(&key, &issuer).unwrap();
        files.write("cert.pem", &signed.pem());
        files.write("key.pem", &key.serialize_pem());
        files.write("tokens", "one-of-us-and-nobody-else\n");
        files.write("stranger", "a-stranger-and-nobody-else\n");
        files
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::join(self.0.path(), name)
    }

    /// Options, of which the values are files.
    fn options(&self, options: &[[&str; 2]]) -> Vec<String> {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let option = |[option, name]: &[&str; 2]| [(*option).to_owned(), path(name)];
        options.iter().flat_map(option).collect()
    }

    /// A node, and its address.
    fn node(&self) -> (Process, String) {
        let options = self.options(&[
            ["--token-file", "tokens"],
            ["--tls-cert", "cert.pem"],
            ["--tls-key", "key.pem"],
            ["--tls-client-ca", "ca.pem"],
        ]);
        let mut node = example("three-node");
        let node = node.args(["node", "--while-stdin-is-open", "--memory", "--port", "0"]);
        let mut node = Process::start(node.args(options));
        let line = node.line();
        let address = line.strip_prefix("A replica in memory, on https://");
        (node, address.expect("a node").to_owned())
    }

    fn client(&self, addresses: &str, arguments: &[&str], options: &[[&str; 2]]) -> Output {
        let mut client = example("three-node");
        let client = client.args(arguments).args(["--nodes", addresses]);
        client.args(self.options(options)).output().unwrap()
    }
}

const TOKENS: [&str; 2] = ["--token-file", "tokens"];
const CA: [&str; 2] = ["--tls-ca", "ca.pem"];
const CERT: [&str; 2] = ["--tls-cert", "cert.pem"];
const KEY: [&str; 2] = ["--tls-key", "key.pem"];

/// Catches options that are not handed on, on either side.
#[test]
fn nodes_let_in_who_has_the_token_and_the_certificate() {
    let files = Files::new();
    let nodes: [_; 3] = std::array::from_fn(|_| files.node());
    let addresses = nodes
        .each_ref()
        .map(|(_, address)| address.clone())
        .join(",");
    let put = ["put", "tea", "1"];
    let (_, said) = says(files.client(&addresses, &put, &[TOKENS, CA, CERT, KEY]), 0);
    assert!(said.starts_with("3 of 3 replicas acked"), "{said}");

    let stranger = ["--token-file", "stranger"];
    for (options, expected) in [
        (&[CA, CERT, KEY][..], "a token is needed"),
        (&[stranger, CA, CERT, KEY], "the token is not one"),
        (&[TOKENS, CA], "CertificateRequired"),
        (&[TOKENS], "TLS"),
    ] {
        let refused = files.client(&addresses, &["put", "tea", "2"], options);
        let (_, error) = says(refused, 2);
        assert!(error.contains(expected), "{error}");
    }
    let get = ["get", "tea", "--read-quorum", "3"];
    let (value, _) = says(files.client(&addresses, &get, &[TOKENS, CA, CERT, KEY]), 0);
    assert_eq!(value, "1\n");

    // The nodes have told whom they did not let in.
    for (mut node, _) in nodes {
        node.send(Signal::SIGTERM);
        let (_, _, told) = node.end();
        for expected in ["peer sent no certificates", "does not speak TLS"] {
            assert!(told.contains(expected), "{told}");
        }
    }
}
