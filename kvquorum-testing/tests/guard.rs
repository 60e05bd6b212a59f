//! What a suite is given beside its subject.

mod common;

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::OneLock;
use kvquorum_core::{Change, Key, Record, Response, ScanLimit, Store, StoreError};
use kvquorum_testing::conformance;

/// A guard is kept as long as its check, and longer than the store.
#[tokio::test]
async fn the_guard_outlives_its_subject() {
    struct Guard(Arc<AtomicU64>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.store(0, Ordering::SeqCst);
        }
    }
    struct Guarded(OneLock, Arc<AtomicU64>);
    impl Guarded {
        fn assert_guarded(&self) {
            assert_eq!(self.1.load(Ordering::SeqCst), 1, "the guard is gone");
        }
    }
    impl Drop for Guarded {
        fn drop(&mut self) {
            self.assert_guarded();
        }
    }
    impl Store for Guarded {
        async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
            self.assert_guarded();
            self.0.get(key).await
        }
        async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
            self.assert_guarded();
            self.0.apply(key, change).await
        }
        async fn scan(
            &self,
            range: (Bound<&Key>, Bound<&Key>),
            limit: ScanLimit,
        ) -> Result<Vec<(Key, Record)>, StoreError> {
            self.assert_guarded();
            self.0.scan(range, limit).await
        }
    }
    conformance::store(|| async {
        let alive = Arc::new(AtomicU64::new(1));
        let store = Guarded(OneLock::default(), Arc::clone(&alive));
        (store, Guard(alive))
    })
    .await;
}
