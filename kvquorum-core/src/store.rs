//! One replica's local storage.
//!
//! A store keeps records, and that is all: it knows nothing of other replicas, of
//! clocks, of limits, or of what is in a record. Which record follows which is
//! decided by the rule book, [`Change::decide`].

use std::error::Error;
use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;

use crate::entry::Key;
use crate::record::Record;
use crate::request::Response;
use crate::rules::Change;

/// One replica's local storage: a map of keys to records.
///
/// It has three duties: to read the record of a key, to apply a change to one
/// key as one atomic step, and to list records in the order of keys.
/// Implementations write plain `async fn`s. The conformance suite of
/// `kvquorum-testing` tests the contracts below;
/// run it on yours.
///
/// Calls come from many tasks at once, on several threads, for any key: the
/// [`Replica`](crate::Replica) bounds keys and values, and keeps what it knows of
/// itself under the empty key.
///
/// A backend that has a conditional write (an object store, a table with a
/// version column) is a store through [`Conditional`](crate::Conditional).
///
/// ```
/// use std::collections::BTreeMap;
/// use std::ops::Bound;
/// use std::sync::Mutex;
///
/// use kvquorum_core::{Action, Change, Key, Record, Response, ScanLimit, Store, StoreError};
///
/// #[derive(Default)]
/// struct OneLock(Mutex<BTreeMap<Key, Record>>);
///
/// impl Store for OneLock {
///     async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
///         Ok(self.0.lock().unwrap().get(key).cloned())
///     }
///
///     async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
///         let mut map = self.0.lock().unwrap();
///         let decision = change.decide(map.get(key));
///         match decision.action {
///             Action::Keep => None,
///             Action::Replace(record) => map.insert(key.clone(), record),
///             Action::Remove => map.remove(key),
///         };
///         Ok(decision.response)
///     }
///
///     async fn scan(
///         &self,
///         range: (Bound<&Key>, Bound<&Key>),
///         limit: ScanLimit,
///     ) -> Result<Vec<(Key, Record)>, StoreError> {
///         Ok(limit.take(self.0.lock().unwrap().range::<Key, _>(range)))
///     }
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(
/// kvquorum_testing::conformance::store(|| async { (OneLock::default(), ()) })
/// # );
/// ```
///
/// # Contract
///
/// Of every method:
///
/// - A call that is not polled holds up no other.
///
/// Callers may poll a call, and then leave it at rest for as long as they like. So
/// a call must not queue for something that is granted to its future and stays taken
/// until that is polled again: tokio's `Mutex`, `Semaphore` and bounded channels grant in
/// that way. Where a call has to wait, it hands the work to a task or a thread,
/// which needs nobody to poll it, and awaits the answer. The lock of the store above
/// is held by a thread that runs.
///
/// # Stores that block
///
/// A store that blocks does so off the async threads, or says so where it is opened.
/// `spawn_blocking` needs an [`Arc`] of what it works on. The work then goes on,
/// whatever becomes of its caller:
///
/// ```
/// # use std::collections::BTreeMap;
/// use std::ops::Bound;
/// use std::sync::{Arc, Mutex};
///
/// use kvquorum_core::{Action, Change, Decision, Key, Record, Response, ScanLimit, Store, StoreError};
/// use tokio::task::spawn_blocking;
///
/// # #[derive(Default)]
/// # struct Database(BTreeMap<Key, Record>);
/// # impl Database {
/// #     fn read(&self, key: &Key) -> Result<Option<Record>, StoreError> {
/// #         Ok(self.0.get(key).cloned())
/// #     }
/// #     fn write(&mut self, key: &Key, record: Option<Record>) -> Result<(), StoreError> {
/// #         match record {
/// #             Some(record) => self.0.insert(key.clone(), record),
/// #             None => self.0.remove(key),
/// #         };
/// #         Ok(())
/// #     }
/// #     fn list(&self, range: (Bound<Key>, Bound<Key>), limit: ScanLimit) -> Result<Vec<(Key, Record)>, StoreError> {
/// #         Ok(limit.take(self.0.range(range)))
/// #     }
/// # }
/// #[derive(Default)]
/// struct Blocking(Arc<Mutex<Database>>);
///
/// impl Blocking {
///     async fn run<T: Send + 'static>(
///         &self,
///         work: impl FnOnce(&mut Database) -> Result<T, StoreError> + Send + 'static,
///     ) -> Result<T, StoreError> {
///         let database = Arc::clone(&self.0);
///         let running = spawn_blocking(move || work(&mut database.lock().unwrap()));
///         running.await.map_err(StoreError::new)?
///     }
/// }
///
/// impl Store for Blocking {
///     async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
///         let key = key.clone();
///         self.run(move |database| database.read(&key)).await
///     }
///
///     async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
///         let (key, change) = (key.clone(), change.into_owned());
///         self.run(move |database| {
///             let held = database.read(&key)?;
///             let Decision { action, response } = change.decide(held.as_ref());
///             match action {
///                 Action::Keep => {}
///                 Action::Replace(record) => database.write(&key, Some(record))?,
///                 Action::Remove => database.write(&key, None)?,
///             }
///             Ok(response)
///         })
///         .await
///     }
///
///     async fn scan(
///         &self,
///         range: (Bound<&Key>, Bound<&Key>),
///         limit: ScanLimit,
///     ) -> Result<Vec<(Key, Record)>, StoreError> {
///         let range = (range.0.cloned(), range.1.cloned());
///         self.run(move |database| database.list(range, limit)).await
///     }
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(
/// kvquorum_testing::conformance::store(|| async { (Blocking::default(), ()) })
/// # );
/// ```
pub trait Store: Send + Sync + 'static {
    /// The record under a key; `None` where there is none.
    ///
    /// # Contract
    ///
    /// - It returns the record that the last [`apply`](Self::apply) under exactly
    ///   this key left, unchanged, bit for bit.
    /// - A `get` that starts after an `apply` has returned sees what that left, or
    ///   something later.
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send;

    /// Applies a change to the record under a key, and returns the answer that
    /// [`Change::decide`] gives.
    ///
    /// # Contract
    ///
    /// - Reading the record, deciding by it with [`Change::decide`], and doing what
    ///   the [`Action`](crate::Action) says are one atomic step for the key: no
    ///   other change of it comes in between.
    /// - The response is the one that was decided at that step.
    /// - When `apply` returns `Ok`, what is then held is as safe as this store ever
    ///   makes it: a durable store has flushed it. This holds where the action is
    ///   to keep what is held, too.
    /// - On `Err` the change has been made as a whole, or not at all.
    /// - Where the future is dropped half-way, the change is made as a whole, now or
    ///   later, or not at all.
    /// - When a change under the empty key has returned, whoever reads or scans sees what
    ///   became of each change whose decision had begun before this one was asked for; or it
    ///   is never made. A replica keeps its marks there, and what they forbid must not turn
    ///   up afterwards. A store that makes its changes one after the other, or under a
    ///   lock that readers take as well, need do nothing for it.
    fn apply(
        &self,
        key: &Key,
        change: Change<'_>,
    ) -> impl Future<Output = Result<Response, StoreError>> + Send;

    /// Records in ascending order of the keys' bytes, from the beginning of a
    /// range.
    ///
    /// The range is one that [`BTreeMap::range`](std::collections::BTreeMap::range)
    /// takes: its end is not before its start, and where both are the same key, not
    /// both exclude it. To walk a whole range, go on with [`Bound::Excluded`] of the
    /// last key until a page is empty.
    ///
    /// # Contract
    ///
    /// - The keys of a page are in the range, and ascend by their bytes.
    /// - A page holds no more than the [`ScanLimit`] allows.
    /// - An empty page means that nothing is left in the range. A page may be
    ///   shorter than the limit allows.
    /// - Each key comes at most once, with a record that it held at some time
    ///   during the call.
    /// - No key of the range up to the last of the page is left out that held a
    ///   record throughout the call.
    fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> impl Future<Output = Result<Vec<(Key, Record)>, StoreError>> + Send;

    /// What [`get`](Self::get) would bring back, where that needs no waiting;
    /// else `None`. Stores in memory save their callers time by it; no store needs
    /// it.
    ///
    /// # Contract
    ///
    /// - A result is what `get` would have brought back.
    /// - It returns at once: it waits for no I/O that the store's own docs don't
    ///   tell of, and for no lock that is held for long.
    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        let _ = key;
        None
    }

    /// What [`apply`](Self::apply) would bring back, where that needs no waiting;
    /// else hands the change back. As [`try_get`](Self::try_get), no store needs
    /// it.
    ///
    /// # Contract
    ///
    /// - A change that is handed back is as it was, has not been made, and never
    ///   will be from this.
    /// - A result is what `apply` would have brought back, and promises the same.
    /// - It returns at once, as `try_get` does.
    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        let _ = key;
        Err(change)
    }
}

impl<S: Store> Store for Arc<S> {
    fn get(&self, key: &Key) -> impl Future<Output = Result<Option<Record>, StoreError>> + Send {
        S::get(self, key)
    }

    fn apply(
        &self,
        key: &Key,
        change: Change<'_>,
    ) -> impl Future<Output = Result<Response, StoreError>> + Send {
        S::apply(self, key, change)
    }

    fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> impl Future<Output = Result<Vec<(Key, Record)>, StoreError>> + Send {
        S::scan(self, range, limit)
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        S::try_get(self, key)
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        S::try_apply(self, key, change)
    }
}

/// How much one page of a [scan](Store::scan) may hold. The first record of the
/// range is always allowed, so that a page is never empty while records are left.
///
/// ```
/// use kvquorum_core::{Key, Entry, Record, ScanLimit, Timestamp, Version, WriterId};
///
/// let version = Version { timestamp: Timestamp::MIN, writer: WriterId::new(1) };
/// let record = Record::from(Entry::new(version, "tea"));
/// let records = [(Key::from("a"), record.clone()), (Key::from("b"), record)];
/// let records = || records.iter().map(|(key, record)| (key, record));
/// assert_eq!(ScanLimit::keys(1).take(records()).len(), 1);
/// assert_eq!(ScanLimit::keys(9).with_max_bytes(1).take(records()).len(), 1);
/// assert_eq!(ScanLimit::NONE.take(records()).len(), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimit {
    /// The most records. It may be as large as `usize::MAX`.
    pub max_keys: usize,
    /// The most bytes, of keys and [encoded](Record::encoded_len) records
    /// together. It may be as large as `usize::MAX`.
    pub max_bytes: usize,
}

impl ScanLimit {
    /// No limit: the whole range in one page.
    pub const NONE: Self = Self::keys(usize::MAX);

    /// So many records, of any size.
    pub const fn keys(max_keys: usize) -> Self {
        Self {
            max_keys,
            max_bytes: usize::MAX,
        }
    }

    /// Sets the most bytes.
    #[must_use]
    pub const fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// The first records of these that the limit allows.
    pub fn take<'a>(
        self,
        records: impl IntoIterator<Item = (&'a Key, &'a Record)>,
    ) -> Vec<(Key, Record)> {
        let mut page = Vec::new();
        let mut bytes = 0_usize;
        for (key, record) in records {
            bytes = bytes
                .saturating_add(key.len())
                .saturating_add(record.encoded_len());
            if !self.allows(page.len(), bytes) {
                break;
            }
            page.push((key.clone(), record.clone()));
        }
        page
    }

    /// Whether a page of so many records may have one more, and these bytes with
    /// it.
    pub fn allows(self, before: usize, bytes_with_it: usize) -> bool {
        before == 0 || (before < self.max_keys && bytes_with_it <= self.max_bytes)
    }
}

/// A store could not do what it was asked. A change may have been made or not;
/// the store's own error is the [source](Error::source).
#[derive(Debug, thiserror::Error)]
#[error("the store failed")]
pub struct StoreError(#[source] Box<dyn Error + Send + Sync>);

impl StoreError {
    /// Wraps a store's own error.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}
