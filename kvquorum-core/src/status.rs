//! How a replica is, as far as it was told.

use serde::{Deserialize, Serialize};

/// How a replica is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The last [pass](crate::Coordinator::pass) that ended beside it, since its process
    /// began.
    pub last_pass: Option<LastPass>,
}

/// A pass that has ended, as it is [told](crate::Replica::tell_pass) to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPass {
    /// When, in milliseconds since the Unix epoch, by the replica's clock.
    pub ended_millis: u64,
    /// How many keys were compared.
    pub keys: u64,
    /// Under how many of them replicas were found to hold unlike entries.
    pub differing: u64,
    /// How many entries each replica lacked, and holds now, in the order of the
    /// coordinator that ran it.
    pub repaired: Vec<u64>,
    /// Whether all replicas were [compared, and took what they
    /// lacked](crate::PassReport::is_complete).
    pub is_complete: bool,
}
