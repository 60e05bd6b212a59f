//! How replicas compare what they hold without sending it: fingerprints of ranges,
//! and lists of versions.

use std::hash::Hasher;

use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::entry::{Entry, Key, Timestamp, Version};
use crate::range::{KeyRange, Page};

/// What replicas hold is told by few bytes: how many entries, and the sum of their
/// hashes.
///
/// An entry's hash covers its key, its version, its value or that it is a tombstone, and
/// when it expires. It is that of SipHash-1-3 with 128 bits (Aumasson and Bernstein,
/// *SipHash: a fast short-input PRF*, 2012), under a key that whoever asks draws anew
/// for each pass. All numbers are eight bytes, the least first:
///
/// | hashed | bytes |
/// |---|---|
/// | the length of the key | 8 |
/// | the version's timestamp and writer | 16 |
/// | 0 for a tombstone, 1 for a value, 2 for one that expires | 1 |
/// | when it expires, where it does | 8 |
/// | the key, and then the value | as they are |
///
/// The sum is taken modulo 2¹²⁸, so that the fingerprints of neighbouring ranges add
/// up to that of both. With an exclusive or, it would be easy to find a few hundred
/// entries that change nothing.
///
/// # Collisions
///
/// Two ranges that differ have the same fingerprint once in 2¹²⁸ times: then a pass
/// takes them for equal, and the next, under another key, finds the difference. A
/// stranger may choose keys and values, but does not know the key of a hash that
/// they will be under, and sees no sum. So they can't choose them to collide, as
/// they could with a hash without a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// How many entries there are, tombstones included.
    pub count: u64,
    /// The sum of their hashes.
    pub sum: u128,
}

impl Fingerprint {
    /// The fingerprint of one entry.
    pub fn of(hash_key: u128, key: &Key, entry: &Entry) -> Self {
        let mut hasher = SipHasher13::new_with_key(&hash_key.to_le_bytes());
        hasher.write(&(key.len() as u64).to_le_bytes());
        hasher.write(&entry.version.timestamp.to_bits().to_le_bytes());
        hasher.write(&entry.version.writer.get().to_le_bytes());
        match (&entry.value, entry.expires_millis) {
            (None, _) => hasher.write(&[0]),
            (Some(_), None) => hasher.write(&[1]),
            (Some(_), Some(expires)) => {
                hasher.write(&[2]);
                hasher.write(&expires.get().to_le_bytes());
            }
        }
        hasher.write(key.as_bytes());
        if let Some(value) = &entry.value {
            hasher.write(value);
        }
        Self {
            count: 1,
            sum: hasher.finish128().as_u128(),
        }
    }

    /// The fingerprint of what is in either of two ranges.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum: self.sum.wrapping_add(other.sum),
        }
    }
}

/// What [`RequestKind::Fingerprint`](crate::RequestKind::Fingerprint) asks: the
/// fingerprints of the beginning of a range, window by window. Where one window ends
/// the next begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FingerprintRequest {
    /// The range.
    pub range: KeyRange,
    /// The key of the [hash](Fingerprint).
    pub hash_key: u128,
    /// Where windows end, whatever is in them. They ascend, and are in the range
    /// after its first key; others mean nothing.
    pub cuts: Vec<Key>,
    /// The most entries in a window. 0 is taken for 1.
    pub every: u64,
    /// How many records the replica hashes at the most. It has a
    /// [limit](crate::Limits::max_hashed_keys) of its own.
    pub max_keys: u64,
    /// How many bytes of keys and records it hashes at the most, but for the first
    /// record. It has a [limit](crate::Limits::max_hashed_bytes) of its own.
    pub max_bytes: u64,
    /// Tombstones that are stamped before this are left out: a replica may have dropped
    /// them.
    pub collected: Timestamp,
}

/// What [`RequestKind::Versions`](crate::RequestKind::Versions) asks: the versions in
/// the beginning of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionsRequest {
    /// The range.
    pub range: KeyRange,
    /// The key of the [hash](Fingerprint).
    pub hash_key: u128,
    /// How many versions the answer may hold. The replica has a
    /// [limit](crate::Limits::max_scan_keys) of its own.
    pub max_keys: u64,
    /// Tombstones that are stamped before this are left out, as
    /// [of fingerprints](FingerprintRequest::collected).
    pub collected: Timestamp,
}

/// What a replica holds in the beginning of a range, window by window. The last one
/// ends where the replica has done as much as it does for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// How many bytes of keys and records were read for them.
    pub bytes: u64,
    /// One after the other.
    pub windows: Vec<Window>,
    /// Tombstones that are stamped before this are left out: the replica's
    /// [mark](crate::Marks::collected), or [that of the
    /// request](FingerprintRequest::collected) where it is greater.
    pub collected: Timestamp,
    /// Whether reads or writes came meanwhile, as far as the replica [is
    /// told](crate::Replica::count_served).
    pub is_beside_others: bool,
}

/// A part of a range, and what a replica holds there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Where it ends.
    pub end: WindowEnd,
    /// Of the entries in it.
    pub fingerprint: Fingerprint,
}

/// Where a [`Window`] ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WindowEnd {
    /// Before the next of the [cuts](FingerprintRequest::cuts). Who asked knows the key,
    /// so that it is not sent again.
    Cut,
    /// Before this key, which is in the range.
    Before(Key),
    /// Where the range does.
    Range,
}

impl Windows {
    /// Where each window ends: before a key, or where the range does, which is `None`.
    /// There is nothing where these can't be windows of that range, or get nowhere in it.
    pub fn ends(&self, range: &KeyRange, cuts: &[Key]) -> Option<Vec<Option<Key>>> {
        let mut cuts = cuts_of(range, cuts);
        let mut left = Some(range.clone());
        let mut ends = Vec::with_capacity(self.windows.len());
        for window in &self.windows {
            let rest = left.take()?.after_start();
            let end = match &window.end {
                WindowEnd::Cut => Some(cuts.find(|cut| rest.contains(cut))?.clone()),
                WindowEnd::Before(end) => Some(end.clone()),
                WindowEnd::Range => None,
            };
            if let Some(end) = &end {
                left = rest.contains(end).then(|| rest.starting_at(end.clone()));
                left.as_ref()?;
            }
            ends.push(end);
        }
        (!ends.is_empty()).then_some(ends)
    }
}

/// The cuts that mean something: each is in the range after its first key, and after
/// those before it.
pub(crate) fn cuts_of<'a>(
    range: &KeyRange,
    cuts: &'a [Key],
) -> impl Iterator<Item = &'a Key> + use<'a> {
    let mut rest = range.after_start();
    cuts.iter().filter(move |cut| {
        let is_after = rest.contains(cut);
        if is_after {
            rest = rest.after(cut);
        }
        is_after
    })
}

/// The version under a key, and the [hash](Fingerprint) of the entry: where two
/// writers share an id, entries of one version may differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned {
    /// The key.
    pub key: Key,
    /// The version of its entry, a tombstone included.
    pub version: Version,
    /// The hash of its entry.
    pub hash: u128,
}

/// What versions a replica holds in the beginning of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// In ascending order of the keys.
    pub versions: Vec<Versioned>,
    /// How far they go, as [`Page::upto`].
    pub upto: Option<Key>,
    /// The replica's [mark](crate::Marks::collected), as [of an entry](crate::Held).
    pub collected: Timestamp,
    /// As [of fingerprints](Windows::is_beside_others).
    pub is_beside_others: bool,
}

impl Versions {
    /// Whether they can be the versions of this range, and get somewhere in it.
    pub(crate) fn are_of(&self, range: &KeyRange) -> bool {
        let keys = self.versions.iter().map(|it| &it.key);
        Page::is_covered(range, self.upto.as_ref(), keys)
    }
}

#[cfg(test)]
mod tests;
