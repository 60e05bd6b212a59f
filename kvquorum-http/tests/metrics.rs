//! Each thing that is counted moves when it happens.

#![allow(clippy::float_cmp, reason = "a test, which counts to few")]

mod common;

use std::net::SocketAddr;
use std::num::NonZeroU64;

use common::{
    Raw, SHORT, Stub, TestStore, again_with_few_files, call, get_path, in_time, post, read,
    requests, runtime, settings, until, version, write,
};
use kvquorum_core::{
    Entry, Era, Replica, ReplicaId, Request, RequestKind, Response, Status, Timestamp, Told,
    Transport,
};
use kvquorum_http::{HttpTransport, HttpTransportBuilder, ReplicaService, Server, Tokens};
use kvquorum_testing::Recorded;
use tokio::io::AsyncWriteExt;

/// A server over a store, and what is recorded of it.
async fn recorded_server(store: &TestStore) -> (Server, Recorded) {
    let (service, recorded) =
        Recorded::of(|| ReplicaService::new(Replica::new(store.clone()).of_new_cluster()));
    (
        Server::bind("127.0.0.1:0", service).await.unwrap(),
        recorded,
    )
}

/// A transport, and what is recorded of it.
fn recorded_transport(
    to: SocketAddr,
    set: impl FnOnce(HttpTransportBuilder) -> HttpTransportBuilder,
) -> (HttpTransport, Recorded) {
    Recorded::of(|| set(HttpTransport::builder(to)).build().unwrap())
}

/// Of the one replica that a transport leads to.
fn of(recorded: &Recorded, to: SocketAddr, name: &str, outcome: Option<&str>) -> f64 {
    let to = to.to_string();
    let mut labels = vec![("replica", to.as_str())];
    labels.extend(outcome.map(|outcome| ("outcome", outcome)));
    recorded.sum(&format!("kvquorum_http_client_{name}"), &labels)
}

/// Bugs: an exchange, the calls in it, or a connection is not counted; the queue
/// does not become shorter, or is left longer by what was given up.
#[tokio::test]
async fn a_clients_exchanges_and_queue_are_counted() {
    let store = TestStore::gated();
    let server = Server::bind("127.0.0.1:0", Replica::new(store.clone()).of_new_cluster());
    let to = server.await.unwrap();
    let addr = to.local_addr();
    let (transport, recorded) = recorded_transport(addr, |builder| {
        // One connection, which the first call has, and the second waits for.
        builder.max_connections(1).batch_wait(SHORT)
    });
    let first = tokio::spawn(transport.call(&read("a")));
    in_time(store.called()).await;
    let second = tokio::spawn(transport.call(&read("b")));
    let third = tokio::spawn(transport.call(&read("c")));
    let given_up = tokio::spawn(transport.call(&read("d")));
    let queued = || of(&recorded, addr, "queued_calls", None);
    until(async || queued() == 3.0).await;
    given_up.abort();
    until(async || queued() == 2.0).await;
    store.gate.add_permits(1000);
    for call in [first, second, third] {
        in_time(call).await.unwrap().unwrap();
    }
    assert_eq!(queued(), 0.0);
    assert_eq!(
        of(&recorded, addr, "connections_total", Some("opened")),
        1.0
    );
    assert_eq!(
        of(&recorded, addr, "exchanges_total", Some("answered")),
        2.0
    );
    assert_eq!(of(&recorded, addr, "calls_total", None), 3.0);
}

/// Bugs: exchanges and connections that fail, requests that are sent again, and a
/// breaker that opens are not counted.
#[tokio::test]
async fn a_clients_failures_are_counted() {
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let (transport, recorded) = recorded_transport(closed, |builder| builder.max_unanswered(2));
    for _ in 0..4 {
        call(&transport, read("k")).await.unwrap_err();
    }
    let failed = |name| of(&recorded, closed, name, Some("failed"));
    assert_eq!(failed("connections_total"), failed("exchanges_total"));
    assert!(failed("exchanges_total") >= 2.0);
    assert_eq!(of(&recorded, closed, "breaker_openings_total", None), 1.0);

    // Each connection ends at its second request.
    let stub = Stub::new(|_, mut stream| async move {
        let _ = stream.write_all(&common::applied()).await;
        common::read_request(&mut stream).await;
    })
    .await;
    let (transport, recorded) = recorded_transport(stub.addr, |builder| builder);
    for _ in 0..2 {
        call(&transport, write("k", 1, "v")).await.unwrap();
    }
    assert_eq!(of(&recorded, stub.addr, "retries_total", None), 1.0);
    let opened = of(&recorded, stub.addr, "connections_total", Some("opened"));
    assert_eq!(opened, 2.0);
}

/// Bugs: a connection is not counted, or for good; a request is not timed, or
/// under another route.
#[tokio::test]
async fn a_servers_connections_and_requests_are_counted() {
    let (server, recorded) = recorded_server(&TestStore::new()).await;
    let to = server.local_addr();
    let open = || recorded.sum("kvquorum_http_server_connections", &[]);
    let mut client = Raw::connect(to).await;
    let body = br#"{"key": "k", "value": 1, "timestamp": 1}"#;
    assert_eq!(client.ask(post("/write", body)).await.status, 200);
    assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
    assert_eq!(open(), 1.0);
    drop(client);
    until(async || open() == 0.0).await;
    let accepted = [("outcome", "accepted")];
    let accepted = recorded.sum("kvquorum_http_server_connections_total", &accepted);
    assert_eq!(accepted, 1.0);

    let transport = HttpTransport::new(to).unwrap();
    call(&transport, read("k")).await.unwrap();
    let calls = recorded.sum("kvquorum_http_server_calls_total", &[]);
    assert_eq!(calls, 1.0);

    // Of one in eight.
    let timed = |route| {
        let name = "kvquorum_http_server_request_duration_seconds";
        recorded.all(name, &[("route", route)]).len()
    };
    let mut client = Raw::connect(to).await;
    for (route, request) in [
        ("write", post("/write", body)),
        ("read", get_path("/read/k").into()),
        ("call", post("/v2/call", requests([""]))),
        ("other", get_path("/nowhere").into()),
    ] {
        let before = timed(route);
        for _ in 0..100 {
            client.ask(&request).await;
        }
        let more = timed(route) - before;
        assert!((1..60).contains(&more), "{route}: {more}");
    }
}

/// A request with one more header and no body.
fn headed(request: &str, header: &str) -> Vec<u8> {
    format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\n{header}\r\ncontent-length: 0\r\n\r\n").into()
}

/// Bugs: what is refused for want of a token, of time or of memory is not counted; nor
/// what cannot be shown.
#[tokio::test]
async fn refusals_by_settings_are_counted() {
    let store = TestStore::new();
    store.insert("bytes", Entry::new(version(5), b"\xff".to_vec()));
    let tokens = Tokens::new(["one-of-us-and-nobody-else"]).unwrap();
    let set = || settings(&store).body_timeout(SHORT);
    let unfinished = "POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 99\r\n\r\n";
    let cases = [
        (
            set().tokens(&tokens),
            get_path("/read/k").into_bytes(),
            "unauthorized",
        ),
        (set(), unfinished.as_bytes().to_vec(), "too_slow"),
        (set(), get_path("/read/bytes").into_bytes(), "unprocessable"),
    ];
    for (service, request, reason) in cases {
        let (service, recorded) = Recorded::of(|| service.build());
        let server = Server::bind("127.0.0.1:0", service).await.unwrap();
        Raw::connect(server.local_addr()).await.ask(request).await;
        for known in ["unauthorized", "too_slow", "unprocessable"] {
            let labels = [("reason", known)];
            let count = recorded.sum("kvquorum_http_server_refused_total", &labels);
            let expected = f64::from(u8::from(known == reason));
            assert_eq!(count, expected, "{known} for {reason}");
        }
    }

    let store = TestStore::gated();
    let service = settings(&store).max_total_body_len(1).body_timeout(SHORT);
    let (service, recorded) = Recorded::of(|| service.build());
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let value = "v".repeat(100_000);
    let body = format!("{{\"key\": \"k\", \"value\": \"{value}\", \"timestamp\": 1}}");
    let mut at_store = Raw::connect(server.local_addr()).await;
    at_store.send(post("/write", &body)).await;
    store.called().await;
    let mut waits = Raw::connect(server.local_addr()).await;
    assert_eq!(waits.ask(post("/write", &body)).await.status, 503);
    let no_memory = [("reason", "no_memory")];
    let no_memory = recorded.sum("kvquorum_http_server_refused_total", &no_memory);
    assert_eq!(no_memory, 1.0);
}

/// Bugs: what is refused for what is held, or because another replica was meant, is
/// not counted.
#[tokio::test]
async fn refusals_by_what_is_held_are_counted() {
    let store = TestStore::new();
    let (server, recorded) = recorded_server(&store).await;
    let refused =
        |reason| recorded.sum("kvquorum_http_server_refused_total", &[("reason", reason)]);
    let transport = HttpTransport::new(server.local_addr()).unwrap();
    let prepare = |millis| Request::prepare("k", version(millis));
    call(&transport, prepare(9)).await.unwrap();
    call(&transport, write("k", 5, "1")).await.unwrap();
    assert_eq!(refused("promised"), 1.0);
    let early = br#"{"key": "k", "value": 1, "timestamp": 5}"#;
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(post("/write", early)).await.status, 409);
    assert_eq!(refused("conflict"), 1.0);
    call(&transport, write("k", 20, "1")).await.unwrap();
    call(&transport, prepare(10)).await.unwrap();
    assert_eq!(refused("superseded"), 1.0);
    let mut other = read("k");
    other.to = Some(ReplicaId::new(NonZeroU64::MIN));
    call(&transport, other).await.unwrap();
    assert_eq!(refused("other_replica"), 1.0);
}

/// Bugs: what a replica refuses because it is joining, or is in a later era, is not
/// counted, or as want of memory.
#[tokio::test]
async fn refusals_by_marks_are_counted() {
    let store = TestStore::new();
    let joining = || ReplicaService::new(Replica::new(store.clone()));
    let (service, recorded) = Recorded::of(joining);
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let refused =
        |reason| recorded.sum("kvquorum_http_server_refused_total", &[("reason", reason)]);
    let transport = HttpTransport::new(server.local_addr()).unwrap();
    let ask = async |kind, era: u64| {
        let mut request = Request::status();
        request.kind = kind;
        request.era = era.try_into().ok().map(Era::new);
        call(&transport, request).await.unwrap()
    };
    call(&transport, read("k")).await.unwrap();
    assert_eq!(refused("joining"), 1.0);
    let mut client = Raw::connect(server.local_addr()).await;
    assert_eq!(client.ask(get_path("/read/k")).await.status, 503);
    assert_eq!((refused("joining"), refused("no_memory")), (2.0, 0.0));
    let Response::Told(told) = ask(RequestKind::Status, 0).await else {
        panic!("no status");
    };
    let Told::Status(Status { boot, .. }) = *told else {
        panic!("{told:?}");
    };
    let join = RequestKind::Join {
        boot,
        sealed: Timestamp::MIN,
        collected: Timestamp::MIN,
    };
    ask(join, 5).await;
    ask(RequestKind::Open { boot }, 5).await;
    assert_eq!(refused("not_joining"), 0.0);
    ask(RequestKind::Open { boot }, 5).await;
    assert_eq!(refused("not_joining"), 1.0);
    ask(RequestKind::Read { key: "k".into() }, 4).await;
    assert_eq!(refused("stale"), 1.0);
    ask(RequestKind::Read { key: "k".into() }, u64::MAX).await;
    assert_eq!(refused("era_too_far_ahead"), 1.0);
    let to = version(9).timestamp;
    ask(RequestKind::Collect { to, boot }, 5).await;
    assert_eq!(refused("not_sealed"), 1.0);
    ask(RequestKind::Seal { to }, 5).await;
    call(&transport, write("k", 8, "1")).await.unwrap();
    assert_eq!(refused("before"), 1.0);
    let early = br#"{"key": "k", "value": 1, "timestamp": 8}"#;
    assert_eq!(client.ask(post("/write", early)).await.status, 409);
    assert_eq!((refused("before"), refused("conflict")), (1.0, 1.0));
}

/// Bug: that connections cannot be accepted goes unnoticed.
#[test]
fn connections_that_cannot_be_accepted_are_counted() {
    let this = "connections_that_cannot_be_accepted_are_counted";
    let Some(mut again) = again_with_few_files(40, this) else {
        return runtime().block_on(out_of_files());
    };
    assert!(again.status().unwrap().success());
}

async fn out_of_files() {
    let (server, recorded) = recorded_server(&TestStore::new()).await;
    // On this thread the server accepts nothing before the test awaits. By then no
    // file is left to accept a connection with.
    let mut clients = Vec::new();
    while let Ok(stream) = std::net::TcpStream::connect(server.local_addr()) {
        clients.push(stream);
    }
    let failed = [("outcome", "failed")];
    let failed = || recorded.sum("kvquorum_http_server_connections_total", &failed);
    until(async || failed() > 0.0).await;
}

/// Bug: clients who cannot get in, as after a change of certificates, go unnoticed.
#[tokio::test]
async fn connections_that_are_not_served_are_counted() {
    let (server, recorded) = recorded_server(&TestStore::new()).await;
    let mut tls = Raw::connect(server.local_addr()).await;
    // How TLS begins.
    tls.send(b"\x16\x03\x01\x00\x05hello").await;
    let handshake = [("reason", "handshake")];
    let refused = || recorded.sum("kvquorum_http_server_refused_total", &handshake);
    until(async || refused() == 1.0).await;
}

/// Bugs: what is refused is not counted, or for another reason; nor is what the
/// store fails at.
#[tokio::test]
async fn what_a_server_refuses_is_counted_by_reason() {
    let store = TestStore::new();
    let (server, recorded) = recorded_server(&store).await;
    let to = server.local_addr();
    let refused =
        |reason| recorded.sum("kvquorum_http_server_refused_total", &[("reason", reason)]);
    let transport = HttpTransport::new(to).unwrap();
    let long = "k".repeat(2_000);
    call(&transport, read("")).await.unwrap();
    call(&transport, read(&long)).await.unwrap();
    call(&transport, write("k", 1, &"v".repeat(1_050_000)))
        .await
        .unwrap();
    call(&transport, write("k", u64::MAX >> 17, "v"))
        .await
        .unwrap();
    for reason in [
        "empty_key",
        "key_too_long",
        "value_too_large",
        "too_far_ahead",
    ] {
        assert_eq!(refused(reason), 1.0, "{reason}");
    }

    let asked = [
        (post("/write", "no JSON"), "bad_request"),
        (get_path("/nowhere").into(), "no_route"),
        (get_path("/write").into(), "method"),
        (post("/v2/call", requests(vec![""; 1025])), "too_large"),
        (
            headed("GET /read/k", "origin: https://evil.example"),
            "forbidden",
        ),
        (
            headed("POST /v2/call", "content-type: text/plain"),
            "content_type",
        ),
        (
            "GET /read/k HTTP/1.1\r\nhost: evil.example\r\n\r\n".into(),
            "misdirected",
        ),
    ];
    for (request, reason) in asked {
        let before = refused(reason);
        Raw::connect(to).await.ask(request).await;
        assert_eq!(refused(reason), before + 1.0, "{reason}");
    }

    store.set_on_fire();
    call(&transport, read("k")).await.unwrap_err();
    Raw::connect(to).await.ask(get_path("/read/k")).await;
    let failures = recorded.sum("kvquorum_http_server_store_failures_total", &[]);
    assert_eq!(failures, 2.0);
    for (name, is_described) in recorded.names() {
        assert!(is_described, "{name}");
    }
}
