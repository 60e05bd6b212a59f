//! Values of every kind in serde's data model, of types made up by proptest.
//!
//! A [`Shape`] stands for a Rust type, and a [`Node`] for a value of one. A
//! node is serialized as serde's derive would serialize such a value, and
//! deserialized by asking for what the shape says, as a derived `Deserialize`
//! would ask.

use std::cell::RefCell;
use std::fmt;

use proptest::collection::vec;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use serde::de::{self, DeserializeSeed, Deserializer, Error, VariantAccess, Visitor};
use serde::ser::{
    SerializeMap, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};
use serde::{Deserialize, Serialize};

/// The names of fields, and of variants.
const NAMES: &[&str] = &["a", "b", "c", "d"];

#[derive(Clone, Debug)]
pub enum Shape {
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Str,
    Bytes,
    Unit,
    UnitStruct,
    Option(Box<Shape>),
    Newtype(Box<Shape>),
    Seq(Box<Shape>),
    Tuple(Vec<Shape>),
    TupleStruct(Vec<Shape>),
    Map(Box<Shape>, Box<Shape>),
    Struct(Vec<Shape>),
    Enum(Vec<Variant>),
}

#[derive(Clone, Debug)]
pub enum Variant {
    Unit,
    Newtype(Shape),
    Tuple(Vec<Shape>),
    Struct(Vec<Shape>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    I128(i128),
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    U128(u128),
    F32(f32),
    F64(f64),
    Char(char),
    Str(String),
    Bytes(Vec<u8>),
    Unit,
    UnitStruct,
    Option(Option<Box<Node>>),
    Newtype(Box<Node>),
    Seq(Vec<Node>),
    Tuple(Vec<Node>),
    TupleStruct(Vec<Node>),
    Map(Vec<(Node, Node)>),
    Struct(Vec<Node>),
    Enum(u32, Box<Payload>),
}

/// What a variant of an enum holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    Unit,
    Newtype(Node),
    Tuple(Vec<Node>),
    Struct(Vec<Node>),
}

pub fn shapes() -> impl Strategy<Value = Shape> {
    use Shape::*;
    let leaf = proptest::sample::select(vec![
        Bool, I8, I16, I32, I64, I128, U8, U16, U32, U64, U128, F32, F64, Char, Str, Bytes, Unit,
        UnitStruct,
    ]);
    leaf.prop_recursive(4, 24, 4, |inner| {
        let boxed = inner.clone().prop_map(Box::new).boxed();
        let some = || vec(inner.clone(), 1..=NAMES.len());
        let variant = prop_oneof![
            Just(Variant::Unit),
            inner.clone().prop_map(Variant::Newtype),
            vec(inner.clone(), 2..=NAMES.len()).prop_map(Variant::Tuple),
            some().prop_map(Variant::Struct),
        ];
        prop_oneof![
            2 => boxed.clone().prop_map(Option),
            1 => boxed.clone().prop_map(Newtype),
            1 => boxed.clone().prop_map(Seq),
            1 => some().prop_map(Tuple),
            1 => vec(inner.clone(), 2..=NAMES.len()).prop_map(TupleStruct),
            2 => (boxed.clone(), boxed).prop_map(|(key, value)| Map(key, value)),
            2 => some().prop_map(Struct),
            2 => vec(variant, 1..=NAMES.len()).prop_map(Enum),
        ]
    })
}

/// A shape and a value of it.
pub fn values() -> impl Strategy<Value = (Shape, Node)> {
    shapes().prop_flat_map(|shape| {
        let nodes = nodes(&shape);
        (Just(shape), nodes)
    })
}

/// A shape and two values of it, which are the same now and then.
pub fn pairs() -> impl Strategy<Value = (Shape, Node, Node)> {
    values().prop_flat_map(|(shape, one)| {
        let other = prop_oneof![4 => nodes(&shape), 1 => Just(one.clone())];
        (Just(shape), Just(one), other)
    })
}

fn nodes(shape: &Shape) -> BoxedStrategy<Node> {
    match shape {
        Shape::Bool => any::<bool>().prop_map(Node::Bool).boxed(),
        Shape::I8 => any::<i8>().prop_map(Node::I8).boxed(),
        Shape::I16 => any::<i16>().prop_map(Node::I16).boxed(),
        Shape::I32 => any::<i32>().prop_map(Node::I32).boxed(),
        Shape::I64 => any::<i64>().prop_map(Node::I64).boxed(),
        Shape::I128 => any::<i128>().prop_map(Node::I128).boxed(),
        Shape::U8 => any::<u8>().prop_map(Node::U8).boxed(),
        Shape::U16 => any::<u16>().prop_map(Node::U16).boxed(),
        Shape::U32 => any::<u32>().prop_map(Node::U32).boxed(),
        Shape::U64 => any::<u64>().prop_map(Node::U64).boxed(),
        Shape::U128 => any::<u128>().prop_map(Node::U128).boxed(),
        // All bits: numbers of every size, both zeros, infinities, NaN.
        Shape::F32 => prop_oneof![
            9 => any::<u32>().prop_map(f32::from_bits),
            1 => proptest::sample::select(vec![0.0, -0.0, f32::NAN, f32::INFINITY]),
        ]
        .prop_map(Node::F32)
        .boxed(),
        Shape::F64 => prop_oneof![
            9 => any::<u64>().prop_map(f64::from_bits),
            1 => proptest::sample::select(vec![0.0, -0.0, f64::NAN, f64::INFINITY]),
        ]
        .prop_map(Node::F64)
        .boxed(),
        Shape::Char => any::<char>().prop_map(Node::Char).boxed(),
        Shape::Str => any::<String>().prop_map(Node::Str).boxed(),
        Shape::Bytes => vec(any::<u8>(), 0..9).prop_map(Node::Bytes).boxed(),
        Shape::Unit => Just(Node::Unit).boxed(),
        Shape::UnitStruct => Just(Node::UnitStruct).boxed(),
        Shape::Option(inner) => proptest::option::of(nodes(inner).prop_map(Box::new))
            .prop_map(Node::Option)
            .boxed(),
        Shape::Newtype(inner) => nodes(inner)
            .prop_map(Box::new)
            .prop_map(Node::Newtype)
            .boxed(),
        Shape::Seq(inner) => vec(nodes(inner), 0..4).prop_map(Node::Seq).boxed(),
        Shape::Tuple(parts) => all(parts).prop_map(Node::Tuple).boxed(),
        Shape::TupleStruct(parts) => all(parts).prop_map(Node::TupleStruct).boxed(),
        Shape::Map(key, value) => vec((nodes(key), nodes(value)), 0..4)
            .prop_map(Node::Map)
            .boxed(),
        Shape::Struct(parts) => all(parts).prop_map(Node::Struct).boxed(),
        Shape::Enum(variants) => {
            let indexed = (0..).zip(variants);
            proptest::strategy::Union::new(indexed.map(|(index, variant)| {
                payloads(variant).prop_map(move |payload| Node::Enum(index, Box::new(payload)))
            }))
            .boxed()
        }
    }
}

fn payloads(variant: &Variant) -> BoxedStrategy<Payload> {
    match variant {
        Variant::Unit => Just(Payload::Unit).boxed(),
        Variant::Newtype(inner) => nodes(inner).prop_map(Payload::Newtype).boxed(),
        Variant::Tuple(parts) => all(parts).prop_map(Payload::Tuple).boxed(),
        Variant::Struct(parts) => all(parts).prop_map(Payload::Struct).boxed(),
    }
}

fn all(shapes: &[Shape]) -> Vec<BoxedStrategy<Node>> {
    shapes.iter().map(nodes).collect()
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(plain) => serializer.serialize_bool(*plain),
            Self::I8(plain) => serializer.serialize_i8(*plain),
            Self::I16(plain) => serializer.serialize_i16(*plain),
            Self::I32(plain) => serializer.serialize_i32(*plain),
            Self::I64(plain) => serializer.serialize_i64(*plain),
            Self::I128(plain) => serializer.serialize_i128(*plain),
            Self::U8(plain) => serializer.serialize_u8(*plain),
            Self::U16(plain) => serializer.serialize_u16(*plain),
            Self::U32(plain) => serializer.serialize_u32(*plain),
            Self::U64(plain) => serializer.serialize_u64(*plain),
            Self::U128(plain) => serializer.serialize_u128(*plain),
            Self::F32(plain) => serializer.serialize_f32(*plain),
            Self::F64(plain) => serializer.serialize_f64(*plain),
            Self::Char(plain) => serializer.serialize_char(*plain),
            Self::Str(plain) => serializer.serialize_str(plain),
            Self::Bytes(plain) => serializer.serialize_bytes(plain),
            Self::Unit => serializer.serialize_unit(),
            Self::UnitStruct => serializer.serialize_unit_struct("UnitStruct"),
            Self::Option(None) => serializer.serialize_none(),
            Self::Option(Some(inner)) => serializer.serialize_some(inner),
            Self::Newtype(inner) => serializer.serialize_newtype_struct("Newtype", inner),
            Self::Seq(parts) => serializer.collect_seq(parts),
            Self::Tuple(parts) => {
                let mut tuple = serializer.serialize_tuple(parts.len())?;
                parts
                    .iter()
                    .try_for_each(|part| tuple.serialize_element(part))?;
                tuple.end()
            }
            Self::TupleStruct(parts) => {
                let mut tuple = serializer.serialize_tuple_struct("TupleStruct", parts.len())?;
                parts
                    .iter()
                    .try_for_each(|part| tuple.serialize_field(part))?;
                tuple.end()
            }
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Self::Struct(parts) => {
                let mut fields = serializer.serialize_struct("Struct", parts.len())?;
                for (name, part) in NAMES.iter().zip(parts) {
                    fields.serialize_field(name, part)?;
                }
                fields.end()
            }
            Self::Enum(index, payload) => serialize_variant(*index, payload, serializer),
        }
    }
}

fn serialize_variant<S: Serializer>(
    index: u32,
    payload: &Payload,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let name = NAMES[index as usize];
    match payload {
        Payload::Unit => serializer.serialize_unit_variant("Enum", index, name),
        Payload::Newtype(inner) => serializer.serialize_newtype_variant("Enum", index, name, inner),
        Payload::Tuple(parts) => {
            let mut tuple = serializer.serialize_tuple_variant("Enum", index, name, parts.len())?;
            parts
                .iter()
                .try_for_each(|part| tuple.serialize_field(part))?;
            tuple.end()
        }
        Payload::Struct(parts) => {
            let mut fields =
                serializer.serialize_struct_variant("Enum", index, name, parts.len())?;
            for (name, part) in NAMES.iter().zip(parts) {
                fields.serialize_field(name, part)?;
            }
            fields.end()
        }
    }
}

/// Deserializes a value of a shape.
#[derive(Clone, Copy)]
struct Of<'a>(&'a Shape);

impl<'de> DeserializeSeed<'de> for Of<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.0 {
            Shape::Bool => Deserialize::deserialize(deserializer).map(Node::Bool),
            Shape::I8 => Deserialize::deserialize(deserializer).map(Node::I8),
            Shape::I16 => Deserialize::deserialize(deserializer).map(Node::I16),
            Shape::I32 => Deserialize::deserialize(deserializer).map(Node::I32),
            Shape::I64 => Deserialize::deserialize(deserializer).map(Node::I64),
            Shape::I128 => Deserialize::deserialize(deserializer).map(Node::I128),
            Shape::U8 => Deserialize::deserialize(deserializer).map(Node::U8),
            Shape::U16 => Deserialize::deserialize(deserializer).map(Node::U16),
            Shape::U32 => Deserialize::deserialize(deserializer).map(Node::U32),
            Shape::U64 => Deserialize::deserialize(deserializer).map(Node::U64),
            Shape::U128 => Deserialize::deserialize(deserializer).map(Node::U128),
            Shape::F32 => Deserialize::deserialize(deserializer).map(Node::F32),
            Shape::F64 => Deserialize::deserialize(deserializer).map(Node::F64),
            Shape::Char => Deserialize::deserialize(deserializer).map(Node::Char),
            Shape::Str => Deserialize::deserialize(deserializer).map(Node::Str),
            Shape::Bytes => deserializer.deserialize_byte_buf(self),
            Shape::Unit => Deserialize::deserialize(deserializer).map(|()| Node::Unit),
            Shape::UnitStruct => deserializer.deserialize_unit_struct("UnitStruct", self),
            Shape::Option(_) => deserializer.deserialize_option(self),
            Shape::Newtype(_) => deserializer.deserialize_newtype_struct("Newtype", self),
            Shape::Seq(_) => deserializer.deserialize_seq(self),
            Shape::Tuple(parts) => deserializer.deserialize_tuple(parts.len(), self),
            Shape::TupleStruct(parts) => {
                deserializer.deserialize_tuple_struct("TupleStruct", parts.len(), self)
            }
            Shape::Map(..) => deserializer.deserialize_map(self),
            Shape::Struct(parts) => {
                deserializer.deserialize_struct("Struct", &NAMES[..parts.len()], self)
            }
            Shape::Enum(variants) => {
                deserializer.deserialize_enum("Enum", &NAMES[..variants.len()], self)
            }
        }
    }
}

impl<'de> Visitor<'de> for Of<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Node, E> {
        self.visit_byte_buf(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Node, E> {
        match self.0 {
            Shape::Bytes => Ok(Node::Bytes(bytes)),
            _ => Err(E::invalid_type(de::Unexpected::Bytes(&bytes), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        match self.0 {
            Shape::UnitStruct => Ok(Node::UnitStruct),
            Shape::Option(_) => Ok(Node::Option(None)),
            _ => Err(E::invalid_type(de::Unexpected::Unit, &self)),
        }
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.0 {
            Shape::Option(inner) => {
                let inner = Of(inner).deserialize(deserializer)?;
                Ok(Node::Option(Some(Box::new(inner))))
            }
            _ => Err(D::Error::invalid_type(de::Unexpected::Option, &self)),
        }
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.0 {
            Shape::Newtype(inner) => {
                let inner = Of(inner).deserialize(deserializer)?;
                Ok(Node::Newtype(Box::new(inner)))
            }
            _ => Err(D::Error::invalid_type(de::Unexpected::NewtypeStruct, &self)),
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        match self.0 {
            Shape::Bytes => {
                let mut bytes = Vec::new();
                while let Some(byte) = access.next_element()? {
                    bytes.push(byte);
                }
                Ok(Node::Bytes(bytes))
            }
            Shape::Seq(inner) => {
                let mut parts = Vec::new();
                while let Some(part) = access.next_element_seed(Of(inner))? {
                    parts.push(part);
                }
                Ok(Node::Seq(parts))
            }
            Shape::Newtype(inner) => {
                let inner = parts_of(std::slice::from_ref(&**inner), access)?.remove(0);
                Ok(Node::Newtype(Box::new(inner)))
            }
            Shape::Tuple(parts) => parts_of(parts, access).map(Node::Tuple),
            Shape::TupleStruct(parts) => parts_of(parts, access).map(Node::TupleStruct),
            Shape::Struct(parts) => parts_of(parts, access).map(Node::Struct),
            _ => Err(A::Error::invalid_type(de::Unexpected::Seq, &self)),
        }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        match self.0 {
            Shape::Map(key, value) => {
                let mut entries = Vec::new();
                while let Some(entry) = access.next_entry_seed(Of(key), Of(value))? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
            Shape::Struct(parts) => fields_of(parts, access).map(Node::Struct),
            _ => Err(A::Error::invalid_type(de::Unexpected::Map, &self)),
        }
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, access: A) -> Result<Node, A::Error> {
        let Shape::Enum(variants) = self.0 else {
            return Err(A::Error::invalid_type(de::Unexpected::Enum, &self));
        };
        let (index, access) = access.variant_seed(Name)?;
        let payload = match variants.get(index as usize) {
            None => return Err(A::Error::custom("no such variant")),
            Some(Variant::Unit) => access.unit_variant().map(|()| Payload::Unit),
            Some(Variant::Newtype(inner)) => {
                access.newtype_variant_seed(Of(inner)).map(Payload::Newtype)
            }
            Some(Variant::Tuple(parts)) => access
                .tuple_variant(parts.len(), Parts(parts))
                .map(Payload::Tuple),
            Some(Variant::Struct(parts)) => access
                .struct_variant(&NAMES[..parts.len()], Parts(parts))
                .map(Payload::Struct),
        };
        Ok(Node::Enum(index, Box::new(payload?)))
    }
}

/// What a tuple variant or a struct variant holds.
struct Parts<'a>(&'a [Shape]);

impl<'de> Visitor<'de> for Parts<'_> {
    type Value = Vec<Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, access: A) -> Result<Vec<Node>, A::Error> {
        parts_of(self.0, access)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, access: A) -> Result<Vec<Node>, A::Error> {
        fields_of(self.0, access)
    }
}

fn parts_of<'de, A: de::SeqAccess<'de>>(
    shapes: &[Shape],
    mut access: A,
) -> Result<Vec<Node>, A::Error> {
    let missing = || A::Error::custom("a part is missing");
    let part = |shape| access.next_element_seed(Of(shape))?.ok_or_else(missing);
    shapes.iter().map(part).collect()
}

fn fields_of<'de, A: de::MapAccess<'de>>(
    shapes: &[Shape],
    mut access: A,
) -> Result<Vec<Node>, A::Error> {
    let mut fields = vec![None; shapes.len()];
    while let Some(index) = access.next_key_seed(Name)? {
        let unknown = || A::Error::custom("no such field");
        let shape = shapes.get(index as usize).ok_or_else(unknown)?;
        fields[index as usize] = Some(access.next_value_seed(Of(shape))?);
    }
    let missing = || A::Error::custom("a field is missing");
    fields
        .into_iter()
        .map(|field| field.ok_or_else(missing))
        .collect()
}

/// The name of a field or of a variant, or its index, as an index.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_u64<E: Error>(self, index: u64) -> Result<u32, E> {
        u32::try_from(index).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<u32, E> {
        let names = (0..).zip(NAMES);
        let mut named = names.filter(|(_, known)| **known == name);
        let unknown = || E::custom("an unknown name");
        named.next().map(|(index, _)| index).ok_or_else(unknown)
    }
}

thread_local! {
    static SHAPE: RefCell<Shape> = const { RefCell::new(Shape::Unit) };
}

/// A value of the shape that [`Tree::deserializes_as`] set for this thread.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Tree(pub Node);

impl Tree {
    pub fn deserializes_as(shape: Shape) {
        SHAPE.set(shape);
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SHAPE.with_borrow(|shape| Of(shape).deserialize(deserializer).map(Self))
    }
}
