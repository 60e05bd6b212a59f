//! A store that can lose what was not synced.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kvquorum_core::{
    Action, Change, Decision, Entry, Key, Record, Response, ScanLimit, Store, StoreError,
};

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

/// What a [`Disk`] held at some time: see [`Disk::backup`].
#[derive(Clone, Debug)]
pub struct Backup(BTreeMap<Key, Record>);

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
    records: BTreeMap<Key, Record>,
    /// What each change since the last sync has replaced, oldest first.
    unsynced: Vec<(Key, Option<Record>)>,
}

impl Backup {
    /// Without what the replica keeps of itself: one whose disk is filled with the rest
    /// knows that it has lost its data.
    #[must_use]
    pub fn of_data(mut self) -> Self {
        self.0.remove(&Key::from(""));
        self
    }
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

    /// Loses what does not survive a crash. [Crash](kvquorum_mem::Node::crash) the node
    /// first.
    pub fn lose(&self, survives: Survives) {
        let mut data = self.data();
        let Data { records, unsynced } = &mut *data;
        match survives {
            Survives::All => unsynced.clear(),
            Survives::Synced => {
                for (key, replaced) in unsynced.drain(..).rev() {
                    match replaced {
                        Some(record) => records.insert(key, record),
                        None => records.remove(&key),
                    };
                }
            }
            Survives::Nothing => {
                records.clear();
                unsynced.clear();
            }
        }
    }

    /// A copy of all that it holds, what the replica keeps of itself included.
    pub fn backup(&self) -> Backup {
        Backup(self.data().records.clone())
    }

    /// Holds from now on what it held when the backup was taken: a loss that no replica
    /// knows of. [Crash](kvquorum_mem::Node::crash) the node first.
    pub fn restore(&self, backup: &Backup) {
        *self.data() = Data {
            records: backup.0.clone(),
            unsynced: Vec::new(),
        };
    }

    /// The entry under a key, as the disk holds it now.
    pub fn entry(&self, key: &Key) -> Option<Entry> {
        self.record(key)?.into_entry()
    }

    /// All entries that the disk holds now, in the order of keys. What a replica
    /// keeps of itself, under the empty key, is not among them.
    pub fn entries(&self) -> Vec<(Key, Entry)> {
        let data = self.data();
        let records = data.records.iter().filter(|(key, _)| !key.is_empty());
        records
            .filter_map(|(key, record)| Some((key.clone(), record.entry()?)))
            .collect()
    }

    /// The record under a key, as the disk holds it now: the entry, and what is promised
    /// there.
    pub fn record(&self, key: &Key) -> Option<Record> {
        self.data().records.get(key).cloned()
    }

    fn change(&self, key: &Key, change: Change<'_>) -> Response {
        let mut data = self.data();
        let Data { records, unsynced } = &mut *data;
        let Decision { action, response } = change.decide(records.get(key));
        let replaced = match action {
            Action::Keep => return response,
            Action::Replace(record) => records.insert(key.clone(), record),
            Action::Remove => records.remove(key),
        };
        unsynced.push((key.clone(), replaced));
        response
    }

    /// The data are whole between any two statements.
    fn data(&self) -> MutexGuard<'_, Data> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Disk {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.record(key))
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        Ok(self.change(key, change))
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(limit.take(self.data().records.range::<Key, _>(range)))
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        Some(Ok(self.record(key)))
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        Ok(Ok(self.change(key, change)))
    }
}
