//! The engine, and the entries of it that are kept at hand.
//!
//! What is here is shared by readers and the writer. All of it may block,
//! [`Engine::cached`] aside.

use std::hash::BuildHasher;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use kvquorum_core::{Entry, Key, Timestamp};
use quick_cache::sync::{Cache, DefaultLifecycle};
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadableDatabase, StorageBackend, StorageError,
    TableError,
};

use crate::builder::Builder;
use crate::error::{OpenError, RedbStoreError, panicked};
use crate::files::Directory;
use crate::format::{ENTRIES, FORMAT, META, META_FORMAT, META_MAX_TIMESTAMP, Stored};

/// What an entry takes in memory beyond its bytes: the parts of a key and an
/// entry, their reference counts, and its place in the cache.
pub(crate) const OVERHEAD: usize = 256;

/// Many more than threads that meet.
const STRIPES: usize = 64;

/// The commits that concern the keys of one stripe.
#[derive(Default)]
struct Commits {
    /// How many entries are announced and not settled yet.
    under_way: u64,
    /// How many times an entry was announced or settled.
    changes: u64,
}

type Entries = ReadOnlyTable<&'static [u8], &'static [u8]>;

pub(crate) struct Engine {
    /// What readers see: the last commit, from the first read after it to the
    /// next commit. To find the table anew costs as much as to read from it.
    entries: Mutex<Option<Arc<Entries>>>,
    pub(crate) database: Database,
    /// What the last commit left under a key, absence included. Never anything
    /// that is not committed: a crash could take back what a read returned.
    cache: Cache<Key, Option<Entry>, Weight, foldhash::fast::RandomState>,
    /// The commits of keys, by their hash: a read keeps what it found at hand
    /// only if none came near it.
    commits_of: [Mutex<Commits>; STRIPES],
    hasher: foldhash::fast::RandomState,
    max_timestamp: AtomicU64,
    pub(crate) merges: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) cached_reads: AtomicU64,
    pub(crate) engine_reads: AtomicU64,
    /// Let go of last.
    _directory: Option<Directory>,
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<Key, Option<Entry>> for Weight {
    fn weight(&self, key: &Key, entry: &Option<Entry>) -> u64 {
        weight(key, entry.as_ref()) as u64
    }
}

/// The memory that an entry takes, about.
pub(crate) fn weight(key: &Key, entry: Option<&Entry>) -> usize {
    let value = entry.and_then(|entry| entry.value.as_ref());
    OVERHEAD
        .saturating_add(key.len())
        .saturating_add(value.map_or(0, Bytes::len))
}

impl Engine {
    pub(crate) fn open(
        settings: &Builder,
        backend: impl StorageBackend,
        directory: Option<Directory>,
    ) -> Result<Self, OpenError> {
        let opening = || {
            let database = Database::builder()
                .set_cache_size(settings.page_cache)
                .set_check_integrity_on_open(settings.verify)
                .create_with_backend(backend)
                .map_err(open_error)?;
            let max_timestamp = max_timestamp_of(&database)?;
            Ok((database, max_timestamp))
        };
        let (database, max_timestamp) = guarded(opening, engine_error)?;
        let cache = Cache::with(
            settings.entry_cache.div_ceil(OVERHEAD),
            settings.entry_cache as u64,
            Weight,
            foldhash::fast::RandomState::default(),
            DefaultLifecycle::default(),
        );
        Ok(Self {
            entries: Mutex::default(),
            database,
            cache,
            commits_of: std::array::from_fn(|_| Mutex::default()),
            hasher: foldhash::fast::RandomState::default(),
            max_timestamp: AtomicU64::new(max_timestamp),
            merges: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            cached_reads: AtomicU64::new(0),
            engine_reads: AtomicU64::new(0),
            _directory: directory,
        })
    }

    /// What is under a key, if that is known without looking.
    pub(crate) fn cached(&self, key: &Key) -> Option<Option<Entry>> {
        let cached = self.cache.get(key);
        if cached.is_some() {
            self.cached_reads.fetch_add(1, Ordering::Relaxed);
        }
        cached
    }

    /// What is under a key; keeps it at hand.
    pub(crate) fn read(&self, key: &Key) -> Result<Option<Entry>, RedbStoreError> {
        let changes = self.commits_of(key).changes;
        let entry = self.read_engine(key)?;
        let commits = self.commits_of(key);
        // What has come to hand meanwhile is what others see. It is never older
        // than what was acked.
        if let Some(at_hand) = self.cache.get(key) {
            return Ok(at_hand);
        }
        // Another entry may have been at hand, or be about to come: readers
        // that have seen that one would go back.
        if commits.under_way == 0 && commits.changes == changes {
            self.cache.insert(Key::from(key.as_bytes()), entry.clone());
        }
        Ok(entry)
    }

    fn commits_of(&self, key: &Key) -> MutexGuard<'_, Commits> {
        let hash = self.hasher.hash_one(key.as_bytes());
        let [first, ..] = &self.commits_of;
        let stripe = self.commits_of.get(hash as usize % STRIPES);
        let stripe = stripe.unwrap_or(first).lock();
        stripe.unwrap_or_else(PoisonError::into_inner)
    }

    /// It is looked for under the lock: two that look at the same time could
    /// find different commits, and leave the older one for readers that come
    /// after one which has seen the newer.
    fn entries(&self) -> Result<Arc<Entries>, RedbStoreError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entries) = &*entries {
            return Ok(Arc::clone(entries));
        }
        let reading = self.database.begin_read().map_err(read_error)?;
        let found = Arc::new(reading.open_table(ENTRIES).map_err(read_error)?);
        *entries = Some(Arc::clone(&found));
        Ok(found)
    }

    /// Has readers see the commit that was just made. It has to come before
    /// [`settle`](Self::settle): what is read after that may be kept at hand.
    pub(crate) fn committed(&self) {
        let entries = self.entries.lock();
        let before = entries.unwrap_or_else(PoisonError::into_inner).take();
        drop(before);
    }

    fn read_engine(&self, key: &Key) -> Result<Option<Entry>, RedbStoreError> {
        self.engine_reads.fetch_add(1, Ordering::Relaxed);
        let reading = || {
            let entries = self.entries()?;
            let Some(stored) = entries.get(key.as_bytes()).map_err(read_error)? else {
                return Ok(None);
            };
            match Stored::decode(key.as_bytes(), stored.value()) {
                Some(stored) => Ok(Some(stored.to_entry())),
                None => Err(RedbStoreError::Damaged { key: key.clone() }),
            }
        };
        guarded(reading, read_error)
    }

    /// Up to `limit` entries in the order of keys, of one commit.
    pub(crate) fn scan(
        &self,
        from: Bound<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, RedbStoreError> {
        let reading = || {
            let entries = self.entries()?;
            let range = (from.map(Key::as_bytes), Bound::Unbounded);
            let mut page = Vec::new();
            for pair in entries
                .range::<&[u8]>(range)
                .map_err(read_error)?
                .take(limit)
            {
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

    /// Says that an entry is about to be committed. [`settle`](Self::settle) has
    /// to follow.
    pub(crate) fn announce(&self, key: &Key) {
        let mut commits = self.commits_of(key);
        commits.under_way = commits.under_way.saturating_add(1);
        commits.changes = commits.changes.wrapping_add(1);
    }

    /// Shows readers what a commit has left under a key; nothing, where the
    /// commit failed or left something later there.
    pub(crate) fn settle(&self, key: Key, entry: Option<Entry>) {
        let mut commits = self.commits_of(&key);
        commits.under_way = commits.under_way.saturating_sub(1);
        commits.changes = commits.changes.wrapping_add(1);
        let Some(entry) = entry else { return };
        self.max_timestamp
            .fetch_max(entry.version.timestamp.to_bits(), Ordering::Relaxed);
        self.cache.insert(key, Some(entry));
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

pub(crate) fn open_error(error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            OpenError::Foreign(error.to_string())
        }
        DatabaseError::UpgradeRequired(_) => OpenError::Foreign(error.to_string()),
        other => engine_error(other),
    }
}

fn engine_error(error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        redb::Error::Corrupted(how) => OpenError::Damaged(how),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            OpenError::Damaged("a file was cut off".into())
        }
        other => OpenError::Engine(other),
    }
}
