//! Flushes, failures of the disk, and losses of power, on a simulated disk.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{Ack, Key};
use kvquorum_redb::{Durability, RedbStore, RedbStoreError};
use support::{Disk, Entries, LATE, Numbers, all, cause, entry, version};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

async fn open(disk: &Disk) -> Arc<RedbStore> {
    Arc::new(RedbStore::builder().open_on(disk.backend()).await.unwrap())
}

/// Long enough for anything that does not wait for a flush.
const SOON: Duration = Duration::from_millis(200);

/// Bugs: an ack before the flush; a flush for each merge; a third flush to wait
/// for.
#[tokio::test(flavor = "multi_thread")]
async fn merges_that_wait_share_the_next_flush() {
    let disk = Disk::default();
    let store = open(&disk).await;
    disk.hold_syncs();
    let merge = |number: u64| {
        let store = Arc::clone(&store);
        async move {
            store
                .merge(&Key::from(number.to_string()), entry(1, "v"))
                .await
        }
    };
    let mut first = tokio::spawn(merge(0));
    let held = disk.clone();
    spawn_blocking(move || held.until_a_sync_waits())
        .await
        .unwrap();
    let before = store.stats();
    let mut others: JoinSet<_> = (1..=64).map(merge).collect();
    assert!(
        timeout(SOON, &mut first).await.is_err(),
        "acked, not flushed"
    );
    assert!(
        timeout(SOON, others.join_next()).await.is_err(),
        "acked, not flushed"
    );
    disk.let_syncs_go();
    assert_eq!(first.await.unwrap().unwrap(), Ack::Applied);
    for merged in others.join_all().await {
        assert_eq!(merged.unwrap(), Ack::Applied);
    }
    let after = store.stats();
    assert_eq!(after.changes, 65);
    assert_eq!(
        after.commits - before.commits,
        2,
        "its own, and one for all the others"
    );
}

/// Bugs: a read returns what a crash can take back; a merge that is superseded
/// by an entry in the flush under way is acked before that is on disk.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_shown_or_counted_on_before_it_is_flushed() {
    let disk = Disk::default();
    let store = open(&disk).await;
    let key = Key::from("key");
    store.merge(&key, entry(1, "old")).await.unwrap();
    disk.hold_syncs();
    let merging = {
        let (store, key) = (Arc::clone(&store), key.clone());
        tokio::spawn(async move { store.merge(&key, entry(3, "new")).await })
    };
    let held = disk.clone();
    spawn_blocking(move || held.until_a_sync_waits())
        .await
        .unwrap();
    let mut superseded = {
        let (store, key) = (Arc::clone(&store), key.clone());
        tokio::spawn(async move { store.merge(&key, entry(2, "between")).await })
    };
    assert!(timeout(SOON, &mut superseded).await.is_err());
    assert_eq!(store.entry(&key).await.unwrap(), Some(entry(1, "old")));
    assert_eq!(all(&store).await.unwrap(), [(key.clone(), entry(1, "old"))]);
    disk.let_syncs_go();
    assert_eq!(merging.await.unwrap().unwrap(), Ack::Applied);
    let by = version(3);
    assert_eq!(superseded.await.unwrap().unwrap(), Ack::Superseded { by });
    assert_eq!(store.entry(&key).await.unwrap(), Some(entry(3, "new")));
}

/// Bug: a merge that leaves all as it is waits for a flush.
#[tokio::test]
async fn what_changes_nothing_is_not_flushed() {
    let disk = Disk::default();
    let store = open(&disk).await;
    let key = Key::from("key");
    store.merge(&key, entry(2, "new")).await.unwrap();
    let before = disk.syncs();
    let merged = store.merge(&key, entry(1, "old")).await.unwrap();
    assert_eq!(merged, Ack::Superseded { by: version(2) });
    let merged = store.merge(&key, entry(2, "new")).await.unwrap();
    assert_eq!(merged, Ack::Applied);
    assert_eq!(disk.syncs(), before);
}

/// Bugs: a failed write or flush is acked; writes go on after it; what failed
/// is shown; a later opening finds an acked entry missing or a half one.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_write_is_never_acked_and_is_the_last() {
    let mut failures = 0;
    for case in 0..60 {
        let disk = Disk::default();
        let store = open(&disk).await;
        let mut acked: HashMap<Key, u64> = HashMap::new();
        for number in 0..20 {
            let key = Key::from((number % 7).to_string());
            store.merge(&key, entry(number, "before")).await.unwrap();
            acked.insert(key, number);
        }
        if case % 2 == 0 {
            disk.fail_after(case / 2);
        } else {
            disk.fail_syncs_after(case / 20);
        }
        let mut failed = false;
        for number in 20..40 {
            let key = Key::from((number % 7).to_string());
            let merged = store.merge(&key, entry(number, "during")).await;
            match merged {
                Ok(merged) => {
                    assert!(!failed, "an ack after a failure");
                    assert_eq!(merged, Ack::Applied);
                    acked.insert(key, number);
                }
                Err(error) => {
                    match cause(&error) {
                        RedbStoreError::WriteFailed(_) => assert!(!failed),
                        RedbStoreError::WritesRefused(_) => assert!(failed),
                        other => panic!("{other}"),
                    }
                    failed = true;
                    // A disk that works again does not make up for it.
                    if case % 3 == 0 {
                        disk.fail_after(u64::MAX);
                    }
                    if let Ok(found) = store.entry(&key).await {
                        let held = found.map_or(0, |entry| entry.version.timestamp.to_bits());
                        assert_eq!(held, acked[&key], "what failed is shown");
                    }
                }
            }
        }
        assert!(failed, "case {case}");
        failures += 1;
        let closed = store.close().await;
        assert!(matches!(closed, Err(RedbStoreError::WriteFailed(_))));

        disk.fail_after(u64::MAX);
        let store = open(&disk).await;
        for (key, number) in &acked {
            let found = store.entry(key).await.unwrap().unwrap();
            let held = found.version.timestamp.to_bits();
            assert!(held >= *number, "case {case}: an acked entry is gone");
            let value = if held < 20 { "before" } else { "during" };
            assert_eq!(found, entry(held, value));
        }
        store
            .merge(&Key::from("after"), entry(1, "v"))
            .await
            .unwrap();
    }
    assert_eq!(failures, 60);
}

/// Bugs: an ack without a flush of all that it stands on; a commit that can be
/// torn.
#[tokio::test(flavor = "multi_thread")]
async fn acked_entries_survive_a_loss_of_power_at_any_moment() {
    const KEYS: u64 = 40;
    for case in 0..40 {
        let mut numbers = Numbers::new(case);
        let mut disk = Disk::default();
        // What every key is known to hold at the least, and at the most.
        let mut acked = HashMap::new();
        let mut sent = HashMap::new();
        let mut time = 0;
        for _ in 0..4 {
            let store = open(&disk).await;
            for (key, least) in &acked {
                let found: u64 = held(&store, key).await;
                assert!(found >= *least, "case {case}: an acked entry is gone");
                assert!(found <= sent[key], "case {case}: never written");
            }
            let mut merging = JoinSet::new();
            for _ in 0..30 + numbers.below(100) {
                time += 1;
                let key = Key::from(numbers.below(KEYS).to_string());
                sent.insert(key.clone(), time);
                let (store, time) = (Arc::clone(&store), time);
                let value = vec![b'v'; time as usize * 37 % 3_000];
                merging.spawn(async move {
                    let merged = store.merge(&key, entry(time, value)).await;
                    merged.unwrap();
                    (key, time)
                });
            }
            // In the middle of them.
            for _ in 0..numbers.below(merging.len() as u64) {
                let (key, time) = merging.join_next().await.unwrap().unwrap();
                let least: &mut u64 = acked.entry(key).or_default();
                *least = time.max(*least);
            }
            let left = disk.after_power_loss(&mut numbers);
            drop((merging, store));
            disk = left;
        }
    }
}

/// The timestamp of what is under a key, whose value must be the one that
/// belongs to it.
async fn held(store: &RedbStore, key: &Key) -> u64 {
    let Some(found) = store.entry(key).await.unwrap() else {
        return 0;
    };
    let time = found.version.timestamp.to_bits();
    assert_eq!(found, entry(time, vec![b'v'; time as usize * 37 % 3_000]));
    time
}

/// Bugs: the looser level flushes each commit after all, or never flushes.
#[tokio::test(flavor = "multi_thread")]
async fn a_looser_store_acks_at_once_and_flushes_within_its_time() {
    let disk = Disk::default();
    // Longer than the merges take on a machine that has much else to do.
    let interval = Duration::from_secs(5);
    let settings = RedbStore::builder().durability(Durability::Every(interval));
    let store = settings.open_on(disk.backend()).await.unwrap();
    let before = disk.syncs();
    let key = Key::from("key");
    for number in 1..=50 {
        store.merge(&key, entry(number, "v")).await.unwrap();
    }
    assert!(disk.syncs() - before <= 1, "a flush for each");
    let flushed = async || open(&disk.flushed()).await.entry(&key).await.unwrap();
    let in_its_time = async {
        while flushed().await != Some(entry(50, "v")) {
            sleep(interval / 50).await;
        }
    };
    timeout(LATE, in_its_time).await.expect("a flush of it all");
    // And what is left when the store is closed.
    store.merge(&key, entry(51, "v")).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(flushed().await, Some(entry(51, "v")));
}

/// Bug: what a commit takes is bounded by nothing but memory; or a value larger
/// than the bound waits forever.
#[tokio::test(flavor = "multi_thread")]
async fn commits_are_bounded_in_bytes() {
    let disk = Disk::default();
    let settings = RedbStore::builder().max_commit(100_000);
    let store = Arc::new(settings.open_on(disk.backend()).await.unwrap());
    store
        .merge(&Key::from("large"), entry(1, vec![1; 500_000]))
        .await
        .unwrap();
    let before = store.stats().commits;
    disk.hold_syncs();
    let merging: JoinSet<_> = (0..100)
        .map(|number| {
            let store = Arc::clone(&store);
            async move {
                let key = Key::from(number.to_string());
                store.merge(&key, entry(1, vec![1; 9_000])).await.unwrap();
            }
        })
        .collect();
    let held = disk.clone();
    spawn_blocking(move || held.until_a_sync_waits())
        .await
        .unwrap();
    tokio::time::sleep(SOON).await;
    disk.let_syncs_go();
    merging.join_all().await;
    // Ten fit at once.
    assert!(store.stats().commits - before >= 10);
}
