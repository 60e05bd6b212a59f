//! Keys and entries that an encoding could bend.

use bytes::Bytes;
use kvquorum_core::{Entry, Key, Timestamp, Version, WriterId};

pub(super) fn version(timestamp: u64, writer: u64) -> Version {
    Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(writer),
    }
}

pub(super) fn value(timestamp: u64, writer: u64, value: impl Into<Bytes>) -> Entry {
    Entry::new(version(timestamp, writer), value)
}

pub(super) fn tombstone(timestamp: u64, writer: u64) -> Entry {
    Entry::tombstone(version(timestamp, writer))
}

pub(super) fn all_bytes() -> Vec<u8> {
    (0..=u8::MAX).collect()
}

/// Keys that a text encoding, a separator, a terminator, a prefix search or a
/// signed comparison would confuse.
pub(super) fn awkward_keys() -> Vec<Key> {
    let mut keys: Vec<Key> = all_bytes().chunks(1).map(Key::from).collect();
    keys.extend([
        Key::from(&b"\0\0"[..]),
        Key::from(&b"a\0"[..]),
        Key::from(&b"a\0\0"[..]),
        Key::from(&b"a\0b"[..]),
        Key::from("aa"),
        Key::from("ab"),
        Key::from("a/b c?d=e&f#g%20+"),
        Key::from("\u{e9}"),
        Key::from("e\u{301}"),
        Key::from(&b"\x7f\xff"[..]),
        Key::from(&b"\x80\0"[..]),
        Key::from(&b"\xff\xfe"[..]),
        Key::from(&b"\xff\xff"[..]),
        Key::from(vec![0xff; 1024]),
        Key::from(all_bytes()),
    ]);
    keys
}

/// Values and versions that an encoding could bend.
pub(super) fn awkward_entries() -> Vec<Entry> {
    let sign = 1 << 63;
    vec![
        value(0, 0, ""),
        value(0, u64::MAX, all_bytes()),
        tombstone(u64::MAX, u64::MAX),
        value(u64::MAX, 0, "null"),
        value(sign, sign, vec![0; 3]),
        tombstone(0, 0),
        value(sign - 1, sign - 1, vec![0xff; 70_000]),
        value((1 << 53) + 1, (1 << 53) + 1, "\u{feff}\r\n"),
    ]
}
