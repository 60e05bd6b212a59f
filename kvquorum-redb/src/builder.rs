//! The settings of a store.

use std::path::Path;

use redb::StorageBackend;

use crate::backend::Backend;
use crate::engine::Engine;
use crate::error::OpenError;
use crate::files::Directory;
use crate::store::{self, Limits, RedbStore};
use crate::writer::Durability;

/// The settings of a [`RedbStore`].
#[derive(Clone, Debug)]
pub struct Builder {
    durability: Durability,
    page_cache: usize,
    verify: bool,
    limits: Limits,
}

impl RedbStore {
    /// Opens the store in a directory with the default settings.
    ///
    /// # Errors
    ///
    /// [`OpenError`] tells them apart.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(path).await
    }

    /// The settings of a store to be opened.
    pub fn builder() -> Builder {
        Builder {
            durability: Durability::Flushed,
            page_cache: 64 << 20,
            verify: true,
            limits: Limits {
                pending: 32 << 20,
                blocking_reads: 16,
                scans: 4,
            },
        }
    }
}

impl Builder {
    /// What an ack stands for. [`Durability::Flushed`] by default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The memory for pages of the file, in bytes. 64 MiB by default.
    ///
    /// A read that finds all it needs here is made at once. On Linux so is one that
    /// finds it in what the system keeps in memory of the file, where that is of a
    /// directory and belongs to the process's user.
    #[must_use]
    pub fn page_cache(mut self, bytes: usize) -> Self {
        self.page_cache = bytes;
        self
    }

    /// How many bytes of keys and values, with an allowance for each entry, may
    /// wait for their commit: further merges wait before they are handed to the
    /// writer. 32 MiB by default. It bounds a commit as well.
    #[must_use]
    pub fn pending(mut self, bytes: usize) -> Self {
        self.limits.pending = bytes;
        self
    }

    /// How many reads may wait for the disk at the same time, one at the least:
    /// each takes a thread of Tokio's for blocking work, and further ones wait
    /// before they do. 16 by default.
    #[must_use]
    pub fn blocking_reads(mut self, reads: usize) -> Self {
        self.limits.blocking_reads = reads;
        self
    }

    /// How many scans may be made at the same time, one at the least. Each takes
    /// a thread as such a read does, and for longer. 4 by default.
    #[must_use]
    pub fn scans(mut self, scans: usize) -> Self {
        self.limits.scans = scans;
        self
    }

    /// Whether to check every page against its checksum when the store is
    /// opened. On by default; it reads the whole file.
    ///
    /// Without it, pages are checked after a crash only. An entry that changed
    /// on disk is still never served, since each has a checksum of its own; but
    /// damage to the pages that lead to it can hide it, and then the key reads
    /// as absent.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.verify = verify;
        self
    }

    /// Opens the store in a directory, which is created where it is missing.
    ///
    /// # Errors
    ///
    /// [`OpenError`] tells them apart.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<RedbStore, OpenError> {
        let path = path.as_ref().to_owned();
        let opening = move || {
            let directory = Directory::hold(&path)?;
            let file =
                directory.entries(|file| self.engine(Backend::of_file(file)?, None).map(drop))?;
            let engine = self.engine(Backend::of_file(file)?, Some(directory))?;
            RedbStore::start(engine, self.durability, &self.limits)
        };
        store::blocking(opening).await.ok_or(OpenError::NoRuntime)?
    }

    /// Opens the store on something else than a file: a simulated disk, say,
    /// one with encryption, or one that fails when a test wants it to.
    ///
    /// Nothing here keeps two stores from being opened on one backend.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_on(self, backend: impl StorageBackend) -> Result<RedbStore, OpenError> {
        let opening = move || {
            let engine = self.engine(Backend::new(backend), None)?;
            RedbStore::start(engine, self.durability, &self.limits)
        };
        store::blocking(opening).await.ok_or(OpenError::NoRuntime)?
    }

    fn engine(&self, backend: Backend, directory: Option<Directory>) -> Result<Engine, OpenError> {
        Engine::open(self.page_cache, self.verify, backend, directory)
    }
}
