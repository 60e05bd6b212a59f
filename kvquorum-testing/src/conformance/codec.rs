//! The suite for codecs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde::ser::{Error, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};

use kvquorum_core::{Codec, CodecError};

use super::Clause;
use super::encodings::{Encoding, Keys};
use super::shown::MAX_BYTES;

const PURE: Clause = Clause {
    of: "Codec::encode",
    says: "The bytes depend on nothing but what the key or value serializes to.",
};
const SCALARS: Clause = Clause {
    of: "Codec::encode",
    says: "Booleans, integers of up to 64 bits, finite floats, characters and strings \
           come back from `Codec::decode`, bit for bit.",
};
const COMPOUNDS: Clause = Clause {
    of: "Codec::encode",
    says: "So do options, sequences, tuples, structs, enums, and maps with strings for \
           keys, of what comes back; only an option that holds an empty option need not.",
};
const REFUSES: Clause = Clause {
    of: "Codec::encode",
    says: "What has no encoding is an error, and never a panic.",
};
const ANY_BYTES: Clause = Clause {
    of: "Codec::decode",
    says: "No bytes make it panic.",
};
const WHOLE: Clause = Clause {
    of: "Codec::decode",
    says: "An encoding with a zero byte after it is an error.",
};

#[cfg(test)]
pub(super) const CLAUSES: &[&Clause] = &[&PURE, &SCALARS, &COMPOUNDS, &REFUSES, &ANY_BYTES, &WHOLE];

/// Tests a codec against the contract of [`Codec`], with values and with keys.
///
/// It takes less than a second, needs no runtime, and tries the same values
/// each time.
///
/// ```
/// # use kvquorum_core::{Json};
/// use kvquorum_testing::conformance;
/// # /*
/// #[test]
/// # */
/// fn my_codec_conforms() {
///     conformance::codec(&Json);
/// }
/// # my_codec_conforms();
/// ```
///
/// # Panics
///
/// Where the codec breaks its contract. The message quotes the sentence.
pub fn codec<C: Codec>(codec: &C) {
    encoding(codec);
    encoding(&Keys(codec));
}

fn encoding<C: Encoding>(codec: &C) {
    scalars_come_back(codec);
    compounds_come_back(codec);
    borrowed_forms_have_the_same_bytes(codec);
    what_cannot_be_encoded_is_an_error(codec);
    strange_bytes_do_not_panic(codec);
}

/// As many numbers as it takes to find a float in a thousand that does not come
/// back, and the same in each run.
fn numbers() -> impl Iterator<Item = u64> {
    // SplitMix64, from seed 0.
    (1..=10_000_u64).map(|step| {
        let mixed = step.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

fn scalars_come_back<C: Encoding>(codec: &C) {
    let check = Check(codec, &SCALARS);
    check.all([false, true]);
    check.all(i8::MIN..=i8::MAX);
    check.all(u8::MIN..=u8::MAX);
    check.all([i16::MIN, -1, 0, i16::MAX]);
    check.all([0, 256, u16::MAX]);
    check.all([i32::MIN, -1, 0, i32::MAX]);
    check.all([0, 1 << 16, u32::MAX]);
    check.all([i64::MIN, -1, 0, i64::MAX]);
    check.all([0, 1 << 53, (1 << 53) + 1, 1 << 63, u64::MAX]);
    check.all([
        0.0,
        -0.0,
        f32::MIN,
        f32::MAX,
        f32::MIN_POSITIVE,
        f32::EPSILON,
    ]);
    check.all([
        0.0,
        -0.0,
        f64::MIN,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::EPSILON,
    ]);
    check.all([
        0.1,
        1e16,
        1e21,
        1e-7,
        9_007_199_254_740_993.0,
        5e-324,
        0.1 + 0.2,
    ]);
    check.all(numbers());
    check.all(numbers().map(|bits| bits as i64));
    check.all(
        numbers()
            .map(f64::from_bits)
            .filter(|float| float.is_finite()),
    );
    let halves = numbers().map(|bits| f32::from_bits(bits as u32));
    check.all(halves.filter(|float| float.is_finite()));
    check.all(
        (0..=0xff)
            .chain([0xd7ff, 0xe000, 0x1_f30a, 0x10_ffff])
            .filter_map(char::from_u32),
    );
    check.all(awkward_strings());
}

/// Strings that a text encoding, a terminator or a normal form would confuse.
fn awkward_strings() -> Vec<String> {
    let mut strings: Vec<String> = (0..=0xff)
        .filter_map(char::from_u32)
        .map(String::from)
        .collect();
    strings.extend(
        [
            "",
            "Key",
            "key",
            "key ",
            " key",
            "0",
            "00",
            "null",
            "true",
            "\"",
            "\\\"",
            "a\0b",
            "a/b%2Fc",
            "\u{e9}",
            "e\u{301}",
            "\u{feff}",
            "\u{2028}",
            "\u{1f30a}",
            "\u{10ffff}",
        ]
        .map(String::from),
    );
    strings.push("long ".repeat(1000));
    strings
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    name: String,
    ratio: f64,
    #[serde(rename = "Name")]
    other: Option<String>,
    pair: (u8, char),
    kind: Kind,
    list: Vec<i64>,
    counts: BTreeMap<String, u32>,
    parts: Vec<Record>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped(u32);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pair(String, bool);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    OtherUnit,
    Newtype(f32),
    Tuple(u8, Option<u8>),
    Struct { first: String, second: Wrapped },
}

fn kinds() -> [Kind; 6] {
    [
        Kind::Unit,
        Kind::OtherUnit,
        Kind::Newtype(0.1),
        Kind::Tuple(1, None),
        Kind::Tuple(1, Some(0)),
        Kind::Struct {
            first: "Unit".to_owned(),
            second: Wrapped(7),
        },
    ]
}

fn record(kind: Kind, parts: Vec<Record>) -> Record {
    Record {
        name: "a".to_owned(),
        ratio: 0.1 + 0.2,
        other: parts.is_empty().then(|| "b".to_owned()),
        pair: (255, '\u{1f30a}'),
        kind,
        list: vec![i64::MIN, 0, i64::MAX],
        counts: BTreeMap::from([(String::new(), 1), ("b".to_owned(), 2)]),
        parts,
    }
}

fn compounds_come_back<C: Encoding>(codec: &C) {
    let check = Check(codec, &COMPOUNDS);
    check.all([None, Some(0_u8), Some(1)]);
    check.all([None, Some(String::new()), Some("null".to_owned())]);
    check.all([vec![], vec![None, Some(false)], vec![Some(true); 300]]);
    check.all([vec![], vec![vec![]], vec![vec![], vec![String::new()]]]);
    check.all([
        ("a".to_owned(), 1_u8, [2_i16, -2]),
        (String::new(), 0, [0; 2]),
    ]);
    check.all([Wrapped(0), Wrapped(u32::MAX)]);
    check.all([Pair("a".to_owned(), true)]);
    check.all(kinds());
    let numbered = |count: u32| {
        (0..count)
            .map(|number| (format!("{number}"), number))
            .collect()
    };
    check.all(
        [0, 1, 300]
            .map(numbered)
            .map(|map: BTreeMap<String, u32>| map),
    );
    for kind in kinds() {
        let leaves = vec![
            record(Kind::Unit, Vec::new()),
            record(kind.clone(), Vec::new()),
        ];
        check.all([record(kind, leaves)]);
    }
}

/// Values that are checked against a sentence about what comes back.
struct Check<'a, C>(&'a C, &'a Clause);

impl<C: Encoding> Check<'_, C> {
    fn all<T>(&self, values: impl IntoIterator<Item = T>)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        values.into_iter().for_each(|value| self.one(&value));
    }

    fn one<T>(&self, value: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + Debug,
    {
        let Self(codec, clause) = self;
        let shown = shown(value);
        let mut encoded = match encode(*codec, value) {
            Ok(encoded) => encoded,
            Err(error) => clause.broken(format!("{shown} was refused: {error}")),
        };
        match decode::<C, T>(codec, &encoded) {
            Err(error) => clause.broken(format!("{shown} was encoded, and not decoded: {error}")),
            // The text tells zeros of different signs apart.
            Ok(decoded) => clause.require(
                decoded == *value && format!("{decoded:?}") == format!("{value:?}"),
                format!("{shown} came back as {}", self::shown(&decoded)),
            ),
        }
        PURE.require(
            encode(*codec, value).is_ok_and(|again| again == encoded),
            format!("{shown} had other bytes the second time"),
        );
        encoded.push(0);
        WHOLE.require(
            decode::<C, T>(codec, &encoded).is_err(),
            format!("the encoding of {shown} and a zero byte were decoded"),
        );
    }
}

fn borrowed_forms_have_the_same_bytes<C: Encoding>(codec: &C) {
    fn check<C: Encoding, O: Serialize + Debug, B: Serialize + ?Sized>(
        codec: &C,
        owned: &O,
        borrowed: &B,
    ) {
        let same = match (encode(codec, owned), encode(codec, borrowed)) {
            (Ok(owned), Ok(borrowed)) => owned == borrowed,
            _ => false,
        };
        let shown = shown(owned);
        PURE.require(same, format!("{shown} has other bytes when it is borrowed"));
    }
    for string in awkward_strings() {
        check(codec, &string, string.as_str());
        check(codec, &Some(&string), &Some(string.as_str()));
    }
    let list = vec![1_u32, 2, 3];
    check(codec, &list, list.as_slice());
    check(codec, &Box::new(7_u8), &7_u8);
}

/// Its `Serialize` fails after some of it was written.
struct Unserializable;

impl Serialize for Unserializable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_seq(Some(2))?;
        parts.serialize_element("part")?;
        Err(S::Error::custom("this type has no form"))
    }
}

/// A sequence that does not know its length.
struct Unsized;

impl Serialize for Unsized {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_seq(None)?;
        parts.serialize_element("part")?;
        parts.end()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Nested(Vec<Nested>);

fn what_cannot_be_encoded_is_an_error<C: Encoding>(codec: &C) {
    REFUSES.require(
        encode(codec, &Unserializable).is_err(),
        "a value whose `Serialize` failed was encoded",
    );
    let nested = (0..300).fold(Nested(Vec::new()), |inner, _| Nested(vec![inner]));
    // An encoding or an error: each is as good, where there is no panic.
    let _ = encode(codec, &Unsized);
    let _ = encode(codec, &[f64::NAN, f64::INFINITY]);
    let _ = encode(codec, &(i128::MIN, u128::MAX));
    let _ = encode(codec, &(Some(None::<()>), Some(())));
    let _ = encode(codec, &BTreeMap::from([((1, 2), 3)]));
    let _ = encode(codec, &BTreeMap::from([(None, 1), (Some("a"), 2)]));
    if let Ok(encoded) = encode(codec, &nested) {
        let _ = decode::<C, Nested>(codec, &encoded);
    }
}

fn strange_bytes_do_not_panic<C: Encoding>(codec: &C) {
    let mut samples: Vec<Vec<u8>> = Vec::new();
    samples.extend(encode(codec, &record(Kind::Newtype(0.1), Vec::new())));
    samples.extend(kinds().iter().flat_map(|kind| encode(codec, kind)));
    samples.extend(encode(codec, "\u{1f30a}\"\\\0"));
    samples.extend(encode(codec, &Some(-1.5)));
    for sample in &samples {
        for (at, byte) in sample.iter().enumerate() {
            let (start, rest) = sample.split_at(at);
            decode_as_all(codec, start);
            for other in [0, 1, 0x7f, 0x80, 0xff, byte ^ 1, b'"', b'9'] {
                let end = rest.get(1..).unwrap_or_default();
                decode_as_all(codec, &[start, &[other], end].concat());
            }
        }
    }
    let random: Vec<u8> = numbers().flat_map(u64::to_le_bytes).collect();
    for (at, bytes) in random.chunks(33).enumerate() {
        decode_as_all(codec, bytes.get(..at % 33).unwrap_or(bytes));
    }
    for byte in [0, b'[', b'{', b'"', b'-', 0x7f, 0x80, 0xff] {
        decode_as_all(codec, &[byte; 300]);
    }
}

fn decode_as_all<C: Encoding>(codec: &C, bytes: &[u8]) {
    let _ = decode::<C, Record>(codec, bytes);
    let _ = decode::<C, Kind>(codec, bytes);
    let _ = decode::<C, String>(codec, bytes);
    let _ = decode::<C, Vec<u64>>(codec, bytes);
    let _ = decode::<C, Option<f64>>(codec, bytes);
    let _ = decode::<C, Vec<Option<char>>>(codec, bytes);
    let _ = decode::<C, Nested>(codec, bytes);
}

fn encode<C: Encoding, T: Serialize + ?Sized>(codec: &C, plain: &T) -> Result<Vec<u8>, CodecError> {
    let encoded = catch_unwind(AssertUnwindSafe(|| codec.encode(plain)));
    let name = std::any::type_name::<T>();
    encoded.unwrap_or_else(|_| REFUSES.broken(format!("encoding a `{name}` panicked")))
}

fn decode<C: Encoding, T: DeserializeOwned>(codec: &C, encoded: &[u8]) -> Result<T, CodecError> {
    let decoded = catch_unwind(AssertUnwindSafe(|| codec.decode(encoded)));
    let name = std::any::type_name::<T>();
    let bytes = encoded.escape_ascii();
    decoded.unwrap_or_else(|_| ANY_BYTES.broken(format!("\"{bytes}\" as a `{name}` panicked")))
}

/// A value as text, cut short.
fn shown(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(MAX_BYTES) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(&text)),
        None => text,
    }
}
