//! The parts of a simulated world do what they say. What they are good for is
//! shown by the program `simulate`.
#![cfg(feature = "sim")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvquorum_core::{
    Change, Coordinator, Entry, Key, Store, Timestamp, Version, WallClock, WriterId,
};
use kvquorum_testing::conformance;
use kvquorum_testing::sim::{self, Disk, Random, Storm, Survives};
use tokio::time::sleep;

fn entry(timestamp: u64) -> Entry {
    let version = Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(1),
    };
    Entry::new(version, "value")
}

#[tokio::test]
async fn a_disk_is_a_store() {
    conformance::store(|| async { (Disk::new(), ()) }).await;
}

async fn write(disk: &Disk, key: &Key, timestamp: u64) {
    let change = Change::write(entry(timestamp));
    disk.apply(key, change).await.unwrap();
}

/// Catches a tail that survives, a sync that does not count, and an entry that
/// comes back as it was before another one that is lost as well.
#[tokio::test]
async fn a_disk_loses_what_was_not_synced() {
    let (disk, a, b) = (Disk::new(), Key::from("a"), Key::from("b"));
    write(&disk, &a, 1).await;
    disk.sync();
    write(&disk, &a, 2).await;
    write(&disk, &a, 3).await;
    write(&disk, &b, 2).await;
    disk.lose(Survives::Synced);
    assert_eq!(disk.entries(), [(a.clone(), entry(1))]);

    write(&disk, &a, 4).await;
    disk.lose(Survives::All);
    disk.lose(Survives::Synced);
    assert_eq!(disk.entry(&a), Some(entry(4)), "a crash is a sync");

    disk.lose(Survives::Nothing);
    assert_eq!(disk.entries(), []);
}

/// Catches a backup that is not as old as it is, and a disk that keeps what came after
/// it, or gives back what was lost later.
#[tokio::test]
async fn a_disk_is_put_back_as_it_was() {
    let (disk, a, b) = (Disk::new(), Key::from("a"), Key::from("b"));
    write(&disk, &a, 1).await;
    let backup = disk.backup();
    write(&disk, &a, 2).await;
    write(&disk, &b, 2).await;
    disk.restore(&backup);
    assert_eq!(disk.entries(), [(a.clone(), entry(1))]);
    disk.lose(Survives::Synced);
    assert_eq!(disk.entries(), [(a, entry(1))]);
}

#[test]
fn a_clock_can_be_wrong_in_every_way() {
    sim::run(1, |world| async move {
        let clock = world.clock();
        let start = clock.now_millis();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(clock.now_millis(), start + 10_000);
        clock.set_rate(500_000);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(clock.now_millis(), start + 15_000);
        assert_eq!(clock.skew_millis(), -5_000);
        clock.set_rate(0);
        clock.step(-20_000);
        sleep(Duration::from_secs(10)).await;
        assert_eq!(clock.now_millis(), start - 5_000);
        clock.skew(86_400_000);
        assert_eq!(clock.skew_millis(), 86_400_000);
    })
    .unwrap();
}

/// Catches a bound that is drawn, a weight of nothing that is, and streams that
/// are not their own.
#[test]
fn randomness_keeps_within_its_bounds() {
    let mut random = Random::new(7);
    for _ in 0..1_000 {
        assert!(random.below(3) < 3);
        assert_eq!(random.weigh(&[(0, 'a'), (2, 'b'), (0, 'c')]), Some('b'));
        let range = Duration::from_millis(2)..=Duration::from_millis(3);
        assert!(range.contains(&random.between(&range)));
    }
    assert_eq!(random.below(0), 0);
    assert_eq!(random.weigh(&[(0, 'a')]), None);
    assert_eq!(random.pick::<u8>(&[]), None);
    let mut fork = random.clone().fork();
    assert_ne!(fork.bits(), random.bits());
}

/// What a storm did and what a client was told, in order.
fn history(seed: u64) -> Vec<String> {
    let told = Arc::new(Mutex::new(Vec::new()));
    let note = |what: String| told.lock().unwrap().push(what);
    sim::run(seed, |world| async move {
        let cluster = world.cluster::<3>();
        let map = Coordinator::<3, 2, 2, _>::builder(cluster.links())
            .writer(world.writer())
            .wall_clock(world.clock())
            .build();
        let storm = Storm::default();
        let raging = storm.rage(&cluster, world.random(), |event| note(event.to_string()));
        let working = async {
            for count in 0..100_u32 {
                let put = map.put("key", count.to_be_bytes().to_vec()).await;
                note(format!(
                    "{:?} {:?}",
                    world.elapsed(),
                    put.map(|put| put.version())
                ));
                note(format!("{:?}", map.get("key").await));
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            biased;
            () = working => {}
            () = raging => {}
        }
        cluster.calm();
        map.drain().await;
        // All is well: an operation that needs every replica succeeds.
        let all = Coordinator::<3, 3, 3, _>::builder(cluster.links())
            .wall_clock(world.clock())
            .build();
        all.get("key").await.unwrap();
    })
    .unwrap();
    Arc::into_inner(told).unwrap().into_inner().unwrap()
}

#[test]
fn a_seed_is_a_whole_history() {
    let first = history(3);
    assert!(first.len() > 250, "{} events", first.len());
    assert_eq!(first, history(3));
    assert_ne!(first, history(4));
}
