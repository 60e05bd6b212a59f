//! A copy of a store that goes on serving.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use redb::backends::FileBackend;

use crate::directory::{Directory, Opening};
use crate::engine::Engine;
use crate::error::{OpenError, RedbStoreError, engine_error, open_error};
use crate::format::RECORDS;
use crate::place::{Settings, Start};
use crate::store::RedbStore;

/// A backup was not made. Nothing is left of it, but for what could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// There is something at the path. It was not touched.
    #[error("there is something at {} already", .path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The store could not be read, or was closed meanwhile. A damaged record
    /// is an error too: a backup holds all, or is none.
    #[error("the store could not be read")]
    Store(#[from] RedbStoreError),
    /// The copy could not be written.
    #[error("the copy could not be written")]
    Copy(#[from] OpenError),
}

/// What the copy's engine has in memory.
const SETTINGS: Settings = Settings {
    max_page_cache: 16 << 20,
    verify: false,
};

impl RedbStore {
    /// Copies the store into a directory that does not exist yet, while it serves.
    /// [`open`](Self::open) opens the copy.
    ///
    /// It holds all that was acked before the backup began, and of what is written
    /// meanwhile nothing: it is the store at one moment. All of it is flushed
    /// before this returns. Each record is checked against its checksum; the space
    /// that the store has free is not copied.
    ///
    /// It is made on one of Tokio's threads for blocking work, takes the place of
    /// a [scan](crate::RedbStoreBuilder::max_scans), and goes on where its future is
    /// dropped. Until it ends, the store's file grows by what is written to it, as
    /// no space becomes free, and cannot be [compacted](Self::compact). [Closing](Self::close) the store ends it.
    ///
    /// **The copy is the same replica**: it holds the id that a
    /// [`Replica`](kvquorum_core::Replica) keeps in its store. Coordinators count
    /// two of one id once, and refuse the second. And it has forgotten all that was
    /// acked after it was made: in the place of the original it answers reads with
    /// what is older, and quorums that counted its acks are none any more. So it
    /// is not to be served as it is, where the others of its map go on; the
    /// README tells how it is brought back.
    ///
    /// # Errors
    ///
    /// [`BackupError`] tells them apart.
    pub async fn backup(&self, path: impl AsRef<Path>) -> Result<(), BackupError> {
        let path = path.as_ref().to_owned();
        let queue = self.queue();
        let backup = move |engine: &Engine| {
            let backups = engine.backups.read();
            let _under_way = backups.unwrap_or_else(PoisonError::into_inner);
            let made = make(engine, &path, || queue.is_closed());
            engine.telemetry.backed_up(made.is_ok());
            Ok(made)
        };
        self.on_blocking_thread(backup).await?
    }
}

fn make(engine: &Engine, path: &Path, is_closed: impl Fn() -> bool) -> Result<(), BackupError> {
    if !Directory::make(path)? {
        let path = path.to_owned();
        return Err(BackupError::Exists { path });
    }
    let made = Directory::hold(path, Opening::New)
        .map_err(BackupError::Copy)
        .and_then(|directory| {
            directory.prepare(Opening::New, |file| {
                let database = {
                    let backend = FileBackend::new(file).map_err(open_error)?;
                    SETTINGS.open(backend, Start::New)?
                };
                copy(engine, &database, is_closed)?;
                Ok(database.close().map_err(open_error)?)
            })
        });
    if made.is_err() {
        // It is of no use, and may be what fills the disk.
        let _ = fs::remove_dir_all(path);
    }
    made
}

/// Copies all records in one transaction of each.
fn copy(
    engine: &Engine,
    database: &redb::Database,
    is_closed: impl Fn() -> bool,
) -> Result<(), BackupError> {
    let writing = database.begin_write().map_err(engine_error)?;
    let mut records = writing.open_table(RECORDS).map_err(engine_error)?;
    engine.each(|key, stored| {
        if is_closed() {
            return Err(RedbStoreError::Closed.into());
        }
        records.insert(key, stored).map_err(engine_error)?;
        Ok::<(), BackupError>(())
    })?;
    drop(records);
    Ok(writing.commit().map_err(engine_error)?)
}
