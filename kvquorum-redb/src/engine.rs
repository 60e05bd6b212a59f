//! The engine, which all threads share. All of it may block.

use std::ops::Bound;
use std::sync::atomic::AtomicU64;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use kvquorum_core::{Entry, Key};
use redb::{Database, ReadableDatabase};

use crate::error::{RedbStoreError, read_error};
use crate::format::{RECORDS, Stored};
use crate::place::guarded;

/// The engine's database, or why there is none. Whoever uses it has the lock for
/// reading; the writer, which alone changes it, waits for them.
type State = Result<Database, RedbStoreError>;

pub(crate) struct Engine {
    state: RwLock<State>,
    pub(crate) changes: AtomicU64,
    pub(crate) commits: AtomicU64,
}

impl Engine {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            state: RwLock::new(Ok(database)),
            changes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        }
    }

    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for all that is under way, and changes the state. Returns the one
    /// before.
    pub(crate) fn change(&self, state: State) -> State {
        let mut now = self.state.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut now, state)
    }

    /// What is under a key.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Entry>, RedbStoreError> {
        self.read(|database| {
            let reading = database.begin_read().map_err(read_error)?;
            let table = reading.open_table(RECORDS).map_err(read_error)?;
            let stored = table.get(key.as_bytes()).map_err(read_error)?;
            stored
                .map(|stored| entry_of(key, stored.value()))
                .transpose()
        })
    }

    /// Up to `limit` entries in the order of keys, of one commit.
    pub(crate) fn scan(
        &self,
        from: Bound<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, RedbStoreError> {
        self.read(|database| {
            let reading = database.begin_read().map_err(read_error)?;
            let table = reading.open_table(RECORDS).map_err(read_error)?;
            let range = (from.map(Key::as_bytes), Bound::Unbounded);
            let range = table.range::<&[u8]>(range).map_err(read_error)?;
            let page = range.take(limit).map(|pair| {
                let (key, stored) = pair.map_err(read_error)?;
                let key = Key::from(key.value());
                let entry = entry_of(&key, stored.value())?;
                Ok((key, entry))
            });
            page.collect()
        })
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, RedbStoreError>,
    ) -> Result<T, RedbStoreError> {
        match &*self.state() {
            Ok(database) => guarded(|| read(database), read_error),
            Err(error) => Err(error.clone()),
        }
    }
}

fn entry_of(key: &Key, stored: &[u8]) -> Result<Entry, RedbStoreError> {
    match Stored::decode(key.as_bytes(), stored) {
        Some(stored) => Ok(stored.to_entry()),
        None => Err(RedbStoreError::Damaged { key: key.clone() }),
    }
}
