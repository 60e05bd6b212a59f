//! The transport's connections: which are used again, and what a call comes to
//! where one breaks.

// In a test a panic is how a broken promise shows.

mod common;

use std::collections::HashSet;
use std::sync::Arc;

use common::*;
use kvquorum_core::{Ack, Entry, Refusal, Response, Transport, TransportError};
use kvquorum_http::{HttpError, HttpTransport, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

#[tokio::test]
async fn a_pooled_connection_that_breaks_is_replaced_once() {
    let stub = closes_on_second_request(|mut stream: TcpStream| async move {
        stream.write_all(&applied()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let replica = transport(stub.addr);
    for _ in 0..2 {
        let merged = call(&replica, write("k", 1, "v")).await.unwrap();
        assert_eq!(merged, Response::Ack(Ack::Applied));
    }
}

#[tokio::test]
async fn what_may_have_been_sent_is_never_reported_as_not_sent() {
    // The first try on the pooled connection arrives, and is lost. What the
    // second comes to says nothing about the first.
    let second_try = |bytes: Vec<u8>| {
        closes_on_second_request(move |mut stream: TcpStream| {
            let bytes = bytes.clone();
            async move {
                stream.write_all(&bytes).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
    };
    for (bytes, name) in [
        (nothing_stored("404 Not Found", ""), "rejected"),
        (answer("408 Request Timeout", ""), "too late"),
        (refused(), "refused"),
        (b"nonsense\r\n\r\n".to_vec(), "nonsense"),
    ] {
        let stub = second_try(bytes).await;
        let replica = transport(stub.addr);
        call(&replica, write("k", 1, "v")).await.unwrap();
        let error = call(&replica, write("k", 2, "v")).await.unwrap_err();
        assert!(
            matches!(error, TransportError::NoAnswer(_)),
            "{name}: {error:?}"
        );
        match cause(&error) {
            HttpError::TriedTwice { first, second } => {
                assert!(matches!(**first, HttpError::Connection(_)), "{first:?}");
                match &**second {
                    HttpError::Refused(Refusal::EmptyKey) => assert_eq!(name, "refused"),
                    HttpError::Status { .. } => assert_eq!(name, "rejected"),
                    other => panic!("{name}: {other:?}"),
                }
            }
            HttpError::Status { .. } => assert_eq!(name, "too late"),
            HttpError::Connection(_) => assert_eq!(name, "nonsense"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn nor_where_nobody_listens_any_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let replica = transport(listener.local_addr().unwrap());
    let peer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut stream).await);
        stream.write_all(&applied()).await.unwrap();
        assert!(read_request(&mut stream).await);
        drop(listener);
    });
    call(&replica, write("k", 1, "v")).await.unwrap();
    let error = call(&replica, write("k", 2, "v")).await.unwrap_err();
    in_time(peer).await.unwrap();
    assert!(matches!(error, TransportError::NoAnswer(_)), "{error:?}");
    let HttpError::TriedTwice { second, .. } = cause(&error) else {
        panic!("{error:?}");
    };
    assert!(matches!(**second, HttpError::Connect(_)), "{second:?}");
}

#[tokio::test]
async fn calls_outlive_a_restart_of_the_server() {
    let store = TestStore::new();
    let mut server = serve_store(&store).await;
    let addr = server.local_addr();
    let replica = transport(addr);
    for millis in 1..5 {
        // A pool of several, all of which the restart kills.
        let calls = (0..8).map(|nth| {
            let replica = replica.clone();
            tokio::spawn(async move { call(&replica, write(&nth.to_string(), millis, "v")).await })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap().unwrap();
        }
        server.shutdown().await;
        server = Server::bind(addr, service(&store)).await.unwrap();
    }
}

#[tokio::test]
async fn a_close_that_could_be_noticed_leaves_nothing_in_doubt() {
    let (server, _store) = serve().await;
    let replica = transport(server.local_addr());
    call(&replica, write("k", 1, "v")).await.unwrap();
    server.shutdown().await;
    // The close is there; this lets the runtime hear of it.
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    let error = call(&replica, write("k", 2, "v")).await.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
}

#[tokio::test]
async fn a_connection_idle_for_too_long_is_not_used_again() {
    let stub = Stub::new(|_, mut stream| async move {
        // A second request on this connection would get no answer.
        stream.write_all(&applied()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let replica = HttpTransport::builder(stub.addr)
        .idle_timeout(std::time::Duration::ZERO)
        .build()
        .unwrap();
    for _ in 0..3 {
        call(&replica, write("k", 1, "v")).await.unwrap();
    }
    assert_eq!(stub.requests.available_permits(), 3);
}

/// Plays one connection: an ack for each request for which there is a permit.
async fn acks(mut stream: TcpStream, permits: &Semaphore) {
    while let Ok(permit) = permits.acquire().await {
        permit.forget();
        if stream.write_all(&applied()).await.is_err() || !read_request(&mut stream).await {
            return;
        }
    }
}

/// A stub on whose first connections, one for each semaphore, requests are
/// acked as there are permits, and on all later ones at once. The pool of the
/// transport to it holds those first ones, the last one on top.
async fn pooled(permits: Vec<Arc<Semaphore>>) -> (Stub, HttpTransport) {
    let connections = permits.clone();
    let stub = Stub::new(move |nth, stream| {
        let later = || Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let permits = connections.get(nth).cloned().unwrap_or_else(later);
        async move { acks(stream, &permits).await }
    })
    .await;
    let replica = unbatched(stub.addr);
    let mut calls = Vec::new();
    for _ in &permits {
        let replica = replica.clone();
        calls.push(tokio::spawn(async move {
            call(&replica, write("k", 1, "v")).await.unwrap();
        }));
        in_time(stub.requests.acquire()).await.unwrap().forget();
    }
    for (permits, call) in permits.iter().zip(calls) {
        permits.add_permits(1);
        call.await.unwrap();
    }
    (stub, replica)
}

fn no_permits(count: usize) -> Vec<Arc<Semaphore>> {
    (0..count).map(|_| Arc::new(Semaphore::new(0))).collect()
}

#[tokio::test]
async fn a_silent_break_costs_one_call_and_not_one_for_each_connection() {
    // Each answers once, and then never again.
    let (_stub, replica) = pooled(no_permits(20)).await;
    let unanswered = tokio::time::timeout(SHORT, replica.call(&write("k", 2, "v"))).await;
    assert!(unanswered.is_err(), "this connection is broken");
    call(&replica, write("k", 2, "v")).await.unwrap();
}

#[tokio::test]
async fn a_dropped_call_does_not_cost_connections_used_since_it_began() {
    let permits = no_permits(2);
    let (stub, replica) = pooled(permits.clone()).await;
    // It takes the last connection, and the next call takes the one below.
    let mut slow = Box::pin(replica.call(&write("k", 2, "v")));
    let begun = tokio::time::timeout(SHORT, &mut slow).await;
    assert!(begun.is_err(), "this connection has no permit");
    permits[0].add_permits(1);
    call(&replica, write("k", 2, "v")).await.unwrap();
    drop(slow);
    permits[0].add_permits(1);
    call(&replica, write("k", 3, "v")).await.unwrap();
    // No third connection was opened, whose first request would count here.
    assert_eq!(stub.requests.available_permits(), 0);
}

#[tokio::test]
async fn nor_does_a_connection_that_breaks() {
    let permits = no_permits(2);
    let (stub, replica) = pooled(permits.clone()).await;
    let lost = {
        let replica = replica.clone();
        tokio::spawn(async move { call(&replica, write("k", 2, "v")).await })
    };
    tokio::time::sleep(SHORT).await;
    permits[0].add_permits(1);
    call(&replica, write("k", 2, "v")).await.unwrap();
    // The stub closes it, and the retry opens a third.
    permits[1].close();
    lost.await.unwrap().unwrap();
    permits[0].add_permits(1);
    let (one, other) = tokio::join!(
        call(&replica, write("k", 3, "v")),
        call(&replica, write("k", 3, "v"))
    );
    one.unwrap();
    other.unwrap();
    assert_eq!(stub.requests.available_permits(), 1);
}

#[tokio::test]
async fn connections_are_used_again() {
    let connections = Arc::new(Semaphore::new(0));
    let opened = connections.clone();
    let stub = Stub::new(move |_, mut stream| {
        opened.add_permits(1);
        async move {
            loop {
                stream.write_all(&applied()).await.unwrap();
                if !read_request(&mut stream).await {
                    return;
                }
            }
        }
    })
    .await;
    let replica = transport(stub.addr);
    for _ in 0..50 {
        call(&replica, write("k", 1, "v")).await.unwrap();
    }
    assert_eq!(connections.available_permits(), 1);
}

#[tokio::test]
async fn a_dropped_call_gives_back_its_permit_and_its_connection() {
    let closed = Arc::new(Semaphore::new(0));
    let closes = closed.clone();
    let stub = Stub::new(move |nth, mut stream| {
        let closes = closes.clone();
        async move {
            if nth < 3 {
                // No answer, until the caller hangs up.
                let _ = stream.read_to_end(&mut Vec::new()).await;
                closes.add_permits(1);
            } else {
                stream.write_all(&applied()).await.unwrap();
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    })
    .await;
    let replica = HttpTransport::builder(stub.addr)
        .max_connections(1)
        .build()
        .unwrap();
    for _ in 0..3 {
        tokio::select! {
            answered = replica.call(&write("k", 1, "v")) => panic!("{answered:?}"),
            arrived = in_time(stub.requests.acquire()) => arrived.unwrap().forget(),
        }
        in_time(closed.acquire()).await.unwrap().forget();
    }
    call(&replica, write("k", 1, "v")).await.unwrap();
}

#[tokio::test]
async fn calls_beyond_the_bound_wait_for_a_permit() {
    let store = TestStore::gated();
    let server = serve_store(&store).await;
    let replica = HttpTransport::builder(server.local_addr())
        .max_batch(1)
        .max_connections(2)
        .build()
        .unwrap();
    let calls: Vec<_> = (0..5)
        .map(|nth| {
            let replica = replica.clone();
            tokio::spawn(async move { call(&replica, read(&nth.to_string())).await })
        })
        .collect();
    store.called().await;
    store.called().await;
    // Another call reaches the store only when one of these has ended.
    let third = tokio::time::timeout(SHORT, store.called()).await;
    assert!(third.is_err(), "more calls than connections");
    store.gate.add_permits(1);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_each_get_their_own_response() {
    let store = TestStore::gated();
    let server = serve_store(&store).await;
    let replica = transport(server.local_addr());
    let calls: Vec<_> = (1..=64)
        .map(|nth: u64| {
            let (replica, key) = (replica.clone(), nth.to_string());
            tokio::spawn(async move {
                call(&replica, write(&key, nth, &key)).await.unwrap();
                (nth, call(&replica, read(&key)).await.unwrap())
            })
        })
        .collect();
    // All are under way at once: none waits for another.
    for _ in 0..64 {
        store.called().await;
    }
    store.gate.add_permits(64);
    let mut seen = HashSet::new();
    for call in calls {
        let (nth, read) = call.await.unwrap();
        let entry = Entry::new(version(nth), nth.to_string());
        assert_eq!(read, Response::Entry(Some(entry).into()));
        seen.insert(nth);
    }
    assert_eq!(seen.len(), 64);
}
