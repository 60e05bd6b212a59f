//! The server: its bounds, and clients that misbehave.

// In a test a panic is how a broken promise shows.

mod common;

use std::sync::Mutex;
use std::time::Duration;

use common::*;
use http_body_util::{BodyExt, Full};
use kvquorum_core::{
    Ack, Action, Bytes, Change, Key, Record, Replica, Response, ScanLimit, Store, StoreError,
};
use kvquorum_http::{HttpTransport, Server};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn an_oversized_body_is_refused_as_soon_as_it_is_known() {
    let (server, store) = serve().await;
    let mut announced = Raw::connect(server.local_addr()).await;
    let head = "POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100000000000\r\n\r\n";
    // Not a byte of the body is sent: waiting for it would hang.
    let answer = announced.ask(head).await;
    assert_eq!(answer.status, 413);
    answer.error();

    let mut chunked = Raw::connect(server.local_addr()).await;
    chunked
        .send("POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n")
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
    let to = |method: &[u8], path| [method, &post(path, &body)[4..]].concat();
    for (request, status) in [
        (to(b"POST", "/write"), 413),
        (to(b"POST", "/v2/call"), 413),
        (to(b"POST", "/v3/call"), 404),
        (to(b"PUT", "/write"), 405),
        (to(b"POST", "/read/k"), 405),
        (to(b"GET", "/read/k"), 200),
        (to(b"GET", "/read/"), 400),
    ] {
        let mut client = Raw::connect(server.local_addr()).await;
        let answer = client.ask(request).await;
        assert_eq!(answer.status, status);
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
            "POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\nexpect: 100-continue\r\ncontent-length: {len}\r\n\r\n"
        )
    };
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(head(2_000_000)).await.status, 413);
    let elsewhere = head(2_000_000).replace("/write", "/v3/call");
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(elsewhere).await.status, 404);

    let mut client = Raw::connect(server.local_addr()).await;
    client.send(head(WRITE.len())).await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    assert_eq!(client.ask(WRITE).await.status, 200);
    assert_eq!(store.entries().len(), 1);
}

#[tokio::test]
async fn a_client_that_is_told_to_send_and_sends_too_much_still_gets_the_answer() {
    let (server, store) = serve().await;
    let mut client = Raw::connect(server.local_addr()).await;
    client
        .send(
            "POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\nexpect: 100-continue\r\n\
             transfer-encoding: chunked\r\n\r\n",
        )
        .await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    let chunk = ["10000\r\n", &"x".repeat(0x10000), "\r\n"].concat();
    client
        .send([&chunk.repeat(512), "0\r\n\r\n"].concat())
        .await;
    assert_eq!(client.answer().await.unwrap().status, 413);
    assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
    assert_eq!(store.entries(), []);
}

#[tokio::test]
async fn a_body_that_stops_half_way_changes_nothing() {
    let store = TestStore::new();
    let service = settings(&store).body_timeout(SHORT).build();
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let whole = post("/write", WRITE);
    let chunked = format!(
        "POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{WRITE}\r\n",
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
    let head = "POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n";
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
    let server = start(Server::builder().head_timeout(SHORT), &store).await;
    for silent in ["", "GET /re", "GET /read/k HTTP/1.1\r\nhost: 127.0.0.1\r\n"] {
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
async fn limits_may_be_as_large_or_as_small_as_can_be() {
    let store = TestStore::new();
    for (longest, most) in [(Duration::MAX, usize::MAX), (Duration::ZERO, 0)] {
        let service = settings(&store)
            .body_timeout(longest)
            .store_timeout(longest)
            .max_body_len(most)
            .max_batch(most)
            .build();
        let server = Server::builder()
            .max_connections(most)
            .head_timeout(longest)
            .max_head_len(most)
            .max_headers(most)
            .write_timeout(longest)
            .shutdown_timeout(longest)
            .bind("127.0.0.1:0", service)
            .await
            .unwrap();
        let replica = HttpTransport::builder(server.local_addr())
            .connect_timeout(longest)
            .idle_timeout(longest)
            .batch_wait(longest)
            .max_batch(most)
            .max_batch_bytes(most)
            .max_unanswered(most)
            .max_backoff(longest)
            .max_head_len(most)
            .max_connections(most)
            .max_response_len(most)
            .build()
            .unwrap();
        let response = call(&replica, write("k", 1, "v")).await;
        assert_eq!(response.is_ok(), most > 0, "{response:?}");
        let mut raw = Raw::connect(server.local_addr()).await;
        // Announced, and not sent: nothing is set aside for it.
        raw.send("POST /write HTTP/1.1\r\ncontent-length: 1000000000000000\r\n\r\n")
            .await;
        for _ in 0..3 {
            // The server may have closed it by now.
            let _ = raw.stream.write_all(b"xx").await;
            tokio::time::sleep(SHORT / 10).await;
        }
        if most == 0 {
            // There is no time for a head, and no header is allowed.
            let answer = raw.answer().await;
            assert!(answer.is_none_or(|answer| answer.status == 431));
        }
        drop(raw);
        assert_eq!(in_time(server.shutdown()).await, 0);
    }
}

#[tokio::test]
async fn as_many_headers_as_fit_into_the_head() {
    let store = TestStore::new();
    let builder = Server::builder()
        .max_headers(usize::MAX)
        .max_head_len(usize::MAX);
    let server = start(builder, &store).await;
    for (count, status) in [(16_000, 200), (100_000, 431)] {
        let headers: String = (0..count).map(|nth| format!("h{nth}: x\r\n")).collect();
        let mut client = Raw::connect(server.local_addr()).await;
        let head = format!("GET /read/k HTTP/1.1\r\n{headers}\r\n");
        assert_eq!(client.ask(head).await.status, status);
    }
}

#[tokio::test]
async fn a_store_that_hangs_is_answered_for() {
    let store = TestStore::gated();
    let service = settings(&store).store_timeout(SHORT).build();
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    let answer = client.ask(post("/write", WRITE)).await;
    assert_eq!(answer.status, 500);
    assert!(answer.error().contains("did not answer within"));
}

/// A store that panics for some keys, as no store should: at once, when it is
/// asked, or later.
#[derive(Default)]
struct Panics {
    /// What the replica keeps of itself.
    own: Mutex<Option<Record>>,
}

impl Panics {
    async fn look_at(&self, key: &Key) {
        if key.as_bytes() == b"late" {
            tokio::task::yield_now().await;
        }
        if key.as_bytes() != b"good" {
            panic!("this store panics, on purpose");
        }
    }
}

impl Store for Panics {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        if key.is_empty() {
            return Ok(self.own.lock().unwrap().clone());
        }
        self.look_at(key).await;
        Ok(None)
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        assert!(key.as_bytes() != b"now", "this store panics, on purpose");
        None
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        if key.is_empty() {
            let mut own = self.own.lock().unwrap();
            let decision = change.decide(own.as_ref());
            if let Action::Replace(record) = decision.action {
                *own = Some(record);
            }
            return Ok(decision.response);
        }
        self.look_at(key).await;
        Ok(Response::Ack(Ack::Applied))
    }

    async fn scan(
        &self,
        _: (std::ops::Bound<&Key>, std::ops::Bound<&Key>),
        _: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(Vec::new())
    }
}

/// Catches a panic that takes the connection, or the other requests of a batch,
/// with it.
#[tokio::test]
async fn a_store_that_panics_fails_one_request() {
    let server = Server::bind(
        "127.0.0.1:0",
        Replica::new(Panics::default()).of_new_cluster(),
    )
    .await
    .unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    for request in [
        post("/write", WRITE),
        get_path("/read/now").into_bytes(),
        get_path("/read/late").into_bytes(),
    ] {
        let answer = client.ask(request).await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.error(), "the store panicked");
    }
    let batch: [&[u8]; 5] = [
        b"\x00\x04good",
        b"\x00\x04late",
        b"\x00\x03now",
        b"\x01\x03bad\x80\x80\x04\x07\x00\x01\x01v",
        b"\x01\x04good\x80\x80\x04\x07\x00\x01\x01v",
    ];
    let answer = client.ask(post("/v2/call", requests(batch))).await;
    assert_eq!(answer.status, 200);
    let mut body = Vec::new();
    while let Some(chunk) = client.chunk().await {
        body.extend(chunk);
    }
    let mut answered = replies(&body);
    answered.sort();
    let panicked = [&[1, 18], &b"the store panicked"[..]].concat();
    let expected = [
        &b"\x00\x00\x00\x00"[..],
        &panicked,
        &panicked,
        &panicked,
        APPLIED,
    ];
    for (at, expected) in expected.into_iter().enumerate() {
        assert_eq!(answered[at], (at as u32, expected.to_vec()));
    }
    // The connection is of use for more.
    assert_eq!(client.ask(get_path("/read/good")).await.status, 200);
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
