//! A disk that does as it is told, and what every test of a store needs.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io;
use std::ops::Bound;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kvquorum_core::{
    Ack, Change, Entry, Key, Record, Response, ScanLimit, Store, StoreError, Timestamp, Version,
    WriterId,
};
use kvquorum_redb::{RedbStore, RedbStoreError, StorageBackend};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use tokio::time::{sleep, timeout};

/// Far more than anything takes that is waited for.
pub const LATE: Duration = Duration::from_secs(20);

pub fn version(timestamp: u64) -> Version {
    Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(1),
    }
}

pub fn entry(timestamp: u64, value: impl Into<Vec<u8>>) -> Entry {
    Entry::new(version(timestamp), value.into())
}

/// The store's own error.
pub fn cause(error: &StoreError) -> &RedbStoreError {
    std::error::Error::source(error)
        .and_then(|source| source.downcast_ref())
        .expect("the store's own error")
}

/// A store by its entries.
pub trait Entries {
    /// Writes an entry.
    fn merge(
        &self,
        key: &Key,
        entry: Entry,
    ) -> impl Future<Output = Result<Ack, StoreError>> + Send;

    /// The entry under a key.
    fn entry(&self, key: &Key) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;
}

impl Entries for RedbStore {
    async fn merge(&self, key: &Key, entry: Entry) -> Result<Ack, StoreError> {
        match self.apply(key, Change::write(entry)).await? {
            Response::Ack(ack) => Ok(ack),
            other => panic!("{other:?}"),
        }
    }

    async fn entry(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.get(key).await?.and_then(Record::into_entry))
    }
}

/// All entries of a store.
pub async fn all(store: &RedbStore) -> Result<Vec<(Key, Entry)>, StoreError> {
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let records = store.scan(everything, ScanLimit::NONE).await?;
    let entries = records.into_iter();
    Ok(entries
        .filter_map(|(key, record)| Some((key, record.into_entry()?)))
        .collect())
}

/// Numbers from a seed.
pub struct Numbers(Xoshiro256PlusPlus);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}

/// A disk with a cache that is lost with the power, in memory.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What reads see.
    bytes: Vec<u8>,
    /// What a sync has made safe.
    safe: Vec<u8>,
    /// What was written since.
    unsafe_writes: Vec<Write>,
    syncs: u64,
    /// Writes and syncs until one fails, and all after it.
    good_calls: Option<u64>,
    /// Only syncs count and fail.
    syncs_only: bool,
    /// Syncs wait.
    held: bool,
    waiting: u64,
    /// How many of the next reads wait.
    reads_to_hold: u64,
    reads_waiting: u64,
    reads: u64,
}

#[derive(Clone, Debug)]
enum Write {
    Bytes(usize, Vec<u8>),
    Len(usize),
}

/// The part of a disk that writes cannot tear.
const SECTOR: usize = 512;

impl Write {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Len(len) => bytes.resize(*len, 0),
            Self::Bytes(at, new) => {
                let end = at + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(new);
            }
        }
    }

    /// Only some of its sectors.
    fn torn(&self, bytes: &mut Vec<u8>, numbers: &mut Numbers) {
        match self {
            Self::Len(_) => self.apply(bytes),
            Self::Bytes(at, new) => {
                for (index, sector) in new.chunks(SECTOR).enumerate() {
                    if numbers.below(2) == 0 {
                        Self::Bytes(at + index * SECTOR, sector.to_vec()).apply(bytes);
                    }
                }
            }
        }
    }
}

impl Disk {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// For [`open_on`](kvquorum_redb::RedbStoreBuilder::open_on).
    pub fn backend(&self) -> impl Fn() -> io::Result<Self> + Send + 'static {
        let disk = self.clone();
        move || Ok(disk.clone())
    }

    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Fails every write and sync after this many more.
    pub fn fail_after(&self, good_calls: u64) {
        let mut state = self.state();
        state.good_calls = Some(good_calls);
        state.syncs_only = false;
    }

    /// Fails every sync after this many more.
    pub fn fail_syncs_after(&self, good_syncs: u64) {
        let mut state = self.state();
        state.good_calls = Some(good_syncs);
        state.syncs_only = true;
    }

    pub fn fails(&self) -> bool {
        self.state().good_calls == Some(0)
    }

    /// Has syncs wait until they are let go.
    pub fn hold_syncs(&self) {
        self.state().held = true;
    }

    pub fn let_syncs_go(&self) {
        self.state().held = false;
        self.0.changed.notify_all();
    }

    /// Waits until a sync waits. It blocks.
    pub fn until_a_sync_waits(&self) {
        let state = self.state();
        drop(self.0.changed.wait_while(state, |state| state.waiting == 0));
    }

    /// Whether nothing but the test has it any more.
    pub fn is_free(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Has this many of the next reads wait until they are let go.
    pub fn hold_reads(&self, count: u64) {
        self.state().reads_to_hold = count;
    }

    pub fn let_reads_go(&self) {
        let mut state = self.state();
        state.reads_to_hold = 0;
        state.reads_waiting = 0;
        self.0.changed.notify_all();
    }

    /// How many there were.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    pub fn reads_waiting(&self) -> u64 {
        self.state().reads_waiting
    }

    /// What a loss of power now leaves: all that was synced, and of what was
    /// written since any part, in any order, torn between sectors.
    pub fn after_power_loss(&self, numbers: &mut Numbers) -> Self {
        let state = self.state();
        let mut bytes = state.safe.clone();
        // Nothing, all, or a part.
        let kept = numbers.below(4);
        for write in &state.unsafe_writes {
            match kept {
                0 => {}
                1 => write.apply(&mut bytes),
                _ => match numbers.below(3) {
                    0 => {}
                    1 => write.apply(&mut bytes),
                    _ => write.torn(&mut bytes, numbers),
                },
            }
        }
        Self::holding(bytes)
    }

    /// The least that a loss of power now leaves: what was synced.
    pub fn flushed(&self) -> Self {
        Self::holding(self.state().safe.clone())
    }

    /// What it holds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    pub fn holding(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state().safe = bytes.clone();
        disk.state().bytes = bytes;
        disk
    }

    fn write_or_fail(state: &mut State, sync: bool) -> io::Result<()> {
        if state.syncs_only && !sync {
            return Ok(());
        }
        match &mut state.good_calls {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the disk does not write")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

/// Waits until this many reads wait for the disk.
pub async fn until_reads_wait(disk: &Disk, count: u64) {
    let waiting = async {
        while disk.reads_waiting() < count {
            sleep(Duration::from_millis(1)).await;
        }
    };
    if timeout(LATE, waiting).await.is_err() {
        // What ends the store would wait for them.
        disk.let_reads_go();
        panic!("{count} reads should wait for the disk");
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        state.reads += 1;
        if state.reads_to_hold > 0 {
            state.reads_to_hold -= 1;
            state.reads_waiting += 1;
            state = self
                .0
                .changed
                .wait_while(state, |state| state.reads_waiting > 0)
                .unwrap();
        }
        let start = usize::try_from(offset).unwrap();
        let found = state.bytes.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        Self::write_or_fail(&mut state, false)?;
        let write = Write::Len(usize::try_from(len).unwrap());
        write.apply(&mut state.bytes);
        state.unsafe_writes.push(write);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state();
        state.waiting += 1;
        self.0.changed.notify_all();
        let mut state = self
            .0
            .changed
            .wait_while(state, |state| state.held)
            .unwrap();
        state.waiting -= 1;
        Self::write_or_fail(&mut state, true)?;
        state.syncs += 1;
        let state = &mut *state;
        for write in state.unsafe_writes.drain(..) {
            write.apply(&mut state.safe);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        Self::write_or_fail(&mut state, false)?;
        let write = Write::Bytes(usize::try_from(offset).unwrap(), data.to_vec());
        write.apply(&mut state.bytes);
        state.unsafe_writes.push(write);
        Ok(())
    }
}
