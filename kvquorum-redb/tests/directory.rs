//! Opening: again, twice at once, and what is none of ours.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod support;

use std::fs;
use std::path::Path;

use kvquorum_core::{Entry, Key, Store};
use kvquorum_redb::{OpenError, RedbStore, RedbStoreError};
use redb::{Database, TableDefinition};
use support::{all, cause, entry, version};

/// Bugs: entries, tombstones or the greatest timestamp do not outlive the
/// store; the greatest timestamp is that of the last merge.
#[tokio::test]
async fn a_store_opened_again_holds_what_it_held() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let store = RedbStore::open(&path).await.unwrap();
    assert_eq!(store.max_timestamp(), version(0).timestamp);
    let expected = [
        (Key::from(""), entry(7, "the empty key")),
        (Key::from("a"), entry(9, "")),
        (Key::from("b"), Entry::tombstone(version(3))),
        (Key::from("c"), entry(5, vec![0xff; 3_000_000])),
    ];
    for (key, entry) in &expected {
        store.merge(key, entry.clone()).await.unwrap();
    }
    // Superseded: it is not stored, and neither is its timestamp.
    store
        .merge(&Key::from("a"), entry(8, "late"))
        .await
        .unwrap();
    assert_eq!(store.max_timestamp(), version(9).timestamp);
    store.close().await.unwrap();
    for verify in [true, false] {
        let store = RedbStore::builder()
            .verify(verify)
            .open(&path)
            .await
            .unwrap();
        assert_eq!(all(&store).await.unwrap(), expected);
        for (key, entry) in &expected {
            assert_eq!(store.get(key).await.unwrap().as_ref(), Some(entry));
        }
        assert_eq!(store.max_timestamp(), version(9).timestamp);
        // Dropped, not closed: opening it at once must find it let go.
    }
}

/// Bug: two stores over one directory, in one process.
#[tokio::test]
async fn a_directory_is_held_by_one_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path()).await.unwrap();
    let second = RedbStore::open(directory.path()).await.unwrap_err();
    let OpenError::Locked { path } = &second else {
        panic!("{second}");
    };
    assert_eq!(path, directory.path());
    assert!(second.to_string().contains(&path.display().to_string()));
    store.merge(&Key::from("k"), entry(1, "v")).await.unwrap();
    drop(store);
    RedbStore::open(directory.path()).await.unwrap();
}

fn file(directory: &Path) -> std::path::PathBuf {
    directory.join("entries.redb")
}

async fn refused(directory: &Path) -> OpenError {
    let before = fs::read(file(directory)).unwrap();
    let error = RedbStore::open(directory).await.unwrap_err();
    assert_eq!(fs::read(file(directory)).unwrap(), before, "it was changed");
    error
}

/// Bugs: what others wrote is taken for ours, or overwritten; an empty file is
/// taken for a new store, though only a loss makes one.
#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for foreign in ["no database at all".repeat(1_000), "short".to_owned()] {
        fs::write(file(path), foreign).unwrap();
        let error = refused(path).await;
        assert!(
            matches!(error, OpenError::Foreign(_) | OpenError::Damaged(_)),
            "{error}"
        );
    }
    fs::write(file(path), "").unwrap();
    let error = refused(path).await;
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");

    fs::remove_file(file(path)).unwrap();
    let database = Database::create(file(path)).unwrap();
    let writing = database.begin_write().unwrap();
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("theirs");
    writing.open_table(table).unwrap().insert(1, 2).unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = RedbStore::open(path).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign(_)), "{error}");

    let not_a_directory = path.join("file");
    fs::write(&not_a_directory, "").unwrap();
    let error = RedbStore::open(&not_a_directory).await.unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

/// Bug: a newer version's files are read as if they were ours.
#[tokio::test]
async fn a_newer_format_is_refused_by_its_number() {
    let directory = tempfile::tempdir().unwrap();
    drop(RedbStore::open(directory.path()).await.unwrap());
    let database = Database::create(file(directory.path())).unwrap();
    let writing = database.begin_write().unwrap();
    let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("kvquorum.meta");
    writing
        .open_table(meta)
        .unwrap()
        .insert("format", 2)
        .unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = RedbStore::open(directory.path()).await.unwrap_err();
    let OpenError::UnknownFormat { found: 2, known: 1 } = error else {
        panic!("{error}");
    };
}

/// Bug: a crash while a store is made leaves a directory that no store opens.
#[tokio::test]
async fn a_half_made_store_is_made_anew() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("entries.redb.new"), "half").unwrap();
    let store = RedbStore::open(directory.path()).await.unwrap();
    assert!(all(&store).await.unwrap().is_empty());
    assert!(!directory.path().join("entries.redb.new").exists());
}

/// Bug: one entry that the engine does not take fails the commit, and with it
/// the store.
#[tokio::test]
async fn an_entry_that_is_too_large_is_refused_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::open(directory.path()).await.unwrap();
    let key = Key::from("k");
    let error = store
        .merge(&key, entry(2, vec![0; 1 << 30]))
        .await
        .unwrap_err();
    let RedbStoreError::TooLarge { .. } = cause(&error) else {
        panic!("{error}");
    };
    store.merge(&key, entry(1, "v")).await.unwrap();
}
