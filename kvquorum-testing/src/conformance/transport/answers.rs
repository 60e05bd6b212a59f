//! What a single call brings back.

use kvquorum_core::{Ack, Key, Limits, Transport};

use super::super::futures::together;
use super::super::samples::{all_bytes, awkward_keys, tombstone, value};
use super::{NAMED, PAST, Subject, UNCHANGED};

pub(super) async fn named<T: Transport>(link: T) {
    NAMED.require(!link.name().is_empty(), "the name is empty");
}

pub(super) async fn round_trip<T: Transport>(link: T) {
    let link = Subject::new(link);
    let limits = Limits::default();
    let largest: Vec<u8> = (0..=250).cycle().take(limits.max_value_len).collect();
    let entries = [
        value(0, 0, ""),
        value(PAST, u64::MAX, all_bytes()),
        tombstone(PAST + 1, 1 << 63),
        value(PAST + 0xffff, (1 << 53) + 1, "null"),
        value(0, u64::MAX, "\u{feff}\r\n\0"),
        tombstone(0, 0),
    ];
    let keys = awkward_keys();
    let when = "in a fresh replica";
    let absent = Key::from("absent");
    link.expect(&UNCHANGED, &absent, None, when).await;
    let written: Vec<_> = keys.iter().zip(entries.iter().cycle()).collect();
    let when = "after it was written";
    // A few at a time, so that a slow link takes the patience of a check for
    // some dozens of calls and not for some hundreds.
    for few in written.chunks(16) {
        let write = |(key, entry)| link.write_as(&UNCHANGED, key, entry, Ack::Applied);
        together(few.iter().copied().map(write)).await;
    }
    for few in written.chunks(16) {
        let read = |(key, entry)| link.expect(&UNCHANGED, key, Some(entry), when);
        together(few.iter().copied().map(read)).await;
    }
    let key = Key::from("the largest value");
    let entry = value(PAST, 1, largest);
    link.write_as(&UNCHANGED, &key, &entry, Ack::Applied).await;
    link.expect(&UNCHANGED, &key, Some(&entry), when).await;
}

pub(super) async fn acks<T: Transport>(link: T) {
    let link = Subject::new(link);
    let key = Key::from("key");
    let stored = value(PAST, u64::MAX, "stored");
    let superseded = Ack::Superseded { by: stored.version };
    link.write_as(&UNCHANGED, &key, &stored, Ack::Applied).await;
    // An equal entry, as where a call is tried again.
    link.write_as(&UNCHANGED, &key, &stored, Ack::Applied).await;
    for older in [
        value(PAST - 1, u64::MAX, "zzz"),
        tombstone(PAST, u64::MAX - 1),
        // The same version, lesser bytes.
        value(PAST, u64::MAX, "stor"),
    ] {
        link.write_as(&UNCHANGED, &key, &older, superseded).await;
        let when = "after a write that was superseded";
        link.expect(&UNCHANGED, &key, Some(&stored), when).await;
    }
}
