//! Opening and creating: again, twice at once, and whatever may be wrong with a
//! path.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use kvquorum_core::{Entry, Key};
use kvquorum_redb::{OpenError, RedbStore, RedbStoreError};
use redb::{Database, TableDefinition};
use support::{Entries, all, cause, entry, version};

/// Bug: entries or tombstones do not outlive the store.
#[tokio::test]
async fn a_store_opened_again_holds_what_it_held() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    let store = RedbStore::create_new(&path).await.unwrap();
    let expected = [
        (Key::from(""), entry(7, "the empty key")),
        (Key::from("a"), entry(9, "")),
        (Key::from("b"), Entry::tombstone(version(3))),
        (Key::from("c"), entry(5, vec![0xff; 3_000_000])),
    ];
    for (key, entry) in &expected {
        store.merge(key, entry.clone()).await.unwrap();
    }
    store.close().await.unwrap();
    for verify in [true, false] {
        let settings = RedbStore::builder().verify(verify);
        let store = settings.open(&path).await.unwrap();
        assert_eq!(all(&store).await.unwrap(), expected);
        for (key, entry) in &expected {
            assert_eq!(store.entry(key).await.unwrap().as_ref(), Some(entry));
        }
        // Dropped, not closed: opening it at once must find it let go.
    }
}

/// Bugs: two stores over one directory, in one process; a link to it makes it
/// another; the lock is all that keeps them apart, and someone removed it.
#[tokio::test]
async fn a_directory_is_held_by_one_store() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("store");
    let store = RedbStore::create_new(&directory).await.unwrap();
    let mut paths = vec![directory.clone()];
    #[cfg(unix)]
    {
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&directory, &link).unwrap();
        paths.push(link);
    }
    for lock_is_there in [true, false] {
        if !lock_is_there {
            fs::remove_file(directory.join("lock")).unwrap();
        }
        for path in &paths {
            for opened in [
                RedbStore::open(path).await,
                RedbStore::open_or_create(path).await,
            ] {
                let error = opened.unwrap_err();
                assert!(
                    matches!(&error, OpenError::Locked { path: named } if named == path),
                    "{error:?}"
                );
            }
        }
    }
    store.merge(&Key::from("k"), entry(1, "v")).await.unwrap();
    drop(store);
    RedbStore::open(&directory).await.unwrap();
}

fn file(directory: &Path) -> PathBuf {
    directory.join("entries.redb")
}

/// All names in a directory but the lock's.
fn names(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
    names.sort();
    names
}

async fn refused(directory: &Path) -> OpenError {
    let before = fs::read(file(directory)).unwrap();
    let error = RedbStore::open_or_create(directory).await.unwrap_err();
    assert_eq!(fs::read(file(directory)).unwrap(), before, "it was changed");
    assert!(!directory.join("created").exists(), "taken for ours");
    error
}

/// Bugs: what others wrote is taken for ours, or overwritten; an empty file is
/// taken for a new store, though only a loss makes one.
#[tokio::test]
async fn what_is_not_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for foreign in ["no database at all".repeat(1_000), "short".to_owned()] {
        fs::write(file(path), foreign).unwrap();
        let error = refused(path).await;
        assert!(
            matches!(error, OpenError::Foreign(_) | OpenError::Damaged(_)),
            "{error:?}"
        );
    }
    fs::write(file(path), "").unwrap();
    let error = refused(path).await;
    assert!(matches!(error, OpenError::Damaged(_)), "{error:?}");

    fs::remove_file(file(path)).unwrap();
    let database = Database::create(file(path)).unwrap();
    let writing = database.begin_write().unwrap();
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("theirs");
    writing.open_table(table).unwrap().insert(1, 2).unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = RedbStore::open(path).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign(_)), "{error:?}");

    fs::remove_file(file(path)).unwrap();
    fs::create_dir(file(path)).unwrap();
    let error = RedbStore::open_or_create(path).await.unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
}

/// Bug: files of another format, older ones included, are read as if they were
/// ours.
#[tokio::test]
async fn another_format_is_refused_by_its_number() {
    for other in [1, 3] {
        let directory = tempfile::tempdir().unwrap();
        drop(RedbStore::create_new(directory.path()).await.unwrap());
        let database = Database::create(file(directory.path())).unwrap();
        let writing = database.begin_write().unwrap();
        let meta: TableDefinition<'_, &str, u64> = TableDefinition::new("kvquorum.meta");
        let mut meta = writing.open_table(meta).unwrap();
        meta.insert("format", other).unwrap();
        drop(meta);
        writing.commit().unwrap();
        drop(database);
        let error = RedbStore::open(directory.path()).await.unwrap_err();
        let OpenError::UnknownFormat { found, known: 2 } = error else {
            panic!("{error:?}");
        };
        assert_eq!(found, other);
    }
}

/// Bugs: a store starts empty where one was to be opened, as where a disk is not
/// mounted; opening leaves something behind in a directory that is none of ours;
/// a store is created over another.
#[tokio::test]
async fn opening_and_creating_are_told_apart() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("store");
    for _ in ["no directory", "an empty directory"] {
        let error = RedbStore::open(&path).await.unwrap_err();
        assert!(
            matches!(&error, OpenError::Missing { path: named } if *named == path),
            "{error:?}"
        );
        assert!(!path.exists() || fs::read_dir(&path).unwrap().next().is_none());
        let _ = fs::create_dir(&path);
    }
    let store = RedbStore::create_new(&path).await.unwrap();
    store.merge(&Key::from("k"), entry(1, "v")).await.unwrap();
    store.close().await.unwrap();
    let error = RedbStore::create_new(&path).await.unwrap_err();
    assert!(matches!(error, OpenError::Exists { .. }), "{error:?}");
    for existing in [true, false] {
        let opened = match existing {
            true => RedbStore::open(&path).await,
            false => RedbStore::open_or_create(&path).await,
        };
        let store = opened.unwrap();
        assert_eq!(all(&store).await.unwrap().len(), 1);
        store.close().await.unwrap();
    }
}

/// Bugs: where the file of records is gone, or the link to it leads nowhere, an
/// empty store takes its place; so it does after a second try.
#[tokio::test]
async fn a_store_whose_records_are_gone_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    RedbStore::create_new(path).await.unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let moved = elsewhere.path().join("moved");
    fs::rename(file(path), &moved).unwrap();
    let are_lost = || async {
        for opened in [
            RedbStore::open(path).await,
            RedbStore::open_or_create(path).await,
        ] {
            let error = opened.unwrap_err();
            assert!(
                matches!(&error, OpenError::Lost { path: named } if named == path),
                "{error:?}"
            );
        }
        assert!(RedbStore::create_new(path).await.is_err());
    };
    are_lost().await;
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&moved, file(path)).unwrap();
        RedbStore::open(path).await.unwrap().close().await.unwrap();
        fs::rename(&moved, elsewhere.path().join("again")).unwrap();
        are_lost().await;
        fs::remove_file(file(path)).unwrap();
        fs::rename(elsewhere.path().join("again"), &moved).unwrap();
    }
    fs::rename(&moved, file(path)).unwrap();
    RedbStore::open(path).await.unwrap();
}

/// Bug: where someone brought the file of records alone, its loss after that goes
/// unseen.
#[tokio::test]
async fn records_that_were_brought_back_leave_the_trace_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    RedbStore::create_new(path).await.unwrap();
    fs::remove_file(path.join("created")).unwrap();
    // A leftover would be taken for an unfinished creation.
    fs::write(path.join("entries.redb.new"), "half").unwrap();
    let error = RedbStore::create_new(path).await.unwrap_err();
    assert!(matches!(error, OpenError::Exists { .. }), "{error:?}");
    RedbStore::open(path).await.unwrap();
    fs::remove_file(file(path)).unwrap();
    let error = RedbStore::open_or_create(path).await.unwrap_err();
    assert!(matches!(error, OpenError::Lost { .. }), "{error:?}");
}

/// Bugs: a crash while a store is created leaves a directory that no store
/// opens, or one that is not told from a store that lost its records.
#[tokio::test]
async fn a_creation_that_was_cut_short_is_done_again_or_finished() {
    type Open = fn(&Path) -> Pin<Box<dyn Future<Output = Result<RedbStore, OpenError>> + '_>>;
    let opens: [Open; 3] = [
        |path| Box::pin(RedbStore::create_new(path)),
        |path| Box::pin(RedbStore::open_or_create(path)),
        |path| Box::pin(RedbStore::open(path)),
    ];
    for open in opens {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let unfinished = path.join("entries.redb.new");
        RedbStore::create_new(path).await.unwrap();
        // Before the last step, which gives the file its name.
        fs::rename(file(path), &unfinished).unwrap();
        open(path).await.unwrap();
        assert_eq!(names(path), ["created", "entries.redb"]);

        // Before the trace. Only what creates may go on from there.
        fs::remove_file(file(path)).unwrap();
        fs::remove_file(path.join("created")).unwrap();
        fs::write(&unfinished, "half").unwrap();
        match open(path).await {
            Ok(_) => assert_eq!(names(path), ["created", "entries.redb"]),
            Err(error) => {
                assert!(matches!(error, OpenError::Missing { .. }), "{error:?}");
                let created = RedbStore::open_or_create(path).await.unwrap();
                assert!(all(&created).await.unwrap().is_empty());
            }
        }
    }
}

/// Bugs: an error that names neither what is wrong nor where; a link that leads
/// nowhere is taken for a directory that is missing, and replaced.
#[cfg(unix)]
#[tokio::test]
async fn a_path_that_is_no_directory_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let not_a_directory = root.path().join("file");
    fs::write(&not_a_directory, "").unwrap();
    let nowhere = root.path().join("link");
    std::os::unix::fs::symlink(root.path().join("nowhere"), &nowhere).unwrap();
    for wrong in [&not_a_directory, &nowhere] {
        for path in [wrong.clone(), wrong.join("store")] {
            for opened in [
                RedbStore::create_new(&path).await,
                RedbStore::open_or_create(&path).await,
            ] {
                let error = opened.unwrap_err();
                let OpenError::Io { path: named, .. } = &error else {
                    panic!("{error:?}");
                };
                assert!(path.starts_with(named), "{error:?}");
            }
            let error = RedbStore::open(&path).await.unwrap_err();
            assert!(
                matches!(error, OpenError::Io { .. } | OpenError::Missing { .. }),
                "{error:?}"
            );
        }
    }
    assert!(!root.path().join("nowhere").exists());
    let through = root.path().join("through");
    std::os::unix::fs::symlink(root.path(), &through).unwrap();
    RedbStore::create_new(through.join("a/b")).await.unwrap();
    RedbStore::open(root.path().join("a/b")).await.unwrap();
}

/// Bug: changes are acked though the file that they are written to was removed,
/// and nothing will find them again.
#[cfg(unix)]
#[tokio::test]
async fn what_was_removed_acks_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("store");
    let store = RedbStore::create_new(&path).await.unwrap();
    let key = Key::from("k");
    store.merge(&key, entry(1, "v")).await.unwrap();
    fs::remove_dir_all(&path).unwrap();
    let error = store.merge(&key, entry(2, "v")).await.unwrap_err();
    assert!(
        matches!(cause(&error), RedbStoreError::WriteFailed(_)),
        "{error:?}"
    );
    let error = store.reopen().await.unwrap_err();
    let RedbStoreError::ReopenFailed(error) = error else {
        panic!("{error:?}");
    };
    assert!(matches!(*error, OpenError::Lost { .. }), "{error:?}");
    let error = store.entry(&key).await.unwrap_err();
    assert!(
        matches!(cause(&error), RedbStoreError::ReopenFailed(_)),
        "{error:?}"
    );
}

/// Bugs: a file that was renamed, removed beside another link to it, or replaced, is
/// written to and acked, and nothing will find that by its name; the store is opened
/// again on what was put in its place; it is not once the file is brought back.
#[cfg(unix)]
#[tokio::test]
async fn what_is_not_found_by_its_name_acks_nothing() {
    type Lose = fn(&Path, &Path) -> std::io::Result<()>;
    let losses: [Lose; 3] = [
        |file, kept| fs::rename(file, kept),
        |file, kept| {
            fs::hard_link(file, kept)?;
            fs::remove_file(file)
        },
        |file, kept| {
            fs::hard_link(file, kept)?;
            fs::copy(kept, file.with_extension("copy"))?;
            fs::rename(file.with_extension("copy"), file)
        },
    ];
    for (case, lose) in losses.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let (path, kept) = (directory.path(), directory.path().join("kept"));
        let store = RedbStore::create_new(path).await.unwrap();
        let key = Key::from("k");
        store.merge(&key, entry(1, "v")).await.unwrap();
        lose(&file(path), &kept).unwrap();
        let merged = store.merge(&key, entry(2, "v")).await;
        let error = merged.expect_err(&format!("case {case}"));
        assert!(
            matches!(cause(&error), RedbStoreError::WriteFailed(_)),
            "{error:?}"
        );
        let error = store.reopen().await.unwrap_err();
        let RedbStoreError::ReopenFailed(error) = error else {
            panic!("{error:?}");
        };
        assert!(
            matches!(&*error, OpenError::Lost { path: named } if named == path),
            "{error:?}"
        );
        fs::rename(&kept, file(path)).unwrap();
        store.reopen().await.unwrap();
        let found = store.entry(&key).await.unwrap();
        assert!(found.is_some_and(|found| found.version >= version(1)));
        store.merge(&key, entry(3, "v")).await.unwrap();
    }
}

/// Bug: one entry that the engine does not take fails the commit, and with it
/// the store.
#[tokio::test]
async fn an_entry_that_is_too_large_is_refused_by_itself() {
    let directory = tempfile::tempdir().unwrap();
    let store = RedbStore::create_new(directory.path()).await.unwrap();
    let key = Key::from("k");
    let error = store
        .merge(&key, entry(2, vec![0; 1 << 30]))
        .await
        .unwrap_err();
    let RedbStoreError::TooLarge { .. } = cause(&error) else {
        panic!("{error:?}");
    };
    store.merge(&key, entry(1, "v")).await.unwrap();
}
