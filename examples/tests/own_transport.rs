//! The transport of the example `own-transport`, held to the contract.

#[path = "../own-transport/channel.rs"]
mod channel;

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use channel::ChannelTransport;
use kvquorum_core::{Replica, Request, Transport, TransportError};
use kvquorum_mem::MemStore;
use kvquorum_testing::conformance;
use tokio::task::yield_now;
use tokio::time::timeout;

fn read() -> Request {
    Request::read("key")
}

#[tokio::test]
async fn it_conforms() {
    conformance::transport(|| async {
        let (link, task) = ChannelTransport::new("a", Replica::new(MemStore::new()));
        tokio::spawn(task);
        (link, ())
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_is_gone_was_not_reached() {
    let (link, task) = ChannelTransport::new("a", Replica::new(MemStore::new()).of_new_cluster());
    drop(task);
    let error = link.call(&read()).await.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error}");
}

/// Catches a call that holds a place in the queue while its caller does not
/// poll it.
#[tokio::test]
async fn calls_at_rest_hold_up_no_other() {
    let (link, task) = ChannelTransport::new("a", Replica::new(MemStore::new()).of_new_cluster());
    let mut at_rest: Vec<_> = (0..2 * channel::QUEUE)
        .map(|_| link.call(&read()))
        .collect();
    for call in &mut at_rest {
        // Polled once, and never again.
        let _ = poll_fn(|context| Poll::Ready(Pin::new(&mut *call).poll(context))).await;
    }
    tokio::spawn(task);
    let answer = timeout(Duration::from_secs(10), async {
        // The task may have to make room first.
        while let Err(TransportError::NotSent(_)) = link.call(&read()).await {
            yield_now().await;
        }
    });
    answer.await.expect("no call has an answer");
    drop(at_rest);
}

/// The replica may have acted, for all that the caller knows.
#[tokio::test]
async fn a_replica_that_goes_before_it_answers_may_have_acted() {
    let (link, task) = ChannelTransport::new("a", Replica::new(MemStore::new()).of_new_cluster());
    let call = tokio::spawn(async move { link.call(&read()).await });
    // The request is in the channel now, and nobody has taken it out.
    yield_now().await;
    drop(task);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::NoAnswer(_)), "{error}");
}
