//! What can go wrong, by what a caller would do about it.

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use kvquorum_core::{Key, StoreError};
use redb::{DatabaseError, StorageError};

/// A store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another store, in this process or in another, has the directory open.
    #[error("{} is held by another store", .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// What is there was not written by this crate.
    #[error("what is there is not a store of this kind: {0}")]
    Foreign(String),
    /// The files have a format that this version of the crate does not know.
    #[error("the store has format {found}, and this version knows formats up to {known}")]
    UnknownFormat {
        /// The format of the files.
        found: u64,
        /// The newest format that this version reads.
        known: u64,
    },
    /// The files are damaged. What they hold cannot be trusted as a whole:
    /// start with an empty directory, and let the other replicas fill it.
    #[error("the store's files are damaged: {0}")]
    Damaged(String),
    /// A file or directory could not be created, read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The engine failed in another way.
    #[error("the engine failed: {0}")]
    Engine(#[source] redb::Error),
    /// The writer's thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] io::Error),
    /// There is no Tokio runtime around the call, or it is shutting down.
    #[error("no Tokio runtime to run on")]
    NoRuntime,
}

/// A read or a merge failed. It is the [source](std::error::Error::source) of
/// the [`StoreError`] that [`Store`](kvquorum_core::Store)'s methods return.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedbStoreError {
    /// This merge's commit or flush failed. The entry may be there when the
    /// store is opened again, or not.
    #[error("the write failed: {0}")]
    WriteFailed(#[source] Arc<redb::Error>),
    /// An earlier commit or flush failed, and what the disk holds since then is
    /// not known. Nothing of this merge was stored. Drop the store and open it
    /// again.
    #[error("writes are refused since one failed: {0}")]
    WritesRefused(#[source] Arc<redb::Error>),
    /// What is stored under a key does not match its checksum. It is not
    /// served, and nothing is merged into it: what a new entry would have to be
    /// greater than is not known.
    #[error("the entry under {key:?} is damaged")]
    Damaged {
        /// The key.
        key: Key,
    },
    /// The key and the value together are longer than the engine takes. Nothing
    /// was stored.
    #[error("an entry of {len} bytes is longer than the {max} that the store takes")]
    TooLarge {
        /// Their length.
        len: usize,
        /// The greatest length.
        max: usize,
    },
    /// The engine could not read.
    #[error("the read failed: {0}")]
    ReadFailed(#[source] Arc<redb::Error>),
    /// The store's threads have ended.
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
            OpenError::Foreign(error.to_string())
        }
        DatabaseError::UpgradeRequired(_) => OpenError::Foreign(error.to_string()),
        other => engine_error(other),
    }
}

pub(crate) fn engine_error(error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        redb::Error::Corrupted(how) => OpenError::Damaged(how),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            OpenError::Damaged("a file was cut off".into())
        }
        other => OpenError::Engine(other),
    }
}

/// The engine panicked, which it may do over a damaged file.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> redb::Error {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    redb::Error::Corrupted(format!(
        "the engine panicked: {}",
        message.unwrap_or("no message")
    ))
}
