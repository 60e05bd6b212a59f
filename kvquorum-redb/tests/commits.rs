//! What a commit takes.

mod support;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use kvquorum_core::{Change, Key, Response, Store};
use kvquorum_redb::RedbStore;
use support::{Disk, Entries, entry, version};
use tokio::task::spawn_blocking;

/// Bug: the entries that promises tell are in memory until their commit is made, and
/// are not counted where the ballot was promised before.
#[tokio::test(flavor = "multi_thread")]
async fn what_promises_tell_counts_for_a_commit() {
    const ROUNDS: u64 = 4;
    let disk = Disk::default();
    let settings = RedbStore::builder().max_commit(100_000);
    let store = Arc::new(settings.open_on(disk.backend()).await.unwrap());
    let large = Key::from("large");
    let told = entry(1, vec![1; 100_000]);
    store.merge(&large, told.clone()).await.unwrap();
    let promise = || Change::prepare(version(2));
    store.apply(&large, promise()).await.unwrap();

    disk.hold_syncs();
    let first = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.merge(&Key::from("first"), entry(1, "v")).await })
    };
    let held = disk.clone();
    spawn_blocking(move || held.until_a_sync_waits())
        .await
        .unwrap();
    let before = store.stats().commits;
    // Something is written beside each promise, so that its commit is made.
    let changes = (0..ROUNDS).flat_map(|round| {
        let write = Change::write(entry(1, "v"));
        [
            (Key::from(round.to_string()), write),
            (large.clone(), promise()),
        ]
    });
    let applied = changes.map(|(key, change)| {
        let store = Arc::clone(&store);
        Box::pin(async move { store.apply(&key, change).await })
    });
    let mut applied: Vec<_> = applied.collect();
    poll_fn(|cx| {
        for change in &mut applied {
            assert!(Pin::new(change).poll(cx).is_pending());
        }
        Poll::Ready(())
    })
    .await;
    disk.let_syncs_go();
    first.await.unwrap().unwrap();
    for (place, change) in applied.into_iter().enumerate() {
        let response = change.await.unwrap();
        if place % 2 == 1 {
            assert_eq!(response, Response::Promise(Some(told.clone()).into()));
        }
    }
    // The first is one that was under way.
    assert_eq!(store.stats().commits - before, 1 + ROUNDS);
}
