//! A backend with a conditional write, for core's adapter to make a store of.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{Bytes, ConditionalWrite, Entry, Key, Record, ScanLimit, StoreError};
use kvquorum_testing::sim::Random;
use tokio::time::sleep;

/// Records with version numbers, in a service that takes its time: so that changes
/// of one record meet.
pub struct Backend {
    ignores_tag: bool,
    state: Mutex<State>,
}

struct State {
    random: Random,
    swaps: u64,
    records: BTreeMap<Key, (Bytes, u64)>,
}

impl Backend {
    pub fn new(random: Random, ignores_tag: bool) -> Self {
        Self {
            ignores_tag,
            state: Mutex::new(State {
                random,
                swaps: 0,
                records: BTreeMap::new(),
            }),
        }
    }

    pub fn entry(&self, key: &Key) -> Option<Entry> {
        let (record, _) = self.state().records.get(key).cloned()?;
        Record::decode(record).ok()?.into_entry()
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
        Ok(true)
    }

    async fn scan(
        &self,
        _: (Bound<&Key>, Bound<&Key>),
        _: ScanLimit,
    ) -> Result<Vec<(Key, Bytes)>, StoreError> {
        // No page would be one that says: there is nothing.
        Err(StoreError::new("no scan is simulated"))
    }
}
