//! R-RANGE at one replica: the pages that it answers a scan with.

mod support;

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvquorum_core::{
    Change, Entry, Key, KeyRange, Limits, Page, Record, Replica, Request, Response, ScanLimit,
    Store, StoreError, Timestamp, Transport, Version, WriterId,
};
use support::{MapStore, entry};

/// A replica that holds these keys, and knows who it is, so that its store holds a
/// record under the empty key too.
async fn replica(limits: Limits, keys: &[&str]) -> Replica<MapStore> {
    let replica = Replica::new(MapStore::default())
        .of_new_cluster()
        .with_limits(limits);
    replica.call(&Request::identify()).await.unwrap();
    for key in keys {
        replica
            .store()
            .change(&Key::from(*key), Change::write(entry(1, "v")));
    }
    replica
}

async fn page(replica: &impl Transport, range: impl Into<KeyRange>, limit: ScanLimit) -> Page {
    match replica.call(&Request::scan(range, limit)).await.unwrap() {
        Response::Page(page) => *page,
        other => panic!("{other:?}"),
    }
}

fn keys(page: &Page) -> Vec<&str> {
    let keys = page.entries.iter();
    keys.map(|(key, _)| std::str::from_utf8(key.as_bytes()).unwrap())
        .collect()
}

/// Bug: what the replica keeps for itself, under the empty key, is shown as an
/// entry of the map.
#[tokio::test]
async fn r_range_the_replicas_own_record_is_never_shown() {
    let replica = replica(Limits::default(), &["a"]).await;
    let all = (Bound::Unbounded, Bound::Unbounded);
    let stored = replica.store().scan(all, ScanLimit::NONE).await.unwrap();
    assert_eq!(stored.len(), 2, "the record is there");
    for range in [KeyRange::from(..), KeyRange::prefix(""), ("".."b").into()] {
        let page = page(&replica, range, ScanLimit::NONE).await;
        assert_eq!(keys(&page), ["a"]);
        assert_eq!(page.upto, None);
    }
    let only_it = page(&replica, "".."\0", ScanLimit::NONE).await;
    assert_eq!(only_it, Page::default());
}

/// Bug: a tombstone is left out, so that an older value elsewhere is taken for what
/// holds.
#[tokio::test]
async fn r_range_a_page_holds_tombstones() {
    let replica = replica(Limits::default(), &["a"]).await;
    let deleted = Entry::tombstone(entry(2, "").version);
    let change = Change::write(deleted.clone());
    replica.store().change(&Key::from("a"), change);
    let page = page(&replica, .., ScanLimit::NONE).await;
    assert_eq!(page.entries, [(Key::from("a"), deleted)]);
}

/// Bugs: a bound off by one; a page that says it covers more than it does, or that
/// there is more where there is none; an end beyond that of the range.
#[tokio::test]
async fn r_range_a_page_says_how_far_it_got() {
    let replica = replica(Limits::default(), &["a", "b", "c", "d"]).await;
    let two = page(&replica, "b".., ScanLimit::keys(2)).await;
    assert_eq!(keys(&two), ["b", "c"]);
    assert_eq!(two.upto, Some(Key::from("c\0")));
    let rest = page(&replica, "c\0".., ScanLimit::keys(2)).await;
    assert_eq!((keys(&rest), rest.upto.clone()), (vec!["d"], None));
    let to_c = page(&replica, "b"..="c", ScanLimit::keys(2)).await;
    assert_eq!((keys(&to_c), to_c.upto.clone()), (vec!["b", "c"], None));
    let none = page(&replica, "b\0".."c", ScanLimit::keys(2)).await;
    assert_eq!(none, Page::default());
    let cut = page(&replica, .., ScanLimit::NONE.with_max_bytes(45)).await;
    assert_eq!(keys(&cut), ["a", "b"], "of 20 bytes each");
    assert_eq!(cut.upto, Some(Key::from("b\0")));
}

/// Bugs: a panic at a range that ends before it begins, or at no room at all; a
/// page without a key, though there is one, which a reader would ask for for ever.
#[tokio::test]
async fn r_range_any_range_and_any_limit_is_answered() {
    let replica = replica(Limits::default(), &["a", "b"]).await;
    for range in [
        KeyRange::from("b".."a"),
        ("b".."b").into(),
        (Bound::Excluded("b"), Bound::Excluded("b")).into(),
        ("b"..).into(),
    ] {
        let page = page(&replica, range.clone(), ScanLimit::keys(0)).await;
        let expected: &[&str] = if range.is_empty() || !range.contains(&Key::from("b")) {
            &[]
        } else {
            &["b"]
        };
        assert_eq!(keys(&page), expected, "{range:?}");
    }
    let nothing = ScanLimit::keys(0).with_max_bytes(0);
    assert_eq!(keys(&page(&replica, .., nothing).await), ["a"]);
}

/// Bug: a reader's limits are taken for the replica's.
#[tokio::test]
async fn r_range_a_replica_keeps_its_own_limits() {
    let limits = Limits::default().max_scan_keys(2);
    let few = replica(limits, &["a", "b", "c"]).await;
    assert_eq!(keys(&page(&few, .., ScanLimit::NONE).await), ["a", "b"]);
    let limits = Limits::default().max_scan_bytes(45);
    let small = replica(limits, &["a", "b", "c"]).await;
    assert_eq!(keys(&page(&small, .., ScanLimit::NONE).await), ["a", "b"]);
}

/// Counts what it is asked for.
#[derive(Default)]
struct Counting(MapStore, Arc<AtomicUsize>);

impl Store for Counting {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.0.get(key).await
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        self.0.apply(key, change).await
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        self.1.fetch_add(limit.max_keys, Ordering::Relaxed);
        self.0.scan(range, limit).await
    }
}

/// Bug: a page of nothing but tombstones is filled with what comes after them,
/// however far away it is.
#[tokio::test]
async fn r_range_the_work_for_a_page_is_bounded() {
    let replica = Replica::new(Counting::default()).of_new_cluster();
    let deleted = Entry::tombstone(entry(2, "").version);
    for n in 0..1000 {
        let change = Change::write(deleted.clone());
        replica
            .store()
            .0
            .change(&Key::from(format!("{n:04}")), change);
    }
    let page = page(&replica, .., ScanLimit::keys(10)).await;
    assert_eq!(page.entries.len(), 10);
    assert!(replica.store().1.load(Ordering::Relaxed) <= 11);
}

/// Bug: a page is longer than the HTTP client takes by default, so that a range
/// cannot be read.
#[tokio::test]
async fn r_range_a_page_fits_into_a_response() {
    let version = Version {
        timestamp: Timestamp::from_bits(u64::MAX),
        writer: WriterId::new(u64::MAX),
    };
    let max = Limits::default().max_value_len;
    for value_len in [0, 1, 100, 127, 128, 1000, 16_384, max] {
        let replica = Replica::new(MapStore::default()).of_new_cluster();
        for n in 0..5000.min(3 + 2 * max / (value_len + 26)) {
            let long = Key::from(format!(
                "{n:04}{}",
                "k".repeat(if value_len == max { 1020 } else { 0 })
            ));
            let entry = Entry::new(version, vec![0; value_len]);
            replica.store().change(&long, Change::write(entry));
        }
        let page = page(&replica, .., ScanLimit::NONE).await;
        assert!(page.upto.is_some(), "a full page of {value_len}");
        let response = Response::Page(Box::new(page));
        let len = postcard::to_stdvec(&response).unwrap().len();
        // The HTTP transport's default, without its framing.
        assert!(len < 1024 * 1024 + 64 * 1024 - 64, "{value_len}: {len}");
    }
}
