//! Where a shard keeps its records: by number, without holes.

use std::mem;

use kvquorum_core::Record;
use smallvec::SmallVec;

/// How many slots lie in one allocation. What a shard has room for but does not
/// use is less than that, however large it is; a `Vec` of all would have room for
/// the double each time it grows.
const CHUNK: usize = 256;

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
        if chunk.is_empty() {
            self.chunks.pop();
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
