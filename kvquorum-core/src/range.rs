//! Ranges of keys, and pages of what is in them.

use std::ops::{
    Bound, Range, RangeBounds, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Key, Timestamp};

/// A range of keys, in the order of their bytes: from one key on, up to another,
/// which is not in it.
///
/// Made of Rust's ranges, or of a prefix:
///
/// ```
/// use kvquorum_core::{Key, KeyRange};
///
/// let range = KeyRange::from("a".."c");
/// assert!(range.contains(&Key::from("bob")) && !range.contains(&Key::from("c")));
/// assert!(KeyRange::from("a"..="c").contains(&Key::from("c")));
/// assert!(KeyRange::from(..).contains(&Key::from("any")));
/// let users = KeyRange::prefix("users/");
/// assert_eq!(users, KeyRange::from("users/".."users0"));
/// ```
///
/// What is left of a [`Scan`](crate::Scan) is a range too: it can be kept, in any
/// format of serde, and scanned later, by another process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyRange {
    from: Key,
    to: Option<Key>,
}

impl KeyRange {
    /// The keys within these bounds.
    pub fn new(bounds: impl RangeBounds<Key>) -> Self {
        let from = match bounds.start_bound() {
            Bound::Included(from) => from.clone(),
            Bound::Excluded(before) => after(before),
            Bound::Unbounded => Key::from(Bytes::new()),
        };
        let to = match bounds.end_bound() {
            Bound::Included(last) => Some(after(last)),
            Bound::Excluded(to) => Some(to.clone()),
            Bound::Unbounded => None,
        };
        Self { from, to }
    }

    /// The keys that begin with these bytes.
    pub fn prefix(prefix: impl Into<Key>) -> Self {
        let from = prefix.into();
        // The next greater string of bytes that does not begin with them: none
        // where they are all 255.
        let bytes = from.as_bytes();
        let kept = bytes.iter().rposition(|byte| *byte != u8::MAX);
        let to = kept.and_then(|last| {
            let mut to = bytes.get(..=last)?.to_vec();
            let last = to.last_mut()?;
            *last = last.saturating_add(1);
            Some(Key::from(to))
        });
        Self { from, to }
    }

    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| self.from >= *to)
    }

    /// Whether a key is in it.
    pub fn contains(&self, key: &Key) -> bool {
        RangeBounds::contains(self, key)
    }

    /// The keys that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let to = match (&self.to, &other.to) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.as_ref().or(other.as_ref()),
        };
        Self {
            from: self.from.clone().max(other.from.clone()),
            to: to.cloned(),
        }
    }

    /// What of it is left from this key on.
    pub(crate) fn starting_at(&self, from: Key) -> Self {
        let to = self.to.clone();
        Self { from, to }
    }

    /// The first key that it can hold.
    pub(crate) fn start(&self) -> &Key {
        &self.from
    }

    /// The key before which it ends; `None` where it has no end.
    pub(crate) fn end(&self) -> Option<&Key> {
        self.to.as_ref()
    }

    /// What of it is before this key, or all of it.
    pub(crate) fn before(&self, to: Option<&Key>) -> Self {
        let from = self.from.clone();
        let to = to.or(self.to.as_ref()).cloned();
        Self { from, to }
    }

    /// All of it but the first key that it can hold.
    pub(crate) fn after_start(&self) -> Self {
        self.after(&self.from)
    }

    /// What of it is left after this key.
    pub(crate) fn after(&self, key: &Key) -> Self {
        self.starting_at(after(key))
    }
}

/// The least key that is greater.
pub(crate) fn after(key: &Key) -> Key {
    let bytes = key.as_bytes();
    let mut next = Vec::with_capacity(bytes.len().saturating_add(1));
    next.extend_from_slice(bytes);
    next.push(0);
    Key::from(next)
}

impl RangeBounds<Key> for KeyRange {
    fn start_bound(&self) -> Bound<&Key> {
        Bound::Included(&self.from)
    }

    fn end_bound(&self) -> Bound<&Key> {
        self.to.as_ref().map_or(Bound::Unbounded, Bound::Excluded)
    }
}

impl From<RangeFull> for KeyRange {
    fn from(_: RangeFull) -> Self {
        Self::new(..)
    }
}

impl<K: Into<Key>> From<(Bound<K>, Bound<K>)> for KeyRange {
    fn from((from, to): (Bound<K>, Bound<K>)) -> Self {
        Self::new((from.map(Into::into), to.map(Into::into)))
    }
}

impl<K: Into<Key>> From<Range<K>> for KeyRange {
    fn from(range: Range<K>) -> Self {
        Self::new(range.start.into()..range.end.into())
    }
}

impl<K: Into<Key>> From<RangeFrom<K>> for KeyRange {
    fn from(range: RangeFrom<K>) -> Self {
        Self::new(range.start.into()..)
    }
}

impl<K: Into<Key>> From<RangeTo<K>> for KeyRange {
    fn from(range: RangeTo<K>) -> Self {
        Self::new(..range.end.into())
    }
}

impl<K: Into<Key>> From<RangeInclusive<K>> for KeyRange {
    fn from(range: RangeInclusive<K>) -> Self {
        let (first, last) = range.into_inner();
        Self::new(first.into()..=last.into())
    }
}

impl<K: Into<Key>> From<RangeToInclusive<K>> for KeyRange {
    fn from(range: RangeToInclusive<K>) -> Self {
        Self::new(..=range.end.into())
    }
}

/// What a replica holds in the beginning of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// In ascending order of the keys, tombstones included: what is deleted here
    /// may be a value elsewhere, and a reader has to see which is greater.
    pub entries: Vec<(Key, Entry)>,
    /// How far the page goes, whatever it found: all that the replica holds in the
    /// range before this key, which is in the range, is in `entries`. `None` says
    /// that this is all in the range.
    pub upto: Option<Key>,
    /// The replica's [mark](crate::Marks::collected), as [of an entry](crate::Held).
    pub collected: Timestamp,
}

impl Page {
    /// Whether it can be a page of this range, and gets somewhere in it.
    pub(crate) fn is_of(&self, range: &KeyRange) -> bool {
        let keys = self.entries.iter().map(|(key, _)| key);
        Self::is_covered(range, self.upto.as_ref(), keys)
    }

    /// Whether a page with these keys, up to there, can be of this range, and gets
    /// somewhere in it.
    pub(crate) fn is_covered<'a>(
        range: &KeyRange,
        upto: Option<&Key>,
        keys: impl Iterator<Item = &'a Key> + Clone,
    ) -> bool {
        if upto.is_some_and(|upto| *upto <= range.from || !range.contains(upto)) {
            return false;
        }
        let covered = range.before(upto);
        keys.clone().is_sorted_by(|one, next| one < next)
            && keys.into_iter().all(|key| covered.contains(key))
    }

    /// Whether it tells of a key of its range.
    pub(crate) fn covers(upto: Option<&Key>, key: &Key) -> bool {
        upto.is_none_or(|upto| key < upto)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::{Strategy, prop_assert_eq, proptest};

    use super::*;
    use crate::entry::{Timestamp, Version, WriterId};

    /// Few different bytes, so that keys are neighbours.
    fn keys() -> impl Strategy<Value = Key> {
        let bytes = proptest::sample::select(vec![0, 1, 0xfe, 0xff]);
        vec(bytes, 0..4).prop_map(Key::from)
    }

    proptest! {
        /// Bugs: an end that is excluded is in it, or the other way round; a key
        /// between one and the next greater is forgotten.
        #[test]
        fn a_range_holds_what_its_bounds_hold(from in keys(), to in keys(), key in keys()) {
            let bounds = [Bound::Included, Bound::Excluded, |_| Bound::Unbounded];
            for start in bounds {
                for end in bounds {
                    let bounds = (start(from.clone()), end(to.clone()));
                    let range = KeyRange::from(bounds.clone());
                    prop_assert_eq!(range.contains(&key), RangeBounds::contains(&bounds, &key));
                    prop_assert_eq!(range.is_empty() && range.contains(&key), false);
                }
            }
        }

        /// Bug: the end of a prefix is that of another, where its last byte is 255.
        #[test]
        fn a_prefix_holds_what_begins_with_it(prefix in keys(), key in keys()) {
            let begins = key.as_bytes().starts_with(prefix.as_bytes());
            prop_assert_eq!(KeyRange::prefix(prefix).contains(&key), begins);
        }

        /// Bug: a bound is taken from the wrong one of the two.
        #[test]
        fn an_intersection_holds_what_both_hold(
            (one, two, three, four) in (keys(), keys(), keys(), keys()),
            key in keys(),
        ) {
            let ranges = [KeyRange::from(one.clone()..two), KeyRange::from(three..), (..four).into()];
            for one in &ranges {
                for other in &ranges {
                    let both = one.contains(&key) && other.contains(&key);
                    prop_assert_eq!(one.intersection(other).contains(&key), both);
                }
            }
        }
    }

    /// Bugs: a page that gets nowhere is taken, and asked for again for ever; so is
    /// one with keys that are out of order, or beyond the range or `upto`.
    #[test]
    fn only_pages_that_fit_are_taken() {
        let version = Version {
            timestamp: Timestamp::MIN,
            writer: WriterId::new(1),
        };
        let range = KeyRange::from("b".."f");
        let is_taken = |keys: &[&str], upto: Option<&str>| {
            let entry = |key: &&str| (Key::from(*key), Entry::tombstone(version));
            let entries = keys.iter().map(entry).collect();
            let upto = upto.map(Key::from);
            Page {
                entries,
                upto,
                collected: Timestamp::MIN,
            }
            .is_of(&range)
        };
        assert!(is_taken(&["b", "c"], Some("d")));
        assert!(is_taken(&[], Some("c")));
        assert!(is_taken(&["b", "e"], None));
        assert!(is_taken(&[], None));
        assert!(!is_taken(&[], Some("b")));
        assert!(!is_taken(&[], Some("a")));
        assert!(!is_taken(&[], Some("f")));
        assert!(!is_taken(&["c", "b"], None));
        assert!(!is_taken(&["c", "c"], None));
        assert!(!is_taken(&["a"], None));
        assert!(!is_taken(&["f"], None));
        assert!(!is_taken(&["d"], Some("d")));
    }
}
