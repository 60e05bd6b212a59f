//! `OrderedKeys`: an encoding of keys that keeps their order. Over serde's whole data
//! model.

#[allow(dead_code, reason = "other tests use more of it")]
mod data_model;

use std::cmp::Ordering;
use std::fmt::Debug;

use data_model::{Node, Payload, Shape, Tree, pairs, values};
use kvquorum_core::{Codec, CodecError, Json, OrderedKeys};
use kvquorum_testing::conformance;
use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const CODEC: OrderedKeys<Json> = OrderedKeys(Json);

/// The order that Rust derives for the type that a shape stands for, and the total one
/// of floats.
fn order(one: &Node, other: &Node) -> Ordering {
    match (one, other) {
        (Node::Bool(one), Node::Bool(other)) => one.cmp(other),
        (Node::I8(one), Node::I8(other)) => one.cmp(other),
        (Node::I16(one), Node::I16(other)) => one.cmp(other),
        (Node::I32(one), Node::I32(other)) => one.cmp(other),
        (Node::I64(one), Node::I64(other)) => one.cmp(other),
        (Node::I128(one), Node::I128(other)) => one.cmp(other),
        (Node::U8(one), Node::U8(other)) => one.cmp(other),
        (Node::U16(one), Node::U16(other)) => one.cmp(other),
        (Node::U32(one), Node::U32(other)) => one.cmp(other),
        (Node::U64(one), Node::U64(other)) => one.cmp(other),
        (Node::U128(one), Node::U128(other)) => one.cmp(other),
        (Node::F32(one), Node::F32(other)) => one.total_cmp(other),
        (Node::F64(one), Node::F64(other)) => one.total_cmp(other),
        (Node::Char(one), Node::Char(other)) => one.cmp(other),
        (Node::Str(one), Node::Str(other)) => one.cmp(other),
        (Node::Bytes(one), Node::Bytes(other)) => one.cmp(other),
        (Node::Unit, Node::Unit) | (Node::UnitStruct, Node::UnitStruct) => Ordering::Equal,
        (Node::Option(one), Node::Option(other)) => match (one, other) {
            (Some(one), Some(other)) => order(one, other),
            (one, other) => one.is_some().cmp(&other.is_some()),
        },
        (Node::Newtype(one), Node::Newtype(other)) => order(one, other),
        (Node::Seq(one), Node::Seq(other))
        | (Node::Tuple(one), Node::Tuple(other))
        | (Node::TupleStruct(one), Node::TupleStruct(other))
        | (Node::Struct(one), Node::Struct(other)) => order_all(one, other),
        (Node::Map(one), Node::Map(other)) => {
            let flat = |entries: &[(Node, Node)]| -> Vec<Node> {
                let pairs = entries.iter();
                pairs
                    .flat_map(|(key, value)| [key.clone(), value.clone()])
                    .collect()
            };
            order_all(&flat(one), &flat(other))
        }
        (Node::Enum(one, one_has), Node::Enum(other, other_has)) => one
            .cmp(other)
            .then_with(|| order_all(&parts(one_has), &parts(other_has))),
        _ => panic!("{one:?} and {other:?} are of different shapes"),
    }
}

fn order_all(one: &[Node], other: &[Node]) -> Ordering {
    let parts = one.iter().zip(other).map(|(one, other)| order(one, other));
    let differing = parts.into_iter().find(|ordering| ordering.is_ne());
    differing.unwrap_or(one.len().cmp(&other.len()))
}

fn parts(payload: &Payload) -> Vec<Node> {
    match payload {
        Payload::Unit => Vec::new(),
        Payload::Newtype(inner) => vec![inner.clone()],
        Payload::Tuple(parts) | Payload::Struct(parts) => parts.clone(),
    }
}

fn decode(shape: &Shape, encoded: &[u8]) -> Result<Node, CodecError> {
    Tree::deserializes_as(shape.clone());
    CODEC.decode_key::<Tree>(encoded).map(|tree| tree.0)
}

fn encode(node: &Node) -> Vec<u8> {
    CODEC.encode_key(node).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Bugs: a sign bit that is not flipped; bytes in the other order; a string that
    /// ends where a zero byte is in it, or is longer than another and still before it;
    /// `Some` before `None`.
    #[test]
    fn encodings_are_in_the_order_of_keys((_shape, one, other) in pairs()) {
        prop_assert_eq!(encode(&one).cmp(&encode(&other)), order(&one, &other));
    }

    /// M-EXACT. Bugs: a key that comes back as another; one that has no encoding.
    #[test]
    fn keys_come_back((shape, node) in values()) {
        let decoded = decode(&shape, &encode(&node)).unwrap();
        prop_assert_eq!(order(&decoded, &node), Ordering::Equal);
        prop_assert_eq!(format!("{decoded:?}"), format!("{node:?}"));
    }

    /// M-EXACT. Bugs: two encodings of one key; a panic; bytes that are left over.
    #[test]
    fn a_key_has_one_encoding(
        (shape, node) in values(),
        places in vec((any::<proptest::sample::Index>(), proptest::sample::select(vec![0, 1, 2, 0x7f, 0x80, 0xff])), 0..3),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = encode(&node);
        for (place, byte) in &places {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = *byte;
            }
        }
        bytes.truncate(cut.index(2 * bytes.len() + 1));
        if let Ok(decoded) = decode(&shape, &bytes) {
            prop_assert_eq!(encode(&decoded), bytes);
        }
    }

    /// What ranges of the parts of a key are made of. Bug: the end of a string is
    /// greater than what may be in a longer one.
    #[test]
    fn a_tuple_begins_with_its_parts(name: String, number: i64, other: String) {
        let begins = |name: &str, key: &(String, i64)| {
            CODEC.encode_key(key).unwrap().starts_with(&CODEC.encode_key(&(name,)).unwrap())
        };
        let key = (name.clone(), number);
        prop_assert!(begins(&name, &key));
        prop_assert_eq!(begins(&other, &key), name == other);
    }
}

/// The encoding is a promise to whoever reads the stores. Bug: it changes.
#[test]
fn the_encoding_is_as_documented() {
    #[derive(Serialize)]
    enum Kind {
        #[expect(dead_code, reason = "it is there to be first")]
        First,
        Second(Option<bool>),
    }
    let is = |key: &dyn Fn() -> Vec<u8>, bytes: &[u8]| assert_eq!(key(), bytes);
    let of = |encoded: Result<Vec<u8>, CodecError>| encoded.unwrap();
    is(&|| of(CODEC.encode_key(&258_u16)), &[1, 2]);
    is(&|| of(CODEC.encode_key(&-1_i16)), &[0x7f, 0xff]);
    is(&|| of(CODEC.encode_key(&1.0_f32)), &[0xbf, 0x80, 0, 0]);
    is(
        &|| of(CODEC.encode_key(&-1.0_f32)),
        &[0x40, 0x7f, 0xff, 0xff],
    );
    is(&|| of(CODEC.encode_key(&'a')), &[0, 0, 0, b'a']);
    is(&|| of(CODEC.encode_key("a\0b")), b"a\0\xffb\0\0");
    is(&|| of(CODEC.encode_key(&("a", true))), b"a\0\0\x01");
    is(&|| of(CODEC.encode_key(&vec![7_u8, 8])), &[1, 7, 1, 8, 0]);
    is(
        &|| of(CODEC.encode_key(&Kind::Second(Some(false)))),
        &[0, 0, 0, 1, 1, 0],
    );
    is(&|| of(CODEC.encode_key(&None::<u8>)), &[0]);
}

/// Bug: values are encoded as keys are, and can no longer be read with curl.
#[test]
fn values_stay_as_the_other_codec_has_them() {
    assert_eq!(CODEC.encode(&(1, "a")).unwrap(), b"[1,\"a\"]");
}

#[test]
fn it_conforms() {
    conformance::codec(&OrderedKeys(Json));
    conformance::codec(&OrderedKeys::<Json>::default());
}

fn refused<T: Serialize + DeserializeOwned + Debug>(key: &T) -> bool {
    let encoded = CODEC.encode_key(key);
    encoded
        .and_then(|encoded| CODEC.decode_key::<T>(&encoded))
        .is_err()
}

/// Bugs: a key whose parts are not what they seem, or a stack that overflows.
#[test]
fn what_has_no_such_encoding_is_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct LeavesOut {
        #[serde(skip_serializing_if = "Option::is_none")]
        first: Option<u8>,
        second: u8,
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Nested(Vec<Nested>);
    assert!(refused(&Untagged::Number(1)));
    let leaves_out = |first| LeavesOut { first, second: 1 };
    assert!(refused(&leaves_out(None)) && !refused(&leaves_out(Some(1))));
    let nested = |depth| (0..depth).fold(Nested(Vec::new()), |inner, _| Nested(vec![inner]));
    assert!(!refused(&nested(50)) && refused(&nested(100)));
    let hostile = vec![1; 1_000_000];
    assert!(CODEC.decode_key::<Nested>(&hostile).is_err());
}
