//! Each thing that is counted moves when it happens, and then alone.

#![allow(clippy::float_cmp, reason = "a test")]

mod support;

use std::time::Duration;

use kvquorum_core::{
    Call, Coordinator, CoordinatorBuilder, Limits, ReadError, Replica, Request, RequestKind,
    StoreError, Transport, TransportError, WriteError,
};
use kvquorum_testing::Recorded;
use support::{
    Line, MapStore, NOON, Wall, entry, let_background_finish, links, links_at, links_at_once, plant,
};
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
    // The last timestamp, and then none.
    map.put("k", "v").await.unwrap_err();
    let error = map.put("k", "v").await.unwrap_err();
    assert!(matches!(error, WriteError::Clock(_)), "{error:?}");
    assert_eq!(operations(&recorded, "put", "clock_exhausted"), 1.0);
}

/// Bug: time is measured of what was over at once, or not of what had to wait.
#[tokio::test(start_paused = true)]
async fn what_had_to_wait_is_timed() {
    let (map, recorded) = build(links_at_once::<3>(), |map| map);
    map.put("k", "v").await.unwrap();
    let puts = [("kind", "put")];
    let none: [f64; 0] = [];
    assert_eq!(
        recorded.all("kvquorum_operation_duration_seconds", &puts),
        none
    );

    let links = links::<3>();
    links[0].set(Line::Slow(Duration::from_millis(50)));
    links[1].set(Line::Slow(Duration::from_millis(100)));
    let (map, recorded) = build(links, |map| map);
    map.put("k", "v").await.unwrap().settled().await;
    assert_eq!(
        recorded.all("kvquorum_operation_duration_seconds", &puts),
        [0.1]
    );
    let calls_of = [("replica", "replica-1")];
    assert_eq!(
        recorded.all("kvquorum_call_duration_seconds", &calls_of),
        [0.2]
    );
    assert_eq!(calls(&recorded, "answered"), 1.0);
    assert_eq!(
        of_replica(&recorded, "kvquorum_stragglers_total", None),
        1.0
    );
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

    let failing = [(); 3].map(|()| Failing(Replica::new(MapStore::default())));
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

/// Bug: a replica that is not counted goes unnoticed.
#[tokio::test]
async fn mistaken_replicas_are_counted() {
    let name = |replica: &Replica<MapStore>, name: &str| replica.clone().with_name(name);
    let (a, b) = (
        Replica::new(MapStore::default()),
        Replica::new(MapStore::default()),
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
