//! What a collection came to.

use crate::entry::Timestamp;
use crate::outcome::ReplicaFailure;

/// What a [collection](crate::Coordinator::collect) came to.
#[derive(Debug)]
#[non_exhaustive]
pub struct Collected {
    /// Deletes from before this are collected.
    pub upto: Timestamp,
    /// Each replica's part, in the coordinator's order.
    pub replicas: Vec<CollectedReplica>,
}

/// One replica's part in a [collection](crate::Coordinator::collect).
#[derive(Debug)]
#[non_exhaustive]
pub struct CollectedReplica {
    /// What its transport is called.
    pub name: String,
    /// Under how many keys it dropped a tombstone, or a promise of an update.
    pub dropped: u64,
    /// How many tombstones it holds that still count.
    pub tombstones: u64,
    /// How many of its values had expired, and were deleted. One replica tells them for
    /// all.
    pub expired: u64,
    /// Why it has not collected, or not dropped all. The next collection will.
    pub failure: Option<ReplicaFailure>,
}

impl CollectedReplica {
    pub(super) fn new(name: String, failure: Option<ReplicaFailure>) -> Self {
        Self {
            name,
            dropped: 0,
            tombstones: 0,
            expired: 0,
            failure,
        }
    }
}

/// Nothing could be [collected](crate::Coordinator::collect).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollectError {
    /// A replica is away, or has yet to rejoin: collection waits until it is back.
    #[error("replica {replica} is not there, and nothing is collected without it")]
    Waiting {
        /// What its transport is called.
        replica: String,
        /// Why it is not there.
        source: ReplicaFailure,
    },
    /// The pass could not bring all replicas what they lack, as its report says.
    #[error("not all replicas could be brought to hold the same")]
    NotLevel,
    /// A replica began to [rejoin](crate::Coordinator::rejoin) meanwhile.
    #[error("a replica began to rejoin meanwhile")]
    Rejoined,
}
