//! How fast passes go, and when. Time is paused.

use std::time::Duration;

use kvquorum_core::Entry;
use tokio::time::Instant;

use super::support::{Line, entry, links};
use super::{coordinator, fill_two, key, put, settings};

/// Bugs: a pass goes faster than it is told, or its bound on bytes holds for
/// fingerprints alone.
#[tokio::test(start_paused = true)]
async fn a_pass_goes_no_faster_than_it_is_told() {
    let links = links();
    (0..4000).for_each(|at| {
        put(
            &links[0],
            &key(at),
            &Entry::new(entry(5, "").version, vec![0; 1000]),
        )
    });
    let began = Instant::now();
    let slow = settings().max_bytes_per_second(100_000);
    assert!(coordinator(&links).pass(.., slow).run().await.is_complete());
    // 4 MB to one replica, and to another, and from the third.
    let took = began.elapsed();
    assert!((115..200).contains(&took.as_secs()), "{took:?}");
    let began = Instant::now();
    let slow = settings().max_keys_per_second(1000).window(100);
    let report = coordinator(&links).pass(.., slow).run().await;
    let took = began.elapsed();
    assert!((3900..4200).contains(&took.as_millis()), "{took:?}");
    assert_eq!(report.took, took);
}

/// Bug: a pass does not give way to what the coordinator serves.
#[tokio::test(start_paused = true)]
async fn a_pass_gives_way_to_other_operations() {
    let links = links();
    for link in &links {
        (0..4000).for_each(|at| put(link, &key(at), &entry(5, "v")));
        link.set(Line::Slow(Duration::from_millis(5)));
    }
    let settings = settings().window(100).rests(4);
    let coordinator = coordinator(&links);
    let began = Instant::now();
    coordinator.pass(.., settings).run().await;
    let alone = began.elapsed();
    for writes in [true, false] {
        let beside = coordinator.clone();
        let serving = tokio::spawn(async move {
            loop {
                if writes {
                    beside.put("k", "v").await.unwrap();
                } else {
                    beside.get("k").await.unwrap();
                }
            }
        });
        let began = Instant::now();
        coordinator.pass(.., settings).run().await;
        let beside = began.elapsed();
        serving.abort();
        assert!(
            beside > alone * 4 && beside < alone * 6,
            "{alone:?} {beside:?}"
        );
    }
}

/// Bugs: a pass takes steps as long beside others as alone, or short ones ever after.
#[tokio::test(start_paused = true)]
async fn a_pass_takes_shorter_steps_beside_other_operations() {
    let links = links();
    for link in &links {
        (0..9000).for_each(|at| put(link, &key(at), &entry(5, "v")));
    }
    let coordinator = coordinator(&links);
    let mut pass = coordinator.pass(.., settings().window(3000).rests(0));
    let mut compared = 0;
    for (is_beside, keys) in [(true, 3000), (true, 1024), (false, 1024), (false, 3000)] {
        if is_beside {
            let (stepped, put) = tokio::join!(pass.step(), coordinator.put("k", "v"));
            assert!(stepped && put.is_ok());
        } else {
            assert!(pass.step().await);
        }
        compared += keys;
        assert_eq!(pass.progress().keys, compared);
    }
}

/// Bug: a step that waited for a replica which hangs has the pass rest for minutes.
#[tokio::test(start_paused = true)]
async fn a_pass_gives_way_for_no_longer_than_some_seconds() {
    let links = links();
    fill_two(&links);
    let coordinator = coordinator(&links);
    let mut pass = coordinator.pass(.., settings().window(100));
    assert!(pass.step().await);
    links[2].set(Line::Hangs);
    let (stepped, put) = tokio::join!(pass.step(), coordinator.put("k", "v"));
    assert!(stepped && put.is_ok());
    let began = Instant::now();
    assert!(pass.step().await);
    assert!(
        (4..8).contains(&began.elapsed().as_secs()),
        "{:?}",
        began.elapsed()
    );
}

/// Bugs: passes begin together everywhere, or never end; what they come to can't be
/// watched.
#[tokio::test(start_paused = true)]
async fn passes_come_at_an_interval_with_jitter() {
    let links = links();
    fill_two(&links);
    let coordinator = coordinator(&links);
    let every = Duration::from_secs(100);
    let mut firsts = Vec::new();
    for hash_key in 0..10 {
        let settings = settings().every(every).hash_key(hash_key);
        let mut passes = coordinator.passes(settings);
        let progress = passes.progress();
        let began = Instant::now();
        assert!(passes.next().await.is_complete());
        firsts.push(began.elapsed());
        assert!(began.elapsed() <= Duration::from_secs(20));
        assert_eq!(progress.borrow().keys, 500);
        for _ in 0..3 {
            let began = Instant::now();
            passes.next().await;
            let took = began.elapsed().as_secs();
            assert!((80..=120).contains(&took), "{took}");
        }
    }
    firsts.sort();
    firsts.dedup();
    assert!(firsts.len() > 7, "they begin together");
}
