//! Opening again: what is found, and what other callers see meanwhile.

mod support;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use kvquorum_core::Key;
use kvquorum_redb::{OpenError, RedbStore, RedbStoreError};
use redb::Database;
use support::{Disk, Entries, cause, entry};

/// The error of a store that was not opened again.
fn refusal(reopened: Result<(), RedbStoreError>) -> std::sync::Arc<OpenError> {
    match reopened {
        Err(RedbStoreError::ReopenFailed(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// What a backend holds that has an engine's file and no table.
fn without_tables() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    drop(Database::create(&path).unwrap());
    fs::read(path).unwrap()
}

/// Bug: where the backend comes back without what it held, the store goes on as an
/// empty one, and every entry that it acked is gone without a word.
#[tokio::test]
async fn a_store_does_not_start_empty_when_it_is_opened_again() {
    for again in [Vec::new(), without_tables()] {
        let (first, second) = (Disk::default(), Disk::holding(again.clone()));
        let was_opened = AtomicBool::new(false);
        let disk = second.clone();
        let backend = move || match was_opened.swap(true, Ordering::Relaxed) {
            false => Ok(first.clone()),
            true => Ok(disk.clone()),
        };
        let store = RedbStore::builder().open_on(backend).await.unwrap();
        let key = Key::from("k");
        store.merge(&key, entry(1, "v")).await.unwrap();
        for _ in 0..2 {
            let error = refusal(store.reopen().await);
            let expected = match again.is_empty() {
                true => matches!(*error, OpenError::Damaged(_)),
                false => matches!(*error, OpenError::Foreign(_)),
            };
            assert!(expected, "{error:?}");
            let error = store.entry(&key).await.unwrap_err();
            assert!(matches!(cause(&error), RedbStoreError::ReopenFailed(_)));
        }
        assert!(!again.is_empty() || second.bytes().is_empty());
    }
}

/// Bug: a file of records that has no table is taken for a new store, though a
/// creation gives the file its name only when it has them.
#[tokio::test]
async fn a_file_without_tables_is_no_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fs::write(path.join("entries.redb"), without_tables()).unwrap();
    for opened in [
        RedbStore::open(path).await,
        RedbStore::open_or_create(path).await,
    ] {
        let error = opened.unwrap_err();
        assert!(matches!(error, OpenError::Foreign(_)), "{error:?}");
    }
    assert!(!path.join("created").exists(), "taken for ours");
}
