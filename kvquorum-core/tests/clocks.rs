//! Rules C-MONOTONIC and C-DRIFT.

mod support;

use std::sync::Arc;

use kvquorum_core::{Coordinator, Edit, Refusal, ReplicaFailure, Timestamp, WriteError};
use support::{Line, Link, NOON, Wall, entry, links_at, links_at_once, plant};

const HOUR: u64 = 3_600_000;

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

/// C-DRIFT. Bugs: a key that was written while clocks were wrong cannot be written
/// again until they have caught up; such a write carries the coordinator's clock,
/// and every other write fails; each one carries the key further ahead.
#[tokio::test(start_paused = true)]
async fn c_drift_a_key_from_when_clocks_were_wrong_can_be_written() {
    let replicas = Wall::at(NOON + 3 * HOUR);
    let links = links_at(&replicas);
    let wrong = coordinator(&links, &replicas.clone());
    wrong.put("k", "wrong").await.unwrap();
    replicas.set(NOON);
    let right = coordinator(&links, &Wall::at(NOON));
    let found = right.get_with_receipt("k").await.unwrap();
    let mut last = found.entry().unwrap().version;
    for value in ["a", "b", "c"] {
        let receipt = right.put("k", value).await.unwrap();
        assert_eq!(receipt.attempts(), 2);
        assert!(receipt.version() > last);
        assert_eq!(receipt.version().timestamp.millis(), NOON + 3 * HOUR);
        last = receipt.version();
        let other = right.put("other", value).await.unwrap();
        assert_eq!(other.attempts(), 1);
        assert_eq!(other.version().timestamp.millis(), NOON);
    }
    assert_eq!(right.get("k").await.unwrap().unwrap(), "c");
}

/// C-DRIFT, for a coordinator whose clock is ahead of the replicas', and not too far.
/// Bug: its clock follows what is too far ahead for them, and steps more than once past
/// it, so that they refuse each attempt.
#[tokio::test(start_paused = true)]
async fn c_drift_a_key_from_when_clocks_were_wrong_can_be_written_by_clocks_ahead() {
    for ahead in [0, 30_000, 31_000, 40_000, 59_000] {
        for held in [60_001, 65_000, 70_000, HOUR] {
            let links = links_at(&Wall::at(NOON));
            let wall = Wall::at(NOON + ahead);
            let coordinator = coordinator(&links, &wall);
            let counters = coordinator.registers::<str, u8>("c");
            for link in &links {
                plant(link, "put", entry(NOON + held, "wrong"));
                plant(link, "c/\"k\"", entry(NOON + held, "1"));
            }
            let case = format!("{ahead} ms ahead, {held} ms held");
            for value in ["a", "b", "c"] {
                let put = coordinator.put("put", value).await;
                let receipt = put.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert!(receipt.attempts() <= 4, "{case}");
                let other = coordinator.put("other", value).await.unwrap();
                assert_eq!(other.version().timestamp.millis(), NOON + ahead, "{case}");
            }
            for value in 2..5 {
                let one_more = |held: Option<&u8>| Edit::Put(held.copied().unwrap_or(0) + 1);
                let update = counters.update("k", one_more).await;
                let updated = update.unwrap_or_else(|error| panic!("{case}: {error}"));
                assert_eq!(updated.after(), Some(&value), "{case}");
                assert!(updated.attempts() <= 4, "{case}");
            }
        }
    }
}

/// C-MONOTONIC. A wall clock that leaps for the time of one put, in a process that
/// writes on. Bugs: the clock stays where it leapt, and every later write is
/// refused; it goes back and gives a version out twice; it does at the end of time.
#[tokio::test(start_paused = true)]
async fn one_leap_of_the_clock_does_not_end_writing() {
    for leap in [NOON + HOUR, u64::MAX] {
        for links in [links_at(&Wall::at(NOON)), links_at_once()] {
            let wall = Wall::at(NOON);
            let coordinator = coordinator(&links, &wall);
            let before = coordinator.put("k", "before").await.unwrap();
            wall.set(leap);
            let error = coordinator.put("k", "leapt").await.unwrap_err();
            assert!(matches!(error, WriteError::NotApplied(_)), "{error}");
            wall.set(NOON);
            let after = coordinator.put("k", "after").await.unwrap();
            assert!(after.attempts() <= 3);
            assert!(after.version() > before.version());
            let mut versions = vec![before.version(), after.version()];
            for number in 0..20 {
                let receipt = coordinator.put(format!("{number}"), "v").await.unwrap();
                assert_eq!(receipt.attempts(), 1);
                assert_eq!(receipt.version().timestamp.millis(), NOON);
                versions.push(receipt.version());
            }
            versions.sort_unstable();
            versions.dedup();
            assert_eq!(versions.len(), 22);
        }
    }
}

/// W-SUPERSEDED. A clock that is ahead of its wall clock, and replicas that do not agree
/// on what is too far. Bug: an attempt that one replica has taken is followed by one that
/// is stamped lower; then a later put is acknowledged, and lost to the first attempt.
#[tokio::test(start_paused = true)]
async fn what_a_replica_may_have_taken_is_not_stamped_lower() {
    let mut links = links_at(&Wall::at(NOON));
    links[1] = Arc::clone(&links_at::<3>(&Wall::at(NOON + 30_000))[1]);
    let wall = Wall::at(NOON + 75_000);
    let coordinator = coordinator(&links, &wall);
    coordinator.put("leap", "v").await.unwrap_err();
    wall.set(NOON);
    let error = coordinator.put("k", "first").await.unwrap_err();
    assert!(matches!(error, WriteError::MaybeApplied(_)), "{error}");
    assert_eq!(error.report().unwrap().attempts(), 1);
    let taken = links[1].store().entry("k").unwrap().version;
    assert_eq!(taken.timestamp.millis(), NOON + 75_000);
    // Its clock stepped back all the same.
    let receipt = coordinator.put("other", "v").await.unwrap();
    assert_eq!(receipt.version().timestamp.millis(), NOON);
    assert_eq!(receipt.attempts(), 1);
}

/// Bugs: a clock that its wall clock stands by is set back; a write is tried over
/// and over.
#[tokio::test(start_paused = true)]
async fn replicas_that_are_behind_do_not_set_a_clock_back() {
    let replicas = Wall::at(NOON - HOUR);
    let links = links_at(&replicas);
    let coordinator = coordinator(&links, &Wall::at(NOON));
    for _ in 0..3 {
        let error = coordinator.put("k", "v").await.unwrap_err();
        assert!(matches!(error, WriteError::NotApplied(_)), "{error}");
        assert_eq!(error.report().unwrap().attempts(), 1);
    }
    replicas.set(NOON);
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.version().writer, coordinator.writer());
}

/// The coordinator follows less than replicas admit. Bug: an entry that is stamped
/// as late as replicas admit carries the clock of whoever reads it to the edge, and
/// replicas that are a second behind refuse what it writes to other keys.
#[tokio::test(start_paused = true)]
async fn an_entry_at_the_edge_of_the_drift_spoils_no_other_key() {
    for behind in [0, 1_000, 29_000] {
        for ahead in [29_000, 30_000, 31_000, 59_999, 60_000] {
            let mut links = links_at::<3>(&Wall::at(NOON));
            let late = links_at::<3>(&Wall::at(NOON - behind));
            links[1] = Arc::clone(&late[1]);
            links[2] = Arc::clone(&late[2]);
            for link in &links {
                plant(link, "edge", entry(NOON + ahead, "edge"));
            }
            let coordinator = coordinator(&links, &Wall::at(NOON));
            for _ in 0..3 {
                coordinator.get("edge").await.unwrap();
                coordinator.put("edge", "v").await.unwrap();
                let receipt = coordinator.put("other", "v").await.unwrap();
                assert_eq!(receipt.acked(), 3, "{ahead} ms, {behind} ms behind");
            }
        }
    }
}

/// C-MONOTONIC. Bug: of a page the clock looks at the latest timestamp alone, and one
/// key from beyond the bound keeps it from following the others: what is put next is
/// stamped before what was just found.
#[tokio::test(start_paused = true)]
async fn c_monotonic_the_clock_follows_each_key_of_a_page() {
    let links = links_at(&Wall::at(NOON));
    for link in &links {
        plant(link, "a", entry(NOON + 10_000, "within the bound"));
        plant(link, "b", entry(NOON + 50_000, "beyond it"));
    }
    let coordinator = coordinator(&links, &Wall::at(NOON));
    let page = coordinator.scan(..).next_page().await.unwrap().unwrap();
    assert_eq!(page.len(), 2);
    let receipt = coordinator.put("a", "v").await.unwrap();
    assert_eq!(receipt.attempts(), 1);
}

/// C-MONOTONIC over a restart, by any step back: where write quorums meet, nothing
/// that is written again is lost to what was there.
#[tokio::test(start_paused = true)]
async fn a_restart_with_the_clock_set_back_loses_nothing() {
    for step in [1, 30_000, HOUR, NOON] {
        let links = links_at(&Wall::at(NOON));
        coordinator(&links, &Wall::at(NOON))
            .put("k", "before")
            .await
            .unwrap();
        let restarted = coordinator(&links, &Wall::at(NOON - step));
        for value in ["a", "b", "c"] {
            let receipt = restarted.put("k", value).await.unwrap();
            assert!(receipt.attempts() <= 2);
            assert_eq!(restarted.get("k").await.unwrap().unwrap(), value);
        }
    }
}

/// C-MONOTONIC. Bug: what is stamped past another writer's entry has the version of
/// an earlier write that failed, and an acknowledged put loses to that.
#[tokio::test(start_paused = true)]
async fn c_monotonic_no_version_is_given_to_two_puts() {
    let links = links_at(&Wall::at(NOON));
    for link in &links {
        plant(link, "a", entry(NOON, "other"));
    }
    let coordinator = coordinator(&links, &Wall::at(0));
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
    let acked = coordinator.put("a", "y").await.unwrap().version();
    assert_ne!(acked, failed);
    links[2].set(Line::Up);
    links[0].set(Line::Refused);
    let found = coordinator.get("a").await.unwrap().unwrap();
    assert_eq!(found == "y", acked > failed);
}
