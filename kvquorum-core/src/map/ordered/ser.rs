//! Writing.

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{END, ESCAPED, NONE, OrderedError, SOME};

type Result<T = ()> = std::result::Result<T, OrderedError>;

/// Writes keys.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn write(&mut self, bytes: impl AsRef<[u8]>) -> Result {
        self.0.extend_from_slice(bytes.as_ref());
        Ok(())
    }

    fn escape(&mut self, bytes: &[u8]) -> Result {
        for byte in bytes {
            self.0.push(*byte);
            if *byte == 0 {
                self.0.push(ESCAPED);
            }
        }
        self.write([0, END])
    }
}

impl Serializer for &mut Writer {
    type Ok = ();
    type Error = OrderedError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, plain: bool) -> Result {
        self.write([u8::from(plain)])
    }

    fn serialize_i8(self, plain: i8) -> Result {
        self.write((plain ^ i8::MIN).to_be_bytes())
    }

    fn serialize_i16(self, plain: i16) -> Result {
        self.write((plain ^ i16::MIN).to_be_bytes())
    }

    fn serialize_i32(self, plain: i32) -> Result {
        self.write((plain ^ i32::MIN).to_be_bytes())
    }

    fn serialize_i64(self, plain: i64) -> Result {
        self.write((plain ^ i64::MIN).to_be_bytes())
    }

    fn serialize_i128(self, plain: i128) -> Result {
        self.write((plain ^ i128::MIN).to_be_bytes())
    }

    fn serialize_u8(self, plain: u8) -> Result {
        self.write([plain])
    }

    fn serialize_u16(self, plain: u16) -> Result {
        self.write(plain.to_be_bytes())
    }

    fn serialize_u32(self, plain: u32) -> Result {
        self.write(plain.to_be_bytes())
    }

    fn serialize_u64(self, plain: u64) -> Result {
        self.write(plain.to_be_bytes())
    }

    fn serialize_u128(self, plain: u128) -> Result {
        self.write(plain.to_be_bytes())
    }

    fn serialize_f32(self, plain: f32) -> Result {
        let bits = plain.to_bits();
        let sign = 1 << 31;
        let flipped = if bits & sign == 0 { bits | sign } else { !bits };
        self.write(flipped.to_be_bytes())
    }

    fn serialize_f64(self, plain: f64) -> Result {
        let bits = plain.to_bits();
        let sign = 1 << 63;
        let flipped = if bits & sign == 0 { bits | sign } else { !bits };
        self.write(flipped.to_be_bytes())
    }

    fn serialize_char(self, plain: char) -> Result {
        self.write(u32::from(plain).to_be_bytes())
    }

    fn serialize_str(self, plain: &str) -> Result {
        self.escape(plain.as_bytes())
    }

    fn serialize_bytes(self, plain: &[u8]) -> Result {
        self.escape(plain)
    }

    fn serialize_none(self) -> Result {
        self.write([NONE])
    }

    fn serialize_some<T: Serialize + ?Sized>(self, inner: &T) -> Result {
        self.write([SOME])?;
        inner.serialize(self)
    }

    fn serialize_unit(self) -> Result {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result {
        self.serialize_u32(index)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, inner: &T) -> Result {
        inner.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        inner: &T,
    ) -> Result {
        self.write(index.to_be_bytes())?;
        inner.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self> {
        self.write(index.to_be_bytes())?;
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self> {
        self.write(index.to_be_bytes())?;
        Ok(self)
    }
}

impl SerializeSeq for &mut Writer {
    type Ok = ();
    type Error = OrderedError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, part: &T) -> Result {
        self.write([SOME])?;
        part.serialize(&mut **self)
    }

    fn end(self) -> Result {
        self.write([NONE])
    }
}

impl SerializeMap for &mut Writer {
    type Ok = ();
    type Error = OrderedError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result {
        self.write([SOME])?;
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result {
        self.write([NONE])
    }
}

/// What has a known number of parts: they follow each other.
macro_rules! parts {
    ($of:ident, $part:ident) => {
        impl $of for &mut Writer {
            type Ok = ();
            type Error = OrderedError;

            fn $part<T: Serialize + ?Sized>(&mut self, part: &T) -> Result {
                part.serialize(&mut **self)
            }

            fn end(self) -> Result {
                Ok(())
            }
        }
    };
}

parts!(SerializeTuple, serialize_element);
parts!(SerializeTupleStruct, serialize_field);
parts!(SerializeTupleVariant, serialize_field);

macro_rules! fields {
    ($of:ident) => {
        impl $of for &mut Writer {
            type Ok = ();
            type Error = OrderedError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                _: &'static str,
                field: &T,
            ) -> Result {
                field.serialize(&mut **self)
            }

            fn end(self) -> Result {
                Ok(())
            }
        }
    };
}

fields!(SerializeStruct);
fields!(SerializeStructVariant);
