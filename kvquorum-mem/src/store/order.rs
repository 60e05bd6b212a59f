//! The order of a shard's keys.

use std::ops::Bound;

use super::give_back;
use super::slots::Slots;

/// How many numbers lie in one block at most: an insertion moves half of them,
/// 512 bytes.
const BLOCK: usize = 256;

/// A block with fewer is put together with one beside it, where both together are no
/// more than half a block.
const FEW: usize = BLOCK / 4;

/// The numbers of all slots, in ascending order of their keys: a B-tree of two
/// levels. It costs a slot five bytes or so, where a tree of keys would cost it
/// the key once more.
#[derive(Default)]
pub(super) struct Order {
    /// None is empty.
    blocks: Vec<Vec<u32>>,
}

/// A block, and a place in it.
type Place = (usize, usize);

impl Order {
    /// Adds a slot whose key is not there yet.
    pub(super) fn insert(&mut self, number: u32, slots: &Slots) {
        let (Ok((at, place)) | Err((at, place))) = self.find(slots.key(number), slots);
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(vec![number]);
            return;
        };
        block.insert(place, number);
        if block.len() == BLOCK {
            let greater = block.split_off(BLOCK / 2);
            // The rest of the capacity is what the next insertions need.
            self.blocks.insert(at.saturating_add(1), greater);
        }
    }

    /// Takes a key away. Its slot is still there.
    pub(super) fn remove(&mut self, key: &[u8], slots: &Slots) {
        if let Ok((at, place)) = self.find(key, slots)
            && let Some(block) = self.blocks.get_mut(at)
        {
            block.remove(place);
            give_back(block);
            if block.len() < FEW {
                self.merge(at);
            }
        }
    }

    /// Puts a block of few numbers together with the one before it, or the first with
    /// the next.
    fn merge(&mut self, at: usize) {
        let at = at.saturating_sub(1);
        if let Some([block, next, ..]) = self.blocks.get_mut(at..)
            && (block.len().saturating_add(next.len()) <= BLOCK / 2
                || block.is_empty()
                || next.is_empty())
        {
            block.append(next);
            self.blocks.remove(at.saturating_add(1));
        } else if let [only] = self.blocks.as_slice()
            && only.is_empty()
        {
            self.blocks.pop();
        }
        give_back(&mut self.blocks);
    }

    /// Puts another number in the place of a key's.
    pub(super) fn replace(&mut self, key: &[u8], by: u32, slots: &Slots) {
        if let Ok((at, place)) = self.find(key, slots)
            && let Some(number) = self
                .blocks
                .get_mut(at)
                .and_then(|block| block.get_mut(place))
        {
            *number = by;
        }
    }

    /// The numbers from a key on.
    pub(super) fn from(&self, from: Bound<&[u8]>, slots: &Slots) -> impl Iterator<Item = u32> {
        let (at, place) = match from {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) => match self.find(key, slots) {
                Ok(place) | Err(place) => place,
            },
            Bound::Excluded(key) => match self.find(key, slots) {
                Ok((at, place)) => (at, place.saturating_add(1)),
                Err(place) => place,
            },
        };
        let blocks = self.blocks.get(at..).unwrap_or_default();
        blocks.iter().flatten().skip(place).copied()
    }

    /// Where a key is, or else where it would be.
    fn find(&self, key: &[u8], slots: &Slots) -> Result<Place, Place> {
        let starts_after = |block: &Vec<u32>| {
            let first = block.first();
            first.is_some_and(|first| slots.key(*first) > key)
        };
        let after = self.blocks.partition_point(|block| !starts_after(block));
        let at = after.saturating_sub(1);
        let Some(block) = self.blocks.get(at) else {
            return Err((at, 0));
        };
        match block.binary_search_by(|number| slots.key(*number).cmp(key)) {
            Ok(place) => Ok((at, place)),
            Err(place) => Err((at, place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::Slot;
    use super::*;
    use kvquorum_core::{Entry, Record, Timestamp, Version, WriterId};

    const KEYS: u32 = 4_000;

    fn key(number: u32) -> Vec<u8> {
        format!("{number:05}").into()
    }

    /// All slots hold keys in the order of their numbers.
    fn slots() -> Slots {
        let version = Version {
            timestamp: Timestamp::MIN,
            writer: WriterId::new(1),
        };
        let mut slots = Slots::default();
        for number in 0..KEYS {
            let record = Record::from(Entry::tombstone(version));
            let key = key(number).as_slice().into();
            slots.push(Slot { key, record });
        }
        slots
    }

    fn all(order: &Order, slots: &Slots) -> Vec<u32> {
        order.from(Bound::Unbounded, slots).collect()
    }

    /// Bugs: blocks in the wrong order after one was split; a block that became
    /// empty hides others; a bound that is off by one, in particular where blocks
    /// meet.
    #[test]
    fn numbers_are_in_the_order_of_keys() {
        let (mut order, slots) = (Order::default(), slots());
        let mut expected: Vec<u32> = (0..KEYS).collect();
        for number in &expected {
            // Coprime to the number of keys.
            order.insert(number * 2_743 % KEYS, &slots);
        }
        assert_eq!(all(&order, &slots), expected);
        for from in 0..KEYS {
            let next = |bound| order.from(bound, &slots).next();
            let bytes = key(from);
            assert_eq!(next(Bound::Included(&bytes)), Some(from));
            let after = Some(from + 1).filter(|after| *after < KEYS);
            assert_eq!(next(Bound::Excluded(&bytes)), after);
        }

        for number in 1_000..3_000 {
            order.remove(&key(number), &slots);
        }
        expected.drain(1_000..3_000);
        assert_eq!(all(&order, &slots), expected);
        // Fewer than half of them are left in each block, were they not put together.
        let blocks = order.blocks.len();
        for number in (0..KEYS).filter(|number| number % 8 != 0) {
            order.remove(&key(number), &slots);
        }
        let eighth: Vec<u32> = expected.iter().copied().filter(|it| it % 8 == 0).collect();
        assert_eq!(all(&order, &slots), eighth);
        assert!(order.blocks.len() < blocks / 2, "{}", order.blocks.len());
        for number in expected.iter().rev().filter(|number| *number % 8 != 0) {
            order.insert(*number, &slots);
        }
        assert_eq!(all(&order, &slots), expected);
        for from in (0..1_000).chain(3_000..KEYS) {
            let next = order.from(Bound::Included(&key(from)), &slots).next();
            assert_eq!(next, Some(from));
        }
        for number in (1_000..3_000).rev() {
            order.insert(number, &slots);
        }
        assert_eq!(all(&order, &slots), (0..KEYS).collect::<Vec<_>>());
        assert!(order.blocks.iter().all(|block| block.len() < BLOCK));

        order.replace(&key(7), 8, &slots);
        assert_eq!(order.from(Bound::Included(&key(7)), &slots).next(), Some(8));
    }
}
