//! Ranges there, and pages back.

use std::collections::BTreeMap;

use kvquorum_core::{
    Ack, Entry, Key, KeyRange, Page, Record, Request, Response, ScanLimit, Transport,
};

use super::super::futures::together;
use super::super::samples::{all_bytes, awkward_keys, tombstone, value};
use super::super::shown::{Named, Shown};
use super::{PAST, Subject, UNCHANGED, asked, mistaken};

pub(super) type Held = BTreeMap<Key, Entry>;

pub(super) async fn run<T: Transport>(link: T) {
    let link = Subject::new(link);
    let empty = page(&link, &Held::new(), .., ScanLimit::NONE).await;
    UNCHANGED.require(
        empty.upto.is_none(),
        format_args!(
            "a fresh replica's page says that it goes up to {:?}",
            empty.upto
        ),
    );
    let held = fill(&link).await;
    for range in ranges() {
        for limit in [
            ScanLimit::NONE,
            ScanLimit::keys(1),
            ScanLimit::keys(7),
            ScanLimit::NONE.with_max_bytes(0),
            ScanLimit::NONE.with_max_bytes(5000),
        ] {
            page(&link, &held, range.clone(), limit).await;
        }
    }
    walk(&link, &held).await;
}

/// Every kind of entry, under keys that an encoding could bend.
pub(super) async fn fill<T: Transport>(link: &Subject<T>) -> Held {
    let entries = [
        value(0, 0, ""),
        value(PAST, u64::MAX, all_bytes()),
        tombstone(PAST + 1, 1 << 63),
        value(PAST + 0xffff, (1 << 53) + 1, "null"),
        tombstone(0, 0),
        value(PAST, 300, vec![0xff; 20_000]),
    ];
    let held: Held = awkward_keys()
        .into_iter()
        .zip(entries.into_iter().cycle())
        .collect();
    let written: Vec<_> = held.iter().collect();
    for few in written.chunks(16) {
        let write = |(key, entry)| link.write_as(&UNCHANGED, key, entry, Ack::Applied);
        together(few.iter().copied().map(write)).await;
    }
    held
}

fn ranges() -> Vec<KeyRange> {
    let bytes = all_bytes();
    vec![
        KeyRange::from(..),
        KeyRange::prefix("a"),
        KeyRange::prefix(&b"\xff"[..]),
        KeyRange::from(&b"\0"[..]..&b"a\0b"[..]),
        KeyRange::from(&b"\0"[..]..=&b"a\0b"[..]),
        KeyRange::from(bytes.clone()..=bytes),
        KeyRange::from(vec![0xff; 1024]..),
        KeyRange::from("b".."a"),
    ]
}

/// What is left of a range is asked for, until nothing is.
async fn walk<T: Transport>(link: &Subject<T>, held: &Held) {
    let mut rest = KeyRange::from(..);
    let mut found = Held::new();
    loop {
        let page = page(link, held, rest, ScanLimit::keys(20)).await;
        found.extend(page.entries);
        match page.upto {
            Some(upto) => rest = KeyRange::from(upto..),
            None => break,
        }
    }
    UNCHANGED.require(
        found == *held,
        format_args!("the pages held {} entries of {}", found.len(), held.len()),
    );
}

/// A page that holds what the replica holds, as far as it goes.
async fn page<T: Transport>(
    link: &Subject<T>,
    held: &Held,
    range: impl Into<KeyRange>,
    limit: ScanLimit,
) -> Page {
    let range = range.into();
    let request = Request::scan(range.clone(), limit);
    let page = match link.ask(request.clone()).await {
        Response::Page(page) => *page,
        other => mistaken(&request, &other),
    };
    let is_covered = |key: &Key| page.upto.as_ref().is_none_or(|upto| key < upto);
    let expected: Vec<_> = held
        .iter()
        .filter(|(key, _)| range.contains(key) && is_covered(key))
        .collect();
    let what = asked(&request);
    UNCHANGED.require(
        page.entries.len() == expected.len(),
        format_args!(
            "{what} brought {} entries; expected {}",
            page.entries.len(),
            expected.len()
        ),
    );
    for ((key, found), (expected_key, expected)) in page.entries.iter().zip(expected) {
        UNCHANGED.require(
            (key, found) == (expected_key, expected),
            format_args!(
                "{what} brought {} under {}; expected {} under {}",
                Shown::entry(Some(found)),
                Named(key),
                Shown::entry(Some(expected)),
                Named(expected_key),
            ),
        );
    }
    require_within(limit, &page, &what);
    page
}

/// As the replica counts: no promise was made here, so its records are the entries.
fn require_within(limit: ScanLimit, page: &Page, what: &str) {
    let bytes = |(key, entry): &(Key, Entry)| key.len() + Record::from(entry.clone()).encoded_len();
    let (keys, bytes) = (page.entries.len(), page.entries.iter().map(bytes).sum());
    UNCHANGED.require(
        keys == 0 || limit.allows(keys - 1, bytes),
        format_args!("{what} brought {keys} entries of {bytes} bytes"),
    );
}
