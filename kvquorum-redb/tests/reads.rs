//! Reads: what they see, which of them wait, and how many.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod support;

use std::collections::HashMap;
use std::fs;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use kvquorum_core::{Entry, Key, Merged, Store, StoreError};
use kvquorum_redb::{Builder, Durability, RedbStore, RedbStoreError};
use support::{Disk, Numbers, all, cause, entry, version};
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(20);

/// Enough for a tree of more than one page.
const KEYS: u64 = 500;

fn key(number: u64) -> Key {
    Key::from(number.to_string())
}

/// A store of [`KEYS`] entries, opened again.
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
    Arc::new(settings.open_on(disk.clone()).await.unwrap())
}

/// The same with no memory for what is read.
async fn open_without_memory(disk: &Disk, settings: Builder) -> Arc<RedbStore> {
    open(disk, settings.page_cache(0)).await
}

fn get(store: &Arc<RedbStore>, number: u64) -> JoinHandle<()> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        let found = store.get(&key(number)).await.unwrap().unwrap();
        assert_eq!(found.version, version(1));
    })
}

type Get = Pin<Box<dyn Future<Output = Result<Option<Entry>, StoreError>> + Send>>;

/// A read that was begun: it has a thread, or waits for its place.
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

/// Bugs: a commit is acked before it is shown; a read that cannot be made at
/// once sees another commit than those that can, or leaves the engine broken.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_see_what_was_acked_and_never_go_back() {
    const WRITERS: u64 = 64;
    const READERS: u64 = 12;
    for (page_cache, on_files) in [(0, false), (0, true), (64 * 1024, false), (1 << 20, true)] {
        let settings = RedbStore::builder().page_cache(page_cache);
        let directory = tempfile::tempdir().unwrap();
        let store = match on_files {
            true => settings.open(directory.path()).await,
            false => settings.open_on(Disk::default()).await,
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
async fn as_many_reads_wait_for_the_disk_as_are_let() {
    let disk = Disk::default();
    let settings = RedbStore::builder().blocking_reads(3);
    let store = open_without_memory(&disk, settings).await;
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
    let settings = RedbStore::builder().blocking_reads(1);
    let store = open_without_memory(&disk, settings).await;
    let before = store.stats().blocking_reads;
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
    assert_eq!(store.stats().blocking_reads - before, 51);
}

/// Bugs: a read at once waits for the disk; one that would have to is the last
/// that the engine serves; what was brought to memory is not read there.
#[tokio::test(flavor = "multi_thread")]
async fn reads_at_once_never_touch_the_disk() {
    let disk = Disk::default();
    let store = open_without_memory(&disk, RedbStore::builder()).await;
    disk.fail_reads(true);
    for number in 0..KEYS {
        assert!(store.get_now(&key(number)).is_none());
    }
    disk.fail_reads(false);
    assert_eq!(store.stats().reads_at_once, 0);
    for number in 0..KEYS {
        let found = store.get(&key(number)).await.unwrap().unwrap();
        assert_eq!(found.version, version(1));
        let merged = store.merge(&key(number), entry(2, "new")).await;
        assert_eq!(merged.unwrap(), Merged::Applied);
    }
    assert_eq!(store.stats().blocking_reads, KEYS);
    drop(store);

    let store = RedbStore::builder().open_on(disk.clone()).await.unwrap();
    for number in 0..KEYS {
        store.get(&key(number)).await.unwrap();
    }
    let merged = store.merge(&key(7), entry(3, "newer")).await;
    assert_eq!(merged.unwrap(), Merged::Applied);
    disk.fail_reads(true);
    for number in 0..KEYS {
        let found = store.get_now(&key(number)).unwrap().unwrap();
        let latest = if number == 7 {
            entry(3, "newer")
        } else {
            entry(2, "new")
        };
        assert_eq!(found, Some(latest));
    }
    assert_eq!(store.get_now(&Key::from("absent")).unwrap().unwrap(), None);
}

/// Bug: a read that has to be long holds up an async thread.
#[tokio::test]
async fn what_is_long_is_not_read_at_once() {
    let store = RedbStore::builder().open_on(Disk::default()).await.unwrap();
    let (short, long) = (entry(1, vec![1; 60_000]), entry(1, vec![1; 70_000]));
    store.merge(&key(1), short.clone()).await.unwrap();
    store.merge(&key(2), long.clone()).await.unwrap();
    assert_eq!(store.get(&key(2)).await.unwrap(), Some(long));
    assert!(store.get_now(&key(2)).is_none());
    assert_eq!(store.get_now(&key(1)).unwrap().unwrap(), Some(short));
}

/// Bug: a view that ends during a commit leaves the engine with something to
/// write, and reads wait for such writes.
#[tokio::test(flavor = "multi_thread")]
async fn reads_at_once_do_not_wait_for_writes() {
    // Each of the engine's locks has some of their pages, and few are in memory.
    const KEYS: u64 = 1_000;
    let disk = Disk::default();
    let settings = RedbStore::builder().page_cache(256 * 1024);
    let store = Arc::new(settings.open_on(disk.clone()).await.unwrap());
    let merging: JoinSet<_> = (0..KEYS)
        .map(|number| {
            let store = Arc::clone(&store);
            async move {
                let merged = store.merge(&key(number), entry(1, vec![1; 2_000])).await;
                assert_eq!(merged.unwrap(), Merged::Applied);
            }
        })
        .collect();
    merging.join_all().await;
    let merge = |time| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let merged = store.merge(&key(1), entry(time, "new")).await;
            assert_eq!(merged.unwrap(), Merged::Applied);
        })
    };
    let blocking = |wait: fn(&Disk)| {
        let disk = disk.clone();
        spawn_blocking(move || wait(&disk))
    };
    // A scan has the view of now, until a commit is nearly through.
    disk.hold_reads(1);
    let scanning = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { all(&store).await.unwrap().len() })
    };
    until_reads_wait(&disk, 1).await;
    merge(2).await.unwrap();
    disk.hold_syncs();
    let merging = merge(3);
    blocking(Disk::until_a_sync_waits).await.unwrap();
    disk.let_reads_go();
    assert_eq!(scanning.await.unwrap() as u64, KEYS);
    disk.let_syncs_go();
    merging.await.unwrap();

    disk.hold_writes();
    let merging = merge(4);
    blocking(Disk::until_a_write_waits).await.unwrap();
    let reading = {
        let store = Arc::clone(&store);
        spawn_blocking(move || {
            let at_once = (0..KEYS).map(|number| store.get_now(&key(number)));
            at_once.filter(Option::is_none).count()
        })
    };
    let read = timeout(LATE, reading).await;
    disk.let_writes_go();
    // They did look for pages that are not in memory.
    assert!(read.unwrap().unwrap() > 0);
    merging.await.unwrap();
}

/// Bugs: scans take the places of reads; they are bounded by nothing.
#[tokio::test(flavor = "multi_thread")]
async fn scans_have_places_of_their_own() {
    let disk = Disk::default();
    let settings = RedbStore::builder().blocking_reads(1).scans(2);
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

/// Bug: a store that is closed has its files held by a read that nobody waits
/// for.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_holds_nothing() {
    let disk = Disk::default();
    let store = open_without_memory(&disk, RedbStore::builder()).await;
    disk.hold_reads(1);
    drop(begun(&store, 10).await);
    until_reads_wait(&disk, 1).await;
    let store = Arc::into_inner(store).unwrap();
    let mut closing = tokio::spawn(store.close());
    // That it goes on waiting can only be waited for.
    let early = timeout(SOON, &mut closing).await;
    disk.let_reads_go();
    assert!(early.is_err());
    closing.await.unwrap().unwrap();
    assert!(disk.is_free());
}

/// Bug: what the system holds of the file is not read at once.
#[tokio::test]
async fn what_the_system_has_in_memory_is_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let settings = || RedbStore::builder().page_cache(0).verify(false);
    let store = settings().open(directory.path()).await.unwrap();
    for number in 0..20 {
        let value = vec![1; 10_000];
        store.merge(&key(number), entry(1, value)).await.unwrap();
    }
    store.close().await.unwrap();
    let store = settings().open(directory.path()).await.unwrap();
    for number in 0..20 {
        let found = store.get_now(&key(number));
        if !reads_without_waiting(directory.path()) {
            assert!(found.is_none());
            continue;
        }
        assert_eq!(found.unwrap().unwrap(), Some(entry(1, vec![1; 10_000])));
    }
}

/// Whether the system, and its files in this directory, can be asked for what
/// is in memory only.
fn reads_without_waiting(directory: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::io::{IoSliceMut, ReadWriteFlags, preadv2};
        let path = directory.join("probe");
        fs::write(&path, "probe").unwrap();
        let (file, mut bytes) = (fs::File::open(path).unwrap(), [0; 5]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        preadv2(&file, &mut parts, 0, ReadWriteFlags::NOWAIT).is_ok()
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Bugs: a read at once goes where the engine may wait for a write; no read is
/// made at once any more after that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_flushed_is_not_read_at_once() {
    let interval = Duration::from_millis(100);
    let settings = RedbStore::builder().durability(Durability::Every(interval));
    let disk = Disk::default();
    let store = settings.page_cache(0).open_on(disk.clone()).await.unwrap();
    let store = Arc::new(store);
    assert_eq!(store.get_now(&key(1)).unwrap().unwrap(), None);

    // The engine has no memory and writes before the commit.
    disk.hold_writes();
    let merging = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.merge(&key(1), entry(1, "value")).await })
    };
    let held = disk.clone();
    spawn_blocking(move || held.until_a_write_waits())
        .await
        .unwrap();
    let during = store.get_now(&key(1));
    disk.let_writes_go();
    assert!(during.is_none());
    let start = Instant::now();
    assert_eq!(merging.await.unwrap().unwrap(), Merged::Applied);
    let after = store.get_now(&key(1));
    // On a slow machine the flush may have come first.
    assert!(after.is_none() || start.elapsed() >= interval);
    assert_eq!(store.get(&key(1)).await.unwrap(), Some(entry(1, "value")));

    let flushed = async {
        while store.get_now(&key(1)).is_none() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LATE, flushed).await.unwrap();
    let found = store.get_now(&key(1)).unwrap().unwrap();
    assert_eq!(found, Some(entry(1, "value")));
    // What changes nothing leaves nothing to flush.
    store.merge(&key(1), entry(1, "value")).await.unwrap();
    assert!(store.get_now(&key(1)).is_some());
}

/// Bugs: a changed value is served, at once or not; one entry that is damaged
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
    let store = settings.open_on(Disk::holding(bytes)).await.unwrap();
    let is_its_error = |error: StoreError| {
        let RedbStoreError::Damaged { key: named } = cause(&error) else {
            panic!("{error}");
        };
        assert_eq!(*named, key(DAMAGED));
    };
    is_its_error(store.get(&key(DAMAGED)).await.unwrap_err());
    is_its_error(store.get_now(&key(DAMAGED)).unwrap().unwrap_err());
    let merged = store.merge(&key(DAMAGED), entry(2, "new")).await;
    is_its_error(merged.unwrap_err());
    for number in (0..KEYS).filter(|number| *number != DAMAGED) {
        let found = store.get(&key(number)).await.unwrap().unwrap();
        assert_eq!(found.version, version(1));
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
        for number in 0..KEYS {
            store.get(&key(number)).await.unwrap();
        }
        store.merge(&key(0), entry(2, "flushed")).await.unwrap();
        disk.fail_after(0);
        for number in 0..5 {
            let merged = store.merge(&key(number), entry(3, "lost")).await;
            assert!(merged.is_err());
        }
        for number in 0..KEYS {
            match store.get(&key(number)).await {
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
