//! Where a shard keeps its records: by number, without holes.

use std::mem;

use kvquorum_core::Record;
use smallvec::SmallVec;

use super::give_back;

/// How many slots lie in one allocation. What a shard has room for but does not
/// use is less than that, however large it is; a `Vec` of all would have room for
/// the double each time it grows.
const CHUNK: usize = 4096;

/// A key and its record. A key of up to 16 bytes takes no allocation, and no more
/// room than the pointer, length and capacity of a longer one.
pub(super) struct Slot {
    pub(super) key: SmallVec<[u8; 16]>,
    pub(super) record: Record,
}

/// Slots with the numbers from 0 to less than [`len`](Self::len).
#[derive(Default)]
pub(super) struct Slots {
    /// All but the last are full, and none is empty.
    chunks: Vec<Vec<Slot>>,
}

impl Slots {
    /// How many there are. It is also the number of the next one.
    pub(super) fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, Vec::len);
        let full = self.chunks.len().saturating_sub(1);
        full.saturating_mul(CHUNK).saturating_add(last)
    }

    pub(super) fn get(&self, number: u32) -> Option<&Slot> {
        let (chunk, place) = split(number);
        self.chunks.get(chunk)?.get(place)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut Slot> {
        let (chunk, place) = split(number);
        self.chunks.get_mut(chunk)?.get_mut(place)
    }

    /// The key in a slot; the empty one where there is no such slot.
    pub(super) fn key(&self, number: u32) -> &[u8] {
        self.get(number).map_or(&[], |slot| &slot.key)
    }

    pub(super) fn push(&mut self, slot: Slot) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(slot),
            _ => self.chunks.push(vec![slot]),
        }
    }

    /// Takes a slot away, and gives its number to the last one.
    pub(super) fn swap_remove(&mut self, number: u32) -> Option<Slot> {
        let chunk = self.chunks.last_mut()?;
        let last = chunk.pop()?;
        give_back(chunk);
        if chunk.is_empty() {
            self.chunks.pop();
            give_back(&mut self.chunks);
        }
        match self.get_mut(number) {
            Some(slot) => Some(mem::replace(slot, last)),
            // It was the last.
            None => Some(last),
        }
    }
}

fn split(number: u32) -> (usize, usize) {
    let number = number as usize;
    (number / CHUNK, number % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvquorum_core::{Entry, Timestamp, Version, WriterId};

    fn slot(number: u32) -> Slot {
        let version = Version {
            timestamp: Timestamp::MIN,
            writer: WriterId::new(1),
        };
        let record = Record::from(Entry::tombstone(version));
        let key = number.to_be_bytes().as_slice().into();
        Slot { key, record }
    }

    /// Bugs: a slot that stays, or takes another along, where a chunk ends.
    #[test]
    fn they_are_as_in_one_vec() {
        let (mut slots, mut keys) = (Slots::default(), Vec::new());
        for round in 0..4 {
            for number in 0..3 * CHUNK as u32 {
                slots.push(slot(number));
                keys.push(number.to_be_bytes());
            }
            // All of them in the last round, and the last first in the others.
            let keep = if round == 3 { 0 } else { CHUNK / 2 };
            while keys.len() > keep {
                let number = if round == 3 { 0 } else { keys.len() - 1 };
                let removed = slots.swap_remove(number as u32).unwrap();
                assert_eq!(*removed.key, keys.swap_remove(number));
                assert_eq!(slots.len(), keys.len());
                if let Some(key) = keys.get(number) {
                    assert_eq!(slots.key(number as u32), key);
                }
            }
        }
        assert!(slots.chunks.is_empty());
        assert!(slots.swap_remove(0).is_none());
    }
}
