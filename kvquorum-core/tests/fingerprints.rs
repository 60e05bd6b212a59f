//! What a replica tells of a range by few bytes, held against what it holds.

mod support;

use std::collections::BTreeMap;
use std::ops::Bound;

use kvquorum_core::{
    Change, Entry, Fingerprint, FingerprintRequest, Key, KeyRange, Limits, Replica, Request,
    RequestKind, Response, Timestamp, Told, Transport, Version, Versioned, Versions,
    VersionsRequest, WindowEnd, Windows, WriterId,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use support::MapStore;
use tokio::runtime::Builder;

const HASH_KEY: u128 = 5;

/// Few different bytes, so that keys are neighbours.
fn keys() -> impl Strategy<Value = Key> {
    let bytes = proptest::sample::select(vec![0, 1, 0xff]);
    vec(bytes, 1..4).prop_map(Key::from)
}

fn held() -> impl Strategy<Value = BTreeMap<Key, Option<Option<Vec<u8>>>>> {
    // No entry but a promise, a tombstone, or a value.
    let what = prop_oneof![
        1 => Just(None),
        1 => Just(Some(None)),
        4 => vec(any::<u8>(), 0..40).prop_map(|value| Some(Some(value))),
    ];
    btree_map(keys(), what, 0..30)
}

fn version(millis: u64) -> Version {
    Version {
        timestamp: Timestamp::new(millis, 0).unwrap(),
        writer: WriterId::new(7),
    }
}

/// A replica, and the entries that it was given.
fn replica(
    held: BTreeMap<Key, Option<Option<Vec<u8>>>>,
    limits: Limits,
) -> (Replica<MapStore>, BTreeMap<Key, Entry>) {
    let store = MapStore::default();
    let mut entries = BTreeMap::new();
    for (at, (key, what)) in (1..).zip(held) {
        let Some(value) = what else {
            store.change(&key, Change::prepare(version(at)));
            continue;
        };
        let version = version(at);
        let entry = match value {
            Some(value) => Entry::new(version, value),
            None => Entry::tombstone(version),
        };
        store.change(&key, Change::write(entry.clone()));
        entries.insert(key, entry);
    }
    (
        Replica::new(store).of_new_cluster().with_limits(limits),
        entries,
    )
}

fn ask(replica: &Replica<MapStore>, kind: RequestKind) -> Told {
    let runtime = Builder::new_current_thread().build().unwrap();
    // Introduced, it keeps who it is, and does not tell of it.
    runtime
        .block_on(replica.call(&Request::identify()))
        .unwrap();
    let request = Request::of(kind);
    match runtime.block_on(replica.call(&request)).unwrap() {
        Response::Told(told) => *told,
        other => panic!("{other:?}"),
    }
}

fn windows(replica: &Replica<MapStore>, asked: FingerprintRequest) -> Windows {
    match ask(replica, RequestKind::Fingerprint(Box::new(asked))) {
        Told::Windows(windows) => windows,
        other => panic!("{other:?}"),
    }
}

fn versions(replica: &Replica<MapStore>, asked: VersionsRequest) -> Versions {
    match ask(replica, RequestKind::Versions(Box::new(asked))) {
        Told::Versions(versions) => versions,
        other => panic!("{other:?}"),
    }
}

fn within<'a>(
    held: &'a BTreeMap<Key, Entry>,
    range: &KeyRange,
) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
    held.iter().filter(move |(key, _)| range.contains(key))
}

proptest! {
    /// Bugs: a tombstone, a value or the last window is left out; a record that holds a
    /// promise alone counts; a window ends one key early or late, or goes on beyond the
    /// range, a cut or so many entries; more work is done than is asked for.
    #[test]
    fn windows_tell_what_is_held(
        held in held(),
        from in keys(),
        to in proptest::option::of(keys()),
        cuts in vec(keys(), 0..5),
        every in prop_oneof![Just(u64::MAX), 0..9_u64],
        max_keys in prop_oneof![Just(u64::MAX), 0..20_u64],
        max_bytes in prop_oneof![Just(u64::MAX), 0..500_u64],
        own in 1..40_usize,
        max_windows in 1..9_usize,
    ) {
        let limits = Limits::default()
            .max_hashed_keys(own)
            .max_windows(max_windows)
            .max_scan_bytes(200);
        let records = held.len();
        let (replica, entries) = replica(held, limits);
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        let range = KeyRange::from((Bound::Included(from.clone()), end.clone()));
        let asked = FingerprintRequest {
            range: range.clone(),
            hash_key: HASH_KEY,
            cuts: cuts.clone(),
            every,
            max_keys,
            max_bytes,
            collected: Timestamp::MIN,
        };
        let told_of = windows(&replica, asked);
        let windows = &told_of.windows;
        let ends = told_of.ends(&range, &cuts);
        prop_assert!(ends.is_some(), "{told_of:?} of {range:?}");
        let ends = ends.unwrap();
        prop_assert!(!windows.is_empty() && windows.len() <= max_windows);
        let mut start = from;
        let mut told = 0;
        for (window, end_of_it) in windows.iter().zip(&ends) {
            prop_assert!(end_of_it.as_ref().is_none_or(|upto| *upto > start && range.contains(upto)));
            let upto = end_of_it.clone().map_or(end.clone(), Bound::Excluded);
            let part = KeyRange::from((Bound::Included(start.clone()), upto));
            let all = within(&entries, &part).map(|(key, it)| Fingerprint::of(HASH_KEY, key, it));
            let all = all.fold(Fingerprint::default(), Fingerprint::and);
            prop_assert_eq!(window.fingerprint, all);
            prop_assert!(all.count <= every.max(1));
            let is_cut = |cut: &Key| *cut > start && part.contains(cut);
            let ascending = cuts.is_sorted();
            prop_assert!(!ascending || !cuts.iter().any(is_cut), "beyond a cut");
            told += all.count;
            start = end_of_it.clone().unwrap_or(start);
        }
        let most = (own as u64).min(max_keys.max(1));
        prop_assert!(told <= most);
        let is_bounded = max_bytes < u64::MAX || max_keys.min(own as u64) <= records as u64;
        if !is_bounded && max_windows == 8 && every == u64::MAX {
            prop_assert_eq!(ends.last().unwrap(), &None);
        }
    }

    /// Bugs as above, of lists of versions; and a list that is longer than a page.
    #[test]
    fn versions_tell_what_is_held(
        held in held(),
        from in keys(),
        max_keys in prop_oneof![Just(u64::MAX), 0..20_u64],
        own in 1..40_usize,
        max_scan_bytes in 0..2000_usize,
    ) {
        let limits = Limits::default()
            .max_hashed_keys(own)
            .max_scan_keys(10)
            .max_scan_bytes(max_scan_bytes);
        let (replica, entries) = replica(held, limits);
        let mut rest = Some(KeyRange::from(from..));
        let all: Vec<_> = within(&entries, rest.as_ref().unwrap()).collect();
        let mut found = Vec::new();
        // Each list gets somewhere.
        for _ in 0..100 {
            let Some(range) = rest.take() else { break };
            let hash_key = HASH_KEY;
            let collected = Timestamp::MIN;
            let told = versions(&replica, VersionsRequest { range, hash_key, max_keys, collected });
            let len = told.versions.len();
            prop_assert!(len <= 10 && len as u64 <= max_keys.max(1) && len <= own);
            let bytes: usize = told.versions.iter().map(|it| it.key.len() + size_of::<Versioned>()).sum();
            prop_assert!(len < 2 || bytes <= max_scan_bytes);
            found.extend(told.versions);
            rest = told.upto.map(|upto| KeyRange::from(upto..));
        }
        prop_assert_eq!(rest, None);
        prop_assert_eq!(found.len(), all.len());
        for (told, (key, entry)) in found.iter().zip(all) {
            let hash = Fingerprint::of(HASH_KEY, key, entry).sum;
            prop_assert_eq!((&told.key, told.version, told.hash), (key, entry.version, hash));
        }
    }
}

/// Bug: a range without keys in it is not told to its end.
#[test]
fn nothing_is_told_of_nothing() {
    let (replica, _) = replica(BTreeMap::new(), Limits::default());
    for range in [
        KeyRange::from(..),
        KeyRange::from("b".."a"),
        KeyRange::from("a".."b"),
    ] {
        let hash_key = HASH_KEY;
        let asked = VersionsRequest {
            range: range.clone(),
            hash_key,
            max_keys: 0,
            collected: Timestamp::MIN,
        };
        assert_eq!(versions(&replica, asked), Versions::default());
        let asked = FingerprintRequest {
            range,
            hash_key,
            cuts: Vec::new(),
            every: 0,
            max_keys: 0,
            max_bytes: 0,
            collected: Timestamp::MIN,
        };
        let Windows { windows, bytes, .. } = windows(&replica, asked);
        assert_eq!((windows.len(), bytes), (1, 0));
        assert_eq!(
            (&windows[0].end, windows[0].fingerprint),
            (&WindowEnd::Range, Fingerprint::default())
        );
    }
}
