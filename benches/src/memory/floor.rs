//! The floor: the work that no way can leave out.

use kvquorum_core::{Bytes, Change, Entry, Key, Record, Store};

use super::Node;
use crate::map::Map;
use crate::stamps::Stamps;

/// For a put one timestamp and N changes, for a get R reads, straight on the
/// stores: no coordinator, no transport, no replica.
pub struct Floor<const N: usize, const R: usize> {
    replicas: [Node; N],
    stamps: Stamps,
}

impl<const N: usize, const R: usize> Floor<N, R> {
    pub(super) fn new(replicas: [Node; N]) -> Self {
        let stamps = Stamps::new();
        Self { replicas, stamps }
    }
}

impl<const N: usize, const R: usize> Map for Floor<N, R> {
    async fn put(&self, key: &Key, value: &Bytes) {
        let entry = self.stamps.entry(value);
        for replica in &self.replicas {
            let change = Change::write(entry.clone());
            replica.store().apply(key, change).await.unwrap();
        }
    }

    async fn get(&self, key: &Key) -> Bytes {
        let mut greatest: Option<Entry> = None;
        for replica in self.replicas.iter().take(R) {
            let record = replica.store().get(key).await.unwrap();
            greatest = greatest.max(record.and_then(Record::into_entry));
        }
        greatest.unwrap().value.unwrap()
    }
}
