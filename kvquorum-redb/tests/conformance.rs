//! The store holds to core's contract, whatever part of it lies in memory.

use kvquorum_redb::{Reads, RedbStore, RedbStoreBuilder};
use kvquorum_testing::conformance;
use tempfile::TempDir;

async fn open(settings: RedbStoreBuilder) -> (RedbStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = settings.create_new(directory.path()).await.unwrap();
    (store, directory)
}

#[tokio::test]
async fn the_store_conforms() {
    conformance::store(|| open(RedbStore::builder())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_on_many_threads() {
    conformance::store(|| open(RedbStore::builder())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_where_callers_read() {
    let settings = || RedbStore::builder().reads(Reads::OnCaller);
    conformance::store(|| open(settings())).await;
}

/// Nearly nothing stays in memory, changes are committed one by one, and so are
/// reads made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_without_memory() {
    let settings = || {
        let settings = RedbStore::builder().max_page_cache(0).max_commit(1);
        settings.reads(Reads::OnBlockingThreads { max: 1 })
    };
    conformance::store(|| open(settings())).await;
}
