//! HTTP keeps the contract of a transport, as core's suite has it.

// In a test a panic is how a broken promise shows.

mod common;

use common::*;
use kvquorum_core::Replica;
use kvquorum_http::{ReplicaService, Server};

/// A server of a fresh replica.
async fn serve() -> Server {
    let replica = Replica::new(TestStore::new());
    Server::bind("127.0.0.1:0", replica).await.unwrap()
}

#[tokio::test]
async fn http_is_a_transport() {
    kvquorum_testing::conformance::transport(|| async {
        let server = serve().await;
        (transport(server.local_addr()), server)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_is_a_transport_on_several_threads() {
    kvquorum_testing::conformance::transport(|| async {
        let server = serve().await;
        (transport(server.local_addr()), server)
    })
    .await;
}

#[tokio::test]
async fn http_is_a_transport_where_calls_do_not_share_exchanges() {
    kvquorum_testing::conformance::transport(|| async {
        let server = serve().await;
        (unbatched(server.local_addr()), server)
    })
    .await;
}

#[tokio::test]
async fn http_is_a_transport_where_the_server_takes_no_batches() {
    kvquorum_testing::conformance::transport(|| async {
        let service = ReplicaService::builder(Replica::new(TestStore::new()));
        let service = service.max_batch(1).build();
        let server = Server::bind("127.0.0.1:0", service).await;
        let server = server.unwrap();
        (transport(server.local_addr()), server)
    })
    .await;
}
