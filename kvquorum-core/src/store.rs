//! One replica's local storage.
//!
//! A store keeps entries and merges them, and that is all: it knows nothing of
//! other replicas, of clocks, or of limits. Those are the
//! [`Replica`](crate::Replica)'s part.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Key, Version};

/// What became of an entry that was merged into a store. Either way it is an
/// ack: the store now holds the entry, or a greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Merged {
    /// The store holds exactly this entry, from now on or since before.
    Applied,
    /// The store holds a greater entry and kept it.
    Superseded {
        /// The version of the greater entry. It can equal the version that
        /// was merged, where one writer's id is used by two.
        by: Version,
    },
}

impl Merged {
    /// What merging `incoming` into a store that holds `current` comes to.
    ///
    /// A store that follows this verdict, storing `incoming` where it says
    /// [`Applied`](Self::Applied) and nothing where it does not, merges as it
    /// should, provided that no other merge of the key comes in between.
    pub fn verdict(current: Option<&Entry>, incoming: &Entry) -> Self {
        match current {
            Some(current) if current > incoming => Self::Superseded {
                by: current.version,
            },
            _ => Self::Applied,
        }
    }
}

/// One replica's local storage: a map of keys to entries in which an entry
/// only ever gives way to a greater one.
///
/// Implementations write plain `async fn`s. [`conformance::store`] tests every
/// sentence of the contracts below; run it on yours.
///
/// Calls come from many tasks at once, on several threads. A store that blocks
/// must do so off the async threads.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::ops::Bound;
/// use std::sync::Mutex;
/// use kvquorum_core::{Entry, Key, Merged, Store, StoreError};
///
/// #[derive(Default)]
/// struct OneLock(Mutex<BTreeMap<Key, Entry>>);
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("another thread panicked while it held the lock")]
/// struct Poisoned;
///
/// impl OneLock {
///     fn map(&self) -> Result<std::sync::MutexGuard<'_, BTreeMap<Key, Entry>>, StoreError> {
///         self.0.lock().map_err(|_| StoreError::new(Poisoned))
///     }
/// }
///
/// impl Store for OneLock {
///     async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
///         Ok(self.map()?.get(key).cloned())
///     }
///
///     async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
///         let mut map = self.map()?;
///         let merged = Merged::verdict(map.get(key), &entry);
///         if merged == Merged::Applied {
///             map.insert(key.clone(), entry);
///         }
///         Ok(merged)
///     }
///
///     async fn scan(
///         &self,
///         from: Bound<&Key>,
///         limit: usize,
///     ) -> Result<Vec<(Key, Entry)>, StoreError> {
///         let map = self.map()?;
///         let range = map.range::<Key, _>((from, Bound::Unbounded));
///         Ok(range.take(limit).map(|(key, entry)| (key.clone(), entry.clone())).collect())
///     }
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(
/// kvquorum_core::conformance::store(|| async { (OneLock::default(), ()) })
/// # );
/// ```
///
/// [`conformance::store`]: crate::conformance::store
pub trait Store: Send + Sync + 'static {
    /// The entry under a key, a tombstone included; `None` where there is none.
    ///
    /// # Contract
    ///
    /// - It returns the greatest entry ever merged under exactly this key,
    ///   with version and value unchanged, bit for bit.
    /// - A `get` that starts after a `merge` has returned sees that merge.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Entry>, StoreError>> + Send;

    /// Keeps the greater of the stored entry and this one, and tells which it
    /// was.
    ///
    /// # Contract
    ///
    /// - Compare and store are one atomic step for each key: of any number of
    ///   concurrent merges, the greatest entry remains.
    /// - The answer is [`Merged::verdict`] for the entry that was stored at
    ///   that step. An equal entry is [`Applied`](Merged::Applied).
    /// - When `merge` returns `Ok`, the entry is as safe as this store ever
    ///   makes it: a durable store has flushed it. This holds for
    ///   [`Superseded`](Merged::Superseded) too: the greater entry is safe.
    /// - On `Err` the key holds either what it held before, or this entry, and
    ///   nothing between.
    /// - The same holds where the future is dropped half-way.
    fn merge(
        &self,
        key: &Key,
        entry: Entry,
    ) -> impl Future<Output = Result<Merged, StoreError>> + Send;

    /// What [`get`](Self::get) would bring back, where that needs no waiting;
    /// else `None`. Stores in memory, or with entries at hand, save their
    /// callers time by it; no store needs it.
    ///
    /// # Contract
    ///
    /// - A result is what `get` would have brought back.
    /// - It returns at once: it waits for no I/O, and for no lock that is held
    ///   for long.
    fn get_now(&self, key: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        let _ = key;
        None
    }

    /// What [`merge`](Self::merge) would bring back, where that needs no
    /// waiting; else `None`. As [`get_now`](Self::get_now), no store needs it.
    ///
    /// # Contract
    ///
    /// - `None` means that nothing was merged.
    /// - A result is what `merge` would have brought back, and promises the
    ///   same.
    /// - It returns at once, as `get_now` does.
    fn merge_now(&self, key: &Key, entry: &Entry) -> Option<Result<Merged, StoreError>> {
        let _ = (key, entry);
        None
    }

    /// Up to `limit` entries in ascending order of the keys' bytes, tombstones
    /// included, starting at `from`.
    ///
    /// To walk the whole store, start at [`Bound::Unbounded`] and go on with
    /// [`Bound::Excluded`] of the last key.
    ///
    /// # Contract
    ///
    /// - Fewer than `limit` entries mean that the end was reached.
    /// - Each key comes at most once, with an entry that it held at some time
    ///   during the call.
    /// - A key merged before the call began is among them, if it is in range.
    ///
    /// [`Bound::Unbounded`]: std::ops::Bound::Unbounded
    /// [`Bound::Excluded`]: std::ops::Bound::Excluded
    fn scan(
        &self,
        from: std::ops::Bound<&Key>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Key, Entry)>, StoreError>> + Send;
}

impl<S: Store> Store for Arc<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        S::get(self, key).await
    }

    async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
        S::merge(self, key, entry).await
    }

    fn get_now(&self, key: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        S::get_now(self, key)
    }

    fn merge_now(&self, key: &Key, entry: &Entry) -> Option<Result<Merged, StoreError>> {
        S::merge_now(self, key, entry)
    }

    async fn scan(
        &self,
        from: std::ops::Bound<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Entry)>, StoreError> {
        S::scan(self, from, limit).await
    }
}

/// A store could not do what it was asked. The entry may have been stored or
/// not; the store's own error is the [source](Error::source).
#[derive(Debug, thiserror::Error)]
#[error("the store failed")]
pub struct StoreError(#[source] Box<dyn Error + Send + Sync>);

impl StoreError {
    /// Wraps a store's own error.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}
