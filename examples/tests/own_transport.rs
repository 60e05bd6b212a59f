//! The transport of the example `own-transport`, held to the contract.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

#[path = "../own-transport/channel.rs"]
mod channel;

use channel::ChannelTransport;
use kvquorum_core::{Key, Replica, Request, Transport, TransportError, conformance};
use kvquorum_mem::MemStore;

fn get() -> Request {
    Request::Get {
        key: Key::from("key"),
    }
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
    let (link, task) = ChannelTransport::new("a", Replica::new(MemStore::new()));
    drop(task);
    let error = link.call(get()).await.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error}");
}

/// The replica may have acted, for all that the caller knows.
#[tokio::test]
async fn a_replica_that_goes_before_it_answers_may_have_acted() {
    let (link, task) = ChannelTransport::new("a", Replica::new(MemStore::new()));
    let call = tokio::spawn(async move { link.call(get()).await });
    // The request is in the channel now, and nobody has taken it out.
    tokio::task::yield_now().await;
    drop(task);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error, TransportError::NoAnswer(_)), "{error}");
}
