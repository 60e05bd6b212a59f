//! What can go wrong, by what a caller would do about it.

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kvquorum_core::{Key, RecordError, StoreError};
use redb::{DatabaseError, StorageError};

/// A store could not be opened or created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another store, in this process or in another, has the directory open.
    #[error("{} is held by another store", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The store was to be opened, and none was ever created in the directory.
    /// Is the path right, and the disk mounted?
    #[error("no store was ever created in {}", .path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// The store was to be created, and there is one already. It was not
    /// touched.
    #[error("there is a store in {} already", .path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A store was created in the directory, and the file that held its records
    /// is gone; where the store is opened again, another file may have its place.
    /// Bring it back; or, where it is lost, start in an empty
    /// directory and let the other replicas fill the store.
    #[error("a store was created in {}, and its file of records is gone", .path.display())]
    Lost {
        /// The directory.
        path: PathBuf,
    },
    /// What is there was not written by this crate.
    #[error("what is there is not a store of this kind")]
    Foreign(#[source] redb::Error),
    /// The files have a format that this version of the crate does not know.
    #[error("the store has format {found}, and this version knows format {known} alone")]
    UnknownFormat {
        /// The format of the files.
        found: u64,
        /// The format that this version reads and writes.
        known: u64,
    },
    /// The files are damaged. What they hold cannot be trusted as a whole:
    /// start in an empty directory, and let the other replicas fill the store.
    #[error("the store's files are damaged")]
    Damaged(#[source] redb::Error),
    /// A file or directory could not be created, opened, read or written.
    #[error("{} could not be opened or created", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store was to be opened again after a failure, and the system could
    /// not flush what it had taken of the file: part of it may be in memory
    /// alone, and would be taken for safe. The disk is failing: start in an
    /// empty directory on another.
    #[error("what was written to {} could not be flushed", .path.display())]
    Unflushed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The engine failed in another way.
    #[error("the engine failed")]
    Engine(#[source] redb::Error),
    /// The writer's thread could not be started.
    #[error("the writer's thread could not be started")]
    Thread(#[source] io::Error),
    /// There is no Tokio runtime around the call, or it is shutting down.
    #[error("no Tokio runtime to run on")]
    NoRuntime,
}

/// The store could not do what it was asked. It is the
/// [source](std::error::Error::source) of the [`StoreError`] that
/// [`Store`](kvquorum_core::Store)'s methods return.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedbStoreError {
    /// The commit or the flush of this change failed. It may be there when the
    /// store is opened again, or not.
    #[error("the write failed")]
    WriteFailed(#[source] Arc<redb::Error>),
    /// An earlier commit or flush failed, and what the disk holds since then is
    /// not known. Nothing of this change was stored. Once the cause is gone,
    /// call [`reopen`](crate::RedbStore::reopen).
    #[error("writes are refused since one failed")]
    WritesRefused(#[source] Arc<redb::Error>),
    /// What is stored under a key does not match its checksum. It is not
    /// served, and no change is made to it: what the change would have to be
    /// compared with is not known.
    #[error("the record under {key:?} is damaged")]
    Damaged {
        /// The key.
        key: Key,
    },
    /// What is stored under a key is as it was written, but not a record that
    /// this release knows: a later one may have written it. It is neither served
    /// nor changed.
    #[error("the record under {key:?} is not one that this release knows")]
    UnknownRecord {
        /// The key.
        key: Key,
        /// What is not known.
        source: RecordError,
    },
    /// The key and the record together are longer than the store takes. Nothing
    /// was stored.
    #[error("a record of {len} bytes is longer than the {max} that the store takes")]
    TooLarge {
        /// Their length.
        len: usize,
        /// The greatest length.
        max: usize,
    },
    /// The engine could not read.
    #[error("the read failed")]
    ReadFailed(#[source] Arc<redb::Error>),
    /// The store is being opened again after a failure. Nothing was stored.
    #[error("the store is being opened again")]
    Reopening,
    /// The store could not be opened again after a failure. Nothing was stored.
    /// Once the cause is gone, call [`reopen`](crate::RedbStore::reopen) again.
    #[error("the store could not be opened again")]
    ReopenFailed(#[source] Arc<OpenError>),
    /// The file cannot be [compacted](crate::RedbStore::compact) while a backup is made.
    /// Nothing was changed. Try again when the backup has ended.
    #[error("a backup is being made")]
    BackupUnderWay,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// There is no Tokio runtime around the call, or it is shutting down.
    #[error("no Tokio runtime to run on")]
    NoRuntime,
}

impl From<RedbStoreError> for StoreError {
    fn from(error: RedbStoreError) -> Self {
        Self::new(error)
    }
}

pub(crate) fn open_error(error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            OpenError::Foreign(redb::Error::Io(error))
        }
        DatabaseError::UpgradeRequired(_) => OpenError::Foreign(error.into()),
        other => engine_error(other),
    }
}

pub(crate) fn engine_error(error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        error @ redb::Error::Corrupted(_) => OpenError::Damaged(error),
        // A file that was cut off.
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            OpenError::Damaged(redb::Error::Io(error))
        }
        other => OpenError::Engine(other),
    }
}

pub(crate) fn damaged(how: &str) -> OpenError {
    OpenError::Damaged(redb::Error::Corrupted(how.to_owned()))
}

pub(crate) fn read_error(error: impl Into<redb::Error>) -> RedbStoreError {
    RedbStoreError::ReadFailed(Arc::new(error.into()))
}

/// The engine panicked, which it may do over a damaged file; or the backend did that
/// it was given.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> redb::Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    redb::Error::Corrupted(format!(
        "the engine or its backend panicked: {}",
        message.unwrap_or("no message")
    ))
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    fn engine() -> redb::Error {
        redb::Error::Corrupted("cause".into())
    }

    fn open_errors() -> Vec<OpenError> {
        let path = || PathBuf::from("/path");
        let cause = || io::Error::other("cause");
        vec![
            OpenError::Locked { path: path() },
            OpenError::Missing { path: path() },
            OpenError::Exists { path: path() },
            OpenError::Lost { path: path() },
            OpenError::Foreign(engine()),
            OpenError::UnknownFormat { found: 1, known: 2 },
            OpenError::Damaged(engine()),
            OpenError::Io {
                path: path(),
                source: cause(),
            },
            OpenError::Unflushed {
                path: path(),
                source: cause(),
            },
            OpenError::Engine(engine()),
            OpenError::Thread(cause()),
            OpenError::NoRuntime,
        ]
    }

    fn store_errors() -> Vec<RedbStoreError> {
        let cause = || Arc::new(engine());
        vec![
            RedbStoreError::WriteFailed(cause()),
            RedbStoreError::WritesRefused(cause()),
            RedbStoreError::Damaged {
                key: Key::from("k"),
            },
            RedbStoreError::UnknownRecord {
                key: Key::from("k"),
                source: RecordError::Short { len: 0 },
            },
            RedbStoreError::TooLarge { len: 2, max: 1 },
            RedbStoreError::ReadFailed(cause()),
            RedbStoreError::Reopening,
            RedbStoreError::ReopenFailed(Arc::new(OpenError::Engine(engine()))),
            RedbStoreError::BackupUnderWay,
            RedbStoreError::Closed,
            RedbStoreError::NoRuntime,
        ]
    }

    /// What has a cause, by its variants, so that a new one is not forgotten.
    fn has_cause(error: &OpenError) -> bool {
        match error {
            OpenError::Foreign(_)
            | OpenError::Damaged(_)
            | OpenError::Io { .. }
            | OpenError::Unflushed { .. }
            | OpenError::Engine(_)
            | OpenError::Thread(_) => true,
            OpenError::Locked { .. }
            | OpenError::Missing { .. }
            | OpenError::Exists { .. }
            | OpenError::Lost { .. }
            | OpenError::UnknownFormat { .. }
            | OpenError::NoRuntime => false,
        }
    }

    fn store_has_cause(error: &RedbStoreError) -> bool {
        match error {
            RedbStoreError::WriteFailed(_)
            | RedbStoreError::WritesRefused(_)
            | RedbStoreError::UnknownRecord { .. }
            | RedbStoreError::ReadFailed(_)
            | RedbStoreError::ReopenFailed(_) => true,
            RedbStoreError::Damaged { .. }
            | RedbStoreError::TooLarge { .. }
            | RedbStoreError::Reopening
            | RedbStoreError::BackupUnderWay
            | RedbStoreError::Closed
            | RedbStoreError::NoRuntime => false,
        }
    }

    /// Bugs: a report of the whole chain says a cause twice, since the text of an
    /// error has it too; or never, since it is no source.
    #[test]
    fn a_cause_is_the_source_and_not_in_the_text() {
        let check = |error: &dyn Error, has_cause: bool| {
            let text = error.to_string();
            let source = error.source().map(ToString::to_string);
            assert_eq!(source.is_some(), has_cause, "{text}");
            assert!(
                !text.contains("cause") && !text.contains("engine failed:"),
                "{text}"
            );
            if let Some(source) = source {
                assert!(!text.contains(&source), "{text}");
            }
        };
        for error in open_errors() {
            check(&error, has_cause(&error));
        }
        for error in store_errors() {
            check(&error, store_has_cause(&error));
        }
    }
}
