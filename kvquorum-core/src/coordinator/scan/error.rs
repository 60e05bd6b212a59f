//! What can go wrong with a scan.

use std::fmt;

use crate::coordinator::report::{ReplicaReport, count_answered, write_replicas};
use crate::entry::Key;
use crate::outcome::Outcome;

/// A page of a [`Scan`](crate::Scan) that could not be read. What is
/// [left](crate::Scan::rest) begins with that page, and can be scanned again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// Fewer than R replicas answered. Trying again may help.
    #[error("a page of the scan failed: {0}")]
    Failed(Box<ScanReport>),
    /// R replicas answered, but where repair is blocking, fewer than W could be
    /// brought to hold what was found. A later read may not find it.
    #[error(
        "the scan found an entry under {key} that {holders} replicas are known to hold and \
         {needed} were needed{}",
        ReplicaList(report)
    )]
    #[non_exhaustive]
    NotRepaired {
        /// The first such key of the page.
        key: Key,
        /// How many replicas are known to hold its entry.
        holders: usize,
        /// How many holders the scan needed: W.
        needed: usize,
        /// What is known of each replica.
        report: Box<ScanReport>,
    },
}

impl ScanError {
    /// What is known of the page.
    pub fn report(&self) -> &ScanReport {
        match self {
            Self::Failed(report) | Self::NotRepaired { report, .. } => report,
        }
    }
}

/// What is known of a page that could not be read.
#[derive(Debug)]
pub struct ScanReport {
    needed: usize,
    replicas: Vec<ReplicaReport<usize>>,
}

impl ScanReport {
    pub(super) fn new<const N: usize>(
        needed: usize,
        names: [String; N],
        outcomes: [Outcome<usize>; N],
    ) -> Self {
        let replicas = ReplicaReport::all(names, outcomes);
        Self { needed, replicas }
    }

    /// How many answers the page needed: R.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// How many replicas are known to have answered.
    pub fn answered(&self) -> usize {
        count_answered(self.replicas.iter().map(ReplicaReport::outcome))
    }

    /// Each replica's part, in the coordinator's order: how many entries it answered
    /// with.
    pub fn replicas(&self) -> &[ReplicaReport<usize>] {
        &self.replicas
    }
}

impl fmt::Display for ScanReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, of, needed) = (self.answered(), self.replicas.len(), self.needed);
        write!(
            f,
            "{answered} of {of} replicas answered and {needed} were needed{}",
            ReplicaList(self)
        )
    }
}

struct ReplicaList<'a>(&'a ScanReport);

impl fmt::Display for ReplicaList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_replicas(f, &self.0.replicas, |f, entries| {
            write!(f, "answered with {entries} entries")
        })
    }
}
