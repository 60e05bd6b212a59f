//! Rules W-ALL, W-QUORUM, W-FINISH, W-CANCEL, W-FAIL and W-SUPERSEDED.
//!
//! Time is paused: it moves on only when every task waits for it, so each test
//! takes the time it says and no real time.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{
    Ack, Call, Coordinator, Outcome, ReplicaFailure, Request, RequestKind, Transport,
    TransportError, WriteError, WriterId,
};
use support::{
    Line, Link, NOON, Wall, entry, let_background_finish, links, links_at, plant, within_an_hour,
};
use tokio::time::{Instant, timeout};

const SLOW: Duration = Duration::from_millis(100);

fn coordinator<const W: usize>(links: &[Arc<Link>; 3]) -> Coordinator<3, W, 2, Arc<Link>> {
    Coordinator::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .build()
}

fn holding(links: &[Arc<Link>], key: &str, value: &str) -> usize {
    let holds = |link: &&Arc<Link>| link.store().value(key).as_deref() == Some(value.as_bytes());
    links.iter().filter(holds).count()
}

/// W-ALL. Bug: sending to W replicas only, or stopping at the Wth ack.
#[tokio::test(start_paused = true)]
async fn w_all_the_entry_goes_to_all_replicas() {
    let links = links();
    let receipt = coordinator::<1>(&links).put("k", "v").await.unwrap();
    assert_eq!(holding(&links, "k", "v"), 3);
    assert_eq!(receipt.acked(), 3);
    for link in &links {
        assert_eq!(link.store().entry("k").unwrap().version, receipt.version());
        assert_eq!(link.calls(), 1);
    }
}

/// W-ALL. Bug: calling one replica after the other.
#[tokio::test(start_paused = true)]
async fn w_all_the_calls_go_out_together() {
    let links = links();
    links.iter().for_each(|link| link.set(Line::Slow(SLOW)));
    let start = Instant::now();
    coordinator::<3>(&links).put("k", "v").await.unwrap();
    assert_eq!(start.elapsed(), 2 * SLOW);
}

/// W-QUORUM. Bug: W off by one, in either direction.
#[tokio::test(start_paused = true)]
async fn w_quorum_returns_with_the_wth_ack() {
    for (w, expected) in [(1, 20), (2, 40), (3, 60)] {
        let links = links();
        for (link, millis) in links.iter().zip([10, 20, 30]) {
            link.set(Line::Slow(Duration::from_millis(millis)));
        }
        let start = Instant::now();
        let acked = match w {
            1 => coordinator::<1>(&links)
                .put("k", "v")
                .await
                .unwrap()
                .acked(),
            2 => coordinator::<2>(&links)
                .put("k", "v")
                .await
                .unwrap()
                .acked(),
            _ => coordinator::<3>(&links)
                .put("k", "v")
                .await
                .unwrap()
                .acked(),
        };
        assert_eq!(start.elapsed(), Duration::from_millis(expected), "W = {w}");
        assert_eq!(acked, w);
    }
}

/// W-QUORUM. Bug: counting something that is no ack: a refusal, an answer of
/// another kind, a call that hangs until its time limit.
#[tokio::test(start_paused = true)]
async fn w_quorum_only_acks_count() {
    for line in [
        Line::Refused,
        Line::MixesUp,
        Line::Hangs,
        Line::LosesAnswers,
    ] {
        let links = links();
        links[0].set(line);
        links[1].set(line);
        let coordinator = coordinator::<2>(&links);
        let put = within_an_hour(coordinator.put("k", "v"));
        let error = put.await.unwrap_err();
        assert_eq!(error.report().unwrap().acked(), 1, "{line:?}");
        assert_eq!(error.report().unwrap().needed(), 2);
    }
    // A replica whose clock says that the entry is from the future refuses it.
    let links = links_at(&Wall::at(NOON - 3_600_000));
    let error = coordinator::<1>(&links).put("k", "v").await.unwrap_err();
    assert_eq!(error.report().unwrap().acked(), 0);
}

/// One replica's early failure. Bug: the first error fails the operation.
#[tokio::test(start_paused = true)]
async fn an_early_error_of_one_replica_fails_no_write() {
    for line in [Line::Refused, Line::MixesUp, Line::LosesAnswers] {
        for failing in 0..3 {
            let links = links();
            links.iter().for_each(|link| link.set(Line::Slow(SLOW)));
            links[failing].set(line);
            let receipt = coordinator::<2>(&links).put("k", "v").await.unwrap();
            assert_eq!(receipt.acked(), 2);
            assert!(receipt.replicas()[failing].failure().is_some());
        }
    }
}

/// W-FINISH. Bug: stragglers are cancelled when the write is decided.
#[tokio::test(start_paused = true)]
async fn w_finish_stragglers_are_carried_on() {
    let links = links();
    links[2].set(Line::Slow(SLOW));
    let start = Instant::now();
    let coordinator = coordinator::<2>(&links);
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(receipt.replicas()[2].is_pending());
    assert_eq!(coordinator.stats()[2].in_background, 1);
    assert_eq!(holding(&links, "k", "v"), 2);

    let receipt = receipt.settled().await;
    assert_eq!(start.elapsed(), 2 * SLOW);
    assert_eq!(receipt.replicas()[2].answer(), Some(&Ack::Applied));
    assert_eq!(holding(&links, "k", "v"), 3);
    assert_eq!(links[2].dropped(), 0);
    assert_eq!(coordinator.stats()[2].in_background, 0);
    assert_eq!(coordinator.stats()[2].given_up, 0);
}

/// W-FINISH. Bug: stragglers of a write that failed are cancelled.
#[tokio::test(start_paused = true)]
async fn w_finish_holds_for_failed_writes_too() {
    let links = links();
    links[0].set(Line::Refused);
    links[1].set(Line::Slow(SLOW));
    links[2].set(Line::Slow(SLOW));
    let error = coordinator::<3>(&links).put("k", "v").await.unwrap_err();
    assert_eq!(error.report().unwrap().acked(), 0);
    let_background_finish().await;
    assert_eq!(holding(&links, "k", "v"), 2);
}

/// W-FINISH. Bug: a straggler that hangs is waited for without end, or holds
/// its place in the background for ever.
#[tokio::test(start_paused = true)]
async fn w_finish_a_straggler_has_its_time_limit() {
    let links = links();
    links[2].set(Line::Hangs);
    let coordinator = coordinator::<2>(&links);
    let start = Instant::now();
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let receipt = within_an_hour(receipt.settled()).await;
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    let failure = receipt.replicas()[2].failure().unwrap();
    assert!(matches!(failure, ReplicaFailure::TimedOut(limit) if *limit == start.elapsed()));
    assert_eq!(coordinator.stats()[2].in_background, 0);
}

/// W-FINISH. Bugs: no bound; a bound that one replica's stragglers use up for
/// the others; what was given up goes uncounted.
#[tokio::test(start_paused = true)]
async fn w_finish_background_work_is_bounded_for_each_replica() {
    let links: [Arc<Link>; 5] = links();
    links[3].set(Line::Slow(SLOW));
    links[4].set(Line::Hangs);
    let coordinator = Coordinator::<5, 3, 3, _>::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .max_background(10)
        .build();
    for round in 0..5 {
        for index in 0..10 {
            let key = format!("{round}/{index}");
            let receipt = coordinator.put(key, "v").await.unwrap();
            let given_up = matches!(
                receipt.replicas()[4].failure(),
                Some(ReplicaFailure::GivenUp)
            );
            assert_eq!(given_up, round > 0, "the receipt says so");
        }
        let stats = coordinator.stats();
        assert_eq!(stats[4].in_background, 10);
        assert_eq!(stats[3].in_background, 10);
        tokio::time::sleep(3 * SLOW).await;
    }
    let stats = coordinator.stats();
    assert_eq!((stats[3].given_up, stats[4].given_up), (0, 40));
    assert_eq!(links[3].dropped(), 0);
    assert_eq!(links[4].dropped(), 40);
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert!(tasks <= 10, "{tasks} tasks");
}

/// W-CANCEL. Bug: dropping the caller's future drops the calls with it.
#[tokio::test(start_paused = true)]
async fn w_cancel_a_dropped_future_does_not_cut_the_fan_out_short() {
    let links = links();
    links.iter().for_each(|link| link.set(Line::Slow(SLOW)));
    let coordinator = coordinator::<2>(&links);
    let put = coordinator.put("k", "v");
    assert!(timeout(Duration::from_millis(1), put).await.is_err());
    assert_eq!(holding(&links, "k", "v"), 0);
    let_background_finish().await;
    assert_eq!(holding(&links, "k", "v"), 3);
    assert_eq!(
        coordinator.stats(),
        [kvquorum_core::ReplicaStats::default(); 3]
    );
}

/// W-CANCEL. Bug: callers that leave pile up work without a bound.
#[tokio::test(start_paused = true)]
async fn w_cancel_is_bounded() {
    let links = links();
    links.iter().for_each(|link| link.set(Line::Hangs));
    let coordinator: Coordinator<3, 2, 2, _> = Coordinator::builder(links.clone())
        .max_background(4)
        .wall_clock(Wall::at(NOON))
        .build();
    for _ in 0..20 {
        let put = coordinator.put("k", "v");
        assert!(timeout(Duration::from_millis(1), put).await.is_err());
    }
    for (link, stats) in links.iter().zip(coordinator.stats()) {
        assert_eq!(link.dropped(), 16);
        assert_eq!(stats.given_up, 16);
    }
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert!(tasks <= 4, "{tasks} tasks");
    // The room is given back.
    let_background_finish().await;
    links.iter().for_each(|link| link.set(Line::Slow(SLOW)));
    let put = coordinator.put("k", "v");
    assert!(timeout(Duration::from_millis(1), put).await.is_err());
    let_background_finish().await;
    assert_eq!(holding(&links, "k", "v"), 3);
}

/// W-CANCEL. Bug: the hand-over needs a runtime around the drop.
#[test]
fn w_cancel_holds_where_the_future_is_dropped_outside_the_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let links = links();
    links.iter().for_each(|link| link.set(Line::Slow(SLOW)));
    let coordinator = coordinator::<2>(&links);
    let mut put = Box::pin(coordinator.put("k", "v"));
    runtime.block_on(async {
        assert!(timeout(Duration::from_millis(1), &mut put).await.is_err());
    });
    drop(put);
    runtime.block_on(let_background_finish());
    assert_eq!(holding(&links, "k", "v"), 3);
}

/// W-FAIL. Bug: a lost cause is waited for.
#[tokio::test(start_paused = true)]
async fn w_fail_as_soon_as_the_quorum_is_out_of_reach() {
    let links = links();
    links[0].set(Line::Refused);
    links[1].set(Line::Refused);
    links[2].set(Line::Hangs);
    let start = Instant::now();
    let error = coordinator::<2>(&links).put("k", "v").await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    let report = error.report().unwrap();
    assert_eq!((report.needed(), report.acked()), (2, 0));
    assert!(report.replicas()[2].outcome().is_pending());
    for replica in &report.replicas()[..2] {
        let failure = replica.outcome().failure().unwrap();
        assert!(matches!(
            failure,
            ReplicaFailure::Transport(TransportError::NotSent(_))
        ));
    }
    assert_eq!(report.replicas()[0].name(), "replica-0");
    let text = error.to_string();
    for part in [
        "0 of 3",
        "2 were needed",
        "replica-0",
        "the test says so",
        "under way",
    ] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
}

/// W-FAIL. Bug: the time limit is not held, or is one for each replica in turn.
#[tokio::test(start_paused = true)]
async fn w_fail_no_later_than_the_time_limit() {
    let links = links();
    links.iter().for_each(|link| link.set(Line::Hangs));
    let limit = Duration::from_millis(750);
    let coordinator: Coordinator<3, 2, 2, _> =
        Coordinator::builder(links).time_limit(limit).build();
    let start = Instant::now();
    let put = within_an_hour(coordinator.put("k", "v"));
    let error = put.await.unwrap_err();
    assert_eq!(start.elapsed(), limit);
    assert!(matches!(error, WriteError::MaybeApplied(_)));
}

/// W-FAIL. Bug: "not applied" is claimed of an entry that was stored, or may be.
#[tokio::test(start_paused = true)]
async fn w_fail_says_whether_the_entry_may_be_seen() {
    let maybe = [Line::LosesAnswers, Line::Hangs, Line::MixesUp, Line::Up];
    for line in maybe {
        let links = links();
        links[0].set(Line::Refused);
        links[1].set(Line::Refused);
        links[2].set(line);
        let error = coordinator::<2>(&links).put("k", "v").await.unwrap_err();
        assert!(
            matches!(error, WriteError::MaybeApplied(_)),
            "{line:?}: {error}"
        );
        let settled = error.settled().await;
        assert!(
            matches!(settled, WriteError::MaybeApplied(_)),
            "{line:?}: {settled}"
        );
    }
    let links = links();
    links.iter().for_each(|link| link.set(Line::Refused));
    let error = coordinator::<2>(&links).put("k", "v").await.unwrap_err();
    assert!(matches!(error, WriteError::NotApplied(_)), "{error}");
    assert_eq!(holding(&links, "k", "v"), 0);
}

/// W-FAIL. Bug: a write that was "maybe applied" while answers were out stays
/// so when they are in; or its acks are not told.
#[tokio::test(start_paused = true)]
async fn w_fail_settles_when_the_stragglers_have_answered() {
    let links = links();
    links[0].set(Line::Refused);
    links[1].set(Line::Slow(SLOW));
    links[2].set(Line::Slow(SLOW));
    let error = coordinator::<3>(&links).put("k", "v").await.unwrap_err();
    assert!(matches!(error, WriteError::MaybeApplied(_)));
    assert_eq!(error.report().unwrap().acked(), 0);
    let settled = error.settled().await;
    assert!(matches!(settled, WriteError::MaybeApplied(_)));
    assert_eq!(settled.report().unwrap().acked(), 2);
    let held = links[1].store().entry("k").unwrap();
    assert_eq!(held.version, settled.report().unwrap().version());
}

/// W-FAIL. A write that every replica refuses, one after the other. Bugs: it says
/// "maybe applied" though the last refusal is about to come; it waits longer for
/// it than the others took.
#[tokio::test(start_paused = true)]
async fn w_fail_waits_as_long_again_to_be_able_to_say_not_applied() {
    let ms = Duration::from_millis;
    for (last, not_applied) in [(ms(30), true), (ms(38), true), (ms(100), false)] {
        let links = links_at(&Wall::at(NOON - 3_600_000));
        for (link, each_way) in links.iter().zip([ms(5), ms(10), last / 2]) {
            link.set(Line::Slow(each_way));
        }
        let start = Instant::now();
        let error = coordinator::<2>(&links).put("k", "v").await.unwrap_err();
        assert_eq!(start.elapsed(), if not_applied { last } else { ms(40) });
        let said = matches!(error, WriteError::NotApplied(_));
        assert_eq!(said, not_applied, "{error}");
        let settled = error.settled().await;
        assert!(matches!(settled, WriteError::NotApplied(_)), "{settled}");
    }
}

/// W-FAIL. Bug: an earlier attempt that was applied somewhere is forgotten when
/// the last one was applied nowhere.
#[tokio::test(start_paused = true)]
async fn w_fail_remembers_earlier_attempts() {
    // Replica 2 holds an entry so far ahead that the others refuse to go past
    // it, and cannot be reached then; replicas 0 and 1 apply the first attempt.
    let links = links();
    plant(&links[2], "k", entry(NOON + 3_600_000, "future"));
    *links[2].refuse_merges_after.lock().unwrap() = Some(1);
    let error = coordinator::<3>(&links).put("k", "v").await.unwrap_err();
    assert!(matches!(error, WriteError::MaybeApplied(_)), "{error}");
    assert_eq!(holding(&links, "k", "v"), 2);
    let report = error.report().unwrap();
    assert_eq!(report.attempts(), 2);
    assert!(report.earlier_attempt_may_be_seen());
    assert!(error.to_string().contains("earlier attempt may be seen"));
    for replica in report.replicas() {
        let failure = replica.outcome().failure().unwrap();
        assert!(!failure.may_have_applied(), "{failure}");
    }
}

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
/// follow. Bug: the same timestamp is lent twice, and what failed first wins
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

/// Ties. Bug: of two entries with the same timestamp, or even the same version,
/// the first or the last to arrive wins.
#[tokio::test(start_paused = true)]
async fn ties_are_decided_the_same_way_on_every_replica() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let links = links();
        let writer = |id| -> Coordinator<3, 2, 2, _> {
            Coordinator::builder(links.clone())
                .wall_clock(Wall::at(NOON))
                .writer(WriterId::new(id))
                .build()
        };
        // The same id by mistake, and clocks that stand at the same moment.
        let (one, other) = (writer(5), writer(5));
        one.put("k", first).await.unwrap();
        let receipt = other.put("k", second).await.unwrap();
        assert_eq!(holding(&links, "k", second), 3, "the later put is not lost");
        assert_eq!(receipt.attempts(), if second > first { 1 } else { 2 });
    }
}

/// Receipts. Bug: a replica named as acked does not hold the entry.
#[tokio::test(start_paused = true)]
async fn receipts_are_true() {
    let links = links();
    links[1].set(Line::Refused);
    let receipt = coordinator::<2>(&links).put("k", "v").await.unwrap();
    for (link, outcome) in links.iter().zip(receipt.replicas()) {
        let held = link.store().entry("k").map(|entry| entry.version);
        assert_eq!(
            outcome.answer().is_some(),
            held == Some(receipt.version()),
            "{outcome:?}"
        );
    }
}

/// What completes at once needs no runtime, and no task where there is one.
/// Bug: a timer, or a task, for each operation.
#[test]
fn what_completes_at_once_needs_no_runtime() {
    let links = links();
    let coordinator = coordinator::<2>(&links);
    let both_at_once = || {
        let mut put = std::pin::pin!(coordinator.put("k", "v"));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(put.as_mut().poll(&mut cx).is_ready());
        let mut get = std::pin::pin!(coordinator.get("k"));
        assert!(get.as_mut().poll(&mut cx).is_ready());
    };
    both_at_once();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    both_at_once();
    assert_eq!(runtime.metrics().num_alive_tasks(), 0);
}

/// Bug: arithmetic on a time limit that never ends panics.
#[tokio::test(start_paused = true)]
async fn a_time_limit_without_end_is_no_trouble() {
    let links = links();
    links.iter().for_each(|link| link.set(Line::Slow(SLOW)));
    let coordinator: Coordinator<3, 2, 2, _> = Coordinator::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .time_limit(Duration::MAX)
        .build();
    coordinator.put("k", "v").await.unwrap();
    coordinator.drain().await;
    assert_eq!(holding(&links, "k", "v"), 3);
}

/// Bugs: a panic of one transport, or of a store in this process, takes the
/// caller's task with it though W others have acked; it passes for an ack, or for
/// "not applied"; it is not counted.
#[tokio::test(start_paused = true)]
async fn a_panic_of_a_transport_is_the_failure_of_its_call() {
    for line in [Line::PanicsAtOnce, Line::Panics(SLOW)] {
        for panicking in 0..3 {
            let links = links();
            links[panicking].set(line);
            let coordinator = coordinator::<2>(&links);
            let receipt = coordinator.put("k", "v").await.unwrap().settled().await;
            assert_eq!(receipt.acked(), 2);
            let failure = receipt.replicas()[panicking].failure();
            assert!(
                matches!(failure, Some(ReplicaFailure::Panicked(said)) if said == "the test says so"),
                "{failure:?}"
            );
            let value = coordinator.get("k").await.unwrap();
            assert_eq!(value.as_deref(), Some(&b"v"[..]));
            within_an_hour(coordinator.drain()).await;
            assert!(coordinator.stats()[panicking].panicked >= 1);
        }
        let links = links();
        links[0].set(Line::Refused);
        links[1].set(Line::Refused);
        links[2].set(line);
        let error = coordinator::<2>(&links).put("k", "v").await.unwrap_err();
        let settled = error.settled().await;
        assert!(matches!(settled, WriteError::MaybeApplied(_)), "{settled}");
    }
}

/// W-FAIL. A transport that always has something to do uses up what its task may do
/// at a time. Bug: the timer is never looked at, and the time limit does not hold.
#[tokio::test]
async fn w_fail_a_transport_that_is_never_idle_has_its_time_limit() {
    struct Busy;
    impl Transport for Busy {
        fn call(&self, request: &Request) -> Call {
            if let RequestKind::Identify { .. } = request.kind {
                return support::links::<1>()[0].call(request);
            }
            Call::new(async {
                loop {
                    tokio::task::consume_budget().await;
                }
            })
        }
        fn name(&self) -> &str {
            "busy"
        }
    }
    let coordinator = Coordinator::<1, 1, 1, _>::builder([Busy])
        .time_limit(Duration::from_millis(50))
        .build();
    let put = timeout(Duration::from_secs(20), coordinator.put("k", "v"));
    let error = put
        .await
        .expect("the time limit does not hold")
        .unwrap_err();
    let failure = error.report().unwrap().replicas()[0].outcome().failure();
    assert!(
        matches!(failure, Some(ReplicaFailure::TimedOut(_))),
        "{error}"
    );
}

/// Draining. Bug: a process that ends cuts off its own stragglers, repairs or
/// orphans; or it waits for ever.
#[tokio::test(start_paused = true)]
async fn drain_waits_for_all_background_work() {
    let links = links();
    let coordinator = coordinator::<2>(&links);
    within_an_hour(coordinator.drain()).await;
    links[2].set(Line::Slow(SLOW));
    let start = Instant::now();
    coordinator.put("straggler", "v").await.unwrap();
    assert!(start.elapsed().is_zero());
    within_an_hour(coordinator.drain()).await;
    assert_eq!(holding(&links, "straggler", "v"), 3);
    assert_eq!(start.elapsed(), 2 * SLOW);

    links.iter().for_each(|link| link.set(Line::Slow(SLOW)));
    let put = coordinator.put("orphan", "v");
    assert!(timeout(Duration::from_millis(1), put).await.is_err());
    within_an_hour(coordinator.drain()).await;
    assert_eq!(holding(&links, "orphan", "v"), 3);

    links[0].store().wipe();
    coordinator.get("orphan").await.unwrap();
    within_an_hour(coordinator.drain()).await;
    assert_eq!(holding(&links, "orphan", "v"), 3);
}

/// Operations can be spawned. Bug: a future that is not `Send`.
#[tokio::test(start_paused = true)]
async fn operations_run_in_tasks() {
    let links = links();
    let coordinator = coordinator::<2>(&links);
    let writer = coordinator.clone();
    tokio::spawn(async move { writer.put("k", "v").await })
        .await
        .unwrap()
        .unwrap();
    let read = tokio::spawn(async move { coordinator.get("k").await });
    assert_eq!(read.await.unwrap().unwrap().as_deref(), Some(&b"v"[..]));
}

/// What is sent. Bug: key, value or version changed on the way.
#[tokio::test(start_paused = true)]
async fn every_replica_is_sent_the_same_entry() {
    let links = links();
    let coordinator = coordinator::<2>(&links);
    let receipt = coordinator
        .put(&[0, 255, 7], vec![0; 100_000])
        .await
        .unwrap();
    for link in &links {
        let seen = link.seen.lock().unwrap();
        let [request] = &seen[..] else {
            panic!("{seen:?}");
        };
        let RequestKind::Write { key, entry } = &request.kind else {
            panic!("{seen:?}");
        };
        assert_eq!(key.as_bytes(), [0, 255, 7]);
        assert_eq!(entry.version, receipt.version());
        assert_eq!(entry.version.writer, coordinator.writer());
        assert_eq!(entry.value.as_deref(), Some(&[0; 100_000][..]));
    }
}
