//! Each thing that is counted moves when it happens.

#![allow(clippy::float_cmp, reason = "a test, which counts to few")]

mod common;

use std::net::SocketAddr;

use bytes::Bytes;
use common::{
    Raw, SHORT, Stub, TestStore, call, get_path, in_time, post, read, requests, settings, until,
    write,
};
use kvquorum_core::{Replica, Transport};
use kvquorum_http::{HttpTransport, HttpTransportBuilder, ReplicaService, Server};
use kvquorum_testing::Recorded;
use tokio::io::AsyncWriteExt;

/// A server over a store, and what is recorded of it.
async fn recorded_server(store: &TestStore) -> (Server, Recorded) {
    let (service, recorded) = Recorded::of(|| ReplicaService::new(Replica::new(store.clone())));
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
    let server = Server::bind("127.0.0.1:0", Replica::new(store.clone()));
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
    let labels = [("replica", &*addr.to_string())];
    let calls = recorded.all("kvquorum_http_client_exchange_calls", &labels);
    assert_eq!(calls, [1.0, 2.0]);
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
    assert_eq!(recorded.all("kvquorum_http_server_batch_calls", &[]), [1.0]);
    for route in ["write", "read", "call"] {
        let name = "kvquorum_http_server_request_duration_seconds";
        assert_eq!(recorded.all(name, &[("route", route)]).len(), 1, "{route}");
    }
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
        (post("/v1/call", requests(vec![""; 1025])), "too_large"),
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

/// Bugs: a route of the application's hides one of the replica's; it answers other
/// methods and longer paths; its body is not read over.
#[tokio::test]
async fn an_application_answers_further_paths() {
    let store = TestStore::new();
    let service = settings(&store).route("/health", || async {
        hyper::Response::new(Bytes::from_static(b"well"))
    });
    let server = Server::bind("127.0.0.1:0", service.build()).await.unwrap();
    let mut client = Raw::connect(server.local_addr()).await;
    let health = client.ask(get_path("/health?full")).await;
    assert_eq!((health.status, &*health.body), (200, "well"));
    assert_eq!(client.ask(post("/health", "")).await.status, 404);
    assert_eq!(client.ask(get_path("/health/more")).await.status, 404);
    assert_eq!(client.ask(get_path("/read/health")).await.status, 200);
}
