//! Stores made of backends that have a conditional write.

mod backends;
mod common;

use std::error::Error;
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};

use backends::files::Files;
use backends::sqlite::Sqlite;
use common::{assert_caught, complaint};
use kvquorum_core::{
    Ack, Bytes, Change, Conditional, ConditionalWrite, Entry, Key, Record, RecordError, Response,
    ScanLimit, Store, StoreError, Timestamp, TooContended, Version, WriterId,
};
use kvquorum_testing::conformance;
use tempfile::TempDir;

async fn files() -> (Conditional<Files>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let files = Files::new(directory.path());
    (Conditional::new(files), directory)
}

async fn sqlite() -> (Conditional<Sqlite>, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let sqlite = Sqlite::open(&directory.path().join("records")).unwrap();
    (Conditional::new(sqlite), directory)
}

#[tokio::test]
async fn files_conform() {
    conformance::store(files).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_conform_on_many_threads() {
    conformance::store(files).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    conformance::store(sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_conforms_on_many_threads() {
    conformance::store(sqlite).await;
}

const ATOMIC: &[&str] = &["are one atomic step for the key", "or something later"];

/// Bug: the backend replaces whatever is held.
#[tokio::test]
async fn a_swap_of_files_that_ignores_the_tag_is_caught() {
    let build = || async {
        let directory = tempfile::tempdir().unwrap();
        let mut files = Files::new(directory.path());
        files.ignores_tags = true;
        (Conditional::new(files), directory)
    };
    let complaint = complaint(conformance::store(build)).await;
    assert_caught("a swap that ignores the tag", ATOMIC, complaint);
}

/// Bug: the backend replaces whatever is held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_of_sqlite_that_ignores_the_tag_is_caught() {
    let build = || async {
        let directory = tempfile::tempdir().unwrap();
        let mut sqlite = Sqlite::open(&directory.path().join("records")).unwrap();
        sqlite.ignores_tags = true;
        (Conditional::new(sqlite), directory)
    };
    let complaint = complaint(conformance::store(build)).await;
    assert_caught("a swap that ignores the tag", ATOMIC, complaint);
}

/// Holds one record, or none, and never swaps it.
#[derive(Default)]
struct Contended {
    held: Option<Bytes>,
    swaps: AtomicU32,
}

impl ConditionalWrite for Contended {
    type Tag = ();

    async fn load(&self, _: &Key) -> Result<Option<(Bytes, ())>, StoreError> {
        Ok(self.held.clone().map(|record| (record, ())))
    }

    async fn swap(&self, _: &Key, _: Option<()>, _: Option<Bytes>) -> Result<bool, StoreError> {
        self.swaps.fetch_add(1, Ordering::Relaxed);
        Ok(false)
    }

    async fn scan(
        &self,
        _: (Bound<&Key>, Bound<&Key>),
        _: ScanLimit,
    ) -> Result<Vec<(Key, Bytes)>, StoreError> {
        let held = self.held.iter().cloned();
        Ok(held.map(|record| (Key::from("key"), record)).collect())
    }
}

fn record(at: u64) -> Record {
    let version = Version {
        timestamp: Timestamp::from_bits(at),
        writer: WriterId::new(1),
    };
    Record::from(Entry::new(version, "a value"))
}

fn write(at: u64) -> Change<'static> {
    Change::write(record(at).into_entry().unwrap())
}

fn encoded(record: &Record) -> Bytes {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes.into()
}

fn holding(held: impl Into<Option<Bytes>>) -> Conditional<Contended> {
    Conditional::new(Contended {
        held: held.into(),
        ..Contended::default()
    })
}

fn cause<E: Error + Clone + 'static>(error: &StoreError) -> Option<E> {
    let mut error: &dyn Error = error;
    while let Some(cause) = error.source() {
        if let Some(cause) = cause.downcast_ref::<E>() {
            return Some(cause.clone());
        }
        error = cause;
    }
    None
}

/// Bugs: it goes on for ever, or gives up without a word, or early.
#[tokio::test]
async fn a_change_has_so_many_attempts() {
    let store = holding(None);
    let error = store.apply(&Key::from("key"), write(1)).await.unwrap_err();
    assert_eq!(cause(&error), Some(TooContended { attempts: 128 }));
    assert_eq!(store.backend().swaps.load(Ordering::Relaxed), 128);

    let store = holding(None).with_max_attempts(NonZeroU32::MIN);
    let error = store.apply(&Key::from("key"), write(1)).await.unwrap_err();
    assert_eq!(cause(&error), Some(TooContended { attempts: 1 }));
    assert_eq!(store.backend().swaps.load(Ordering::Relaxed), 1);
}

/// Bug: what is held already is written again.
#[tokio::test]
async fn a_change_that_alters_nothing_swaps_nothing() {
    let key = Key::from("key");
    let applied = Response::Ack(Ack::Applied);
    let store = holding(encoded(&record(2)));
    assert_eq!(store.apply(&key, write(2)).await.unwrap(), applied);
    let by = record(2).version().unwrap();
    let superseded = Response::Ack(Ack::Superseded { by });
    assert_eq!(store.apply(&key, write(1)).await.unwrap(), superseded);
    assert_eq!(store.backend().swaps.load(Ordering::Relaxed), 0);

    let store = holding(None);
    assert_eq!(store.apply(&key, Change::remove()).await.unwrap(), applied);
    assert_eq!(store.backend().swaps.load(Ordering::Relaxed), 0);
}

/// Bugs: bytes that are no record read as none, or are written over.
#[tokio::test]
async fn bytes_that_are_no_record_are_an_error() {
    let key = Key::from("key");
    for bytes in [&b""[..], b"\x01", b"\x09a record of a later release"] {
        let store = holding(Bytes::copy_from_slice(bytes));
        let all = (Bound::Unbounded, Bound::Unbounded);
        let errors = [
            store.get(&key).await.unwrap_err(),
            store.apply(&key, write(1)).await.unwrap_err(),
            store.apply(&key, Change::remove()).await.unwrap_err(),
            store.scan(all, ScanLimit::NONE).await.unwrap_err(),
        ];
        for error in errors {
            assert!(cause::<RecordError>(&error).is_some(), "{error:?}");
        }
        assert_eq!(store.backend().swaps.load(Ordering::Relaxed), 0);
    }
}

/// Bug: what lies in a backend is not what every other store writes.
#[tokio::test]
async fn the_bytes_are_those_of_a_record() {
    let key = Key::from("key");
    let (store, _directory) = sqlite().await;
    store.apply(&key, write(7)).await.unwrap();
    let (bytes, _) = store.backend().load(&key).await.unwrap().unwrap();
    assert_eq!(bytes, encoded(&record(7)));
}

/// Bug: a record that is removed and written again looks as if nothing had happened
/// to whoever read it before.
#[tokio::test]
async fn no_tag_comes_twice() {
    async fn assert_new<B: ConditionalWrite<Tag: PartialEq>>(backend: &B) {
        let key = Key::from("key");
        let bytes = || Some(encoded(&record(1)));
        assert!(backend.swap(&key, None, bytes()).await.unwrap());
        let (_, first) = backend.load(&key).await.unwrap().unwrap();
        let (_, tag) = backend.load(&key).await.unwrap().unwrap();
        assert!(backend.swap(&key, Some(tag), None).await.unwrap());
        assert!(backend.swap(&key, None, bytes()).await.unwrap());
        let (_, second) = backend.load(&key).await.unwrap().unwrap();
        assert!(first != second);
        assert!(!backend.swap(&key, Some(first), None).await.unwrap());
        assert!(backend.load(&key).await.unwrap().is_some());
    }
    let (store, _directory) = files().await;
    assert_new(store.backend()).await;
    let (store, _directory) = sqlite().await;
    assert_new(store.backend()).await;
}

/// Holds nothing, and swaps other keys than the empty one only when a test lets it.
struct Held {
    map: std::sync::Mutex<std::collections::BTreeMap<Key, Bytes>>,
    lets: tokio::sync::Semaphore,
    waiting: AtomicU32,
}

impl ConditionalWrite for Held {
    type Tag = Bytes;

    async fn load(&self, key: &Key) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        let held = self.map.lock().unwrap().get(key).cloned();
        Ok(held.map(|record| (record.clone(), record)))
    }

    async fn swap(
        &self,
        key: &Key,
        _: Option<Bytes>,
        record: Option<Bytes>,
    ) -> Result<bool, StoreError> {
        if !key.is_empty() {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            self.lets.acquire().await.unwrap().forget();
        }
        self.map
            .lock()
            .unwrap()
            .insert(key.clone(), record.unwrap());
        Ok(true)
    }

    async fn scan(
        &self,
        _: (Bound<&Key>, Bound<&Key>),
        _: ScanLimit,
    ) -> Result<Vec<(Key, Bytes)>, StoreError> {
        Ok(Vec::new())
    }
}

/// Bugs: a change of the empty key does not wait for one that has been decided and has yet to
/// be made, also where its caller has left it or polls it no more; or it waits for one that
/// began later; or others wait for it.
#[tokio::test]
async fn a_change_of_the_empty_key_waits_for_those_before() {
    for is_dropped in [false, true] {
        let store = std::sync::Arc::new(Conditional::new(Held {
            map: std::sync::Mutex::default(),
            lets: tokio::sync::Semaphore::new(0),
            waiting: AtomicU32::new(0),
        }));
        let held = store.backend();
        let [early, late, own] = ["early", "late", ""].map(Key::from);
        let mut first = Some(Box::pin(store.apply(&early, write(1))));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let polled = first.as_mut().unwrap().as_mut().poll(&mut context);
        assert!(polled.is_pending());
        while held.waiting.load(Ordering::SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        if is_dropped {
            first = None;
        }
        let marking = tokio::spawn({
            let store = store.clone();
            async move { store.apply(&own, write(1)).await.unwrap() }
        });
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let later = tokio::spawn({
            let store = store.clone();
            async move { store.apply(&late, write(1)).await.unwrap() }
        });
        while held.waiting.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert!(!marking.is_finished(), "it did not wait");
        // The one that is at rest is the first in the queue, and needs nobody to poll it.
        held.lets.add_permits(1);
        marking.await.unwrap();
        assert!(store.get(&early).await.unwrap().is_some());
        assert!(!later.is_finished());
        held.lets.add_permits(1);
        later.await.unwrap();
        drop(first);
    }
}
