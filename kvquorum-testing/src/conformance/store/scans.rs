//! Scans of a store at rest.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

use kvquorum_core::{Change, Key, Record, ScanLimit, Store};

use super::super::samples::{awkward_entries, tombstone, value};
use super::super::shown::{Named, Shown};
use super::records::keys;
use super::{ALL, COMPLETE, END, Model, ONCE, Subject, require_ascending};

/// Requires that a walk found all of these, and nothing else.
fn require_walked(expected: &BTreeMap<Key, Record>, found: &[(Key, Record)], what: &str) {
    require_ascending(found, what);
    let last = found.last().map(|(key, _)| key);
    for (key, record) in expected {
        let clause = match last {
            Some(last) if key <= last => &COMPLETE,
            _ => &END,
        };
        let is_found = found.binary_search_by_key(&key, |(key, _)| key).is_ok();
        clause.require(
            is_found,
            format_args!(
                "{what} left out {} with {}",
                Named(key),
                Shown::record(Some(record)),
            ),
        );
    }
    require_held(expected, found, what);
}

fn require_held(expected: &BTreeMap<Key, Record>, found: &[(Key, Record)], what: &str) {
    for (key, record) in found {
        ONCE.require(
            expected.get(key) == Some(record),
            format_args!(
                "{what} returned {} with {}; it held {}",
                Named(key),
                Shown::record(Some(record)),
                Shown::record(expected.get(key)),
            ),
        );
    }
}

pub(super) async fn ordered<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut model = Model::default();
    let mut keys: Vec<Key> = keys().collect();
    // In descending order, so that the order of arrival is not it.
    keys.reverse();
    for (key, entry) in keys.iter().zip(awkward_entries().iter().cycle()) {
        store.write(key, entry).await;
        model.apply(key, Change::write(entry.clone()));
    }
    let all = model.0.len();
    for limit in [1, 2, 7, all, all + 1, usize::MAX].map(ScanLimit::keys) {
        for limit in [usize::MAX, 100_000].map(|bytes| limit.with_max_bytes(bytes)) {
            let walked = store.walk(ALL, limit).await;
            require_walked(&model.0, &walked, &format!("a walk with {limit:?}"));
        }
    }
}

/// All bounds between these keys and on them.
fn bounds(keys: &[Key]) -> Vec<Bound<&Key>> {
    keys.iter()
        .flat_map(|key| [Bound::Included(key), Bound::Excluded(key)])
        .chain([Bound::Unbounded])
        .collect()
}

/// Whether an ordered map takes this range.
fn is_range(range: (Bound<&Key>, Bound<&Key>)) -> bool {
    match range {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Excluded(start), Bound::Excluded(end)) => start < end,
        (
            Bound::Included(start) | Bound::Excluded(start),
            Bound::Included(end) | Bound::Excluded(end),
        ) => start <= end,
    }
}

pub(super) async fn bounded<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut model = Model::default();
    let held = [&b""[..], b"b", b"b\0", b"bb", b"d", b"\xff"];
    for (key, at) in held.iter().zip(1..) {
        let entry = match at {
            4 => tombstone(at, 1),
            _ => value(at, 1, *key),
        };
        let change = Change::write(entry);
        store.step(&mut model, &Key::from(*key), change).await;
    }
    // Between the keys, on them, before and after them all.
    let ends: [&[u8]; 12] = [
        b"", b"a", b"b", b"b\0", b"b\0\0", b"ba", b"bb", b"c", b"d", b"e", b"\xff", b"\xff\0",
    ];
    let ends = ends.map(Key::from);
    for start in bounds(&ends) {
        for end in bounds(&ends) {
            let range = (start, end);
            if is_range(range) {
                for limit in [ScanLimit::NONE, ScanLimit::keys(2)] {
                    page(&store, &model, range, limit).await;
                }
                let walked = store.walk(range, ScanLimit::NONE).await;
                let expected = in_range(&model, range);
                require_walked(&expected, &walked, &format!("a walk of {range:?}"));
            }
        }
    }
    let (from, to) = (Key::from("a"), Key::from("d"));
    for range in [ALL, (Bound::Included(&from), Bound::Excluded(&to))] {
        for limit in limits(&in_range(&model, range)) {
            page(&store, &model, range, limit).await;
        }
    }
}

fn in_range(model: &Model, range: (Bound<&Key>, Bound<&Key>)) -> BTreeMap<Key, Record> {
    let mut all = model.0.clone();
    all.retain(|key, _| RangeBounds::<Key>::contains(&range, key));
    all
}

/// Limits that stop at each of these records, by count or by bytes: just before
/// it, and just after.
fn limits(records: &BTreeMap<Key, Record>) -> Vec<ScanLimit> {
    let counts = (0..=records.len() + 1).chain([usize::MAX]);
    let mut bytes = vec![0, 1, usize::MAX];
    let mut sum = 0;
    for (key, record) in records {
        sum += key.len() + record.encoded_len();
        bytes.extend([sum - 1, sum, sum + 1]);
    }
    let limit = |count| ScanLimit::keys(count);
    counts
        .flat_map(|count| {
            bytes
                .iter()
                .map(move |bytes| limit(count).with_max_bytes(*bytes))
        })
        .collect()
}

/// Requires that one page is right.
async fn page<S: Store>(
    store: &Subject<S>,
    model: &Model,
    range: (Bound<&Key>, Bound<&Key>),
    limit: ScanLimit,
) {
    let what = format!("a scan of {range:?} with {limit:?}");
    let found = store.scan(range, limit).await;
    let mut expected = in_range(model, range);
    END.require(
        !found.is_empty() || expected.is_empty(),
        format_args!("{what} is empty, and {} records are there", expected.len()),
    );
    // The page may end where it likes.
    expected.retain(|key, _| found.last().is_some_and(|(last, _)| key <= last));
    require_walked(&expected, &found, &what);
}
