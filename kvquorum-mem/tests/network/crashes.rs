//! What a crash of a node ends.

use std::ops::Bound;
use std::pin::pin;
use std::time::Duration;

use kvquorum_core::{
    Change, Key, Record, Refusal, Replica, Response, ScanLimit, Store, StoreError, Transport,
    TransportError,
};
use kvquorum_mem::{MemStore, Network, NodeError};
use tokio::time::{Instant, sleep, timeout};

use super::{LONG, MS, answer, is_applied, key, pair, stored, write};

/// Catches an error that leaves open whether the replica acted, where it
/// surely did not, and a crash that outlives the restart.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_down_refuses_and_comes_back_with_its_data() {
    let (node, link) = pair();
    answer(link.call(&write(1))).await.unwrap();
    node.crash();
    // Once more does not start it.
    node.crash();
    assert!(!node.is_up());
    let start = Instant::now();
    let error = answer(link.call(&write(2))).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(!error.may_have_applied());
    let TransportError::NotSent(cause) = error else {
        panic!("{error}");
    };
    let name = "a".to_owned();
    assert_eq!(cause.downcast_ref(), Some(&NodeError::Down { name }));
    assert_eq!(
        stored(&node).await,
        Some(1),
        "what a disk holds can be seen"
    );
    node.restart();
    node.restart();
    assert!(node.is_up());
    assert_eq!(stored(&node).await, Some(1));
    assert!(is_applied(&answer(link.call(&write(3))).await));
}

/// Catches a disk that survives its loss, and a process that does not notice it.
#[tokio::test(start_paused = true)]
async fn a_crash_can_lose_the_data() {
    let (node, link) = pair();
    answer(link.call(&write(5))).await.unwrap();
    node.crash();
    node.store().clear();
    node.restart();
    assert_eq!(stored(&node).await, None);
    let refused = answer(link.call(&write(1))).await.unwrap();
    let joining = Refusal::Joining { has_begun: false };
    assert_eq!(refused, Response::Refused(joining));
}

/// Catches a request that comes through a crash, even to the node's next life,
/// and an error that claims it did not arrive.
#[tokio::test(start_paused = true)]
async fn a_request_under_way_at_a_crash_never_arrives() {
    for restarted in [false, true] {
        let (node, link) = pair();
        link.set_request_latency(10 * MS);
        link.duplicate(1.0, 10 * MS);
        let mut call = pin!(link.call(&write(1)));
        assert!(timeout(5 * MS, &mut call).await.is_err());
        node.crash();
        if restarted {
            node.restart();
        }
        let error = answer(call).await.unwrap_err();
        assert!(matches!(error, TransportError::NoAnswer(_)), "{error}");
        assert!(error.may_have_applied());
        node.restart();
        sleep(LONG).await;
        assert_eq!(stored(&node).await, None);
    }
}

/// A store that is never ready at once, and takes a while to begin a change.
struct Slow(MemStore);

impl Store for Slow {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.0.get(key).await
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        sleep(2 * MS).await;
        self.0.apply(key, change).await
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        self.0.scan(range, limit).await
    }
}

/// Catches a call over a sound link that begins after its node has crashed.
#[tokio::test(start_paused = true)]
async fn a_call_that_has_not_begun_at_a_crash_never_begins() {
    for restarted in [false, true] {
        let node = Network::new(7).host(Replica::new(Slow(MemStore::new())).of_new_cluster());
        // It keeps who it is.
        node.replica().ready().await.unwrap();
        let link = node.link();
        let call = link.call(&write(1));
        node.crash();
        if restarted {
            node.restart();
        }
        let error = answer(call).await.unwrap_err();
        assert!(matches!(error, TransportError::NoAnswer(_)), "{error}");
        assert_eq!(node.store().get(&key()).await.unwrap(), None);
        node.restart();
        assert!(is_applied(&answer(link.call(&write(1))).await));
    }
}

/// Catches a request that a process goes on with once it has ended.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_at_a_crash_never_goes_on() {
    let sound = Duration::ZERO;
    for (restarted, latency) in [(false, MS), (true, MS), (false, sound), (true, sound)] {
        let node = Network::new(7).host(Replica::new(Slow(MemStore::new())).of_new_cluster());
        node.replica().ready().await.unwrap();
        let link = node.link();
        link.set_request_latency(latency);
        let mut call = pin!(link.call(&write(1)));
        assert!(timeout(latency + MS, &mut call).await.is_err());
        node.crash();
        if restarted {
            node.restart();
        }
        let error = answer(call).await.unwrap_err();
        assert!(matches!(error, TransportError::NoAnswer(_)), "{error}");
        sleep(LONG).await;
        assert_eq!(node.store().get(&key()).await.unwrap(), None);
    }
}

/// Catches a second delivery that comes through a crash after the first.
#[tokio::test(start_paused = true)]
async fn a_duplicate_does_not_come_through_a_crash() {
    let (node, link) = pair();
    link.duplicate(1.0, 10 * MS);
    assert!(is_applied(&answer(link.call(&write(1))).await));
    node.crash();
    node.store().clear();
    node.restart();
    sleep(LONG).await;
    assert_eq!(stored(&node).await, None);
}

/// Catches an ack that is taken back by a later crash.
#[tokio::test(start_paused = true)]
async fn an_answer_under_way_at_a_crash_still_arrives() {
    let (node, link) = pair();
    link.set_response_latency(10 * MS);
    let mut call = pin!(link.call(&write(1)));
    assert!(timeout(5 * MS, &mut call).await.is_err());
    node.crash();
    assert!(is_applied(&answer(call).await));
}
