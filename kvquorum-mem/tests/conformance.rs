//! The store and the links hold to core's contracts, with faults that a
//! contract allows for and without.

use std::time::Duration;

use kvquorum_core::Replica;
use kvquorum_mem::{Link, MemStore, Network};
use kvquorum_testing::conformance;

#[tokio::test]
async fn the_store_conforms() {
    conformance::store(|| async { (MemStore::new(), ()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_on_many_threads() {
    conformance::store(|| async { (MemStore::new(), ()) }).await;
}

/// A link to a fresh replica.
fn fresh() -> Link {
    Network::new(1).host(Replica::new(MemStore::new())).link()
}

#[tokio::test]
async fn a_sound_link_conforms() {
    conformance::transport(|| async { (fresh(), ()) }).await;
}

fn slow_and_doubling() -> Link {
    let link = fresh();
    link.set_latency(Duration::ZERO..=Duration::from_millis(50));
    link.duplicate(0.5, Duration::ZERO..=Duration::from_millis(200));
    link
}

#[tokio::test(start_paused = true)]
async fn a_link_with_latency_and_duplication_conforms() {
    conformance::transport(|| async { (slow_and_doubling(), ()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubling_link_conforms_on_many_threads() {
    conformance::transport(|| async {
        let link = fresh();
        link.duplicate(0.5, Duration::ZERO..=Duration::from_millis(1));
        (link, ())
    })
    .await;
}
