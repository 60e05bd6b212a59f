//! What a store keeps under a key, and the bytes that it is on disk.

use std::cmp::Ordering;
use std::mem;

use bytes::{Buf, BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Order, Timestamp, Version, WriterId};

/// What a [`Store`](crate::Store) keeps under a key. Stores keep it as it is,
/// and never look into it: which record follows which is decided by
/// [`Change::decide`](crate::Change::decide).
///
/// It is an entry, and where an update ever ran under the key, an *anchor*: the
/// greatest ballot that was [promised](crate::RequestKind::Prepare) there. There can
/// be an anchor without an entry.
///
/// A store in memory keeps the value itself. One on disk keeps the bytes of
/// [`encode`](Self::encode), which are the same for every store:
///
/// | bytes | meaning |
/// |---|---|
/// | 1 | the format of what follows: 1 |
/// | 1 | what it is: 0 for a value, 1 for a tombstone, 2 for no entry, 3 for a value that expires; and 4 more where there is an anchor |
/// | 16 | the anchor, where there is one |
/// | 16 | the entry's version, where there is an entry |
/// | 8 | when it expires, where it does, in milliseconds since the Unix epoch |
/// | the rest | the value |
///
/// A version is its timestamp and its writer, 8 bytes each. Numbers have the most
/// significant byte first. A later release may write another format. It will read this one.
///
/// ```
/// use kvquorum_core::{Entry, Record, Timestamp, Version, WriterId};
///
/// let version = Version { timestamp: Timestamp::MIN, writer: WriterId::new(1) };
/// let record = Record::from(Entry::new(version, "tea"));
/// let mut encoded = Vec::new();
/// record.encode(&mut encoded);
/// assert_eq!(encoded.len(), record.encoded_len());
/// assert_eq!(Record::decode(encoded.into())?, record);
/// # Ok::<(), kvquorum_core::RecordError>(())
/// ```
///
/// Serialized, as it travels, it is a pair: the anchor or none, and the entry or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Parts", try_from = "Parts")]
pub struct Record(Kept);

/// The anchor and the entry.
type Parts = (Option<Version>, Option<Entry>);

impl From<Record> for Parts {
    fn from(record: Record) -> Self {
        (record.anchor(), record.into_entry())
    }
}

impl TryFrom<Parts> for Record {
    type Error = &'static str;

    fn try_from((anchor, entry): Parts) -> Result<Self, Self::Error> {
        Self::new(entry, anchor).ok_or("a record of nothing")
    }
}

// What is rare is apart, so that a record takes no more room than its entry: a
// store in memory may hold millions.

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kept {
    Value { version: Version, value: Bytes },
    Other(Other),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Other {
    Tombstone { version: Version },
    Rare(Box<Rare>),
}

/// What has an anchor, or expires.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rare {
    anchor: Option<Version>,
    entry: Option<Entry>,
}

/// Bytes are not the encoding of a [`Record`]: they are damaged, or of a later
/// release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The bytes end within the record's head.
    #[error("a record of {len} bytes, shorter than any")]
    Short {
        /// How many bytes there are.
        len: usize,
    },
    /// The record's format is not known here. A later release may have written
    /// it.
    #[error("a record of format {format}, which is not known")]
    Format {
        /// The first byte.
        format: u8,
    },
    /// What the record is said to be makes no sense.
    #[error("a record of kind {kind}, which makes no sense here")]
    Kind {
        /// The second byte.
        kind: u8,
    },
}

const FORMAT: u8 = 1;
const VALUE: u8 = 0;
const TOMBSTONE: u8 = 1;
const NO_ENTRY: u8 = 2;
const EXPIRING: u8 = 3;
const ANCHORED: u8 = 4;
const HEAD_LEN: usize = 2;
const EXPIRES_LEN: usize = 8;
const VERSION_LEN: usize = 16;

impl Record {
    /// A record of an entry or none, and an anchor or none; `None` where there is
    /// neither.
    pub(crate) fn new(entry: Option<Entry>, anchor: Option<Version>) -> Option<Self> {
        match anchor {
            None => entry.map(Self::from),
            Some(anchor) => Some(Self::anchored(entry, anchor)),
        }
    }

    #[cold]
    pub(crate) fn anchored(entry: Option<Entry>, anchor: Version) -> Self {
        Self::rare(entry, Some(anchor))
    }

    #[cold]
    fn rare(entry: Option<Entry>, anchor: Option<Version>) -> Self {
        Self(Kept::Other(Other::Rare(Box::new(Rare { anchor, entry }))))
    }

    /// The record of an entry alone.
    #[inline(always)]
    pub(crate) fn of(entry: &Entry) -> Self {
        match &entry.value {
            Some(value) if entry.expires_millis.is_none() => Self(Kept::Value {
                version: entry.version,
                value: value.clone(),
            }),
            _ => Self::of_other(entry),
        }
    }

    #[cold]
    fn of_other(entry: &Entry) -> Self {
        entry.clone().into()
    }

    /// The entry in it, with a reference to the value rather than a copy.
    pub fn entry(&self) -> Option<Entry> {
        self.clone().into_entry()
    }

    /// The entry in it.
    #[inline(always)]
    pub fn into_entry(self) -> Option<Entry> {
        match self.0 {
            Kept::Value { version, value } => Some(Entry {
                version,
                expires_millis: None,
                value: Some(value),
            }),
            Kept::Other(Other::Tombstone { version }) => Some(Entry::tombstone(version)),
            Kept::Other(Other::Rare(rare)) => rare.entry,
        }
    }

    /// The greatest ballot that was promised under the key.
    #[inline]
    pub fn anchor(&self) -> Option<Version> {
        match &self.0 {
            Kept::Other(Other::Rare(rare)) => rare.anchor,
            _ => None,
        }
    }

    /// The version of the entry in it.
    #[inline]
    pub fn version(&self) -> Option<Version> {
        match &self.0 {
            Kept::Value { version, .. } | Kept::Other(Other::Tombstone { version }) => {
                Some(*version)
            }
            Kept::Other(Other::Rare(rare)) => rare.entry.as_ref().map(|entry| entry.version),
        }
    }

    /// Whether it is a value and no more, which does not expire.
    #[inline(always)]
    pub(crate) fn is_only_value(&self) -> bool {
        matches!(self.0, Kept::Value { .. })
    }

    /// Whether it is a value and no more, and less than the entry in another.
    #[inline(always)]
    pub(crate) fn is_value_before(&self, other: &Self) -> bool {
        matches!(self.0, Kept::Value { version, .. } if Some(version) < other.version())
    }

    /// Whether its value has expired, by a clock that reads this.
    pub(crate) fn has_expired(&self, now_millis: u64) -> bool {
        let expires = self.order().and_then(Order::expires_millis);
        expires.is_some_and(|at| at.get() <= now_millis)
    }

    /// Whether its entry is a tombstone.
    pub(crate) fn is_tombstone(&self) -> bool {
        self.order().is_some_and(|order| order.is_tombstone())
    }

    /// What counts of it where tombstones and anchors from before `collected` do not. A
    /// value always does.
    #[cold]
    pub(crate) fn counting(&self, collected: Timestamp) -> Option<Self> {
        let counts = |version: Version| version.timestamp >= collected;
        let anchor = self.anchor().filter(|anchor| counts(*anchor));
        let entry = self.entry();
        let entry = entry.filter(|entry| entry.value.is_some() || counts(entry.version));
        Self::new(entry, anchor)
    }

    /// Compares the entry in it, or none, which is less than any, with that in another.
    #[inline(always)]
    pub(crate) fn compare(&self, other: &Self) -> Ordering {
        match self.version().cmp(&other.version()) {
            Ordering::Equal => self.order().cmp(&other.order()),
            by_version => by_version,
        }
    }

    /// The place of its entry in the order of entries.
    fn order(&self) -> Option<Order<'_>> {
        match &self.0 {
            Kept::Value { version, value } => Some(Order::of(*version, Some(value))),
            Kept::Other(Other::Tombstone { version }) => Some(Order::of(*version, None)),
            Kept::Other(Other::Rare(rare)) => rare.entry.as_ref().map(Entry::order),
        }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        let anchor = self.anchor().map_or(0, |_| VERSION_LEN);
        let order = self.order();
        let entry = order.map_or(0, |it| it.value().len().saturating_add(VERSION_LEN));
        let expires = order.and_then(Order::expires_millis);
        let expires = expires.map_or(0, |_| EXPIRES_LEN);
        entry
            .saturating_add(expires)
            .saturating_add(anchor)
            .saturating_add(HEAD_LEN)
    }

    /// Appends the record's bytes.
    pub fn encode(&self, to: &mut Vec<u8>) {
        to.reserve(self.encoded_len());
        let (anchor, order) = (self.anchor(), self.order());
        let entry = match order {
            None => NO_ENTRY,
            Some(order) if order.is_tombstone() => TOMBSTONE,
            Some(order) if order.expires_millis().is_some() => EXPIRING,
            Some(_) => VALUE,
        };
        to.put_u8(FORMAT);
        to.put_u8(entry | anchor.map_or(0, |_| ANCHORED));
        for version in [anchor, order.map(Order::version)].into_iter().flatten() {
            to.put_u64(version.timestamp.to_bits());
            to.put_u64(version.writer.get());
        }
        if let Some(expires) = order.and_then(Order::expires_millis) {
            to.put_u64(expires.get());
        }
        to.put_slice(order.map_or(&[], Order::value));
    }

    /// The record of these bytes. Its value is a slice of them.
    ///
    /// # Errors
    ///
    /// Where the bytes are not those of a record. A checksum is the store's part:
    /// damage within a value is not noticed here.
    pub fn decode(mut encoded: Bytes) -> Result<Self, RecordError> {
        let len = encoded.len();
        if let Some(format) = encoded.first()
            && *format != FORMAT
        {
            return Err(RecordError::Format { format: *format });
        }
        let kind = *encoded.get(1).ok_or(RecordError::Short { len })?;
        encoded.advance(HEAD_LEN);
        let anchor = match kind & ANCHORED {
            0 => None,
            _ => Some(take_version(&mut encoded, len)?),
        };
        let entry = match kind & !ANCHORED {
            VALUE => {
                let version = take_version(&mut encoded, len)?;
                Some(Entry::new(version, mem::take(&mut encoded)))
            }
            EXPIRING => {
                let version = take_version(&mut encoded, len)?;
                let expires = encoded.try_get_u64();
                let expires = expires.map_err(|_| RecordError::Short { len })?;
                let expires = expires.try_into();
                let expires = expires.map_err(|_| RecordError::Kind { kind })?;
                let entry = Entry::new(version, mem::take(&mut encoded));
                Some(entry.expiring_at(expires))
            }
            TOMBSTONE => Some(Entry::tombstone(take_version(&mut encoded, len)?)),
            NO_ENTRY => None,
            _ => return Err(RecordError::Kind { kind }),
        };
        match Self::new(entry, anchor) {
            Some(record) if encoded.is_empty() => Ok(record),
            _ => Err(RecordError::Kind { kind }),
        }
    }
}

/// The version that the bytes, of which there were `len`, go on with.
fn take_version(encoded: &mut Bytes, len: usize) -> Result<Version, RecordError> {
    let mut number = || {
        encoded
            .try_get_u64()
            .map_err(|_| RecordError::Short { len })
    };
    Ok(Version {
        timestamp: Timestamp::from_bits(number()?),
        writer: WriterId::new(number()?),
    })
}

impl From<Entry> for Record {
    fn from(entry: Entry) -> Self {
        let Entry {
            version,
            expires_millis,
            value,
        } = entry;
        match value {
            Some(value) if expires_millis.is_none() => Self(Kept::Value { version, value }),
            None => Self(Kept::Other(Other::Tombstone { version })),
            value => {
                let entry = Entry {
                    version,
                    expires_millis,
                    value,
                };
                Self::rare(Some(entry), None)
            }
        }
    }
}

#[cfg(test)]
mod tests;
