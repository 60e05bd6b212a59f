//! What is let in, and served as it is without TLS.

use std::sync::Arc;

use kvquorum_core::{Ack, Replica, Response};
use kvquorum_http::rustls::crypto::ring;
use kvquorum_http::rustls::pki_types::pem::PemObject;
use kvquorum_http::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use kvquorum_http::rustls::version::{TLS12, TLS13};
use kvquorum_http::rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use kvquorum_http::{AddressError, HttpTransport, Server, ServerTls};

use crate::authority::Authority;
use crate::common::*;
use crate::setting::{Setting, showing, trusting};

const HERE: &str = "127.0.0.1";

#[tokio::test]
async fn https_is_a_transport() {
    let authority = Authority::new();
    let signed = authority.sign(HERE);
    kvquorum_testing::conformance::transport(|| async {
        let tls = ServerTls::from_pem(&signed.chain, &signed.key).unwrap();
        let setting = Setting::of(Server::builder().tls(tls), Replica::new).await;
        (setting.transport(trusting(&authority)), setting)
    })
    .await;
}

#[tokio::test]
async fn https_is_a_transport_where_both_show_who_they_are() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let (server, client) = (servers.sign(HERE), clients.sign("a coordinator"));
    kvquorum_testing::conformance::transport(|| async {
        let tls = ServerTls::mutual_from_pem(&server.chain, &server.key, clients.file());
        let builder = Server::builder().tls(tls.unwrap());
        let setting = Setting::of(builder, Replica::new).await;
        (setting.transport(showing(&client, &servers)), setting)
    })
    .await;
}

/// Catches connections that are not used again, or calls that do not share
/// exchanges: over TLS either would be dear. And bytes that are held back.
#[tokio::test]
async fn calls_share_kept_alive_connections() {
    let authority = Authority::new();
    let setting = Setting::showing(&authority.sign(HERE)).await;
    let transport = setting.transport(trusting(&authority));
    let large = "x".repeat(1024 * 1024);
    for round in 1..=20 {
        let calls = (0..64).map(|at| {
            let value = if at == 0 { &large } else { "v" };
            let request = write(&format!("k{at}"), round, value);
            let transport = transport.clone();
            tokio::spawn(async move { call(&transport, request).await })
        });
        for called in calls.collect::<Vec<_>>() {
            let response = called.await.unwrap().unwrap();
            assert_eq!(response, Response::Ack(Ack::Applied));
        }
    }
    let Response::Entry(held) = call(&transport, read("k0")).await.unwrap() else {
        panic!("no answer");
    };
    assert!(held.entry.unwrap().value.as_deref() == Some(large.as_bytes()));
    assert_eq!(setting.store.entries().len(), 64);
    assert_eq!(setting.all_refused(), [""; 0]);
}

/// Catches a configuration of the application's that is not the one in use; and
/// that not both versions are spoken.
#[tokio::test]
async fn the_applications_own_configurations_are_used() {
    let authority = Authority::new();
    let signed = authority.sign(HERE);
    let of_client = |version: &'static SupportedProtocolVersion| {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(authority.file()).unwrap())
            .unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap();
        let config = config.with_root_certificates(roots);
        Arc::new(config.with_no_client_auth())
    };
    let of_server = |version: &'static SupportedProtocolVersion| {
        let chain = vec![CertificateDer::from_pem_file(&signed.chain).unwrap()];
        let key = PrivateKeyDer::from_pem_file(&signed.key).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap();
        let config = config.with_no_client_auth();
        Arc::new(config.with_single_cert(chain, key).unwrap())
    };
    let by_files = Setting::showing(&signed).await;
    for version in [&TLS12, &TLS13] {
        let by_hand = Setting::new(Server::builder().tls(of_server(version))).await;
        for other in [&TLS12, &TLS13] {
            let client = by_hand.transport(of_client(other).into());
            let called = call(&client, read("k")).await;
            assert_eq!(called.is_ok(), version == other, "{called:?}");
        }
        for setting in [&by_files, &by_hand] {
            for tls in [of_client(version).into(), trusting(&authority)] {
                let client = setting.transport(tls);
                assert!(call(&client, read("k")).await.is_ok());
            }
        }
    }
}

/// Catches a plain connection where TLS was asked for, in whichever way.
#[test]
fn an_address_and_the_settings_have_to_agree() {
    let authority = Authority::new();
    let build = |address, has_tls| {
        let builder = HttpTransport::builder(address);
        if has_tls {
            return builder.tls(trusting(&authority)).build();
        }
        builder.build()
    };
    let given = || "replica-1.example:3001".to_owned();
    let https = "https://replica-1.example:3001";
    let http = "http://replica-1.example:3001";
    for address in [https, "replica-1.example:3001", "https://[::1]:3001"] {
        assert!(build(address, true).is_ok());
    }
    assert_eq!(
        build(https, false).unwrap_err(),
        AddressError::NoTls(given())
    );
    assert_eq!(
        build(http, true).unwrap_err(),
        AddressError::NotTls(given())
    );
}

/// A transport without a scheme and with settings for TLS speaks TLS.
#[tokio::test]
async fn settings_alone_are_enough_for_tls() {
    let authority = Authority::new();
    let setting = Setting::showing(&authority.sign(HERE)).await;
    let transport = HttpTransport::builder(setting.server.local_addr())
        .tls(trusting(&authority))
        .build()
        .unwrap();
    assert!(call(&transport, read("k")).await.is_ok());
}
