//! The encodings of a codec, of which each is held to the same contract.

use kvquorum_core::{Codec, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One of a codec's encodings: that of values, or that of keys.
pub(super) trait Encoding {
    fn encode<T: Serialize + ?Sized>(&self, plain: &T) -> Result<Vec<u8>, CodecError>;
    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError>;
}

impl<C: Codec> Encoding for C {
    fn encode<T: Serialize + ?Sized>(&self, plain: &T) -> Result<Vec<u8>, CodecError> {
        Codec::encode(self, plain)
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        Codec::decode(self, encoded)
    }
}

/// That of keys.
pub(super) struct Keys<'a, C>(pub(super) &'a C);

impl<C: Codec> Encoding for Keys<'_, C> {
    fn encode<T: Serialize + ?Sized>(&self, plain: &T) -> Result<Vec<u8>, CodecError> {
        self.0.encode_key(plain)
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        self.0.decode_key(encoded)
    }
}
