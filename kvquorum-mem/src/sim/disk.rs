//! A store that can lose what was not synced.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvquorum_core::{Entry, Key, Merged, Store, StoreError};

/// What a crash leaves of a [`Disk`]'s data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// All of it.
    All,
    /// What was there at the last [`sync`](Disk::sync): the tail is lost.
    Synced,
    /// Nothing: the disk is gone.
    Nothing,
}

/// A [`Store`] in memory that acks before it has synced, as a database does
/// that was told not to wait for its disk.
///
/// Until it [loses](Self::lose) something it keeps the contract of a store.
/// What was not synced is remembered twice, so sync now and then; a
/// [`Storm`](super::Storm) does.
#[derive(Debug, Default)]
pub struct Disk(Mutex<Data>);

#[derive(Debug, Default)]
struct Data {
    entries: BTreeMap<Key, Entry>,
    /// What each merge since the last sync has replaced, oldest first.
    unsynced: Vec<(Key, Option<Entry>)>,
}

impl Disk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes all that is there now survive a [loss of the
    /// tail](Survives::Synced).
    pub fn sync(&self) {
        self.data().unsynced.clear();
    }

    /// Loses what does not survive a crash. [Stop](crate::Node::stop) the node
    /// first.
    pub fn lose(&self, survives: Survives) {
        let mut data = self.data();
        let Data { entries, unsynced } = &mut *data;
        match survives {
            Survives::All => unsynced.clear(),
            Survives::Synced => {
                for (key, replaced) in unsynced.drain(..).rev() {
                    match replaced {
                        Some(entry) => entries.insert(key, entry),
                        None => entries.remove(&key),
                    };
                }
            }
            Survives::Nothing => {
                entries.clear();
                unsynced.clear();
            }
        }
    }

    /// The entry under a key, as the disk holds it now.
    pub fn entry(&self, key: &Key) -> Option<Entry> {
        self.data().entries.get(key).cloned()
    }

    /// All that the disk holds now, in the order of keys.
    pub fn entries(&self) -> Vec<(Key, Entry)> {
        let data = self.data();
        let entries = data.entries.iter();
        entries
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect()
    }

    fn keep_greater(&self, key: &Key, entry: Entry) -> Merged {
        let mut data = self.data();
        let merged = Merged::verdict(data.entries.get(key), &entry);
        if merged == Merged::Applied {
            let replaced = data.entries.insert(key.clone(), entry);
            data.unsynced.push((key.clone(), replaced));
        }
        merged
    }

    /// The data are whole between any two statements.
    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Disk {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.entry(key))
    }

    async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
        Ok(self.keep_greater(key, entry))
    }

    fn get_now(&self, key: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        Some(Ok(self.entry(key)))
    }

    fn merge_now(&self, key: &Key, entry: &Entry) -> Option<Result<Merged, StoreError>> {
        Some(Ok(self.keep_greater(key, entry.clone())))
    }

    async fn scan(&self, from: Bound<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
        let data = self.data();
        let range = data.entries.range::<Key, _>((from, Bound::Unbounded));
        let page = range.take(limit);
        Ok(page
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect())
    }
}
