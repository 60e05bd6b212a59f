//! The rules where every replica has its results at once, and so an operation
//! is over before it would have to wait.

mod support;

use kvquorum_core::{
    Call, Coordinator, Outcome, ReadError, Refusal, Replica, ReplicaFailure, Request, RequestKind,
    Response, Transport, WriteError, WriterId,
};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use support::{
    Line, Link, MapStore, NOON, Wall, entry, let_background_finish, links_at_once, plant,
};

type Three = Coordinator<3, 2, 2, Arc<Link>>;

fn coordinator(links: &[Arc<Link>; 3]) -> Three {
    Coordinator::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .writer(WriterId::new(1))
        .build()
}

/// W-ALL, W-QUORUM. Bugs: W replicas are sent the entry, and no more; a replica
/// that has answered at once is called besides.
#[tokio::test]
async fn w_all_each_replica_is_sent_the_entry_once() {
    let links = links_at_once();
    let receipt = coordinator(&links).put("k", "v").await.unwrap();
    assert_eq!(receipt.acked(), 3);
    for link in &links {
        assert_eq!(link.store().entry("k").unwrap().version, receipt.version());
        assert_eq!(link.calls(), 1);
    }
}

/// W-FAIL. Bugs: acks and refusals are mixed up; a failure is waited for.
#[tokio::test]
async fn w_fail_says_what_each_replica_did() {
    let links = links_at_once();
    links[0].set(Line::Refused);
    let coordinator = coordinator(&links);
    assert_eq!(coordinator.put("k", "v").await.unwrap().acked(), 2);
    links[1].set(Line::Refused);
    let error = coordinator.put("k", "w").await.unwrap_err();
    let WriteError::MaybeApplied(report) = error else {
        panic!("{error}");
    };
    let failed = report.replicas().iter().map(|replica| {
        let failure = replica.outcome().failure();
        matches!(failure, Some(ReplicaFailure::Transport(_)))
    });
    assert_eq!(failed.collect::<Vec<_>>(), [true, true, false]);

    let error = coordinator.put("", "v").await.unwrap_err();
    let WriteError::NotApplied(report) = error else {
        panic!("{error}");
    };
    let last = report.replicas()[2].outcome().failure();
    assert!(
        matches!(last, Some(ReplicaFailure::Refused(Refusal::EmptyKey))),
        "{last:?}"
    );
}

/// W-SUPERSEDED. Bugs: what an ack tells is not looked at; the second attempt
/// goes out under the first one's version; the clock does not follow.
#[tokio::test]
async fn w_superseded_a_put_goes_past_what_is_newer() {
    let links = links_at_once();
    plant(&links[1], "k", entry(NOON + 10, "newer"));
    let coordinator = coordinator(&links);
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.attempts(), 2);
    for link in &links {
        let held = link.store().entry("k").unwrap();
        assert_eq!(held.version, receipt.version());
        assert!(held > entry(NOON + 10, "newer"));
    }
    let later = coordinator.put("other", "v").await.unwrap();
    assert!(later.version() > receipt.version());
}

/// R-QUORUM. Bugs: more replicas are asked than are needed; the first answer is
/// taken; none is asked once one was not needed.
#[tokio::test]
async fn r_quorum_the_greatest_of_r_answers_is_returned() {
    let links = links_at_once();
    let coordinator = Three::builder(links.clone()).repair_off().build();
    plant(&links[0], "k", entry(1, "old"));
    plant(&links[1], "k", entry(2, "new"));
    for _ in 0..50 {
        let receipt = coordinator.get_with_receipt("k").await.unwrap();
        let held: Vec<_> = receipt.replicas().iter().map(Outcome::answer).collect();
        assert_eq!(held.iter().flatten().count(), 2);
        let greatest = held.iter().flatten().max().unwrap();
        assert_eq!(receipt.entry().map(|entry| entry.version), **greatest);
    }
    let calls = links.each_ref().map(|link| link.calls());
    assert_eq!(calls.iter().sum::<usize>(), 100);
    assert!(calls.iter().all(|calls| *calls > 20), "{calls:?}");
}

/// R-REPAIR. Bug: a read that was decided at once leaves behind what it found
/// behind.
#[tokio::test(start_paused = true)]
async fn r_repair_those_behind_are_sent_the_greatest_entry() {
    for greatest in [0, 1, 2] {
        let links = links_at_once();
        plant(&links[greatest], "k", entry(5, "new"));
        let coordinator = coordinator(&links);
        for _ in 0..10 {
            coordinator.get("k").await.unwrap();
        }
        let_background_finish().await;
        for link in &links {
            assert_eq!(link.store().entry("k"), Some(entry(5, "new")));
        }
        let sent = links.iter().flat_map(|link| {
            let seen = link.seen.lock().unwrap();
            seen.iter()
                .filter(|request| matches!(request.kind, RequestKind::Repair { .. }))
                .count()
                .checked_sub(1)
        });
        assert_eq!(sent.collect::<Vec<_>>(), [0, 0], "each was sent it once");
    }
}

/// R-REPAIR, blocking. Bug: R answers that agree are taken for W holders.
#[tokio::test(start_paused = true)]
async fn r_repair_blocking_asks_as_many_as_it_needs() {
    let links = links_at_once();
    let coordinator = Coordinator::<3, 3, 1, _>::builder(links.clone())
        .repair_blocking()
        .build();
    for link in &links {
        plant(link, "k", entry(5, "v"));
    }
    assert_eq!(coordinator.get("k").await.unwrap().unwrap(), "v");
    assert!(links.iter().all(|link| link.calls() == 1));
    assert_eq!(coordinator.get("absent").await.unwrap(), None);

    links[0].set(Line::Refused);
    links[1].set(Line::Refused);
    let error = coordinator.get("k").await.unwrap_err();
    assert!(
        matches!(error, ReadError::NotRepaired { holders: 1, .. }),
        "{error}"
    );
}

/// R-FAIL. Bug: a replica that failed at once is asked again.
#[tokio::test]
async fn r_fail_each_replica_is_asked_once() {
    let links = links_at_once();
    links[0].set(Line::Refused);
    links[2].set(Line::Refused);
    let error = coordinator(&links).get("k").await.unwrap_err();
    assert!(error.report().answered() <= 1, "{error}");
    assert!(links.iter().all(|link| link.calls() <= 1));
}

/// C-MONOTONIC. Bug: what is read at once is not observed.
#[tokio::test]
async fn c_monotonic_versions_read_are_observed() {
    let links = links_at_once();
    let ahead = entry(NOON + 500, "v");
    for link in &links {
        plant(link, "k", ahead.clone());
    }
    let coordinator = coordinator(&links);
    coordinator.get("k").await.unwrap();
    let receipt = coordinator.put("other", "v").await.unwrap();
    assert!(receipt.version() > ahead.version);
    assert_eq!(receipt.attempts(), 1);
}

/// C-MONOTONIC. Bug: what the acks of a write that failed at once told of is not
/// observed.
#[tokio::test]
async fn c_monotonic_acks_of_a_failed_write_are_observed() {
    let links = links_at_once();
    links[0].set(Line::Refused);
    links[1].set(Line::Refused);
    let newer = entry(NOON + 500, "newer");
    plant(&links[2], "k", newer.clone());
    let coordinator = coordinator(&links);
    coordinator.put("k", "v").await.unwrap_err();
    links.iter().for_each(|link| link.set(Line::Up));
    let receipt = coordinator.put("other", "v").await.unwrap();
    assert!(receipt.version() > newer.version);
}

/// R-REPAIR, blocking. Bug: those beyond the W holders are left behind.
#[tokio::test(start_paused = true)]
async fn r_repair_blocking_repairs_all_that_are_behind() {
    let links = links_at_once();
    plant(&links[0], "k", entry(5, "new"));
    plant(&links[1], "k", entry(5, "new"));
    let coordinator = Coordinator::<3, 2, 3, _>::builder(links.clone())
        .repair_blocking()
        .build();
    assert_eq!(coordinator.get("k").await.unwrap().unwrap(), "new");
    let_background_finish().await;
    assert_eq!(links[2].store().entry("k"), Some(entry(5, "new")));
}

/// Bug: a pointer around a transport or a store hides its results.
#[test]
fn results_at_once_come_through_pointers() {
    let [link, ..]: [Arc<Link>; 3] = links_at_once();
    let request = Request::read("k");
    let is_over = |call| matches!(call, Call::Ready(Ok(_)));
    let boxed: Box<dyn Transport> = Box::new(Arc::clone(&link));
    assert!(is_over(boxed.call(&request)));
    let shared: Arc<dyn Transport> = link;
    assert!(is_over(shared.call(&request)));

    let replica = Replica::new(Arc::new(MapStore::default())).of_new_cluster();
    assert!(is_over(replica.call(&request)));
    assert!(is_over(replica.call(&Request::write("k", entry(1, "v")))));
}

/// Bugs: a call that is over cannot be awaited; polled again, it panics.
#[tokio::test]
async fn a_call_that_is_over_can_be_awaited() {
    let replica = Replica::new(MapStore::default()).of_new_cluster();
    let mut call = replica.call(&Request::read("k"));
    let answer = (&mut call).await.unwrap();
    assert_eq!(answer, Response::Entry(None.into()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut call).poll(&mut cx).is_pending());
}
