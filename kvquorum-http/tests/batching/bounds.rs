//! How many calls share an exchange, and how many wait for theirs.

use super::*;

/// How calls with these keys and values go out that are queued while another is
/// under way.
async fn batches(
    set: impl FnOnce(HttpTransportBuilder) -> HttpTransportBuilder,
    values: &[usize],
) -> Vec<usize> {
    let mut played = Played::with(set).await;
    let replica = played.replica.clone();
    let mut first = replica.call(&read("first"));
    let exchange = played.single(&mut first).await;
    let request = |len: &usize| write("k", 1, &"x".repeat(*len));
    let mut calls: Vec<_> = values
        .iter()
        .map(|len| replica.call(&request(len)))
        .collect();
    for call in &mut calls {
        assert!(polled(call).await.is_none());
    }
    exchange.answers_all().await;
    finds(first, "first").await;
    let mut counts = Vec::new();
    let mut left = values.len();
    while left > 0 {
        let exchange = played.exchange().await;
        let count = exchange.keys.len();
        counts.push(count);
        left -= count;
        let body = (0..count).flat_map(|at| reply(at as u32, APPLIED));
        let body: Vec<u8> = body.collect();
        exchange.answers(answer("200 OK", body)).await;
    }
    for call in calls {
        assert_eq!(in_time(call).await.unwrap(), Response::Ack(Ack::Applied));
    }
    counts
}

#[tokio::test]
async fn a_batch_is_bounded_in_number() {
    assert_eq!(batches(|it| it.max_batch(2), &[1; 5]).await, [2, 2, 1]);
    assert_eq!(batches(|it| it.max_batch(5), &[1; 5]).await, [5]);
}

#[tokio::test]
async fn a_batch_is_bounded_in_bytes() {
    let bounded = |it: HttpTransportBuilder| it.max_batch_bytes(1000);
    assert_eq!(batches(bounded, &[300; 5]).await, [3, 2]);
    assert_eq!(batches(bounded, &[900, 500, 1, 1, 500]).await, [1, 3, 1]);
}

#[tokio::test]
async fn a_large_call_has_an_exchange_of_its_own() {
    let mut played = Played::with(|builder| builder.max_batch_bytes(1000)).await;
    let replica = played.replica.clone();
    let large = write("large", 1, &"x".repeat(1000));
    for _ in 0..2 {
        // Nor does it keep others.
        let mut call = replica.call(&large);
        let exchange = played.single(&mut call).await;
        let mut other = replica.call(&read("other"));
        let others = played.single(&mut other).await;
        let mut beside = replica.call(&large);
        let exchange_beside = played.single(&mut beside).await;
        assert_eq!(exchange_beside.keys, ["large"]);
        for exchange in [exchange, exchange_beside] {
            exchange.answers(applied()).await;
        }
        others.answers_all().await;
        finds(other, "other").await;
        for call in [call, beside] {
            assert_eq!(in_time(call).await.unwrap(), Response::Ack(Ack::Applied));
        }
    }
}

#[tokio::test]
async fn calls_share_no_exchange_where_they_are_told_not_to() {
    for most in [0, 1] {
        let mut played = Played::with(|builder| builder.max_batch(most)).await;
        let replica = played.replica.clone();
        let mut under_way = Vec::new();
        for key in ["a", "b", "c"] {
            let mut call = replica.call(&read(key));
            let exchange = played.single(&mut call).await;
            assert_eq!(exchange.connection, under_way.len());
            under_way.push((call, exchange));
        }
        for (call, exchange) in under_way {
            let key = exchange.keys[0].clone();
            exchange.answers_all().await;
            finds(call, &key).await;
        }
    }
}
