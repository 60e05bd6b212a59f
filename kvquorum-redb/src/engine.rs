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
/// Where it is closed or opened again, nobody waits for the writer in turn. While it
/// is compacted, reads wait, but for those on an async thread, which go elsewhere.
type State = Result<Database, RedbStoreError>;

pub(crate) struct Engine {
    state: RwLock<State>,
    /// Set before the writer waits to close the engine for good.
    closing: AtomicBool,
    /// Set before the writer waits to open the engine again, and until it has.
    reopening: AtomicBool,
    /// Held for reading by each backup. It may take minutes, and whoever waited
    /// for it to compact the file would have all reads wait for as long.
    pub(crate) backups: RwLock<()>,
    pub(crate) changes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) telemetry: Telemetry,
}

impl Engine {
    pub(crate) fn new(database: Database, telemetry: Telemetry) -> Self {
        Self {
            state: RwLock::new(Ok(database)),
            closing: AtomicBool::new(false),
            reopening: AtomicBool::new(false),
            backups: RwLock::new(()),
            changes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            compactions: AtomicU64::new(0),
            telemetry,
        }
    }

    /// Fails where the writer closes the engine or opens it again, or waits to.
    /// Waits while it is compacted.
    pub(crate) fn state(&self) -> Result<RwLockReadGuard<'_, State>, RedbStoreError> {
        match self.state_now()? {
            Some(state) => Ok(state),
            None => Ok(self.state.read().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// The same, but `None` while it is compacted.
    fn state_now(&self) -> Result<Option<RwLockReadGuard<'_, State>>, RedbStoreError> {
        match self.state.try_read() {
            Ok(state) => Ok(Some(state)),
            Err(TryLockError::Poisoned(state)) => Ok(Some(state.into_inner())),
            Err(TryLockError::WouldBlock) if self.closing.load(Ordering::Acquire) => {
                Err(RedbStoreError::Closed)
            }
            Err(TryLockError::WouldBlock) if self.reopening.load(Ordering::Acquire) => {
                Err(RedbStoreError::Reopening)
            }
            Err(TryLockError::WouldBlock) => Ok(None),
        }
    }

    /// Waits for all that is under way, and changes the state. Returns the one
    /// before.
    pub(crate) fn change(&self, state: State) -> State {
        match state {
            Err(RedbStoreError::Closed) => self.closing.store(true, Ordering::Release),
            Err(RedbStoreError::Reopening) => self.reopening.store(true, Ordering::Release),
            _ => {}
        }
        let is_reopening = matches!(state, Err(RedbStoreError::Reopening));
        let mut now = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *now, state);
        drop(now);
        self.reopening.store(is_reopening, Ordering::Release);
        before
    }

    /// Waits for all that is under way, and does something with the database while
    /// all that comes meanwhile waits.
    pub(crate) fn alone<T>(
        &self,
        run: impl FnOnce(&mut Database) -> T,
    ) -> Result<T, RedbStoreError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.as_mut().map(run).map_err(|error| error.clone())
    }

    /// The record under a key.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Record>, RedbStoreError> {
        self.read_in(&*self.state()?, |database| get(database, key))
    }

    /// The same on an async thread: `None` where it would have to wait for more
    /// than the disk.
    pub(crate) fn get_now(&self, key: &Key) -> Option<Result<Option<Record>, RedbStoreError>> {
        let state = self.state_now().transpose()?;
        Some(state.and_then(|state| self.read_in(&state, |database| get(database, key))))
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
        self.read_in(&*self.state()?, read)
    }

    fn read_in<T>(
        &self,
        state: &State,
        read: impl FnOnce(&Database) -> Result<T, RedbStoreError>,
    ) -> Result<T, RedbStoreError> {
        let read = match state {
            Ok(database) => guarded(|| read(database), read_error),
            Err(error) => return Err(error.clone()),
        };
        read.inspect_err(|error| {
            self.telemetry.read_failed();
            telemetry::read_failed(error);
        })
    }
}

fn get(database: &Database, key: &Key) -> Result<Option<Record>, RedbStoreError> {
    let reading = database.begin_read().map_err(read_error)?;
    let table = reading.open_table(RECORDS).map_err(read_error)?;
    let stored = table.get(key.as_bytes()).map_err(read_error)?;
    stored.map(|stored| decode(key, stored.value())).transpose()
}
