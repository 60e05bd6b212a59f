//! Processes that are killed while they write.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kvquorum_core::{Ack, Change, Key, Store};
use kvquorum_redb::RedbStore;
use support::{Entries, Numbers, all, entry};
use tokio::task::JoinSet;

/// How many kills, unless `KVQUORUM_KILL_ROUNDS` tells.
const ROUNDS: u64 = 10;
const WRITERS: u64 = 64;
/// Each writer's own.
const KEYS: u64 = 4;

const DIRECTORY: &str = "KVQUORUM_KILL_DIRECTORY";

/// A writer's keys take turns.
fn key(writer: u64, step: u64) -> Key {
    Key::from(format!("{writer}/{}", step % KEYS))
}

fn value(writer: u64, step: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(writer << 32 | step);
    let len = match step % 10 {
        0 => 4_096,
        _ => numbers.below(200),
    };
    numbers.bytes(usize::try_from(len).unwrap())
}

/// The last step of each writer that a store holds, with all of it looked at.
async fn last_steps(store: &RedbStore) -> BTreeMap<u64, u64> {
    let mut last = BTreeMap::new();
    for (stored_key, stored) in all(store).await.unwrap() {
        let step = stored.version.timestamp.to_bits();
        let writer = String::from_utf8(stored_key.as_bytes().to_vec()).unwrap();
        let writer = writer.split_once('/').unwrap().0.parse().unwrap();
        assert_eq!(
            stored_key,
            key(writer, step),
            "an entry under another's key"
        );
        assert_eq!(stored, entry(step, value(writer, step)), "never written");
        let greatest = last.entry(writer).or_default();
        *greatest = step.max(*greatest);
    }
    last
}

/// Not a test of its own: the process that is killed. It tells of each ack.
#[test]
#[ignore = "it is run as a process of its own by another test"]
fn the_process_that_is_killed() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Arc::new(RedbStore::open_or_create(directory).await.unwrap());
        let last = last_steps(&store).await;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = Arc::clone(&store);
                let first = last.get(&writer).map_or(1, |step| step + 1);
                tokio::spawn(async move {
                    for step in first.. {
                        let entry = entry(step, value(writer, step));
                        let merged = store.merge(&key(writer, step), entry).await;
                        assert_eq!(merged.unwrap(), Ack::Applied);
                        // One call, so that no line is cut.
                        let line = format!("ack {writer} {step}\n");
                        std::io::stderr().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Dies with the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a test of this file as a process of its own.
fn start(test: &str, directory: &Path) -> Killed {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .args(["--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    Killed(child.unwrap())
}

/// Runs a process and kills it; the last step acked to each of its writers.
fn run_and_kill(directory: &Path, numbers: &mut Numbers) -> BTreeMap<u64, u64> {
    let mut child = start("the_process_that_is_killed", directory);
    let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let (started, wait_for_start) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        let mut acked = BTreeMap::new();
        for line in lines {
            let line = line.unwrap();
            let ack = line
                .strip_prefix("ack ")
                .unwrap_or_else(|| panic!("{line}"));
            let (writer, step) = ack.split_once(' ').unwrap();
            acked.insert(writer.parse().unwrap(), step.parse().unwrap());
            let _ = started.send(());
        }
        acked
    });
    // Now and then while it opens, otherwise while it writes.
    if numbers.below(8) != 0 {
        wait_for_start
            .recv_timeout(Duration::from_secs(60))
            .unwrap();
    }
    std::thread::sleep(Duration::from_micros(numbers.below(100_000)));
    drop(child);
    reading.join().unwrap()
}

/// Bugs: an ack before the entry is on disk, in the system's hands at least;
/// half an entry; a directory that no store opens any more.
#[tokio::test(flavor = "multi_thread")]
async fn acked_entries_survive_a_kill_at_any_moment() {
    let rounds =
        std::env::var("KVQUORUM_KILL_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mut numbers = Numbers::new(rounds);
    let mut before = BTreeMap::new();
    let mut acks = 0;
    for round in 0..rounds {
        let acked = run_and_kill(directory.path(), &mut numbers);
        let store = RedbStore::open_or_create(directory.path()).await.unwrap();
        let found = last_steps(&store).await;
        for writer in 0..WRITERS {
            let known = |steps: &BTreeMap<u64, u64>| steps.get(&writer).copied().unwrap_or(0);
            let least = known(&acked).max(known(&before));
            let last = known(&found);
            assert!(last >= least, "round {round}: an acked entry is gone");
            // One was under way at the most.
            assert!(last <= least + 1, "round {round}: an entry nobody wrote");
            acks += last - known(&before);
            // The keys before the last hold the steps before it.
            for step in last.saturating_sub(KEYS - 1).max(1)..=last {
                let stored = store.entry(&key(writer, step)).await.unwrap();
                assert_eq!(
                    stored,
                    Some(entry(step, value(writer, step))),
                    "round {round}"
                );
            }
        }
        before = found;
        store.close().await.unwrap();
    }
    println!("{rounds} kills, {acks} entries acked by the last, none lost");
    assert!(acks > 0);
}

const MANY: u64 = 4_000;

fn one_of_many(number: u64) -> Key {
    Key::from(format!(
        "{:016x}",
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    ))
}

/// What stays of them.
fn is_kept(number: u64) -> bool {
    number.is_multiple_of(5)
}

async fn apply_to_many(
    store: &Arc<RedbStore>,
    wanted: fn(u64) -> bool,
    change: fn(u64) -> Change<'static>,
) {
    let applying: JoinSet<_> = (0..MANY)
        .filter(|number| wanted(*number))
        .map(|number| {
            let store = Arc::clone(store);
            async move {
                let applied = store.apply(&one_of_many(number), change(number)).await;
                applied.unwrap();
            }
        })
        .collect();
    applying.join_all().await;
}

/// Not a test of its own: the process that is killed while it compacts. It tells when
/// that begins and ends.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it is run as a process of its own by another test"]
async fn the_process_that_compacts() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let store = Arc::new(RedbStore::open_or_create(directory).await.unwrap());
    loop {
        let write = |number| Change::write(entry(1, value(0, number)));
        apply_to_many(&store, |_| true, write).await;
        apply_to_many(&store, |number| !is_kept(number), |_| Change::remove()).await;
        eprintln!("begun");
        store.compact().await.unwrap();
        eprintln!("ended");
    }
}

/// Bugs: a compaction that a kill cuts loses a record, brings one back, or leaves
/// a directory that no store opens any more.
#[tokio::test(flavor = "multi_thread")]
async fn records_survive_a_kill_in_the_middle_of_a_compaction() {
    let rounds =
        std::env::var("KVQUORUM_KILL_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let mut numbers = Numbers::new(rounds);
    let expected: BTreeMap<_, _> = (0..MANY)
        .filter(|number| is_kept(*number))
        .map(|number| (one_of_many(number), entry(1, value(0, number))))
        .collect();
    // How long one takes, where nothing cuts it.
    let mut takes = None;
    let mut cut = 0;
    for round in 0..rounds {
        let mut child = start("the_process_that_compacts", directory.path());
        let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let mut next = || lines.next().map(Result::unwrap);
        assert_eq!(next().as_deref(), Some("begun"), "round {round}");
        let begun = Instant::now();
        let takes = *takes.get_or_insert_with(|| {
            assert_eq!(next().as_deref(), Some("ended"));
            let takes = begun.elapsed();
            assert_eq!(next().as_deref(), Some("begun"));
            takes
        });
        let micros = u64::try_from(takes.as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(numbers.below(micros.max(1))));
        drop(child);
        let was_cut = next().is_none();
        cut += u64::from(was_cut);
        let store = RedbStore::open(directory.path()).await.unwrap();
        let found: BTreeMap<_, _> = all(&store).await.unwrap().into_iter().collect();
        for (key, entry) in &expected {
            assert_eq!(found.get(key), Some(entry), "round {round}");
        }
        assert!(!was_cut || found.len() == expected.len(), "round {round}");
        store.compact().await.unwrap();
        store.close().await.unwrap();
    }
    println!("{rounds} kills, {cut} of them during a compaction, none lost");
    assert!(cut > 0);
}
