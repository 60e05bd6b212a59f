//! Rules W-ALL, W-QUORUM, W-FINISH, W-CANCEL and W-FAIL.
//!
//! Time is paused: it moves on only when every task waits for it, so each test
//! takes the time it says and no real time.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{
    Ack, Call, Coordinator, ReplicaFailure, Request, RequestKind, Transport, TransportError,
    WriteError,
};
use support::{
    Line, Link, NOON, Wall, coordinator, entry, holding, let_background_finish, links, links_at,
    plant, within_an_hour,
};
use tokio::time::{Instant, timeout};

const SLOW: Duration = Duration::from_millis(100);

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
