//! Space that comes back: by compaction, and by being used again.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvquorum_core::{Change, Entry, Key, Store};
use kvquorum_redb::{Reads, RedbStore, RedbStoreBuilder, RedbStoreError};
use support::{Disk, Entries, LATE, Numbers, all, cause, entry, until_reads_wait};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_millis(200);

const LAST: u64 = 1_000_000;

/// Keys of 13 bytes. Their order is not that of their numbers, but for those from
/// [`LAST`] on, which are behind all others.
fn key(number: u64) -> Key {
    if number >= LAST {
        return Key::from(format!("z{number:012}"));
    }
    Key::from(format!(
        "{:013x}",
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12
    ))
}

fn value(number: u64) -> Entry {
    entry(number + 1, Numbers::new(number).bytes(100))
}

/// Makes changes, 1,024 at once.
async fn apply(store: &Arc<RedbStore>, changes: impl Iterator<Item = (u64, Change<'static>)>) {
    let mut changes = changes.peekable();
    while changes.peek().is_some() {
        let applying: JoinSet<_> = changes
            .by_ref()
            .take(1_024)
            .map(|(number, change)| {
                let store = Arc::clone(store);
                async move { store.apply(&key(number), change).await.unwrap() }
            })
            .collect();
        applying.join_all().await;
    }
}

async fn put(store: &Arc<RedbStore>, numbers: Range<u64>) {
    apply(store, numbers.map(|it| (it, Change::write(value(it))))).await;
}

/// Removes all but each so manieth.
async fn remove(store: &Arc<RedbStore>, numbers: Range<u64>, keep: u64) {
    let gone = numbers.filter(|number| number % keep != 0);
    apply(store, gone.map(|number| (number, Change::remove()))).await;
}

fn kept(numbers: Range<u64>, keep: u64) -> BTreeMap<Key, Entry> {
    let kept = numbers.filter(|number| number % keep == 0);
    kept.map(|number| (key(number), value(number))).collect()
}

async fn held(store: &RedbStore) -> BTreeMap<Key, Entry> {
    all(store).await.unwrap().into_iter().collect()
}

fn len(path: &Path) -> u64 {
    fs::metadata(path.join("entries.redb")).unwrap().len()
}

/// Bugs: the file stays as long as it was; what went back is told wrong; records of
/// before are gone, or those that were removed are back.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_file_is_as_long_as_it_was_before_what_was_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Arc::new(RedbStore::create_new(path).await.unwrap());
    let base = LAST..LAST + 2_000;
    put(&store, base.clone()).await;
    store.compact().await.unwrap();
    let before = len(path);

    put(&store, 0..20_000).await;
    let most = len(path);
    assert!(most > before * 4, "{most} after {before}");
    remove(&store, 0..20_000, u64::MAX).await;
    apply(&store, [(0, Change::remove())].into_iter()).await;
    let removed = len(path);
    let compaction = store.compact().await.unwrap();
    let after = len(path);
    assert!(after <= before + before / 10, "{after} after {before}");
    assert_eq!(
        (compaction.bytes_before, compaction.bytes_after),
        (removed, after)
    );
    assert_eq!(compaction.given_back(), removed - after);
    assert_eq!(held(&store).await, kept(base.clone(), 1));

    // It goes on as it was, and so does one that was opened again.
    put(&store, 0..1_000).await;
    store.close().await.unwrap();
    let store = RedbStore::open(path).await.unwrap();
    let mut expected = kept(base, 1);
    expected.extend(kept(0..1_000, 1));
    assert_eq!(held(&store).await, expected);
}

/// Bugs: pages of what was removed are never free, as something goes on reading
/// them; or removals leave what they removed. The engine doubles and halves the file:
/// what it held before fits into twice that.
#[tokio::test(flavor = "multi_thread")]
async fn space_is_used_again_without_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let store = Arc::new(RedbStore::create_new(path).await.unwrap());
    put(&store, 0..20_000).await;
    let first = len(path);
    for round in 1..6 {
        remove(&store, 0..20_000, 10).await;
        store.get(&key(round)).await.unwrap();
        put(&store, 0..20_000).await;
        let again = len(path);
        assert!(again <= first * 2, "round {round}: {again} after {first}");
    }
    assert_eq!(held(&store).await, kept(0..20_000, 1));
}

/// Bugs: what comes during a compaction fails, as it does while the store is opened
/// again; a read on an async thread blocks that; one of them never goes on.
#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_wait_for_a_compaction() {
    for reads in [Reads::OnCaller, Reads::OnBlockingThreads { max: 2 }] {
        let disk = Disk::default();
        let settings = RedbStore::builder().reads(reads);
        let store = Arc::new(settings.open_on(disk.backend()).await.unwrap());
        put(&store, 0..2_000).await;
        remove(&store, 0..2_000, 10).await;

        disk.hold_syncs();
        let compacting = Arc::clone(&store);
        let compacting = tokio::spawn(async move { compacting.compact().await });
        let held_disk = disk.clone();
        spawn_blocking(move || held_disk.until_a_sync_waits())
            .await
            .unwrap();
        let on_spot = Arc::clone(&store);
        let on_spot = spawn_blocking(move || on_spot.try_get(&key(0)).is_none());
        let Ok(is_put_off) = timeout(LATE, on_spot).await else {
            disk.let_syncs_go();
            panic!("an async thread waits");
        };
        let mut waiting = JoinSet::new();
        for number in 0..8 {
            let store = Arc::clone(&store);
            waiting.spawn(async move {
                match number {
                    0..4 => {
                        let found = store.entry(&key(number * 10)).await.unwrap();
                        assert_eq!(found, Some(value(number * 10)));
                    }
                    4 => assert_eq!(held(&store).await.len(), 200),
                    5 => store.check().await.unwrap(),
                    _ => {
                        store.merge(&key(0), value(0)).await.unwrap();
                    }
                }
            });
        }
        let early = timeout(SOON, waiting.join_next()).await;
        disk.let_syncs_go();
        assert!(is_put_off.unwrap(), "read beside a compaction");
        assert!(early.is_err(), "the engine is no one else's meanwhile");
        timeout(LATE, waiting.join_all()).await.unwrap();
        let compaction = compacting.await.unwrap().unwrap();
        assert!(compaction.given_back() > 0);
        assert_eq!(compaction.bytes_after, disk.bytes().len() as u64);
    }
}

/// Bugs: now and then something fails beside compactions, or sees what was not
/// written; a reader never goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_fails_beside_compactions() {
    for reads in [Reads::OnCaller, Reads::OnBlockingThreads { max: 4 }] {
        let directory = tempfile::tempdir().unwrap();
        let settings = RedbStore::builder().reads(reads);
        let store = Arc::new(settings.create_new(directory.path()).await.unwrap());
        let ended = Arc::new(AtomicBool::new(false));
        let mut others = JoinSet::new();
        for task in 0..8_u64 {
            let (store, ended) = (Arc::clone(&store), Arc::clone(&ended));
            others.spawn(async move {
                let own = Key::from(format!("own {task}"));
                let mut time = 0;
                while !ended.load(Ordering::Relaxed) {
                    time += 1;
                    store.merge(&own, entry(time, "v")).await.unwrap();
                    let found = store.entry(&own).await.unwrap();
                    assert_eq!(found, Some(entry(time, "v")));
                    if task == 0 {
                        assert!(held(&store).await.contains_key(&own));
                    }
                }
                time
            });
        }
        for _ in 0..5 {
            put(&store, 0..2_000).await;
            remove(&store, 0..2_000, 7).await;
            store.compact().await.unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        let done = timeout(LATE, others.join_all()).await.unwrap();
        assert!(done.iter().all(|times| *times > 5), "{done:?}");
        let found = held(&store).await;
        assert_eq!(found.len(), kept(0..2_000, 7).len() + 8);
        store.close().await.unwrap();
    }
}

/// Bugs: a compaction waits for a backup, and all reads with it; it is refused for
/// good after one.
#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_is_refused_while_a_backup_is_made() {
    let disk = Disk::default();
    let directory = tempfile::tempdir().unwrap();
    let settings = || RedbStore::builder().max_page_cache(0);
    let store = Arc::new(settings().open_on(disk.backend()).await.unwrap());
    put(&store, 0..2_000).await;
    remove(&store, 0..2_000, 10).await;
    store.close().await.unwrap();
    let store = Arc::new(settings().open_on(disk.backend()).await.unwrap());
    disk.hold_reads(1);
    let (copied, copy) = (Arc::clone(&store), directory.path().join("copy"));
    let backup = tokio::spawn(async move { copied.backup(copy).await });
    until_reads_wait(&disk, 1).await;
    let refused = timeout(LATE, store.compact()).await;
    let read = timeout(LATE, store.entry(&key(0))).await;
    disk.let_reads_go();
    let refused = refused.unwrap().unwrap_err();
    assert!(
        matches!(refused, RedbStoreError::BackupUnderWay),
        "{refused}"
    );
    assert_eq!(read.unwrap().unwrap(), Some(value(0)));
    backup.await.unwrap().unwrap();
    store.compact().await.unwrap();
    let copy = RedbStore::open(directory.path().join("copy"))
        .await
        .unwrap();
    assert_eq!(held(&copy).await, held(&store).await);
}

/// Bugs: a compaction that was cut loses a record, or leaves a file that no store
/// opens; one that failed is called done; writes go on after it. It is cut at each of
/// its writes and flushes.
#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_can_be_cut_anywhere() {
    let disk = Disk::default();
    let store = Arc::new(RedbStore::builder().open_on(disk.backend()).await.unwrap());
    put(&store, 0..1_000).await;
    remove(&store, 0..1_000, 5).await;
    store.close().await.unwrap();
    let (bytes, expected) = (disk.bytes(), kept(0..1_000, 5));
    let (mut cuts, mut shortened) = (0, 0);
    loop {
        let disk = Disk::holding(bytes.clone());
        let store = Arc::new(RedbStore::builder().open_on(disk.backend()).await.unwrap());
        disk.fail_after(cuts);
        let compacted = store.compact().await;
        let left: Vec<_> = (0..3)
            .map(|round| disk.after_power_loss(&mut Numbers::new(cuts * 3 + round)))
            .collect();
        if let Ok(compaction) = compacted {
            assert!(compaction.given_back() > 0);
            break;
        }
        let failed = matches!(compacted, Err(RedbStoreError::WriteFailed(_)));
        assert!(failed, "{compacted:?}");
        let refused = store.merge(&key(0), value(0)).await.unwrap_err();
        let refused = cause(&refused);
        assert!(
            matches!(refused, RedbStoreError::WritesRefused(_)),
            "{refused}"
        );
        disk.fail_after(u64::MAX);
        store.reopen().await.unwrap();
        assert_eq!(held(&store).await, expected, "cut {cuts}, opened again");
        for left in left {
            shortened += u64::from(left.bytes().len() < bytes.len());
            let store = RedbStore::builder().open_on(left.backend()).await.unwrap();
            assert_eq!(held(&store).await, expected, "cut {cuts}, without power");
            store.compact().await.unwrap();
            assert_eq!(held(&store).await, expected, "cut {cuts}, and compacted");
        }
        cuts += 1;
    }
    assert!(cuts > 20, "{cuts} cuts");
    assert!(shortened > 0, "never cut after the file became shorter");
}

/// Bugs: a store that is to compact by itself does not, or does so with a file longer
/// than that; one that is not to does.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_compacts_by_itself_where_it_is_told() {
    let compacted = async |settings: RedbStoreBuilder| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let store = Arc::new(settings.create_new(path).await.unwrap());
        put(&store, 0..20_000).await;
        remove(&store, 0..20_000, 10).await;
        // The answer to the last change comes before the compaction.
        store.check().await.unwrap();
        assert_eq!(held(&store).await, kept(0..20_000, 10));
        let by_itself = store.stats().compactions;
        (by_itself, store.compact().await.unwrap())
    };
    let (by_itself, left) = compacted(RedbStore::builder().compact_up_to(1 << 30)).await;
    assert!(by_itself > 0);
    // It is not worth it for less.
    assert!(
        left.bytes_before <= left.bytes_after * 2 + (2 << 20),
        "{left:?}"
    );
    for settings in [
        RedbStore::builder(),
        RedbStore::builder().compact_up_to(1 << 20),
    ] {
        assert_eq!(compacted(settings).await.0, 0);
    }
}

/// Bug: a store that is to compact by itself does so for what is only overwritten, or
/// while as much comes as goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_loses_nothing_is_not_compacted() {
    let disk = Disk::default();
    let settings = RedbStore::builder().compact_up_to(1 << 30);
    let store = Arc::new(settings.open_on(disk.backend()).await.unwrap());
    put(&store, 0..5_000).await;
    let commits = store.stats().commits;
    let syncs = disk.syncs();
    for round in 0..4_u64 {
        let changes = (0..5_000_u64).flat_map(|number| {
            let newer = entry(10_000 + round, vec![1; 100]);
            [(number, Change::write(newer))]
        });
        apply(&store, changes).await;
    }
    for round in 1..20_u64 {
        let numbers = round * 5_000..round * 5_000 + 500;
        put(&store, numbers.clone()).await;
        apply(&store, numbers.map(|it| (it, Change::remove()))).await;
    }
    sleep(SOON / 4).await;
    store.check().await.unwrap();
    // Each commit of changes is flushed once, and now and then the file grows.
    let (commits, syncs) = (store.stats().commits - commits, disk.syncs() - syncs);
    assert!(syncs <= commits + 5, "{syncs} flushes, {commits} commits");
}
