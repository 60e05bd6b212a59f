//! The way from a key's hash to its slot.

/// Numbers of slots by the hashes of their keys: an open-addressed table with
/// linear probing. It doubles when more than three quarters of it are taken, and
/// halves when less than a quarter is.
///
/// `hashbrown::HashTable<u32>` has its control bytes in one place and the numbers in
/// another. That is a cache miss more before a slot can be read, and made reads
/// of a million keys 15 % slower. Here a bucket is one word. It holds enough of
/// the hash for the table to be laid out anew without a look at the keys.
#[derive(Default)]
pub(super) struct Index {
    /// None, or a power of two. At least a quarter is vacant.
    buckets: Vec<Bucket>,
    len: usize,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Of the key's hash.
    tag: u32,
    number: u32,
}

/// Its number is that of no slot.
const VACANT: Bucket = Bucket {
    tag: 0,
    number: NO_SLOT,
};

/// The number that no slot may have.
pub(super) const NO_SLOT: u32 = u32::MAX;

const LEAST_BUCKETS: usize = 8;

impl Index {
    /// How many numbers there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The number that is the right one, of those with this hash.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let place = self.place(hash, is_it)?;
        Some(self.buckets.get(place)?.number)
    }

    /// Adds a number that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, number: u32) {
        self.len = self.len.saturating_add(1);
        let quarter = self.buckets.len() / 4;
        if self.len > self.buckets.len().saturating_sub(quarter) {
            let more = self.buckets.len().saturating_mul(2);
            self.resize(more.max(LEAST_BUCKETS));
        }
        self.put(Bucket {
            tag: tag(hash),
            number,
        });
    }

    /// Takes a number away.
    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let Some(mut vacant) = self.place(hash, |found| found == number) else {
            return;
        };
        self.len = self.len.saturating_sub(1);
        // What was put behind it because it was there moves forward.
        let mut place = vacant;
        loop {
            place = self.next(place);
            let bucket = self.bucket(place);
            if bucket.number == NO_SLOT {
                break;
            }
            if self.steps(self.home(bucket.tag), place) >= self.steps(vacant, place) {
                self.set(vacant, bucket);
                vacant = place;
            }
        }
        self.set(vacant, VACANT);
        if self.len < self.buckets.len() / 4 && self.buckets.len() > LEAST_BUCKETS {
            self.resize(self.buckets.len() / 2);
        }
    }

    /// Puts another number in the place of one.
    pub(super) fn replace(&mut self, hash: u64, number: u32, by: u32) {
        let place = self.place(hash, |found| found == number);
        if let Some(bucket) = place.and_then(|place| self.buckets.get_mut(place)) {
            bucket.number = by;
        }
    }

    fn place(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<usize> {
        let tag = tag(hash);
        let mut place = self.home(tag);
        loop {
            let bucket = self.buckets.get(place)?;
            if bucket.tag == tag && bucket.number != NO_SLOT && is_it(bucket.number) {
                return Some(place);
            }
            if bucket.number == NO_SLOT {
                return None;
            }
            place = self.next(place);
        }
    }

    /// Lays all numbers out in so many buckets, a power of two.
    fn resize(&mut self, count: usize) {
        let buckets = std::mem::replace(&mut self.buckets, vec![VACANT; count]);
        for bucket in buckets {
            if bucket.number != NO_SLOT {
                self.put(bucket);
            }
        }
    }

    fn put(&mut self, bucket: Bucket) {
        let mut place = self.home(bucket.tag);
        while self.bucket(place).number != NO_SLOT {
            place = self.next(place);
        }
        self.set(place, bucket);
    }

    /// Where a number is put, unless another is there.
    fn home(&self, tag: u32) -> usize {
        tag as usize & self.mask()
    }

    fn next(&self, place: usize) -> usize {
        place.wrapping_add(1) & self.mask()
    }

    /// How many steps it takes from one place to another.
    fn steps(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.mask()
    }

    fn mask(&self) -> usize {
        self.buckets.len().wrapping_sub(1)
    }

    fn bucket(&self, place: usize) -> Bucket {
        self.buckets.get(place).copied().unwrap_or(VACANT)
    }

    fn set(&mut self, place: usize, to: Bucket) {
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket = to;
        }
    }
}

fn tag(hash: u64) -> u32 {
    hash as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Bugs: a table that does not get smaller with what it holds, or loses some of it
    /// then; one that is laid out anew at every other step.
    #[test]
    fn it_is_as_large_as_it_needs_to_be() {
        let mut index = Index::default();
        let hash = |number: u32| u64::from(number).wrapping_mul(0x9E37_79B9);
        for number in 0..10_000 {
            index.insert(hash(number), number);
        }
        for number in 0..10_000 {
            let before = index.buckets.len();
            index.remove(hash(number), number);
            let left = 9_999 - number as usize;
            let most = (left * 4).max(LEAST_BUCKETS);
            assert!(index.buckets.len() <= most.next_power_of_two());
            if index.buckets.len() < before {
                for held in number + 1..10_000 {
                    assert!(index.find(hash(held), |found| found == held).is_some());
                }
                // It is not one more or less that decides.
                let resized = index.buckets.len();
                index.insert(hash(number), number);
                index.remove(hash(number), number);
                assert_eq!(index.buckets.len(), resized);
            }
        }
        assert_eq!(index.buckets.len(), LEAST_BUCKETS);
    }

    /// Bugs: a removal that loses what stood behind it, at the end of the table
    /// too; growth that loses numbers. Hashes are few, so that all of them collide.
    #[test]
    fn it_holds_what_a_map_holds() {
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        for hashes in [1, 3, 20, 1_000] {
            let (mut index, mut map) = (Index::default(), BTreeMap::new());
            for step in 0..2_000 {
                let number = draw(60) as u32;
                let hash = |number: u32| u64::from(number).wrapping_mul(0x9E37_79B9) % hashes;
                match map.remove(&number) {
                    Some(()) if draw(3) == 0 => {
                        let other = number + 100 + step;
                        index.replace(hash(number), number, other);
                        assert!(index.find(hash(number), |found| found == number).is_none());
                        index.replace(hash(number), other, number);
                        map.insert(number, ());
                    }
                    Some(()) => index.remove(hash(number), number),
                    None => {
                        index.insert(hash(number), number);
                        map.insert(number, ());
                    }
                }
                assert_eq!(index.len(), map.len());
                for number in 0..60 {
                    let found = index.find(hash(number), |found| found == number);
                    assert_eq!(found.is_some(), map.contains_key(&number));
                }
            }
        }
    }
}
