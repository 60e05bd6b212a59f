//! HTTP keeps the contract of a transport, as core's suite has it.

// In a test a panic is how a broken promise shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod common;

use common::*;

#[tokio::test]
async fn http_is_a_transport() {
    kvquorum_core::conformance::transport(|| async {
        let (server, _store) = serve().await;
        (transport(server.local_addr()), server)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_is_a_transport_on_several_threads() {
    kvquorum_core::conformance::transport(|| async {
        let (server, _store) = serve().await;
        (transport(server.local_addr()), server)
    })
    .await;
}
