//! The store: what is asked of it, and which thread does it.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use kvquorum_core::{Entry, Key, Merged, Store, StoreError, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::engine::Engine;
use crate::error::{OpenError, RedbStoreError};
use crate::writer::{Durability, Request, Writer};

/// Well within what the engine takes, which is 3 GiB.
const MAX_LEN: usize = 1 << 30;

/// What a merge takes in memory until it is answered, beyond the bytes of its
/// key and its value, about.
const OVERHEAD: usize = 256;

/// A durable [`Store`]: what it acked is there when it is opened again.
pub struct RedbStore {
    engine: Arc<Engine>,
    reads: Places,
    scans: Places,
    /// Taken when the store is dropped, so that the writer ends.
    requests: Option<Sender<Request>>,
    writer: Option<JoinHandle<Result<(), RedbStoreError>>>,
    room: Arc<Semaphore>,
    pending: u32,
}

/// How much of what may be there at the same time.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Bytes of merges that wait for their commit.
    pub(crate) pending: usize,
    /// Reads on threads for blocking work.
    pub(crate) blocking_reads: usize,
    /// Scans.
    pub(crate) scans: usize,
}

/// Places for what reads on threads for blocking work.
struct Places {
    free: Arc<Semaphore>,
    count: u32,
}

impl Places {
    fn new(count: usize) -> Self {
        let count = permits(count);
        let free = Arc::new(Semaphore::new(count as usize));
        Self { free, count }
    }

    /// Reads once there is a place.
    async fn read<T: Send + 'static>(
        &self,
        engine: &Arc<Engine>,
        read: impl FnOnce(&Engine) -> Result<T, RedbStoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = Arc::clone(&self.free).acquire_owned().await;
        let place = place.map_err(|_| RedbStoreError::Closed)?;
        let engine = Arc::clone(engine);
        let reading = move || {
            let found = read(&engine);
            // Whoever has all places can count on the engine being free.
            drop(engine);
            drop(place);
            found
        };
        let found = blocking(reading).await.ok_or(RedbStoreError::NoRuntime)?;
        Ok(found?)
    }

    /// Waits for all reads that are under way, whether or not somebody waits
    /// for them.
    async fn all_free(&self) {
        // It is never closed.
        let _ = self.free.acquire_many(self.count).await;
    }
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Merges that were answered.
    pub merges: u64,
    /// Commits made for them, each with one flush where the store flushes each.
    pub commits: u64,
    /// Reads of a key made at once, on the caller's thread.
    pub reads_at_once: u64,
    /// Reads of a key made on a thread for blocking work.
    pub blocking_reads: u64,
}

impl RedbStore {
    pub(crate) fn start(
        engine: Engine,
        durability: Durability,
        limits: &Limits,
    ) -> Result<Self, OpenError> {
        let engine = Arc::new(engine);
        let (requests, receiver) = channel();
        let writer = Writer::new(Arc::clone(&engine), durability);
        let writer = thread::Builder::new()
            .name("kvquorum-redb".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(OpenError::Thread)?;
        let pending = permits(limits.pending);
        Ok(Self {
            engine,
            reads: Places::new(limits.blocking_reads),
            scans: Places::new(limits.scans),
            requests: Some(requests),
            writer: Some(writer),
            room: Arc::new(Semaphore::new(pending as usize)),
            pending,
        })
    }

    /// The greatest timestamp that was ever stored, before a restart too;
    /// [`Timestamp::MIN`] in a store that is new. After a kill it may be up to a
    /// second more: the files are told of it ahead, and not by each commit.
    ///
    /// A coordinator in the same process is to stamp its entries after it,
    /// whatever has become of the machine's clock meanwhile: hand it to
    /// [`not_before`](kvquorum_core::CoordinatorBuilder::not_before).
    pub fn max_timestamp(&self) -> Timestamp {
        self.engine.max_timestamp()
    }

    /// What the store has done so far.
    pub fn stats(&self) -> Stats {
        let Engine {
            merges,
            commits,
            reads_at_once,
            blocking_reads,
            ..
        } = &*self.engine;
        Stats {
            merges: merges.load(Ordering::Relaxed),
            commits: commits.load(Ordering::Relaxed),
            reads_at_once: reads_at_once.load(Ordering::Relaxed),
            blocking_reads: blocking_reads.load(Ordering::Relaxed),
        }
    }

    /// Finishes the merges under way, and the reads and scans whose futures were
    /// dropped, and closes the files.
    ///
    /// Dropping the store does the same, but on the thread that drops it, which
    /// then waits for the disk; and a read or a scan under way, whose future was
    /// dropped, may hold the files for somewhat longer.
    ///
    /// # Errors
    ///
    /// The first failure of a write since the store was opened. There is
    /// nothing to be done about it any more.
    pub async fn close(mut self) -> Result<(), RedbStoreError> {
        self.reads.all_free().await;
        self.scans.all_free().await;
        let closing = move || self.end();
        blocking(closing).await.ok_or(RedbStoreError::NoRuntime)?
    }

    fn end(&mut self) -> Result<(), RedbStoreError> {
        self.requests = None;
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            // The writer panicked, or the store was ended before.
            Some(Err(_)) => Err(RedbStoreError::Closed),
            None => Ok(()),
        }
    }

    /// Waits for room among the pending merges.
    async fn room(&self, key: &Key, entry: &Entry) -> Result<OwnedSemaphorePermit, RedbStoreError> {
        let value = entry.value.as_ref().map_or(0, Bytes::len);
        let len = key.len().saturating_add(value).saturating_add(OVERHEAD);
        if len > MAX_LEN {
            // The engine would fail, and all merges of the commit with it.
            return Err(RedbStoreError::TooLarge { len, max: MAX_LEN });
        }
        let wanted = u32::try_from(len).unwrap_or(u32::MAX);
        // One that is larger than all the room goes alone.
        let wanted = wanted.min(self.pending);
        let room = Arc::clone(&self.room).acquire_many_owned(wanted).await;
        room.map_err(|_| RedbStoreError::Closed)
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        // Whoever wants to know calls `close`.
        let _ = self.end();
    }
}

impl Store for RedbStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        if let Some(found) = self.get_now(key) {
            return found;
        }
        let key = key.clone();
        let read = move |engine: &Engine| engine.read(&key);
        self.reads.read(&self.engine, read).await
    }

    fn get_now(&self, key: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        let found = self.engine.read_at_once(key)?;
        Some(found.map_err(StoreError::from))
    }

    async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
        let room = self.room(key, &entry).await?;
        let (answer, answered) = oneshot::channel();
        let request = Request::new(key, &entry, answer, room);
        drop(entry);
        let requests = self.requests.as_ref().ok_or(RedbStoreError::Closed)?;
        requests.send(request).map_err(|_| RedbStoreError::Closed)?;
        let merged = answered.await.map_err(|_| RedbStoreError::Closed)?;
        Ok(merged?)
    }

    async fn scan(&self, from: Bound<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
        let from = from.cloned();
        let scan = move |engine: &Engine| engine.scan(from.as_ref(), limit);
        self.scans.read(&self.engine, scan).await
    }
}

/// A setting as a semaphore takes it, one at the least.
fn permits(setting: usize) -> u32 {
    let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
    u32::try_from(setting.clamp(1, most)).unwrap_or(1)
}

/// Runs what may block off the async threads; `None` where there is no runtime
/// to do it, or no longer.
pub(crate) async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let runtime = Handle::try_current().ok()?;
    runtime.spawn_blocking(run).await.ok()
}

impl std::fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedbStore")
            .field("stats", &self.stats())
            .field("max_timestamp", &self.max_timestamp())
            .finish_non_exhaustive()
    }
}
