//! Rules C-MONOTONIC and C-DRIFT.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]
#![allow(clippy::arithmetic_side_effects, reason = "a test")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvquorum_core::{
    Clock, ClockExhausted, Coordinator, CoordinatorBuilder, DEFAULT_MAX_DRIFT, Entry, Refusal,
    ReplicaFailure, Timestamp, Version, WriteError, WriterId,
};
use proptest::prelude::*;
use support::{Line, Link, NOON, Wall, entry, links_at, plant};

fn clock(wall: &Wall) -> Clock {
    Clock::new(wall.clone(), DEFAULT_MAX_DRIFT)
}

/// C-MONOTONIC. Bug: the clock follows the wall clock back.
#[test]
fn c_monotonic_through_an_hour_back() {
    let wall = Wall::at(NOON);
    let clock = clock(&wall);
    let before = clock.tick().unwrap();
    assert_eq!(before.millis(), NOON);
    wall.set(NOON - 3_600_000);
    let after = clock.tick().unwrap();
    assert!(after > before);
    assert_eq!(
        after.millis(),
        NOON,
        "it stays as close to the wall clock as it can"
    );
    wall.set(NOON + 1);
    assert_eq!(clock.tick().unwrap().millis(), NOON + 1);
}

/// C-MONOTONIC. Bug: the counter overflows within a millisecond, and wraps.
#[test]
fn c_monotonic_through_more_ticks_than_the_counter_counts() {
    let clock = clock(&Wall::at(NOON));
    let mut last = Timestamp::MIN;
    for _ in 0..200_000 {
        let tick = clock.tick().unwrap();
        assert!(tick > last);
        last = tick;
    }
    assert_eq!(last.millis(), NOON + 3);
}

/// C-MONOTONIC. Bugs: an observed timestamp is ignored, or is ignored when it
/// equals the clock's own.
#[test]
fn c_monotonic_past_what_was_observed() {
    let clock = clock(&Wall::at(NOON));
    let own = clock.tick().unwrap();
    for seen in [
        own,
        own.next().unwrap(),
        Timestamp::new(NOON + 60_000, 7).unwrap(),
    ] {
        assert!(clock.observe(seen));
        assert!(clock.tick().unwrap() > seen);
    }
    let last = clock.tick().unwrap();
    assert!(clock.observe(own), "what is past is no step back");
    assert!(clock.tick().unwrap() > last);
}

/// Bug: a timestamp from the year 3000 carries the clock with it for good.
#[test]
fn what_is_too_far_ahead_is_followed_only_when_confirmed() {
    let clock = clock(&Wall::at(NOON));
    let first_too_far = Timestamp::new(NOON + 60_001, 0).unwrap();
    assert!(!clock.observe(first_too_far));
    assert_eq!(clock.tick().unwrap().millis(), NOON);
    let lent_before = clock.tick_past(first_too_far).unwrap();
    let lent = clock.tick_past(first_too_far).unwrap();
    assert!(lent_before > first_too_far);
    assert!(lent > lent_before, "none is lent twice");
    assert_eq!(clock.tick().unwrap().millis(), NOON);
    clock.confirm(lent);
    assert!(clock.tick().unwrap() > lent);
}

/// A minute before the end of time, where clocks stand still.
const LAST_MILLIS: u64 = Timestamp::MAX_MILLIS - (1 << 16);

/// Bug: many threads that step past the end together come out in 1970.
#[test]
fn the_end_of_time_is_one_for_all_threads() {
    let clock = clock(&Wall::at(u64::MAX));
    clock.tick().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| assert!(clock.tick().is_err())));
        }
    });
    assert_eq!(clock.tick(), Err(ClockExhausted));
}

/// Bug: arithmetic at the end of time panics, or wraps around to 1970.
#[test]
fn the_end_of_time_is_an_error() {
    let wall = Wall::at(u64::MAX);
    let clock = Clock::new(wall.clone(), Duration::MAX);
    let tick = clock.tick().unwrap();
    assert_eq!(tick.millis(), LAST_MILLIS);
    assert!(clock.observe(Timestamp::MAX));
    assert_eq!(clock.tick(), Err(ClockExhausted));
    assert_eq!(clock.tick_past(Timestamp::MAX), Err(ClockExhausted));
    wall.set(0);
    assert_eq!(clock.tick(), Err(ClockExhausted));
    assert!(Clock::new(|| 0, Duration::ZERO).tick().unwrap() > Timestamp::MIN);
}

/// C-MONOTONIC, from many threads. Bug: two callers get the same timestamp,
/// where the wall clock stands still, or where both see it move on.
#[test]
fn c_monotonic_for_all_threads_together() {
    let readings = AtomicU64::new(0);
    let moves_on = move || NOON + readings.fetch_add(1, Ordering::Relaxed) / 4;
    for clock in [
        clock(&Wall::at(NOON)),
        Clock::new(moves_on, DEFAULT_MAX_DRIFT),
    ] {
        let mut ticks: Vec<Timestamp> = std::thread::scope(|scope| {
            let ticking = || {
                let ticks: Vec<_> = (0..50_000).map(|_| clock.tick().unwrap()).collect();
                assert!(ticks.is_sorted());
                ticks
            };
            let threads = [(); 4].map(|()| scope.spawn(ticking));
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        ticks.sort_unstable();
        ticks.dedup();
        assert_eq!(ticks.len(), 200_000);
    }
}

proptest! {
    /// C-MONOTONIC, whatever the wall clock does and whatever is observed.
    #[test]
    fn c_monotonic_always(steps in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50)) {
        let wall = Wall::at(0);
        let clock = clock(&wall);
        let mut greatest = Timestamp::MIN;
        for (now, seen) in steps {
            // Half of the times within the range of timestamps, half beyond.
            wall.set(if now % 2 == 0 { now >> 16 } else { now });
            let seen = Timestamp::from_bits(seen);
            if clock.observe(seen) {
                greatest = greatest.max(seen);
            }
            match clock.tick() {
                Ok(tick) => {
                    prop_assert!(tick > greatest);
                    greatest = tick;
                }
                Err(ClockExhausted) => prop_assert!(greatest.millis() >= LAST_MILLIS),
            }
        }
    }

    /// Milliseconds and counter come out of a timestamp as they went in.
    #[test]
    fn timestamps_keep_their_parts(millis in 0..=Timestamp::MAX_MILLIS, counter: u16) {
        let timestamp = Timestamp::new(millis, counter).unwrap();
        prop_assert_eq!((timestamp.millis(), timestamp.counter()), (millis, counter));
        prop_assert_eq!(Timestamp::from_bits(timestamp.to_bits()), timestamp);
        prop_assert_eq!(Timestamp::new(Timestamp::MAX_MILLIS + 1 + millis, counter), None);
    }
}

fn coordinator(links: &[Arc<Link>; 3], wall: &Wall) -> Coordinator<3, 2, 2, Arc<Link>> {
    Coordinator::builder(links.clone())
        .wall_clock(wall.clone())
        .build()
}

/// C-MONOTONIC end to end. Bug: an application's clock steps back an hour, and
/// from then on its writes are acknowledged and lost.
#[tokio::test(start_paused = true)]
async fn c_monotonic_a_coordinator_survives_a_step_back() {
    let links = links_at(&Wall::at(NOON));
    let wall = Wall::at(NOON);
    let coordinator = coordinator(&links, &wall);
    let before = coordinator.put("k", "before").await.unwrap();
    wall.set(NOON - 3_600_000);
    let after = coordinator.put("k", "after").await.unwrap();
    assert!(after.version() > before.version());
    assert_eq!(after.attempts(), 1);
    // A new process, whose clock is an hour behind, has no memory.
    let restarted = self::coordinator(&links, &wall);
    let receipt = restarted.put("k", "restarted").await.unwrap();
    assert!(receipt.version() > after.version());
    let value = restarted.get("k").await.unwrap();
    assert_eq!(value.as_deref(), Some(&b"restarted"[..]));
}

/// C-DRIFT. Bugs: no bound; the bound in another unit; off by one. The refusal
/// names both times, nothing is stored, and a correct clock can still write.
#[tokio::test(start_paused = true)]
async fn c_drift_an_entry_from_the_future_is_refused() {
    let year_3000 = 32_503_680_000_000;
    for (ahead, admitted) in [(60_000, true), (60_001, false), (year_3000 - NOON, false)] {
        let links = links_at(&Wall::at(NOON));
        let result = coordinator(&links, &Wall::at(NOON + ahead))
            .put("k", "ahead")
            .await;
        assert_eq!(result.is_ok(), admitted, "{ahead} ms ahead");
        let Err(error) = result else { continue };
        assert!(matches!(error, WriteError::NotApplied(_)), "{error}");
        for replica in error.report().unwrap().replicas() {
            let Some(ReplicaFailure::Refused(refusal)) = replica.outcome().failure() else {
                panic!("{error}");
            };
            let timestamp = Timestamp::new(NOON + ahead, 0).unwrap();
            assert_eq!(
                *refusal,
                Refusal::TooFarAhead {
                    timestamp,
                    now_millis: NOON,
                    max_drift_millis: 60_000
                }
            );
            let text = refusal.to_string();
            assert!(text.contains(&(NOON + ahead).to_string()) && text.contains(&NOON.to_string()));
        }
        assert!(links.iter().all(|link| link.store().entry("k").is_none()));
        coordinator(&links, &Wall::at(NOON))
            .put("k", "now")
            .await
            .unwrap();
    }
}

/// C-DRIFT holds for deletes. Bug: only values are checked.
#[tokio::test(start_paused = true)]
async fn c_drift_a_tombstone_from_the_future_is_refused() {
    let links = links_at(&Wall::at(NOON));
    let ahead = coordinator(&links, &Wall::at(NOON + 3_600_000));
    assert!(ahead.delete("k").await.is_err());
    assert!(links.iter().all(|link| link.store().entry("k").is_none()));
}

/// C-DRIFT. Bug: entries of the past are refused, so that repair never heals.
#[tokio::test(start_paused = true)]
async fn c_drift_the_past_is_admitted() {
    let links = links_at(&Wall::at(NOON));
    coordinator(&links, &Wall::at(0))
        .put("k", "v")
        .await
        .unwrap();
    assert!(links.iter().all(|link| link.store().value("k").is_some()));
}

/// A coordinator that starts with a wall clock set back to `wall`, over
/// replicas whose clocks are right.
fn restarted(
    links: &[Arc<Link>; 3],
    wall: u64,
    not_before: Timestamp,
) -> CoordinatorBuilder<3, 2, 2, Arc<Link>> {
    Coordinator::builder(links.clone())
        .wall_clock(Wall::at(wall))
        .not_before(not_before)
}

/// C-MONOTONIC over a restart, by any step back. Bugs: what was stored is not
/// taken up; it is only where the step is within the drift bound; the clock
/// goes back once the first entry is written; two entries share a version.
#[tokio::test(start_paused = true)]
async fn c_monotonic_holds_over_a_restart_with_the_clock_set_back() {
    for step in [1, 30_000, 3_600_000, NOON] {
        let links = links_at(&Wall::at(NOON));
        let mut last = Timestamp::new(NOON, 7).unwrap();
        let coordinator = restarted(&links, NOON - step, last).build();
        // Keys that no replica knows: nothing supersedes them.
        for key in ["a", "b", "c"] {
            let receipt = coordinator.put(key, "v").await.unwrap();
            assert!(receipt.version().timestamp > last, "{step} ms back");
            assert_eq!(receipt.attempts(), 1);
            last = receipt.version().timestamp;
        }
    }
    let links = links_at(&Wall::at(NOON));
    let stored = Timestamp::new(NOON, 7).unwrap();
    let coordinator = restarted(&links, 0, stored).build();
    // Both are stamped before either is acked.
    let line = Line::Slow(Duration::from_millis(1));
    links.iter().for_each(|link| link.set(line));
    let (d, e) = tokio::join!(coordinator.put("d", "v"), coordinator.put("e", "v"));
    assert_ne!(d.unwrap().version(), e.unwrap().version());
}

/// C-DRIFT. Bug: one entry from the future, held over a restart, has all
/// replicas refuse all that is written from then on.
#[tokio::test(start_paused = true)]
async fn c_drift_a_restart_does_not_follow_an_entry_from_the_future() {
    let year_3000 = Timestamp::new(32_503_680_000_000, 0).unwrap();
    for stored in [year_3000, Timestamp::MAX] {
        let links = links_at(&Wall::at(NOON));
        let coordinator = restarted(&links, NOON, stored).build();
        let first = coordinator.put("k", "first").await.unwrap();
        assert_eq!(first.version().timestamp.millis(), NOON);
        let second = coordinator.put("k", "second").await.unwrap();
        assert!(second.version() > first.version());
        assert_eq!(second.version().timestamp.millis(), NOON);
        assert_eq!(second.attempts(), 1);
        // Where an entry is stamped once only, the first write pays.
        let coordinator = restarted(&links, NOON, year_3000).max_attempts(1).build();
        let error = coordinator.put("a", "third").await.unwrap_err();
        assert!(matches!(error, WriteError::NotApplied(_)), "{error}");
        coordinator.put("a", "fourth").await.unwrap();
    }
}

/// Bug: a floor is forgotten for failures that say nothing about it.
#[tokio::test(start_paused = true)]
async fn a_floor_outlives_replicas_that_do_not_answer() {
    let links = links_at(&Wall::at(NOON));
    let stored = Timestamp::new(NOON, 7).unwrap();
    let coordinator = restarted(&links, 0, stored).build();
    links.iter().for_each(|link| link.set(Line::Refused));
    coordinator.put("k", "v").await.unwrap_err();
    links.iter().for_each(|link| link.set(Line::Up));
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert!(receipt.version().timestamp > stored);
}

/// C-MONOTONIC. Bug: a floor that replicas have vouched for is forgotten later,
/// and the clock goes back behind what was acknowledged.
#[tokio::test(start_paused = true)]
async fn c_monotonic_a_floor_that_was_admitted_is_no_mistake() {
    let wall = Wall::at(NOON);
    let links = links_at(&wall);
    let stored = Timestamp::new(NOON, 7).unwrap();
    let coordinator = restarted(&links, 0, stored).build();
    let first = coordinator.put("k", "first").await.unwrap();
    wall.set(0);
    let error = coordinator.put("other", "refused").await.unwrap_err();
    assert!(matches!(error, WriteError::NotApplied(_)), "{error}");
    wall.set(NOON);
    let second = coordinator.put("other", "second").await.unwrap();
    assert!(second.version() > first.version());
}

/// C-MONOTONIC. Bugs: what is refused past one key's far future has a floor
/// forgotten, of which it says nothing; that future is carried to other keys.
#[tokio::test(start_paused = true)]
async fn a_floor_and_one_keys_far_future_are_two_things() {
    a_far_future_beside_a_floor::<2, 2>().await;
    a_far_future_beside_a_floor::<1, 3>().await;
}

async fn a_far_future_beside_a_floor<const W: usize, const R: usize>() {
    let links = links_at(&Wall::at(NOON));
    let future = entry(NOON + 3_600_000, "of the future");
    for link in &links {
        plant(link, "poisoned", future.clone()).await;
    }
    let stored = Timestamp::new(NOON, 7).unwrap();
    let coordinator = Coordinator::<3, W, R, _>::builder(links)
        .wall_clock(Wall::at(0))
        .not_before(stored)
        .build();
    let mut last = stored;
    for _ in 0..3 {
        coordinator.put("poisoned", "v").await.unwrap_err();
        let receipt = coordinator.put("sound", "v").await.unwrap();
        let timestamp = receipt.version().timestamp;
        assert!(timestamp > last, "W = {W}: {timestamp} after {last}");
        assert_eq!(timestamp.millis(), NOON, "W = {W}");
        assert_eq!(receipt.attempts(), 1, "W = {W}");
        last = timestamp;
    }
}

/// C-MONOTONIC. Bug: what is stamped past another writer's entry runs into what
/// is stamped past the floor, and an acknowledged put loses to one that failed.
#[tokio::test(start_paused = true)]
async fn c_monotonic_no_version_is_given_to_two_puts() {
    let links = links_at(&Wall::at(NOON));
    let stored = Timestamp::new(NOON, 7).unwrap();
    let other = Version {
        timestamp: Timestamp::new(NOON, 12).unwrap(),
        writer: WriterId::new(77),
    };
    for link in &links {
        plant(link, "a", Entry::new(other, "other")).await;
    }
    let coordinator = restarted(&links, 0, stored).build();
    // Its second attempt comes to the last replica only.
    let refuse = |after| {
        for link in &links[..2] {
            *link.refuse_merges_after.lock().unwrap() = after;
        }
    };
    refuse(Some(1));
    coordinator.put("a", "zz").await.unwrap_err();
    refuse(None);
    let failed = links[2].store().entry("a").unwrap().version;
    links[2].set(Line::Refused);
    for key in ["b", "c", "d", "e", "f"] {
        coordinator.put(key, "v").await.unwrap();
    }
    let acked = coordinator.put("a", "y").await.unwrap().version();
    assert_ne!(acked, failed);
    links[2].set(Line::Up);
    links[0].set(Line::Refused);
    let found = coordinator.get("a").await.unwrap().unwrap();
    assert_eq!(found == "y", acked > failed);
}

/// C-DRIFT. Bug: with a replica down, a floor that is a mistake is never
/// forgotten.
#[tokio::test(start_paused = true)]
async fn a_mistaken_floor_is_forgotten_with_a_replica_down() {
    for down in 0..3 {
        let links = links_at(&Wall::at(NOON));
        for (millis, link) in (1..).zip(&links) {
            link.set(Line::Slow(Duration::from_millis(millis)));
        }
        links[down].set(Line::Refused);
        let year_3000 = Timestamp::new(32_503_680_000_000, 0).unwrap();
        let coordinator = restarted(&links, NOON, year_3000).build();
        let receipt = coordinator.put("k", "v").await.unwrap();
        assert_eq!(receipt.version().timestamp.millis(), NOON);
    }
}

/// C-MONOTONIC over a restart. Bug: one replica whose clock is behind has the
/// floor forgotten, which another admits.
#[tokio::test(start_paused = true)]
async fn a_floor_is_not_forgotten_on_one_replicas_word() {
    let mut links = links_at::<3>(&Wall::at(NOON));
    let [behind] = links_at::<1>(&Wall::at(0));
    links[2] = behind;
    let stored = Timestamp::new(NOON, 7).unwrap();
    let coordinator = restarted(&links, 0, stored).build();
    links[1].set(Line::Refused);
    let error = coordinator.put("k", "v").await.unwrap_err();
    assert!(matches!(error, WriteError::MaybeApplied(_)), "{error}");
    links[1].set(Line::Up);
    let receipt = coordinator.put("other", "v").await.unwrap();
    assert!(receipt.version().timestamp > stored);
}
