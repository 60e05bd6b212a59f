//! The one thread that writes.
//!
//! It takes all the changes that wait, makes them one after the other in one
//! transaction, commits once, and then answers them all. Those that come
//! meanwhile are the next commit. So a change waits for the commit under way and
//! for its own, never for a third; and the more changes come at once, the more of
//! them share a flush.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvquorum_core::{Action, Change, Decision, Key, Record, Response};
use redb::{Database, ReadableTable, Table, WriteTransaction};
use tokio::sync::oneshot;

use crate::compaction::Compaction;
use crate::engine::Engine;
use crate::error::{OpenError, RedbStoreError};
use crate::format::{RECORDS, decode, encode};
use crate::place::{Place, Settings, guarded};
use crate::queue::{Next, Queue};
use crate::telemetry;

/// Well within what the engine takes, which is 3 GiB.
const MAX_LEN: usize = 1 << 30;

/// What a change takes in a commit beyond the bytes of its key and its record,
/// about.
const OVERHEAD: usize = 256;

/// What an ack of a change stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The change is on disk: it survives the end of the process, and of the
    /// machine's power. Changes that wait at the same time share a flush.
    Flushed,
    /// The change is in memory, and is flushed within about this time.
    ///
    /// **This breaks the contract of [`Store::apply`]**: what was acked since
    /// the last flush is lost with the process, all of it together, and the
    /// store goes back to what it was at that flush. A quorum that counted such
    /// an ack may then have no copy left where it promised one. It is for data
    /// that can be had again, and for filling a store in bulk.
    ///
    /// [`Store::apply`]: kvquorum_core::Store::apply
    Every(Duration),
}

/// What the writer is asked for.
pub(crate) enum Task {
    Apply(Apply),
    Compact(Answer<Compaction>),
    Reopen(Answer<()>),
    Check(Answer<()>),
}

/// Nobody listens where the caller has left.
type Answer<T> = oneshot::Sender<Result<T, RedbStoreError>>;

/// A change that waits for its commit.
pub(crate) struct Apply {
    pub(crate) key: Key,
    pub(crate) change: Change<'static>,
    pub(crate) answer: Answer<Response>,
}

pub(crate) struct Writer {
    pub(crate) queue: Arc<Queue<Task>>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) place: Place,
    pub(crate) settings: Settings,
    pub(crate) durability: Durability,
    /// At how many bytes a commit takes no more.
    pub(crate) max_commit: usize,
    /// How long the file may be that is compacted without being asked for.
    pub(crate) compact_up_to: u64,
    /// By how many bytes keys and records are less than the most that they were since
    /// the last compaction, or the start.
    pub(crate) freed: u64,
    /// When the oldest commit was made that is not flushed yet.
    pub(crate) unflushed_since: Option<Instant>,
    /// The first write that failed since the engine was opened.
    pub(crate) failed: Option<Failure>,
    /// What was written could not be flushed, of which the system tells once.
    pub(crate) unflushed: Option<RedbStoreError>,
}

pub(crate) type Failure = Arc<redb::Error>;

impl Drop for Writer {
    fn drop(&mut self) {
        // However it ended: nobody waits for it, and nothing is served after it.
        self.queue.close_and_clear();
        let _ = close(self.engine.change(Err(RedbStoreError::Closed)));
    }
}

impl Writer {
    /// Runs until the queue is closed and empty, and closes the engine.
    pub(crate) fn run(mut self) -> Result<(), RedbStoreError> {
        loop {
            match self.queue.next(self.flush_due_at()) {
                Next::Item(Task::Apply(first)) => {
                    self.apply_all(first);
                    self.compact_if_due();
                }
                Next::Item(Task::Compact(answer)) => {
                    let _ = answer.send(self.compact());
                }
                Next::Item(Task::Reopen(answer)) => {
                    let reopened = self.reopen();
                    telemetry::reopened(reopened.as_ref().copied());
                    let _ = answer.send(reopened);
                }
                Next::Item(Task::Check(answer)) => {
                    let _ = answer.send(self.check());
                }
                Next::TimedOut => self.flush(),
                Next::Closed => break,
            }
        }
        if self.unflushed_since.is_some() {
            self.flush();
        }
        let closed = close(self.engine.change(Err(RedbStoreError::Closed)));
        match self.failed.take() {
            None => closed,
            Some(failure) => Err(RedbStoreError::WriteFailed(failure)),
        }
    }

    /// When the next flush is due; `None` where none is.
    fn flush_due_at(&self) -> Option<Instant> {
        match (self.durability, self.unflushed_since) {
            (Durability::Every(interval), Some(since)) => since.checked_add(interval),
            _ => None,
        }
    }

    /// One commit: of the first change, and of all that come until the last of
    /// those is made, as far as a commit takes them.
    fn apply_all(&mut self, first: Apply) {
        let flush = match self.durability {
            Durability::Flushed => true,
            Durability::Every(_) => self.flush_due_at().is_some_and(|due| due <= Instant::now()),
        };
        let (queue, max_commit) = (Arc::clone(&self.queue), self.max_commit);
        let mut answers = vec![first.answer];
        let committed = self.write(flush, |transaction| {
            let mut batch = Batch::of(transaction)?;
            let mut outcomes = Vec::new();
            let mut next = Some((first.key, first.change));
            while let Some((key, change)) = next {
                outcomes.push(batch.apply(&key, change)?);
                let more = batch.size < max_commit;
                let task = queue.take_if(|task| more && matches!(task, Task::Apply(_)));
                next = match task {
                    Some(Task::Apply(Apply {
                        key,
                        change,
                        answer,
                    })) => {
                        answers.push(answer);
                        Some((key, change))
                    }
                    _ => None,
                };
            }
            let lens = (batch.written_len, batch.gone_len);
            Ok(((outcomes, lens), batch.written))
        });
        let answered = u64::try_from(answers.len()).unwrap_or(u64::MAX);
        self.engine.changes.fetch_add(answered, Ordering::Relaxed);
        match committed {
            Ok((outcomes, (written, gone))) => {
                self.engine.telemetry.applied(outcomes.len(), written);
                let freed = self.freed.saturating_add(gone as u64);
                self.freed = freed.saturating_sub(written as u64);
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let _ = answer.send(outcome);
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Makes earlier commits safe.
    fn flush(&mut self) {
        // The next change is told of a failure.
        let _ = self.write(true, |_| Ok(((), false)));
    }

    /// Whether writes can be tried.
    pub(crate) fn check(&self) -> Result<(), RedbStoreError> {
        if let Some(failure) = &self.failed {
            return Err(RedbStoreError::WritesRefused(Arc::clone(failure)));
        }
        self.engine
            .state()?
            .as_ref()
            .map(drop)
            .map_err(Clone::clone)
    }

    /// One transaction. `change` tells whether it wrote anything: otherwise what
    /// it saw was committed before, and as safely.
    fn write<T>(
        &mut self,
        flush: bool,
        change: impl FnOnce(&WriteTransaction) -> Result<(T, bool), Failure>,
    ) -> Result<T, RedbStoreError> {
        self.check()?;
        let state = self.engine.state()?;
        let database = state.as_ref().map_err(Clone::clone)?;
        let writing = || {
            let mut transaction = database.begin_write().map_err(failure)?;
            let durability = match flush {
                true => redb::Durability::Immediate,
                false => redb::Durability::None,
            };
            transaction.set_durability(durability).map_err(failure)?;
            let (made, written) = change(&transaction)?;
            let commit = written || flush && self.unflushed_since.is_some();
            match commit {
                true => {
                    let commit = || transaction.commit();
                    self.engine.telemetry.committing(commit).map_err(failure)?;
                }
                false => transaction.abort().map_err(failure)?,
            }
            self.place.check_linked().map_err(failure)?;
            Ok((made, commit))
        };
        let written = guarded(writing, Arc::new);
        drop(state);
        match written {
            Ok((made, false)) => Ok(made),
            Ok((made, true)) => {
                self.engine.commits.fetch_add(1, Ordering::Relaxed);
                self.unflushed_since = match flush {
                    true => None,
                    false => self.unflushed_since.or_else(|| Some(Instant::now())),
                };
                Ok(made)
            }
            Err(failure) => Err(self.fail(failure)),
        }
    }

    /// Refuses all writes from now on.
    pub(crate) fn fail(&mut self, failure: Failure) -> RedbStoreError {
        self.engine.telemetry.write_failed();
        telemetry::write_failed(&failure);
        self.unflushed_since = None;
        self.failed = Some(Arc::clone(&failure));
        RedbStoreError::WriteFailed(failure)
    }

    /// Closes the engine and opens it again, whether or not it failed.
    fn reopen(&mut self) -> Result<(), RedbStoreError> {
        if let Some(unflushed) = &self.unflushed {
            return Err(unflushed.clone());
        }
        // What it cannot do any more, the place looks after.
        let _ = close(self.engine.change(Err(RedbStoreError::Reopening)));
        let settings = Settings {
            verify: true,
            ..self.settings
        };
        match self.place.open(settings) {
            Ok(database) => {
                self.failed = None;
                self.unflushed_since = None;
                let _ = self.engine.change(Ok(database));
                Ok(())
            }
            Err(error) => {
                let unflushed = matches!(error, OpenError::Unflushed { .. });
                let error = RedbStoreError::ReopenFailed(Arc::new(error));
                if unflushed {
                    self.unflushed = Some(error.clone());
                }
                let _ = self.engine.change(Err(error.clone()));
                Err(error)
            }
        }
    }
}

fn close(state: Result<Database, RedbStoreError>) -> Result<(), RedbStoreError> {
    let failed = |error: redb::Error| RedbStoreError::WriteFailed(Arc::new(error));
    guarded(
        || state?.close().map_err(|error| failed(error.into())),
        failed,
    )
}

/// The changes of one transaction.
struct Batch<'t> {
    records: Table<'t, &'static [u8], &'static [u8]>,
    written: bool,
    /// The bytes of keys and records that were written.
    written_len: usize,
    /// The bytes of those that they replaced, and of those that were removed.
    gone_len: usize,
    /// What the changes take, about.
    size: usize,
}

impl<'t> Batch<'t> {
    fn of(transaction: &'t WriteTransaction) -> Result<Self, Failure> {
        Ok(Self {
            records: transaction.open_table(RECORDS).map_err(failure)?,
            written: false,
            written_len: 0,
            gone_len: 0,
            size: 0,
        })
    }

    /// Makes one change. A failure of the engine is one of all; what is wrong
    /// with this change alone is in its own answer.
    fn apply(
        &mut self,
        key: &Key,
        change: Change<'_>,
    ) -> Result<Result<Response, RedbStoreError>, Failure> {
        self.size = self.size.saturating_add(OVERHEAD);
        let stored = self.records.get(key.as_bytes()).map_err(failure)?;
        let held = match stored.map(|stored| decode(key, stored.value())) {
            Some(Err(error)) => return Ok(Err(error)),
            Some(Ok(held)) => Some(held),
            None => None,
        };
        let told = held.as_ref().map_or(0, Record::encoded_len);
        let held_len = held.as_ref().map_or(0, |_| key.len().saturating_add(told));
        let Decision { action, response } = change.decide(held.as_ref());
        match action {
            Action::Keep => {
                if let Response::Promise(_) = response {
                    // It waits in the answer for the commit.
                    self.size = self.size.saturating_add(told);
                }
            }
            Action::Replace(record) => {
                let len = key.len().saturating_add(record.encoded_len());
                if len > MAX_LEN {
                    // The engine would fail, and all changes with it.
                    return Ok(Err(RedbStoreError::TooLarge { len, max: MAX_LEN }));
                }
                let stored = encode(key, &record);
                let inserted = self.records.insert(key.as_bytes(), stored.as_slice());
                drop(inserted.map_err(failure)?);
                self.size = self.size.saturating_add(len);
                self.written_len = self.written_len.saturating_add(len);
                self.gone_len = self.gone_len.saturating_add(held_len);
                self.written = true;
            }
            Action::Remove => {
                let removed = self.records.remove(key.as_bytes()).map_err(failure)?;
                self.written |= removed.is_some();
                self.gone_len = self.gone_len.saturating_add(held_len);
            }
        }
        Ok(Ok(response))
    }
}

pub(crate) fn failure(error: impl Into<redb::Error>) -> Failure {
    Arc::new(error.into())
}
