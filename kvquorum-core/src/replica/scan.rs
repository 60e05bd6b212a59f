//! Pages of what a replica holds.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use super::Replica;
use super::known::own_key;
use crate::entry::Key;
use crate::range::{KeyRange, Page, after};
use crate::record::Record;
use crate::store::{ScanLimit, Store, StoreError};
use crate::transport::{Call, Response, TransportError};

impl<S: Store> Replica<S> {
    /// The first entries of a range, within the replica's own limits.
    pub(super) fn scan(&self, range: KeyRange, max_keys: u64, max_bytes: u64) -> Call {
        let within = |asked: u64, own: usize| usize::try_from(asked).unwrap_or(own).min(own);
        let limit = ScanLimit {
            max_keys: within(max_keys, self.limits.max_scan_keys),
            max_bytes: within(max_bytes, self.limits.max_scan_bytes),
        };
        let store = Arc::clone(&self.store);
        Call::new(async move {
            let page = page(&*store, &range, limit).await;
            let page = page.map_err(TransportError::Store)?;
            Ok(Response::Page(Box::new(page)))
        })
    }
}

/// It takes no more of the store than the page, and one record.
async fn page<S: Store>(store: &S, range: &KeyRange, limit: ScanLimit) -> Result<Page, StoreError> {
    if range.is_empty() {
        return Ok(Page::default());
    }
    let own = own_key();
    let to = range.end_bound();
    let records = store.scan((first(range, &own), to), limit).await?;
    let upto = match records.last() {
        None => None,
        // A page that is not full is often the last: it saves the reader an empty
        // one to know.
        Some((last, _)) if records.len() < limit.max_keys => {
            let rest = (Bound::Excluded(last), to);
            let more = store.scan(rest, ScanLimit::keys(1)).await?;
            (!more.is_empty()).then(|| after(last))
        }
        Some((last, _)) => Some(after(last)),
    };
    let upto = upto.filter(|upto| range.contains(upto));
    // A record without an entry holds a promise alone.
    let entry = |(key, record): (Key, Record)| Some((key, record.into_entry()?));
    let entries = records.into_iter().filter_map(entry).collect();
    Ok(Page { entries, upto })
}

/// Where the entries of a range begin. What the replica keeps for itself is no entry of
/// the map.
pub(super) fn first<'a>(range: &'a KeyRange, own: &'a Key) -> Bound<&'a Key> {
    match range.start_bound() {
        Bound::Included(from) if from.is_empty() => Bound::Excluded(own),
        from => from,
    }
}
