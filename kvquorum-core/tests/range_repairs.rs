//! R-REPAIR, as scans do it (R-RANGE). Time is paused.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{
    Coordinator, CoordinatorBuilder, Entry, Key, Limits, RequestKind, Scan, ScanError, ScanLimit,
};
use support::{Line, Link, NOON, Wall, entry, let_background_finish, links, plant, within_an_hour};
use tokio::time::Instant;

const SLOW: Duration = Duration::from_millis(100);

fn builder<const W: usize, const R: usize>(
    links: &[Arc<Link>; 3],
) -> CoordinatorBuilder<3, W, R, Arc<Link>> {
    Coordinator::builder(links.clone()).wall_clock(Wall::at(NOON))
}

fn tombstone(millis: u64) -> Entry {
    Entry::tombstone(entry(millis, "").version)
}

async fn keys(mut scan: Scan) -> Result<Vec<String>, ScanError> {
    let mut found = Vec::new();
    while let Some(entry) = within_an_hour(scan.next()).await {
        found.push(entry?.0.to_string());
        assert!(found.len() < 10_000, "it does not end");
    }
    Ok(found)
}

fn written_to(link: &Link) -> Vec<(String, Entry)> {
    let seen = link.seen.lock().unwrap();
    let writes = seen.iter().filter_map(|request| match &request.kind {
        RequestKind::Repair { key, entry } => Some((key.to_string(), entry.clone())),
        _ => None,
    });
    writes.collect()
}

/// What each replica lacks, or holds an older entry of.
fn plant_unlike(links: &[Arc<Link>; 3]) -> [(&'static str, Entry); 4] {
    let greatest = [
        ("a", entry(3, "new")),
        ("b", tombstone(3)),
        ("c", entry(3, "only on the first")),
        ("d", entry(3, "everywhere")),
    ];
    for (key, entry) in &greatest {
        plant(&links[0], key, entry.clone());
    }
    for link in &links[1..] {
        plant(link, "a", entry(2, "old"));
        plant(link, "b", entry(2, "deleted since"));
        plant(link, "d", entry(3, "everywhere"));
    }
    greatest
}

fn assert_held(link: &Link, greatest: &[(&str, Entry)]) {
    for (key, entry) in greatest {
        assert_eq!(link.store().entry(key).as_ref(), Some(entry), "{key}");
    }
}

/// R-REPAIR. Bugs: tombstones are not repaired, or what is missing is not; a repair
/// gets a version of its own, and wins over a later write; what is held already is
/// sent; a replica that answers after the decision is not repaired.
#[tokio::test(start_paused = true)]
async fn r_repair_a_scan_brings_replicas_what_they_lack() {
    for slow in 0..3 {
        for page in [1, 2, 100] {
            let links = links();
            let greatest = plant_unlike(&links);
            links[slow].set(Line::Slow(SLOW));
            let page = ScanLimit::keys(page);
            let coordinator = builder::<2, 2>(&links).page(page).build();
            assert!(keys(coordinator.scan(..)).await.is_ok());
            coordinator.drain().await;
            // A slow replica may have missed pages, and has the next scan.
            links[slow].set(Line::Up);
            assert_eq!(keys(coordinator.scan(..)).await.unwrap(), ["a", "c", "d"]);
            coordinator.drain().await;
            for link in &links {
                assert_held(link, &greatest);
                // A late answer and the next page may both tell of the same.
                let mut written = written_to(link);
                written.sort();
                written.dedup();
                let is_behind = !Arc::ptr_eq(link, &links[0]);
                let lacked = greatest.iter().take(if is_behind { 3 } else { 0 });
                let lacked: Vec<_> = lacked
                    .map(|(key, entry)| ((*key).to_owned(), entry.clone()))
                    .collect();
                assert_eq!(written, lacked);
            }
            let stats = coordinator.stats();
            assert_eq!(stats[0].repaired, 0);
            assert!(stats[1].repaired >= 3 && stats[2].repaired >= 3);
            assert!(stats.iter().all(|stats| stats.in_background == 0));
            assert_eq!(coordinator.background_tasks(), 0);
        }
    }
}

/// R-REPAIR. Bug: an answer that comes late is dropped, with what it tells of itself
/// and of others.
#[tokio::test(start_paused = true)]
async fn r_repair_a_late_answer_is_compared_too() {
    for late in 0..3 {
        let links = links();
        let greatest = plant_unlike(&links);
        links[late].set(Line::Slow(SLOW));
        let coordinator = builder::<2, 2>(&links).build();
        let start = Instant::now();
        assert!(keys(coordinator.scan(..)).await.is_ok());
        assert_eq!(start.elapsed(), Duration::ZERO);
        coordinator.drain().await;
        for link in &links {
            assert_held(link, &greatest);
        }
    }
}

/// R-REPAIR. Bug: what is beyond the page is taken for missing.
#[tokio::test(start_paused = true)]
async fn r_repair_only_what_a_page_tells_of_is_repaired() {
    let links = links();
    for link in &links {
        for n in 0..10 {
            plant(link, &format!("{n}"), entry(1, "v"));
        }
    }
    // Its pages reach further.
    for n in 0..5 {
        links[1]
            .store()
            .change(&Key::from(format!("{n}")), kvquorum_core::Change::remove());
    }
    let coordinator = builder::<2, 2>(&links).page(ScanLimit::keys(3)).build();
    assert_eq!(keys(coordinator.scan(..)).await.unwrap().len(), 10);
    coordinator.drain().await;
    assert_eq!(written_to(&links[0]), []);
    assert_eq!(written_to(&links[1]).len(), 5);
    assert_eq!(written_to(&links[2]), []);
}

/// R-REPAIR. Bug: what a late answer does not tell of is taken for missing.
#[tokio::test(start_paused = true)]
async fn r_repair_a_late_answer_may_be_shorter_than_the_page() {
    let links: [Arc<Link>; 3] = support::links_with(&Wall::at(NOON), |index| {
        Limits::default().max_scan_keys(if index == 2 { 2 } else { 100 })
    });
    for link in &links {
        for key in ["a", "b", "c", "d"] {
            plant(link, key, entry(1, "v"));
        }
    }
    plant(&links[0], "a", entry(2, "new"));
    plant(&links[1], "a", entry(2, "new"));
    links[2].set_gets(Line::Slow(SLOW));
    let coordinator = builder::<2, 2>(&links).build();
    assert_eq!(keys(coordinator.scan(..)).await.unwrap().len(), 4);
    coordinator.drain().await;
    let written = written_to(&links[2]);
    assert_eq!(written, [("a".to_owned(), entry(2, "new"))]);
}

/// R-REPAIR. Bug: the setting is not looked at.
#[tokio::test(start_paused = true)]
async fn r_repair_off_a_scan_repairs_nothing() {
    let links = links();
    plant_unlike(&links);
    let coordinator = builder::<2, 3>(&links).repair_off().build();
    assert_eq!(keys(coordinator.scan(..)).await.unwrap(), ["a", "c", "d"]);
    let_background_finish().await;
    assert!(links.iter().all(|link| written_to(link).is_empty()));
}

/// R-REPAIR, in the background. Bugs: the caller waits for it; a replica that takes
/// no repair ends the scan.
#[tokio::test(start_paused = true)]
async fn r_repair_nobody_waits_for_it() {
    for line in [Line::Hangs, Line::Slow(SLOW), Line::Refused] {
        let links = links();
        plant_unlike(&links);
        links[1].set_merges(line);
        links[2].set_merges(line);
        let coordinator = builder::<2, 3>(&links).build();
        let start = Instant::now();
        assert_eq!(keys(coordinator.scan(..)).await.unwrap(), ["a", "c", "d"]);
        assert_eq!(start.elapsed(), Duration::ZERO);
        coordinator.drain().await;
        let stats = coordinator.stats()[1];
        let repaired = if matches!(line, Line::Slow(_)) { 3 } else { 0 };
        assert_eq!(
            (stats.repaired, stats.not_repaired),
            (repaired, 3 - repaired)
        );
    }
}

/// R-REPAIR. Bugs: as many calls at once as a page has keys; a replica that takes long
/// for each repair is kept busy for hours by one page.
#[tokio::test(start_paused = true)]
async fn r_repair_the_repairs_of_a_page_are_bounded() {
    let links = links();
    for n in 0..1000 {
        plant(&links[0], &format!("{n:04}"), entry(1, "v"));
    }
    links[2].set(Line::Refused);
    links[1].set_merges(Line::Slow(SLOW * 4));
    let coordinator = builder::<2, 2>(&links).build();
    assert_eq!(keys(coordinator.scan(..)).await.unwrap().len(), 1000);
    let mut most = 0;
    let start = Instant::now();
    while coordinator.background_tasks() > 0 {
        most = most.max(coordinator.stats()[1].in_background);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(most, 64);
    assert!(
        start.elapsed() <= Duration::from_millis(2100),
        "{:?}",
        start.elapsed()
    );
    let stats = coordinator.stats()[1];
    assert_eq!(
        (stats.repaired, stats.not_repaired),
        (2 * 64, 1000 - 2 * 64)
    );
}

/// R-REPAIR, blocking. Bugs: what fewer than W replicas hold is handed out, and a
/// later read may not find it; a tombstone that fewer hold hides what may come back.
#[tokio::test(start_paused = true)]
async fn r_repair_blocking_what_is_handed_out_is_held_by_w() {
    for late in 0..3 {
        let links = links();
        let greatest = plant_unlike(&links);
        links[late].set_gets(Line::Hangs);
        for link in &links {
            link.set_merges(Line::Slow(SLOW / 2));
        }
        let coordinator = builder::<2, 2>(&links).repair_blocking().build();
        let start = Instant::now();
        let found = keys(coordinator.scan(..)).await.unwrap();
        let waited = start.elapsed();
        if late == 0 {
            // The two others hold the same: there is nothing to wait for.
            assert_eq!(found, ["a", "b", "d"]);
            assert_eq!(waited, Duration::ZERO);
            assert!(links.iter().all(|link| written_to(link).is_empty()));
        } else {
            assert_eq!(found, ["a", "c", "d"]);
            assert_eq!(waited, SLOW);
            let holds = |link: &&Arc<Link>| {
                greatest
                    .iter()
                    .all(|(key, entry)| link.store().entry(key).as_ref() == Some(entry))
            };
            assert_eq!(links.iter().filter(holds).count(), 2);
        }
    }
}

/// R-REPAIR, blocking. Bugs: an entry that cannot be brought to W replicas is handed
/// out all the same; the error names another key, or is forgotten at the next page.
#[tokio::test(start_paused = true)]
async fn r_repair_blocking_what_cannot_be_held_is_an_error() {
    let links = links();
    plant_unlike(&links);
    links[1].set_merges(Line::Refused);
    links[2].set(Line::Refused);
    let coordinator = builder::<2, 2>(&links)
        .repair_blocking()
        .page(ScanLimit::keys(1))
        .build();
    let mut scan = coordinator.scan(..);
    let error = scan.next().await.unwrap().unwrap_err();
    let ScanError::NotRepaired {
        key,
        holders,
        needed,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((key, *holders, *needed), (&Key::from("a"), 1, 2));
    let expected = "the scan found an entry under a that 1 replicas are known to hold and 2 were \
                    needed (replica-0: answered with 1 entries; replica-1: answered with 1 \
                    entries; replica-2: the replica was not reached: the test says so)";
    assert_eq!(error.to_string(), expected);
    assert!(scan.next().await.is_none());
    links[1].set_merges(Line::Up);
    let rest = coordinator.scan(scan.rest().unwrap());
    assert_eq!(keys(rest).await.unwrap(), ["a", "c", "d"]);
}

/// R-REPAIR, blocking, with more holders needed than answers. Bugs: those that
/// answered are all that are looked at; a replica of which a page tells nothing is
/// taken for a holder, or never asked to be one.
#[tokio::test(start_paused = true)]
async fn r_repair_blocking_those_that_come_late_count_as_holders() {
    let links = links();
    let greatest = plant_unlike(&links);
    links[1].set_gets(Line::Slow(SLOW));
    links[2].set_gets(Line::Slow(SLOW * 2));
    let coordinator = builder::<3, 1>(&links).repair_blocking().build();
    let start = Instant::now();
    assert_eq!(keys(coordinator.scan(..)).await.unwrap(), ["a", "c", "d"]);
    assert_eq!(start.elapsed(), SLOW * 4);
    links.iter().for_each(|link| assert_held(link, &greatest));

    links[2].set(Line::Refused);
    plant(&links[0], "a", entry(9, "newer"));
    assert!(keys(coordinator.scan(..)).await.is_err());
}

/// R-REPAIR, blocking. Bug: a replica that has acked an older entry is taken for a holder
/// of the greater one, which came to light meanwhile.
#[tokio::test(start_paused = true)]
async fn r_repair_blocking_an_ack_counts_for_what_was_sent() {
    let links = links();
    plant(&links[0], "a", entry(1, "old"));
    plant(&links[2], "a", entry(2, "new"));
    links[1].set_merges(Line::Slow(SLOW * 3));
    links[2].set_gets(Line::Slow(SLOW));
    let coordinator = builder::<3, 1>(&links).repair_blocking().build();
    assert_eq!(keys(coordinator.scan(..)).await.unwrap(), ["a"]);
    links
        .iter()
        .for_each(|link| assert_held(link, &[("a", entry(2, "new"))]));
}

/// R-REPAIR, blocking. Bug: an answer that is there when the page has just been decided
/// brings an entry that fewer than W hold, and the scan fails for it; or hands it out.
#[tokio::test(start_paused = true)]
async fn r_repair_blocking_what_comes_later_does_not_fail_a_page() {
    let links = links();
    for link in &links {
        plant(link, "a", entry(1, "old"));
        // The answers are there at the same time, and looked at one after the other.
        link.set_gets(Line::Slow(SLOW));
    }
    plant(&links[2], "a", entry(2, "new"));
    links[0].set_merges(Line::Slow(SLOW));
    links[1].set_merges(Line::Slow(SLOW));
    let coordinator = builder::<2, 2>(&links).repair_blocking().build();
    let mut scan = coordinator.scan(..);
    let (_, value) = scan.next().await.unwrap().unwrap();
    assert_eq!(value, "old");
    coordinator.drain().await;
    links
        .iter()
        .for_each(|link| assert_held(link, &[("a", entry(2, "new"))]));
}

/// R-REPAIR. Bugs: what a scan sends while it waits for repairs goes on outside of the
/// bound on background work, once enough replicas hold what it found; what there is no
/// room for is never given up, or is not counted.
#[tokio::test(start_paused = true)]
async fn r_repair_what_outlives_a_blocking_scan_is_bounded() {
    for bound in [0, 8, 1000] {
        let links = links();
        for number in 0..100 {
            plant(&links[0], &format!("{number:03}"), entry(1, "v"));
        }
        links[1].set_merges(Line::Slow(SLOW));
        links[2].set_merges(Line::Hangs);
        let coordinator = builder::<2, 3>(&links)
            .repair_blocking()
            .max_background(bound)
            .build();
        let found = keys(coordinator.scan(..)).await.unwrap();
        assert_eq!(found.len(), 100);
        let [_, repaired, hanging] = coordinator.stats();
        assert_eq!(repaired.repaired, 100);
        assert_eq!(hanging.in_background, bound.min(64));
        assert_eq!(links[2].dropped(), 64 - bound.min(64));
        assert!(bound > 0 || coordinator.background_tasks() == 0);
        coordinator.drain().await;
        let [.., hanging] = coordinator.stats();
        assert_eq!(hanging.in_background, 0);
        assert_eq!(hanging.not_repaired, 100);
    }
}
