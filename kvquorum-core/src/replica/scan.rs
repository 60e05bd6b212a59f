//! Pages of what a replica holds.

use std::ops::{Bound, RangeBounds};

use super::Replica;
use super::known::{State, own_key};
use crate::entry::{Key, Timestamp};
use crate::range::{KeyRange, Page, after};
use crate::record::Record;
use crate::request::Response;
use crate::store::{ScanLimit, Store};
use crate::told::{Records, Told};
use crate::transport::{Call, TransportError};

impl<S: Store> Replica<S> {
    /// The first entries of a range.
    pub(super) fn scan(&self, range: KeyRange, limit: ScanLimit, state: State) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let Records {
                records,
                upto,
                collected,
            } = replica.counting(&range, limit).await?;
            // A record without an entry holds a promise alone.
            let entry = |(key, record): (Key, Record)| Some((key, record.into_entry()?));
            let entries = records.into_iter().filter_map(entry).collect();
            Ok(Response::Page(Box::new(Page {
                entries,
                upto,
                collected,
            })))
        })
    }

    /// The first records of a range.
    pub(super) fn records(&self, range: KeyRange, limit: ScanLimit, state: State) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let records = replica.counting(&range, limit).await?;
            Ok(Told::Records(records).into())
        })
    }

    /// What counts of the first records of a range.
    async fn counting(
        &self,
        range: &KeyRange,
        limit: ScanLimit,
    ) -> Result<Records, TransportError> {
        let read = || first_records(&*self.store, range, limit);
        let (records, collected) = self.as_collected(read).await;
        let mut records = records?;
        records.collected = collected;
        let found = records.records.into_iter();
        let counts = |(key, record): (Key, Record)| match record.is_only_value() {
            true => Some((key, record)),
            false => Some((key, record.counting(collected)?)),
        };
        records.records = found.filter_map(counts).collect();
        Ok(records)
    }

    /// As much as is asked for, within the replica's own limits.
    pub(super) fn page(&self, max_keys: u64, max_bytes: u64) -> ScanLimit {
        let within = |asked: u64, own: usize| usize::try_from(asked).unwrap_or(own).min(own);
        ScanLimit {
            max_keys: within(max_keys, self.limits.max_scan_keys),
            max_bytes: within(max_bytes, self.limits.max_scan_bytes),
        }
    }
}

/// It takes no more of the store than the page, and one record.
async fn first_records<S: Store>(
    store: &S,
    range: &KeyRange,
    limit: ScanLimit,
) -> Result<Records, TransportError> {
    if range.is_empty() {
        return Ok(Records::default());
    }
    let own = own_key();
    let to = range.end_bound();
    let scanning = store.scan((first(range, &own), to), limit);
    let records = scanning.await.map_err(TransportError::Store)?;
    let upto = match records.last() {
        None => None,
        // A page that is not full is often the last: it saves the reader an empty
        // one to know.
        Some((last, _)) if records.len() < limit.max_keys => {
            let rest = (Bound::Excluded(last), to);
            let scanning = store.scan(rest, ScanLimit::keys(1));
            let more = scanning.await.map_err(TransportError::Store)?;
            (!more.is_empty()).then(|| after(last))
        }
        Some((last, _)) => Some(after(last)),
    };
    let upto = upto.filter(|upto| range.contains(upto));
    let collected = Timestamp::MIN;
    Ok(Records {
        records,
        upto,
        collected,
    })
}

/// Where the entries of a range begin. What the replica keeps for itself is no entry of
/// the map.
pub(super) fn first<'a>(range: &'a KeyRange, own: &'a Key) -> Bound<&'a Key> {
    match range.start_bound() {
        Bound::Included(from) if from.is_empty() => Bound::Excluded(own),
        from => from,
    }
}
