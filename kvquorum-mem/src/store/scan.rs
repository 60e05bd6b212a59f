//! Scans: the records of all shards, merged in the order of keys.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::mem;
use std::ops::Bound;
use std::sync::Mutex;
use std::vec;

use kvquorum_core::{Key, Record, ScanLimit};
use tokio::task::yield_now;

use super::shard::Shard;
use super::{SHARDS, lock};

/// How many keys a scan takes while it holds a lock, and about how many before it
/// lets other tasks go on.
const KEYS_AT_ONCE: usize = 256;

/// The first records of all shards in a range, as far as the limit goes.
pub(super) async fn scan(
    shards: &[Mutex<Shard>; SHARDS],
    (from, to): (Bound<&Key>, Bound<&Key>),
    limit: ScanLimit,
) -> Vec<(Key, Record)> {
    let mut pace = Pace::default();
    let mut runs = Vec::with_capacity(SHARDS);
    let mut heads = BinaryHeap::with_capacity(SHARDS);
    for (number, shard) in shards.iter().enumerate() {
        let mut run = Run {
            shard,
            to,
            share: share(limit),
            taken: Vec::new().into_iter(),
            more_from: Some(from.cloned()),
        };
        if let Some((key, record)) = run.next(&mut pace).await {
            heads.push(Head {
                key,
                record,
                run: number,
            });
        }
        runs.push(run);
    }
    let mut page = Vec::new();
    let mut bytes = 0_usize;
    while let Some(mut least) = heads.peek_mut() {
        bytes = bytes
            .saturating_add(least.key.len())
            .saturating_add(least.record.encoded_len());
        let number = least.run;
        let Some(run) = runs.get_mut(number) else {
            break;
        };
        if !limit.allows(page.len(), bytes) {
            break;
        }
        let Head { key, record, .. } = match run.next(&mut pace).await {
            Some((key, record)) => {
                let run = number;
                mem::replace(&mut *least, Head { key, record, run })
            }
            None => PeekMut::pop(least),
        };
        page.push((key, record));
    }
    page
}

/// What is taken from each shard at once: its part of the page and half as much
/// again, since keys do not spread evenly.
fn share(page: ScanLimit) -> ScanLimit {
    let share = |all: usize| (all / SHARDS).saturating_mul(3) / 2;
    let keys = share(page.max_keys).saturating_add(1).min(KEYS_AT_ONCE);
    ScanLimit::keys(keys).with_max_bytes(share(page.max_bytes))
}

/// How many keys were taken since other tasks could go on.
#[derive(Default)]
struct Pace(usize);

impl Pace {
    async fn keep(&mut self, taken: usize) {
        self.0 = self.0.saturating_add(taken);
        if self.0 >= KEYS_AT_ONCE {
            self.0 = 0;
            yield_now().await;
        }
    }
}

/// The records of one shard in order, a share at a time.
struct Run<'a> {
    shard: &'a Mutex<Shard>,
    to: Bound<&'a Key>,
    share: ScanLimit,
    taken: vec::IntoIter<(Key, Record)>,
    /// Where the next share begins; `None` where there is none.
    more_from: Option<Bound<Key>>,
}

impl Run<'_> {
    async fn next(&mut self, pace: &mut Pace) -> Option<(Key, Record)> {
        if self.taken.len() == 0
            && let Some(from) = self.more_from.take()
        {
            let (share, has_more) = lock(self.shard).page(from.as_ref(), self.to, self.share);
            if has_more {
                let last = share.last();
                self.more_from = last.map(|(key, _)| Bound::Excluded(key.clone()));
            }
            self.taken = share.into_iter();
            pace.keep(self.taken.len()).await;
        }
        self.taken.next()
    }
}

/// The first record of a run that is not yet in the page.
struct Head {
    key: Key,
    record: Record,
    run: usize,
}

/// The least key is the greatest head: a heap gives its greatest first.
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key)
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}
