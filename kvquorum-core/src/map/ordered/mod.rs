//! An encoding of keys that keeps their order.

mod de;
mod ser;

use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{Codec, CodecError, Json};
use de::Reader;
use ser::Writer;

/// A codec whose keys are in order: where one key serializes to something less than
/// another, its encoding is less too, byte by byte; and the encoding of a tuple
/// begins with that of its first parts. So a [`Map`](crate::Map) can read
/// [ranges](crate::Map::range) of typed keys.
///
/// [`OrderedKeys`] is one. [`Json`] is none: it has `10` before `9`.
///
/// ```compile_fail,E0277
/// # use kvquorum_core::{Map, MapError};
/// async fn first(map: &Map<u64, String, 3, 2, 2>) -> Result<(), MapError> {
///     map.range(9..11)?; // the keys are in JSON
///     Ok(())
/// }
/// ```
pub trait KeepsOrder: Codec {}

/// Keys in an encoding that keeps their order, and values as another codec has them:
/// [`Json`], where nothing else is said.
///
/// ```
/// use kvquorum_core::{Codec, CodecError, Json, OrderedKeys};
///
/// let codec = OrderedKeys(Json);
/// let nine = codec.encode_key(&("alice", 9_u64))?;
/// let ten = codec.encode_key(&("alice", 10_u64))?;
/// assert!(nine < ten && nine.starts_with(&codec.encode_key(&("alice",))?));
/// assert_eq!(codec.decode_key::<(String, u64)>(&ten)?, ("alice".into(), 10));
/// # Ok::<(), CodecError>(())
/// ```
///
/// # Which order
///
/// The order is that of what a key serializes to, which is the order that Rust
/// derives, and that of all of the standard library's types: `false` before `true`;
/// integers by size; floats by [`total_cmp`](f64::total_cmp); characters and strings
/// by code points; bytes; `None` before `Some`; sequences and maps part by part, the
/// shorter first; tuples and structs part by part; enums by their variants in the
/// order of the source, and then by what is in them. It is another one for types that
/// are ordered by hand, such as `Reverse`, and for enums with discriminants out of
/// order: a range of such keys holds what lies between the bounds as they serialize.
///
/// # The encoding
///
/// | what | bytes |
/// |---|---|
/// | a boolean | `00` or `01` |
/// | an unsigned integer | its bytes, most significant first |
/// | a signed integer | as an unsigned one, with the sign bit flipped |
/// | a float | its bits as a signed integer: all flipped where it is negative, else the sign bit |
/// | a character | its code point, in four bytes |
/// | a string, bytes | the bytes, with `00 FF` for each `00`, then `00 00` |
/// | none, some | `00`, or `01` and what is in it |
/// | a sequence, a map | `01` and the next part, for each; then `00` |
/// | a tuple, a struct | its parts, one after the other |
/// | a variant of an enum | its index, in four bytes, then what is in it |
///
/// Each key has one encoding, and no other bytes decode to it. Serde's attributes
/// `untagged`, `tag`, `flatten` and `skip_serializing_if` need an encoding that
/// describes itself, which this is not; keys that have them are refused, and so are
/// those that are nested deeper than 127 levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderedKeys<C = Json>(
    /// How values are encoded.
    pub C,
);

impl<C: Codec> Codec for OrderedKeys<C> {
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError> {
        self.0.encode(decoded)
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        self.0.decode(encoded)
    }

    fn encode_key<T: Serialize + ?Sized>(&self, key: &T) -> Result<Vec<u8>, CodecError> {
        let mut writer = Writer::default();
        key.serialize(&mut writer).map_err(CodecError::new)?;
        Ok(writer.into_bytes())
    }

    fn decode_key<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        let mut reader = Reader::new(encoded);
        let key = T::deserialize(&mut reader).map_err(CodecError::new)?;
        reader.end().map_err(CodecError::new)?;
        Ok(key)
    }
}

impl<C: Codec> KeepsOrder for OrderedKeys<C> {}

/// What begins a part of a sequence, or says that there is something.
const SOME: u8 = 1;
/// What ends a sequence, or says that there is nothing.
const NONE: u8 = 0;
/// After a zero byte within a string.
const ESCAPED: u8 = 0xff;
/// After the zero byte that ends a string.
const END: u8 = 0;

/// Why a key has no encoding, or bytes are none of a key.
#[derive(Debug, thiserror::Error)]
enum OrderedError {
    #[error("{0}")]
    Custom(String),
    #[error("the encoding breaks off")]
    Short,
    #[error("{0} bytes follow the encoding")]
    Trailing(usize),
    #[error("{0:#04x} makes no sense here")]
    Tag(u8),
    #[error("{0:#x} is not a character")]
    Char(u32),
    #[error("a string is not UTF-8")]
    Utf8(#[from] std::string::FromUtf8Error),
    #[error("it is nested too deeply")]
    Depth,
    #[error("a sequence has more parts than were read")]
    LeftOver,
    #[error("the encoding does not describe itself")]
    NotDescribed,
}

impl serde::ser::Error for OrderedError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}

impl serde::de::Error for OrderedError {
    fn custom<T: Display>(message: T) -> Self {
        Self::Custom(message.to_string())
    }
}
