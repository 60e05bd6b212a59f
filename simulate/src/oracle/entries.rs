//! Entries: how they compare, who made them, and which of them were acknowledged.

use std::collections::HashMap;
use std::num::NonZeroU64;

use kvquorum_core::{Entry, Record, Timestamp, Version};

use super::expiry::Expiry;
use super::{Oracle, Quorums};

/// An entry, as the order of entries sees it: the values of a simulation are
/// eight bytes, most significant first, and tell the operation in reversed bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    pub version: Version,
    pub(super) tombstone: bool,
    pub(super) value: u64,
    /// When the value expires, in milliseconds.
    pub(super) expires: Option<NonZeroU64>,
}

impl Stamp {
    pub fn of(entry: &Entry) -> Self {
        let value = entry.value.as_deref().map(Self::value_of);
        Self {
            version: entry.version,
            tombstone: value.is_none(),
            value: value.unwrap_or(0),
            expires: entry.expires_millis.filter(|_| value.is_some()),
        }
    }

    /// A value that nobody wrote is known as such by its number.
    pub(super) fn value_of(bytes: &[u8]) -> u64 {
        <[u8; 8]>::try_from(bytes).map_or(u64::MAX, u64::from_be_bytes)
    }

    /// An entry of a register, as its client is told of it.
    pub(super) fn told(value: Option<u64>, version: Version) -> Self {
        Self {
            version,
            tombstone: value.is_none(),
            value: value.unwrap_or(0),
            expires: None,
        }
    }

    /// The value; `None` of a tombstone.
    pub(super) fn value(self) -> Option<u64> {
        (!self.tombstone).then_some(self.value)
    }

    pub(super) fn numbers(stamp: Option<Self>) -> [u64; 3] {
        stamp.map_or([0; 3], |stamp| {
            [
                stamp.version.timestamp.to_bits(),
                stamp.version.writer.get(),
                if stamp.tombstone { 1 } else { stamp.value },
            ]
        })
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", Moment(self.version))?;
        if self.tombstone {
            write!(f, " (tombstone)")
        } else {
            write!(f, " #{}", self.value.reverse_bits())?;
            match self.expires {
                Some(at) => write!(f, ", which expires at {}", since_start(at.get())),
                None => Ok(()),
            }
        }
    }
}

pub(super) fn show(stamp: Option<Stamp>) -> String {
    stamp.map_or("nothing".into(), |stamp| stamp.to_string())
}

/// What a replica holds under a key: an entry, and a promise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) entry: Option<Stamp>,
    pub(super) anchor: Option<Version>,
}

impl Held {
    /// What counts of it where tombstones and anchors from before this do not.
    pub(super) fn counting(self, collected: Timestamp) -> Self {
        let counts = |version: Version| version.timestamp >= collected;
        let is_left = |entry: &Stamp| !entry.tombstone || counts(entry.version);
        Self {
            entry: self.entry.filter(is_left),
            anchor: self.anchor.filter(|anchor| counts(*anchor)),
        }
    }

    pub(super) fn of(record: Option<&Record>) -> Self {
        Self {
            entry: record.and_then(Record::entry).as_ref().map(Stamp::of),
            anchor: record.and_then(Record::anchor),
        }
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", show(self.entry))?;
        match self.anchor {
            Some(anchor) => write!(f, ", {} promised", Moment(anchor)),
            None => Ok(()),
        }
    }
}

/// Clocks start at a round number of milliseconds.
pub(super) fn since_start(millis: u64) -> i64 {
    let millis = i64::try_from(millis).unwrap_or(i64::MAX);
    millis - 1_800_000_000_000
}

/// A version, shown in short.
pub(super) struct Moment(pub(super) Version);

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Version { timestamp, writer } = self.0;
        let millis = since_start(timestamp.millis());
        let writer = writer.get() % 0x1_0000;
        write!(f, "{millis}.{}@{writer:04x}", timestamp.counter())
    }
}

/// Who made an entry. Two writes may come to the very same one, by a bug.
#[derive(Default)]
pub(super) struct Origin {
    /// Operations, and which of their attempts.
    pub(super) makers: Vec<(usize, usize)>,
    /// How many of them were told that it was not applied.
    pub(super) denied: usize,
}

impl Origin {
    pub(super) fn is_forbidden(&self) -> bool {
        self.denied >= self.makers.len()
    }
}

pub(super) struct Acknowledged {
    pub(super) stamp: Stamp,
    /// Which replicas have acked it and not lost it since.
    pub(super) holders: u32,
}

#[derive(Default)]
pub(super) struct KeyState {
    pub(super) acknowledged: Vec<Acknowledged>,
    pub(super) read_floor: Option<usize>,
    pub(super) write_floor: Option<usize>,
    pub(super) origins: HashMap<Stamp, Origin>,
    /// Tombstones that were collected, in the order in which they were.
    pub(super) dead: Vec<Stamp>,
    /// What was deleted because it had expired.
    pub(super) expiries: Vec<Expiry>,
    /// Whether it is used as a register.
    pub(super) is_register: bool,
    /// The value that somebody found there last.
    pub(super) seen: Option<u64>,
}

impl Oracle {
    /// From now on a quorum that meets these holders finds this or greater.
    pub(super) fn oblige(&mut self, key: usize, stamp: Stamp, holders: u32) {
        let Quorums { n, w, r } = self.quorums;
        let state = &mut self.keys[key];
        let new = state.acknowledged.len();
        state.acknowledged.push(Acknowledged { stamp, holders });
        for (floor, quorum) in [(&mut state.read_floor, r), (&mut state.write_floor, w)] {
            let above = floor.is_none_or(|floor| state.acknowledged[floor].stamp < stamp);
            if above && meets(holders, n, quorum) {
                *floor = Some(new);
            }
        }
    }

    /// The greatest entry that was acknowledged before an operation began, and
    /// is held by so many replicas still that each quorum of this size has one
    /// of them.
    pub(super) fn floor_of(&self, index: usize, quorum: usize) -> Option<Stamp> {
        let op = &self.ops[index];
        let key = &self.keys[op.key];
        let floor = if quorum == self.quorums.w && quorum != self.quorums.r {
            op.write_floor
        } else {
            op.read_floor
        }?;
        let n = self.quorums.n;
        let floor = if meets(key.acknowledged[floor].holders, n, quorum) {
            floor
        } else {
            key.floor(op.acknowledged, n, quorum)?
        };
        Some(key.acknowledged[floor].stamp)
    }
}

impl KeyState {
    /// The greatest of the first so many acknowledged entries that every quorum
    /// of this size finds.
    pub(super) fn floor(&self, first: usize, n: usize, quorum: usize) -> Option<usize> {
        let known = self.acknowledged.iter().take(first).enumerate();
        known
            .filter(|(_, acknowledged)| meets(acknowledged.holders, n, quorum))
            .max_by_key(|(_, acknowledged)| acknowledged.stamp)
            .map(|(index, _)| index)
    }
}

/// Whether every quorum of this size has one of these replicas in it.
fn meets(holders: u32, n: usize, quorum: usize) -> bool {
    holders.count_ones() as usize + quorum > n
}
