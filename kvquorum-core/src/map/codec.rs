//! Codecs: how keys and values of the application's types become bytes.

use std::error::Error;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Turns keys and values into bytes and back.
///
/// A codec need not have an encoding for everything: a [`Map`](crate::Map)
/// decodes each encoding before it is sent, and refuses what does not come back
/// equal. The conformance suite of
/// `kvquorum-testing` tests the contract below for a
/// codec of your own.
///
/// ```
/// use kvquorum_core::{Codec, CodecError};
/// use kvquorum_testing::conformance;
/// use serde::{Serialize, de::DeserializeOwned};
///
/// #[derive(Clone, Copy)]
/// struct Postcard;
///
/// impl Codec for Postcard {
///     fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError> {
///         postcard::to_stdvec(decoded).map_err(CodecError::new)
///     }
///
///     fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
///         match postcard::take_from_bytes(encoded).map_err(CodecError::new)? {
///             (decoded, []) => Ok(decoded),
///             _ => Err(CodecError::new("there are bytes after the end")),
///         }
///     }
/// }
///
/// conformance::codec(&Postcard);
/// ```
pub trait Codec: Send + Sync + 'static {
    /// The bytes of a key or a value.
    ///
    /// # Contract
    ///
    /// - The bytes depend on nothing but what the key or value serializes to.
    /// - Booleans, integers of up to 64 bits, finite floats, characters and
    ///   strings come back from [`Codec::decode`], bit for bit.
    /// - So do options, sequences, tuples, structs, enums, and maps with
    ///   strings for keys, of what comes back; only an option that holds an
    ///   empty option need not.
    /// - What has no encoding is an error, and never a panic.
    ///
    /// # Errors
    ///
    /// Where it has no encoding.
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError>;

    /// The key or the value of these bytes.
    ///
    /// # Contract
    ///
    /// - No bytes make it panic.
    /// - An encoding with a zero byte after it is an error.
    ///
    /// # Errors
    ///
    /// Where the bytes are no encoding of such a key or value.
    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError>;

    /// The bytes of a key: those of [`encode`](Self::encode), unless a codec has
    /// another encoding for keys, as [`OrderedKeys`](crate::OrderedKeys) has. The
    /// contract is the same.
    ///
    /// # Errors
    ///
    /// As `encode`.
    fn encode_key<T: Serialize + ?Sized>(&self, key: &T) -> Result<Vec<u8>, CodecError> {
        self.encode(key)
    }

    /// The key of these bytes: what [`decode`](Self::decode) makes of them, unless a
    /// codec has another encoding for keys. The contract is the same.
    ///
    /// # Errors
    ///
    /// As `decode`.
    fn decode_key<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        self.decode(encoded)
    }
}

/// Why a codec could not encode or decode: the encoding's own error, in its
/// own words.
///
/// ```
/// # use kvquorum_core::CodecError;
/// let error = CodecError::new("there are bytes after the end");
/// assert_eq!(error.to_string(), "there are bytes after the end");
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CodecError(Box<dyn Error + Send + Sync>);

impl CodecError {
    /// Wraps an encoding's own error.
    pub fn new(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

/// JSON, the default codec: what it writes can be read with curl.
///
/// Its floats are exact. It has no NaN and no infinity, no `Some` of what is
/// itself `null`, such as `Some(None)`, no maps whose keys are neither strings
/// nor numbers nor booleans, and nothing that is nested deeper than 127 levels: a [`Map`](crate::Map)
/// refuses these.
///
/// Without the feature `json` it is there, but is no [`Codec`].
///
/// ```
/// # use kvquorum_core::{Codec, CodecError, Json};
/// let encoded = Json.encode(&("alice", 34))?;
/// assert_eq!(encoded, br#"["alice",34]"#);
/// assert_eq!(Json.decode::<(String, u8)>(&encoded)?, ("alice".to_owned(), 34));
/// # Ok::<(), CodecError>(())
/// ```
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
