//! The server: its bounds, its end, and clients that misbehave.

// In a test a panic is how a broken promise shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod common;

use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::time::Duration;

use common::*;
use http_body_util::{BodyExt, Full};
use kvquorum_core::{Bytes, Entry, Key, Merged, Replica, Store, StoreError};
use kvquorum_http::{Server, ServerBuilder};
use tokio::net::TcpStream;

const WRITE: &str = r#"{"key":"k","value":1,"timestamp":1}"#;

async fn start(builder: ServerBuilder, store: &TestStore) -> Server {
    builder.bind("127.0.0.1:0", service(store)).await.unwrap()
}

/// Asserts that the server answers a newcomer.
async fn answers(to: SocketAddr) {
    let mut client = Raw::connect(to).await;
    let close = "GET /read/k HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert_eq!(client.ask(close).await.status, 200);
}

#[tokio::test]
async fn an_oversized_body_is_refused_as_soon_as_it_is_known() {
    let (server, store) = serve().await;
    let mut announced = Raw::connect(server.local_addr()).await;
    let head = "POST /write HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000000\r\n\r\n";
    // Not a byte of the body is sent: waiting for it would hang.
    let answer = announced.ask(head).await;
    assert_eq!(answer.status, 413);
    answer.error();

    let mut chunked = Raw::connect(server.local_addr()).await;
    chunked
        .send("POST /write HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let chunk = ["10000\r\n", &"x".repeat(0x10000), "\r\n"].concat();
    for _ in 0..17 {
        chunked.send(&chunk).await;
    }
    // No last chunk: only the bound can end this.
    let answer = chunked.answer().await.unwrap();
    assert_eq!(answer.status, 413);
    answer.error();
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_client_that_sends_too_much_before_it_reads_still_gets_the_answer() {
    let (server, store) = serve().await;
    let body = vec![b'x'; 32 * 1024 * 1024];
    for path in ["/write", "/v1/call"] {
        let mut client = Raw::connect(server.local_addr()).await;
        let answer = client.ask(post(path, &body)).await;
        assert_eq!(answer.status, 413);
        // And the connection is of use to it.
        assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
    }
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_before_it_sends() {
    let (server, store) = serve().await;
    let head = |len| {
        format!(
            "POST /write HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: {len}\r\n\r\n"
        )
    };
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(head(2_000_000)).await.status, 413);

    let mut client = Raw::connect(server.local_addr()).await;
    client.send(head(WRITE.len())).await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    assert_eq!(client.ask(WRITE).await.status, 200);
    assert_eq!(store.entries().len(), 1);
}

#[tokio::test]
async fn a_body_that_stops_half_way_changes_nothing() {
    let store = TestStore::new();
    let service = service(&store).with_body_time_limit(SHORT);
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let whole = post("/write", WRITE);
    let chunked = format!(
        "POST /write HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{WRITE}\r\n",
        WRITE.len()
    );
    for half in [&whole[..whole.len() - 1], chunked.as_bytes()] {
        let mut slow = Raw::connect(server.local_addr()).await;
        let answer = slow.ask(half).await;
        assert_eq!(answer.status, 408);
        answer.error();
        slow.closed().await;

        let mut gone = Raw::connect(server.local_addr()).await;
        gone.send(half).await;
        drop(gone);
    }
    answers(server.local_addr()).await;
    assert_eq!(server.shutdown().await, 0);
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_body_that_breaks_the_rules_changes_nothing() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    let head = "POST /write HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = client
        .ask(format!("{head}zz\r\n{WRITE}\r\n0\r\n\r\n"))
        .await;
    assert_eq!(answer.status, 400);
    answer.error();
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn heads_that_never_end_and_idle_connections_are_closed_in_time() {
    let store = TestStore::new();
    let server = start(Server::builder().head_time_limit(SHORT), &store).await;
    for silent in ["", "GET /re", "GET /read/k HTTP/1.1\r\nhost: x\r\n"] {
        let mut client = Raw::connect(server.local_addr()).await;
        client.send(silent).await;
        client.closed().await;
    }
    let mut idle = Raw::connect(server.local_addr()).await;
    assert_eq!(idle.ask(get_path("/read/k")).await.status, 200);
    idle.closed().await;
}

#[tokio::test]
async fn heads_are_bounded_in_length_and_in_number() {
    let store = TestStore::new();
    let builder = Server::builder().max_head_len(10_000).max_headers(20);
    let server = start(builder, &store).await;
    let long = format!("GET /read/k HTTP/1.1\r\na: {}\r\n\r\n", "a".repeat(10_000));
    // Without an end, so that only the bound can answer it.
    let endless = format!("GET /read/k HTTP/1.1\r\na: {}", "a".repeat(20_000));
    let many = format!("GET /read/k HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(21));
    for head in [long, endless, many] {
        let mut client = Raw::connect(server.local_addr()).await;
        assert_eq!(client.ask(head).await.status, 431);
    }
    let within = format!(
        "GET /read/k HTTP/1.1\r\na: {}\r\n{}\r\n",
        "a".repeat(9_000),
        "a: b\r\n".repeat(19)
    );
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(within).await.status, 200);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_another_ends() {
    let store = TestStore::new();
    let builder = Server::builder().max_connections(2).head_time_limit(NEVER);
    let server = start(builder, &store).await;
    let mut first = Raw::connect(server.local_addr()).await;
    let mut second = Raw::connect(server.local_addr()).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
    }
    let mut third = Raw::connect(server.local_addr()).await;
    third.send(get_path("/read/k")).await;
    let early = tokio::time::timeout(SHORT, third.answer()).await;
    assert!(early.is_err(), "a third connection is served");
    drop(first);
    assert_eq!(third.answer().await.unwrap().status, 200);
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_out() {
    let store = TestStore::new();
    let builder = Server::builder().max_connections(2).head_time_limit(SHORT);
    let server = start(builder, &store).await;
    let _silent = Raw::connect(server.local_addr()).await;
    let mut half = Raw::connect(server.local_addr()).await;
    half.send("POST /wri").await;
    answers(server.local_addr()).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_keep_others_out() {
    let store = TestStore::new();
    let large = format!("\"{}\"", "x".repeat(1024 * 1024 - 2));
    store.insert("large", Entry::new(version(1), large));
    let builder = Server::builder().max_connections(1).write_time_limit(SHORT);
    let server = start(builder, &store).await;
    let mut deaf = Raw::connect(server.local_addr()).await;
    // More than the sockets' buffers can hold.
    deaf.send(get_path("/read/large").repeat(32)).await;
    answers(server.local_addr()).await;
}

#[tokio::test]
async fn a_store_that_hangs_is_answered_for() {
    let store = TestStore::gated();
    let service = service(&store).with_store_time_limit(SHORT);
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    let answer = client.ask(post("/write", WRITE)).await;
    assert_eq!(answer.status, 500);
    assert!(answer.error().contains("did not answer within"));
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
async fn a_shutdown_lets_requests_under_way_finish_and_takes_no_more() {
    let store = TestStore::gated();
    let builder = Server::builder().shutdown_time_limit(NEVER);
    let server = start(builder, &store).await;
    let addr = server.local_addr();
    let mut idle = Raw::connect(addr).await;
    let mut busy = Raw::connect(addr).await;
    let mut half = Raw::connect(addr).await;
    let write = post("/write", r#"{"key":"l","value":1,"timestamp":1}"#);
    let (begun, rest) = write.split_at(write.len() - 5);
    // The answer to what asks first shows that its head has been read.
    let asks = String::from_utf8(begun.to_vec()).unwrap();
    let asks = asks.replace("host: x\r\n", "host: x\r\nexpect: 100-continue\r\n");
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
async fn a_shutdown_cuts_what_does_not_finish_in_time() {
    let store = TestStore::gated();
    let builder = Server::builder().shutdown_time_limit(SHORT);
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
    let builder = Server::builder().shutdown_time_limit(NEVER);
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

/// A store that panics, as no store should.
struct Panics;

impl Store for Panics {
    async fn get(&self, _: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(None)
    }

    async fn merge(&self, _: &Key, _: Entry) -> Result<Merged, StoreError> {
        panic!("this store panics, on purpose");
    }

    async fn scan(
        &self,
        _: std::ops::Bound<&Key>,
        _: usize,
    ) -> Result<Vec<(Key, Entry)>, StoreError> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_store_that_panics_costs_one_connection() {
    let server = Server::bind("127.0.0.1:0", Replica::new(Panics))
        .await
        .unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    client.send(post("/write", WRITE)).await;
    client.closed().await;
    answers(server.local_addr()).await;
}

#[tokio::test]
async fn the_service_answers_without_a_server() {
    let store = TestStore::new();
    let service = service(&store);
    let write = hyper::Request::post("/write").body(Full::new(Bytes::from(WRITE)));
    // As a hyper service, as an application's own server would call it.
    let response = hyper::service::Service::call(&service, write.unwrap()).await;
    assert_eq!(response.unwrap().status(), 200);
    let read = hyper::Request::get("/read/k").body(Full::new(Bytes::new()));
    let response = service.handle(read.unwrap()).await;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "{\"value\":1,\"timestamp\":1}\n");
}

#[tokio::test]
async fn an_address_in_use_is_an_error() {
    let (server, store) = serve().await;
    let error = Server::bind(server.local_addr(), service(&store)).await;
    assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
}

/// Asked for by the test below, in a process that may open few files.
const FEW_FILES: &str = "KVQUORUM_HTTP_TEST_WITH_FEW_FILES";

#[test]
fn running_out_of_file_descriptors_passes() {
    let this = "running_out_of_file_descriptors_passes";
    if std::env::var_os(FEW_FILES).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(out_of_files());
    }
    let status = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -n 40 && exec \"$0\" --exact \"$1\" --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg(this)
        .env(FEW_FILES, "yes")
        .status()
        .unwrap();
    assert!(status.success());
}

async fn out_of_files() {
    let (server, _store) = serve().await;
    let addr = server.local_addr();
    // Opened while it can be. Where the system has no such file, the processor
    // is not watched.
    let mut stat = std::fs::File::open("/proc/self/stat").ok();
    // On this thread the server accepts nothing before the test awaits. By
    // then no file is left to accept a connection with.
    let mut clients = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(addr) {
        stream.set_nonblocking(true).unwrap();
        clients.push(Raw::new(TcpStream::from_std(stream).unwrap()));
    }
    let mut last = clients.pop().unwrap();
    last.send(get_path("/read/k")).await;
    let early = tokio::time::timeout(SHORT, last.answer()).await;
    assert!(early.is_err(), "there was a file for every connection");

    // It waits meanwhile, and does not burn the processor.
    let before = stat.as_mut().map(processor_time);
    tokio::time::sleep(5 * SHORT).await;
    let used = stat.as_mut().map(processor_time);
    if let (Some(before), Some(used)) = (before, used) {
        assert!(used - before < SHORT / 2, "{:?}", used - before);
    }

    clients.clear();
    assert_eq!(last.answer().await.unwrap().status, 200);
}

/// What this process has used so far: user and system time, in hundredths of a
/// second, are the fields 14 and 15 of Linux's `/proc/self/stat`.
fn processor_time(stat: &mut std::fs::File) -> Duration {
    let mut text = String::new();
    stat.rewind().unwrap();
    stat.read_to_string(&mut text).unwrap();
    let (_, after_name) = text.rsplit_once(')').unwrap();
    let fields = after_name.split_whitespace().skip(11).take(2);
    let hundredths: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * hundredths)
}
