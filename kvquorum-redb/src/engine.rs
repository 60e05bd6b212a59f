//! The engine, which all threads share. All of it may block.

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, TryLockError};

use kvquorum_core::{Key, Record, ScanLimit};
use redb::{Database, ReadableDatabase, ReadableTable};

use crate::error::{RedbStoreError, read_error};
use crate::format::{RECORDS, decode, encoded_len};
use crate::place::guarded;
use crate::telemetry::{self, Telemetry};

/// The engine's database, or why there is none. Whoever uses it has the lock for
/// reading; the writer, which alone changes it, waits for them.
///
/// Nobody waits for the writer in turn: it may wait for a scan, and a read may be
/// made on an async thread.
type State = Result<Database, RedbStoreError>;

pub(crate) struct Engine {
    state: RwLock<State>,
    /// Set before the writer waits to close the engine for good.
    closing: AtomicBool,
    pub(crate) changes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) telemetry: Telemetry,
}

impl Engine {
    pub(crate) fn new(database: Database, telemetry: Telemetry) -> Self {
        Self {
            state: RwLock::new(Ok(database)),
            closing: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            telemetry,
        }
    }

    /// Fails where the writer changes the state, or waits to.
    pub(crate) fn state(&self) -> Result<RwLockReadGuard<'_, State>, RedbStoreError> {
        match self.state.try_read() {
            Ok(state) => Ok(state),
            Err(TryLockError::Poisoned(state)) => Ok(state.into_inner()),
            Err(TryLockError::WouldBlock) if self.closing.load(Ordering::Acquire) => {
                Err(RedbStoreError::Closed)
            }
            Err(TryLockError::WouldBlock) => Err(RedbStoreError::Reopening),
        }
    }

    /// Waits for all that is under way, and changes the state. Returns the one
    /// before.
    pub(crate) fn change(&self, state: State) -> State {
        if matches!(state, Err(RedbStoreError::Closed)) {
            self.closing.store(true, Ordering::Release);
        }
        let mut now = self.state.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut now, state)
    }

    /// The record under a key.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Record>, RedbStoreError> {
        self.read(|database| {
            let reading = database.begin_read().map_err(read_error)?;
            let table = reading.open_table(RECORDS).map_err(read_error)?;
            let stored = table.get(key.as_bytes()).map_err(read_error)?;
            stored.map(|stored| decode(key, stored.value())).transpose()
        })
    }

    /// A page of records, of one commit.
    pub(crate) fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, RedbStoreError> {
        self.read(|database| {
            let reading = database.begin_read().map_err(read_error)?;
            let table = reading.open_table(RECORDS).map_err(read_error)?;
            let range = (range.0.map(Key::as_bytes), range.1.map(Key::as_bytes));
            let mut page = Vec::new();
            let mut bytes = 0_usize;
            for pair in table.range::<&[u8]>(range).map_err(read_error)? {
                let (key, stored) = pair.map_err(read_error)?;
                let (key, stored) = (key.value(), stored.value());
                bytes = bytes
                    .saturating_add(key.len())
                    .saturating_add(encoded_len(stored));
                if !limit.allows(page.len(), bytes) {
                    break;
                }
                let key = Key::from(key);
                let record = decode(&key, stored)?;
                page.push((key, record));
            }
            Ok(page)
        })
    }

    /// All keys and what is stored under them, of one commit, in order. What is
    /// damaged is not visited, but ends it.
    pub(crate) fn each<E: From<RedbStoreError>>(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut failed = None;
        self.read(|database| {
            let reading = database.begin_read().map_err(read_error)?;
            let table = reading.open_table(RECORDS).map_err(read_error)?;
            for pair in table.iter().map_err(read_error)? {
                let (key, stored) = pair.map_err(read_error)?;
                let (key, stored) = (key.value(), stored.value());
                decode(&Key::from(key), stored)?;
                if let Err(error) = visit(key, stored) {
                    failed = Some(error);
                    break;
                }
            }
            Ok(())
        })?;
        failed.map_or(Ok(()), Err)
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, RedbStoreError>,
    ) -> Result<T, RedbStoreError> {
        let read = match &*self.state()? {
            Ok(database) => guarded(|| read(database), read_error),
            Err(error) => return Err(error.clone()),
        };
        read.inspect_err(|error| {
            self.telemetry.read_failed();
            telemetry::read_failed(error);
        })
    }
}
