//! Files that were cut off, or have changed.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kvquorum_core::{Entry, Key};
use kvquorum_redb::{OpenError, RedbStore, RedbStoreError};
use support::{Disk, Entries, Numbers, all, cause, entry, version};

/// How many cases, unless `KVQUORUM_DAMAGE_CASES` tells.
const CASES: u64 = 300;

const KEYS: u64 = 200;

/// What was ever written under each key, the last of it last.
type Written = BTreeMap<Key, Vec<Entry>>;

/// A file that was closed, and the same as a crash would have left it.
async fn files() -> (Written, [Vec<u8>; 2]) {
    let disk = Disk::default();
    let store = RedbStore::builder().open_on(disk.backend()).await.unwrap();
    let mut numbers = Numbers::new(1);
    let mut written = Written::new();
    for round in 1..=3 {
        for number in 0..KEYS {
            let key = Key::from(format!("key {number}"));
            let len = usize::try_from(numbers.below(200)).unwrap();
            let entry = match number % 20 {
                0 => Entry::tombstone(version(round)),
                1 => entry(round, numbers.bytes(6_000)),
                _ => entry(round, numbers.bytes(len)),
            };
            store.merge(&key, entry.clone()).await.unwrap();
            written.entry(key).or_default().push(entry);
        }
    }
    let crashed = disk.bytes();
    store.close().await.unwrap();
    (written, [disk.bytes(), crashed])
}

fn damage(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    let mut place = |len: usize| usize::try_from(numbers.below(len as u64)).unwrap();
    match place(8) {
        // A byte more or less is a case of its own.
        0 => {
            let len = place(bytes.len());
            bytes.truncate(len);
        }
        1 => {
            let start = place(bytes.len()) / 512 * 512;
            let end = (start + 512).min(bytes.len());
            bytes[start..end].fill(0);
        }
        // The engine's header, where little is checked by itself.
        2 | 3 => bytes[place(512)] ^= 1 << place(8),
        flips => {
            for _ in 3..flips {
                let at = place(bytes.len());
                bytes[at] ^= 1 << place(8);
            }
        }
    }
}

/// The engine's own panics are caught: not a word of them. Those of these tests
/// are failures, and are told.
fn without_the_engines_panics() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let tests = Path::new(file!()).parent().unwrap();
        let place = panic.location().unwrap().file();
        if Path::new(place).starts_with(tests) {
            tell(panic);
        }
    }));
}

/// Bugs: a panic; a changed value served; a key under which another's entry
/// lies; entries gone without a word from a file that was closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_refused_or_serves_what_was_written() {
    without_the_engines_panics();
    let (written, files) = files().await;
    let cases =
        std::env::var("KVQUORUM_DAMAGE_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let mut refused = 0;
    let mut served = 0;
    let mut hidden = 0;
    for case in 0..cases {
        let mut numbers = Numbers::new(case);
        let closed = case % 2 == 0;
        let verify = case / 2 % 2 == 0;
        let mut bytes = files[usize::from(!closed)].clone();
        damage(&mut bytes, &mut numbers);
        let disk = Disk::holding(bytes);
        let settings = RedbStore::builder().verify(verify);
        let store = match settings.open_on(disk.backend()).await {
            Ok(store) => store,
            Err(error) => {
                let known = matches!(
                    error,
                    OpenError::Damaged(_) | OpenError::Foreign(_) | OpenError::UnknownFormat { .. }
                );
                assert!(known, "case {case}: {error:?}");
                refused += 1;
                continue;
            }
        };
        served += 1;
        let mut absent = 0;
        for (key, entries) in &written {
            match store.entry(key).await {
                Ok(None) => absent += 1,
                Ok(Some(found)) => {
                    assert!(
                        entries.contains(&found),
                        "case {case}: never written under {key}"
                    );
                    let last = entries.last() == Some(&found);
                    // A crash takes the last commit with it, where that is damaged.
                    assert!(last || !closed || !verify, "case {case}: an older entry");
                }
                Err(error) => match cause(&error) {
                    RedbStoreError::Damaged { key: named } => {
                        assert_eq!(named, key);
                        assert!(!verify, "case {case}: not seen when it was opened");
                    }
                    RedbStoreError::ReadFailed(_) => {}
                    other => panic!("case {case}: {other}"),
                },
            }
        }
        hidden += absent;
        assert!(
            absent == 0 || !verify,
            "case {case}: {absent} entries are gone"
        );
        if let Ok(found) = all(&store).await {
            let known = |key, entry| written.get(key).is_some_and(|all| all.contains(entry));
            let keys: BTreeSet<_> = found.iter().map(|(key, _)| key).collect();
            assert!(
                found.iter().all(|(key, entry)| known(key, entry)),
                "case {case}"
            );
            assert!(keys.len() == written.len() || !verify, "case {case}");
        }
        // It may fail, in its own words.
        for key in written.keys().take(50) {
            if let Err(error) = store.merge(key, entry(9, "new")).await {
                let _ = cause(&error);
            }
        }
        let _ = store.close().await;
    }
    println!("{cases} cases: {refused} refused, {served} opened, {hidden} keys hidden");
    assert!(refused > cases / 4 && served > cases / 10);
}
