//! A store by a relative path. It is alone here: it changes the directory of its
//! process.

mod support;

use std::path::Path;

use kvquorum_core::Key;
use kvquorum_redb::{OpenError, RedbStore};
use support::{Entries, entry};

/// Bug: where the process goes to another directory, the store is looked for there,
/// and is lost, or another.
#[tokio::test]
async fn a_relative_path_stays_where_it_was() {
    let directories = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [first, second] = &directories;
    std::env::set_current_dir(first.path()).unwrap();
    let store = RedbStore::create_new("store").await.unwrap();
    let key = Key::from("k");
    store.merge(&key, entry(1, "v")).await.unwrap();
    let error = RedbStore::open("store").await.unwrap_err();
    assert!(
        matches!(&error, OpenError::Locked { path } if path == Path::new("store")),
        "{error:?}"
    );
    std::env::set_current_dir(second.path()).unwrap();
    RedbStore::create_new("store").await.unwrap();
    store.merge(&key, entry(2, "v")).await.unwrap();
    store.reopen().await.unwrap();
    let found = store.entry(&key).await.unwrap();
    assert_eq!(found, Some(entry(2, "v")));
    // So that they can be removed.
    std::env::set_current_dir("/").unwrap();
}
