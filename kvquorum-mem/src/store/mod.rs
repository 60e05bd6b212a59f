//! A store in memory, for many threads.
//!
//! Keys are spread over shards by their hash. A shard is a lock, and behind it:
//!
//! - slots with a number each, which hold keys and records ([`slots`]);
//! - the numbers by the hashes of keys ([`index`]): all that a read, or a write to
//!   a key that is there, looks at;
//! - the numbers in the order of keys ([`order`]), for scans. It changes only when
//!   a key comes or goes.
//!
//! So each key stands once, and neither index nor order takes much more than the
//! four bytes of a number.
//!
//! Locked shards with a hash table each were faster than a B-tree behind each
//! lock by a factor of two to five, and as fast as `parking_lot`, `scc` and
//! `dashmap` or faster; `papaya` and `crossbeam-skiplist` took five times as long
//! and more. Shards padded to cache lines were no faster. What a million entries
//! take is measured by the benchmark `store`.

mod index;
mod order;
mod scan;
mod shard;
mod slots;

use std::array;
use std::future::ready;
use std::hash::BuildHasher;
use std::mem;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use kvquorum_core::{Action, Change, Key, Record, Response, ScanLimit, Store, StoreError};
use shard::Shard;

/// Many more than threads that meet, and few enough that an empty store costs
/// little.
const SHARDS: usize = 64;

/// A [`Store`] in memory: fast, made for many threads, and gone with the
/// process.
///
/// Its calls wait for nothing but a lock: held for a few instructions by a read
/// or a change, now and then for as long as a shard takes to grow, and by a scan
/// for a few hundred keys at a time. They fail only where a new key would be one
/// of more than some 2³⁸. A read or a change is done when it is called, before its
/// future is polled. A read of a value that was read before, and a write of a key that
/// is there and on which no update ever ran, allocate nothing.
///
/// # Memory
///
/// An entry takes about 100 bytes besides its value: 72 for key and record, and 20
/// to 30 to find them by. Keys are copied, and those of more than 16 bytes take an
/// allocation. Values are not: they are kept as the [`Bytes`](kvquorum_core::Bytes)
/// they came in, which have an allocation of their own and, once they were cloned,
/// another one of 24 bytes. One that is a slice of a larger buffer keeps all of that
/// buffer alive; copy it before where buffers are much larger than values.
///
/// Removed keys give their memory back to the allocator, with that which they were
/// found by.
///
/// # Scans
///
/// A scan takes each shard's lock in turn, not all at once, and lets other tasks
/// go on in between. It holds each key as it was at some time during the call, which
/// is what the contract of [`Store::scan`] asks for; it is no snapshot of the whole
/// store. A page costs a search in each of 64 shards, besides its records: to walk
/// a store, take pages of some hundred keys or more.
///
/// ```
/// use kvquorum_core::{Change, Entry, Key, Record, Store, Timestamp, Version, WriterId};
/// use kvquorum_mem::MemStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), kvquorum_core::StoreError> {
/// let store = MemStore::new();
/// let version = Version { timestamp: Timestamp::from_bits(1), writer: WriterId::new(1) };
/// let entry = Entry::new(version, "coffee");
/// store.apply(&Key::from("drink"), Change::write(entry.clone())).await?;
/// assert_eq!(store.get(&Key::from("drink")).await?, Some(Record::from(entry)));
/// # Ok(())
/// # }
/// ```
pub struct MemStore {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

impl MemStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many keys there are, tombstones included. Changes under way may or
    /// may not count.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no key was ever written, or all are [cleared](Self::clear).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everything, as a replica does that lost its disk. This is no
    /// way of deleting: the entries come back from other replicas. Merges
    /// under way may or may not survive it.
    pub fn clear(&self) {
        for shard in &self.shards {
            // Dropped once the lock is released: there may be much to free.
            let _forgotten = mem::replace(&mut *lock(shard), Shard::new(self.hasher.clone()));
        }
    }

    fn read(&self, key: &Key) -> Option<Record> {
        let hash = self.hash(key);
        self.shard(hash).get(key.as_bytes(), hash).cloned()
    }

    fn change(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let hash = self.hash(key);
        let key = key.as_bytes();
        let mut shard = self.shard(hash);
        let held = shard.get_mut(key, hash);
        let decision = change.decide(held.as_deref());
        let replaced = match (decision.action, held) {
            (Action::Keep, _) => None,
            (Action::Replace(record), Some(held)) => Some(mem::replace(held, record)),
            (Action::Replace(record), None) => {
                shard.insert(key, hash, record)?;
                None
            }
            (Action::Remove, _) => shard.remove(key, hash),
        };
        // Freeing a value is not for others to wait for.
        drop(shard);
        drop(replaced);
        Ok(decision.response)
    }

    fn hash(&self, key: &Key) -> u64 {
        self.hasher.hash_one(key.as_bytes())
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // By bits that the shard's index does not use.
        let chosen = (hash >> 32) as usize % SHARDS;
        let [first, ..] = &self.shards;
        lock(self.shards.get(chosen).unwrap_or(first))
    }
}

/// Gives half of the room back where less than seven sixteenths of it are used. A seventh
/// more than are left still fit, so that it is not one more or less that decides.
fn give_back<T>(items: &mut Vec<T>) {
    // Halves, so that a chunk that grows again ends where it is full.
    let half = items.capacity() / 2;
    if items.len() < half.saturating_mul(7) / 8 {
        items.shrink_to(half);
    }
}

/// A poisoned lock is taken as it is. No panic can leave a shard half changed,
/// and the next merge is none the worse for one that did not happen.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for MemStore {
    // Not `async fn`s: a future that would carry the record, to be polled in
    // another crate, took nearly as long as the change itself.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send {
        ready(Ok(self.read(key)))
    }

    fn apply(
        &self,
        key: &Key,
        change: Change<'_>,
    ) -> impl Future<Output = Result<Response, StoreError>> + Send {
        ready(self.change(key, change))
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(scan::scan(&self.shards, range, limit).await)
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        Some(Ok(self.read(key)))
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        Ok(self.change(key, change))
    }
}

impl Default for MemStore {
    fn default() -> Self {
        let hasher = RandomState::default();
        Self {
            shards: array::from_fn(|_| Mutex::new(Shard::new(hasher.clone()))),
            hasher,
        }
    }
}

impl std::fmt::Debug for MemStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemStore")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvquorum_core::{Ack, Entry, Timestamp, Version, WriterId};
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use tokio::task::yield_now;

    const ALL: (Bound<&Key>, Bound<&Key>) = (Bound::Unbounded, Bound::Unbounded);

    fn entry(timestamp: u64, value: &str) -> Entry {
        let version = Version {
            timestamp: Timestamp::from_bits(timestamp),
            writer: WriterId::new(1),
        };
        Entry::new(version, value.to_owned())
    }

    async fn write(store: &MemStore, key: &Key, entry: Entry) -> Response {
        store.apply(key, Change::write(entry)).await.unwrap()
    }

    /// Catches a page that a shard late in turn fails to get into, or falls
    /// out of: there are many times more keys than shards.
    #[tokio::test]
    async fn pages_hold_the_least_keys_of_all_shards() {
        let store = MemStore::new();
        let keys: Vec<Key> = (0..5_000).map(|n| Key::from(format!("{n:06}"))).collect();
        for key in keys.iter().rev() {
            write(&store, key, entry(1, "value")).await;
        }
        for start in [0, 1, 2_500, 4_990] {
            for limit in [1, 10, 1_000] {
                let page = store
                    .scan(
                        (Bound::Included(&keys[start]), Bound::Unbounded),
                        ScanLimit::keys(limit),
                    )
                    .await
                    .unwrap();
                let found: Vec<&Key> = page.iter().map(|(key, _)| key).collect();
                let expected: Vec<&Key> = keys[start..].iter().take(limit).collect();
                assert_eq!(found, expected, "from {start}, limit {limit}");
            }
        }
    }

    /// Catches keys that are lost, or come twice, where a scan lets go of a
    /// shard half-way, and scans that hold up every other task.
    #[tokio::test]
    async fn a_scan_of_full_shards_lets_others_go_on() {
        let store = Arc::new(MemStore::new());
        let keys: Vec<Key> = (0..40_000).map(|n| Key::from(format!("{n:06}"))).collect();
        for key in &keys {
            write(&store, key, entry(1, "value")).await;
        }
        let scanned = Arc::clone(&store);
        let scan = tokio::spawn(async move { scanned.scan(ALL, ScanLimit::NONE).await });
        let mut turns = 0;
        while !scan.is_finished() {
            turns += 1;
            yield_now().await;
        }
        assert!(turns >= SHARDS, "{turns} turns");
        let found: Vec<Key> = scan
            .await
            .unwrap()
            .unwrap()
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        assert_eq!(found, keys);
    }

    /// Catches keys that all fall into one shard, or lie in none.
    #[tokio::test]
    async fn keys_spread_over_the_shards() {
        let store = MemStore::new();
        for n in 0..6_400 {
            let key = Key::from(format!("user:{n}"));
            write(&store, &key, entry(1, "value")).await;
        }
        let lens: Vec<usize> = store.shards.iter().map(|shard| lock(shard).len()).collect();
        assert_eq!(lens.iter().sum::<usize>(), 6_400);
        assert!(lens.iter().all(|len| (30..300).contains(len)), "{lens:?}");
    }

    /// Catches keys that stay in the order when the entries are gone.
    #[tokio::test]
    async fn clear_forgets_all_and_len_counts_tombstones() {
        let store = MemStore::new();
        assert!(store.is_empty());
        let key = Key::from("key");
        write(&store, &key, entry(1, "value")).await;
        let deleted = Entry::tombstone(entry(2, "").version);
        write(&store, &key, deleted).await;
        assert_eq!(store.len(), 1);
        store.clear();
        assert!(store.is_empty());
        assert_eq!(store.len(), 0);
        assert_eq!(store.get(&key).await.unwrap(), None);
        assert!(
            store
                .scan(ALL, ScanLimit::keys(9))
                .await
                .unwrap()
                .is_empty()
        );
        // What is older than what was forgotten counts again.
        let applied = Response::Ack(Ack::Applied);
        assert_eq!(write(&store, &key, entry(1, "value")).await, applied);
    }

    /// Catches a removal that takes another key with it, leaves its own in the
    /// order or hides one, an order that is none where keys come and go, and pages
    /// past a bound or a limit. Keys are few in one run, so that each comes and goes
    /// often, and many in the other.
    #[tokio::test]
    async fn it_holds_what_a_map_holds() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let mut draw = |below: usize| (random.next_u64() >> 33) as usize % below;
        for keys in [300, 20_000] {
            let (store, mut map) = (MemStore::new(), BTreeMap::<Key, Record>::new());
            // Of many lengths, also those that are not kept in the slot itself.
            let key_of = |n: usize| Key::from(format!("{n:0width$}", width = n % 40));
            for step in 0..40_000 {
                let key = key_of(draw(keys));
                // First more come than go, and then more go than come.
                if draw(3) < if step < 20_000 { 1 } else { 2 } {
                    store.apply(&key, Change::remove()).await.unwrap();
                    map.remove(&key);
                } else {
                    let entry = entry(step, &step.to_string());
                    write(&store, &key, entry.clone()).await;
                    map.insert(key.clone(), entry.into());
                }
                assert_eq!(store.get(&key).await.unwrap().as_ref(), map.get(&key));
                if step % 2_000 == 0 {
                    assert_eq!(store.len(), map.len());
                    let other = key_of(draw(keys));
                    let (from, to) = (key.clone().min(other.clone()), key.max(other));
                    let range = (Bound::Excluded(&from), Bound::Included(&to));
                    let limit = ScanLimit::keys(draw(400)).with_max_bytes(draw(20_000));
                    for range in [ALL, range] {
                        let page = store.scan(range, limit).await.unwrap();
                        assert_eq!(page, limit.take(map.range::<Key, _>(range)));
                        let all = store.scan(range, ScanLimit::NONE).await.unwrap();
                        assert_eq!(all, ScanLimit::NONE.take(map.range::<Key, _>(range)));
                    }
                }
            }
            for key in map.keys() {
                assert_eq!(store.get(key).await.unwrap().as_ref(), map.get(key));
                store.apply(key, Change::remove()).await.unwrap();
            }
            assert!(store.is_empty());
            assert_eq!(store.scan(ALL, ScanLimit::NONE).await.unwrap(), []);
        }
    }

    /// Catches a lock's poison passed on as a panic.
    #[tokio::test]
    async fn a_panic_elsewhere_does_not_poison_the_store() {
        let store = Arc::new(MemStore::new());
        let key = Key::from("key");
        write(&store, &key, entry(1, "value")).await;
        let poisoner = Arc::clone(&store);
        let poisoned = std::thread::spawn(move || {
            let _locks: Vec<_> = poisoner.shards.iter().map(lock).collect();
            panic!("while all locks are held");
        });
        assert!(poisoned.join().is_err());
        assert_eq!(
            store.get(&key).await.unwrap(),
            Some(entry(1, "value").into())
        );
        write(&store, &key, entry(2, "newer")).await;
        assert_eq!(store.len(), 1);
    }
}
