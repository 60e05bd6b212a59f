//! The engine, and the view of it that reads share.
//!
//! All of it may block, [`Engine::read_at_once`] aside.

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kvquorum_core::{Entry, Key, Timestamp};
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableError};

use crate::backend::{Backend, LONG, at_once, would_wait};
use crate::error::{OpenError, RedbStoreError, engine_error, open_error, panicked};
use crate::files::Directory;
use crate::format::{ENTRIES, FORMAT, META, META_FORMAT, META_MAX_TIMESTAMP, Stored};

pub(crate) struct Engine {
    /// What reads see: the last commit that may be acked. The writer puts the
    /// next in its place.
    view: Mutex<Arc<View>>,
    pub(crate) database: Database,
    max_timestamp: AtomicU64,
    pub(crate) merges: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) reads_at_once: AtomicU64,
    pub(crate) blocking_reads: AtomicU64,
    /// Let go of last.
    _directory: Option<Directory>,
}

/// The entries of one commit.
pub(crate) struct View {
    entries: ReadOnlyTable<&'static [u8], &'static [u8]>,
    /// Whether nothing is written but not flushed. Otherwise the engine may have
    /// a read wait for a write.
    pub(crate) flushed: bool,
}

impl View {
    fn of(database: &Database, flushed: bool) -> Result<Arc<Self>, redb::Error> {
        let reading = database.begin_read()?;
        let entries = reading.open_table(ENTRIES)?;
        Ok(Arc::new(Self { entries, flushed }))
    }

    fn get(&self, key: &Key) -> Result<Option<Entry>, RedbStoreError> {
        let Some(stored) = self.entries.get(key.as_bytes()).map_err(read_error)? else {
            return Ok(None);
        };
        if stored.value().len() > LONG {
            would_wait();
        }
        match Stored::decode(key.as_bytes(), stored.value()) {
            Some(stored) => Ok(Some(stored.to_entry())),
            None => Err(RedbStoreError::Damaged { key: key.clone() }),
        }
    }
}

impl Engine {
    pub(crate) fn open(
        page_cache: usize,
        verify: bool,
        backend: Backend,
        directory: Option<Directory>,
    ) -> Result<Self, OpenError> {
        let opening = || {
            let database = Database::builder()
                .set_cache_size(page_cache)
                .set_check_integrity_on_open(verify)
                .create_with_backend(backend)
                .map_err(open_error)?;
            let max_timestamp = max_timestamp_of(&database)?;
            let view = View::of(&database, true).map_err(engine_error)?;
            Ok((view, database, max_timestamp))
        };
        let (view, database, max_timestamp) = guarded(opening, engine_error)?;
        Ok(Self {
            view: Mutex::new(view),
            database,
            max_timestamp: AtomicU64::new(max_timestamp),
            merges: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            reads_at_once: AtomicU64::new(0),
            blocking_reads: AtomicU64::new(0),
            _directory: directory,
        })
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has reads see the last commit, and returns what they saw before.
    pub(crate) fn show(&self, flushed: bool) -> Result<Arc<View>, redb::Error> {
        let view = View::of(&self.database, flushed)?;
        let mut shown = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::replace(&mut *shown, view))
    }

    /// What is under a key, where that can be told without waiting.
    pub(crate) fn read_at_once(&self, key: &Key) -> Option<Result<Option<Entry>, RedbStoreError>> {
        let view = self.view();
        if !view.flushed {
            return None;
        }
        let reading = || Ok(at_once(|| view.get(key)));
        let found = guarded(reading, read_error).unwrap_or_else(|error| Some(Err(error)))?;
        self.reads_at_once.fetch_add(1, Ordering::Relaxed);
        Some(found)
    }

    /// What is under a key.
    pub(crate) fn read(&self, key: &Key) -> Result<Option<Entry>, RedbStoreError> {
        self.blocking_reads.fetch_add(1, Ordering::Relaxed);
        guarded(|| self.view().get(key), read_error)
    }

    /// Up to `limit` entries in the order of keys, of one commit.
    pub(crate) fn scan(
        &self,
        from: Bound<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, RedbStoreError> {
        let reading = || {
            let view = self.view();
            let range = (from.map(Key::as_bytes), Bound::Unbounded);
            let range = view.entries.range::<&[u8]>(range).map_err(read_error)?;
            let mut page = Vec::new();
            for pair in range.take(limit) {
                let (key, stored) = pair.map_err(read_error)?;
                let key = Key::from(key.value());
                match Stored::decode(key.as_bytes(), stored.value()) {
                    Some(stored) => page.push((key, stored.to_entry())),
                    None => return Err(RedbStoreError::Damaged { key }),
                }
            }
            Ok(page)
        };
        guarded(reading, read_error)
    }

    /// Notes the greatest timestamp of a commit.
    pub(crate) fn stored(&self, timestamp: Timestamp) {
        self.max_timestamp
            .fetch_max(timestamp.to_bits(), Ordering::Relaxed);
    }

    pub(crate) fn max_timestamp(&self) -> Timestamp {
        Timestamp::from_bits(self.max_timestamp.load(Ordering::Relaxed))
    }
}

/// Checks that the tables are ours, and makes them where there are none at all.
fn max_timestamp_of(database: &Database) -> Result<u64, OpenError> {
    let reading = database.begin_read().map_err(engine_error)?;
    let meta = match reading.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            let mut tables = reading.list_tables().map_err(engine_error)?;
            let mut multimaps = reading.list_multimap_tables().map_err(engine_error)?;
            if tables.next().is_some() || multimaps.next().is_some() {
                return Err(OpenError::Foreign("another database of redb".into()));
            }
            return create_tables(database);
        }
        Err(error) => return Err(table_error(error)),
    };
    let number = |name| {
        let number = meta.get(name).map_err(engine_error)?;
        Ok::<_, OpenError>(number.map(|number| number.value()))
    };
    let known = FORMAT;
    match number(META_FORMAT)? {
        None => return Err(OpenError::Damaged("no format is named".into())),
        Some(found) if found != known => return Err(OpenError::UnknownFormat { found, known }),
        Some(_) => {}
    }
    reading.open_table(ENTRIES).map_err(table_error)?;
    number(META_MAX_TIMESTAMP)?
        .ok_or_else(|| OpenError::Damaged("no greatest timestamp is named".into()))
}

fn create_tables(database: &Database) -> Result<u64, OpenError> {
    let writing = database.begin_write().map_err(engine_error)?;
    {
        let mut meta = writing.open_table(META).map_err(engine_error)?;
        meta.insert(META_FORMAT, FORMAT).map_err(engine_error)?;
        meta.insert(META_MAX_TIMESTAMP, Timestamp::MIN.to_bits())
            .map_err(engine_error)?;
        writing.open_table(ENTRIES).map_err(engine_error)?;
    }
    writing.commit().map_err(engine_error)?;
    Ok(Timestamp::MIN.to_bits())
}

/// Runs something in the engine, which may panic over a damaged file. What it
/// leaves behind is the engine's, and is either consistent or refuses service.
pub(crate) fn guarded<T, E>(
    run: impl FnOnce() -> Result<T, E>,
    error: impl FnOnce(redb::Error) -> E,
) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Err(error(panicked(&*panic))))
}

fn read_error(error: impl Into<redb::Error>) -> RedbStoreError {
    RedbStoreError::ReadFailed(Arc::new(error.into()))
}

fn table_error(error: TableError) -> OpenError {
    match error {
        TableError::Storage(error) => engine_error(error),
        other => OpenError::Foreign(other.to_string()),
    }
}
