//! Dropping what counts no more.

use futures_util::future::try_join_all;
use tokio::task::yield_now;

use super::Replica;
use super::known::State;
use super::records::{PAGE_KEYS, Records, Work};
use crate::entry::{Key, Timestamp};
use crate::marks::Era;
use crate::range::KeyRange;
use crate::rules::Change;
use crate::store::{Store, StoreError};
use crate::told::{Swept, Told};
use crate::transport::{Call, TransportError};

impl<S: Store> Replica<S> {
    /// Drops what counts no more in the beginning of a range, and tells which values have
    /// expired. The mark that it goes by is kept by the store: nothing is dropped before
    /// that.
    pub(super) fn sweep(&self, range: KeyRange, work: Work, expired_by: u64, state: State) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let served = replica.known.served();
            let sweeping = async {
                let (mut swept, due) = replica.look_through(&range, work, expired_by).await?;
                replica.drop_from(&due, Change::sweep).await?;
                swept.is_beside_others = replica.known.served() != served;
                Ok(swept)
            };
            let swept = sweeping.await.map_err(TransportError::Store)?;
            Ok(Told::Swept(swept).into())
        })
    }

    /// Drops the entries in the beginning of a range that are stamped before a mark, which is
    /// to be its own.
    pub(super) fn forget(
        &self,
        range: KeyRange,
        work: Work,
        before: Timestamp,
        era: Era,
        state: State,
    ) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let forgetting = async {
                let (forgot, due) = replica.look_for_older(&range, work, before).await?;
                replica
                    .drop_from(&due, || Change::forget(before, era))
                    .await?;
                Ok(forgot)
            };
            let forgot = forgetting.await.map_err(TransportError::Store)?;
            Ok(Told::Swept(forgot).into())
        })
    }

    async fn look_for_older(
        &self,
        range: &KeyRange,
        work: Work,
        before: Timestamp,
    ) -> Result<(Swept, Vec<Key>), StoreError> {
        let mut records = Records::new(&*self.store, range, work, &self.limits);
        let (mut forgot, mut due) = (Swept::default(), Vec::new());
        while let Some((key, record)) = records.next().await? {
            forgot.keys = forgot.keys.saturating_add(1);
            if record.version().is_some_and(|it| it.timestamp < before) {
                forgot.dropped = forgot.dropped.saturating_add(1);
                due.push(key);
            }
        }
        forgot.upto = records.upto();
        Ok((forgot, due))
    }

    /// What is in the beginning of a range, and from which keys something is to be dropped.
    async fn look_through(
        &self,
        range: &KeyRange,
        work: Work,
        expired_by: u64,
    ) -> Result<(Swept, Vec<Key>), StoreError> {
        let collected = self.floors.collected();
        let mut records = Records::new(&*self.store, range, work, &self.limits);
        let (mut swept, mut due) = (Swept::default(), Vec::new());
        let room = self.page(u64::MAX, u64::MAX);
        let mut bytes = 0_usize;
        while let Some((key, record)) = records.next().await? {
            if record.has_expired(expired_by) {
                bytes = bytes.saturating_add(key.len());
                if !room.allows(swept.expired.len(), bytes) {
                    swept.upto = Some(key);
                    return Ok((swept, due));
                }
                swept.expired.push(key.clone());
            }
            swept.keys = swept.keys.saturating_add(1);
            if !record.is_only_value() {
                let counting = record.counting(collected);
                let is_tombstone = counting.as_ref().is_some_and(|it| it.is_tombstone());
                swept.tombstones = swept.tombstones.saturating_add(is_tombstone.into());
                if counting.as_ref() != Some(&record) {
                    swept.dropped = swept.dropped.saturating_add(1);
                    due.push(key);
                }
            }
        }
        swept.upto = records.upto();
        Ok((swept, due))
    }

    async fn drop_from(
        &self,
        due: &[Key],
        change: impl Fn() -> Change<'static>,
    ) -> Result<(), StoreError> {
        let mut dropping = Vec::new();
        for page in due.chunks(PAGE_KEYS) {
            for key in page {
                let change = change().under(&self.floors);
                match self.store.try_apply(key, change) {
                    Ok(done) => drop(done?),
                    Err(change) => dropping.push(self.store.apply(key, change)),
                }
            }
            yield_now().await;
        }
        // At the same time, so that a durable store flushes them together.
        try_join_all(dropping).await.map(drop)
    }
}
