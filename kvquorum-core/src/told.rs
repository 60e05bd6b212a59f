//! What a replica tells when it is asked what is asked seldom.

use serde::{Deserialize, Serialize};

use crate::fingerprint::{Versions, Windows};
use crate::transport::Response;

/// What a replica tells when it is asked what is asked seldom. It is apart, so that
/// other responses are quick to move and to drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Told {
    /// To [`RequestKind::Fingerprint`](crate::RequestKind::Fingerprint): window by window, what the replica holds.
    Windows(Windows),
    /// To [`RequestKind::Versions`](crate::RequestKind::Versions): those in the beginning of the range.
    Versions(Versions),
    /// To [`RequestKind::Status`](crate::RequestKind::Status): how the replica is.
    Status(Status),
}

impl From<Told> for Response {
    fn from(told: Told) -> Self {
        Self::Told(Box::new(told))
    }
}

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
