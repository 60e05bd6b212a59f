//! What a replica holds in a range, told by few bytes.

use std::collections::VecDeque;

use super::known::State;
use super::records::{Records, Work, within};
use super::{Limits, Replica};
use crate::entry::{Entry, Key, Timestamp};
use crate::fingerprint::{
    Fingerprint, FingerprintRequest, Versioned, Versions, VersionsRequest, Window, WindowEnd,
    Windows, cuts_of,
};
use crate::range::after;
use crate::record::Record;
use crate::store::{ScanLimit, Store, StoreError};
use crate::told::Told;
use crate::transport::{Call, TransportError};

impl<S: Store> Replica<S> {
    /// Fingerprints of the beginning of a range, within the replica's own limits.
    pub(super) fn fingerprint(&self, asked: FingerprintRequest, state: State) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let collected = asked.collected.max(replica.floors.collected());
            let served = replica.known.served();
            let windows = windows(&*replica.store, &asked, collected, &replica.limits);
            let mut windows = windows.await.map_err(TransportError::Store)?;
            windows.is_beside_others = replica.known.served() != served;
            Ok(Told::Windows(windows).into())
        })
    }

    /// The versions in the beginning of a range, within the replica's own limits.
    pub(super) fn versions(&self, asked: VersionsRequest, state: State) -> Call {
        let replica = self.clone();
        self.later(state, async move {
            let read = || {
                let collected = asked.collected.max(replica.floors.collected());
                versions(&*replica.store, &asked, collected, &replica.limits)
            };
            let served = replica.known.served();
            let (versions, collected) = replica.as_collected(read).await;
            let mut versions = versions.map_err(TransportError::Store)?;
            versions.collected = collected;
            versions.is_beside_others = replica.known.served() != served;
            Ok(Told::Versions(versions).into())
        })
    }
}

async fn windows<S: Store>(
    store: &S,
    asked: &FingerprintRequest,
    collected: Timestamp,
    limits: &Limits,
) -> Result<Windows, StoreError> {
    let work = Work::new(limits, asked.max_keys, asked.max_bytes);
    let mut records = Records::new(store, &asked.range, work, limits);
    let mut made = Making::new(asked, collected, limits);
    while let Some((key, record)) = records.next().await? {
        if !made.has_room_for(&key) {
            return Ok(made.made);
        }
        made.add(&key, record);
    }
    match records.is_spent() {
        true => made.close(),
        false => made.end(),
    }
    Ok(made.made)
}

async fn versions<S: Store>(
    store: &S,
    asked: &VersionsRequest,
    collected: Timestamp,
    limits: &Limits,
) -> Result<Versions, StoreError> {
    let work = Work::new(limits, asked.max_keys, u64::MAX);
    let mut records = Records::new(store, &asked.range, work, limits);
    let room = ScanLimit {
        max_keys: within(asked.max_keys, limits.max_scan_keys),
        max_bytes: limits.max_scan_bytes,
    };
    let mut found = Versions::default();
    let mut bytes = 0_usize;
    while let Some((key, record)) = records.next().await? {
        // Less than it takes in memory and on the way.
        let len = key.len().saturating_add(size_of::<Versioned>());
        bytes = bytes.saturating_add(len);
        if !room.allows(found.versions.len(), bytes) {
            found.upto = Some(key);
            return Ok(found);
        }
        if let Some(entry) = counting(record, collected) {
            let hash = Fingerprint::of(asked.hash_key, &key, &entry).sum;
            let version = entry.version;
            found.versions.push(Versioned { key, version, hash });
        }
    }
    found.upto = records.upto();
    Ok(found)
}

/// The entry of a record, where it counts.
fn counting(record: Record, collected: Timestamp) -> Option<Entry> {
    match record.is_only_value() {
        true => record.into_entry(),
        false => record.counting(collected)?.into_entry(),
    }
}

/// The windows being made.
struct Making<'a> {
    asked: &'a FingerprintRequest,
    max: usize,
    /// The cuts that are left.
    cuts: VecDeque<&'a Key>,
    made: Windows,
    /// What is in the window that is not yet at its end.
    open: Fingerprint,
    last: Option<Key>,
}

impl<'a> Making<'a> {
    fn new(asked: &'a FingerprintRequest, collected: Timestamp, limits: &Limits) -> Self {
        Self {
            asked,
            max: limits.max_windows.max(1),
            cuts: cuts_of(&asked.range, &asked.cuts).collect(),
            made: Windows {
                collected,
                ..Windows::default()
            },
            open: Fingerprint::default(),
            last: None,
        }
    }

    fn has_room(&self) -> bool {
        self.made.windows.len() < self.max
    }

    /// Ends the windows that are to end before a key. `false` where there are then as
    /// many as there may be.
    fn has_room_for(&mut self, key: &Key) -> bool {
        self.cut(Some(key));
        if self.open.count >= self.asked.every.max(1) && self.has_room() {
            self.close();
        }
        self.has_room()
    }

    fn add(&mut self, key: &Key, record: Record) {
        let len = key.len().saturating_add(record.encoded_len());
        self.made.bytes = self.made.bytes.saturating_add(len as u64);
        if let Some(entry) = counting(record, self.made.collected) {
            let one = Fingerprint::of(self.asked.hash_key, key, &entry);
            self.open = self.open.and(one);
        }
        self.last = Some(key.clone());
    }

    /// Ends windows at the cuts up to a key, or at all that are left.
    fn cut(&mut self, upto: Option<&Key>) {
        while self.has_room()
            && let Some(cut) = self.cuts.front()
            && upto.is_none_or(|upto| *cut <= upto)
        {
            self.cuts.pop_front();
            self.push(WindowEnd::Cut);
        }
    }

    /// Ends a window after the last key that was added.
    fn close(&mut self) {
        let end = self.last.as_ref().map(after);
        match end.filter(|end| self.asked.range.contains(end)) {
            Some(end) => self.push(WindowEnd::Before(end)),
            None => self.push(WindowEnd::Range),
        }
    }

    /// Ends the last windows, where the range ends.
    fn end(&mut self) {
        self.cut(None);
        if self.has_room() {
            self.push(WindowEnd::Range);
        }
    }

    fn push(&mut self, end: WindowEnd) {
        let fingerprint = std::mem::take(&mut self.open);
        self.made.windows.push(Window { end, fingerprint });
    }
}
