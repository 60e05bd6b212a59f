//! How far a pass is, and what it came to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::coordinator::{CollectError, Collected};
use crate::entry::Key;
use crate::identity::ReplicaId;
use crate::outcome::ReplicaFailure;
use crate::range::KeyRange;

/// How far a [pass](crate::Coordinator::pass) is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PassProgress {
    /// Up to where it is through: before this key. `None` before it begins, and at the
    /// end.
    pub reached: Option<Key>,
    /// How many keys were compared.
    pub keys: u64,
    /// Under how many of them replicas were found to hold unlike entries.
    pub differing: u64,
    /// How many entries each replica lacked, and holds now, in the coordinator's
    /// order.
    pub repaired: Vec<u64>,
    /// How many requests were made.
    pub requests: u64,
    /// How many bytes of keys, versions, fingerprints and values were sent and
    /// received. What a transport adds is not counted.
    pub bytes: u64,
}

/// What a [pass](crate::Coordinator::pass) came to.
#[derive(Debug)]
#[non_exhaustive]
pub struct PassReport {
    /// How far it came.
    pub progress: PassProgress,
    /// How long it took, since it was begun or gone on with.
    pub took: Duration,
    /// Each replica's part, in the coordinator's order.
    pub replicas: Vec<ReplicaPass>,
    /// What was [collected](crate::Coordinator::collect); `None` where nothing was to be.
    pub collection: Option<Result<Collected, CollectError>>,
}

impl PassReport {
    /// Whether all replicas were compared over the whole range, and hold what the
    /// pass found: at least whatever any of them held when it began.
    pub fn is_complete(&self) -> bool {
        self.replicas.iter().all(|replica| replica.is_done)
    }
}

/// One replica's part in a [pass](crate::Coordinator::pass).
#[derive(Debug)]
#[non_exhaustive]
pub struct ReplicaPass {
    /// What its transport is called.
    pub name: String,
    /// Whether it was compared over the whole range with those that answered, and
    /// took what it lacked.
    pub is_done: bool,
    /// How many entries it lacked, and holds now.
    pub repaired: u64,
    /// How many entries it lacked, and does not hold as far as is known.
    pub not_repaired: u64,
    /// The first reason why it is not done.
    pub failure: Option<ReplicaFailure>,
}

/// Where a pass that was cut goes on: see [`Pass::cursor`](crate::Pass::cursor). It
/// can be kept, in any format of serde.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassCursor {
    /// What of the range is left.
    pub(super) rest: KeyRange,
    /// What is known of each replica, in the coordinator's order.
    pub(super) replicas: Vec<SoFar>,
}

/// What is known of a replica when a pass is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SoFar {
    /// Whether it was compared everywhere so far, and took what it lacked.
    pub(super) is_done: bool,
    /// Who it was, if it was called.
    pub(super) id: Option<ReplicaId>,
}

impl PassCursor {
    /// What of the range is left.
    pub fn rest(&self) -> &KeyRange {
        &self.rest
    }
}
