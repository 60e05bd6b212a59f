//! A file that may not grow: what a full disk does, made by a limit of the
//! system on the size of files.

#![cfg(unix)]

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use kvquorum_core::{Ack, Key, StoreError};
use kvquorum_redb::{RedbStore, RedbStoreError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::{Entries, all, cause, entry};

const DIRECTORY: &str = "KVQUORUM_FULL_DIRECTORY";
const LIMIT: u64 = 8 << 20;

fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1_000)
}

async fn merge(store: &RedbStore, number: u64) -> Result<Ack, StoreError> {
    let key = Key::from(number.to_string());
    store.merge(&key, entry(1, value(number))).await
}

/// How long a file may get that this process writes.
fn limit(bytes: Option<u64>) {
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, bytes.unwrap_or(hard), hard).unwrap();
}

/// Runs a test of this file in a process of its own, where what is not to be
/// written is an error and no signal. Returns what it said.
fn run(test: &str, directory: &Path) -> String {
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

/// Writes until the file may grow no more. Returns how many changes were acked.
async fn fill(store: &RedbStore) -> u64 {
    limit(Some(LIMIT));
    let mut acked = 0;
    let error = loop {
        match merge(store, acked).await {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(cause(&error), RedbStoreError::WriteFailed(_)),
        "{error}"
    );
    let error = merge(store, 0).await.unwrap_err();
    assert!(
        matches!(cause(&error), RedbStoreError::WritesRefused(_)),
        "{error}"
    );
    acked
}

/// Not a test of its own: the process that runs into the limit. It tells how
/// many changes were acked before.
#[tokio::test]
#[ignore = "it is run as a process of its own by another test"]
async fn the_process_that_runs_into_the_limit() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let store = RedbStore::create_new(directory).await.unwrap();
    let acked = fill(&store).await;
    // What is in memory is still read.
    let found = store.entry(&Key::from("0")).await.unwrap();
    assert_eq!(found, Some(entry(1, value(0))));
    eprintln!("acked {acked}");
}

/// Bugs: an ack of what found no room; a store that is damaged by it, or does
/// not open again.
#[tokio::test]
async fn a_disk_that_is_full_costs_only_what_was_not_acked() {
    let directory = tempfile::tempdir().unwrap();
    let said = run("the_process_that_runs_into_the_limit", directory.path());
    let acked = said.lines().find_map(|line| line.strip_prefix("acked "));
    let acked: u64 = acked.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(acked > 100, "{acked}");

    let store = RedbStore::open(directory.path()).await.unwrap();
    for number in 0..acked {
        let found = store.entry(&Key::from(number.to_string())).await.unwrap();
        assert_eq!(found, Some(entry(1, value(number))));
    }
    let held = all(&store).await.unwrap().len() as u64;
    assert!(held == acked || held == acked + 1, "{held} of {acked}");
    merge(&store, acked + 1).await.unwrap();
}

/// Not a test of its own: the process whose disk has room again.
#[tokio::test]
#[ignore = "it is run as a process of its own by another test"]
async fn the_process_whose_disk_has_room_again() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    let store = RedbStore::create_new(&directory).await.unwrap();
    let mut acked = 0;
    for _ in 0..3 {
        acked = fill(&store).await.max(acked);
        limit(None);
        // Room alone changes nothing: the store is told.
        assert!(merge(&store, 0).await.is_err());
        store.reopen().await.unwrap();
        for number in 0..acked {
            let found = store.entry(&Key::from(number.to_string())).await.unwrap();
            assert_eq!(found, Some(entry(1, value(number))));
        }
        // More than there was room for.
        for number in 0..acked + 100 {
            merge(&store, number).await.unwrap();
        }
        assert!(store.entry(&Key::from("0")).await.unwrap().is_some());
    }
    store.close().await.unwrap();
    eprintln!("went on after {acked}");
}

/// Bug: a store whose disk was full refuses writes until its process is started
/// again, whatever room there is.
#[tokio::test]
async fn a_disk_that_has_room_again_is_written_to_again() {
    let directory = tempfile::tempdir().unwrap();
    let said = run("the_process_whose_disk_has_room_again", directory.path());
    assert!(said.contains("went on after"), "{said}");
}

/// Not a test of its own: the process that finds no room to create a store.
#[tokio::test]
#[ignore = "it is run as a process of its own by another test"]
async fn the_process_that_creates_without_room() {
    let directory = std::env::var_os(DIRECTORY).unwrap();
    for room in (0..200_000).step_by(5_000) {
        let path = Path::new(&directory).join(room.to_string());
        limit(Some(room));
        let full = RedbStore::create_new(&path).await;
        limit(None);
        match full {
            // It came to nothing: it is done again.
            Err(_) => drop(RedbStore::create_new(&path).await.unwrap()),
            Ok(store) => store.close().await.unwrap(),
        }
        let store = RedbStore::open(&path).await.unwrap();
        assert!(all(&store).await.unwrap().is_empty());
        let how = if room == 0 { "without" } else { "with" };
        eprintln!("created {how} room");
    }
}

/// Bugs: a creation for which there was no room leaves what no store is created
/// over, or what passes for a whole one.
#[tokio::test]
async fn a_store_is_created_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let said = run("the_process_that_creates_without_room", directory.path());
    assert!(said.contains("created without room"), "{said}");
    assert!(said.contains("created with room"), "{said}");
}
