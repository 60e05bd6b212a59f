//! A backend with a conditional write, for core's adapter to make a store of.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{Bytes, ConditionalWrite, Key, Record, ScanLimit, StoreError};
use kvquorum_testing::sim::Random;
use tokio::time::sleep;

use crate::oracle::Shared;

/// Records with version numbers, in a service that takes its time: so that changes
/// of one record meet.
pub struct Backend {
    ignores_tag: bool,
    /// Is told of each change when it is made, which nobody may be there any more to tell of.
    oracle: Shared,
    replica: usize,
    state: Mutex<State>,
}

struct State {
    random: Random,
    swaps: u64,
    records: BTreeMap<Key, (Bytes, u64)>,
}

impl Backend {
    pub fn new(random: Random, ignores_tag: bool, oracle: Shared, replica: usize) -> Self {
        Self {
            ignores_tag,
            oracle,
            replica,
            state: Mutex::new(State {
                random,
                swaps: 0,
                records: BTreeMap::new(),
            }),
        }
    }

    pub fn record(&self, key: &Key) -> Option<Record> {
        let (record, _) = self.state().records.get(key).cloned()?;
        Record::decode(record).ok()
    }

    async fn take_time(&self) {
        let millis = self.state().random.below(4);
        sleep(Duration::from_millis(millis)).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConditionalWrite for Backend {
    type Tag = u64;

    async fn load(&self, key: &Key) -> Result<Option<(Bytes, u64)>, StoreError> {
        self.take_time().await;
        Ok(self.state().records.get(key).cloned())
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Option<u64>,
        record: Option<Bytes>,
    ) -> Result<bool, StoreError> {
        self.take_time().await;
        let mut state = self.state();
        let tag = state.records.get(key).map(|(_, tag)| *tag);
        if tag != expected && !self.ignores_tag {
            return Ok(false);
        }
        state.swaps += 1;
        let swaps = state.swaps;
        match record {
            Some(record) => state.records.insert(key.clone(), (record, swaps)),
            None => state.records.remove(key),
        };
        drop(state);
        let record = self.record(key);
        let mut oracle = self.oracle.lock();
        oracle.store_swapped(self.replica, key, record.as_ref());
        Ok(true)
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Bytes)>, StoreError> {
        self.take_time().await;
        let (mut page, mut bytes) = (Vec::new(), 0);
        for (key, (record, _)) in self.state().records.range::<Key, _>(range) {
            bytes += key.len() + record.len();
            if !limit.allows(page.len(), bytes) {
                break;
            }
            page.push((key.clone(), record.clone()));
        }
        Ok(page)
    }
}
