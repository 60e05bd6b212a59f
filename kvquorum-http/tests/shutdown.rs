//! The end of a server, and clients that go away.

// In a test a panic is how a broken promise shows.

mod common;

use common::*;
use kvquorum_core::Entry;
use kvquorum_http::Server;
use tokio::net::TcpStream;

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_shutdown_lets_requests_under_way_finish_and_takes_no_more() {
    let store = TestStore::gated();
    let builder = Server::builder().shutdown_timeout(NEVER);
    let server = start(builder, &store).await;
    let addr = server.local_addr();
    let mut idle = Raw::connect(addr).await;
    let mut busy = Raw::connect(addr).await;
    let mut half = Raw::connect(addr).await;
    let write = post("/write", r#"{"key":"l","value":1,"timestamp":1}"#);
    let (begun, rest) = write.split_at(write.len() - 5);
    // The answer to what asks first shows that its head has been read.
    let asks = String::from_utf8(begun.to_vec()).unwrap();
    let asks = asks.replace(
        "host: 127.0.0.1\r\n",
        "host: 127.0.0.1\r\nexpect: 100-continue\r\n",
    );
    half.send(asks).await;
    assert!(half.head().await.starts_with("HTTP/1.1 100 "));
    busy.send(post("/write", WRITE)).await;
    store.called().await;

    let shutdown = tokio::spawn(server.shutdown());
    idle.closed().await;
    until(async || TcpStream::connect(addr).await.is_err()).await;
    assert!(!shutdown.is_finished());

    store.gate.add_permits(1);
    half.send(rest).await;
    for client in [&mut busy, &mut half] {
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), Some("close"));
        client.closed().await;
    }
    assert_eq!(in_time(shutdown).await.unwrap(), 0);
    assert_eq!(store.entries().len(), 2);
}

#[tokio::test]
async fn a_shutdown_lets_streamed_answers_finish() {
    let store = TestStore::gated();
    let builder = Server::builder().shutdown_timeout(NEVER);
    let server = start(builder, &store).await;
    let addr = server.local_addr();
    let mut client = streamed(addr, &store).await;
    let shutdown = tokio::spawn(server.shutdown());
    until(async || TcpStream::connect(addr).await.is_err()).await;
    assert!(!shutdown.is_finished());
    store.gate.add_permits(1);
    let mut body = Vec::new();
    while let Some(chunk) = client.chunk().await {
        body.extend(chunk);
    }
    assert_eq!(replies(&body).len(), 2);
    client.closed().await;
    assert_eq!(in_time(shutdown).await.unwrap(), 0);
}

#[tokio::test]
async fn a_shutdown_cuts_what_does_not_finish_in_time() {
    let store = TestStore::gated();
    let builder = Server::builder().shutdown_timeout(SHORT);
    let server = start(builder, &store).await;
    let mut stuck = Raw::connect(server.local_addr()).await;
    stuck.send(post("/write", WRITE)).await;
    store.called().await;
    assert_eq!(in_time(server.shutdown()).await, 1);
    stuck.closed().await;
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_dropped_server_is_gone_at_once() {
    let store = TestStore::gated();
    let builder = Server::builder().shutdown_timeout(NEVER);
    let server = start(builder, &store).await;
    let addr = server.local_addr();
    let mut idle = Raw::connect(addr).await;
    let mut busy = Raw::connect(addr).await;
    busy.send(post("/write", WRITE)).await;
    store.called().await;
    drop(server);
    idle.closed().await;
    busy.closed().await;
    until(async || TcpStream::connect(addr).await.is_err()).await;
    let again = Server::bind(addr, service(&TestStore::new()))
        .await
        .unwrap();
    answers(again.local_addr()).await;
}

/// Catches a connection that is taken for one without a request while its
/// client has not read the end of the answer.
#[tokio::test]
async fn a_shutdown_waits_for_answers_to_be_read() {
    let store = TestStore::new();
    let large = format!("\"{}\"", "x".repeat(32 * MIB));
    store.insert("large", Entry::new(version(1), large));
    let builder = Server::builder().shutdown_timeout(NEVER);
    let server = start(builder, &store).await;
    let mut slow = Raw::connect(server.local_addr()).await;
    slow.send(get_path("/read/large")).await;
    store.called().await;
    let shutdown = tokio::spawn(server.shutdown());
    // Longer than a connection has for the rest of a head.
    tokio::time::sleep(5 * SHORT).await;
    assert!(slow.answer().await.unwrap().body.len() > 32 * MIB);
    slow.closed().await;
    assert_eq!(in_time(shutdown).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_hold_its_connection_open() {
    let store = TestStore::gated();
    let server = serve_store(&store).await;
    let mut client = Raw::connect(server.local_addr()).await;
    client.send(post("/write", WRITE)).await;
    store.called().await;
    drop(client);
    // The connection ends, though its store never answered.
    assert_eq!(in_time(server.shutdown()).await, 0);
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_does_not_hold_its_connection_open() {
    let store = TestStore::gated();
    let builder = Server::builder().shutdown_timeout(NEVER);
    let server = start(builder, &store).await;
    let client = streamed(server.local_addr(), &store).await;
    drop(client);
    assert_eq!(in_time(server.shutdown()).await, 0);
}
