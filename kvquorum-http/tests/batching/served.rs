//! Calls that share exchanges with a server of this crate.

use super::*;

/// A server some of whose calls hang or fail, and a transport that queues calls for
/// as long as it takes.
async fn picky() -> (Server, HttpTransport) {
    let server = Server::bind("127.0.0.1:0", Replica::new(Picky::new()).of_new_cluster()).await;
    let server = server.unwrap();
    let replica = HttpTransport::builder(server.local_addr())
        .batch_wait(NEVER)
        .build()
        .unwrap();
    (server, replica)
}

#[tokio::test]
async fn a_call_that_hangs_or_fails_or_is_refused_concerns_no_other() {
    let (server, replica) = picky().await;
    let mut first = replica.call(&write("first", 1, "v"));
    assert!(polled(&mut first).await.is_none());
    let requests = ["a", "hangs", "fails", "", "b"].map(|key| write(key, 1, key));
    let mut calls = requests.map(|request| replica.call(&request));
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    in_time(first).await.unwrap();
    let [a, mut hangs, fails, refused, b] = calls;
    for call in [a, b] {
        assert_eq!(in_time(call).await.unwrap(), Response::Ack(Ack::Applied));
    }
    let failed = in_time(fails).await;
    assert!(
        matches!(failed, Err(TransportError::Store(_))),
        "{failed:?}"
    );
    assert_eq!(
        in_time(refused).await.unwrap(),
        Response::Refused(Refusal::EmptyKey)
    );
    // Nor those that come later, alone or together.
    for key in ["a", "b"] {
        assert_eq!(call(&replica, read(key)).await.unwrap(), found(key));
    }
    let (one, other) = tokio::join!(call(&replica, read("a")), call(&replica, read("b")));
    assert_eq!((one.unwrap(), other.unwrap()), (found("a"), found("b")));
    assert!(polled(&mut hangs).await.is_none());
    drop(hangs);
    assert_eq!(in_time(server.shutdown()).await, 0);
}

#[tokio::test]
async fn an_inline_call_that_hangs_holds_up_nobody() {
    let (_server, replica) = picky().await;
    let hangs = tokio::spawn({
        let replica = replica.clone();
        async move { replica.call(&read("hangs")).await }
    });
    tokio::task::yield_now().await;
    for nth in 1..5 {
        call(&replica, write("k", nth, "v")).await.unwrap();
    }
    assert!(!hangs.is_finished());
    hangs.abort();
}

#[tokio::test]
async fn large_values_share_an_exchange_both_ways() {
    let (server, _store) = serve().await;
    let replica = HttpTransport::builder(server.local_addr())
        .batch_wait(NEVER)
        .max_batch_bytes(1 << 20)
        .build()
        .unwrap();
    let values = [100_000, 0, 20_000, 300_000, 5, 16 * 1024].map(|len| "x".repeat(len));
    let key = |at: usize| at.to_string();
    for reads in [false, true] {
        let mut first = replica.call(&read("first"));
        assert!(polled(&mut first).await.is_none());
        let mut calls = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let request = if reads {
                read(&key(at))
            } else {
                write(&key(at), 1, value)
            };
            let mut call = replica.call(&request);
            assert!(polled(&mut call).await.is_none());
            calls.push(call);
        }
        in_time(first).await.unwrap();
        for (call, value) in calls.into_iter().zip(&values) {
            let expected = if reads {
                found(value)
            } else {
                Response::Ack(Ack::Applied)
            };
            assert!(in_time(call).await.unwrap() == expected);
        }
    }
}

/// Many calls with few connections, of which some are dropped at whatever they
/// are at: no permit and no answer gets lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_that_come_and_go_leave_nothing_behind() {
    let (server, _store) = serve().await;
    let replica = HttpTransport::builder(server.local_addr())
        .batch_wait(NEVER)
        .max_batch(4)
        .max_connections(2)
        .build()
        .unwrap();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let replica = replica.clone();
            tokio::spawn(async move {
                for nth in 1..=100 {
                    let value = format!("{task} {nth}");
                    let key = task.to_string();
                    call(&replica, write(&key, nth, &value)).await.unwrap();
                    let mut dropped = replica.call(&read("other"));
                    for _ in 0..nth % 5 {
                        if polled(&mut dropped).await.is_some() {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    drop(dropped);
                    let read = call(&replica, read(&key)).await.unwrap();
                    let entry = Entry::new(version(nth), value);
                    assert_eq!(read, Response::Entry(Some(entry).into()));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    // All permits are there.
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let replica = replica.clone();
            tokio::spawn(async move { call(&replica, read("other")).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
