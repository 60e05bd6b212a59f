//! Each thing that is counted moves when it happens.

#![allow(clippy::float_cmp, reason = "a test, which counts to few")]

use kvquorum_core::{Change, Entry, Key, Store, Timestamp, Version, WriterId};
use kvquorum_redb::RedbStore;
use kvquorum_testing::Recorded;
use tokio::runtime::Builder;

fn write(value: &'static str) -> Change<'static> {
    let timestamp = Timestamp::from_bits(7);
    let writer = WriterId::new(1);
    Change::write(Entry::new(Version { timestamp, writer }, value))
}

/// Bugs: a change, a commit, a backup or a failure is not counted, or twice; a
/// commit is not timed; something has no description.
#[test]
fn what_a_store_does_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    let path = directory.path().join("store");
    let open = || runtime.block_on(RedbStore::create_new(&path)).unwrap();
    let (store, recorded) = Recorded::of(open);
    let sum = |name: &str| recorded.sum(&format!("kvquorum_redb_{name}"), &[]);
    let failures = |kind| recorded.sum("kvquorum_redb_failures_total", &[("kind", kind)]);
    let backups = |outcome| recorded.sum("kvquorum_redb_backups_total", &[("outcome", outcome)]);
    runtime.block_on(async {
        let (a, b) = (Key::from("a"), Key::from("b"));
        let (first, second) = tokio::join!(
            store.apply(&a, write("value")),
            store.apply(&b, write("value"))
        );
        first.unwrap();
        second.unwrap();
        // Nothing is left to be committed.
        store.apply(&a, write("value")).await.unwrap();
        assert_eq!(sum("changes_total"), 3.0);
        let commits = sum("commits_total");
        assert!(commits == 1.0 || commits == 2.0, "{commits}");
        let timed = recorded.all("kvquorum_redb_commit_duration_seconds", &[]);
        assert_eq!(timed.len() as f64, commits);
        let groups = recorded.all("kvquorum_redb_commit_changes", &[]);
        assert_eq!(groups.iter().sum::<f64>(), 3.0);
        let written = sum("written_bytes_total");
        assert!((2.0 * 6.0..200.0).contains(&written), "{written}");

        store.backup(directory.path().join("copy")).await.unwrap();
        store
            .backup(directory.path().join("copy"))
            .await
            .unwrap_err();
        assert_eq!((backups("ok"), backups("failed")), (1.0, 1.0));

        std::fs::remove_file(path.join("entries.redb")).unwrap();
        store.apply(&a, Change::write(newer())).await.unwrap_err();
        assert_eq!((failures("write"), failures("read")), (1.0, 0.0));
        store.check().await.unwrap_err();
        let _ = store.close().await;
        store.get(&a).await.unwrap_err();
    });
    for (name, is_described) in recorded.names() {
        assert!(is_described, "{name}");
    }
}

/// Bug: a record that cannot be read any more goes unnoticed.
#[test]
fn reads_that_fail_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = Builder::new_current_thread().build().unwrap();
    let path = directory.path().join("store");
    let key = Key::from("k");
    let value = "a value that is not seen twice in a file";
    runtime.block_on(async {
        let store = RedbStore::create_new(&path).await.unwrap();
        store.apply(&key, write(value)).await.unwrap();
        store.close().await.unwrap();
    });
    let file = path.join("entries.redb");
    let mut bytes = std::fs::read(&file).unwrap();
    let mut windows = bytes.windows(value.len());
    let at = windows.position(|it| it == value.as_bytes()).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let open = || runtime.block_on(RedbStore::builder().verify(false).open(&path));
    let (store, recorded) = Recorded::of(open);
    let store = store.unwrap();
    runtime.block_on(store.get(&key)).unwrap_err();
    let failed = recorded.sum("kvquorum_redb_failures_total", &[("kind", "read")]);
    assert_eq!(failed, 1.0);
    runtime.block_on(store.close()).unwrap();
}

fn newer() -> Entry {
    let timestamp = Timestamp::from_bits(8);
    let writer = WriterId::new(1);
    Entry::new(Version { timestamp, writer }, "newer")
}
