//! Callers that leave or are not polled, closing, and opening again in place.

mod support;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kvquorum_core::{Key, Replica};
use kvquorum_redb::{Durability, Reads, RedbStore, RedbStoreError};
use support::{Disk, Entries, LATE, Numbers, all, cause, entry, until_reads_wait};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

const SOON: Duration = Duration::from_millis(200);

fn key(number: u64) -> Key {
    Key::from(number.to_string())
}

fn spawn_merge(store: &Arc<RedbStore>, number: u64) -> JoinHandle<()> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        store.merge(&key(number), entry(1, "v")).await.unwrap();
    })
}

async fn until_a_sync_waits(disk: &Disk) {
    let disk = disk.clone();
    spawn_blocking(move || disk.until_a_sync_waits())
        .await
        .unwrap();
}

/// Polls futures once, and no more. Those that are done are gone.
async fn begin<F: Future + Unpin>(futures: &mut Vec<F>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| std::pin::Pin::new(future).poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
}

/// Bug: room for changes falls to a caller that is not polled, and all changes
/// after it wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_nobody_polls_hold_up_nobody() {
    let disk = Disk::default();
    let settings = RedbStore::builder().max_commit(30_000);
    let store = Arc::new(settings.open_on(disk.backend()).await.unwrap());
    let merges = (0..40).map(|number| {
        let store = Arc::clone(&store);
        Box::pin(async move { store.merge(&key(number), entry(1, vec![1; 9_000])).await })
    });
    let mut asleep: Vec<_> = merges.collect();
    disk.hold_syncs();
    begin(&mut asleep).await;
    disk.let_syncs_go();
    for number in 100..150 {
        timeout(LATE, spawn_merge(&store, number))
            .await
            .unwrap()
            .unwrap();
    }
    for merge in asleep {
        merge.await.unwrap();
    }
}

/// Bugs: a change whose caller is gone stays in memory for as long as the disk
/// hangs, and is made after that; or one that a commit has taken is lost half.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_callers_that_are_gone_are_dropped() {
    let disk = Disk::default();
    let store = Arc::new(RedbStore::builder().open_on(disk.backend()).await.unwrap());
    disk.hold_syncs();
    let first = spawn_merge(&store, 0);
    until_a_sync_waits(&disk).await;
    let before = store.stats().changes;
    let value = bytes::Bytes::from(vec![1; 1_000]);
    let merges = (1..100).map(|number| {
        let (store, value) = (Arc::clone(&store), value.clone());
        Box::pin(async move {
            let entry = kvquorum_core::Entry::new(support::version(1), value);
            store.merge(&key(number), entry).await
        })
    });
    let mut gone: Vec<_> = merges.collect();
    begin(&mut gone).await;
    let were_there = !value.is_unique();
    drop(gone);
    let are_gone = value.is_unique();
    // Its commit has begun: it is made, whoever waits for it.
    first.abort();
    // The store would wait for it when it is dropped.
    disk.let_syncs_go();
    assert!(were_there);
    assert!(are_gone, "they are still in memory");
    timeout(LATE, spawn_merge(&store, 100))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(store.stats().changes - before, 2);
    let keys: Vec<_> = all(&store)
        .await
        .unwrap()
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(keys, [key(0), key(100)]);
}

/// Bugs: a store in a replica cannot be closed; what waited is not made, or not
/// flushed; a second close fails, or says something else; what comes after it is
/// served, or waits for good; the directory stays locked.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_closed_inside_a_replica() {
    let directory = tempfile::tempdir().unwrap();
    for reads in [Reads::OnCaller, Reads::OnBlockingThreads { max: 2 }] {
        let settings = RedbStore::builder().reads(reads);
        let settings = settings.durability(Durability::Every(Duration::MAX));
        let store = settings.open_or_create(directory.path()).await.unwrap();
        let replica = Arc::new(Replica::new(store).of_new_cluster());
        let merges = (0..100).map(|number| {
            let replica = Arc::clone(&replica);
            Box::pin(async move { replica.store().merge(&key(number), entry(1, "v")).await })
        });
        let mut merges: Vec<_> = merges.collect();
        begin(&mut merges).await;
        let (first, second) = tokio::join!(replica.store().close(), replica.store().close());
        first.unwrap();
        second.unwrap();
        for merge in merges {
            merge.await.unwrap();
        }
        replica.store().close().await.unwrap();

        let is_closed = |error| matches!(cause(&error), RedbStoreError::Closed);
        let store = replica.store();
        assert!(is_closed(
            store.merge(&key(0), entry(2, "v")).await.unwrap_err()
        ));
        assert!(is_closed(store.entry(&key(0)).await.unwrap_err()));
        assert!(is_closed(all(store).await.unwrap_err()));
        let reopened = store.reopen().await;
        assert!(matches!(reopened, Err(RedbStoreError::Closed)));

        let store = RedbStore::open(directory.path()).await.unwrap();
        assert_eq!(all(&store).await.unwrap().len(), 100);
    }
}

/// Bug: closing that nobody waits for is not done.
#[tokio::test(flavor = "multi_thread")]
async fn closing_goes_on_when_its_future_is_dropped() {
    let disk = Disk::default();
    let store = RedbStore::builder().open_on(disk.backend()).await.unwrap();
    drop(store.close());
    let error = store.merge(&key(1), entry(1, "v")).await.unwrap_err();
    assert!(matches!(cause(&error), RedbStoreError::Closed));
    let freed = async {
        while !disk.is_free() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LATE, freed).await.unwrap();
}

/// Bug: a store that is closed has its files held by a read that nobody waits
/// for.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_holds_nothing() {
    let disk = Disk::default();
    let settings = || RedbStore::builder().max_page_cache(0);
    let store = settings().open_on(disk.backend()).await.unwrap();
    for number in 0..100 {
        store
            .merge(&key(number), entry(1, vec![1; 1_000]))
            .await
            .unwrap();
    }
    store.close().await.unwrap();
    let settings = settings().reads(Reads::OnBlockingThreads { max: 4 });
    let store = Arc::new(settings.open_on(disk.backend()).await.unwrap());
    disk.hold_reads(1);
    let read = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.entry(&key(10)).await })
    };
    until_reads_wait(&disk, 1).await;
    read.abort();
    let mut closing = tokio::spawn(store.close());
    // That it goes on waiting can only be waited for.
    let early = timeout(SOON, &mut closing).await;
    disk.let_reads_go();
    assert!(early.is_err());
    closing.await.unwrap().unwrap();
    assert!(disk.is_free());
}

/// Bugs: closing says nothing of what was acked and could not be flushed.
#[tokio::test(flavor = "multi_thread")]
async fn closing_tells_of_a_flush_that_failed() {
    let disk = Disk::default();
    let settings = RedbStore::builder().durability(Durability::Every(Duration::MAX));
    let store = settings.open_on(disk.backend()).await.unwrap();
    store.merge(&key(1), entry(1, "v")).await.unwrap();
    disk.fail_syncs_after(0);
    for _ in 0..2 {
        let closed = store.close().await;
        assert!(
            matches!(closed, Err(RedbStoreError::WriteFailed(_))),
            "{closed:?}"
        );
    }
}

/// Bugs: a store that failed refuses writes until its process is started again;
/// what was acked is not there when it goes on; a disk that still fails is said
/// to work, or is not tried again.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_failed_is_opened_again_in_place() {
    for case in 0..40 {
        let mut numbers = Numbers::new(case);
        let disk = Disk::default();
        let store = RedbStore::builder().open_on(disk.backend()).await.unwrap();
        let mut acked = 0;
        for _ in 0..5 {
            disk.fail_after(numbers.below(60));
            while store.merge(&key(acked), entry(1, "v")).await.is_ok() {
                acked += 1;
            }
            let refused = store.reopen().await;
            assert!(
                matches!(refused, Err(RedbStoreError::ReopenFailed(_))),
                "{refused:?}"
            );
            let error = store.entry(&key(0)).await.unwrap_err();
            assert!(matches!(cause(&error), RedbStoreError::ReopenFailed(_)));
            disk.fail_after(u64::MAX);
            store.reopen().await.unwrap();
            for number in 0..acked {
                let found = store.entry(&key(number)).await.unwrap();
                assert_eq!(found, Some(entry(1, "v")), "case {case}");
            }
            store.merge(&key(acked), entry(1, "v")).await.unwrap();
        }
        store.close().await.unwrap();
    }
}

/// Bug: a store that did not fail loses something by being opened again, or
/// while it is.
#[tokio::test(flavor = "multi_thread")]
async fn opening_again_is_safe_at_any_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(RedbStore::create_new(directory.path()).await.unwrap());
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for time in 1..=50 {
                    store.merge(&key(writer), entry(time, "v")).await.unwrap();
                    match store.entry(&key(writer)).await {
                        Ok(found) => assert_eq!(found, Some(entry(time, "v"))),
                        Err(error) => {
                            assert!(matches!(cause(&error), RedbStoreError::Reopening));
                        }
                    }
                }
            })
        })
        .collect();
    while !writers.iter().all(JoinHandle::is_finished) {
        store.reopen().await.unwrap();
    }
    for writer in writers {
        writer.await.unwrap();
    }
    for writer in 0..8 {
        assert_eq!(
            store.entry(&key(writer)).await.unwrap(),
            Some(entry(50, "v"))
        );
    }
}
