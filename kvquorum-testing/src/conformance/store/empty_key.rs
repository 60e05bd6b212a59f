//! Changes of the empty key, beside others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kvquorum_core::{Change, Entry, Key, Record, ScanLimit, Store};
use tokio::sync::Notify;

use super::super::futures::{ended, joined};
use super::super::samples::value;
use super::super::shown::{Named, Shown};
use super::{ALL, EMPTY_KEY, Subject};

/// How many times it is tried, each with further keys.
const ROUNDS: u64 = 16;

/// How many changes are under way, the greater of which take the longer.
const RACERS: u64 = 6;

/// Once changes are being decided, the empty key is changed; then they are to be seen.
pub(super) async fn run<S: Store>(store: S) {
    let store = Subject::new(store);
    let own = Key::from("");
    for round in 0..ROUNDS {
        let begun = Arc::new((AtomicUsize::new(0), Notify::new()));
        let entries: Vec<(Key, Entry)> = (0..RACERS)
            .map(|racer| {
                let key = Key::from(format!("{round} {racer}"));
                let bytes = vec![b'x'; 1 << (3 * racer)];
                (key, value(round, racer, bytes))
            })
            .collect();
        let changing = entries.iter().cloned().map(|(key, entry)| {
            let (store, begun) = (store.clone(), Arc::clone(&begun));
            tokio::spawn(async move {
                let tells = Change::write(entry).telling(move || {
                    begun.0.fetch_add(1, Ordering::SeqCst);
                    begun.1.notify_one();
                });
                store.apply(&key, tells).await;
            })
        });
        let changing: Vec<_> = changing.collect();
        let all_begun = async {
            while begun.0.load(Ordering::SeqCst) < entries.len() {
                begun.1.notified().await;
            }
        };
        ended(&EMPTY_KEY, "the decisions of changes", all_begun).await;
        store.write(&own, &value(round, 0, "marks")).await;
        for (key, entry) in &entries {
            seen(&store, key, entry).await;
        }
        for change in changing {
            joined(change).await;
        }
    }
}

async fn seen<S: Store>(store: &Subject<S>, key: &Key, entry: &Entry) {
    let page = store.walk(ALL, ScanLimit::NONE).await;
    let scanned = page.into_iter().find(|(found, _)| found == key);
    let scanned = scanned.map(|(_, record)| record);
    let got = store.get(key).await;
    for found in [scanned, got] {
        EMPTY_KEY.require(
            found.as_ref().and_then(Record::entry).as_ref() == Some(entry),
            format_args!(
                "{} holds {} after a change under the empty key has returned; a write of {} \
                 was being decided before it",
                Named(key),
                Shown::record(found.as_ref()),
                Shown::entry(Some(entry)),
            ),
        );
    }
}
