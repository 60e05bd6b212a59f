//! The one thread that writes.
//!
//! It takes all the merges that wait, compares each against what is stored and
//! against those before it, commits once, and then answers them all. Those that
//! come meanwhile are the next commit. So a merge waits for the commit under
//! way and for its own, never for a third; and the more merges come at once,
//! the more of them share a flush.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvquorum_core::{Entry, Key, Merged, Timestamp};
use redb::{ReadableTable, Table, WriteTransaction};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::engine::{Engine, View, guarded};
use crate::error::RedbStoreError;
use crate::format::{ENTRIES, META, META_MAX_TIMESTAMP, Stored, encode, value_in};

/// What an ack of a merge stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The entry is on disk: it survives the end of the process, and of the
    /// machine's power. Merges that wait at the same time share a flush.
    Flushed,
    /// The entry is in memory, and is flushed within about this time.
    ///
    /// **This breaks the contract of [`Store::merge`]**: what was acked since
    /// the last flush is lost with the process, all of it together, and the
    /// store goes back to what it was at that flush. A quorum that counted such
    /// an ack may then have no copy left where it promised one. It is for data
    /// that can be had again, and for filling a store in bulk.
    ///
    /// While anything waits for its flush, each read takes a thread for blocking
    /// work.
    ///
    /// [`Store::merge`]: kvquorum_core::Store::merge
    Every(Duration),
}

/// A merge that waits for its commit.
pub(crate) struct Request {
    key: Key,
    entry: Entry,
    encoded: Bytes,
    /// Nobody listens where the caller has left. The merge is made even so.
    answer: oneshot::Sender<Result<Merged, RedbStoreError>>,
    /// What it takes of the memory for pending merges.
    _room: OwnedSemaphorePermit,
}

impl Request {
    /// Made on the caller's thread, so that the writer, for which all wait, has
    /// less to do.
    pub(crate) fn new(
        key: &Key,
        entry: &Entry,
        answer: oneshot::Sender<Result<Merged, RedbStoreError>>,
        room: OwnedSemaphorePermit,
    ) -> Self {
        let encoded = encode(key, entry);
        // Copies: a key or a value that is a slice of a larger buffer would keep
        // all of that in memory, and only its own bytes are counted.
        Self {
            key: Key::from(key.as_bytes()),
            entry: Entry {
                version: entry.version,
                value: entry.value.as_ref().map(|_| value_in(&encoded)),
            },
            encoded,
            answer,
            _room: room,
        }
    }
}

/// A merge in the transaction under way.
struct Taken {
    request: Request,
    /// The answer, should the transaction succeed.
    merged: Result<Merged, RedbStoreError>,
}

pub(crate) struct Writer {
    engine: Arc<Engine>,
    durability: Durability,
    /// When the oldest commit was made that is not flushed yet.
    unflushed_since: Option<Instant>,
    /// Views that reads may still have. None ends while a commit is under way:
    /// the engine would take the chance to free what it held, and leave that
    /// unflushed.
    earlier_views: Vec<Arc<View>>,
    /// Set by the first write that failed, for good: whether a second flush
    /// reports what the first one lost is up to the system.
    failed: Option<Arc<redb::Error>>,
    /// What the files say of the greatest timestamp: that, or somewhat more.
    noted: Timestamp,
}

/// How far ahead the greatest timestamp is noted, so that it takes part in a
/// commit now and then and not in each: a second.
const NOTED_AHEAD: u64 = 1000 << 16;

type Failure = Arc<redb::Error>;

impl Writer {
    pub(crate) fn new(engine: Arc<Engine>, durability: Durability) -> Self {
        Self {
            noted: engine.max_timestamp(),
            engine,
            durability,
            unflushed_since: None,
            earlier_views: Vec::new(),
            failed: None,
        }
    }

    /// Runs until all senders are gone and all requests are answered.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) -> Result<(), RedbStoreError> {
        loop {
            let first = match self.flush_due_in() {
                None => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => requests.recv_timeout(wait),
            };
            match first {
                Ok(first) => self.merge_all(first, requests),
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // A store that was closed knows it to the last digit.
        let max_timestamp = self.engine.max_timestamp();
        if self.failed.is_none() && self.noted > max_timestamp {
            self.flush_with(|transaction| note(transaction, max_timestamp).map(drop));
        } else if self.unflushed_since.is_some() {
            self.flush();
        }
        match self.failed {
            None => Ok(()),
            Some(failure) => Err(RedbStoreError::WriteFailed(failure)),
        }
    }

    /// How long there is until the next flush; `None` where none is due.
    fn flush_due_in(&self) -> Option<Duration> {
        match (self.durability, self.unflushed_since) {
            (Durability::Every(interval), Some(since)) => {
                Some(interval.saturating_sub(since.elapsed()))
            }
            _ => None,
        }
    }

    /// One commit: of the first request, and of all that come until the last of
    /// those is compared. Their number is bounded, since each keeps its part of
    /// the memory for pending merges until it is answered.
    fn merge_all(&mut self, first: Request, requests: &Receiver<Request>) {
        if let Some(failure) = &self.failed {
            let refused = RedbStoreError::WritesRefused(Arc::clone(failure));
            // Nobody may be waiting for it.
            let _ = first.answer.send(Err(refused));
            return;
        }
        let mut taken = Vec::new();
        let committed = guarded(|| self.commit(first, requests, &mut taken), Arc::new);
        if let Err(failure) = &committed {
            self.failed = Some(Arc::clone(failure));
        }
        for Taken { request, merged } in taken {
            let merged = match &committed {
                Ok(()) => merged,
                Err(failure) => Err(RedbStoreError::WriteFailed(Arc::clone(failure))),
            };
            self.engine.merges.fetch_add(1, Ordering::Relaxed);
            let _ = request.answer.send(merged);
        }
    }

    fn commit(
        &mut self,
        first: Request,
        requests: &Receiver<Request>,
        taken: &mut Vec<Taken>,
    ) -> Result<(), Failure> {
        let flush = match self.flush_due_in() {
            None => self.durability == Durability::Flushed,
            Some(wait) => wait.is_zero(),
        };
        // Kept before anything can fail, so that it is answered even then.
        let keep = |request, taken: &mut Vec<Taken>| {
            taken.push(Taken {
                request,
                merged: Err(RedbStoreError::Closed),
            });
        };
        keep(first, taken);
        let transaction = self.begin(flush)?;
        let mut written = false;
        let mut max_timestamp = self.engine.max_timestamp();
        {
            let mut entries = transaction.open_table(ENTRIES).map_err(failure)?;
            while let Some(last) = taken.last_mut() {
                let Taken { request, merged } = last;
                let changed;
                (*merged, changed) = merge(&mut entries, request)?;
                if changed {
                    written = true;
                    max_timestamp = max_timestamp.max(request.entry.version.timestamp);
                }
                match requests.try_recv() {
                    Ok(request) => keep(request, taken),
                    Err(_) => break,
                }
            }
        }
        if !written {
            // What superseded them was committed before, and as safely.
            transaction.abort().map_err(failure)?;
            if !flush && self.unflushed_since.is_none() {
                self.show(true)?;
            }
            return Ok(());
        }
        if max_timestamp > self.noted {
            let ahead = max_timestamp.to_bits().saturating_add(NOTED_AHEAD);
            self.noted = note(&transaction, Timestamp::from_bits(ahead))?;
        }
        transaction.commit().map_err(failure)?;
        self.engine.commits.fetch_add(1, Ordering::Relaxed);
        self.engine.stored(max_timestamp);
        self.show(flush)?;
        self.unflushed_since = match flush {
            true => None,
            false => self.unflushed_since.or_else(|| Some(Instant::now())),
        };
        Ok(())
    }

    /// Makes earlier commits safe.
    fn flush(&mut self) {
        self.flush_with(|_| Ok(()));
    }

    fn flush_with(&mut self, change: impl FnOnce(&WriteTransaction) -> Result<(), Failure>) {
        let flushing = || {
            let transaction = self.begin(true)?;
            change(&transaction)?;
            transaction.commit().map_err(failure)?;
            self.show(true)
        };
        let flushed = guarded(flushing, Arc::new);
        self.unflushed_since = None;
        if let Err(failure) = flushed {
            self.failed = Some(failure);
        }
    }

    /// Has reads see the last commit.
    fn show(&mut self, flushed: bool) -> Result<(), Failure> {
        let before = self.engine.show(flushed).map_err(Arc::new)?;
        self.earlier_views.push(before);
        Ok(())
    }

    fn begin(&mut self, flush: bool) -> Result<WriteTransaction, Failure> {
        self.earlier_views
            .retain(|view| Arc::strong_count(view) > 1);
        if !flush && self.unflushed_since.is_none() {
            self.show(false)?;
        }
        let mut transaction = self.engine.database.begin_write().map_err(failure)?;
        let durability = match flush {
            true => redb::Durability::Immediate,
            false => redb::Durability::None,
        };
        transaction.set_durability(durability).map_err(failure)?;
        Ok(transaction)
    }
}

/// Has the files say of the greatest timestamp that it is no more than this.
fn note(transaction: &WriteTransaction, noted: Timestamp) -> Result<Timestamp, Failure> {
    let mut meta = transaction.open_table(META).map_err(failure)?;
    meta.insert(META_MAX_TIMESTAMP, noted.to_bits())
        .map_err(failure)?;
    Ok(noted)
}

/// Keeps the greater of two entries. Tells the answer, and whether the entry
/// was written.
fn merge(
    entries: &mut Table<'_, &'static [u8], &'static [u8]>,
    request: &Request,
) -> Result<(Result<Merged, RedbStoreError>, bool), Failure> {
    let Request {
        key,
        entry,
        encoded,
        ..
    } = request;
    if let Some(stored) = entries.get(key.as_bytes()).map_err(failure)? {
        let Some(stored) = Stored::decode(key.as_bytes(), stored.value()) else {
            let key = key.clone();
            return Ok((Err(RedbStoreError::Damaged { key }), false));
        };
        let stored = match stored.version == entry.version {
            true => stored.to_entry(),
            // Different versions decide; a tombstone stands for any value.
            false => Entry::tombstone(stored.version),
        };
        let merged = Merged::verdict(Some(&stored), entry);
        if merged != Merged::Applied || stored == *entry {
            return Ok((Ok(merged), false));
        }
    }
    entries
        .insert(key.as_bytes(), encoded.as_ref())
        .map_err(failure)?;
    Ok((Ok(Merged::Applied), true))
}

fn failure(error: impl Into<redb::Error>) -> Failure {
    Arc::new(error.into())
}
