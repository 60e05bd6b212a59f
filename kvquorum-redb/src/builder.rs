//! The settings of a store.

use std::io;
use std::path::Path;

use redb::{Database, StorageBackend};

use crate::directory::Opening;
use crate::engine::Engine;
use crate::error::OpenError;
use crate::place::{Place, Settings};
use crate::store::{self, RedbStore};
use crate::telemetry::{self, Telemetry};
use crate::writer::Durability;

/// How many reads are made on threads for blocking work at the same time, unless it
/// is told.
pub(crate) const DEFAULT_READS: usize = 16;

/// Where reads of a key are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reads {
    /// On Tokio's threads for blocking work: no async thread ever waits for the
    /// disk, and each read takes the way to another thread and back, whether or
    /// not it has to wait.
    OnBlockingThreads {
        /// How many there are at the same time, one at the least. Further reads
        /// wait.
        max: usize,
    },
    /// On the thread that asks, at once. Where a page that a read needs is in the
    /// memory of neither the engine nor the system, that thread waits for the
    /// disk, and with it all tasks that it would run: for one page as a rule, for
    /// as many as the tree is deep at the most, and for as long as a disk hangs
    /// that hangs. It is for files that fit into memory.
    ///
    /// Reads that come during a [compaction](RedbStore::compact) wait for its end on
    /// Tokio's threads for blocking work, 16 at the most.
    OnCaller,
}

/// The settings of a [`RedbStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RedbStoreBuilder {
    pub(crate) settings: Settings,
    pub(crate) durability: Durability,
    pub(crate) reads: Reads,
    pub(crate) max_commit: usize,
    pub(crate) max_scans: usize,
    pub(crate) compact_up_to: u64,
}

impl RedbStore {
    /// Opens the store that was created in a directory, with the default
    /// settings: see [`RedbStoreBuilder::open`].
    ///
    /// # Errors
    ///
    /// [`OpenError`] tells them apart.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open(path).await
    }

    /// Creates an empty store in a directory, with the default settings: see
    /// [`RedbStoreBuilder::create_new`].
    ///
    /// # Errors
    ///
    /// [`OpenError`] tells them apart.
    pub async fn create_new(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().create_new(path).await
    }

    /// Opens the store that was created in a directory, or creates the first
    /// there, with the default settings: see [`RedbStoreBuilder::open_or_create`].
    ///
    /// # Errors
    ///
    /// [`OpenError`] tells them apart.
    pub async fn open_or_create(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder().open_or_create(path).await
    }

    /// The settings of a store to be opened or created.
    pub fn builder() -> RedbStoreBuilder {
        RedbStoreBuilder {
            settings: Settings {
                max_page_cache: 64 << 20,
                verify: true,
            },
            durability: Durability::Flushed,
            reads: Reads::OnBlockingThreads { max: DEFAULT_READS },
            max_commit: 32 << 20,
            max_scans: 4,
            compact_up_to: 0,
        }
    }
}

impl RedbStoreBuilder {
    /// What an ack stands for. [`Durability::Flushed`] by default.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Where reads of a key are made. By default, [`Reads::OnBlockingThreads`], 16
    /// at the most.
    pub fn reads(mut self, reads: Reads) -> Self {
        self.reads = reads;
        self
    }

    /// The memory for pages of the file, in bytes. 64 MiB by default.
    pub fn max_page_cache(mut self, bytes: usize) -> Self {
        self.settings.max_page_cache = bytes;
        self
    }

    /// At how many bytes of keys and records that it writes or tells, with 256 more
    /// for each change, a commit takes no more changes. 32 MiB by default.
    ///
    /// It bounds what the store holds of callers that are gone, too: a change
    /// that waits for a later commit is dropped with its caller's future.
    pub fn max_commit(mut self, bytes: usize) -> Self {
        self.max_commit = bytes;
        self
    }

    /// How many scans may be made at the same time, one at the least: each takes
    /// a thread of Tokio's for blocking work, and further ones wait. 4 by
    /// default.
    pub fn max_scans(mut self, scans: usize) -> Self {
        self.max_scans = scans;
        self
    }

    /// Has the store [compact](RedbStore::compact) by itself, as long as its file has
    /// no more than this many bytes. 0 by default: it never does.
    ///
    /// It does so where keys and records have become less, by a quarter of the file's
    /// length and 1 MiB, than they were at the most since the last compaction or the
    /// opening: about half of the file is not used then, as pages take twice as
    /// much as what is in them. It waits until no change waits to be written and no
    /// backup is made.
    ///
    /// The length bounds how long writes, reads and scans wait for it, of which the
    /// README tells. It is off as the space is used again without it, and as
    /// replicas that lose the same keys at the same time would compact at the
    /// same time, with no quorum of them to answer meanwhile. A length that is
    /// compacted well within a coordinator's time limit does no harm.
    pub fn compact_up_to(mut self, bytes: u64) -> Self {
        self.compact_up_to = bytes;
        self
    }

    /// Whether to check every page against its checksum when the store is
    /// opened. On by default; it reads the whole file.
    ///
    /// Without it, pages are checked after a crash only. A record that changed
    /// on disk is still never served, since each has a checksum of its own; but
    /// damage to the pages that lead to it can hide it, and then the key reads
    /// as absent. Damage that comes while the store is open can do the same, with
    /// this setting or without it, until the store is opened again.
    pub fn verify(mut self, verify: bool) -> Self {
        self.settings.verify = verify;
        self
    }

    /// Opens the store that was created in a directory.
    ///
    /// Nothing is created: where there is no directory or no store in it, a disk
    /// may not be mounted, and a store that started empty would count in quorums
    /// as one that has all it ever acked.
    ///
    /// # Errors
    ///
    /// [`OpenError::Missing`] where no store was ever created there,
    /// [`OpenError::Lost`] where one was and its records are gone. [`OpenError`]
    /// tells the others apart.
    pub async fn open(self, path: impl AsRef<Path>) -> Result<RedbStore, OpenError> {
        self.open_directory(path.as_ref(), Opening::Existing).await
    }

    /// Creates an empty store in a directory. The directory is made where it is
    /// missing, with all above it; other files in it are left alone. A creation
    /// that was cut short is begun again or finished.
    ///
    /// # Errors
    ///
    /// [`OpenError::Exists`] where there is a store already, [`OpenError::Lost`]
    /// where there was one. [`OpenError`] tells the others apart.
    pub async fn create_new(self, path: impl AsRef<Path>) -> Result<RedbStore, OpenError> {
        self.open_directory(path.as_ref(), Opening::New).await
    }

    /// Opens the store that was created in a directory, or creates the first
    /// there.
    ///
    /// It is for tests, and for replicas whose directory is there before they
    /// first start and cannot be mistaken. A disk that is not mounted looks like
    /// a directory that was never used: where that can happen,
    /// [`create_new`](Self::create_new) once and [`open`](Self::open) after that.
    ///
    /// # Errors
    ///
    /// [`OpenError::Lost`] where a store was created there and its records are
    /// gone. [`OpenError`] tells the others apart.
    pub async fn open_or_create(self, path: impl AsRef<Path>) -> Result<RedbStore, OpenError> {
        self.open_directory(path.as_ref(), Opening::Either).await
    }

    /// Opens or creates the store on something else than a file: a simulated
    /// disk, say, one with encryption, or one that fails when a test wants it to.
    /// A backend without a byte is one that was never used.
    ///
    /// `backend` is called once, and again by each
    /// [`reopen`](RedbStore::reopen): the backend that it made before is closed
    /// then. The one that it makes again holds what that held: where it holds no
    /// store, it is refused. Should that one have failed to flush what it had taken, `backend` is
    /// to fail too. Its panic is an error like any other. Nothing here keeps two stores from being opened on one
    /// backend.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn open_on<B: StorageBackend>(
        self,
        backend: impl Fn() -> io::Result<B> + Send + 'static,
    ) -> Result<RedbStore, OpenError> {
        self.start(|settings| {
            let mut place = Place::custom(backend);
            let database = place.open(settings)?;
            Ok((place, database))
        })
        .await
    }

    async fn open_directory(self, path: &Path, opening: Opening) -> Result<RedbStore, OpenError> {
        let path = path.to_owned();
        self.start(move |settings| settings.open_directory(&path, opening))
            .await
    }

    async fn start(
        self,
        open: impl FnOnce(Settings) -> Result<(Place, Database), OpenError> + Send + 'static,
    ) -> Result<RedbStore, OpenError> {
        let counts = Telemetry::new();
        let opening = move || {
            let (place, database) = open(self.settings)?;
            RedbStore::start(place, Engine::new(database, counts), &self)
        };
        let opened = store::blocking(opening).await;
        let opened = opened.unwrap_or(Err(OpenError::NoRuntime));
        opened.inspect_err(telemetry::not_opened)
    }
}
