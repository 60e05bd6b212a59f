//! Typed maps: a thin layer that turns keys and values of the application's
//! types into bytes and back.

mod codec;
mod encoding;
mod error;
mod many;
mod ordered;
mod scan;

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use codec::{Codec, CodecError, Json};
pub use error::MapError;
pub use ordered::{KeepsOrder, OrderedKeys};
pub use scan::{Entries, Keys};

use crate::coordinator::{Coordinator, ReadReceipt, WriteReceipt};
use crate::entry::Key;
use crate::transport::Transport;
use encoding::Encoding;

/// A replicated map with keys and values of the application's types. Made by
/// [`Coordinator::map`].
///
/// ```
/// use kvquorum_core::{Coordinator, Replica};
/// use kvquorum_mem::MemStore;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// struct User { name: String, age: u8 }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
/// let users = Coordinator::<3, 2, 2, _>::new(replicas).map::<str, User>("users");
///
/// let alice = User { name: "Alice".into(), age: 34 };
/// users.put("alice", &alice).await?;
/// assert_eq!(users.get("alice").await?, Some(alice));
/// users.delete("alice").await?;
/// assert_eq!(users.get("alice").await?, None);
/// # Ok(()) }
/// ```
///
/// # Types
///
/// A field of a struct names the types of keys and values and the quorums.
/// The type of the transports is `Arc<dyn Transport>` and the codec [`Json`],
/// where nothing else is said:
///
/// ```
/// # use kvquorum_core::Map;
/// # struct Session;
/// # struct Cart;
/// struct Shop {
///     sessions: Map<String, Session, 3, 2, 2>,
///     carts: Map<u64, Cart, 3, 2, 2>,
/// }
/// ```
///
/// [`Coordinator`](Coordinator#quorums-from-a-configuration) shows how to take
/// the quorums from a configuration file.
///
/// Values need `==`: a put compares what it sends with what it was given (rule
/// M-EXACT at [`put`](Self::put)).
///
/// Keys need an order, as in a `BTreeMap`. Types without one, such as `HashSet`
/// and `f64`, have equal values with different bytes, and do not compile:
///
/// ```compile_fail
/// # use std::collections::HashSet;
/// # use kvquorum_core::{Map, MapError};
/// # async fn example(map: &Map<HashSet<u8>, u8, 3, 2, 2>) -> Result<(), MapError> {
/// map.put(&HashSet::from([1, 2]), &3).await?; // or 2, 1?
/// # Ok(()) }
/// ```
///
/// Keys that are equal must serialize alike, or they are different keys here.
/// A few types with an order do not: paths (`a/b` and `a//b`), times with an
/// offset from UTC, decimals with trailing zeros, ordered floats with `0.0`
/// and `-0.0`. Bring such keys into one form first.
///
/// # Ranges
///
/// [`entries`](Self::entries), [`keys`](Self::keys) and [`prefix`](Self::prefix) list
/// what is in the map. Ranges of typed keys take a codec that
/// [keeps their order](KeepsOrder), such as [`OrderedKeys`]:
///
/// ```
/// # use kvquorum_core::{Coordinator, Map, MapError, Transport};
/// use std::sync::Arc;
///
/// use kvquorum_core::{Json, OrderedKeys};
///
/// /// Readings by sensor and time, as JSON.
/// type Readings = Map<(u32, u64), f64, 3, 2, 2, Arc<dyn Transport>, OrderedKeys<Json>>;
///
/// fn readings(coordinator: &Coordinator<3, 2, 2, Arc<dyn Transport>>) -> Readings {
///     coordinator.map_with("readings", OrderedKeys(Json))
/// }
///
/// async fn highest(readings: &Readings, sensor: u32, since: u64) -> Result<f64, MapError> {
///     let mut highest = f64::MIN;
///     let mut entries = readings.range((sensor, since)..=(sensor, u64::MAX))?;
///     while let Some(entry) = entries.next().await {
///         let (_, reading) = entry?;
///         highest = highest.max(reading);
///     }
///     Ok(highest)
/// }
/// ```
///
/// # Names
///
/// Maps with different names share the replicas and their stores, and their
/// keys never collide: an entry's key is the map's name, with `%` and `/` in
/// it written as `%25` and `%2F`, then `/`, then the encoded key. In JSON, the
/// key `"alice"` of the map `users` is `users/"alice"`.
///
/// Two maps of the same name are the same map, and should have the same types
/// and codec.
pub struct Map<
    K: ?Sized,
    V,
    const N: usize,
    const W: usize,
    const R: usize,
    T = Arc<dyn Transport>,
    C = Json,
> {
    coordinator: Coordinator<N, W, R, T>,
    encoding: Arc<Encoding<C>>,
    // As a function of keys to values: a map holds neither.
    types: PhantomData<fn(&K) -> V>,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// The typed map of this name, in JSON.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use kvquorum_core::{Coordinator, Map, Transport};
    /// fn ages(replicas: [Arc<dyn Transport>; 3]) -> Map<str, u8, 3, 2, 2> {
    ///     Coordinator::new(replicas).map("ages")
    /// }
    /// ```
    #[cfg(feature = "json")]
    pub fn map<K: ?Sized, V>(&self, name: &str) -> Map<K, V, N, W, R, T> {
        self.map_with(name, Json)
    }

    /// The typed map of this name, with another codec. [`Codec`] shows how to
    /// write one.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use kvquorum_core::{Codec, Coordinator, Map, Transport};
    /// fn ages<C: Codec>(replicas: [Arc<dyn Transport>; 3], codec: C)
    /// -> Map<str, u8, 3, 2, 2, Arc<dyn Transport>, C> {
    ///     Coordinator::new(replicas).map_with("ages", codec)
    /// }
    /// ```
    pub fn map_with<K: ?Sized, V, C: Codec>(
        &self,
        name: &str,
        codec: C,
    ) -> Map<K, V, N, W, R, T, C> {
        Map {
            coordinator: self.clone(),
            encoding: Arc::new(Encoding::new(name, codec)),
            types: PhantomData,
        }
    }
}

impl<K, V, const N: usize, const W: usize, const R: usize, T, C> Map<K, V, N, W, R, T, C>
where
    K: Serialize + Ord + ToOwned<Owned: DeserializeOwned> + ?Sized,
    V: Serialize + DeserializeOwned + PartialEq,
    T: Transport,
    C: Codec,
{
    /// Writes a value under a key: [`Coordinator::put`].
    ///
    /// - **M-EXACT.** The key and the value are encoded and decoded again before
    ///   anything is sent. Where one of them does not come back equal, by the
    ///   `==` of its type, the put fails; and so it does where the key that comes
    ///   back has another encoding. So what is read is what was put, and two keys
    ///   that differ are never the same entry.
    ///
    /// So no codec takes what is not equal to itself, such as NaN, or a value with
    /// something in a field that serde skips and `==` does not.
    ///
    /// # Errors
    ///
    /// [`MapError::Write`] as [`Coordinator::put`]; [`MapError::EncodeKey`] and
    /// [`MapError::EncodeValue`] by M-EXACT.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, MapError, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let prices = coordinator.map::<str, f64>("prices");
    /// let receipt = prices.put("tea", &2.30).await?;
    /// assert!(receipt.acked() >= 2);
    ///
    /// let error = prices.put("coffee", &f64::NAN).await.unwrap_err();
    /// assert!(matches!(error, MapError::EncodeValue(_)));
    /// # Ok(()) }
    /// ```
    pub async fn put<Q>(&self, key: &Q, value: &V) -> Result<WriteReceipt<N>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let key = self.encode_key(key)?;
        let value = self.encode_value(value)?;
        Ok(self.coordinator.put(key, value).await?)
    }

    /// Writes a value that expires: [`Coordinator::put_with_ttl`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use kvquorum_core::{Map, MapError};
    /// async fn log_in(sessions: &Map<String, u64, 3, 2, 2>, token: &str) -> Result<(), MapError> {
    ///     sessions.put_with_ttl(token, &7, Duration::from_secs(1800)).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn put_with_ttl<Q>(
        &self,
        key: &Q,
        value: &V,
        ttl: Duration,
    ) -> Result<WriteReceipt<N>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let key = self.encode_key(key)?;
        let value = self.encode_value(value)?;
        Ok(self.coordinator.put_with_ttl(key, value, ttl).await?)
    }

    /// Reads the value under a key; `None` where there is none:
    /// [`Coordinator::get`].
    ///
    /// # Errors
    ///
    /// [`MapError::Read`] as [`Coordinator::get`]; [`MapError::EncodeKey`] as
    /// [`put`](Self::put); [`MapError::Decode`] where what is stored is no such
    /// value.
    ///
    /// ```
    /// # use kvquorum_core::{Map, MapError};
    /// async fn is_adult(ages: &Map<String, u8, 3, 2, 2>, name: &str) -> Result<bool, MapError> {
    ///     Ok(ages.get(name).await?.is_some_and(|age| age >= 18))
    /// }
    /// ```
    pub async fn get<Q>(&self, key: &Q) -> Result<Option<V>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let value = self.coordinator.get(self.encode_key(key)?).await?;
        value
            .map(|value| self.encoding.decode_value(&value))
            .transpose()
    }

    /// As [`get`](Self::get), with the receipt: the entry's version, and what
    /// each replica holds. It is that of [`Coordinator::get_with_receipt`], in
    /// which the value is still encoded.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let ages = coordinator.map::<str, u8>("ages");
    /// let written = ages.put("alice", &34).await?;
    ///
    /// let (age, receipt) = ages.get_with_receipt("alice").await?;
    /// assert_eq!(age, Some(34));
    /// assert_eq!(receipt.entry().map(|entry| entry.version), Some(written.version()));
    /// # Ok(()) }
    /// ```
    pub async fn get_with_receipt<Q>(
        &self,
        key: &Q,
    ) -> Result<(Option<V>, ReadReceipt<N>), MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        let key = self.encode_key(key)?;
        let receipt = self.coordinator.get_with_receipt(key).await?;
        let stored = receipt.entry().and_then(|entry| entry.value.as_ref());
        let value = stored
            .map(|value| self.encoding.decode_value(value))
            .transpose()?;
        Ok((value, receipt))
    }

    /// Deletes a key: [`Coordinator::delete`].
    ///
    /// # Errors
    ///
    /// [`MapError::Write`] as [`Coordinator::delete`]; [`MapError::EncodeKey`]
    /// as [`put`](Self::put).
    ///
    /// ```
    /// # use kvquorum_core::{Map, MapError};
    /// async fn log_out(sessions: &Map<String, u64, 3, 2, 2>, token: &str) -> Result<(), MapError> {
    ///     sessions.delete(token).await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn delete<Q>(&self, key: &Q) -> Result<WriteReceipt<N>, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        Ok(self.coordinator.delete(self.encode_key(key)?).await?)
    }

    /// The key under which the entry of a typed key is stored.
    ///
    /// # Errors
    ///
    /// [`MapError::EncodeKey`] as [`put`](Self::put).
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, MapError, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let users = coordinator.map::<str, u8>("users");
    /// let key = users.encode_key("alice")?;
    /// assert_eq!(key.as_bytes(), br#"users/"alice""#);
    /// assert_eq!(users.decode_key(&key)?, "alice");
    /// # Ok::<(), MapError>(())
    /// ```
    pub fn encode_key<Q>(&self, key: &Q) -> Result<Key, MapError>
    where
        K: Borrow<Q>,
        Q: Serialize + Ord + ?Sized,
    {
        self.encoding.encode_key::<K, Q>(key)
    }

    /// The typed key of a stored one: what [`encode_key`](Self::encode_key)
    /// turns into these bytes, and no others.
    ///
    /// # Errors
    ///
    /// [`MapError::Decode`] where it is not a key of this map: it is another
    /// map's, or of another type, or written in a way in which this map does not write it, so
    /// that no [`get`](Self::get) finds it.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Key, MapError, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// # let coordinator = Coordinator::<3, 2, 2, _>::new(replicas);
    /// let ports = coordinator.map::<u16, String>("ports");
    /// assert_eq!(ports.decode_key(&Key::from("ports/8080"))?, 8080);
    ///
    /// for foreign in ["hosts/8080", "ports/\"8080\"", "ports/ 8080"] {
    ///     let error = ports.decode_key(&Key::from(foreign)).unwrap_err();
    ///     assert!(matches!(error, MapError::Decode(_)));
    /// }
    /// # Ok::<(), MapError>(())
    /// ```
    pub fn decode_key(&self, key: &Key) -> Result<K::Owned, MapError> {
        self.encoding.decode_key::<K>(key)
    }

    pub(crate) fn encode_value(&self, value: &V) -> Result<Vec<u8>, MapError> {
        self.encoding.encode_value(value)
    }

    pub(crate) fn decode_value(&self, value: &[u8]) -> Result<V, MapError> {
        self.encoding.decode_value(value)
    }

    /// The coordinator behind the map.
    ///
    /// ```
    /// # use kvquorum_core::Map;
    /// async fn before_exit(carts: &Map<u64, Vec<String>, 3, 2, 2>) {
    ///     carts.coordinator().drain().await;
    /// }
    /// ```
    pub fn coordinator(&self) -> &Coordinator<N, W, R, T> {
        &self.coordinator
    }
}

impl<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C> Clone
    for Map<K, V, N, W, R, T, C>
{
    fn clone(&self) -> Self {
        Self {
            coordinator: self.coordinator.clone(),
            encoding: Arc::clone(&self.encoding),
            types: PhantomData,
        }
    }
}

impl<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C> fmt::Debug
    for Map<K, V, N, W, R, T, C>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("prefix", &self.encoding.prefix())
            .field("coordinator", &self.coordinator)
            .finish_non_exhaustive()
    }
}
