//! Reads: what they see, where they are made, and how many at a time.

mod support;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use kvquorum_core::{Entry, Key, Record, Store, StoreError};
use kvquorum_redb::{Reads, RedbStore, RedbStoreBuilder, RedbStoreError};
use support::{Disk, Entries, LATE, Numbers, all, cause, entry, until_reads_wait, version};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_millis(200);

/// Enough for a tree of more than one page.
const KEYS: u64 = 500;

fn key(number: u64) -> Key {
    Key::from(number.to_string())
}

/// A store of [`KEYS`] entries, opened again.
async fn open(disk: &Disk, settings: RedbStoreBuilder) -> Arc<RedbStore> {
    let store = Arc::new(RedbStore::builder().open_on(disk.backend()).await.unwrap());
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
    store.close().await.unwrap();
    Arc::new(settings.open_on(disk.backend()).await.unwrap())
}

/// The same with no memory for what is read.
async fn open_without_memory(disk: &Disk, settings: RedbStoreBuilder) -> Arc<RedbStore> {
    open(disk, settings.max_page_cache(0)).await
}

/// Reads on this many threads of their own.
fn on_threads(max: usize) -> RedbStoreBuilder {
    RedbStore::builder().reads(Reads::OnBlockingThreads { max })
}

fn get(store: &Arc<RedbStore>, number: u64) -> JoinHandle<()> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        let found = store.entry(&key(number)).await.unwrap().unwrap();
        assert_eq!(found.version, version(1));
    })
}

type Get = Pin<Box<dyn Future<Output = Result<Option<Entry>, StoreError>> + Send>>;

/// Futures that were polled once.
async fn begun<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F> {
    poll_fn(|cx| {
        for future in &mut futures {
            assert!(Pin::new(future).poll(cx).is_pending());
        }
        Poll::Ready(())
    })
    .await;
    futures
}

/// Reads that were begun: they have a thread, or wait for their places.
async fn begun_reads(store: &Arc<RedbStore>, numbers: std::ops::Range<u64>) -> Vec<Get> {
    let reads = numbers.map(|number| {
        let store = Arc::clone(store);
        Box::pin(async move { store.entry(&key(number)).await }) as Get
    });
    begun(reads.collect()).await
}

/// Bugs: a commit is acked before it is shown; a read sees
/// an older commit than one before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_see_what_was_acked_and_never_go_back() {
    const WRITERS: u64 = 64;
    const READERS: u64 = 12;
    for (page_cache, on_files) in [(0, false), (0, true), (64 * 1024, false), (1 << 20, true)] {
        let settings = match on_files {
            true => RedbStore::builder().reads(Reads::OnCaller),
            false => on_threads(4),
        };
        let settings = settings.max_page_cache(page_cache);
        let directory = tempfile::tempdir().unwrap();
        let store = match on_files {
            true => settings.create_new(directory.path()).await,
            false => settings.open_on(Disk::default().backend()).await,
        };
        let store = Arc::new(store.unwrap());
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            writers.spawn(async move {
                for time in 1..=50 {
                    store
                        .merge(&key(writer), entry(time, vec![0; 100]))
                        .await
                        .unwrap();
                    let found = store.entry(&key(writer)).await.unwrap().unwrap();
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
                    let found = store.entry(&key(number)).await.unwrap();
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
async fn as_many_reads_wait_for_the_disk_as_are_let() {
    let disk = Disk::default();
    let store = open_without_memory(&disk, on_threads(3)).await;
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
    let waiting = disk.reads_waiting();
    disk.let_reads_go();
    assert_eq!(waiting, 3);
    for read in held.into_iter().chain(reads) {
        timeout(LATE, read).await.unwrap().unwrap();
    }
}

/// Bugs: a read that nobody waits for any more is made; it keeps its place for
/// good.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_read_is_not_made_and_frees_its_place() {
    let disk = Disk::default();
    let store = open_without_memory(&disk, on_threads(1)).await;
    let before = disk.reads();
    get(&store, 300).await.unwrap();
    let each = disk.reads() - before;
    disk.hold_reads(1);
    let first = get(&store, 300);
    until_reads_wait(&disk, 1).await;
    drop(begun_reads(&store, 0..50).await);
    let reads: Vec<_> = (0..50).map(|_| get(&store, 300)).collect();
    disk.let_reads_go();
    timeout(LATE, first).await.unwrap().unwrap();
    for read in reads {
        timeout(LATE, read).await.unwrap().unwrap();
    }
    assert_eq!(disk.reads() - before, 52 * each);
}

/// Bug: a place falls to a read whose future nobody polls, and all reads after
/// it wait for that.
#[tokio::test(flavor = "multi_thread")]
async fn reads_that_nobody_polls_keep_no_places() {
    let disk = Disk::default();
    let store = open_without_memory(&disk, on_threads(2)).await;
    disk.hold_reads(2);
    let asleep = begun_reads(&store, 0..40).await;
    until_reads_wait(&disk, 2).await;
    disk.let_reads_go();
    for number in 0..KEYS {
        timeout(LATE, get(&store, number)).await.unwrap().unwrap();
    }
    for read in asleep {
        assert!(read.await.unwrap().is_some());
    }
}

/// Bug: the same for scans.
#[tokio::test(flavor = "multi_thread")]
async fn scans_that_nobody_polls_keep_no_places() {
    let disk = Disk::default();
    let settings = RedbStore::builder().max_scans(2);
    let store = open_without_memory(&disk, settings).await;
    disk.hold_reads(2);
    let asleep: Vec<_> = (0..20).map(|_| Box::pin(all(&store))).collect();
    let mut asleep = begun(asleep).await;
    until_reads_wait(&disk, 2).await;
    disk.let_reads_go();
    let scan = timeout(LATE, all(&store)).await.unwrap();
    assert_eq!(scan.unwrap().len() as u64, KEYS);
    for scan in &mut asleep {
        assert_eq!(scan.await.unwrap().len() as u64, KEYS);
    }
}

/// Bugs: the setting is ignored; a read needs a runtime, or a thread of its own,
/// though it is made where it was asked for.
#[test]
fn reads_are_made_where_they_are_to_be() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let disk = Disk::default();
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    for on_caller in [true, false] {
        let settings = match on_caller {
            true => RedbStore::builder().reads(Reads::OnCaller),
            false => on_threads(1),
        };
        let store = runtime.block_on(open_without_memory(&disk, settings));
        let asked = key(7);
        let now = store.try_get(&asked);
        let mut get = std::pin::pin!(store.entry(&asked));
        match get.as_mut().poll(&mut context) {
            Poll::Ready(Ok(Some(found))) => {
                assert!(on_caller);
                let now = now.unwrap().unwrap().and_then(Record::into_entry);
                assert_eq!(now, Some(found));
            }
            // There is no runtime here.
            Poll::Ready(Err(error)) => {
                assert!(matches!(cause(&error), RedbStoreError::NoRuntime));
                assert!(!on_caller && now.is_none());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Bugs: scans take the places of reads; they are bounded by nothing.
#[tokio::test(flavor = "multi_thread")]
async fn scans_have_places_of_their_own() {
    let disk = Disk::default();
    let settings = on_threads(1).max_scans(2);
    let store = open_without_memory(&disk, settings).await;
    disk.hold_reads(3);
    let scans: Vec<_> = (0..5)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { all(&store).await.unwrap().len() })
        })
        .collect();
    until_reads_wait(&disk, 2).await;
    // That no third comes can only be waited for.
    sleep(SOON).await;
    let waiting = disk.reads_waiting();
    disk.hold_reads(0);
    let read = timeout(LATE, get(&store, 10)).await;
    disk.let_reads_go();
    assert_eq!(waiting, 2);
    read.unwrap().unwrap();
    for scan in scans {
        assert_eq!(scan.await.unwrap() as u64, KEYS);
    }
}

/// Bugs: a changed value is served; one entry that is damaged
/// fails the reads of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_entry_fails_its_own_reads_alone() {
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
    let settings = RedbStore::builder().verify(false);
    let store = settings
        .open_on(Disk::holding(bytes).backend())
        .await
        .unwrap();
    let is_its_error = |error: StoreError| {
        let RedbStoreError::Damaged { key: named } = cause(&error) else {
            panic!("{error}");
        };
        assert_eq!(*named, key(DAMAGED));
    };
    is_its_error(store.entry(&key(DAMAGED)).await.unwrap_err());
    let merged = store.merge(&key(DAMAGED), entry(2, "new")).await;
    is_its_error(merged.unwrap_err());
    for number in (0..KEYS).filter(|number| *number != DAMAGED) {
        let found = store.entry(&key(number)).await.unwrap().unwrap();
        assert_eq!(found.version, version(1));
    }
}

/// Bugs: a read shows what a failed write left; one waits for good.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_write_reads_show_what_was_flushed_or_fail() {
    for page_cache in [0, 1 << 20] {
        let disk = Disk::default();
        drop(open(&disk, RedbStore::builder()).await);
        let settings = RedbStore::builder().max_page_cache(page_cache);
        let store = Arc::new(settings.open_on(disk.backend()).await.unwrap());
        for number in 0..KEYS {
            store.entry(&key(number)).await.unwrap();
        }
        store.merge(&key(0), entry(2, "flushed")).await.unwrap();
        disk.fail_after(0);
        for number in 0..5 {
            let merged = store.merge(&key(number), entry(3, "lost")).await;
            assert!(merged.is_err());
        }
        for number in 0..KEYS {
            match store.entry(&key(number)).await {
                Ok(found) => {
                    let acked = if number == 0 { 2 } else { 1 };
                    assert_eq!(found.unwrap().version, version(acked));
                }
                // Only what is not in memory can fail.
                Err(error) if page_cache > 0 => panic!("{number}: {error}"),
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
