//! What can go wrong with a rejoin.

use crate::entry::Key;
use crate::outcome::ReplicaFailure;

/// A replica could not [rejoin](crate::Coordinator::rejoin). It goes on joining, and it
/// can be tried again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RejoinError {
    /// The coordinator has no replica at this place.
    #[error("there is no replica {place}")]
    NoReplica {
        /// The place, from 0.
        place: usize,
    },
    /// The replica that is to rejoin did not take its part: it does not answer, has started
    /// again meanwhile, or another rejoin of it is going on.
    #[error("replica {place} did not take its part in its rejoin")]
    NotTaken {
        /// Its place, from 0.
        place: usize,
        /// Why.
        source: ReplicaFailure,
    },
    /// Too few of its peers have their data, and answer. Where more of them can't be had
    /// any more, see [`accept_loss`](crate::Coordinator::accept_loss).
    #[error("{found} peers have their data and answer, and {needed} are needed")]
    TooFewPeers {
        /// How many there are.
        found: usize,
        /// How many are needed: [`REJOIN_PEERS`](crate::Coordinator::REJOIN_PEERS).
        needed: usize,
    },
    /// The replica did not take what its peers hold under a key.
    #[error("the replica did not take what is held under {key}")]
    NotCopied {
        /// The key.
        key: Key,
        /// Why.
        source: ReplicaFailure,
    },
    /// Under a key an update of a [register](crate::Registers) has not come to its end,
    /// and could not be brought to it.
    #[error("an update of {key} could not be brought to its end")]
    NotSettled {
        /// The key.
        key: Key,
    },
    /// Deletes were [collected](crate::Coordinator::collect) meanwhile, and what was copied so
    /// far was from before that; or the peer that has collected the most is away.
    #[error("deletes were collected meanwhile, or who has collected the most is away")]
    Collected,
    /// There were as many rejoins as there can be.
    #[error("there is no further era")]
    NoMoreEras,
}
