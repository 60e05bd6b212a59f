//! Typed maps: a thin layer that turns keys and values of the application's
//! types into bytes and back.

use std::borrow::Borrow;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::coordinator::{Coordinator, ReadError, WriteError, WriteReceipt};
use crate::entry::Key;
use crate::transport::Transport;

/// Turns serde types into bytes and back.
pub trait Codec: Send + Sync + 'static {
    /// The bytes of a key or a value.
    ///
    /// Equal keys must have equal bytes, and different keys different ones.
    ///
    /// # Errors
    ///
    /// Where the type has no form in this encoding.
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError>;

    /// The value of these bytes.
    ///
    /// # Errors
    ///
    /// Where the bytes are not the encoding of such a value.
    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError>;
}

/// A key or a value could not be turned into bytes, or bytes into a value. The
/// encoding's own error is the [source](Error::source).
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CodecError(Box<dyn Error + Send + Sync>);

impl CodecError {
    /// Wraps an encoding's own error.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// JSON, the default: what it writes can be read with curl.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json;

#[cfg(feature = "json")]
impl Codec for Json {
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError> {
        serde_json::to_vec(decoded).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(encoded).map_err(CodecError::new)
    }
}

/// A typed operation that failed: the coordinator's error, or the codec's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError<E> {
    /// The coordinator's error.
    #[error(transparent)]
    Quorum(#[from] E),
    /// The key or the value has no encoding. Nothing was sent.
    #[error("not encoded, and nothing was sent")]
    Encode(#[source] CodecError),
    /// What is stored is not the encoding of a value of this type.
    #[error("what is stored under the key is no value of this map")]
    Decode(#[source] CodecError),
}

/// A replicated map with keys and values of the application's types. Made by
/// [`Coordinator::map`].
///
/// Maps with different names share the replicas and their stores, and their
/// keys never collide: an entry's key is the map's name, with `%` and `/` in
/// it written as `%25` and `%2F`, then `/`, then the encoded key. In JSON, the
/// key `"alice"` of the map `users` is `users/"alice"`.
///
/// Two maps of the same name are the same map, and should have the same types
/// and codec.
///
/// ```
/// # use std::sync::Arc;
/// # use kvquorum_core::{Coordinator, Transport};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct User { name: String, age: u8 }
///
/// # async fn example(a: Arc<dyn Transport>, b: Arc<dyn Transport>, c: Arc<dyn Transport>)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let coordinator = Coordinator::<3, 2, 2, _>::new([a, b, c]);
/// let users = coordinator.map::<String, User>("users");
/// users.put("alice", &User { name: "Alice".into(), age: 34 }).await?;
/// let alice = users.get("alice").await?;
/// users.delete("alice").await?;
/// # Ok(()) }
/// ```
pub struct Map<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C> {
    coordinator: Coordinator<N, W, R, T>,
    /// The escaped name and the slash after it.
    prefix: String,
    codec: C,
    // As a function of keys to values: a map holds neither.
    types: PhantomData<fn(&K) -> V>,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// The typed map of this name, in JSON.
    #[cfg(feature = "json")]
    pub fn map<K: ?Sized, V>(&self, name: &str) -> Map<K, V, N, W, R, T, Json> {
        self.map_with(name, Json)
    }

    /// The typed map of this name, in another encoding.
    pub fn map_with<K: ?Sized, V, C: Codec>(
        &self,
        name: &str,
        codec: C,
    ) -> Map<K, V, N, W, R, T, C> {
        Map {
            coordinator: self.clone(),
            prefix: name.replace('%', "%25").replace('/', "%2F") + "/",
            codec,
            types: PhantomData,
        }
    }
}

impl<K, V, const N: usize, const W: usize, const R: usize, T, C> Map<K, V, N, W, R, T, C>
where
    K: Serialize + ?Sized,
    V: Serialize + DeserializeOwned,
    T: Transport,
    C: Codec,
{
    /// Writes a value under a key: [`Coordinator::put`].
    ///
    /// # Errors
    ///
    /// As [`Coordinator::put`], or where key or value have no encoding.
    pub async fn put<Q>(&self, key: &Q, value: &V) -> Result<WriteReceipt<N>, MapError<WriteError>>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        let key = self.encode_key(key).map_err(MapError::Encode)?;
        let value = self.codec.encode(value).map_err(MapError::Encode)?;
        Ok(self.coordinator.put(key, value).await?)
    }

    /// Reads the value under a key: [`Coordinator::get`].
    ///
    /// # Errors
    ///
    /// As [`Coordinator::get`], or where the key has no encoding or what is
    /// stored is no such value.
    pub async fn get<Q>(&self, key: &Q) -> Result<Option<V>, MapError<ReadError>>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        let key = self.encode_key(key).map_err(MapError::Encode)?;
        let value = self.coordinator.get(key).await?;
        value
            .map(|value| self.codec.decode(&value).map_err(MapError::Decode))
            .transpose()
    }

    /// Deletes a key: [`Coordinator::delete`].
    ///
    /// # Errors
    ///
    /// As [`Coordinator::delete`], or where the key has no encoding.
    pub async fn delete<Q>(&self, key: &Q) -> Result<WriteReceipt<N>, MapError<WriteError>>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        let key = self.encode_key(key).map_err(MapError::Encode)?;
        Ok(self.coordinator.delete(key).await?)
    }

    /// The key under which the entry of a typed key is stored.
    ///
    /// # Errors
    ///
    /// Where the key has no encoding.
    pub fn encode_key<Q>(&self, key: &Q) -> Result<Key, CodecError>
    where
        K: Borrow<Q>,
        Q: Serialize + ?Sized,
    {
        let mut encoded = self.prefix.clone().into_bytes();
        encoded.append(&mut self.codec.encode(key)?);
        Ok(Key::from(encoded))
    }

    /// The coordinator behind the map.
    pub fn coordinator(&self) -> &Coordinator<N, W, R, T> {
        &self.coordinator
    }
}

impl<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C: Clone> Clone
    for Map<K, V, N, W, R, T, C>
{
    fn clone(&self) -> Self {
        Self {
            coordinator: self.coordinator.clone(),
            prefix: self.prefix.clone(),
            codec: self.codec.clone(),
            types: PhantomData,
        }
    }
}

impl<K: ?Sized, V, const N: usize, const W: usize, const R: usize, T, C> fmt::Debug
    for Map<K, V, N, W, R, T, C>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("prefix", &self.prefix)
            .field("coordinator", &self.coordinator)
            .finish_non_exhaustive()
    }
}
