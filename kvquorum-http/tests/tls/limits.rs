//! Bounds that hold with TLS as they do without.

use kvquorum_core::Entry;
use kvquorum_http::{HttpError, HttpTransport, Server, ServerBuilder, ServerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::Authority;
use crate::common::*;
use crate::setting::{Setting, connect, trusting};

const HERE: &str = "127.0.0.1";

fn builder(authority: &Authority) -> ServerBuilder {
    let signed = authority.sign(HERE);
    Server::builder().tls(ServerTls::from_pem(signed.chain, signed.key).unwrap())
}

/// Catches handshakes that never end.
#[tokio::test]
async fn a_handshake_takes_no_longer_than_it_may() {
    let builder = builder(&Authority::new()).handshake_timeout(SHORT);
    let setting = Setting::new(builder).await;
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        let mut stalls = TcpStream::connect(setting.server.local_addr())
            .await
            .unwrap();
        stalls.write_all(begun).await.unwrap();
        assert_eq!(in_time(stalls.read(&mut [0])).await.unwrap_or(0), 0);
    }
    until(async || setting.all_refused().len() == 2).await;
    let told = setting.refused().await;
    assert!(told.contains("took longer than"), "{told}");
}

/// Catches a client that waits for ever for a server that says nothing.
#[tokio::test]
async fn a_handshake_is_part_of_connecting() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let transport = HttpTransport::builder(silent.local_addr().unwrap())
        .connect_timeout(SHORT)
        .tls(trusting(&Authority::new()))
        .build()
        .unwrap();
    let error = call(&transport, read("k")).await.unwrap_err();
    assert!(matches!(cause(&error), HttpError::ConnectTimedOut(_)));
}

/// Catches handshakes that do not count as connections, and stalled ones that
/// keep others out.
#[tokio::test]
async fn handshakes_are_bounded_as_connections_and_make_room() {
    let authority = Authority::new();
    let builder = builder(&authority).handshake_timeout(NEVER);
    let setting = Setting::new(builder.max_connections(2)).await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut stalls = TcpStream::connect(setting.server.local_addr())
            .await
            .unwrap();
        stalls.write_all(b"\x16\x03\x01\x02\x00").await.unwrap();
        stalled.push(stalls);
    }
    // The first two had to make room for the other two.
    for stalls in &mut stalled[..2] {
        assert_eq!(in_time(stalls.read(&mut [0])).await.unwrap_or(0), 0);
    }
    let transport = setting.transport(trusting(&authority));
    assert!(call(&transport, read("k")).await.is_ok());
}

/// Catches a shutdown that waits for handshakes.
#[tokio::test]
async fn a_shutdown_does_not_wait_for_handshakes() {
    let builder = builder(&Authority::new())
        .handshake_timeout(NEVER)
        .shutdown_timeout(NEVER);
    let setting = Setting::new(builder).await;
    let mut stalls = TcpStream::connect(setting.server.local_addr())
        .await
        .unwrap();
    stalls.write_all(b"\x16").await.unwrap();
    assert_eq!(in_time(setting.server.shutdown()).await, 0);
}

/// Catches a client that reads nothing and is waited for: what TLS has taken in
/// and not sent counts as not read.
#[tokio::test]
async fn a_client_that_reads_no_answer_does_not_keep_others_out() {
    let authority = Authority::new();
    let builder = builder(&authority).max_connections(1).write_timeout(SHORT);
    let setting = Setting::new(builder).await;
    let large = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
    setting.store.insert("large", Entry::new(version(1), large));
    let mut deaf = connect(&setting, &authority).await;
    let reads = get_path("/read/large").repeat(32);
    deaf.write_all(reads.as_bytes()).await.unwrap();
    deaf.flush().await.unwrap();
    let transport = setting.transport(trusting(&authority));
    until(async || call(&transport, read("k")).await.is_ok()).await;
}

/// Catches a head or a body beyond its bound, which TLS would hide.
#[tokio::test]
async fn heads_and_bodies_are_bounded() {
    let authority = Authority::new();
    let setting = Setting::new(builder(&authority)).await;
    let head = format!("GET /read/{} HTTP/1.1\r\n\r\n", "k".repeat(100_000));
    let body = "POST /write HTTP/1.1\r\ncontent-length: 100000000\r\n\r\n".to_owned();
    let fragment = "GET /read/k#x HTTP/1.1\r\n\r\n".to_owned();
    for (request, status) in [(head, 431), (body, 413), (fragment, 400)] {
        let mut client = connect(&setting, &authority).await;
        // The server may have closed it by now.
        let _ = client.write_all(request.as_bytes()).await;
        let mut begins = [0; 12];
        in_time(client.read_exact(&mut begins)).await.unwrap();
        assert_eq!(begins, format!("HTTP/1.1 {status}").as_bytes());
    }
}
