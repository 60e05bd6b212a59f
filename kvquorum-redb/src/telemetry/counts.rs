//! With the feature `metrics`. The table in docs/OPERATING.md names all of it.

use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, Unit, counter, histogram};
use metrics::{describe_counter, describe_histogram};

use crate::compaction::Compaction;

const CHANGES: &str = "kvquorum_redb_changes_total";
const COMMITS: &str = "kvquorum_redb_commits_total";
const COMMIT_DURATION: &str = "kvquorum_redb_commit_duration_seconds";
const COMMIT_CHANGES: &str = "kvquorum_redb_commit_changes";
const WRITTEN: &str = "kvquorum_redb_written_bytes_total";
const FAILURES: &str = "kvquorum_redb_failures_total";
const BACKUPS: &str = "kvquorum_redb_backups_total";
const COMPACTIONS: &str = "kvquorum_redb_compactions_total";
const COMPACTION_DURATION: &str = "kvquorum_redb_compaction_duration_seconds";
const GIVEN_BACK: &str = "kvquorum_redb_given_back_bytes_total";

pub(crate) struct Counts {
    changes: Counter,
    commits: Counter,
    commit_duration: Histogram,
    commit_changes: Histogram,
    written: Counter,
    write_failures: Counter,
    read_failures: Counter,
    backups: Counter,
    failed_backups: Counter,
    compactions: Counter,
    failed_compactions: Counter,
    compaction_duration: Histogram,
    given_back: Counter,
}

impl Counts {
    /// Registers them, once for each store.
    pub(crate) fn new() -> Self {
        describe();
        Self {
            changes: counter!(CHANGES),
            commits: counter!(COMMITS),
            commit_duration: histogram!(COMMIT_DURATION),
            commit_changes: histogram!(COMMIT_CHANGES),
            written: counter!(WRITTEN),
            write_failures: counter!(FAILURES, "kind" => "write"),
            read_failures: counter!(FAILURES, "kind" => "read"),
            backups: counter!(BACKUPS, "outcome" => "ok"),
            failed_backups: counter!(BACKUPS, "outcome" => "failed"),
            compactions: counter!(COMPACTIONS, "outcome" => "ok"),
            failed_compactions: counter!(COMPACTIONS, "outcome" => "failed"),
            compaction_duration: histogram!(COMPACTION_DURATION),
            given_back: counter!(GIVEN_BACK),
        }
    }

    pub(crate) fn committing<T>(&self, commit: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let committed = commit();
        self.commits.increment(1);
        self.commit_duration.record(start.elapsed());
        committed
    }

    /// So many changes were made in one commit, and left so many bytes of keys and
    /// records.
    pub(crate) fn applied(&self, changes: usize, bytes: usize) {
        self.changes.increment(as_count(changes));
        self.written.increment(as_count(bytes));
        // It is exact far beyond what a commit takes.
        #[allow(clippy::cast_precision_loss)]
        self.commit_changes.record(changes as f64);
    }

    pub(crate) fn write_failed(&self) {
        self.write_failures.increment(1);
    }

    pub(crate) fn read_failed(&self) {
        self.read_failures.increment(1);
    }

    pub(crate) fn backed_up(&self, is_done: bool) {
        let outcome = match is_done {
            true => &self.backups,
            false => &self.failed_backups,
        };
        outcome.increment(1);
    }

    /// For so long all others waited; `None` where it failed.
    pub(crate) fn compacted(&self, compaction: Option<&Compaction>, took: Duration) {
        self.compaction_duration.record(took);
        match compaction {
            Some(compaction) => {
                self.compactions.increment(1);
                self.given_back.increment(compaction.given_back());
            }
            None => self.failed_compactions.increment(1),
        }
    }
}

fn as_count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn describe() {
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    count(CHANGES, "Changes that were made and answered");
    count(COMMITS, "Commits, with and without a flush");
    describe_histogram!(
        COMMIT_DURATION,
        Unit::Seconds,
        "How long commits took, with their flush where they have one"
    );
    describe_histogram!(COMMIT_CHANGES, Unit::Count, "Changes that shared a commit");
    describe_counter!(
        WRITTEN,
        Unit::Bytes,
        "Bytes of keys and records that changes left"
    );
    count(FAILURES, "Commits and reads that failed");
    count(BACKUPS, "Backups that were made, or failed");
    count(COMPACTIONS, "Compactions that were made, or failed");
    describe_histogram!(
        COMPACTION_DURATION,
        Unit::Seconds,
        "How long compactions took, for which all else waited"
    );
    describe_counter!(
        GIVEN_BACK,
        Unit::Bytes,
        "Bytes by which compactions made the file shorter"
    );
}
