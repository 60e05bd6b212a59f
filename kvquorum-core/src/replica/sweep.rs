//! Dropping what counts no more.

use futures_util::future::try_join_all;

use super::Replica;
use super::known::State;
use super::scan::first_records;
use crate::entry::Key;
use crate::range::KeyRange;
use crate::record::Record;
use crate::rules::Change;
use crate::store::{ScanLimit, Store, StoreError};
use crate::told::{Records, Swept, Told};
use crate::transport::{Call, TransportError};

impl<S: Store> Replica<S> {
    /// Drops what counts no more in the beginning of a range, and tells which values have
    /// expired. The mark that it goes by is kept by the store: nothing is dropped before
    /// that.
    pub(super) fn sweep(
        &self,
        range: KeyRange,
        limit: ScanLimit,
        expired_by: u64,
        state: State,
    ) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let Records { records, upto, .. } =
                first_records(&*replica.store, &range, limit).await?;
            let keys = records.len() as u64;
            let collected = replica.floors.collected();
            let mut tombstones: u64 = 0;
            let has_expired =
                |(key, record): &(Key, Record)| record.has_expired(expired_by).then(|| key.clone());
            let expired = records.iter().filter_map(has_expired).collect();
            let is_due = |(_, record): &(Key, Record)| {
                if record.is_only_value() {
                    return false;
                }
                let counting = record.counting(collected);
                let is_tombstone = counting.as_ref().is_some_and(Record::is_tombstone);
                tombstones = tombstones.saturating_add(is_tombstone.into());
                counting.as_ref() != Some(record)
            };
            let due: Vec<_> = records.into_iter().filter(is_due).collect();
            let dropped = due.len() as u64;
            // At the same time, so that a durable store flushes them together.
            let dropping = due.iter().map(|(key, _)| replica.drop_from(key));
            try_join_all(dropping)
                .await
                .map_err(TransportError::Store)?;
            Ok(Told::Swept(Swept {
                keys,
                tombstones,
                dropped,
                expired,
                upto,
            })
            .into())
        })
    }

    async fn drop_from(&self, key: &Key) -> Result<(), StoreError> {
        let change = Change::sweep().under(&self.floors);
        let change = match self.store.try_apply(key, change) {
            Ok(done) => return done.map(drop),
            Err(change) => change,
        };
        self.store.apply(key, change).await.map(drop)
    }
}
