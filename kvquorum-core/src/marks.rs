//! What a replica keeps of itself: who it is, and its marks.

use std::fmt;
use std::num::NonZeroU64;

use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Timestamp, Version, WriterId};
use crate::identity::ReplicaId;
use crate::record::Record;
use crate::request::Refusal;

/// Which losses of data replicas know of. Each [rejoin](crate::Coordinator::rejoin)
/// begins an era, which is greater than all before. A coordinator's requests say which
/// era they are of, and a replica answers none of an older one: what counts together
/// comes from one era.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "NonZeroU64", into = "NonZeroU64")]
pub struct Era(NonZeroU64);

impl Era {
    /// That of replicas none of which is known to have lost its data.
    pub const FIRST: Self = Self(NonZeroU64::MIN);
    /// The last one that there can be: a replica keeps two numbers for each.
    const LAST: Self = match NonZeroU64::new(u64::MAX >> 1) {
        Some(last) => Self(last),
        None => Self::FIRST,
    };

    /// The era of this number; the last one where there is none.
    pub const fn new(number: NonZeroU64) -> Self {
        if number.get() > Self::LAST.get() {
            return Self::LAST;
        }
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// Whether rejoins can have led from this one to another. Each begins the next, and
    /// there are not so many in the life of any cluster.
    pub(crate) fn reaches(self, other: Self) -> bool {
        other.get().saturating_sub(self.get()) <= 1 << 32
    }

    /// The one after it; `None` after the last.
    pub(crate) fn next(self) -> Option<Self> {
        let next = self.0.checked_add(1)?;
        (next <= Self::LAST.0).then_some(Self(next))
    }
}

impl From<NonZeroU64> for Era {
    fn from(number: NonZeroU64) -> Self {
        Self::new(number)
    }
}

impl From<Era> for NonZeroU64 {
    fn from(era: Era) -> Self {
        era.0
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a replica keeps of itself, as safe as what it keeps under keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The era that it is in.
    pub era: Era,
    /// The greatest era that was announced to it, in force or not.
    pub announced: Era,
    /// Whether it has yet to copy what its peers hold: it lost its data, or is new. Until
    /// then it answers nothing.
    pub is_joining: bool,
    /// It takes no new entry and no ballot that is stamped before this (rule G-SEAL).
    pub sealed: Timestamp,
    /// Every replica holds at least the greatest entry under each key that was stamped
    /// before this. Tombstones and anchors from before it count no more, and may be gone
    /// (rule G-COLLECT). It is at most [`sealed`](Self::sealed).
    pub collected: Timestamp,
}

impl Marks {
    /// Those of a replica that has just begun.
    pub fn new(is_joining: bool) -> Self {
        Self {
            era: Era::FIRST,
            announced: Era::FIRST,
            is_joining,
            sealed: Timestamp::MIN,
            collected: Timestamp::MIN,
        }
    }

    /// Why requests are not answered that are not of this era.
    pub(crate) fn refusal(&self) -> Refusal {
        match self.is_joining {
            true => Refusal::Joining {
                has_begun: self.has_begun(),
            },
            false => Refusal::Stale { era: self.era },
        }
    }

    /// Whether it is joining, and has begun to copy.
    pub(crate) fn has_begun(&self) -> bool {
        self.is_joining && self.era > Era::FIRST
    }

    fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.put_u8(FORMAT);
        bytes.put_u8(self.is_joining.into());
        bytes.put_u64(self.era.get());
        bytes.put_u64(self.announced.get());
        bytes.put_u64(self.sealed.to_bits());
        bytes.put_u64(self.collected.to_bits());
        bytes.into()
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        // As it was kept before there were marks.
        if bytes.is_empty() {
            return Some(Self::new(false));
        }
        let is_joining = match (bytes.try_get_u8().ok()?, bytes.try_get_u8().ok()?) {
            (FORMAT, 0) => false,
            (FORMAT, 1) => true,
            _ => return None,
        };
        let mut number = || bytes.try_get_u64().ok();
        let mut era = || Some(Era::new(number()?.try_into().ok()?));
        let (era, announced) = (era()?, era()?);
        let mut timestamp = || Some(Timestamp::from_bits(number()?));
        let (sealed, collected) = (timestamp()?, timestamp()?);
        bytes.is_empty().then_some(Self {
            era,
            announced,
            is_joining,
            sealed,
            collected,
        })
    }
}

const FORMAT: u8 = 1;
const LEN: usize = 34;

/// Who a replica is, and its marks: what its store keeps under the empty key.
///
/// The record is that of an entry, whose writer is the replica's id, and whose value
/// is the marks: a byte for their format, 1; a byte that is 1 where it is joining, else
/// 0; the era, the announced era, and the timestamps of `sealed` and `collected`, 8 bytes
/// each, most significant byte first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) id: ReplicaId,
    pub(crate) marks: Marks,
}

impl Own {
    /// `None` where the record is not one that this release can read.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let Entry { version, value, .. } = record.entry()?;
        Some(Self {
            id: ReplicaId::new(version.writer.get().try_into().ok()?),
            marks: Marks::decode(&value?)?,
        })
    }

    pub(crate) fn record(&self) -> Record {
        let version = Version {
            timestamp: Timestamp::MIN,
            writer: WriterId::new(self.id.get()),
        };
        Entry::new(version, self.marks.encode()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: marks change on their way to the disk and back, or damage is taken for
    /// marks; what an earlier release has kept is taken for a loss.
    #[test]
    fn marks_come_back_as_they_were() {
        let era = |number: u64| Era::new(number.try_into().unwrap());
        for is_joining in [false, true] {
            let marks = Marks {
                era: era(3),
                announced: era(u64::MAX),
                is_joining,
                sealed: Timestamp::from_bits(9 << 40),
                collected: Timestamp::from_bits(7),
            };
            let own = Own {
                id: ReplicaId::new(NonZeroU64::MAX),
                marks,
            };
            assert_eq!(Own::of(&own.record()), Some(own));
            let bytes = marks.encode();
            assert_eq!(bytes.len(), LEN);
            for cut in 1..LEN {
                assert_eq!(Marks::decode(&bytes[..cut]), None);
            }
            assert_eq!(Marks::decode(&[&bytes[..], &[0]].concat()), None);
        }
        assert_eq!(Marks::decode(&[]), Some(Marks::new(false)));
        assert_eq!(Marks::decode(&[2; LEN]), None);
    }
}
