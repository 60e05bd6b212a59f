//! Which calls share an exchange, and when it goes.

use super::*;

#[tokio::test]
async fn calls_that_come_while_an_exchange_is_under_way_share_the_next() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut first = replica.call(&read("first"));
    let exchange = played.single(&mut first).await;
    let (b, c, d) = (
        replica.call(&read("b")),
        replica.call(&read("c")),
        replica.call(&read("d")),
    );
    let mut queued = [b, c, d];
    for call in &mut queued {
        assert!(polled(call).await.is_none());
    }
    played.is_silent().await;
    exchange.answers_all().await;
    finds(first, "first").await;
    let shared = played.exchange().await;
    assert_eq!(shared.keys, ["b", "c", "d"]);
    // While that one is under way, too.
    let mut last = replica.call(&read("last"));
    assert!(polled(&mut last).await.is_none());
    played.is_silent().await;
    // They are answered in another order than they were made in.
    shared.answers_all().await;
    for (call, key) in queued.into_iter().zip(["b", "c", "d"]) {
        finds(call, key).await;
    }
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["last"]);
    exchange.answers_all().await;
    finds(last, "last").await;
}

#[tokio::test]
async fn a_call_with_nobody_to_share_goes_at_once() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    for round in 0..3 {
        // Before anything was queued, and after.
        for key in ["a", "b"] {
            let mut call = replica.call(&read(key));
            let exchange = played.single(&mut call).await;
            exchange.answers_all().await;
            finds(call, key).await;
        }
        let mut first = replica.call(&read("first"));
        let exchange = played.single(&mut first).await;
        let mut queued = replica.call(&read("queued"));
        assert!(polled(&mut queued).await.is_none());
        exchange.answers_all().await;
        finds(first, "first").await;
        let exchange = played.exchange().await;
        assert_eq!(exchange.connection, 0, "in round {round}");
        exchange.answers_all().await;
        finds(queued, "queued").await;
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_lets_the_next_exchange_go() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut slow = replica.call(&read("slow"));
    let mut alone = played.single(&mut slow).await;
    let mut b = replica.call(&read("b"));
    assert!(polled(&mut b).await.is_none());
    alone.begins().await;
    // Its head has to be read.
    let mut shared = played.exchange_beside(&mut slow).await;
    assert_eq!(
        (&shared.keys[..], shared.connection),
        (&["b".to_owned()][..], 1)
    );
    // And so does one of several.
    let mut c = replica.call(&read("c"));
    assert!(polled(&mut c).await.is_none());
    shared.begins().await;
    let exchange = played.exchange().await;
    assert_eq!(
        (&exchange.keys[..], exchange.connection),
        (&["c".to_owned()][..], 2)
    );
    exchange.answers_all().await;
    finds(c, "c").await;
    for (exchange, key) in [(&mut alone, "slow"), (&mut shared, "b")] {
        exchange.chunk(reply(0, value_reply(key))).await;
        exchange.chunk("").await;
    }
    finds(b, "b").await;
    finds(slow, "slow").await;
}

#[tokio::test]
async fn calls_are_queued_for_no_longer_than_the_limit() {
    let mut played = Played::with(|builder| builder.batch_wait(SHORT)).await;
    let replica = played.replica.clone();
    // Sent, and then neither answered nor driven.
    let mut at_rest = replica.call(&read("at rest"));
    let _silent = played.single(&mut at_rest).await;
    let mut silent = Vec::new();
    for key in ["b", "c"] {
        let mut call = replica.call(&read(key));
        assert!(polled(&mut call).await.is_none());
        let exchange = played.exchange().await;
        assert_eq!(exchange.keys, [key]);
        silent.push((call, exchange));
    }
    for (call, exchange) in silent {
        let key = exchange.keys[0].clone();
        exchange.answers_all().await;
        finds(call, &key).await;
    }
}

#[tokio::test]
async fn a_queued_call_that_is_dropped_is_not_sent() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut first = replica.call(&read("first"));
    let exchange = played.single(&mut first).await;
    let keys = ["a", "b", "c", "d"];
    let mut calls: Vec<_> = keys.iter().map(|key| replica.call(&read(key))).collect();
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    drop(calls.remove(1));
    drop(calls.pop());
    exchange.answers_all().await;
    finds(first, "first").await;
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["a", "c"]);
    exchange.answers_all().await;
    for (call, key) in calls.into_iter().zip(["a", "c"]) {
        finds(call, key).await;
    }
}

#[tokio::test]
async fn an_inline_call_that_is_dropped_strands_nobody() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let mut first = replica.call(&read("first"));
    let mut exchange = played.single(&mut first).await;
    let mut queued = replica.call(&read("queued"));
    assert!(polled(&mut queued).await.is_none());
    drop(first);
    exchange.closed().await;
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["queued"]);
    exchange.answers_all().await;
    finds(queued, "queued").await;
}

/// An inline call held its ack back for up to a second, for the formal end of the
/// body.
#[tokio::test]
async fn an_answer_is_given_before_the_body_has_ended() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    for _ in 0..2 {
        let mut call = replica.call(&read("k"));
        let mut exchange = played.single(&mut call).await;
        let begun = Instant::now();
        exchange.begins().await;
        exchange.chunk(reply(0, value_reply("k"))).await;
        finds(call, "k").await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        // The connection is of use for more once it has.
        assert_eq!(exchange.connection, 0);
        exchange.chunk("").await;
        tokio::spawn(Exchange::read(exchange.stream, 0, exchange.exchanges));
        // This lets the transport hear of it.
        tokio::time::sleep(SHORT).await;
    }
}

/// Whoever waits for a permit or a connection has to be sure to run: a caller's
/// future that was begun and is not polled held what others waited for.
#[tokio::test]
async fn calls_that_nobody_polls_hold_up_no_others() {
    let large = "x".repeat(100_000);
    type Settings = fn(HttpTransportBuilder) -> HttpTransportBuilder;
    let all: [Settings; 4] = [
        |it| it,
        |it| it.max_batch(1),
        |it| it.max_batch_bytes(1000),
        |it| it.max_connections(1),
    ];
    for set in all {
        let (server, _store) = serve().await;
        let builder = HttpTransport::builder(server.local_addr());
        let builder = builder.max_connections(2).batch_wait(SHORT / 10);
        let replica = set(builder).build().unwrap();
        // Begun in one order or another with those that are polled.
        let mut at_rest = Vec::new();
        for nth in 0..300 {
            let mut call = replica.call(&write(&nth.to_string(), 1, &large));
            if nth % 10 == 0 {
                tokio::task::yield_now().await;
            }
            let _ = polled(&mut call).await;
            at_rest.push(call);
        }
        for key in ["a", "b", "c"] {
            let (one, other) = tokio::join!(
                call(&replica, write(key, 1, key)),
                call(&replica, write(key, 1, key))
            );
            assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
            assert_eq!(call(&replica, read(key)).await.unwrap(), found(key));
        }
        // They have their answers, too, whenever they ask.
        for call in at_rest.drain(..).rev() {
            let merged = in_time(call).await.unwrap();
            assert_eq!(merged, Response::Ack(Ack::Applied));
        }
    }
}
