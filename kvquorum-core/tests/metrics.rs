//! Each thing that is counted moves when it happens, and then alone.

#![allow(clippy::float_cmp, reason = "a test")]

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvquorum_core::{
    Call, Change, Coordinator, CoordinatorBuilder, Edit, Key, KeyRange, Limits, ReadError, Replica,
    Request, RequestKind, ScanLimit, StoreError, Transport, TransportError, UpdateError,
    WriteError,
};
use kvquorum_testing::Recorded;
use support::{
    Line, Link, MapStore, NOON, Wall, entry, let_background_finish, links, links_at, links_at_once,
    plant,
};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::timeout;

fn operations(recorded: &Recorded, kind: &str, outcome: &str) -> f64 {
    let labels = [("kind", kind), ("outcome", outcome)];
    recorded.sum("kvquorum_operations_total", &labels)
}

/// Of replica 1, which is the one that does not answer at once.
fn calls(recorded: &Recorded, outcome: &str) -> f64 {
    of_replica(recorded, "kvquorum_calls_total", Some(("outcome", outcome)))
}

fn of_replica(recorded: &Recorded, name: &str, label: Option<(&str, &str)>) -> f64 {
    let mut labels = vec![("replica", "replica-1")];
    labels.extend(label);
    recorded.sum(name, &labels)
}

type Map<T> = Coordinator<3, 2, 2, T>;

fn build<T: Transport>(
    links: [T; 3],
    set: impl FnOnce(CoordinatorBuilder<3, 2, 2, T>) -> CoordinatorBuilder<3, 2, 2, T>,
) -> (Map<T>, Recorded) {
    let builder = Map::builder(links).wall_clock(Wall::at(NOON));
    Recorded::of(|| set(builder).build())
}

/// Bug: an operation is counted under another kind or outcome, twice, or not.
#[tokio::test(start_paused = true)]
async fn operations_are_counted_by_kind_and_outcome() {
    let links = links_at_once::<3>();
    let (map, recorded) = build(links.clone(), |map| map);
    map.put("k", "v").await.unwrap();
    map.put("k", "w").await.unwrap();
    map.delete("k").await.unwrap();
    map.get("k").await.unwrap();
    assert_eq!(operations(&recorded, "put", "ok"), 2.0);
    assert_eq!(operations(&recorded, "delete", "ok"), 1.0);
    assert_eq!(operations(&recorded, "get", "ok"), 1.0);

    for link in &links {
        link.set(Line::Refused);
    }
    map.put("k", "v").await.unwrap_err();
    map.get("k").await.unwrap_err();
    links[0].set(Line::LosesAnswers);
    map.delete("k").await.unwrap_err();
    assert_eq!(operations(&recorded, "put", "not_applied"), 1.0);
    assert_eq!(operations(&recorded, "get", "failed"), 1.0);
    assert_eq!(operations(&recorded, "delete", "maybe_applied"), 1.0);
    assert_eq!(operations(&recorded, "put", "ok"), 2.0);
}

/// As above, for the rarer outcomes.
#[tokio::test(start_paused = true)]
async fn rare_outcomes_are_counted() {
    let links = links_at_once::<3>();
    let (map, recorded) = build(links.clone(), |map| map.max_attempts(1));
    for link in &links {
        plant(link, "k", entry(NOON + 5, "later"));
    }
    let superseded = map.put("k", "v").await.unwrap_err();
    assert!(matches!(superseded, WriteError::Superseded { .. }));
    assert_eq!(operations(&recorded, "put", "superseded"), 1.0);
    assert_eq!(recorded.sum("kvquorum_superseded_attempts_total", &[]), 1.0);

    let (map, recorded) = build(links.clone(), |map| map);
    map.put("k", "v").await.unwrap();
    assert_eq!(recorded.sum("kvquorum_superseded_attempts_total", &[]), 1.0);
    assert_eq!(
        recorded.sum("kvquorum_retries_total", &[("kind", "put")]),
        1.0
    );

    let (map, recorded) = build(links.clone(), CoordinatorBuilder::repair_blocking);
    plant(&links[0], "k", entry(NOON + 9, "last"));
    links[1].set_merges(Line::Refused);
    links[2].set_merges(Line::Refused);
    while map.get("k").await.is_ok() {}
    assert_eq!(operations(&recorded, "get", "not_repaired"), 1.0);

    let (map, recorded) = build(links, |map| map.wall_clock(|| u64::MAX));
    let exhausted = |times: [f64; 3]| {
        let kinds = ["put", "delete", "update"];
        let counted = kinds.map(|kind| operations(&recorded, kind, "clock_exhausted"));
        assert_eq!(counted, times);
    };
    // The last timestamp, and then none.
    map.put("k", "v").await.unwrap_err();
    exhausted([0.0, 0.0, 0.0]);
    let error = map.put("k", "v").await.unwrap_err();
    assert!(matches!(error, WriteError::Clock(_)), "{error:?}");
    exhausted([1.0, 0.0, 0.0]);
    let error = map.delete("k").await.unwrap_err();
    assert!(matches!(error, WriteError::Clock(_)), "{error:?}");
    exhausted([1.0, 1.0, 0.0]);
    let error = map.update("k", |_| Edit::Keep).await.unwrap_err();
    assert!(matches!(error, UpdateError::Clock(_)), "{error:?}");
    exhausted([1.0, 1.0, 1.0]);
}

/// Bugs: an update or a page of a scan is counted under another kind or outcome, or
/// not; its attempts are not.
#[tokio::test(start_paused = true)]
async fn updates_and_scans_are_counted() {
    let update = async |map: &Map<Arc<Link>>| {
        let counters = map.registers::<str, u64>("c").with_max_attempts(2);
        counters.put("k", &1).await
    };
    let retries = |recorded: &Recorded| {
        let updates = [("kind", "update")];
        recorded.sum("kvquorum_retries_total", &updates)
    };
    let links = links::<3>();
    let (map, recorded) = build(links.clone(), |map| map);
    update(&map).await.unwrap();
    assert_eq!(operations(&recorded, "update", "ok"), 1.0);
    assert_eq!(retries(&recorded), 0.0);
    for link in &links {
        prepare(link, NOON + 900);
    }
    update(&map).await.unwrap();
    assert_eq!(retries(&recorded), 1.0);
    for link in &links {
        prepare(link, NOON + 999_999);
    }
    let (map, recorded) = build(links.clone(), |map| map.max_drift(Duration::ZERO));
    let counters = map.registers::<str, u64>("c").with_max_attempts(1);
    counters.put("k", &1).await.unwrap_err();
    assert_eq!(operations(&recorded, "update", "contended"), 1.0);
    for link in &links {
        link.set_prepares(Line::Refused);
    }
    update(&map).await.unwrap_err();
    assert_eq!(operations(&recorded, "update", "not_applied"), 1.0);
    let links = links_at_once::<3>();
    let (map, recorded) = build(links.clone(), |map| map);
    for link in &links {
        link.set_merges(Line::LosesAnswers);
        link.set_prepares(Line::Up);
    }
    update(&map).await.unwrap_err();
    assert_eq!(operations(&recorded, "update", "maybe_applied"), 1.0);

    let scans = |recorded: &Recorded, outcome| operations(recorded, "scan", outcome);
    let links = links_at_once::<3>();
    plant(&links[0], "k", entry(NOON, "v"));
    plant(&links[0], "l", entry(NOON, "v"));
    let (map, recorded) = build(links.clone(), |map| {
        map.repair_blocking().page(ScanLimit::keys(1))
    });
    let mut scan = map.scan(..);
    while let Some(entry) = scan.next().await {
        entry.unwrap();
    }
    assert!(scans(&recorded, "ok") >= 2.0);
    plant(&links[0], "m", entry(NOON, "v"));
    links[1].set_merges(Line::Refused);
    links[2].set_merges(Line::Refused);
    while map
        .scan(KeyRange::prefix("m"))
        .next()
        .await
        .unwrap()
        .is_ok()
    {}
    assert_eq!(scans(&recorded, "not_repaired"), 1.0);
    links[1].set(Line::Refused);
    links[2].set(Line::Refused);
    map.scan(..).next().await.unwrap().unwrap_err();
    assert_eq!(scans(&recorded, "failed"), 1.0);
}

fn prepare(link: &Link, millis: u64) {
    let key = Key::from("c/\"k\"");
    let ballot = Change::prepare(entry(millis, "").version);
    link.store().change(&key, ballot);
}

/// Bugs: time is measured of what was over at once, or not of what had to wait, or of
/// its last attempt alone; of a call, or not.
#[tokio::test(start_paused = true)]
async fn what_had_to_wait_is_timed() {
    let timed = |recorded: &Recorded| {
        let puts = [("kind", "put")];
        recorded.all("kvquorum_operation_duration_seconds", &puts)
    };
    let (map, recorded) = build(links_at_once::<3>(), |map| map);
    map.put("k", "v").await.unwrap();
    let none: [f64; 0] = [];
    assert_eq!(timed(&recorded), none);

    let links = links::<3>();
    links[0].set(Line::Slow(Duration::from_millis(50)));
    links[1].set(Line::Slow(Duration::from_millis(100)));
    let (map, recorded) = build(links.clone(), |map| map);
    map.put("k", "v").await.unwrap().settled().await;
    assert_eq!(timed(&recorded), [0.1]);
    assert_eq!(calls(&recorded, "answered"), 1.0);
    assert_eq!(
        of_replica(&recorded, "kvquorum_stragglers_total", None),
        1.0
    );
    // Of one call in eight.
    let calls_of = [("replica", "replica-1")];
    for _ in 0..100 {
        map.put("k", "v").await.unwrap().settled().await;
    }
    let calls = recorded.all("kvquorum_call_duration_seconds", &calls_of);
    assert!((1..60).contains(&calls.len()), "{calls:?}");
    assert!(calls.iter().all(|call| *call == 0.2), "{calls:?}");

    for link in &links {
        plant(link, "later", entry(NOON + 5, "later"));
    }
    let (map, recorded) = build(links, |map| map);
    assert_eq!(map.put("later", "v").await.unwrap().attempts(), 2);
    let [both] = timed(&recorded)[..] else {
        panic!("it is one operation");
    };
    assert!(both >= 0.2, "{both}");
}

/// Bug: a failed call is counted under another outcome, twice, or not.
#[tokio::test(start_paused = true)]
async fn failed_calls_are_counted_by_outcome() {
    let cases = [
        (Line::Refused, "not_sent"),
        (Line::LosesAnswers, "no_answer"),
        (Line::Hangs, "timed_out"),
        (Line::Panics(Duration::ZERO), "panicked"),
        (Line::PanicsAtOnce, "panicked"),
    ];
    for (line, outcome) in cases {
        let links = links::<3>();
        links[1].set(line);
        let (map, recorded) = build(links, |map| map);
        map.put("k", "v").await.unwrap().settled().await;
        for other in ["not_sent", "no_answer", "timed_out", "panicked", "answered"] {
            let count = f64::from(u8::from(other == outcome));
            assert_eq!(calls(&recorded, other), count, "{other} for {line:?}");
        }
    }
}

/// Bug: what a replica refuses, and what its store fails at, is not counted, or
/// for another reason.
#[tokio::test(start_paused = true)]
async fn refusals_are_counted_by_reason() {
    let wall = Wall::at(NOON);
    let links = links_at::<3>(&wall);
    let (map, recorded) = build(links, |map| map);
    let long = "k".repeat(Limits::default().max_key_len + 1);
    let large = vec![0; Limits::default().max_value_len + 1];
    map.put("", "v").await.unwrap_err();
    map.put(long, "v").await.unwrap_err();
    map.put("k", large).await.unwrap_err();
    wall.set(NOON - 120_000);
    map.put("k", "v").await.unwrap_err();
    for reason in [
        "empty_key",
        "key_too_long",
        "value_too_large",
        "too_far_ahead",
    ] {
        let count = of_replica(
            &recorded,
            "kvquorum_refusals_total",
            Some(("reason", reason)),
        );
        assert_eq!(count, 1.0, "{reason}");
    }
    assert_eq!(calls(&recorded, "refused"), 4.0);

    let links = links_at::<3>(&Wall::at(NOON));
    let (map, recorded) = build(links.clone(), |map| map);
    prepare(&links[1], NOON + 900);
    let key = Key::from("c/\"k\"");
    map.put(key.clone(), "v").await.unwrap().settled().await;
    plant(&links[1], "c/\"l\"", entry(NOON + 2_000, "2"));
    map.registers::<str, u64>("c").put("l", &1).await.unwrap();
    let_background_finish().await;
    for reason in ["promised", "superseded"] {
        let reason = ("reason", reason);
        let count = of_replica(&recorded, "kvquorum_refusals_total", Some(reason));
        assert!(count >= 1.0, "{reason:?}");
    }

    let failing = [(); 3].map(|()| Failing(Replica::new(MapStore::default()).of_new_cluster()));
    let (map, recorded) = build(failing, |map| map);
    let error = map.get("k").await.unwrap_err();
    assert!(matches!(error, ReadError::Failed(_)));
    // Of all three, which have one name, until two failed.
    assert_eq!(calls(&recorded, "store_failed"), 2.0);
}

/// A replica whose store fails.
struct Failing(Replica<MapStore>);

impl Transport for Failing {
    fn call(&self, request: &Request) -> Call {
        match request.kind {
            RequestKind::Identify { .. } => self.0.call(request),
            _ => Call::Ready(Err(TransportError::Store(StoreError::new("full")))),
        }
    }

    fn name(&self) -> &str {
        "replica-1"
    }
}

/// Bug: that another replica has come to a place goes unnoticed, where its answers are
/// there at once or not.
#[tokio::test]
async fn another_replica_at_a_place_is_counted() {
    for is_at_once in [true, false] {
        let places = ["a", "replica-1", "c"].map(|name| {
            let replica = Mutex::new(Replica::new(MapStore::default()).of_new_cluster());
            Arc::new(Place(name, replica, is_at_once))
        });
        let (map, recorded) = build(places.clone(), |map| map);
        let other = || {
            let reason = Some(("reason", "other_replica"));
            of_replica(&recorded, "kvquorum_refusals_total", reason)
        };
        map.put("k", "v").await.unwrap().settled().await;
        assert_eq!(other(), 0.0);
        *places[1].1.lock().unwrap() = Replica::new(MapStore::default()).of_new_cluster();
        map.put("k", "v").await.unwrap().settled().await;
        assert_eq!(other(), 1.0, "at once: {is_at_once}");
    }
}

/// Where replicas come and go.
struct Place(&'static str, Mutex<Replica<MapStore>>, bool);

impl Transport for Place {
    fn call(&self, request: &Request) -> Call {
        let replica = self.1.lock().unwrap().clone();
        match self.2 {
            true => replica.call(request),
            false => {
                let request = request.clone();
                Call::new(async move { replica.call(&request).await })
            }
        }
    }

    fn name(&self) -> &str {
        self.0
    }
}

/// Bug: a replica that is not counted goes unnoticed.
#[tokio::test]
async fn mistaken_replicas_are_counted() {
    let name = |replica: &Replica<MapStore>, name: &str| replica.clone().with_name(name);
    let (a, b) = (
        Replica::new(MapStore::default()).of_new_cluster(),
        Replica::new(MapStore::default()).of_new_cluster(),
    );
    let same = [name(&a, "a"), name(&a, "replica-1"), name(&b, "c")];
    let (map, recorded) = build(same, |map| map);
    map.put("k", "v").await.unwrap();
    let count = |recorded: &Recorded, reason| {
        of_replica(
            recorded,
            "kvquorum_identity_mismatches_total",
            Some(("reason", reason)),
        )
    };
    assert_eq!(count(&recorded, "same_replica"), 1.0);
    assert_eq!(calls(&recorded, "rejected"), 1.0);

    let other = [name(&a, "replica-1"), name(&b, "b"), name(&b, "c")];
    let (map, recorded) = build(other, |map| map.cluster("ours"));
    map.put("k", "v").await.unwrap_err();
    assert_eq!(count(&recorded, "other_cluster"), 1.0);
}

/// Bug: a replica that answers the same write at two places, as it moves meanwhile, goes
/// unnoticed.
#[tokio::test(start_paused = true)]
async fn a_replica_that_moves_meanwhile_is_counted_as_mistaken() {
    let [a, b, c, other] = [(); 4].map(|()| Replica::new(MapStore::default()));
    let places = [("a", a.clone()), ("replica-1", b), ("c", c)].map(|(name, replica)| Moving {
        name,
        replica: Arc::new(Mutex::new(replica)),
        moves: Arc::new(Semaphore::new(0)),
    });
    let (map, recorded) = build(places.clone(), |map| map);
    map.put("k", "v").await.unwrap().settled().await;
    places[0].moves.add_permits(1);
    let writing = tokio::spawn({
        let map = map.clone();
        async move { map.put("moves", "v").await }
    });
    while a.store().entry("moves").is_none() {
        yield_now().await;
    }
    *places[0].replica.lock().unwrap() = other;
    map.put("k", "v").await.unwrap().settled().await;
    *places[1].replica.lock().unwrap() = a;
    let mistaken = || {
        let reason = Some(("reason", "same_replica"));
        of_replica(&recorded, "kvquorum_identity_mismatches_total", reason)
    };
    assert_eq!(mistaken(), 0.0);
    places[1].moves.add_permits(2);
    places[2].moves.add_permits(1);
    let receipt = writing.await.unwrap().unwrap().settled().await;
    assert_eq!(receipt.acked(), 2, "{receipt:?}");
    assert_eq!(mistaken(), 1.0);
}

/// A place where replicas come and go, and which takes writes of "moves" when it is let
/// to.
#[derive(Clone)]
struct Moving {
    name: &'static str,
    replica: Arc<Mutex<Replica<MapStore>>>,
    moves: Arc<Semaphore>,
}

impl Transport for Moving {
    fn call(&self, request: &Request) -> Call {
        let (place, request) = (self.clone(), request.clone());
        Call::new(async move {
            if let RequestKind::Write { key, .. } | RequestKind::Repair { key, .. } = &request.kind
                && *key == Key::from("moves")
            {
                place.moves.acquire().await.unwrap().forget();
            }
            let replica = place.replica.lock().unwrap().clone();
            replica.call(&request).await
        })
    }

    fn name(&self) -> &str {
        self.name
    }
}

/// Bug: repairs, or those that failed, are not counted; so is background work that
/// is still going on, or given up.
#[tokio::test(start_paused = true)]
async fn background_work_is_counted() {
    let repairs = |recorded: &Recorded, outcome| {
        of_replica(
            recorded,
            "kvquorum_repairs_total",
            Some(("outcome", outcome)),
        )
    };
    for (line, outcome) in [(Line::Up, "acked"), (Line::Refused, "failed")] {
        let links = links::<3>();
        plant(&links[0], "k", entry(NOON, "v"));
        plant(&links[2], "k", entry(NOON, "v"));
        links[1].set_merges(line);
        let (map, recorded) = build(links, |map| map);
        map.get("k").await.unwrap();
        let_background_finish().await;
        assert_eq!(repairs(&recorded, outcome), 1.0);
        assert_eq!(
            repairs(&recorded, "acked") + repairs(&recorded, "failed"),
            1.0
        );
    }

    let links = links::<3>();
    links[1].set(Line::Hangs);
    let (map, recorded) = build(links, |map| map.max_background(1));
    let receipt = map.put("k", "v").await.unwrap();
    assert_eq!(
        of_replica(&recorded, "kvquorum_background_calls", None),
        1.0
    );
    map.put("k", "v").await.unwrap();
    assert_eq!(of_replica(&recorded, "kvquorum_given_up_total", None), 1.0);
    assert_eq!(
        of_replica(&recorded, "kvquorum_stragglers_total", None),
        1.0
    );
    receipt.settled().await;
    assert_eq!(
        of_replica(&recorded, "kvquorum_background_calls", None),
        0.0
    );
}

/// Bug: an operation whose caller left is not counted, or as one that was dropped.
#[tokio::test(start_paused = true)]
async fn abandoned_operations_are_counted() {
    for (room, outcome) in [(1, "carried_on"), (0, "dropped")] {
        let links = links::<3>();
        for link in &links {
            link.set(Line::Hangs);
        }
        let (map, recorded) = build(links, |map| map.max_background(room));
        let put = timeout(Duration::from_millis(1), map.put("k", "v"));
        put.await.unwrap_err();
        let labels = [("outcome", outcome)];
        assert_eq!(
            recorded.sum("kvquorum_abandoned_operations_total", &labels),
            1.0
        );
    }
}

/// Bug: entries ahead of the wall clock, and steps back to it, are not counted.
#[tokio::test]
async fn clock_drift_is_recorded() {
    let wall = Wall::at(NOON);
    let links = links_at_once::<3>();
    for link in &links {
        plant(link, "near", entry(NOON + 5_000, "v"));
    }
    for link in &links {
        plant(link, "far", entry(NOON + 50_000, "v"));
    }
    let (map, recorded) = build(links, |map| map.wall_clock(wall.clone()));
    map.get("near").await.unwrap();
    map.get("far").await.unwrap();
    assert_eq!(
        recorded.all("kvquorum_clock_drift_seconds", &[]),
        [5.0, 50.0]
    );
    assert_eq!(recorded.sum("kvquorum_clock_not_followed_total", &[]), 1.0);

    wall.set(NOON + 120_000);
    map.put("k", "v").await.unwrap_err();
    wall.set(NOON);
    map.put("k", "v").await.unwrap();
    assert_eq!(recorded.sum("kvquorum_clock_steps_back_total", &[]), 1.0);
}

/// Bug: something is counted that nothing tells the meaning of.
#[test]
fn everything_has_a_description() {
    let (_, recorded) = build(links_at_once::<3>(), |map| map);
    for (name, is_described) in recorded.names() {
        assert!(is_described, "{name}");
    }
}
