//! What holds of every operation: what is sent and told, panics, tasks, and the end
//! of a process.
//!
//! Time is paused: it moves on only when every task waits for it, so each test
//! takes the time it says and no real time.

mod support;

use std::time::Duration;

use kvquorum_core::{Coordinator, ReplicaFailure, RequestKind, WriteError, WriterId};
use support::{Line, NOON, Wall, coordinator, holding, links, within_an_hour};
use tokio::time::{Instant, timeout};

const SLOW: Duration = Duration::from_millis(100);

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
