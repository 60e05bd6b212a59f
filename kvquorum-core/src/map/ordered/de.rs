//! Reading.

use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::{END, ESCAPED, NONE, OrderedError, SOME};

type Result<T> = std::result::Result<T, OrderedError>;

/// How deep a key may be nested: bytes that come from elsewhere must not exhaust the
/// stack.
const MAX_DEPTH: u32 = 127;

/// Reads keys.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    depth: u32,
}

impl<'a> Reader<'a> {
    pub(super) fn new(encoded: &'a [u8]) -> Self {
        Self {
            rest: encoded,
            depth: 0,
        }
    }

    /// There must be nothing left.
    pub(super) fn end(&self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            len => Err(OrderedError::Trailing(len)),
        }
    }

    fn take<const LEN: usize>(&mut self) -> Result<[u8; LEN]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(OrderedError::Short)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Whether there is something, or a next part.
    fn is_some(&mut self) -> Result<bool> {
        match self.take()? {
            [NONE] => Ok(false),
            [SOME] => Ok(true),
            [other] => Err(OrderedError::Tag(other)),
        }
    }

    fn unescape(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            match self.take()? {
                [0] => match self.take()? {
                    [ESCAPED] => bytes.push(0),
                    [END] => return Ok(bytes),
                    [other] => return Err(OrderedError::Tag(other)),
                },
                [byte] => bytes.push(byte),
            }
        }
    }

    /// Reads what is within something else.
    fn within<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(OrderedError::Depth);
        }
        self.depth = self.depth.saturating_add(1);
        let read = read(self)?;
        self.depth = self.depth.saturating_sub(1);
        Ok(read)
    }

    fn parts<'de, V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value> {
        self.within(|reader| visitor.visit_seq(Parts { reader, left }))
    }
}

/// An integer, most significant byte first.
macro_rules! integers {
    ($($deserialize:ident, $visit:ident, $plain:ty, $sign:expr;)*) => {
        $(
            fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
                visitor.$visit(<$plain>::from_be_bytes(self.take()?) ^ $sign)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Reader<'_> {
    type Error = OrderedError;

    integers! {
        deserialize_i8, visit_i8, i8, i8::MIN;
        deserialize_i16, visit_i16, i16, i16::MIN;
        deserialize_i32, visit_i32, i32, i32::MIN;
        deserialize_i64, visit_i64, i64, i64::MIN;
        deserialize_i128, visit_i128, i128, i128::MIN;
        deserialize_u8, visit_u8, u8, 0;
        deserialize_u16, visit_u16, u16, 0;
        deserialize_u32, visit_u32, u32, 0;
        deserialize_u64, visit_u64, u64, 0;
        deserialize_u128, visit_u128, u128, 0;
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(OrderedError::NotDescribed)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.take()? {
            [0] => visitor.visit_bool(false),
            [1] => visitor.visit_bool(true),
            [other] => Err(OrderedError::Tag(other)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let flipped = u32::from_be_bytes(self.take()?);
        let sign = 1 << 31;
        let bits = if flipped & sign == 0 {
            !flipped
        } else {
            flipped & !sign
        };
        visitor.visit_f32(f32::from_bits(bits))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let flipped = u64::from_be_bytes(self.take()?);
        let sign = 1 << 63;
        let bits = if flipped & sign == 0 {
            !flipped
        } else {
            flipped & !sign
        };
        visitor.visit_f64(f64::from_bits(bits))
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let point = u32::from_be_bytes(self.take()?);
        visitor.visit_char(char::from_u32(point).ok_or(OrderedError::Char(point))?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_string(String::from_utf8(self.unescape()?)?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_byte_buf(self.unescape()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.is_some()? {
            self.within(|reader| visitor.visit_some(reader))
        } else {
            visitor.visit_none()
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        self.within(|reader| visitor.visit_newtype_struct(reader))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.within(|reader| {
            let mut list = List {
                reader,
                ended: false,
            };
            let read = visitor.visit_seq(&mut list)?;
            list.end()?;
            Ok(read)
        })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.within(|reader| {
            let mut list = List {
                reader,
                ended: false,
            };
            let read = visitor.visit_map(&mut list)?;
            list.end()?;
            Ok(read)
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.parts(len, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.parts(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.parts(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.within(|reader| visitor.visit_enum(reader))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(OrderedError::NotDescribed)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value> {
        Err(OrderedError::NotDescribed)
    }
}

/// A known number of parts, one after the other.
struct Parts<'r, 'a> {
    reader: &'r mut Reader<'a>,
    left: usize,
}

impl<'de> SeqAccess<'de> for Parts<'_, '_> {
    type Error = OrderedError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        seed.deserialize(&mut *self.reader).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// As many parts as there are, each with a byte before it.
struct List<'r, 'a> {
    reader: &'r mut Reader<'a>,
    ended: bool,
}

impl List<'_, '_> {
    fn has_next(&mut self) -> Result<bool> {
        if !self.ended {
            self.ended = !self.reader.is_some()?;
        }
        Ok(!self.ended)
    }

    /// All parts must have been read.
    fn end(&mut self) -> Result<()> {
        if self.has_next()? {
            return Err(OrderedError::LeftOver);
        }
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for List<'_, '_> {
    type Error = OrderedError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if !self.has_next()? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.reader).map(Some)
    }
}

impl<'de> MapAccess<'de> for List<'_, '_> {
    type Error = OrderedError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next_element_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.reader)
    }
}

impl<'de> EnumAccess<'de> for &mut Reader<'_> {
    type Error = OrderedError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let index = u32::from_be_bytes(self.take()?);
        let index: U32Deserializer<OrderedError> = index.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Reader<'_> {
    type Error = OrderedError;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        self.parts(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.parts(fields.len(), visitor)
    }
}
