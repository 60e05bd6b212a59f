//! What becomes of the calls of an exchange that fails, or that nobody waits for.

use super::*;

/// A batch of two that is under way, alone on its connection.
async fn two(played: &mut Played, replica: &HttpTransport) -> (Exchange, [Call; 2]) {
    let call = |key: &'static str| -> Call {
        let replica = replica.clone();
        replica.call(&read(key))
    };
    let mut first = call("first");
    let exchange = played.single(&mut first).await;
    let mut calls = [call("a"), call("b")];
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    exchange.answers_all().await;
    finds(first, "first").await;
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["a", "b"]);
    (exchange, calls)
}

#[tokio::test]
async fn a_connection_that_breaks_costs_those_that_had_no_answer() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (mut exchange, [a, b]) = two(&mut played, &replica).await;
    exchange.begins().await;
    exchange.chunk(reply(1, value_reply("b"))).await;
    finds(b, "b").await;
    drop(exchange);
    let error = no_answer(in_time(a).await);
    assert!(matches!(error, HttpError::Connection(_)), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_costs_those_that_had_none() {
    let twice = [reply(1, value_reply("b")), reply(1, value_reply("b"))].concat();
    let of_nobody = [reply(1, value_reply("b")), reply(2, value_reply("b"))].concat();
    let missing = reply(1, value_reply("b"));
    let half = [reply(1, value_reply("b")), vec![0; 9]].concat();
    for (body, is_missing) in [
        (twice, false),
        (of_nobody, false),
        (missing, true),
        (half, false),
    ] {
        let mut played = Played::new().await;
        let replica = played.replica.clone();
        let (exchange, [a, b]) = two(&mut played, &replica).await;
        exchange.answers(answer("200 OK", body)).await;
        finds(b, "b").await;
        match no_answer(in_time(a).await) {
            HttpError::Unanswered => assert!(is_missing),
            HttpError::Decode(_) => assert!(!is_missing),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn each_call_has_its_own_failure() {
    let mut played = Played::with(|builder| builder.max_response_len(100)).await;
    let replica = played.replica.clone();
    for (bytes, expected) in [
        (&b"\x01\x02no"[..], "the replica's store failed"),
        (
            b"\x02\x02no",
            "rejected: the replica did not understand the request: no",
        ),
        (REFUSED, "Refused(EmptyKey)"),
        (b"\x00\x01", "no answer: the answer cannot be decoded"),
        (&[0; 101], "no answer: the answer has more than 100 bytes"),
    ] {
        let (exchange, [a, b]) = two(&mut played, &replica).await;
        let body = [reply(0, bytes), reply(1, value_reply("b"))].concat();
        exchange.answers(answer("200 OK", body)).await;
        assert_eq!(told(in_time(a).await), expected);
        finds(b, "b").await;
    }
    // None of that costs a connection.
    let (exchange, _calls) = two(&mut played, &replica).await;
    assert_eq!(exchange.connection, 0);
}

fn told(called: Called) -> String {
    match called {
        Ok(response) => format!("{response:?}"),
        Err(TransportError::Store(_)) => "the replica's store failed".into(),
        Err(TransportError::Rejected(error)) => format!("rejected: {error}"),
        Err(TransportError::NoAnswer(error)) => format!("no answer: {error}"),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test]
async fn a_status_is_for_all() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (exchange, calls) = two(&mut played, &replica).await;
    let who = nothing_stored("404 Not Found", "who?");
    exchange.answers(who).await;
    for call in calls {
        match in_time(call).await {
            Err(TransportError::Rejected(error)) => {
                assert_eq!(error.to_string(), "the peer answered 404 Not Found: who?");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_batch_on_a_pooled_connection_that_breaks_is_sent_once_more() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let (exchange, [a, b]) = two(&mut played, &replica).await;
    assert_eq!(exchange.connection, 0);
    drop(exchange);
    let exchange = played.exchange().await;
    assert_eq!((exchange.keys.len(), exchange.connection), (2, 1));
    // The first try may have arrived: that holds for each of them.
    let body = [reply(0, REFUSED), reply(1, value_reply("b"))].concat();
    exchange.answers(answer("200 OK", body)).await;
    finds(b, "b").await;
    let error = no_answer(in_time(a).await);
    assert!(matches!(error, HttpError::TriedTwice { .. }), "{error:?}");

    // Of a later era neither try counts, whatever was stored: that is to be known.
    let (exchange, [a, b]) = two(&mut played, &replica).await;
    drop(exchange);
    let exchange = played.exchange().await;
    let stale = b"\x00\x02\x07\x05";
    let body = [reply(0, stale), reply(1, value_reply("b"))].concat();
    exchange.answers(answer("200 OK", body)).await;
    finds(b, "b").await;
    let told = told(in_time(a).await);
    assert_eq!(told, "Refused(Stale { era: Era(5) })");

    // And not a third time.
    let (exchange, calls) = two(&mut played, &replica).await;
    drop(exchange);
    let exchange = played.exchange().await;
    drop(exchange);
    for call in calls {
        let error = no_answer(in_time(call).await);
        assert!(matches!(error, HttpError::Connection(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_batch_that_is_too_much_is_sent_one_by_one() {
    let mut played = Played::new().await;
    let replica = played.replica.clone();
    let too_much = || nothing_stored("413 Too Much", "");
    let (exchange, [a, b]) = two(&mut played, &replica).await;
    exchange.answers(too_much()).await;
    let [of_a, of_b] = one_by_one(&mut played).await;
    of_b.answers_all().await;
    finds(b, "b").await;
    of_a.answers(too_much()).await;
    let called = in_time(a).await;
    assert!(
        matches!(called, Err(TransportError::Rejected(_))),
        "{called:?}"
    );
}

/// The two exchanges in which the calls of a batch are sent again.
async fn one_by_one(played: &mut Played) -> [Exchange; 2] {
    let mut exchanges = [played.exchange().await, played.exchange().await];
    exchanges.sort_by_key(|exchange| exchange.keys.clone());
    let keys = exchanges.each_ref().map(|exchange| &exchange.keys[..]);
    assert_eq!(keys, [["a"], ["b"]]);
    exchanges
}

/// What became of the batch is unknown where the connection broke, or where it
/// may have been a proxy that answered: it is not called refused or rejected for
/// what became of a later try.
#[tokio::test]
async fn what_may_have_arrived_in_a_batch_is_never_called_not_applied() {
    for breaks in [false, true] {
        let mut played = Played::new().await;
        let replica = played.replica.clone();
        let (mut exchange, [a, b]) = two(&mut played, &replica).await;
        if breaks {
            drop(exchange);
            exchange = played.exchange().await;
            exchange.answers(nothing_stored("413 Too Much", "")).await;
        } else {
            exchange.answers(answer("413 Too Much", "")).await;
        }
        let [of_a, of_b] = one_by_one(&mut played).await;
        of_a.answers(nothing_stored("404 Not Found", "")).await;
        of_b.answers(answer("200 OK", reply(0, REFUSED))).await;
        for call in [a, b] {
            let error = no_answer(in_time(call).await);
            assert!(matches!(error, HttpError::TriedTwice { .. }), "{error:?}");
        }
    }
}

/// Each call of a batch that was sent again one by one took a connection, and
/// broke it, also where nobody waited for the call any more.
#[tokio::test]
async fn calls_of_a_split_batch_whose_callers_left_take_no_connection() {
    let mut played = Played::with(|builder| builder.max_connections(1)).await;
    let replica = played.replica.clone();
    let (exchange, calls) = two(&mut played, &replica).await;
    // It is queued before the two are again.
    let mut other = replica.call(&read("other"));
    assert!(polled(&mut other).await.is_none());
    exchange.answers(nothing_stored("413 Too Much", "")).await;
    let exchange = played.exchange().await;
    assert_eq!(exchange.keys, ["other"]);
    let connection = exchange.connection;
    drop(calls);
    exchange.answers_all().await;
    finds(other, "other").await;
    let mut next = replica.call(&read("next"));
    let exchange = played.single(&mut next).await;
    assert_eq!(exchange.connection, connection);
    exchange.answers_all().await;
    finds(next, "next").await;
}

#[tokio::test]
async fn when_nobody_waits_for_an_exchange_its_connection_is_closed() {
    // Before its answer begins, and after; with its permit given back.
    for begins in [false, true] {
        let mut played = Played::with(|builder| builder.max_connections(1)).await;
        let replica = played.replica.clone();
        let (mut exchange, [a, b]) = two(&mut played, &replica).await;
        if begins {
            exchange.begins().await;
        }
        drop(a);
        let mut later = replica.call(&read("later"));
        assert!(polled(&mut later).await.is_none());
        played.is_silent().await;
        drop(b);
        exchange.closed().await;
        let exchange = played.exchange().await;
        assert_eq!(exchange.keys, ["later"]);
        exchange.answers_all().await;
        finds(later, "later").await;
    }
}

#[test]
fn a_runtime_that_ends_takes_nothing_with_it_but_its_own_calls() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let replica = first.block_on(async {
        let mut played = Played::new().await;
        let replica = played.replica.clone();
        let first = tokio::spawn({
            let replica = replica.clone();
            async move { replica.call(&read("first")).await }
        });
        let _exchange = played.exchange().await;
        let mut queued = replica.call(&read("queued"));
        assert!(polled(&mut queued).await.is_none());
        // So that there is a sender when the runtime ends.
        std::mem::forget(played.exchanges);
        drop((first, queued));
        tokio::spawn({
            let replica = replica.clone();
            async move { replica.call(&read("queued")).await }
        });
        tokio::task::yield_now().await;
        replica
    });
    drop(first);
    runtime().block_on(async {
        // Nobody listens there any more; what counts is that it is tried.
        let called = call(&replica, read("k")).await;
        assert!(called.is_err(), "{called:?}");
    });
}
