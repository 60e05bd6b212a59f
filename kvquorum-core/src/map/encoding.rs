//! How the keys and values of one map become bytes: rule M-EXACT.

use std::borrow::Borrow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{Codec, CodecError};
use super::error::{Inexact, MapError, OtherMap};
use crate::entry::Key;
use crate::range::KeyRange;

/// The name of a map, and its codec.
pub(super) struct Encoding<C> {
    /// The escaped name and the slash after it.
    prefix: String,
    codec: C,
}

impl<C> Encoding<C> {
    pub(super) fn new(name: &str, codec: C) -> Self {
        let prefix = name.replace('%', "%25").replace('/', "%2F") + "/";
        Self { prefix, codec }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key that is stored for an encoded one, or the beginning of it.
    fn stored(&self, encoded: &[u8]) -> Key {
        Key::from([self.prefix.as_bytes(), encoded].concat())
    }

    /// Of the map's keys, those whose encoding begins with these bytes.
    pub(super) fn range(&self, encoded: &[u8]) -> KeyRange {
        KeyRange::prefix(self.stored(encoded))
    }
}

impl<C: Codec> Encoding<C> {
    pub(super) fn encode_key<K, Q>(&self, key: &Q) -> Result<Key, MapError>
    where
        K: Serialize + ToOwned<Owned: DeserializeOwned> + Borrow<Q> + ?Sized,
        Q: Serialize + Eq + ?Sized,
    {
        let encode = || {
            let encoded = self.codec.encode_key(key)?;
            let decoded: K::Owned = match self.codec.decode_key(&encoded) {
                Ok(decoded) => decoded,
                Err(error) => return Err(CodecError::new(Inexact::Undecodable(error))),
            };
            let decoded: &K = decoded.borrow();
            // Comparing bytes would not do: `Some(None)` and `None` have the same in
            // JSON.
            if decoded.borrow() != key {
                return Err(CodecError::new(Inexact::Changed));
            }
            self.check_encoding(decoded, &encoded)?;
            Ok(self.stored(&encoded))
        };
        encode().map_err(MapError::EncodeKey)
    }

    pub(super) fn decode_key<K>(&self, key: &Key) -> Result<K::Owned, MapError>
    where
        K: Serialize + ToOwned<Owned: DeserializeOwned> + ?Sized,
    {
        self.try_decode_key::<K>(key).map_err(MapError::Decode)
    }

    fn try_decode_key<K>(&self, key: &Key) -> Result<K::Owned, CodecError>
    where
        K: Serialize + ToOwned<Owned: DeserializeOwned> + ?Sized,
    {
        let Some(encoded) = key.as_bytes().strip_prefix(self.prefix.as_bytes()) else {
            return Err(CodecError::new(OtherMap));
        };
        let decoded: K::Owned = self.codec.decode_key(encoded)?;
        self.check_encoding(decoded.borrow(), encoded)?;
        Ok(decoded)
    }

    /// A key has one encoding, that of `K`: not that of what it was borrowed as,
    /// and none that only decodes to the same.
    fn check_encoding<K>(&self, key: &K, encoded: &[u8]) -> Result<(), CodecError>
    where
        K: Serialize + ?Sized,
    {
        if self.codec.encode_key(key)? == encoded {
            Ok(())
        } else {
            Err(CodecError::new(Inexact::NotTheOnly))
        }
    }

    pub(super) fn encode_value<V>(&self, value: &V) -> Result<Vec<u8>, MapError>
    where
        V: Serialize + DeserializeOwned + PartialEq,
    {
        let encode = || {
            let encoded = self.codec.encode(value)?;
            match self.codec.decode::<V>(&encoded) {
                Ok(decoded) if decoded == *value => Ok(encoded),
                Ok(_) => Err(CodecError::new(Inexact::Changed)),
                Err(error) => Err(CodecError::new(Inexact::Undecodable(error))),
            }
        };
        encode().map_err(MapError::EncodeValue)
    }

    pub(super) fn decode_value<V: DeserializeOwned>(&self, value: &[u8]) -> Result<V, MapError> {
        self.codec.decode(value).map_err(MapError::Decode)
    }

    /// A key that a scan came to, and what `decode` makes of its value.
    pub(super) fn decode_entry<K, V>(
        &self,
        key: Key,
        decode: impl FnOnce(&C) -> Result<V, CodecError>,
    ) -> Result<(K::Owned, V), MapError>
    where
        K: Serialize + ToOwned<Owned: DeserializeOwned> + ?Sized,
    {
        let decoded = self.try_decode_key::<K>(&key);
        let decoded = decoded.and_then(|decoded| Ok((decoded, decode(&self.codec)?)));
        decoded.map_err(|source| MapError::DecodeEntry { key, source })
    }

    /// The beginning of a key's encoding that this encodes to.
    pub(super) fn encode_beginning<P: Serialize + ?Sized>(
        &self,
        beginning: &P,
    ) -> Result<Vec<u8>, MapError> {
        let encoded = self.codec.encode_key(beginning);
        encoded.map_err(MapError::EncodeKey)
    }
}
