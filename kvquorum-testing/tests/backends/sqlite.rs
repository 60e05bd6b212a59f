//! Records in a table of SQLite.

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvquorum_core::{Bytes, ConditionalWrite, Key, ScanLimit, StoreError};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params, types::Value};

use super::{Held, Range, off_thread, page};

/// A row's id is the tag of its record. SQLite gives out no id twice in a column that
/// is `AUTOINCREMENT`, and each swap makes a row of its own.
const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS records (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key BLOB NOT NULL UNIQUE,
        record BLOB NOT NULL
    ) STRICT;
";

pub(crate) struct Sqlite {
    database: Arc<Mutex<Connection>>,
    /// Bug: it replaces whatever is held.
    pub(crate) ignores_tags: bool,
}

impl Sqlite {
    pub(crate) fn open(path: &Path) -> Result<Self, rusqlite::Error> {
        let database = Connection::open(path)?;
        database.execute_batch(SCHEMA)?;
        Ok(Self {
            database: Arc::new(Mutex::new(database)),
            ignores_tags: false,
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let database = Arc::clone(&self.database);
        off_thread(move || work(&mut database.lock().unwrap())).await
    }
}

impl ConditionalWrite for Sqlite {
    type Tag = i64;

    async fn load(&self, key: &Key) -> Result<Option<(Bytes, i64)>, StoreError> {
        let key = key.clone();
        self.run(move |database| {
            let sql = "SELECT record, id FROM records WHERE key = ?";
            let mut query = database.prepare(sql).map_err(StoreError::new)?;
            query
                .query_row([key.as_bytes()], |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?.into(), row.get(1)?))
                })
                .optional()
                .map_err(StoreError::new)
        })
        .await
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Option<i64>,
        record: Option<Bytes>,
    ) -> Result<bool, StoreError> {
        let (key, ignores_tags) = (key.clone(), self.ignores_tags);
        self.run(move |database| {
            swap(database, key.as_bytes(), expected, record, ignores_tags).map_err(StoreError::new)
        })
        .await
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<Held>, StoreError> {
        let range = (range.0.cloned(), range.1.cloned());
        self.run(move |database| scan(database, range, limit)).await
    }
}

fn swap(
    database: &mut Connection,
    key: &[u8],
    expected: Option<i64>,
    record: Option<Bytes>,
    ignores_tags: bool,
) -> Result<bool, rusqlite::Error> {
    let behavior = TransactionBehavior::Immediate;
    let transaction = database.transaction_with_behavior(behavior)?;
    let held: Option<i64> = transaction
        .query_row("SELECT id FROM records WHERE key = ?", [key], |row| {
            row.get(0)
        })
        .optional()?;
    if held != expected && !ignores_tags {
        return Ok(false);
    }
    transaction.execute("DELETE FROM records WHERE key = ?", [key])?;
    if let Some(record) = record {
        let sql = "INSERT INTO records (key, record) VALUES (?, ?)";
        transaction.execute(sql, params![key, &record[..]])?;
    }
    transaction.commit()?;
    Ok(true)
}

fn scan(
    database: &mut Connection,
    (start, end): Range,
    limit: ScanLimit,
) -> Result<Vec<Held>, StoreError> {
    let blob = |key: Key| Value::Blob(key.as_bytes().to_vec());
    let (from, start) = match start {
        Bound::Included(key) => ("key >= ?", blob(key)),
        Bound::Excluded(key) => ("key > ?", blob(key)),
        Bound::Unbounded => ("key IS NOT ?", Value::Null),
    };
    let (to, end) = match end {
        Bound::Included(key) => ("key <= ?", blob(key)),
        Bound::Excluded(key) => ("key < ?", blob(key)),
        Bound::Unbounded => ("key IS NOT ?", Value::Null),
    };
    let sql = format!("SELECT key, record FROM records WHERE {from} AND {to} ORDER BY key");
    let mut query = database.prepare(&sql).map_err(StoreError::new)?;
    let rows = query
        .query_map([start, end], |row| {
            let (key, record): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
            Ok((Key::from(key), Bytes::from(record)))
        })
        .map_err(StoreError::new)?;
    page(rows.map(|row| row.map_err(StoreError::new)), limit)
}
