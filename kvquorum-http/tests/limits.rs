//! What the server's clients share: connections, memory, and the places of its
//! store. Whoever does not use them makes room.

// In a test a panic is how a broken promise shows.

mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::*;
use kvquorum_core::{Entry, Response, TransportError};
use kvquorum_http::Server;
use tokio::io::AsyncReadExt;

const MIB: usize = 1024 * 1024;

/// Asks for so many values of 1 MiB in one batch, and reads no more than the
/// head of the answer.
async fn deaf(to: SocketAddr, store: &TestStore, count: usize) -> Raw {
    store.insert("k", Entry::new(version(1), vec![b'x'; MIB]));
    let mut deaf = Raw::connect(to).await;
    let batch = vec![b"\x00\x01k"; count];
    let answer = deaf.ask(post("/v2/call", requests(batch))).await;
    assert!(answer.is_chunked);
    deaf
}

/// Catches requests that are polled only as their answer is read: the permit of
/// the store's gate would fall to one that nobody polls.
#[tokio::test]
async fn a_request_that_has_begun_runs_to_its_end_whether_or_not_the_answer_is_read() {
    let store = TestStore::gated();
    let server = serve_store(&store).await;
    let _deaf = deaf(server.local_addr(), &store, 60).await;
    for _ in 0..60 {
        store.called().await;
    }
    let other = transport(server.local_addr());
    let other = tokio::spawn(async move { call(&other, read("other")).await });
    store.called().await;
    // It goes from one call to the next.
    store.gate.add_permits(1);
    assert_eq!(other.await.unwrap().unwrap(), Response::Entry(None.into()));
}

/// Catches answers without a bound on what they take together, and a client
/// that does not read and so keeps others from being answered.
#[tokio::test]
async fn answers_that_are_not_read_have_one_budget_and_make_room() {
    let store = TestStore::gated();
    let service = settings(&store).max_total_answer_len(8 * MIB).build();
    let server = Server::builder()
        .write_timeout(NEVER)
        .bind("127.0.0.1:0", service)
        .await
        .unwrap();
    let mut deaf = deaf(server.local_addr(), &store, 64).await;
    store.gate.add_permits(1);
    let other = transport(server.local_addr());
    let mut refused = 0;
    until(async || match call(&other, read("k")).await {
        Ok(Response::Entry(held)) => held.entry.is_some(),
        Err(TransportError::Store(error)) => {
            let said = std::error::Error::source(&error).unwrap().to_string();
            assert!(said.contains("no memory"), "{said}");
            refused += 1;
            false
        }
        answered => panic!("{answered:?}"),
    })
    .await;
    assert!(refused > 0, "there was memory for all");
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = in_time(deaf.stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < 64 * MIB && !rest.ends_with(b"\r\n0\r\n\r\n"));
}

/// Catches bodies without a bound on what they take together, and bodies that
/// stop half-way and keep others from being read.
#[tokio::test]
async fn bodies_under_way_have_one_budget_and_the_oldest_makes_room() {
    let store = TestStore::new();
    let service = settings(&store)
        .max_total_body_len(4 * MIB)
        .body_timeout(NEVER)
        .build();
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let body = |at: usize| {
        let value = "x".repeat(MIB - 100);
        post(
            "/write",
            format!("{{\"key\":\"{at}\",\"value\":\"{value}\",\"timestamp\":1}}"),
        )
    };
    let mut stalled = Vec::new();
    for at in 0..4 {
        let mut client = Raw::connect(server.local_addr()).await;
        let half = body(at);
        client.send(&half[..half.len() / 2]).await;
        // So that it is plain which is the oldest.
        tokio::time::sleep(SHORT / 4).await;
        stalled.push(client);
    }
    let mut whole = Raw::connect(server.local_addr()).await;
    assert_eq!(whole.ask(body(4)).await.status, 200);
    let answer = stalled[0].answer().await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(answer.error().contains("no memory"), "{answer:?}");
    // The others go on: there is room for them.
    for (at, client) in stalled.iter_mut().enumerate().skip(1) {
        let whole = body(at);
        let answer = client.ask(&whole[whole.len() / 2..]).await;
        assert_eq!(answer.status, 200);
    }
    assert_eq!(store.entries().len(), 4);
    answers(server.local_addr()).await;
}

/// Catches bodies that wait for memory without a limit.
#[tokio::test]
async fn a_body_waits_for_memory_no_longer_than_a_body_may_take() {
    let store = TestStore::gated();
    let service = settings(&store)
        .max_total_body_len(MIB / 2)
        .body_timeout(SHORT)
        .build();
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let body = format!(
        "{{\"key\":\"k\",\"value\":\"{}\",\"timestamp\":1}}",
        "x".repeat(MIB / 2)
    );
    let mut at_store = Raw::connect(server.local_addr()).await;
    at_store.send(post("/write", &body)).await;
    store.called().await;
    let mut waits = Raw::connect(server.local_addr()).await;
    let answer = waits.ask(post("/write", &body)).await;
    assert_eq!(answer.status, 503);
    waits.closed().await;
    store.gate.add_permits(1);
    assert_eq!(at_store.answer().await.unwrap().status, 200);
    assert_eq!(at_store.ask(post("/write", &body)).await.status, 200);
}

/// Catches a time limit that begins anew with each chunk that was read.
#[tokio::test]
async fn the_time_for_reading_an_answer_is_for_all_of_it() {
    let store = TestStore::new();
    let builder = Server::builder()
        .max_connections(1)
        .write_timeout(5 * SHORT);
    let server = start(builder, &store).await;
    // At the pace below each value takes a small part of the time, and all of
    // them longer than a test may.
    let begun = Instant::now();
    let mut slow = deaf(server.local_addr(), &store, 1024).await;
    let mut got = 0;
    let reads = async {
        let mut little = vec![0; MIB / 4];
        while let Ok(len @ 1..) = slow.stream.read(&mut little).await {
            got += len;
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    // It is cut off, in its time, and the newcomer has its place.
    let served = async {
        answers(server.local_addr()).await;
        begun.elapsed()
    };
    let ((), took) = tokio::join!(in_time(reads), served);
    assert!(took >= 5 * SHORT, "it had {took:?}");
    assert!(0 < got && got < 1024 * MIB, "{got} bytes were read");
}

/// Catches connections that stay in the middle of a head when they have to make
/// room or the server stops.
#[tokio::test]
async fn half_sent_heads_keep_nobody_out_and_hold_up_no_shutdown() {
    let store = TestStore::new();
    let builder = Server::builder()
        .max_connections(8)
        .head_timeout(NEVER)
        .shutdown_timeout(NEVER);
    let server = start(builder, &store).await;
    let mut half = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::connect(server.local_addr()).await;
        client
            .send("POST /write HTTP/1.1\r\nhost: 127.0.0.1\r\ncont")
            .await;
        half.push(client);
    }
    for _ in 0..4 {
        answers(server.local_addr()).await;
    }
    half[0].closed().await;
    assert_eq!(in_time(server.shutdown()).await, 0);
    half[7].closed().await;
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_until_another_is_answered() {
    let store = TestStore::gated();
    let builder = Server::builder().max_connections(2).head_timeout(NEVER);
    let server = start(builder, &store).await;
    let mut busy = Vec::new();
    for _ in 0..2 {
        let mut client = Raw::connect(server.local_addr()).await;
        client.send(get_path("/read/k")).await;
        store.called().await;
        busy.push(client);
    }
    let mut third = Raw::connect(server.local_addr()).await;
    third.send(get_path("/read/k")).await;
    let early = tokio::time::timeout(2 * SHORT, store.called()).await;
    assert!(early.is_err(), "a third connection is served");
    store.gate.add_permits(1);
    assert_eq!(third.answer().await.unwrap().status, 200);
    // Whoever made room was told so together with its answer.
    let mut told = 0;
    for client in &mut busy {
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        if answer.header("connection") == Some("close") {
            told += 1;
            client.closed().await;
        } else {
            assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
        }
    }
    assert!(told > 0, "it was there already");
}

#[tokio::test]
async fn idle_connections_make_room_for_others_the_longest_idle_first() {
    let store = TestStore::new();
    let builder = Server::builder().max_connections(8).head_timeout(NEVER);
    let server = start(builder, &store).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::connect(server.local_addr()).await;
        assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
        idle.push(client);
        // So that it is plain which is idle for longer.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..3 {
        let mut newcomer = Raw::connect(server.local_addr()).await;
        assert_eq!(newcomer.ask(get_path("/read/k")).await.status, 200);
        idle.remove(0).closed().await;
        idle.push(newcomer);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for client in &mut idle {
        assert_eq!(client.ask(get_path("/read/k")).await.status, 200);
    }
}

#[tokio::test]
async fn the_pool_of_one_client_does_not_lock_out_another() {
    let store = TestStore::gated();
    let builder = Server::builder().max_connections(8).head_timeout(NEVER);
    let server = start(builder, &store).await;
    let pooled = unbatched(server.local_addr());
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let pooled = pooled.clone();
            tokio::spawn(async move { call(&pooled, read("k")).await.unwrap() })
        })
        .collect();
    for _ in 0..8 {
        store.called().await;
    }
    store.gate.add_permits(8);
    for call in calls {
        call.await.unwrap();
    }
    answers(server.local_addr()).await;
    call(&pooled, write("k", 1, "v")).await.unwrap();
}

#[tokio::test]
async fn silent_clients_do_not_keep_others_out() {
    let store = TestStore::new();
    let builder = Server::builder().max_connections(2).head_timeout(SHORT);
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
    let builder = Server::builder().max_connections(1).write_timeout(SHORT);
    let server = start(builder, &store).await;
    let mut deaf = Raw::connect(server.local_addr()).await;
    // More than the sockets' buffers can hold.
    deaf.send(get_path("/read/large").repeat(32)).await;
    answers(server.local_addr()).await;
}

#[tokio::test]
async fn a_client_that_reads_a_little_now_and_then_does_not_keep_others_out() {
    let store = TestStore::new();
    // At the pace below, a steady one, it would take longer than a test may.
    let large = format!("\"{}\"", "x".repeat(128 * 1024 * 1024));
    store.insert("large", Entry::new(version(1), large));
    let builder = Server::builder()
        .max_connections(1)
        .write_timeout(2 * SHORT);
    let server = start(builder, &store).await;
    let mut slow = Raw::connect(server.local_addr()).await;
    slow.send(get_path("/read/large")).await;
    let mut got = 0;
    let reads = async {
        let mut little = vec![0; 128 * 1024];
        while let Ok(len @ 1..) = slow.stream.read(&mut little).await {
            got += len;
            tokio::time::sleep(SHORT / 8).await;
        }
    };
    // It is cut off, and the newcomer has its place.
    tokio::join!(in_time(reads), answers(server.local_addr()));
    assert!(0 < got && got < 128 * 1024 * 1024, "{got} bytes were read");
}

#[tokio::test]
async fn a_connection_with_a_streamed_answer_does_not_make_room() {
    let store = TestStore::gated();
    let builder = Server::builder().max_connections(2).head_timeout(NEVER);
    let server = start(builder, &store).await;
    let addr = server.local_addr();
    // So long ago that it would be the first to go if it were idle.
    let mut busy = streamed(addr, &store).await;
    tokio::time::sleep(SHORT).await;
    let mut idle = Raw::connect(addr).await;
    assert_eq!(idle.ask(get_path("/none")).await.status, 404);
    let mut newcomer = Raw::connect(addr).await;
    assert_eq!(newcomer.ask(get_path("/none")).await.status, 404);
    idle.closed().await;
    store.gate.add_permits(1);
    let mut body = Vec::new();
    while let Some(chunk) = busy.chunk().await {
        body.extend(chunk);
    }
    assert_eq!(replies(&body).len(), 2);
    assert_eq!(busy.ask(get_path("/none")).await.status, 404);
}
