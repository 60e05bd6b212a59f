//! One of the parts that a store's keys are spread over.

use std::hash::BuildHasher;
use std::ops::Bound;

use foldhash::fast::RandomState;
use kvquorum_core::{Key, Record, ScanLimit, StoreError};

use super::index::{Index, NO_SLOT};
use super::order::Order;
use super::slots::{Slot, Slots};

/// Records in numbered slots, and two ways to a number: by a key's hash, and in
/// the order of keys. The order changes only when a key comes or goes.
pub(super) struct Shard {
    slots: Slots,
    index: Index,
    order: Order,
    hasher: RandomState,
}

#[derive(Debug, thiserror::Error)]
#[error("a store in memory has no room for more than some 2³⁸ keys")]
struct Full;

impl Shard {
    /// An empty shard. The hasher is the one that all hashes come from.
    pub(super) fn new(hasher: RandomState) -> Self {
        Self {
            slots: Slots::default(),
            index: Index::default(),
            order: Order::default(),
            hasher,
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn get(&self, key: &[u8], hash: u64) -> Option<&Record> {
        Some(&self.slots.get(self.number(key, hash)?)?.record)
    }

    pub(super) fn get_mut(&mut self, key: &[u8], hash: u64) -> Option<&mut Record> {
        let number = self.number(key, hash)?;
        Some(&mut self.slots.get_mut(number)?.record)
    }

    /// Adds a key that is not there yet.
    pub(super) fn insert(
        &mut self,
        key: &[u8],
        hash: u64,
        record: Record,
    ) -> Result<(), StoreError> {
        let number = u32::try_from(self.slots.len()).unwrap_or(NO_SLOT);
        if number == NO_SLOT {
            return Err(StoreError::new(Full));
        }
        self.slots.push(Slot {
            key: key.into(),
            record,
        });
        self.order.insert(number, &self.slots);
        self.index.insert(hash, number);
        Ok(())
    }

    /// Takes a key away.
    pub(super) fn remove(&mut self, key: &[u8], hash: u64) -> Option<Record> {
        let number = self.number(key, hash)?;
        self.index.remove(hash, number);
        self.order.remove(key, &self.slots);
        let last = u32::try_from(self.slots.len()).ok()?.checked_sub(1)?;
        if last != number {
            // The last slot gets this one's number.
            let moved = self.slots.key(last);
            self.index
                .replace(self.hasher.hash_one(moved), last, number);
            self.order.replace(moved, number, &self.slots);
        }
        Some(self.slots.swap_remove(number)?.record)
    }

    /// The first records in a range, as far as the limit goes. Tells whether there
    /// are more.
    pub(super) fn page(
        &self,
        from: Bound<&Key>,
        to: Bound<&Key>,
        limit: ScanLimit,
    ) -> (Vec<(Key, Record)>, bool) {
        let mut found = Vec::new();
        let mut bytes = 0_usize;
        let mut has_more = false;
        for number in self.order.from(from.map(Key::as_bytes), &self.slots) {
            let Some(slot) = self.slots.get(number) else {
                continue;
            };
            let key = slot.key.as_slice();
            let is_past = match to {
                Bound::Unbounded => false,
                Bound::Included(to) => key > to.as_bytes(),
                Bound::Excluded(to) => key >= to.as_bytes(),
            };
            if is_past {
                break;
            }
            bytes = bytes
                .saturating_add(key.len())
                .saturating_add(slot.record.encoded_len());
            if !limit.allows(found.len(), bytes) {
                has_more = true;
                break;
            }
            found.push(slot);
        }
        // One kind of cache miss after the other: processors overlap those of a
        // short loop, and scans of large stores take two thirds of the time.
        let records: Vec<Record> = found.iter().map(|slot| slot.record.clone()).collect();
        let keys = found.iter().map(|slot| Key::from(slot.key.as_slice()));
        (keys.zip(records).collect(), has_more)
    }

    fn number(&self, key: &[u8], hash: u64) -> Option<u32> {
        self.index
            .find(hash, |number| self.slots.key(number) == key)
    }
}
