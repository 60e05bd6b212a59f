//! Records as bytes.

use proptest::prelude::*;

use super::*;

fn versions() -> impl Strategy<Value = Version> {
    (any::<u64>(), any::<u64>()).prop_map(|(bits, writer)| Version {
        timestamp: Timestamp::from_bits(bits),
        writer: WriterId::new(writer),
    })
}

fn entries() -> impl Strategy<Value = Entry> {
    let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40));
    let parts = (versions(), value, any::<u64>(), any::<bool>());
    parts.prop_map(|(version, value, expires, does)| {
        let value = value.map(Bytes::from);
        let value = value.map(|value| Entry::new(version, value));
        let entry = value.unwrap_or(Entry::tombstone(version));
        match expires.try_into() {
            Ok(expires) if does => entry.expiring_at(expires),
            _ => entry,
        }
    })
}

fn records() -> impl Strategy<Value = Record> {
    let anchored = (proptest::option::of(entries()), versions());
    prop_oneof![
        entries().prop_map(Record::from),
        anchored.prop_map(|(entry, anchor)| Record::anchored(entry, anchor)),
    ]
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut encoded = Vec::new();
    record.encode(&mut encoded);
    encoded
}

proptest! {
    /// Bugs: an empty value comes back as a tombstone; a field in the other
    /// order of bytes; a length that is not that of the bytes; a promise that
    /// does not survive a crash.
    #[test]
    fn records_come_back_as_they_were(record in records()) {
        let encoded = encoded(&record);
        prop_assert_eq!(encoded.len(), record.encoded_len());
        prop_assert_eq!(Record::decode(encoded.into()), Ok(record));
    }

    /// Bugs: a panic, or two encodings of one record.
    #[test]
    fn other_bytes_are_refused(bytes in proptest::collection::vec(0..8_u8, 0..40)) {
        if let Ok(record) = Record::decode(bytes.clone().into()) {
            prop_assert_eq!(encoded(&record), bytes);
        }
    }
}

/// Bug: what lies on disks changes without another format.
#[test]
fn the_format_is_as_documented() {
    let version = Version {
        timestamp: Timestamp::from_bits(0x0102_0304_0506_0708),
        writer: WriterId::new(9),
    };
    let value = encoded(&Record::from(Entry::new(version, "tea")));
    let head = [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9];
    assert_eq!(value, [&[1, 0], &head[..], b"tea"].concat());
    let tombstone = encoded(&Record::from(Entry::tombstone(version)));
    assert_eq!(tombstone, [&[1, 1], &head[..]].concat());
    let anchor = Version {
        timestamp: Timestamp::from_bits(0x1112_1314_1516_1718),
        writer: WriterId::new(7),
    };
    let promised = [
        0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0, 0, 0, 0, 0, 0, 0, 7,
    ];
    let anchored = |entry| encoded(&Record::anchored(entry, anchor));
    assert_eq!(anchored(None), [&[1, 6], &promised[..]].concat());
    assert_eq!(
        anchored(Some(Entry::new(version, "tea"))),
        [&[1, 4], &promised[..], &head, b"tea"].concat()
    );
    assert_eq!(
        anchored(Some(Entry::tombstone(version))),
        [&[1, 5], &promised[..], &head].concat()
    );
    let expires = 0x2122_2324_2526_2728.try_into().unwrap();
    let expiring = || Entry::new(version, "tea").expiring_at(expires);
    let at = [0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28];
    assert_eq!(
        encoded(&expiring().into()),
        [&[1, 3], &head[..], &at, b"tea"].concat()
    );
    assert_eq!(
        anchored(Some(expiring())),
        [&[1, 7], &promised[..], &head, &at, b"tea"].concat()
    );
    let decode = |bytes: &[u8]| Record::decode(Bytes::copy_from_slice(bytes)).unwrap_err();
    let never = [&[1, 3], &head[..], &[0; 8], b"tea"].concat();
    assert_eq!(decode(&never), RecordError::Kind { kind: 3 });
    let cut = [&[1, 3], &head[..], &at[..7]].concat();
    assert_eq!(decode(&cut), RecordError::Short { len: 25 });
    assert_eq!(decode(&[2]), RecordError::Format { format: 2 });
    assert_eq!(decode(&value[..17]), RecordError::Short { len: 17 });
    let with_value = [&tombstone[..], b"tea"].concat();
    assert_eq!(decode(&with_value), RecordError::Kind { kind: 1 });
    assert_eq!(decode(&[1, 2]), RecordError::Kind { kind: 2 });
    assert_eq!(decode(&[1, 8]), RecordError::Kind { kind: 8 });
}

/// Bug: the records of keys that no update ever ran on take more room for the
/// sake of those it did.
#[test]
fn a_record_takes_no_more_room_than_its_entry() {
    assert!(size_of::<Record>() <= size_of::<Entry>());
}
