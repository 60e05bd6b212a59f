//! Compaction: space of the file that is not used goes back to the file system.

use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};
use std::time::Instant;

use crate::error::RedbStoreError;
use crate::place::guarded;
use crate::store::RedbStore;
use crate::telemetry;
use crate::writer::{Task, Writer, failure};

/// What a [compaction](RedbStore::compact) did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compaction {
    /// How long the file was before, in bytes.
    pub bytes_before: u64,
    /// How long it is now.
    pub bytes_after: u64,
}

impl Compaction {
    /// How many bytes went back to the file system.
    pub fn given_back(&self) -> u64 {
        self.bytes_before.saturating_sub(self.bytes_after)
    }
}

/// Less than this is not worth it that all wait.
const LEAST_FREED: u64 = 1 << 20;

impl RedbStore {
    /// Gives the space that the file does not use back to the file system.
    ///
    /// Without it, too, later changes use the space again that was left by what was
    /// removed or overwritten. The file grows by doubling, and so is up to about twice
    /// as long as what it held at the most. Commits cut off its end by themselves
    /// where much of that is free. A compaction moves what lies at the end into the
    /// gaps before it, and then cuts all off that is free; pages that are partly full
    /// stay so. It is for a store that has lost much and will not soon hold as much
    /// again. The next change may double the file's length once more: what was never
    /// written of it takes no space where the file system has sparse files.
    ///
    /// **Writes, reads and scans wait until it is over.** None of them fails because
    /// of it; [`close`](Self::close), [`check`](Self::check) and
    /// [`reopen`](Self::reopen) wait as well. It begins when the commit, the reads and
    /// the scans under way have ended, which those that come meanwhile wait for too.
    /// Then it reads every page in use two times or more, and writes once those that
    /// it moves and those that lead to them. No time limit bounds that: the README
    /// tells how long it took. It takes some 100 bytes of memory for each page of
    /// 4 KiB in use, of 1,000,000 pages at the most. Where several replicas are to be
    /// compacted, compact one after the other: together they leave no quorum to
    /// answer.
    ///
    /// It is a series of commits, each of them flushed: a loss of power or the end of
    /// the process leaves all records, and the next opening checks the whole file, as
    /// after any such end. It needs little room on the disk besides the file.
    ///
    /// It is made by the thread that writes, in its turn. Dropping the future of one
    /// that waits takes it back; one that has begun is finished.
    ///
    /// # Errors
    ///
    /// [`RedbStoreError::BackupUnderWay`] while a [backup](Self::backup) is made, which
    /// it would have to wait for with all reads behind it; nothing was changed, and it
    /// may be tried again when the backup has ended. A backup that is asked for during
    /// a compaction waits for its end. [`RedbStoreError::WriteFailed`] where the disk
    /// failed: no record is lost, and writes are refused until the store is
    /// [opened again](Self::reopen). What any change would fail with:
    /// [`RedbStoreError::WritesRefused`], [`RedbStoreError::ReopenFailed`],
    /// [`RedbStoreError::Closed`].
    pub async fn compact(&self) -> Result<Compaction, RedbStoreError> {
        self.ask(Task::Compact).await
    }
}

impl Writer {
    /// Compacts where the store is to do so by itself and it is worth it, once nothing
    /// else waits to be written.
    pub(crate) fn compact_if_due(&mut self) {
        let is_due = |len: u64| len <= self.compact_up_to && self.freed >= len / 4;
        if self.compact_up_to > 0
            && self.freed >= LEAST_FREED
            && self.queue.is_empty()
            && self.place.len().is_ok_and(is_due)
        {
            // It waits for the end of a backup; of a failure the next change is told.
            let _ = self.compact();
        }
    }

    pub(crate) fn compact(&mut self) -> Result<Compaction, RedbStoreError> {
        self.check()?;
        let engine = Arc::clone(&self.engine);
        let _no_backup = match engine.backups.try_write() {
            Ok(none) => none,
            Err(TryLockError::Poisoned(none)) => none.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(RedbStoreError::BackupUnderWay),
        };
        let start = Instant::now();
        let compacting = |database: &mut redb::Database| {
            let bytes_before = self.place.len().map_err(failure)?;
            database.compact().map_err(failure)?;
            self.place.check_linked().map_err(failure)?;
            let bytes_after = self.place.len().map_err(failure)?;
            Ok(Compaction {
                bytes_before,
                bytes_after,
            })
        };
        let compacted = engine.alone(|database| guarded(|| compacting(database), Arc::new))?;
        engine
            .telemetry
            .compacted(compacted.as_ref().ok(), start.elapsed());
        let compaction = compacted.map_err(|failure| self.fail(failure))?;
        engine.compactions.fetch_add(1, Ordering::Relaxed);
        telemetry::compacted(&compaction, start.elapsed());
        // What was not flushed was, with it.
        self.unflushed_since = None;
        self.freed = 0;
        Ok(compaction)
    }
}
