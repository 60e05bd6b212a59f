//! The store: what is asked of it, and which thread does it.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use kvquorum_core::{Change, Key, Record, Response, ScanLimit, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};

use crate::builder::{DEFAULT_READS, Reads, RedbStoreBuilder};
use crate::engine::Engine;
use crate::error::{OpenError, RedbStoreError};
use crate::place::Place;
use crate::queue::Queue;
use crate::writer::{Apply, Task, Writer};

/// A durable [`Store`]: what it acked is there when it is opened again.
pub struct RedbStore {
    engine: Arc<Engine>,
    queue: Arc<Queue<Task>>,
    reads_on_caller: bool,
    /// For reads that are not, or cannot be now.
    reads: Places,
    scans: Places,
    /// How the writer ended, once it has.
    ended: watch::Receiver<Option<Result<(), RedbStoreError>>>,
    writer: Option<JoinHandle<()>>,
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Changes that were answered.
    pub changes: u64,
    /// Commits made for them, each with one flush where the store flushes each.
    pub commits: u64,
    /// [Compactions](RedbStore::compact) that succeeded, and those that the store made
    /// [by itself](crate::RedbStoreBuilder::compact_up_to).
    pub compactions: u64,
}

impl RedbStore {
    pub(crate) fn start(
        place: Place,
        engine: Engine,
        builder: &RedbStoreBuilder,
    ) -> Result<Self, OpenError> {
        let engine = Arc::new(engine);
        let queue = Arc::new(Queue::new());
        let writer = Writer {
            queue: Arc::clone(&queue),
            engine: Arc::clone(&engine),
            place,
            settings: builder.settings,
            durability: builder.durability,
            max_commit: builder.max_commit,
            compact_up_to: builder.compact_up_to,
            freed: 0,
            unflushed_since: None,
            failed: None,
            unflushed: None,
        };
        let (end, ended) = watch::channel(None);
        let writer = thread::Builder::new()
            .name("kvquorum-redb".to_owned())
            .spawn(move || {
                end.send_replace(Some(writer.run()));
            })
            .map_err(OpenError::Thread)?;
        Ok(Self {
            engine,
            queue,
            reads_on_caller: builder.reads == Reads::OnCaller,
            reads: Places::new(match builder.reads {
                Reads::OnCaller => DEFAULT_READS,
                Reads::OnBlockingThreads { max } => max,
            }),
            scans: Places::new(builder.max_scans),
            ended,
            writer: Some(writer),
        })
    }

    /// What the store has done so far.
    pub fn stats(&self) -> Stats {
        Stats {
            changes: self.engine.changes.load(Ordering::Relaxed),
            commits: self.engine.commits.load(Ordering::Relaxed),
            compactions: self.engine.compactions.load(Ordering::Relaxed),
        }
    }

    /// Closes the store: makes the changes that wait, finishes the reads and
    /// scans under way, flushes, and lets go of the files. All that is asked of
    /// the store after that fails with [`RedbStoreError::Closed`].
    ///
    /// The store is closed once this was called, whether or not its future is
    /// polled to the end; it may be called again, and says the same.
    ///
    /// Dropping the store closes it too, on the thread that drops it, which then
    /// waits for the disk.
    ///
    /// # Errors
    ///
    /// The first failure of a write since the store was opened: a change that
    /// failed, or with [`Durability::Every`](crate::Durability::Every) the flush
    /// of what was acked. There is nothing to be done about it any more.
    pub fn close(&self) -> impl Future<Output = Result<(), RedbStoreError>> + Send + 'static {
        self.queue.close();
        let mut ended = self.ended.clone();
        async move {
            let ended = ended.wait_for(Option::is_some).await;
            ended.map_or(Err(RedbStoreError::Closed), |ended| {
                ended.clone().unwrap_or(Ok(()))
            })
        }
    }

    /// Opens the files again after a failure, in place: once a full disk has room
    /// again, say. The whole file is checked, as when a store is opened, and
    /// until that is done all that is asked of the store fails with
    /// [`RedbStoreError::Reopening`].
    ///
    /// What was acked is there; with
    /// [`Durability::Every`](crate::Durability::Every), what was flushed.
    ///
    /// # Errors
    ///
    /// [`RedbStoreError::ReopenFailed`], with an [`OpenError`] that tells why. It
    /// may be tried again, but for [`OpenError::Unflushed`], which is for good.
    pub async fn reopen(&self) -> Result<(), RedbStoreError> {
        self.ask(Task::Reopen).await
    }

    /// Whether the store takes writes now: a node's health. It asks the thread
    /// that writes, and so waits for the commit under way.
    ///
    /// # Errors
    ///
    /// What a change would fail with now: [`RedbStoreError::WritesRefused`] since a
    /// write failed, [`RedbStoreError::ReopenFailed`] since the store could not be
    /// [opened again](Self::reopen).
    pub async fn check(&self) -> Result<(), RedbStoreError> {
        self.ask(Task::Check).await
    }

    pub(crate) fn queue(&self) -> Arc<Queue<Task>> {
        Arc::clone(&self.queue)
    }

    /// Reads as a scan does.
    pub(crate) async fn on_blocking_thread<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Engine) -> Result<T, RedbStoreError> + Send + 'static,
    ) -> Result<T, RedbStoreError> {
        self.scans.run(&self.engine, read).await
    }

    /// Has the writer do something, and waits for it.
    pub(crate) async fn ask<T>(
        &self,
        task: impl FnOnce(oneshot::Sender<Result<T, RedbStoreError>>) -> Task,
    ) -> Result<T, RedbStoreError> {
        let (answer, answered) = oneshot::channel();
        let ticket = self.queue.push(task(answer));
        let _ticket = ticket.ok_or(RedbStoreError::Closed)?;
        answered.await.unwrap_or(Err(RedbStoreError::Closed))
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(writer) = self.writer.take() {
            // Whoever wants to know how it ended calls `close`.
            let _ = writer.join();
        }
    }
}

impl Store for RedbStore {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        if let Some(found) = self.try_get(key) {
            return found;
        }
        let key = key.clone();
        let read = move |engine: &Engine| engine.get(&key);
        Ok(self.reads.run(&self.engine, read).await?)
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let (key, change) = (key.clone(), change.into_owned());
        let apply = move |answer| {
            Task::Apply(Apply {
                key,
                change,
                answer,
            })
        };
        Ok(self.ask(apply).await?)
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        let (from, to) = (range.0.cloned(), range.1.cloned());
        let scan = move |engine: &Engine| engine.scan((from.as_ref(), to.as_ref()), limit);
        Ok(self.on_blocking_thread(scan).await?)
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        let found = self.reads_on_caller.then(|| self.engine.get_now(key))??;
        Some(found.map_err(StoreError::from))
    }
}

/// Places for what reads on threads for blocking work.
struct Places(Arc<Semaphore>);

impl Places {
    /// One at the least.
    fn new(count: usize) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(count)))
    }

    /// Reads once there is a place. A task of its own waits for that, and not the
    /// caller: a place that fell to a future which nobody polls would be held by
    /// it.
    async fn run<T: Send + 'static>(
        &self,
        engine: &Arc<Engine>,
        read: impl FnOnce(&Engine) -> Result<T, RedbStoreError> + Send + 'static,
    ) -> Result<T, RedbStoreError> {
        let runtime = Handle::try_current().map_err(|_| RedbStoreError::NoRuntime)?;
        let (places, engine) = (Arc::clone(&self.0), Arc::clone(engine));
        let reading = async move {
            let place = places.acquire_owned().await;
            let reading = move || {
                let found = read(&engine);
                drop(place);
                found
            };
            spawn_blocking(reading).await.ok()
        };
        // Dropped with the caller's future, it ends the task.
        let mut task = JoinSet::new();
        task.spawn_on(reading, &runtime);
        let ended = task.join_next().await.and_then(Result::ok).flatten();
        ended.unwrap_or(Err(RedbStoreError::NoRuntime))
    }
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
            .finish_non_exhaustive()
    }
}
