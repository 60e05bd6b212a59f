//! Who a replica is, so that none is counted twice or taken for another.

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::marks::Era;
use crate::random;

/// Which replica it is: a number that is random for each store and kept in it. A
/// replica that lost its data has another one afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(NonZeroU64);

impl ReplicaId {
    /// The replica of this number.
    pub const fn new(id: NonZeroU64) -> Self {
        Self(id)
    }

    /// A random replica, from the operating system's randomness.
    pub fn random() -> Self {
        Self(NonZeroU64::new(random::number()).unwrap_or(NonZeroU64::MIN))
    }

    /// The replica's number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// In hexadecimal.
impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The numbers of a coordinator: it writes to W and reads from R of N replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Quorums {
    /// How many replicas it has.
    pub n: u8,
    /// How many acks a write needs.
    pub w: u8,
    /// How many answers a read needs.
    pub r: u8,
}

/// As `N/W/R`.
impl fmt::Display for Quorums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.n, self.w, self.r)
    }
}

/// What a replica says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Which replica it is.
    pub id: ReplicaId,
    /// The era that it is in.
    pub era: Era,
    /// The name of the cluster that it belongs to, where it was given one.
    pub cluster: Option<String>,
    /// The quorums of the coordinators that called it since its process began, at
    /// most [`MAX_QUORUMS`](Self::MAX_QUORUMS) different ones. More than one means
    /// that coordinators disagree, and that reads of one may miss what another has
    /// acknowledged.
    pub quorums: Vec<Quorums>,
}

impl Identity {
    /// How many different quorums a replica remembers.
    pub const MAX_QUORUMS: usize = 8;
}
