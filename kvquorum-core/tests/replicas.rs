//! The one door to a store: what a replica admits, and what it refuses.

mod support;

use std::num::NonZeroU64;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{
    Ack, Call, Change, Coordinator, Entry, Era, Key, Limits, Outcome, Record, Refusal, Replica,
    ReplicaFailure, ReplicaId, Request, RequestKind, Response, ScanLimit, Store, StoreError,
    SystemClock, Timestamp, Transport, TransportError, Version, WallClock, WriteError, WriterId,
};
use support::{MapStore, NOON, Wall, entry};

fn replica() -> Replica<MapStore> {
    let mut limits = Limits::default();
    limits.max_key_len = 3;
    limits.max_value_len = 5;
    Replica::new(MapStore::default())
        .of_new_cluster()
        .with_wall_clock(Wall::at(NOON))
        .with_limits(limits)
}

async fn write(replica: &Replica<MapStore>, key: &str, entry: Entry) -> Response {
    replica.call(&Request::write(key, entry)).await.unwrap()
}

/// Bug: a replica that stores without comparing.
#[tokio::test]
async fn a_replica_keeps_the_greater_entry() {
    let replica = replica();
    let applied = Response::Ack(Ack::Applied);
    assert_eq!(write(&replica, "k", entry(2, "new")).await, applied);
    let by = entry(2, "new").version;
    let superseded = Response::Ack(Ack::Superseded { by });
    assert_eq!(write(&replica, "k", entry(1, "old")).await, superseded);
    assert_eq!(replica.store().entry("k"), Some(entry(2, "new")));
    assert_eq!(write(&replica, "k", entry(2, "new")).await, applied);
    assert_eq!(write(&replica, "k", entry(3, "newer")).await, applied);
    let found = replica.call(&Request::read("k")).await.unwrap();
    assert_eq!(found, Response::Entry(Some(entry(3, "newer")).into()));
}

/// Bugs: no limit; a limit off by one; a refusal that has changed something.
#[tokio::test]
async fn what_is_beyond_the_limits_is_refused_and_changes_nothing() {
    let replica = replica();
    let cases = [
        ("", "v", Refusal::EmptyKey),
        ("four", "v", Refusal::KeyTooLong { len: 4, max: 3 }),
        ("key", "sixsix", Refusal::ValueTooLarge { len: 6, max: 5 }),
    ];
    for (key, value, refusal) in cases {
        let response = write(&replica, key, entry(1, value)).await;
        assert_eq!(response, Response::Refused(refusal));
    }
    for (key, refusal) in [
        ("", Refusal::EmptyKey),
        ("four", Refusal::KeyTooLong { len: 4, max: 3 }),
    ] {
        let response = replica.call(&Request::read(key)).await.unwrap();
        assert_eq!(response, Response::Refused(refusal));
    }
    let all = (Bound::Unbounded, Bound::Unbounded);
    let stored = replica.store().scan(all, ScanLimit::NONE).await.unwrap();
    // What the replica keeps of itself.
    assert!(stored.iter().all(|(key, _)| key.is_empty()));
    let within = write(&replica, "key", entry(1, "fives")).await;
    assert_eq!(within, Response::Ack(Ack::Applied));
}

struct Broken;

#[derive(Debug, thiserror::Error)]
#[error("the disk is full")]
struct DiskFull;

impl Store for Broken {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        if key.is_empty() {
            let id = ReplicaId::new(NonZeroU64::MIN).get();
            let version = Version {
                timestamp: Timestamp::MIN,
                writer: WriterId::new(id),
            };
            return Ok(Some(Entry::new(version, "").into()));
        }
        Err(StoreError::new(DiskFull))
    }

    async fn apply(&self, _: &Key, _: Change<'_>) -> Result<Response, StoreError> {
        Err(StoreError::new(DiskFull))
    }

    async fn scan(
        &self,
        _: (Bound<&Key>, Bound<&Key>),
        _: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Err(StoreError::new(DiskFull))
    }
}

/// Bugs: a store that failed passes for a refusal, and so the write for "not
/// applied"; the store's own error is turned into a string on the way.
#[tokio::test]
async fn a_failed_store_stays_a_typed_cause() {
    let coordinator =
        Coordinator::<1, 1, 1, _>::new([Replica::new(Broken).of_new_cluster().with_name("broken")]);
    let error = coordinator.put("k", "v").await.unwrap_err();
    let WriteError::MaybeApplied(report) = &error else {
        panic!("{error}");
    };
    let Outcome::Failed(ReplicaFailure::Transport(TransportError::Store(store))) =
        report.replicas()[0].outcome()
    else {
        panic!("{report}");
    };
    let cause = std::error::Error::source(store).unwrap();
    assert!(cause.downcast_ref::<DiskFull>().is_some());
    assert!(
        error
            .to_string()
            .contains("broken: the store failed: the disk is full")
    );
    assert!(coordinator.get("k").await.is_err());
}

#[test]
fn a_replica_is_a_transport_with_a_name() {
    assert_eq!(replica().name(), "local");
    assert_eq!(Transport::name(&replica().with_name("here")), "here");
}

/// C-DRIFT. Bugs: an entry is held against a reading that is behind; the refusal
/// names that one.
#[tokio::test]
async fn c_drift_counts_from_the_clock_as_it_is_now() {
    struct Lags;
    impl WallClock for Lags {
        fn now_millis(&self) -> u64 {
            NOON
        }
        fn lately_millis(&self) -> u64 {
            NOON - 4
        }
    }
    let limits = Limits::default().max_drift(Duration::from_millis(1));
    let replica = Replica::new(MapStore::default())
        .of_new_cluster()
        .with_wall_clock(Lags)
        .with_limits(limits);
    for (ahead, admitted) in [(0, true), (1, true), (2, false)] {
        let response = write(&replica, "k", entry(NOON + ahead, "v")).await;
        let refused = matches!(
            response,
            Response::Refused(Refusal::TooFarAhead {
                now_millis: NOON,
                ..
            })
        );
        assert_eq!(refused, !admitted, "{ahead}: {response:?}");
    }
}

/// Bug: the quick reading is of another clock, or in another unit.
#[test]
fn the_systems_clock_lately_is_that_of_now() {
    let before = SystemClock.now_millis();
    let lately = SystemClock.lately_millis();
    let after = SystemClock.now_millis();
    assert!(
        lately <= after && lately + 1_000 >= before,
        "{before} {lately} {after}"
    );
}

/// J-ERA. Bug: a replica that is asked in the last era there is enters it, or never ends to;
/// and then no replica can rejoin any more.
#[tokio::test]
async fn j_era_one_request_does_not_use_up_all_eras() {
    let store = Arc::new(MapStore::default());
    let replica = Replica::new(Arc::clone(&store)).of_new_cluster();
    let last = serde_json::from_str::<Era>(&u64::MAX.to_string()).unwrap();
    assert_eq!(last, Era::new(NonZeroU64::MAX));
    assert_eq!(serde_json::from_str::<Era>("0").ok(), None);
    let mut read = Request::read("k");
    read.era = Some(last);
    let refused = Response::Refused(Refusal::EraTooFarAhead { era: Era::FIRST });
    assert_eq!(replica.call(&read).await.unwrap(), refused);
    let announce = Request::of(RequestKind::Announce { era: last });
    assert_eq!(replica.call(&announce).await.unwrap(), refused);
    let again = Replica::new(store);
    let identity = again.call(&Request::identify()).await.unwrap();
    assert!(matches!(identity, Response::Identity(it) if it.era == Era::FIRST));
}

/// A replica that tells of the last era there is.
struct Liar(Replica<MapStore>);

impl Transport for Liar {
    fn call(&self, request: &Request) -> Call {
        match request.kind {
            RequestKind::Identify { .. } => self.0.call(request),
            _ => Call::Ready(Ok(Response::Refused(Refusal::Stale {
                era: Era::new(NonZeroU64::MAX),
            }))),
        }
    }

    fn name(&self) -> &str {
        "liar"
    }
}

/// J-ERA. Bug: a coordinator believes one replica that is in an era from nowhere, and then
/// no other takes what it asks.
#[tokio::test]
async fn j_era_one_replica_does_not_carry_a_coordinator_to_the_last() {
    let new = || Replica::new(MapStore::default()).of_new_cluster();
    let replicas: [Arc<dyn Transport>; 3] =
        [Arc::new(Liar(new())), Arc::new(new()), Arc::new(new())];
    let map = Coordinator::<3, 2, 2, _>::new(replicas);
    map.get("k").await.ok();
    map.put("k", "v").await.unwrap();
    assert_eq!(map.get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
}
