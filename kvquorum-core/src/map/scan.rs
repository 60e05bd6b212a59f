//! Ranges of typed maps.

use std::borrow::Borrow;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::encoding::Encoding;
use super::{Codec, Json, KeepsOrder, Map, MapError};
use crate::coordinator::Scan;
use crate::entry::Key;
use crate::range::KeyRange;
use crate::transport::Transport;

impl<K, V, const N: usize, const W: usize, const R: usize, T, C> Map<K, V, N, W, R, T, C>
where
    K: Serialize + Ord + ToOwned<Owned: DeserializeOwned> + ?Sized,
    V: Serialize + DeserializeOwned + PartialEq,
    T: Transport,
    C: Codec,
{
    /// Reads all keys and values of the map, in the order of the keys' encodings:
    /// [`Coordinator::scan`](crate::Coordinator::scan) says what that promises (rule
    /// R-RANGE), and that it is no snapshot.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let ages = coordinator.map::<str, u8>("ages");
    /// ages.put("alice", &34).await?;
    /// ages.put("bob", &27).await?;
    /// let mut sum = 0;
    /// let mut entries = ages.entries();
    /// while let Some(entry) = entries.next().await {
    ///     let (_name, age) = entry?;
    ///     sum += u32::from(age);
    /// }
    /// assert_eq!(sum, 61);
    /// # Ok(()) }
    /// ```
    pub fn entries(&self) -> Entries<K, V, C> {
        self.prefix([])
    }

    /// Reads all keys of the map, as [`entries`](Self::entries) does. Values travel all
    /// the same, and are not decoded.
    pub fn keys(&self) -> Keys<K, C> {
        self.entries().keys()
    }

    /// Reads the keys whose encoding begins with these bytes, and their values. In JSON
    /// a string begins with a quotation mark:
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let ages = coordinator.map::<str, u8>("ages");
    /// for name in ["alice", "al", "bob"] {
    ///     ages.put(name, &34).await?;
    /// }
    /// let mut names = ages.prefix(r#""al"#).keys();
    /// assert_eq!(names.next().await.transpose()?.as_deref(), Some("al"));
    /// assert_eq!(names.next().await.transpose()?.as_deref(), Some("alice"));
    /// assert!(names.next().await.is_none());
    /// # Ok(()) }
    /// ```
    pub fn prefix(&self, encoded: impl AsRef<[u8]>) -> Entries<K, V, C> {
        self.read(self.encoding.range(encoded.as_ref()))
    }

    /// Reads what was [left](Entries::rest) of an earlier scan of this map. Of a range
    /// that goes beyond the map, it reads what is within.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, MapError, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let ages = coordinator.map::<str, u8>("ages");
    /// for name in ["alice", "bob"] {
    ///     ages.put(name, &34).await?;
    /// }
    /// let mut entries = ages.entries();
    /// assert_eq!(entries.next().await.transpose()?, Some(("alice".into(), 34)));
    /// let kept = serde_json::to_string(&entries.rest())?;
    ///
    /// // Later, in another process:
    /// if let Some(rest) = serde_json::from_str(&kept)? {
    ///     let mut entries = ages.resume(&rest);
    ///     assert_eq!(entries.next().await.transpose()?, Some(("bob".into(), 34)));
    ///     assert!(entries.next().await.is_none());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn resume(&self, rest: &KeyRange) -> Entries<K, V, C> {
        self.read(self.encoding.range(&[]).intersection(rest))
    }

    fn read(&self, range: KeyRange) -> Entries<K, V, C> {
        Entries {
            scan: self.coordinator.scan(range),
            encoding: Arc::clone(&self.encoding),
            types: PhantomData,
        }
    }
}

impl<K, V, const N: usize, const W: usize, const R: usize, T, C> Map<K, V, N, W, R, T, C>
where
    K: Serialize + Ord + ToOwned<Owned: DeserializeOwned> + ?Sized,
    V: Serialize + DeserializeOwned + PartialEq,
    T: Transport,
    C: KeepsOrder,
{
    /// Reads a range of keys, in their order, and their values. It takes a codec that
    /// [keeps the order](KeepsOrder) of keys. A range that ends before it begins is
    /// empty.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// use kvquorum_core::{Json, OrderedKeys};
    ///
    /// let log = coordinator.map_with::<u64, String, _>("log", OrderedKeys(Json));
    /// for second in [8, 9, 10, 11] {
    ///     log.put(&second, &format!("at {second}")).await?;
    /// }
    /// let mut entries = log.range(9..=10)?;
    /// assert_eq!(entries.next().await.transpose()?, Some((9, "at 9".into())));
    /// assert_eq!(entries.next().await.transpose()?, Some((10, "at 10".into())));
    /// assert!(entries.next().await.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`MapError::EncodeKey`] as [`put`](Self::put), of a bound.
    pub fn range<Q>(&self, bounds: impl RangeBounds<Q>) -> Result<Entries<K, V, C>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let encode = |bound: Bound<&Q>| -> Result<Bound<Key>, MapError> {
            Ok(match bound {
                Bound::Included(key) => Bound::Included(self.encode_key(key)?),
                Bound::Excluded(key) => Bound::Excluded(self.encode_key(key)?),
                Bound::Unbounded => Bound::Unbounded,
            })
        };
        let bounds = (encode(bounds.start_bound())?, encode(bounds.end_bound())?);
        Ok(self.resume(&KeyRange::from(bounds)))
    }

    /// Reads the keys that begin with these parts, in their order, and their values: of
    /// tuples and structs, a tuple of the first parts, each of the very type that it has in
    /// the key: of `(u64, String)` that is `(5_u64,)`, for `(5,)` is an `i32` and is
    /// encoded otherwise. It takes a codec that [keeps the order](KeepsOrder) of keys.
    ///
    /// To delete what begins with them is a loop. Keys that are written meanwhile may
    /// stay:
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// use kvquorum_core::{Json, OrderedKeys};
    ///
    /// // By customer and number.
    /// type OrderKey = (String, u64);
    /// let orders = coordinator.map_with::<OrderKey, String, _>("orders", OrderedKeys(Json));
    /// for (customer, number) in [("ann", 1), ("anna", 2), ("anna", 10), ("bob", 3)] {
    ///     orders.put(&(customer.into(), number), &"tea".into()).await?;
    /// }
    /// let mut of_anna = orders.within(&("anna",))?.keys();
    /// while let Some(key) = of_anna.next().await {
    ///     orders.delete(&key?).await?;
    /// }
    ///
    /// let mut left = orders.keys();
    /// assert_eq!(left.next().await.transpose()?, Some(("ann".into(), 1)));
    /// assert_eq!(left.next().await.transpose()?, Some(("bob".into(), 3)));
    /// assert!(left.next().await.is_none());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`MapError::EncodeKey`] where the parts have no encoding.
    pub fn within<P>(&self, parts: &P) -> Result<Entries<K, V, C>, MapError>
    where
        P: Serialize + ?Sized,
    {
        Ok(self.prefix(self.encoding.encode_beginning(parts)?))
    }
}

/// Keys and values of a [`Map`] being read: what [`Map::entries`] and others return.
///
/// It is a [`Stream`], and needs no more than its own methods to be read. Nothing is
/// asked of replicas before it is polled, and nothing more when it is dropped.
///
/// A [page that fails](MapError::Scan) ends it. Where an entry is
/// [none of the map](MapError::DecodeEntry), that is an error in its place, and it goes
/// on after it.
pub struct Entries<K: ?Sized, V, C = Json> {
    scan: Scan,
    encoding: Arc<Encoding<C>>,
    types: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V, C> Entries<K, V, C> {
    /// Only the keys.
    pub fn keys(self) -> Keys<K, C> {
        Keys {
            scan: self.scan,
            encoding: self.encoding,
            types: PhantomData,
        }
    }

    /// What is left: [`Map::resume`] goes on from it. See [`Scan::rest`].
    pub fn rest(&self) -> Option<KeyRange> {
        self.scan.rest()
    }
}

impl<K, V, C> Entries<K, V, C>
where
    K: Serialize + ToOwned<Owned: DeserializeOwned> + ?Sized,
    V: DeserializeOwned,
    C: Codec,
{
    /// The next key and its value; `None` at the end, and after a page that failed. See
    /// [`Scan::next`].
    ///
    /// # Errors
    ///
    /// [`MapError::Scan`] and [`MapError::DecodeEntry`].
    pub async fn next(&mut self) -> Option<Result<(K::Owned, V), MapError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<K, V, C> Stream for Entries<K, V, C>
where
    K: Serialize + ToOwned<Owned: DeserializeOwned> + ?Sized,
    V: DeserializeOwned,
    C: Codec,
{
    type Item = Result<(K::Owned, V), MapError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.scan).poll_next(cx);
        next.map(|next| {
            Some(next?.map_err(MapError::from).and_then(|(key, value)| {
                let decode = |codec: &C| codec.decode(&value);
                self.encoding.decode_entry::<K, V>(key, decode)
            }))
        })
    }
}

/// Keys of a [`Map`] being read: what [`Map::keys`] and [`Entries::keys`] return. In
/// every way as [`Entries`].
pub struct Keys<K: ?Sized, C = Json> {
    scan: Scan,
    encoding: Arc<Encoding<C>>,
    types: PhantomData<fn(&K)>,
}

impl<K: ?Sized, C> Keys<K, C> {
    /// What is left: [`Map::resume`] goes on from it. See [`Scan::rest`].
    pub fn rest(&self) -> Option<KeyRange> {
        self.scan.rest()
    }
}

impl<K, C> Keys<K, C>
where
    K: Serialize + ToOwned<Owned: DeserializeOwned> + ?Sized,
    C: Codec,
{
    /// The next key; `None` at the end, and after a page that failed. See [`Scan::next`].
    ///
    /// # Errors
    ///
    /// As [`Entries::next`].
    pub async fn next(&mut self) -> Option<Result<K::Owned, MapError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<K, C> Stream for Keys<K, C>
where
    K: Serialize + ToOwned<Owned: DeserializeOwned> + ?Sized,
    C: Codec,
{
    type Item = Result<K::Owned, MapError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.scan).poll_next(cx);
        next.map(|next| {
            Some(next?.map_err(MapError::from).and_then(|(key, _)| {
                let entry = self.encoding.decode_entry::<K, ()>(key, |_| Ok(()));
                Ok(entry?.0)
            }))
        })
    }
}

impl<K: ?Sized, V, C> fmt::Debug for Entries<K, V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries")
            .field("rest", &self.rest())
            .finish_non_exhaustive()
    }
}

impl<K: ?Sized, C> fmt::Debug for Keys<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("rest", &self.rest())
            .finish_non_exhaustive()
    }
}
