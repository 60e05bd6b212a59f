//! Going through what a replica holds.
//!
//! Each request does a bounded amount of work, and lets others go on after each page
//! of it.

use std::ops::{Bound, RangeBounds};
use std::vec;

use tokio::task::yield_now;

use super::Limits;
use super::known::own_key;
use super::scan::first;
use crate::entry::Key;
use crate::range::{KeyRange, after};
use crate::record::Record;
use crate::store::{ScanLimit, Store, StoreError};

/// How many records are gone through before others get to go on: some 50 µs of work.
pub(super) const PAGE_KEYS: usize = 256;

pub(super) fn within(asked: u64, own: usize) -> usize {
    usize::try_from(asked).unwrap_or(own).min(own).max(1)
}

/// How much a request may do yet.
pub(super) struct Work {
    keys: usize,
    bytes: usize,
}

impl Work {
    pub(super) fn new(limits: &Limits, keys: u64, bytes: u64) -> Self {
        Self {
            keys: within(keys, limits.max_hashed_keys),
            bytes: within(bytes, limits.max_hashed_bytes),
        }
    }
}

/// The records of a range, as far as the work goes. It holds a page of them.
pub(super) struct Records<'a, S> {
    store: &'a S,
    range: &'a KeyRange,
    own: Key,
    last: Option<Key>,
    page: vec::IntoIter<(Key, Record)>,
    max_page_bytes: usize,
    left: Work,
}

impl<'a, S: Store> Records<'a, S> {
    pub(super) fn new(store: &'a S, range: &'a KeyRange, left: Work, limits: &Limits) -> Self {
        Self {
            store,
            range,
            own: own_key(),
            last: None,
            page: Vec::new().into_iter(),
            max_page_bytes: limits.max_scan_bytes,
            left,
        }
    }

    /// Whether no more may be done after the record that came last.
    pub(super) fn is_spent(&self) -> bool {
        self.left.keys == 0 || self.left.bytes == 0
    }

    /// Where to go on after the last record; `None` where nothing of the range is left.
    pub(super) fn upto(&self) -> Option<Key> {
        let last = self.last.as_ref().filter(|_| self.is_spent())?;
        Some(after(last)).filter(|upto| self.range.contains(upto))
    }

    /// The next record; `None` at the end of the range, or of the work.
    pub(super) async fn next(&mut self) -> Result<Option<(Key, Record)>, StoreError> {
        if self.is_spent() {
            return Ok(None);
        }
        if self.page.len() == 0 {
            self.page = self.next_page().await?.into_iter();
        }
        let Some((key, record)) = self.page.next() else {
            return Ok(None);
        };
        let len = key.len().saturating_add(record.encoded_len());
        self.left.keys = self.left.keys.saturating_sub(1);
        self.left.bytes = self.left.bytes.saturating_sub(len);
        self.last = Some(key.clone());
        Ok(Some((key, record)))
    }

    async fn next_page(&self) -> Result<Vec<(Key, Record)>, StoreError> {
        if self.range.is_empty() {
            return Ok(Vec::new());
        }
        let limit = ScanLimit {
            max_keys: self.left.keys.min(PAGE_KEYS),
            max_bytes: self.left.bytes.min(self.max_page_bytes),
        };
        let from = match &self.last {
            None => first(self.range, &self.own),
            Some(last) => {
                yield_now().await;
                Bound::Excluded(last)
            }
        };
        self.store.scan((from, self.range.end_bound()), limit).await
    }
}
