//! Backups of a store that serves.

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvquorum_core::{Key, Replica, Request, Response, Transport};
use kvquorum_redb::{BackupError, RedbStore, RedbStoreError};
use support::{Entries, all, entry};

const WRITERS: usize = 64;

fn key(writer: usize, step: u64) -> Key {
    Key::from(format!("{writer}/{}", step % 4))
}

/// Bugs: what was acked before the backup began is not in it; it is not of one
/// moment, so that a writer's later step is there and an earlier one is not; the
/// store cannot write while it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_under_64_writers_holds_all_that_was_acked_before_it_began() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::create_new(directory.path().join("store")).await;
    let store = Arc::new(store.unwrap());
    let acked: Arc<[AtomicU64; WRITERS]> = Arc::new([const { AtomicU64::new(0) }; WRITERS]);
    let ended = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, acked, ended) = (store.clone(), acked.clone(), ended.clone());
            tokio::spawn(async move {
                for step in 1.. {
                    let entry = entry(step, step.to_string());
                    store.merge(&key(writer, step), entry).await.unwrap();
                    acked[writer].store(step, Ordering::SeqCst);
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                }
            })
        })
        .collect();
    let now = || acked.each_ref().map(|step| step.load(Ordering::SeqCst));
    for round in 0..3 {
        let floor = now().into_iter().min().unwrap();
        // Each writer has acked since the last backup.
        while now().into_iter().min().unwrap() < floor + 4 {
            tokio::task::yield_now().await;
        }
        let before = now();
        let copy = directory.path().join(format!("copy {round}"));
        store.backup(&copy).await.unwrap();
        let after = now();

        let copy = RedbStore::open(copy).await.unwrap();
        for writer in 0..WRITERS {
            let mut last = 0;
            let mut held = Vec::new();
            for step in 0..4 {
                if let Some(entry) = copy.entry(&key(writer, step)).await.unwrap() {
                    let step = entry.version.timestamp.to_bits();
                    assert_eq!(entry, support::entry(step, step.to_string()));
                    last = last.max(step);
                    held.push(step);
                }
            }
            assert!(last >= before[writer], "{last} of {writer}");
            // One more may be committed and not yet counted here.
            assert!(last <= after[writer] + 1, "{last} of {writer}");
            held.sort_unstable();
            let expected: Vec<u64> = (last.saturating_sub(3).max(1)..=last).collect();
            assert_eq!(held, expected, "not of one moment");
        }
        copy.close().await.unwrap();
    }
    ended.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Bugs: a backup is made over something; one that failed leaves a directory that
/// looks like a store.
#[tokio::test]
async fn a_backup_is_made_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = RedbStore::create_new(&path).await.unwrap();
    store.merge(&Key::from("k"), entry(1, "v")).await.unwrap();

    let there = store.backup(&path).await.unwrap_err();
    assert!(matches!(there, BackupError::Exists { .. }), "{there}");
    fs::write(directory.path().join("file"), "precious").unwrap();
    let there = store
        .backup(directory.path().join("file"))
        .await
        .unwrap_err();
    assert!(matches!(there, BackupError::Exists { .. }), "{there}");
    let precious = fs::read(directory.path().join("file")).unwrap();
    assert_eq!(precious, b"precious");
    let under_a_file = directory.path().join("file/copy");
    let error = store.backup(&under_a_file).await.unwrap_err();
    assert!(matches!(error, BackupError::Copy(_)), "{error}");

    let copy = directory.path().join("not/yet/there");
    store.backup(&copy).await.unwrap();
    let opened = RedbStore::open(&copy).await.unwrap();
    assert_eq!(all(&opened).await.unwrap(), all(&store).await.unwrap());
    // What is written to the one is not in the other.
    opened.merge(&Key::from("k"), entry(2, "w")).await.unwrap();
    assert_eq!(
        store.entry(&Key::from("k")).await.unwrap(),
        Some(entry(1, "v"))
    );

    store.close().await.unwrap();
    let late = directory.path().join("late");
    let closed = store.backup(&late).await.unwrap_err();
    assert!(
        matches!(closed, BackupError::Store(RedbStoreError::Closed)),
        "{closed}"
    );
    assert!(!late.exists());
}

/// Bugs: a damaged record is copied, or left out without a word.
#[tokio::test]
async fn a_damaged_store_is_not_backed_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let store = RedbStore::create_new(&path).await.unwrap();
    let value = "a value that is not seen twice in a file";
    store.merge(&Key::from("k"), entry(1, value)).await.unwrap();
    store.close().await.unwrap();
    let file = path.join("entries.redb");
    let mut bytes = fs::read(&file).unwrap();
    let mut windows = bytes.windows(value.len());
    let at = windows.position(|it| it == value.as_bytes()).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let unverified = RedbStore::builder().verify(false);
    let store = unverified.open(&path).await.unwrap();

    let copy = directory.path().join("copy");
    let error = store.backup(&copy).await.unwrap_err();
    assert!(
        matches!(error, BackupError::Store(RedbStoreError::Damaged { .. })),
        "{error}"
    );
    assert!(!copy.exists());
}

/// What the docs say of a copy's identity: it is the same replica.
#[tokio::test]
async fn a_copy_has_the_id_of_the_original() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::create_new(directory.path().join("store")).await;
    let replica = Replica::new(store.unwrap()).of_new_cluster();
    let id = id(&replica).await;
    let copy = directory.path().join("copy");
    replica.store().backup(&copy).await.unwrap();
    let copy = Replica::new(RedbStore::open(copy).await.unwrap()).of_new_cluster();
    assert_eq!(self::id(&copy).await, id);
}

async fn id(replica: &impl Transport) -> u64 {
    match replica.call(&Request::identify()).await.unwrap() {
        Response::Identity(identity) => identity.id.get(),
        other => panic!("{other:?}"),
    }
}
