//! What is stored under a key, and the order that decides which entry wins.
//!
//! This module knows no clock, no store and no network: entries are plain
//! values with a total order, and merging two of them is taking the greater.

use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU64;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::random;

/// A key: any bytes.
///
/// Replicas bound its length, and refuse the empty key (see
/// [`Limits`](crate::Limits)). Cloning counts a reference and copies nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Bytes);

impl Key {
    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key's bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the key has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// So that an ordered map of keys can be searched by bytes.
impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Self {
        Self(Bytes::copy_from_slice(key.as_bytes()))
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(key))
    }
}

impl<const LEN: usize> From<&[u8; LEN]> for Key {
    fn from(key: &[u8; LEN]) -> Self {
        Self(Bytes::copy_from_slice(key))
    }
}

impl From<String> for Key {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

impl From<&String> for Key {
    fn from(key: &String) -> Self {
        Self::from(key.as_str())
    }
}

impl From<Vec<u8>> for Key {
    fn from(key: Vec<u8>) -> Self {
        Self(key.into())
    }
}

impl From<Bytes> for Key {
    fn from(key: Bytes) -> Self {
        Self(key)
    }
}

/// As text, with bytes that are not printable ASCII escaped.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key(\"{self}\")")
    }
}

/// A hybrid-logical-clock timestamp in one `u64`: 48 bits of milliseconds
/// since the Unix epoch (enough until the year 10889), then 16 bits of counter.
///
/// The layout is that of Kulkarni et al., *Logical Physical Clocks* (2014),
/// section 6.2, with milliseconds for NTP fractions. A counter that runs over
/// carries into the milliseconds, so the next timestamp is always the next
/// number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    const COUNTER_BITS: u32 = 16;

    /// The greatest number of milliseconds that a timestamp holds: 2⁴⁸ − 1.
    pub const MAX_MILLIS: u64 = u64::MAX >> Self::COUNTER_BITS;

    /// The least timestamp: the Unix epoch, counter 0.
    pub const MIN: Self = Self(0);

    /// The greatest timestamp.
    pub const MAX: Self = Self(u64::MAX);

    /// The timestamp of these milliseconds since the Unix epoch and this
    /// counter; `None` beyond [`MAX_MILLIS`](Self::MAX_MILLIS).
    pub const fn new(millis: u64, counter: u16) -> Option<Self> {
        if millis <= Self::MAX_MILLIS {
            Some(Self((millis << Self::COUNTER_BITS) | counter as u64))
        } else {
            None
        }
    }

    /// As [`new`](Self::new) with counter 0, but beyond
    /// [`MAX_MILLIS`](Self::MAX_MILLIS) the greatest milliseconds there are.
    pub(crate) fn saturating_from_millis(millis: u64) -> Self {
        Self(millis.min(Self::MAX_MILLIS) << Self::COUNTER_BITS)
    }

    /// The timestamp whose 64 bits these are. Every number is a timestamp.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// All 64 bits: milliseconds, then counter.
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch.
    pub const fn millis(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The counter within the millisecond.
    pub const fn counter(self) -> u16 {
        (self.0 & u16::MAX as u64) as u16
    }

    /// The next greater timestamp; `None` after [`MAX`](Self::MAX).
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }
}

/// As `milliseconds.counter`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.millis(), self.counter())
    }
}

/// Who wrote an entry: tells apart two writers that stamp the same moment.
///
/// Random unless the application names its writers. Should two writers share
/// an id, nothing breaks: entries are ordered beyond their versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriterId(u64);

impl WriterId {
    /// The writer that has no name: writes that bring their own timestamp,
    /// such as those of the plain HTTP face.
    pub const ANONYMOUS: Self = Self(0);

    /// The writer of this number.
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// A random writer, from the operating system's randomness.
    pub fn random() -> Self {
        Self(random::number())
    }

    /// The writer's number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// In hexadecimal.
impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// When and by whom an entry was written. Ordered by timestamp, then writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// When, by the writer's clock.
    pub timestamp: Timestamp,
    /// By whom.
    pub writer: WriterId,
}

/// As `timestamp@writer`.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.timestamp, self.writer)
    }
}

/// What is stored under a key: a version, and a value or a tombstone.
///
/// Entries are totally ordered: by version, then a tombstone over a value,
/// then by the value's bytes, then by when they expire. Merging two entries is taking the maximum in that
/// order, and so commutative, associative and idempotent: replicas that have
/// seen the same entries hold the same entry, in whatever order they came.
/// It is the last-write-wins register of Shapiro et al., *A comprehensive
/// study of Convergent and Commutative Replicated Data Types* (2011),
/// section 3.2.1, made total so that it converges even where two writers were
/// given the same id by mistake.
///
/// ```
/// use kvquorum_core::{Entry, Timestamp, Version, WriterId};
///
/// let writer = WriterId::new(7);
/// let at = |millis| Version { timestamp: Timestamp::new(millis, 0).unwrap(), writer };
/// let old = Entry::new(at(1), "tea");
/// let new = Entry::new(at(2), "coffee");
/// assert!(new > old);
/// assert!(Entry::tombstone(at(2)) > new);
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Decides which of two entries wins.
    pub version: Version,
    /// From when on the value reads as absent, in milliseconds since the Unix epoch;
    /// `None` where it never does (rule X-HIDE). A tombstone has none.
    pub expires_millis: Option<NonZeroU64>,
    /// The value; `None` is a tombstone, the entry that a delete writes.
    pub value: Option<Bytes>,
}

impl Entry {
    /// An entry with a value.
    pub fn new(version: Version, value: impl Into<Bytes>) -> Self {
        Self {
            version,
            expires_millis: None,
            value: Some(value.into()),
        }
    }

    /// The same, if it expires at this time, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn expiring_at(mut self, millis: NonZeroU64) -> Self {
        if self.value.is_some() {
            self.expires_millis = Some(millis);
        }
        self
    }

    /// An entry that says the key was deleted.
    pub const fn tombstone(version: Version) -> Self {
        Self {
            version,
            expires_millis: None,
            value: None,
        }
    }

    /// Whether its value has expired, by a clock that reads so many milliseconds since
    /// the Unix epoch.
    #[inline]
    pub fn has_expired(&self, now_millis: u64) -> bool {
        self.expires_millis.is_some_and(|at| at.get() <= now_millis)
    }

    /// Its place in the order of entries.
    #[inline]
    pub(crate) fn order(&self) -> Order<'_> {
        let expires_millis = self.value.as_ref().and(self.expires_millis);
        Order {
            expires_millis,
            ..Order::of(self.version, self.value.as_ref())
        }
    }
}

/// The place of an entry in the order of entries: its parts, the most significant
/// first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order<'a> {
    version: Version,
    is_tombstone: bool,
    value: &'a [u8],
    expires_millis: Option<NonZeroU64>,
}

impl<'a> Order<'a> {
    #[inline]
    pub(crate) fn of(version: Version, value: Option<&'a Bytes>) -> Self {
        Self {
            version,
            is_tombstone: value.is_none(),
            value: value.map_or(&[], |value| value),
            expires_millis: None,
        }
    }

    pub(crate) fn expires_millis(self) -> Option<NonZeroU64> {
        self.expires_millis
    }

    pub(crate) fn version(self) -> Version {
        self.version
    }

    pub(crate) fn is_tombstone(self) -> bool {
        self.is_tombstone
    }

    /// The value's bytes; none of a tombstone.
    pub(crate) fn value(self) -> &'a [u8] {
        self.value
    }
}

impl Ord for Entry {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The version and the length of the value: values can be large, or secret.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "Entry({}, {} bytes)", self.version, value.len()),
            None => write!(f, "Entry({}, tombstone)", self.version),
        }
    }
}
