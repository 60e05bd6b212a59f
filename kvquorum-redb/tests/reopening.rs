//! Opening again: what is found, and what other callers see meanwhile.

mod support;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvquorum_core::{Key, Store};
use kvquorum_redb::{OpenError, Reads, RedbStore, RedbStoreError};
use redb::Database;
use support::{Disk, Entries, all, cause, entry};
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::timeout;

const LATE: Duration = Duration::from_secs(20);

/// The error of a store that was not opened again.
fn refusal(reopened: Result<(), RedbStoreError>) -> Arc<OpenError> {
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

/// Reads on the spot until one fails, and says why.
fn read_until_refused(store: &RedbStore, key: &Key) -> RedbStoreError {
    loop {
        match store.try_get(key) {
            Some(Ok(_)) => std::thread::yield_now(),
            Some(Err(error)) => return cause(&error).clone(),
            None => panic!("reads are to be made on the spot"),
        }
    }
}

/// Bug: where the store is closed or opened again, which waits for a scan, reads on
/// the spot wait behind that, and with them their async threads.
#[tokio::test(flavor = "multi_thread")]
async fn no_read_waits_for_the_writer_which_waits_for_a_scan() {
    for closes in [true, false] {
        let disk = Disk::default();
        let settings = || {
            RedbStore::builder()
                .max_page_cache(0)
                .reads(Reads::OnCaller)
        };
        let store = settings().open_on(disk.backend()).await.unwrap();
        let key = Key::from("k");
        store.merge(&key, entry(1, "v")).await.unwrap();
        store.close().await.unwrap();
        let store = Arc::new(settings().open_on(disk.backend()).await.unwrap());

        disk.hold_reads(1);
        let scanned = Arc::clone(&store);
        let scan = tokio::spawn(async move { all(&scanned).await });
        while disk.reads_waiting() == 0 {
            yield_now().await;
        }
        let ending = Arc::clone(&store);
        let ended = tokio::spawn(async move {
            match closes {
                true => ending.close().await,
                false => ending.reopen().await,
            }
        });
        let read = Arc::clone(&store);
        let read = spawn_blocking(move || read_until_refused(&read, &key));
        let refused = timeout(LATE, read).await;
        let waited = !ended.is_finished();
        disk.let_reads_go();
        let expected = match refused.expect("a read waits").unwrap() {
            RedbStoreError::Closed => closes,
            RedbStoreError::Reopening => !closes,
            _ => false,
        };
        assert!(expected && waited);
        assert_eq!(scan.await.unwrap().unwrap().len(), 1);
        ended.await.unwrap().unwrap();
    }
}

/// Bugs: a panic of what makes the backend is told as a runtime that is missing; or
/// it ends the writer, and the store is being opened again for ever.
#[tokio::test]
async fn a_backend_that_panics_is_an_error() {
    for panics_at in 0..2 {
        let disk = Disk::default();
        let (again, calls) = (disk.clone(), AtomicU64::new(0));
        let backend = move || {
            let call = calls.fetch_add(1, Ordering::Relaxed);
            assert_ne!(call, panics_at, "no disk today");
            Ok(again.clone())
        };
        let is_told = |error: &OpenError| match error {
            OpenError::Engine(error) => error.to_string().contains("no disk today"),
            _ => false,
        };
        let opened = RedbStore::builder().open_on(backend).await;
        if panics_at == 0 {
            let error = opened.unwrap_err();
            assert!(is_told(&error), "{error:?}");
            continue;
        }
        let (store, key) = (opened.unwrap(), Key::from("k"));
        store.merge(&key, entry(1, "v")).await.unwrap();
        let error = refusal(store.reopen().await);
        assert!(is_told(&error), "{error:?}");
        let error = store.entry(&key).await.unwrap_err();
        assert!(matches!(cause(&error), RedbStoreError::ReopenFailed(_)));
        store.reopen().await.unwrap();
        assert_eq!(store.entry(&key).await.unwrap(), Some(entry(1, "v")));
        store.close().await.unwrap();
    }
}
