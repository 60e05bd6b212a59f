//! A store of any backend that has a conditional write.

use std::future::Future;
use std::mem;
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::entry::Key;
use crate::record::{Record, RecordError};
use crate::request::Response;
use crate::rules::{Action, Change, Decision};
use crate::store::{ScanLimit, Store, StoreError};

/// A backend that replaces a record only where it is still the one that was read:
/// an object store with `If-Match`, a table with a version column, a key-value
/// service with compare-and-swap. [`Conditional`] makes a [`Store`] of it.
///
/// Records are bytes here, those of [`Record::encode`].
///
/// What the contract of [`Store`] says of every method holds for these, too: a call
/// that is not polled holds up no other.
pub trait ConditionalWrite: Send + Sync + 'static {
    /// What tells one record that a key holds from those that it held before: a
    /// version number, an entity tag, or the bytes themselves.
    type Tag: Send;

    /// The record under a key with its tag; `None` where there is none.
    ///
    /// # Contract
    ///
    /// - It returns the record that the last [`swap`](Self::swap) under exactly this
    ///   key left, and nothing older, even where that was another process's.
    /// - That record is as safe as this backend ever makes it: a durable one has
    ///   flushed it.
    /// - No two different records that a key holds at different times have the same
    ///   tag, even where the key held none in between. So a version must not start
    ///   anew when a record is removed.
    fn load(
        &self,
        key: &Key,
    ) -> impl Future<Output = Result<Option<(Bytes, Self::Tag)>, StoreError>> + Send;

    /// Replaces what a key holds by `record`, or removes it where that is `None`,
    /// if it is still what was expected; tells whether it was. `expected` is the tag
    /// of the record, or `None` where the key must hold none.
    ///
    /// # Contract
    ///
    /// - To compare and to replace is one atomic step for the key.
    /// - When it returns `Ok(true)`, what is then held is as safe as this backend
    ///   ever makes it.
    /// - When it returns `Ok(false)`, nothing was changed.
    /// - On `Err`, or where the future is dropped half-way, the record is replaced as
    ///   a whole, now or later, or not at all; and later only if it is then still what
    ///   was expected.
    fn swap(
        &self,
        key: &Key,
        expected: Option<Self::Tag>,
        record: Option<Bytes>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// As [`Store::scan`], with each record's bytes. [`ScanLimit::allows`] tells how
    /// far a page may go.
    fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> impl Future<Output = Result<Vec<(Key, Bytes)>, StoreError>> + Send;
}

/// A [`Store`] over a backend with a [conditional write](ConditionalWrite).
///
/// To apply a change, it loads the record, lets the change decide, and swaps; where
/// another change came in between, it begins again. That is repeated at most
/// [`max_attempts`](Self::with_max_attempts) times, and fails then with
/// [`TooContended`], with nothing changed. A change that alters nothing swaps
/// nothing.
///
/// Each change is made in a task of its own, on the runtime that polls it first, and goes on
/// where its caller leaves. So a change under the empty key can wait for all that began
/// before it, as the contract of [`Store::apply`] asks for. What that cannot know of is a
/// swap which has failed or was cut by the end of the runtime, and which the backend makes
/// all the same, later. A backend that may do so has to see to it that it does not once a
/// later [`swap`](ConditionalWrite::swap) of the empty key has returned; else a write may turn
/// up that the replica refuses by then, and a delete that was
/// [collected](crate::Coordinator::collect) may be undone by it.
///
/// Bytes that are not those of a [`Record`] are an error, and never taken for none:
/// they are left as they are, and nothing is written over them.
///
/// ```
/// # use std::collections::BTreeMap;
/// # use std::ops::Bound;
/// # use std::sync::Mutex;
/// use kvquorum_core::{Bytes, Conditional, ConditionalWrite, Key, ScanLimit, StoreError};
///
/// /// In place of a service with compare-and-swap. A record's tag is its bytes.
/// #[derive(Default)]
/// struct Service(Mutex<BTreeMap<Key, Bytes>>);
///
/// impl ConditionalWrite for Service {
///     type Tag = Bytes;
///
///     async fn load(&self, key: &Key) -> Result<Option<(Bytes, Bytes)>, StoreError> {
///         let held = self.0.lock().unwrap().get(key).cloned();
///         Ok(held.map(|record| (record.clone(), record)))
///     }
///
///     async fn swap(
///         &self,
///         key: &Key,
///         expected: Option<Bytes>,
///         record: Option<Bytes>,
///     ) -> Result<bool, StoreError> {
///         let mut map = self.0.lock().unwrap();
///         let is_expected = map.get(key) == expected.as_ref();
///         if is_expected {
///             match record {
///                 Some(record) => map.insert(key.clone(), record),
///                 None => map.remove(key),
///             };
///         }
///         Ok(is_expected)
///     }
///
///     async fn scan(
///         &self,
///         range: (Bound<&Key>, Bound<&Key>),
///         limit: ScanLimit,
///     ) -> Result<Vec<(Key, Bytes)>, StoreError> {
///         let map = self.0.lock().unwrap();
///         let (mut page, mut bytes) = (Vec::new(), 0);
///         for (key, record) in map.range::<Key, _>(range) {
///             bytes += key.len() + record.len();
///             if !limit.allows(page.len(), bytes) {
///                 break;
///             }
///             page.push((key.clone(), record.clone()));
///         }
///         Ok(page)
///     }
/// }
/// # tokio::runtime::Runtime::new().unwrap().block_on(
/// kvquorum_testing::conformance::store(|| async { (Conditional::new(Service::default()), ()) })
/// # );
/// ```
#[derive(Debug)]
pub struct Conditional<B> {
    backend: Arc<B>,
    max_attempts: NonZeroU32,
    /// Each change that began since the last one of the empty key is subscribed to it.
    under_way: Mutex<watch::Sender<()>>,
}

/// Other changes of the same record came first in every attempt. Nothing was
/// changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record was changed by others in each of {attempts} attempts to change it")]
pub struct TooContended {
    /// How many attempts were made.
    pub attempts: u32,
}

/// A record that the backend holds is none.
#[derive(Debug, thiserror::Error)]
#[error("what is held under key {key:?} is not a record")]
struct NoRecord {
    key: Key,
    source: RecordError,
}

const DEFAULT_MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(128).unwrap();

impl<B: ConditionalWrite> Conditional<B> {
    /// A store over this backend.
    pub fn new(backend: B) -> Self {
        Self {
            backend: Arc::new(backend),
            max_attempts: DEFAULT_MAX_ATTEMPTS,
            under_way: Mutex::default(),
        }
    }

    /// Sets how many attempts a change has. 128 by default. An attempt fails only
    /// where another change of the record succeeds, so as many changes of one record
    /// can be under way at the same time without an error.
    #[must_use]
    pub fn with_max_attempts(mut self, max: NonZeroU32) -> Self {
        self.max_attempts = max;
        self
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }
}

impl<B> Conditional<B> {
    /// That a change begins, until what is returned is dropped; and for one of the empty key,
    /// those that began before.
    fn begin(&self, key: &Key) -> (Option<watch::Sender<()>>, watch::Receiver<()>) {
        let under_way = self.under_way.lock();
        let mut under_way = under_way.unwrap_or_else(PoisonError::into_inner);
        let before = key.is_empty().then(|| mem::take(&mut *under_way));
        (before, under_way.subscribe())
    }
}

/// Loads, decides and swaps, until nobody comes in between.
async fn swapped<B: ConditionalWrite>(
    backend: &B,
    key: &Key,
    change: Change<'static>,
    attempts: NonZeroU32,
) -> Result<Response, StoreError> {
    let attempts = attempts.get();
    for _ in 0..attempts {
        let (held, tag) = match backend.load(key).await? {
            Some((bytes, tag)) => (Some(decode(key, bytes)?), Some(tag)),
            None => (None, None),
        };
        let Decision { action, response } = change.clone().decide(held.as_ref());
        let record = match action {
            Action::Keep => return Ok(response),
            Action::Remove if held.is_none() => return Ok(response),
            Action::Remove => None,
            Action::Replace(record) => Some(encode(&record)),
        };
        if backend.swap(key, tag, record).await? {
            return Ok(response);
        }
    }
    Err(StoreError::new(TooContended { attempts }))
}

fn decode(key: &Key, bytes: Bytes) -> Result<Record, StoreError> {
    Record::decode(bytes).map_err(|source| {
        let key = key.clone();
        StoreError::new(NoRecord { key, source })
    })
}

fn encode(record: &Record) -> Bytes {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes.into()
}

impl<B: ConditionalWrite> Store for Conditional<B> {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let held = self.backend.load(key).await?;
        held.map(|(bytes, _)| decode(key, bytes)).transpose()
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let (before, begun) = self.begin(key);
        let (backend, key) = (Arc::clone(&self.backend), key.clone());
        let (change, attempts) = (change.into_owned(), self.max_attempts);
        let changing = tokio::spawn(async move {
            if let Some(before) = before {
                before.closed().await;
            }
            let result = swapped(&*backend, &key, change, attempts).await;
            drop(begun);
            result
        });
        changing.await.map_err(StoreError::new)?
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        let page = self.backend.scan(range, limit).await?;
        let decoded = page.into_iter().map(|(key, bytes)| {
            let record = decode(&key, bytes)?;
            Ok((key, record))
        });
        decoded.collect()
    }
}
