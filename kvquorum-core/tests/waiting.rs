//! Operations beside a replica that lost its data, and waits for the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvquorum_core::{Call, Coordinator, Replica, Request, Transport, TransportError};
use kvquorum_mem::MemStore;

/// A link that counts requests, and is cut where told.
struct Counted {
    replica: Replica<MemStore>,
    requests: Arc<AtomicU64>,
    is_cut: bool,
}

impl Transport for Counted {
    fn call(&self, request: &Request) -> Call {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match self.is_cut {
            true => Call::Ready(Err(TransportError::NotSent("it is gone".into()))),
            false => self.replica.call(request),
        }
    }

    fn name(&self) -> &str {
        self.replica.name()
    }
}

/// R-FAIL, W-FAIL. Bug: where one replica waits, and another is gone, operations ask again
/// and again, as though a new cluster was being opened, and fail late.
#[tokio::test]
async fn r_fail_nobody_waits_for_a_replica_that_waits() {
    let kept = Replica::new(MemStore::new()).of_new_cluster();
    let [waits, gone] = [(); 2].map(|()| Replica::new(MemStore::new()));
    let requests = Arc::new(AtomicU64::new(0));
    let links = [(kept, false), (waits, false), (gone, true)].map(|(replica, is_cut)| Counted {
        replica,
        requests: Arc::clone(&requests),
        is_cut,
    });
    let map = Coordinator::<3, 2, 2, _>::new(links);
    map.get("tea").await.unwrap_err();
    let before = requests.load(Ordering::Relaxed);
    map.get("tea").await.unwrap_err();
    map.put("tea", "green").await.unwrap_err();
    map.drain().await;
    // One of each operation, and the one that asks the replica that is gone who it is.
    let asked = requests.load(Ordering::Relaxed) - before;
    assert!(asked <= 2 * 3, "{asked} requests");
}
