//! Rule W-SUPERSEDED: writes that meet what is newer, and clocks that are wrong.
//!
//! Time is paused: it moves on only when every task waits for it, so each test
//! takes the time it says and no real time.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{Ack, Coordinator, Outcome, WriteError};
use support::{Line, Link, NOON, Wall, coordinator, entry, holding, links, links_at, plant};

const SLOW: Duration = Duration::from_millis(100);

/// W-SUPERSEDED. Bug: an ack that says "superseded" passes for success.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_put_goes_past_what_is_newer() {
    for holders in 1..=3 {
        let links = links();
        for link in &links[..holders] {
            plant(link, "k", entry(NOON + 10_000, "ten seconds ahead"));
        }
        let receipt = coordinator::<2>(&links).put("k", "v").await.unwrap();
        assert_eq!(receipt.attempts(), 2);
        assert_eq!(holding(&links, "k", "v"), 3);
        assert!(receipt.version().timestamp.millis() >= NOON + 10_000);
        for outcome in receipt.replicas() {
            assert!(matches!(outcome, Outcome::Answered(Ack::Applied)));
        }
    }
}

/// W-SUPERSEDED for deletes. Bug: a delete that loses to a newer value.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_delete_goes_past_what_is_newer() {
    let links = links();
    for link in &links {
        plant(link, "k", entry(NOON + 10_000, "ten seconds ahead"));
    }
    let coordinator = coordinator::<2>(&links);
    assert_eq!(coordinator.delete("k").await.unwrap().attempts(), 2);
    assert_eq!(coordinator.get("k").await.unwrap(), None);
}

/// W-SUPERSEDED. Bugs: a clock that is far behind can write a key once, and never
/// again; two of its writes share a version.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_clock_that_is_years_behind_can_write() {
    let links = links();
    let slow = Coordinator::<3, 2, 2, _>::builder(links.clone())
        .wall_clock(Wall::at(1_000))
        .build();
    let mut last = coordinator::<2>(&links)
        .put("k", "first")
        .await
        .unwrap()
        .version();
    for value in ["second", "third", "fourth"] {
        let receipt = slow.put("k", value).await.unwrap();
        assert_eq!(receipt.attempts(), 2);
        assert!(receipt.version() > last);
        assert_eq!(holding(&links, "k", value), 3);
        last = receipt.version();
    }
}

/// W-SUPERSEDED. Bug: saying "acknowledged" of what an older entry may have
/// beaten, when the attempts are used up.
#[tokio::test(start_paused = true)]
async fn w_superseded_attempts_are_bounded() {
    let links = links();
    for link in &links {
        plant(link, "k", entry(NOON + 10_000, "ten seconds ahead"));
    }
    let coordinator: Coordinator<3, 2, 2, _> = Coordinator::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .max_attempts(1)
        .build();
    let error = coordinator.put("k", "v").await.unwrap_err();
    let WriteError::Superseded { by, report, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(by, entry(NOON + 10_000, "").version);
    assert_eq!(report.attempts(), 1);
    assert_eq!(holding(&links, "k", "v"), 0);
}

/// W-SUPERSEDED. Each attempt meets an entry that another writer has just
/// stamped past it. Bugs: a write fails because others write the same key at
/// the same time; it is acknowledged without a word of it; it goes on stamping.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_write_that_overlaps_with_others_is_acknowledged() {
    let links = links();
    let ahead = |seconds: u64| entry(NOON + seconds * 1_000, "ahead");
    for link in &links {
        *link.overlapping.lock().unwrap() = vec![ahead(30), ahead(20), ahead(10)];
    }
    let coordinator = coordinator::<2>(&links);
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.attempts(), 2);
    assert_eq!(receipt.superseded_by(), Some(ahead(20).version));
    assert!(
        receipt.version() > ahead(10).version,
        "past all that was before"
    );
    assert_eq!(receipt.acked(), 3);
    // Bug: the clock does not catch up where the write was superseded.
    let receipt = coordinator.put("other", "v").await.unwrap();
    assert!(receipt.version() > ahead(10).version);
}

/// W-SUPERSEDED. Bug: a late ack that tells of a greater entry is not told of.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_late_ack_is_told_of() {
    let links = links();
    let ahead = entry(NOON + 10_000, "of a write that failed");
    plant(&links[2], "k", ahead.clone());
    links[2].set(Line::Slow(SLOW));
    let receipt = coordinator::<2>(&links).put("k", "v").await.unwrap();
    assert_eq!((receipt.attempts(), receipt.superseded_by()), (1, None));
    let receipt = receipt.settled().await;
    assert_eq!(receipt.superseded_by(), Some(ahead.version));
}

/// W-SUPERSEDED. The key holds an entry so far ahead that the clock does not
/// follow. Bug: the same timestamp is given out twice, and what failed first wins
/// over what was acknowledged after it.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_write_done_again_wins_over_the_one_that_failed() {
    for first in [Some("zzz"), None] {
        let links = links();
        for link in &links {
            plant(link, "k", entry(NOON, "old"));
        }
        let slow = Coordinator::<3, 2, 2, _>::builder(links.clone())
            .wall_clock(Wall::at(NOON - 120_000))
            .build();
        // Only replica 2 takes the second attempt.
        *links[0].refuse_merges_after.lock().unwrap() = Some(1);
        *links[1].refuse_merges_after.lock().unwrap() = Some(1);
        let error = match first {
            Some(value) => slow.put("k", value).await.unwrap_err(),
            None => slow.delete("k").await.unwrap_err(),
        };
        assert!(matches!(error, WriteError::MaybeApplied(_)), "{error}");
        *links[0].refuse_merges_after.lock().unwrap() = None;
        *links[1].refuse_merges_after.lock().unwrap() = None;
        links[2].set(Line::Slow(SLOW));
        slow.put("k", "aaa").await.unwrap().settled().await;
        links[2].set(Line::Up);
        assert_eq!(holding(&links, "k", "aaa"), 3);
    }
}

/// W-SUPERSEDED. Bug: where a minority may ack, one replica whose clock is wrong
/// carries the coordinator's clock away, and the others refuse all its writes.
#[tokio::test(start_paused = true)]
async fn a_minority_that_is_wrong_about_the_time_is_not_believed() {
    let links: [Arc<Link>; 3] = links();
    let year_3000 = 32_503_680_000_000;
    let mad: [Arc<Link>; 1] = links_at(&Wall::at(year_3000));
    plant(&mad[0], "spoilt", entry(year_3000, "future"));
    let [mad] = mad;
    let links = [mad, Arc::clone(&links[1]), Arc::clone(&links[2])];
    let coordinator = coordinator::<1>(&links);
    let _ = coordinator.put("spoilt", "v").await;
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.acked(), 3);
    assert_eq!(receipt.version().timestamp.millis(), NOON);
}

/// C-MONOTONIC. Bug: what the acks of a failed write told of is not observed.
#[tokio::test(start_paused = true)]
async fn c_monotonic_acks_of_a_failed_write_are_observed() {
    let links = links();
    plant(&links[0], "k", entry(NOON + 10_000, "ahead"));
    links[1].set(Line::Refused);
    links[2].set(Line::Refused);
    let coordinator = coordinator::<2>(&links);
    assert!(coordinator.put("k", "v").await.is_err());
    links[1].set(Line::Up);
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.attempts(), 1);
}

/// W-SUPERSEDED. Bug: where sets of W replicas need not meet, an entry that is
/// older than the write passes for one that overlaps with it.
#[tokio::test(start_paused = true)]
async fn w_superseded_without_overlapping_quorums_nothing_is_taken_for_granted() {
    let links = links();
    let ahead = |seconds: u64| entry(NOON + seconds * 1_000, "ahead");
    for link in &links {
        *link.overlapping.lock().unwrap() = vec![ahead(30), ahead(20), ahead(10)];
    }
    let error = coordinator::<1>(&links).put("k", "v").await.unwrap_err();
    let WriteError::Superseded { by, report, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(by, ahead(30).version);
    assert_eq!(report.attempts(), 3);
}

/// W-SUPERSEDED. Bug: many writers of one key make each other fail.
#[tokio::test(start_paused = true)]
async fn w_superseded_many_writers_of_one_key_all_succeed() {
    let links = links();
    let writers = (0..64_u64).map(|writer| {
        let coordinator = coordinator::<2>(&links);
        // Every answer is late, and no two writers keep the same pace.
        for (index, link) in (1..).zip(&links) {
            link.set(Line::Slow(Duration::from_millis(index)));
        }
        tokio::spawn(async move {
            for round in 0..20 {
                tokio::time::sleep(Duration::from_millis(writer * 7 % 11)).await;
                let receipt = coordinator.put("k", format!("{writer}/{round}")).await;
                assert!(receipt.unwrap().attempts() <= 2);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

/// W-SUPERSEDED. Bug: one entry from the far future, on one replica, carries the
/// clock away, and then every write of every key is refused.
#[tokio::test(start_paused = true)]
async fn an_entry_from_the_future_spoils_no_other_key() {
    let links = links();
    let year_3000 = 32_503_680_000_000;
    plant(&links[0], "spoilt", entry(year_3000, "future"));
    let coordinator = coordinator::<2>(&links);
    for _ in 0..3 {
        assert!(coordinator.get("spoilt").await.is_ok());
        let _ = coordinator.put("spoilt", "v").await;
    }
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.attempts(), 1);
    assert_eq!(receipt.version().timestamp.millis(), NOON);
}
