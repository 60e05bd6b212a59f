//! Reads of what is not at hand: what they see, and who makes them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod support;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kvquorum_core::{Entry, Key, Store, StoreError};
use kvquorum_redb::{Builder, RedbStore, RedbStoreError};
use support::{Disk, Numbers, all, cause, entry, version};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(20);

/// Enough for a tree of more than one page.
const KEYS: u64 = 500;

fn key(number: u64) -> Key {
    Key::from(number.to_string())
}

/// A store of [`KEYS`] entries, opened again with nothing of them in memory but
/// the way to them.
async fn open(disk: &Disk, settings: Builder) -> Arc<RedbStore> {
    let store = Arc::new(RedbStore::builder().open_on(disk.clone()).await.unwrap());
    let merging: JoinSet<_> = (0..KEYS)
        .map(|number| {
            let store = Arc::clone(&store);
            async move {
                let value = format!("value {number}").repeat(10);
                store.merge(&key(number), entry(1, value)).await.unwrap();
            }
        })
        .collect();
    merging.join_all().await;
    Arc::into_inner(store).unwrap().close().await.unwrap();
    let settings = settings.entry_cache(0).page_cache(0);
    let store = Arc::new(settings.open_on(disk.clone()).await.unwrap());
    store.get(&key(0)).await.unwrap();
    store
}

fn get(store: &Arc<RedbStore>, number: u64) -> JoinHandle<()> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        let found = store.get(&key(number)).await.unwrap().unwrap();
        assert_eq!(found.version, version(1));
    })
}

type Get = Pin<Box<dyn Future<Output = Result<Option<Entry>, StoreError>> + Send>>;

/// A read that was begun: it is with the readers, or waits for a place there.
async fn begun(store: &Arc<RedbStore>, number: u64) -> Get {
    let store = Arc::clone(store);
    let mut get: Get = Box::pin(async move { store.get(&key(number)).await });
    poll_fn(|cx| {
        assert!(get.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    get
}

async fn until_reads_wait(disk: &Disk, count: u64) {
    let waiting = async {
        while disk.reads_waiting() < count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    if timeout(LATE, waiting).await.is_err() {
        // What ends the store would wait for them.
        disk.let_reads_go();
        panic!("{count} reads should wait for the disk");
    }
}

/// Bugs: what readers see is made anew only after acks, or after entries were
/// shown; one of two that make it anew leaves the older one to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_see_what_was_acked_and_never_go_back() {
    const WRITERS: u64 = 64;
    const READERS: u64 = 12;
    for entry_cache in [0, 8 * 1024] {
        let settings = RedbStore::builder().entry_cache(entry_cache);
        let store = Arc::new(settings.open_on(Disk::default()).await.unwrap());
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                for time in 1..=100 {
                    store
                        .merge(&key(writer), entry(time, vec![0; 100]))
                        .await
                        .unwrap();
                    let found = store.get(&key(writer)).await.unwrap().unwrap();
                    assert_eq!(found.version, version(time), "not its own merge");
                }
            });
        }
        let mut readers = JoinSet::new();
        for reader in 0..READERS {
            let store = Arc::clone(&store);
            readers.spawn(async move {
                let mut numbers = Numbers::new(reader);
                let mut last = HashMap::new();
                loop {
                    let number = numbers.below(WRITERS);
                    let found = store.get(&key(number)).await.unwrap();
                    let found = found.map(|entry| entry.version);
                    let before = last.insert(number, found).flatten();
                    assert!(found >= before, "a read went back");
                    tokio::task::yield_now().await;
                }
            });
        }
        writers.join_all().await;
        let failed = readers.try_join_next();
        assert!(failed.is_none(), "{failed:?}");
    }
}

/// Bugs: reads that wait for the disk are bounded by nothing; one of them holds
/// up all others.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_reads_wait_for_the_disk_as_there_are_readers() {
    let disk = Disk::default();
    let store = open(&disk, RedbStore::builder().readers(3)).await;
    disk.hold_reads(2);
    let held = [get(&store, 10), get(&store, 490)];
    until_reads_wait(&disk, 2).await;
    for number in 0..KEYS {
        timeout(LATE, get(&store, number)).await.unwrap().unwrap();
    }
    assert!(held.iter().all(|held| !held.is_finished()));

    disk.hold_reads(100);
    let reads: Vec<_> = (0..60).map(|number| get(&store, number)).collect();
    until_reads_wait(&disk, 3).await;
    // That no fourth comes can only be waited for.
    sleep(SOON).await;
    assert_eq!(disk.reads_waiting(), 3);
    disk.let_reads_go();
    for read in held.into_iter().chain(reads) {
        timeout(LATE, read).await.unwrap().unwrap();
    }
}

/// Bugs: a read that nobody waits for any more is made; it keeps its place for
/// good; places are more than they should be.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_read_is_not_made_and_frees_its_place() {
    let disk = Disk::default();
    let settings = RedbStore::builder().readers(1).pending_reads(3);
    let store = open(&disk, settings).await;
    let before = store.stats().engine_reads;
    disk.hold_reads(1);
    let first = get(&store, 10);
    until_reads_wait(&disk, 1).await;
    let mut dropped = Vec::new();
    for number in 0..50 {
        dropped.push(begun(&store, number).await);
    }
    drop(dropped);
    let reads: Vec<_> = (100..150).map(|number| get(&store, number)).collect();
    disk.let_reads_go();
    timeout(LATE, first).await.unwrap().unwrap();
    for read in reads {
        timeout(LATE, read).await.unwrap().unwrap();
    }
    assert_eq!(store.stats().engine_reads - before, 51);
}

/// Bug: one read that fails fails those that were taken with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_fails_its_own_read_alone() {
    let disk = Disk::default();
    drop(open(&disk, RedbStore::builder()).await);
    const DAMAGED: u64 = 123;
    let mut bytes = disk.bytes();
    let value = format!("value {DAMAGED}").repeat(10).into_bytes();
    let places: Vec<_> = (0..bytes.len() - value.len())
        .filter(|at| bytes[*at..].starts_with(&value))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    let disk = Disk::holding(bytes);
    let settings = RedbStore::builder().verify(false).entry_cache(0);
    let settings = settings.page_cache(0).readers(1);
    let store = Arc::new(settings.open_on(disk.clone()).await.unwrap());
    store.get(&key(0)).await.unwrap();
    disk.hold_reads(1);
    let first = get(&store, 0);
    until_reads_wait(&disk, 1).await;
    // All of them wait for the one reader, which takes some together.
    let mut reads = Vec::new();
    for number in 100..150 {
        reads.push((number, begun(&store, number).await));
    }
    disk.let_reads_go();
    first.await.unwrap();
    for (number, read) in reads {
        let found = timeout(LATE, read).await.unwrap();
        if number != DAMAGED {
            assert_eq!(found.unwrap().unwrap().version, version(1));
            continue;
        }
        let error = found.unwrap_err();
        let RedbStoreError::Damaged { key: named } = cause(&error) else {
            panic!("{error}");
        };
        assert_eq!(*named, key(DAMAGED));
    }
}

/// Bugs: a read shows what a failed write left; one waits for good.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_write_reads_show_what_was_flushed_or_fail() {
    for page_cache in [0, 1 << 20] {
        let disk = Disk::default();
        drop(open(&disk, RedbStore::builder()).await);
        let settings = RedbStore::builder().page_cache(page_cache);
        let store = Arc::new(settings.open_on(disk.clone()).await.unwrap());
        store.merge(&key(0), entry(2, "at hand")).await.unwrap();
        disk.fail_after(0);
        for number in 0..5 {
            let merged = store.merge(&key(number), entry(3, "lost")).await;
            assert!(merged.is_err());
        }
        let at_hand = store.get(&key(0)).await.unwrap();
        assert_eq!(at_hand, Some(entry(2, "at hand")));
        for number in 1..KEYS {
            match store.get(&key(number)).await {
                Ok(found) => assert_eq!(found.unwrap().version, version(1)),
                Err(error) => {
                    let RedbStoreError::ReadFailed(_) = cause(&error) else {
                        panic!("{error}");
                    };
                }
            }
        }
        // It may fail, or show what was flushed.
        for (_, found) in all(&store).await.unwrap_or_default() {
            assert_ne!(found.version, version(3));
        }
    }
}
