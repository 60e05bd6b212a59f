//! The store holds to core's contract, whatever part of it lies in memory.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use kvquorum_core::{Entry, Key, Store, Timestamp, Version, WriterId, conformance};
use kvquorum_redb::{Builder, RedbStore};
use tempfile::TempDir;

async fn open(settings: Builder) -> (RedbStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = settings.open(directory.path()).await.unwrap();
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

/// Nearly nothing stays in memory, and merges and reads wait for room one by
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_conforms_without_memory() {
    let settings = || {
        let settings = RedbStore::builder().page_cache(0);
        settings.pending(1).blocking_reads(1)
    };
    conformance::store(|| open(settings())).await;
}

/// Bug: a read that misses the memory waits for another that began before it,
/// and is given what that one found, which may be older than an acked merge.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_finds_what_was_acked_before_it_began() {
    for page_cache in [0, 1 << 20] {
        let settings = RedbStore::builder().page_cache(page_cache);
        let (store, _directory) = open(settings).await;
        let store = Arc::new(store);
        let key = Key::from("hot");
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let (store, key) = (Arc::clone(&store), key.clone());
                tokio::spawn(async move {
                    loop {
                        store.get(&key).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        for bits in 1..=300 {
            let version = Version {
                timestamp: Timestamp::from_bits(bits),
                writer: WriterId::new(1),
            };
            let entry = Entry::new(version, "value");
            store.merge(&key, entry.clone()).await.unwrap();
            assert_eq!(store.get(&key).await.unwrap(), Some(entry));
        }
        readers.iter().for_each(|reader| reader.abort());
    }
}
