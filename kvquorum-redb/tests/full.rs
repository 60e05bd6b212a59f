//! A file that may not grow: what a full disk does, made by a limit of the
//! system on the size of files.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test"
)]

mod support;

use std::process::{Command, Stdio};

use kvquorum_core::{Key, Store};
use kvquorum_redb::{RedbStore, RedbStoreError};
use support::{all, cause, entry};

const DIRECTORY: &str = "KVQUORUM_FULL_DIRECTORY";

fn value(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(1_000)
}

/// Not a test of its own: the process that runs into the limit. It tells how
/// many merges were acked before.
#[tokio::test]
async fn the_process_that_runs_into_the_limit() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let store = RedbStore::open(directory).await.unwrap();
    let mut acked = 0;
    let error = loop {
        let key = Key::from(acked.to_string());
        match store.merge(&key, entry(1, value(acked))).await {
            Ok(_) => acked += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(cause(&error), RedbStoreError::WriteFailed(_)),
        "{error}"
    );
    let key = Key::from("0");
    let error = store.merge(&key, entry(2, "")).await.unwrap_err();
    assert!(
        matches!(cause(&error), RedbStoreError::WritesRefused(_)),
        "{error}"
    );
    // What is in memory is still read.
    assert_eq!(store.get(&key).await.unwrap(), Some(entry(1, value(0))));
    eprintln!("acked {acked}");
}

/// Bugs: an ack of what found no room; a store that is damaged by it, or does
/// not open again.
#[tokio::test]
async fn a_disk_that_is_full_costs_only_what_was_not_acked() {
    let directory = tempfile::tempdir().unwrap();
    // 8 MiB, in units of 512 bytes; and no signal, but an error.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 16384; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_process_that_runs_into_the_limit",
            "--nocapture",
        ])
        .env(DIRECTORY, directory.path())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let acked = said.lines().find_map(|line| line.strip_prefix("acked "));
    let acked: u64 = acked.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(acked > 100, "{acked}");

    let store = RedbStore::open(directory.path()).await.unwrap();
    for number in 0..acked {
        let found = store.get(&Key::from(number.to_string())).await.unwrap();
        assert_eq!(found, Some(entry(1, value(number))));
    }
    let held = all(&store).await.unwrap().len() as u64;
    assert!(held == acked || held == acked + 1, "{held} of {acked}");
    store
        .merge(&Key::from("after"), entry(1, "v"))
        .await
        .unwrap();
}
