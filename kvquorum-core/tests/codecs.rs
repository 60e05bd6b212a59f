//! M-EXACT: what a typed map gives back is what was put, or the put fails. Over
//! serde's whole data model, for each codec.
#![cfg(feature = "json")]

mod data_model;
mod support;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use data_model::{Node, Payload, Shape, Tree, pairs, values};
use kvquorum_core::{Codec, CodecError, Coordinator, Json, Key, MapError};
use kvquorum_testing::conformance;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use proptest::test_runner::TestCaseError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use support::{Link, NOON, Wall, links};

/// A binary codec, as an application may bring one.
#[derive(Clone, Copy)]
struct Postcard;

impl Codec for Postcard {
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError> {
        postcard::to_stdvec(decoded).map_err(CodecError::new)
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        match postcard::take_from_bytes(encoded).map_err(CodecError::new)? {
            (decoded, []) => Ok(decoded),
            (_, more) => Err(CodecError::new(format!("{} bytes too many", more.len()))),
        }
    }
}

fn coordinator(links: &[Arc<Link>; 3]) -> Coordinator<3, 2, 2, Arc<Link>> {
    Coordinator::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .build()
}

/// Puts a value and gets it again. `None` where the put was refused.
fn put_and_get<C: Codec>(
    codec: C,
    shape: &Shape,
    node: &Node,
) -> Result<Option<Node>, TestCaseError> {
    let links = links();
    let map = coordinator(&links).map_with::<str, Tree, C>("trees", codec);
    Tree::deserializes_as(shape.clone());
    block_on(async {
        match map.put("tree", &Tree(node.clone())).await {
            Err(MapError::EncodeValue(_)) => {
                prop_assert!(links.iter().all(|link| link.calls() == 0));
                Ok(None)
            }
            Err(error) => panic!("{error}"),
            Ok(_) => {
                let got = map.get("tree").await;
                prop_assert!(got.is_ok(), "put and not to be read: {:?}", got);
                Ok(Some(got.unwrap().unwrap().0))
            }
        }
    })
}

/// A tree as a key: ordered by its text, as trees hold floats, and then by all its
/// bits, as there are many NaN.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TreeKey(Tree);

impl Ord for TreeKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_text = text(&self.0.0).cmp(&text(&other.0.0));
        let bits = |key: &Self| postcard::to_stdvec(&key.0).unwrap();
        by_text.then_with(|| bits(self).cmp(&bits(other)))
    }
}

impl PartialOrd for TreeKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for TreeKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for TreeKey {}

/// Encodes both keys, decodes them, and tells which were refused.
fn encode_keys<C: Codec>(
    codec: C,
    shape: &Shape,
    nodes: [&Node; 2],
) -> Result<[bool; 2], TestCaseError> {
    let map = coordinator(&links()).map_with::<TreeKey, u8, C>("trees", codec);
    Tree::deserializes_as(shape.clone());
    let keys = nodes.map(|node| TreeKey(Tree(node.clone())));
    let encoded = keys.each_ref().map(|key| map.encode_key(key));
    if let [Ok(one), Ok(other)] = &encoded {
        prop_assert_eq!(one == other, keys[0] == keys[1]);
    }
    for (key, encoded) in keys.iter().zip(&encoded) {
        match encoded {
            Ok(encoded) => prop_assert_eq!(&map.decode_key(encoded).unwrap(), key),
            Err(error) => prop_assert!(matches!(error, MapError::EncodeKey(_)), "{}", error),
        }
    }
    Ok(encoded.map(|encoded| encoded.is_ok()))
}

/// Told apart further than by `==`: with the sign of zero.
fn text(node: &Node) -> String {
    format!("{node:?}")
}

/// Whether JSON has a form of its own for a value: no number that is none, and
/// nothing that is `null` inside of `Some`.
fn json_keeps(node: &Node) -> bool {
    match node {
        Node::F32(plain) => plain.is_finite(),
        Node::F64(plain) => plain.is_finite(),
        Node::Option(Some(inner)) => !is_null(inner) && json_keeps(inner),
        Node::Newtype(inner) => json_keeps(inner),
        Node::Seq(parts) | Node::Tuple(parts) | Node::TupleStruct(parts) | Node::Struct(parts) => {
            parts.iter().all(json_keeps)
        }
        Node::Map(entries) => entries
            .iter()
            .all(|(key, value)| json_names(key) && json_keeps(value)),
        Node::Enum(_, payload) => match &**payload {
            Payload::Unit => true,
            Payload::Newtype(inner) => json_keeps(inner),
            Payload::Tuple(parts) | Payload::Struct(parts) => parts.iter().all(json_keeps),
        },
        _ => true,
    }
}

fn is_null(node: &Node) -> bool {
    match node {
        Node::Unit | Node::UnitStruct | Node::Option(None) => true,
        Node::Option(Some(inner)) | Node::Newtype(inner) => is_null(inner),
        _ => false,
    }
}

/// Whether JSON can have this for the name of a member.
fn json_names(key: &Node) -> bool {
    match key {
        Node::F32(_) | Node::F64(_) => json_keeps(key),
        Node::Option(Some(inner)) | Node::Newtype(inner) => json_names(inner),
        Node::Enum(_, payload) => **payload == Payload::Unit,
        Node::Option(None)
        | Node::Bytes(_)
        | Node::Unit
        | Node::UnitStruct
        | Node::Seq(_)
        | Node::Tuple(_)
        | Node::TupleStruct(_)
        | Node::Map(_)
        | Node::Struct(_) => false,
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Bugs: floats that come back with another last digit; `Some(None)` and
    /// `Some(())` that come back as `None`; NaN that can be put and not be
    /// read. And: a put refused for no reason.
    #[test]
    fn json_gives_back_what_was_put((shape, node) in values()) {
        let got = put_and_get(Json, &shape, &node)?;
        prop_assert_eq!(got.as_ref().map(text), json_keeps(&node).then(|| text(&node)));
    }

    /// The same for a codec of the application's. Only what does not equal
    /// itself is refused.
    #[test]
    fn postcard_gives_back_what_was_put((shape, node) in values()) {
        let got = put_and_get(Postcard, &shape, &node)?;
        let equals_itself = node == node.clone();
        prop_assert_eq!(got.as_ref().map(text), equals_itself.then(|| text(&node)));
    }

    /// Bug: two keys that differ are the same entry, as `Some(None)` and `None`
    /// would be. And: a key refused for no reason.
    #[test]
    fn keys_that_differ_have_different_bytes((shape, one, other) in pairs()) {
        let encoded = encode_keys(Json, &shape, [&one, &other])?;
        prop_assert_eq!(encoded, [&one, &other].map(json_keeps));
        prop_assert_eq!(encode_keys(Postcard, &shape, [&one, &other])?, [true, true]);
    }

    /// The 11 % of all floats that came back with another last digit.
    #[test]
    fn json_gives_back_floats(bits: u64) {
        let float = f64::from_bits(bits);
        let map = coordinator(&links()).map::<str, f64>("floats");
        let got = block_on(async {
            map.put("float", &float).await.ok()?;
            map.get("float").await.unwrap()
        });
        prop_assert_eq!(got.map(f64::to_bits), float.is_finite().then_some(bits));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().unwrap().block_on(future)
}

/// What becomes of a value in JSON: `None` where the put was refused, and then
/// nothing was sent.
fn through_json<V: Serialize + DeserializeOwned + PartialEq + Debug>(value: &V) -> Option<V> {
    let links = links();
    let map = coordinator(&links).map::<str, V>("values");
    block_on(async {
        match map.put("value", value).await {
            Ok(_) => Some(map.get("value").await.unwrap().unwrap()),
            Err(error) => {
                assert!(matches!(error, MapError::EncodeValue(_)), "{error}");
                assert!(links.iter().all(|link| link.calls() == 0), "it was sent");
                None
            }
        }
    })
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Byte(u8),
    Word(u64),
    Name { name: String },
    Title { name: String },
}

/// What serde's attributes make of it comes back as something else. Bug: the
/// bytes or serde's view of it are compared, which are the same.
#[test]
fn what_would_come_back_as_another_value_is_refused() {
    let name = || "a".to_owned();
    assert!(through_json(&Untagged::Byte(1)).is_some());
    assert_eq!(through_json(&Untagged::Word(1)), None);
    assert!(through_json(&Untagged::Word(256)).is_some());
    assert!(through_json(&Untagged::Name { name: name() }).is_some());
    assert_eq!(through_json(&Untagged::Title { name: name() }), None);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Skips {
        kept: u8,
        #[serde(skip)]
        skipped: u8,
    }
    let skips = |skipped| Skips { kept: 1, skipped };
    assert!(through_json(&skips(0)).is_some());
    assert_eq!(through_json(&skips(1)), None);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Flattened {
        id: u8,
        #[serde(flatten)]
        rest: BTreeMap<String, u8>,
    }
    let flattened = |name: &str| Flattened {
        id: 1,
        rest: BTreeMap::from([(name.to_owned(), 2)]),
    };
    assert!(through_json(&flattened("other")).is_some());
    assert_eq!(through_json(&flattened("id")), None);

    /// Whole seconds are kept.
    #[derive(Debug, PartialEq, Deserialize)]
    struct Seconds(f64);
    impl Serialize for Seconds {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_f64(self.0.floor())
        }
    }
    assert!(through_json(&Seconds(1.0)).is_some());
    assert_eq!(through_json(&Seconds(1.5)), None);
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Nested(Vec<Nested>);

/// Bug: it can be put, and then nobody can read it.
#[test]
fn what_could_not_be_read_is_refused() {
    let nested = |depth| (0..depth).fold(Nested(Vec::new()), |inner, _| Nested(vec![inner]));
    assert!(through_json(&nested(126)).is_some());
    assert_eq!(through_json(&nested(127)), None);
    assert_eq!(through_json(&vec![f64::INFINITY]), None);
    assert_eq!(through_json(&BTreeMap::from([((1, 2), 3)])), None);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "type")]
    enum Tagged {
        Wide { number: u128 },
        Renamed(BTreeMap<String, String>),
    }
    let renamed = |name: &str| Tagged::Renamed([(name.to_owned(), "Wide".to_owned())].into());
    assert_eq!(through_json(&Tagged::Wide { number: 1 }), None);
    assert!(through_json(&renamed("name")).is_some());
    assert_eq!(through_json(&renamed("type")), None);
}

/// Bug: values are compared in an order that is another one in each copy.
#[test]
fn collections_without_an_order_are_kept() {
    let set: HashSet<u32> = (0..50).collect();
    assert_eq!(through_json(&set), Some(set));
    let map: HashMap<u32, String> = (0..50).map(|number| (number, "a".to_owned())).collect();
    assert_eq!(through_json(&map), Some(map));
}

/// A key that is refused is refused by each operation. Bug: a read of
/// `Some(None)` finds the entry of `None`.
#[test]
fn no_operation_takes_a_key_for_another() {
    let links = links();
    let map = coordinator(&links).map::<Option<Option<u8>>, u8>("options");
    block_on(async {
        map.put(&None, &1).await.unwrap();
        let calls = links[0].calls();
        let errors = [
            map.put(&Some(None), &2).await.unwrap_err(),
            map.get(&Some(None)).await.unwrap_err(),
            map.get_with_receipt(&Some(None)).await.unwrap_err(),
            map.delete(&Some(None)).await.unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, MapError::EncodeKey(_)), "{error}");
        }
        assert_eq!(links[0].calls(), calls, "nothing was sent");
        assert_eq!(map.get(&None).await.unwrap(), Some(1));
    });
}

/// Bug: a key is written in one way and looked for in another.
#[test]
fn equal_keys_have_the_same_bytes() {
    /// Looked for as a string, and stored as a list of one.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
    #[serde(from = "OneOrMany")]
    struct Tag(String);
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many([String; 1]),
    }
    impl From<OneOrMany> for Tag {
        fn from(tag: OneOrMany) -> Self {
            let (OneOrMany::One(tag) | OneOrMany::Many([tag])) = tag;
            Self(tag)
        }
    }
    impl Borrow<str> for Tag {
        fn borrow(&self) -> &str {
            &self.0
        }
    }
    impl Serialize for Tag {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq([&self.0])
        }
    }
    let map = coordinator(&links()).map::<Tag, u8>("tags");
    let tag = map.encode_key(&Tag("a".to_owned())).unwrap();
    assert_eq!(tag, Key::from("tags/[\"a\"]"));
    let error = map.encode_key("a").unwrap_err();
    assert!(matches!(error, MapError::EncodeKey(_)), "{error}");

    /// Ordered by hand, and not encoded in that order.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Labels(HashSet<u32>);
    impl Ord for Labels {
        fn cmp(&self, other: &Self) -> Ordering {
            let [one, other] = [self, other].map(|labels| BTreeSet::from_iter(&labels.0));
            one.cmp(&other)
        }
    }
    impl PartialOrd for Labels {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }
    let map = coordinator(&links()).map::<Labels, u8>("labels");
    let error = map.encode_key(&Labels((0..50).collect())).unwrap_err();
    assert!(matches!(error, MapError::EncodeKey(_)), "{error}");
}

/// Bug: a key is decoded that `get` does not find again, as it is written in
/// another way.
#[test]
fn only_the_keys_of_a_map_are_decoded() {
    let coordinator = coordinator(&links());
    let ports = coordinator.map::<u16, u8>("ports");
    let key = ports.encode_key(&8080).unwrap();
    assert_eq!(ports.decode_key(&key).unwrap(), 8080);
    for foreign in [
        "",
        "ports",
        "ports/",
        "port/80",
        "hosts/80",
        "ports/ 80",
        "ports/80.0",
    ] {
        let error = ports.decode_key(&Key::from(foreign)).unwrap_err();
        assert!(matches!(error, MapError::Decode(_)), "{error}");
    }
    let names = coordinator.map::<str, u8>("names");
    assert_eq!(names.decode_key(&Key::from("names/\"a\"")).unwrap(), "a");
    assert!(names.decode_key(&Key::from("names/\"\\u0061\"")).is_err());
}

#[test]
fn shipped_codecs_conform() {
    conformance::codec(&Json);
}

#[test]
fn another_codec_conforms() {
    conformance::codec(&Postcard);
}

/// JSON with something wrong.
struct Faulty(Fault, AtomicU8);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Floats have fifteen digits.
    RoundsFloats,
    /// Zero has no sign.
    DropsSignOfZero,
    /// Integers are kept as floats.
    IntegersAsFloats,
    /// Letters lose their case.
    LowersCase,
    /// Strings end at the first zero.
    StringsEndAtZero,
    RefusesEmptyLists,
    /// A counter is in the bytes.
    Counts,
    /// Borrowed and owned forms are told apart.
    KnowsTypes,
    /// What is left of a failed encoding passes for one.
    EncodesHalf,
    PanicsAtFailure,
    /// What comes after the encoding is not looked at.
    IgnoresTheRest,
    /// Bytes are taken for UTF-8.
    PanicsAtBadText,
}

impl Faulty {
    fn to_json<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<String, serde_json::Error> {
        let json = match self.0 {
            Fault::RoundsFloats => {
                let mut json = Vec::new();
                decoded.serialize(&mut serde_json::Serializer::with_formatter(
                    &mut json, Rounds,
                ))?;
                String::from_utf8(json).unwrap()
            }
            _ => serde_json::to_string(decoded)?,
        };
        Ok(match self.0 {
            Fault::DropsSignOfZero if json == "-0.0" => "0.0".to_owned(),
            Fault::IntegersAsFloats => match json.parse::<u64>() {
                Ok(number) => format!("{}", number as f64),
                Err(_) => json,
            },
            Fault::LowersCase if json.starts_with('"') => json.to_lowercase(),
            Fault::StringsEndAtZero => match json.split_once("\\u0000") {
                Some((start, _)) if json.starts_with('"') => format!("{start}\""),
                _ => json,
            },
            Fault::Counts => json + &" ".repeat(self.1.fetch_add(1, Relaxed).into()),
            Fault::KnowsTypes if std::any::type_name::<T>() == "str" => format!(" {json}"),
            _ => json,
        })
    }
}

/// Writes fifteen digits.
struct Rounds;

impl serde_json::ser::Formatter for Rounds {
    fn write_f64<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        value: f64,
    ) -> std::io::Result<()> {
        write!(writer, "{value:.14e}")
    }
}

impl Codec for Faulty {
    fn encode<T: Serialize + ?Sized>(&self, decoded: &T) -> Result<Vec<u8>, CodecError> {
        match self.to_json(decoded) {
            Ok(json) if self.0 == Fault::RefusesEmptyLists && json.contains("[]") => {
                Err(CodecError::new("an empty list"))
            }
            Ok(json) => Ok(json.into_bytes()),
            Err(_) if self.0 == Fault::EncodesHalf => Ok(b"null".to_vec()),
            Err(error) if self.0 == Fault::PanicsAtFailure => panic!("{error}"),
            Err(error) => Err(CodecError::new(error)),
        }
    }

    fn decode<T: DeserializeOwned>(&self, encoded: &[u8]) -> Result<T, CodecError> {
        match self.0 {
            Fault::IgnoresTheRest => {
                let mut values = serde_json::Deserializer::from_slice(encoded).into_iter();
                let first = values.next().ok_or_else(|| CodecError::new("nothing"))?;
                first.map_err(CodecError::new)
            }
            Fault::PanicsAtBadText => {
                serde_json::from_str(std::str::from_utf8(encoded).unwrap()).map_err(CodecError::new)
            }
            _ => Json.decode(encoded),
        }
    }
}

/// Each fault is caught under the sentence that it breaks.
#[test]
fn faulty_codecs_are_caught() {
    let suite = |fault| {
        let codec = Faulty(fault, AtomicU8::new(0));
        let ended = catch_unwind(AssertUnwindSafe(|| conformance::codec(&codec)));
        ended.map_err(|panic| *panic.downcast::<String>().unwrap())
    };
    suite(Fault::None).unwrap();
    let scalars = "Booleans, integers of up to 64 bits, finite floats";
    let compounds = "So do options, sequences, tuples, structs, enums";
    let pure = "The bytes depend on nothing but what";
    let refuses = "What has no encoding is an error";
    let faults = [
        (Fault::RoundsFloats, scalars),
        (Fault::DropsSignOfZero, scalars),
        (Fault::IntegersAsFloats, scalars),
        (Fault::LowersCase, scalars),
        (Fault::StringsEndAtZero, scalars),
        (Fault::RefusesEmptyLists, compounds),
        (Fault::Counts, pure),
        (Fault::KnowsTypes, pure),
        (Fault::EncodesHalf, refuses),
        (Fault::PanicsAtFailure, refuses),
        (
            Fault::IgnoresTheRest,
            "An encoding with a zero byte after it",
        ),
        (Fault::PanicsAtBadText, "No bytes make it panic"),
    ];
    for (fault, sentence) in faults {
        let message = suite(fault).expect_err(&format!("{fault:?} was not caught"));
        assert!(message.contains(sentence), "{fault:?}: {message}");
    }
}
