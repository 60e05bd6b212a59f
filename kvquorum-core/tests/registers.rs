//! Rules L-REGISTER, L-PROMISE, L-VERSION, L-DOUBT, L-FAIR and L-BESIDE, in orders of
//! events that are written down.
//!
//! Time is paused: it moves on only when every task waits for it.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{
    Ack, Change, Coordinator, Edit, Entry, Key, MapError, Refusal, Registers, RequestKind,
    Response, Swap, Timestamp, UpdateError, Version, WriterId,
};
use support::{
    Line, Link, NOON, Wall, entry, let_background_finish, links, links_at, within_an_hour,
};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

type Counters = Registers<str, u64, 3, 2, 2, Arc<Link>>;

/// The registers of a coordinator with a clock of its own.
fn counters_at(links: &[Arc<Link>; 3], wall: &Wall, writer: u64) -> Counters {
    Coordinator::builder(links.clone())
        .wall_clock(wall.clone())
        .writer(WriterId::new(writer))
        .build()
        .registers("c")
}

fn counters(links: &[Arc<Link>; 3]) -> Counters {
    counters_at(links, &Wall::at(NOON), 1)
}

fn increment(held: Option<&u64>) -> Edit<u64> {
    Edit::Put(held.map_or(1, |held| held + 1))
}

/// The key "k" of the counters, as it is stored.
fn key() -> Key {
    Key::from("c/\"k\"")
}

fn ballot(millis: u64) -> Version {
    entry(millis, "").version
}

fn promise(link: &Link, ballot: Version) {
    let answer = link.store().change(&key(), Change::prepare(ballot));
    assert!(matches!(answer, Response::Promise(_)), "{answer:?}");
}

fn plant(link: &Link, entry: Entry) {
    let answer = link.store().change(&key(), Change::write(entry));
    assert_eq!(answer, Response::Ack(Ack::Applied));
}

fn stored(link: &Link) -> Option<Entry> {
    link.store().entry("c/\"k\"")
}

/// How many writes a link was handed.
fn writes(link: &Link) -> usize {
    let seen = link.seen.lock().unwrap();
    let is_write =
        |kind: &RequestKind| matches!(kind, RequestKind::Write { .. } | RequestKind::Repair { .. });
    seen.iter()
        .filter(|request| is_write(&request.kind))
        .count()
}

/// L-REGISTER. Bugs: an update, a put or a write-back of one phase; one of three; a
/// get that writes what its quorum agrees on.
#[tokio::test(start_paused = true)]
async fn round_trips_are_as_few_as_promised() {
    let links = links();
    let counters = counters(&links);
    counters.put("k", &1).await.unwrap();
    let way = Duration::from_millis(10);
    links.iter().for_each(|link| link.set(Line::Slow(way)));

    let start = Instant::now();
    assert_eq!(counters.get("k").await.unwrap(), Some(1));
    assert_eq!(start.elapsed(), 2 * way);
    let start = Instant::now();
    counters.put("k", &2).await.unwrap();
    assert_eq!(start.elapsed(), 4 * way);
    let start = Instant::now();
    counters.update("k", increment).await.unwrap();
    assert_eq!(start.elapsed(), 4 * way);
    assert_eq!(links.iter().map(|link| writes(link)).sum::<usize>(), 9);

    // What one replica holds alone is brought to another.
    plant(&links[0], entry(NOON + 1, "9"));
    links[1].set(Line::Hangs);
    let start = Instant::now();
    assert_eq!(counters.get("k").await.unwrap(), Some(9));
    assert_eq!(start.elapsed(), 4 * way);
    assert_eq!(stored(&links[2]), stored(&links[0]));
}

/// L-REGISTER. Bugs: a compare-and-set compares nothing, or swaps nothing; a create
/// writes over a value, or not over a tombstone; what differs is written.
#[tokio::test(start_paused = true)]
async fn operations_do_what_they_say() {
    let links = links();
    let counters = counters(&links);
    assert_eq!(counters.get_with_version("k").await.unwrap(), (None, None));
    let kept = counters.update("k", |_| Edit::Keep).await.unwrap();
    assert_eq!(
        (kept.before(), kept.after(), kept.version()),
        (None, None, None)
    );
    assert!(!kept.is_changed());
    let differs = counters.compare_and_set("k", Some(&1), &2).await.unwrap();
    assert_eq!(
        differs,
        Swap::Differs {
            current: None,
            version: None
        }
    );
    assert_eq!(writes(&links[0]), 0);

    let Swap::Swapped { version: created } = counters.create("k", &1).await.unwrap() else {
        panic!("it is not created");
    };
    let again = counters.create("k", &5).await.unwrap();
    assert_eq!(
        again,
        Swap::Differs {
            current: Some(1),
            version: Some(created)
        }
    );
    assert_eq!(writes(&links[0]), 1);
    let swap = counters.compare_and_set("k", Some(&1), &2).await.unwrap();
    assert!(matches!(swap, Swap::Swapped { version } if version > created));
    assert_eq!(counters.get("k").await.unwrap(), Some(2));

    let deleted = counters.update("k", |held| {
        assert_eq!(held, Some(&2));
        Edit::Delete
    });
    let deleted = deleted.await.unwrap();
    assert_eq!((deleted.before(), deleted.after()), (Some(&2), None));
    assert_eq!(counters.get("k").await.unwrap(), None);
    assert!(counters.create("k", &7).await.unwrap().is_swapped());
    let version = counters.delete("k").await.unwrap();
    let found = counters.get_with_version("k").await.unwrap();
    assert_eq!(found, (None, Some(version)));
    assert_eq!(counters.map().get("k").await.unwrap(), None);

    let same = counters.update("k", |_| Edit::Put(1)).await.unwrap();
    let again = counters.update("k", |_| Edit::Put(1)).await.unwrap();
    let deleted = counters.update("k", |_| Edit::Delete).await.unwrap();
    assert!(same.is_changed() && again.is_changed() && deleted.is_changed());
}

/// L-PROMISE, L-BESIDE. Bugs: a put that is stamped below a promised ballot is
/// acknowledged, and lost to the update that has not seen it; it fails, rather than
/// be stamped past it.
#[tokio::test(start_paused = true)]
async fn l_promise_no_put_is_lost_to_an_update_that_did_not_see_it() {
    let links = links();
    let updater = counters(&links);
    let putter = counters_at(&links, &Wall::at(NOON - 5), 2);
    links.iter().for_each(|link| {
        link.set_prepares(Line::Up);
        link.set_merges(Line::Hangs);
    });
    let update = tokio::spawn(async move { updater.update("k", increment).await });
    sleep(Duration::from_millis(1)).await;
    links.iter().for_each(|link| link.set_merges(Line::Up));
    let receipt = putter.map().put("k", &7).await.unwrap();
    assert_eq!(receipt.attempts(), 2);
    // The second phase arrives late, and comes before the put.
    for link in &links {
        link.deliver_again(|kind| matches!(kind, RequestKind::Write { .. }));
    }
    assert_eq!(putter.get("k").await.unwrap(), Some(7));
    let version = receipt.version();
    assert_eq!(stored(&links[0]).unwrap().version, version);
    update.abort();
}

/// W-SUPERSEDED beside L-PROMISE. Bug: a put that was stamped past a promise is taken
/// to be past all that was acknowledged before it began, of which a refusal tells
/// nothing.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_put_past_a_promise_still_goes_past_what_was_acknowledged() {
    let links = links();
    let counters = counters(&links);
    promise(&links[0], ballot(NOON + 50));
    let acknowledged = entry(NOON + 100, "3");
    plant(&links[1], acknowledged.clone());
    plant(&links[2], acknowledged.clone());
    // The first attempt is refused by one, and hears of no other.
    links[1].set(Line::Panics(Duration::from_millis(5)));
    links[2].set(Line::Slow(Duration::from_millis(50)));
    let (receipt, ()) = tokio::join!(counters.map().put("k", &7), async {
        sleep(Duration::from_millis(2)).await;
        links[1].set(Line::Up);
    });
    let receipt = receipt.unwrap();
    assert_eq!(receipt.attempts(), 3);
    assert!(receipt.version() > acknowledged.version);
}

/// W-SUPERSEDED beside L-PROMISE. Bug: a put that two replicas call superseded, and a
/// third refuses for a greater promise, goes past the entry alone, and the third is
/// without it.
#[tokio::test(start_paused = true)]
async fn w_superseded_a_put_goes_past_a_promise_that_is_greater_still() {
    let links = links();
    let counters = counters(&links);
    let acknowledged = entry(NOON + 50, "3");
    plant(&links[0], acknowledged.clone());
    plant(&links[1], acknowledged);
    promise(&links[2], ballot(NOON + 100));
    let receipt = counters.map().put("k", &7).await.unwrap();
    assert_eq!(receipt.attempts(), 2);
    assert!(receipt.version() > ballot(NOON + 100));
    let receipt = receipt.settled().await;
    assert_eq!(receipt.acked(), 3);
}

/// L-DOUBT. Bugs: an update whose answers were lost is done twice; it runs again
/// though it was applied; it is an error though it is known to have been applied.
#[tokio::test(start_paused = true)]
async fn l_doubt_an_update_that_was_applied_is_found() {
    let links = links();
    let counters = counters(&links);
    counters.put("k", &5).await.unwrap();
    links.iter().for_each(|link| {
        link.set_prepares(Line::Up);
        link.set_merges(Line::LosesAnswers);
    });
    let mut runs = 0;
    let update = counters.update("k", |held| {
        runs += 1;
        increment(held)
    });
    let (updated, ()) = tokio::join!(update, async {
        yield_now().await;
        links.iter().for_each(|link| link.set_merges(Line::Up));
    });
    let updated = updated.unwrap();
    assert_eq!((updated.before(), updated.after()), (Some(&5), Some(&6)));
    assert_eq!((updated.attempts(), runs), (2, 1));
    let found = counters.get_with_version("k").await.unwrap();
    assert_eq!(found, (Some(6), updated.version()));
}

/// L-DOUBT. Bugs: an update that another went over is said not to have been applied,
/// or is done again.
#[tokio::test(start_paused = true)]
async fn l_doubt_what_cannot_be_found_out_is_maybe_applied() {
    let links = links();
    let counters = counters(&links);
    let other = counters_at(&links, &Wall::at(NOON + 1_000), 2);
    links.iter().for_each(|link| {
        link.set_prepares(Line::Up);
        link.set_merges(Line::Refused);
    });
    links[0].set_merges(Line::LosesAnswers);
    let update = counters.update("k", increment);
    let (error, updated) = tokio::join!(update, async {
        yield_now().await;
        links.iter().for_each(|link| link.set_merges(Line::Up));
        other
            .update("k", |held| Edit::Put(held.map_or(100, |held| held * 10)))
            .await
            .unwrap()
    });
    // The other one saw it: or it did not, as one of the replicas was not among those
    // that promised. Either way it can't be told any more.
    assert!(matches!(updated.after(), Some(10 | 100)), "{updated:?}");
    let Err(MapError::Update(error @ UpdateError::MaybeApplied(_))) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error.report().unwrap().maybe_applied().len(), 1);
    assert_eq!(counters.get("k").await.unwrap().as_ref(), updated.after());
}

/// L-DOUBT. Bugs: what all replicas refused, one of them late, stays in doubt; what one
/// did not answer, or stored, does not.
#[tokio::test(start_paused = true)]
async fn l_doubt_late_answers_count() {
    let way = Duration::from_millis(5);
    for (first, late, is_in_doubt) in [
        (Line::Slow(way), Line::Slow(6 * way), false),
        (Line::Slow(way), Line::Hangs, true),
        (Line::LosesAnswers, Line::Slow(6 * way), true),
    ] {
        let links = links();
        let counters = counters(&links);
        let other = counters_at(&links, &Wall::at(NOON + 1_000), 2);
        links.iter().for_each(|link| {
            link.set_prepares(Line::Slow(way));
            link.set_merges(Line::Slow(way));
        });
        links[0].set_merges(first);
        links[2].set_merges(late);
        let update = counters.update("k", increment);
        let (updated, by_other) = tokio::join!(update, async {
            while writes(&links[2]) == 0 {
                sleep(Duration::from_millis(1)).await;
            }
            // Its second phase is on its way, and another update overtakes it.
            links.iter().for_each(|link| {
                link.set_prepares(Line::Up);
                link.set_merges(Line::Up);
            });
            other.update("k", increment).await.unwrap()
        });
        match updated {
            Ok(updated) => {
                assert!(!is_in_doubt, "{late:?}: {updated:?}");
                assert_eq!(by_other.after(), Some(&1));
                assert_eq!((updated.before(), updated.after()), (Some(&1), Some(&2)));
            }
            Err(MapError::Update(UpdateError::MaybeApplied(_))) => assert!(is_in_doubt, "{late:?}"),
            Err(error) => panic!("{late:?}: {error}"),
        }
    }
}

/// L-DOUBT. Bug: only the last attempt is remembered, and an earlier one that was
/// applied is done again.
#[tokio::test(start_paused = true)]
async fn l_doubt_all_attempts_are_remembered() {
    let links = links();
    let counters = counters(&links);
    links.iter().for_each(|link| {
        link.set_prepares(Line::Up);
        link.set_merges(Line::Refused);
    });
    // The first attempt reaches replica 0 alone, and the second 1, which has not
    // heard of the first.
    links[0].set_merges(Line::LosesAnswers);
    let update = counters.update("k", increment);
    let (updated, ()) = tokio::join!(update, async {
        yield_now().await;
        links[0].set(Line::Refused);
        links[0].set_prepares(Line::Refused);
        links[1].set_merges(Line::LosesAnswers);
        within_an_hour(async {
            while writes(&links[1]) < 2 {
                yield_now().await;
                sleep(Duration::from_micros(100)).await;
            }
        })
        .await;
        // The third finds the first.
        links[0].set(Line::Up);
        links[0].set_prepares(Line::Up);
        links[2].set_merges(Line::Up);
        links[1].set(Line::Refused);
        links[1].set_prepares(Line::Refused);
    });
    assert_eq!(updated.unwrap().after(), Some(&1));
    links[1].set(Line::Up);
    assert_eq!(counters.get("k").await.unwrap(), Some(1));
}

/// L-DOUBT. Bug: an update that keeps what there is, in its second attempt, leaves
/// half of its first one behind, to be seen later.
#[tokio::test(start_paused = true)]
async fn l_doubt_what_is_kept_goes_over_what_was_written() {
    let links = links();
    let counters = counters(&links);
    links.iter().for_each(|link| {
        link.set_prepares(Line::Up);
        link.set_merges(Line::Refused);
    });
    links[0].set_merges(Line::LosesAnswers);
    let mut runs = 0;
    let update = counters.update("k", |_| {
        runs += 1;
        if runs == 1 { Edit::Put(5) } else { Edit::Keep }
    });
    let (updated, ()) = tokio::join!(update, async {
        yield_now().await;
        links[0].set(Line::Refused);
        links[0].set_prepares(Line::Refused);
        links[1].set_merges(Line::Up);
        links[2].set_merges(Line::Up);
    });
    let updated = updated.unwrap();
    assert_eq!((updated.attempts(), updated.after()), (2, None));
    assert_eq!(stored(&links[0]).unwrap().value.as_deref(), Some(&b"5"[..]));
    links[0].set(Line::Up);
    links[0].set_prepares(Line::Up);
    links[1].set(Line::Refused);
    links[1].set_prepares(Line::Refused);
    assert_eq!(counters.get("k").await.unwrap(), None);
}

/// L-DOUBT. Bugs: what surely was not applied is said to be in doubt, or tried until
/// the time is over; what is contended is said to be unreachable.
#[tokio::test(start_paused = true)]
async fn l_doubt_errors_say_what_is_true() {
    let links = links();
    let counters = counters(&links);
    counters.put("k", &1).await.unwrap();
    links[0].set(Line::Refused);
    links[1].set(Line::Refused);
    let error = counters.update("k", increment).await.unwrap_err();
    let MapError::Update(UpdateError::NotApplied(report)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(
        (report.attempts(), report.prepare().unwrap().answered()),
        (1, 1)
    );

    // The first phase goes through, and the second does not.
    links.iter().for_each(|link| link.set_prepares(Line::Up));
    let error = counters.update("k", increment).await.unwrap_err();
    let MapError::Update(UpdateError::MaybeApplied(report)) = error else {
        panic!("{error:?}");
    };
    assert!(report.attempts() > 1);
    assert_eq!(report.accept().unwrap().acked(), 1);
    assert_eq!(report.maybe_applied().len() as u32, report.attempts());
    links[2].set_merges(Line::Refused);
    let error = counters.update("k", increment).await.unwrap_err();
    let MapError::Update(UpdateError::NotApplied(report)) = error else {
        panic!("{error:?}");
    };
    assert_eq!(report.attempts(), 1);

    links.iter().for_each(|link| link.set(Line::Up));
    links
        .iter()
        .for_each(|link| promise(link, ballot(NOON + 900)));
    let once = counters.clone().with_max_attempts(1);
    let error = once.update("k", increment).await.unwrap_err();
    assert!(
        matches!(error, MapError::Update(UpdateError::Contended(_))),
        "{error:?}"
    );
    let updated = counters.update("k", increment).await.unwrap();
    assert_eq!(updated.attempts(), 2);
    assert!(updated.version().unwrap() > ballot(NOON + 900));
}

/// L-REGISTER. Bugs: what a promise keeps from being repaired fails a get for ever,
/// or is returned though no quorum holds it, so that the next one goes back; a replica
/// that holds a greater entry is taken to vouch for a lesser one, which it never saw.
#[tokio::test(start_paused = true)]
async fn l_register_a_get_settles_what_a_dead_update_left() {
    for greater_held in [false, true] {
        let links = links();
        let counters = counters(&links);
        let old = counters.put("k", &1).await.unwrap();
        let_background_finish().await;
        plant(&links[0], entry(NOON + 1, "2"));
        promise(&links[1], ballot(NOON + 9));
        promise(&links[2], ballot(NOON + 9));
        if greater_held {
            plant(&links[2], entry(NOON + 9, "3"));
            // Its answer comes when the others have decided.
            for (link, way) in links.iter().zip([10, 10, 15]) {
                link.set(Line::Slow(Duration::from_millis(way)));
            }
        }
        let (found, version) = counters.get_with_version("k").await.unwrap();
        assert!(version.unwrap() > old);
        links.iter().for_each(|link| link.set(Line::Up));
        // Whatever it was, it is now so.
        for left_out in &links {
            left_out.set(Line::Hangs);
            let again = within_an_hour(counters.get_with_version("k"))
                .await
                .unwrap();
            assert_eq!(again.0, found, "greater held: {greater_held}");
            left_out.set(Line::Up);
        }
        assert_eq!(counters.map().get("k").await.unwrap(), found);
    }
}

/// C-MONOTONIC. Bug: a get that goes on past the answer that decides observes that
/// alone, and not the later entry that it returns: what is written next is below it.
#[tokio::test(start_paused = true)]
async fn c_monotonic_the_clock_follows_what_a_get_returns() {
    let links = links();
    let coordinator = Coordinator::<3, 3, 1, _>::builder(links.clone())
        .wall_clock(Wall::at(NOON))
        .build();
    let counters: Registers<str, u64, 3, 3, 1, Arc<Link>> = coordinator.registers("c");
    links.iter().for_each(|link| plant(link, entry(NOON, "1")));
    // Another replica is asked first each time.
    for second in 1..=3 {
        let millis = NOON + second * 1_000;
        plant(&links[1], entry(millis, "7"));
        let got = counters.get_with_version("k").await.unwrap();
        assert_eq!(got, (Some(7), Some(ballot(millis))));
        let updated = counters.update("k", increment).await.unwrap();
        assert_eq!(updated.attempts(), 1);
        let_background_finish().await;
    }
}

/// L-BESIDE. Bugs: a plain get fails where its repair is refused by a promise, or
/// counts it as done.
#[tokio::test(start_paused = true)]
async fn l_beside_a_repair_that_a_promise_refuses_is_not_done() {
    let links = links();
    let counters = counters(&links);
    plant(&links[0], entry(NOON, "2"));
    promise(&links[1], ballot(NOON + 9));
    links[2].set(Line::Refused);
    let coordinator = counters.map().coordinator();
    assert_eq!(counters.map().get("k").await.unwrap(), Some(2));
    coordinator.drain().await;
    let stats = coordinator.stats();
    assert_eq!((stats[1].repaired, stats[1].not_repaired), (0, 1));
    assert_eq!(stored(&links[1]), None);
}

/// L-FAIR. Bugs: an update whose ballots come just behind a stream of puts, by a
/// clock that is ahead, never gets a promise.
#[tokio::test(start_paused = true)]
async fn l_fair_puts_do_not_starve_an_update() {
    let links = links();
    links
        .iter()
        .for_each(|link| link.set(Line::Slow(Duration::from_millis(5))));
    let (wall, ahead) = (Wall::at(NOON), Wall::at(NOON + 5_000));
    let counters = counters_at(&links, &wall, 1).with_time_limit(Duration::from_secs(2));
    let putter = counters_at(&links, &ahead, 2);
    let putting = tokio::spawn(async move {
        for count in 1.. {
            wall.set(NOON + count);
            ahead.set(NOON + 5_000 + count);
            let put = putter.map().clone();
            tokio::spawn(async move { put.put("k", &1_000).await });
            sleep(Duration::from_millis(1)).await;
        }
    });
    for _ in 0..10 {
        let updated = counters.update("k", increment).await.unwrap();
        assert!(updated.attempts() < 10, "{updated:?}");
    }
    putting.abort();
}

/// L-FAIR, and L-VERSION. Bugs: an update is lost, or has another's version; one of
/// many at the same time starves; all try again at once, or after the same time, and
/// are in each other's way again.
#[tokio::test(start_paused = true)]
async fn l_fair_all_of_many_updates_get_through() {
    let links = links();
    links
        .iter()
        .for_each(|link| link.set(Line::Slow(Duration::from_millis(1))));
    let start = Instant::now();
    let tasks: Vec<_> = (0..16)
        .map(|writer| {
            let counters = counters_at(&links, &Wall::at(NOON), writer + 1);
            tokio::spawn(async move {
                let mut versions = Vec::new();
                for _ in 0..10 {
                    let updated = counters.update("k", increment).await.unwrap();
                    let attempts = updated.attempts();
                    versions.push((updated.version(), updated.into_after(), attempts));
                }
                versions
            })
        })
        .collect();
    let mut versions = Vec::new();
    for task in tasks {
        versions.extend(task.await.unwrap());
    }
    let took = start.elapsed();
    let attempts: u32 = versions.iter().map(|(_, _, attempts)| attempts).sum();
    assert!(attempts < 5 * 160, "{attempts} attempts");
    versions.sort_unstable();
    let counts: Vec<_> = versions.iter().map(|(_, count, _)| *count).collect();
    let expected: Vec<_> = (1..=160).map(Some).collect();
    assert_eq!(counts, expected, "each version has the next count");
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// C-DRIFT. Bug: a ballot from the future is promised, and the key can't be written
/// for years.
#[tokio::test(start_paused = true)]
async fn c_drift_a_ballot_from_the_future_is_refused() {
    let links = links_at(&Wall::at(NOON - 3_600_000));
    let error = counters(&links).put("k", &1).await.unwrap_err();
    let MapError::Update(UpdateError::NotApplied(report)) = error else {
        panic!("{error:?}");
    };
    let replica = &report.prepare().unwrap().replicas()[0];
    let refusal = replica.outcome().refusal();
    assert!(
        matches!(refusal, Some(Refusal::TooFarAhead { .. })),
        "{refusal:?}"
    );
    assert_eq!(links[0].store().entry("c/\"k\""), None);
}

/// Bugs: what can't be decoded is overwritten, or hangs an update.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_an_error_and_stays() {
    let links = links();
    let counters = counters(&links);
    links
        .iter()
        .for_each(|link| plant(link, entry(NOON, "tea")));
    let error = counters.update("k", increment).await.unwrap_err();
    assert!(matches!(error, MapError::Decode(_)), "{error:?}");
    let error = counters.get("k").await.unwrap_err();
    assert!(matches!(error, MapError::Decode(_)), "{error:?}");
    assert_eq!(stored(&links[0]), Some(entry(NOON, "tea")));
    counters.put("k", &1).await.unwrap();
}

/// W-CANCEL. Bug: a caller that leaves in the second phase leaves it half done.
#[tokio::test(start_paused = true)]
async fn w_cancel_the_second_phase_goes_on_without_its_caller() {
    let links = links();
    let way = Duration::from_millis(10);
    links.iter().for_each(|link| link.set(Line::Slow(way)));
    let counters = counters(&links);
    let put = counters.put("k", &1);
    assert!(tokio::time::timeout(way * 5 / 2, put).await.is_err());
    counters.map().coordinator().drain().await;
    for link in &links {
        assert!(stored(link).is_some());
    }
}

/// Bug: the last timestamp there is makes an update loop, or panic.
#[tokio::test(start_paused = true)]
async fn the_end_of_time_is_an_error() {
    let links = links();
    let last = Version {
        timestamp: Timestamp::MAX,
        writer: WriterId::new(9),
    };
    links.iter().for_each(|link| promise(link, last));
    let error = within_an_hour(counters(&links).put("k", &1))
        .await
        .unwrap_err();
    assert!(
        matches!(error, MapError::Update(UpdateError::Contended(_))),
        "{error:?}"
    );
}

fn prepares(link: &Link) -> usize {
    let seen = link.seen.lock().unwrap();
    let is_prepare = |kind: &RequestKind| matches!(kind, RequestKind::Prepare { .. });
    seen.iter()
        .filter(|request| is_prepare(&request.kind))
        .count()
}

/// L-FAIR. Bugs: updates of one coordinator overtake each other; the last that called
/// comes first; a key's turn holds up another key.
#[tokio::test(start_paused = true)]
async fn l_fair_updates_of_one_coordinator_take_turns() {
    let links = links();
    let counters = counters(&links);
    counters.put("k", &0).await.unwrap();
    let before = links.each_ref().map(|link| prepares(link));
    let way = Duration::from_millis(10);
    links.iter().for_each(|link| link.set(Line::Slow(way)));
    let start = Instant::now();
    let mut tasks = Vec::new();
    for turn in 1..=16 {
        let counters = counters.clone();
        tasks.push(tokio::spawn(async move {
            let updated = counters.update("k", increment).await.unwrap();
            assert_eq!((updated.after(), updated.attempts()), (Some(&turn), 1));
            assert_eq!(start.elapsed(), 4 * way * u32::try_from(turn).unwrap());
        }));
        yield_now().await;
    }
    counters.update("other", increment).await.unwrap();
    assert_eq!(start.elapsed(), 4 * way);
    for task in tasks {
        task.await.unwrap();
    }
    for (link, before) in links.iter().zip(before) {
        assert_eq!(prepares(link) - before, 16 + 1);
    }
}

/// L-FAIR, W-CANCEL. Bugs: whoever leaves keeps its turn, or its place in the queue.
#[tokio::test(start_paused = true)]
async fn l_fair_who_leaves_holds_nobody_up() {
    let links = links();
    let counters = counters(&links);
    let way = Duration::from_millis(10);
    links.iter().for_each(|link| link.set(Line::Slow(way)));
    let update = || {
        let counters = counters.clone();
        tokio::spawn(async move { counters.update("k", increment).await.unwrap().attempts() })
    };
    let (first, second, third) = (update(), update(), update());
    yield_now().await;
    // One that is under way, and one that waits.
    second.abort();
    first.abort();
    let start = Instant::now();
    assert_eq!(third.await.unwrap(), 1);
    assert_eq!(start.elapsed(), 4 * way);
    assert_eq!(counters.get("k").await.unwrap(), Some(1));
}

/// L-FAIR. Bugs: an update that waits for others, or for the promises that hang, does
/// so for longer than a call may take; who has waited for too long gives up.
#[tokio::test(start_paused = true)]
async fn l_fair_the_wait_for_a_turn_is_bounded() {
    let links = links();
    let counters = counters(&links);
    counters.put("k", &0).await.unwrap();
    links[0].set(Line::Hangs);
    links[1].set(Line::Hangs);
    let start = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..16 {
        let counters = counters.clone();
        tasks.push(tokio::spawn(async move {
            counters.update("k", increment).await
        }));
    }
    for task in tasks {
        let error = task.await.unwrap().unwrap_err();
        assert!(
            matches!(error, MapError::Update(UpdateError::NotApplied(_))),
            "{error}"
        );
    }
    // A time limit in the queue, and one for the call itself.
    let limit = Duration::from_secs(2);
    assert!(start.elapsed() <= 2 * limit, "{:?}", start.elapsed());
    links.iter().for_each(|link| link.set(Line::Up));
    let updated = counters.update("k", increment).await.unwrap();
    assert_eq!(updated.after(), Some(&1));
}
