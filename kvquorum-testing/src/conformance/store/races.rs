//! Changes that race.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvquorum_core::{Ack, Change, Entry, Key, Record, Response, Store, Timestamp, Version};
use tokio::sync::Barrier;
use tokio::task::yield_now;

use super::super::futures::{as_tasks, on_threads, polled, together};
use super::super::samples::{tombstone, value};
use super::super::shown::{Named, Shown};
use super::{ATOMIC, DROPPED, RESPONSE, SEES, Subject};

/// Writes that race under one key.
struct WriteRace<S> {
    store: Subject<S>,
    key: Key,
    /// All racers start at once.
    start: Barrier,
    /// The greatest timestamp whose write has returned.
    returned: AtomicU64,
}

impl<S: Store> WriteRace<S> {
    fn new(store: &Subject<S>, key: impl Into<Key>, racers: usize) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            key: key.into(),
            start: Barrier::new(racers),
            returned: AtomicU64::new(0),
        })
    }

    /// Writes, and looks at once whether the store shows this entry, and all
    /// others whose writes have returned, or a greater one.
    async fn write(&self, entry: Entry) -> (Entry, Ack) {
        let (key, timestamp) = (&self.key, entry.version.timestamp.to_bits());
        let ack = match self.store.write(key, &entry).await {
            Response::Ack(ack) => ack,
            other => RESPONSE.broken(format_args!("a write was answered by {other:?}")),
        };
        let returned = self.returned.fetch_max(timestamp, Ordering::SeqCst);
        let found = self.store.get(key).await.and_then(Record::into_entry);
        let latest = found
            .as_ref()
            .map(|found| found.version.timestamp.to_bits());
        SEES.require(
            found.as_ref() >= Some(&entry) && latest >= Some(returned),
            format_args!(
                "{} holds {} after a write of {} was answered {ack:?}, and one of \
                 timestamp {} had returned",
                Named(key),
                Shown::entry(found.as_ref()),
                Shown::entry(Some(&entry)),
                Timestamp::from_bits(returned),
            ),
        );
        (entry, ack)
    }

    /// Every ack is consistent with one serial order, in which the applied
    /// entries come by size, and each superseded one at once after the entry that
    /// it names.
    async fn require_serial(&self, acks: &[(Entry, Ack)]) {
        let last = self.store.get(&self.key).await;
        let greatest = acks.iter().map(|(entry, _)| entry).max();
        ATOMIC.require(
            last.as_ref().and_then(Record::entry).as_ref() == greatest,
            format_args!(
                "{} holds {} after {} concurrent writes, the greatest of which was {}",
                Named(&self.key),
                Shown::record(last.as_ref()),
                acks.len(),
                Shown::entry(greatest),
            ),
        );
        // By version, the greatest that was applied.
        let mut applied: BTreeMap<Version, &Entry> = BTreeMap::new();
        for (entry, ack) in acks {
            if *ack == Ack::Applied {
                let greatest = applied.entry(entry.version).or_insert(entry);
                *greatest = entry.max(greatest);
            }
        }
        RESPONSE.require(
            applied.last_entry().map(|last| *last.get()) == greatest,
            format_args!(
                "no write of the greatest, {}, was applied",
                Shown::entry(greatest)
            ),
        );
        for (entry, ack) in acks {
            let Ack::Superseded { by } = ack else {
                continue;
            };
            RESPONSE.require(
                applied.get(by).is_some_and(|other| *other > entry),
                format_args!(
                    "a concurrent write of {} was superseded by {by}, which is no greater \
                     entry that was applied",
                    Shown::entry(Some(entry)),
                ),
            );
        }
    }
}

/// A race of threads ends after this many writes by each,
const RACES: usize = 5_000;
/// or after this long.
const RACE_TIME: Duration = Duration::from_millis(300);

pub(super) async fn concurrent<S: Store>(store: S) {
    const ENTRIES: u64 = 48;
    let store = Subject::new(store);
    let ascending: Vec<Entry> = (0..ENTRIES)
        .map(|number| match number % 3 {
            // The three of a kind have one version.
            0 => tombstone(number / 3, 1),
            other => value(number / 3, 1, vec![other.to_le_bytes()[0]]),
        })
        .collect();
    let descending: Vec<Entry> = ascending.iter().rev().cloned().collect();
    // Every seventh, round and round: 7 and 48 have no common divisor.
    let mixed: Vec<Entry> = (0..ascending.len())
        .filter_map(|number| ascending.get(number * 7 % ascending.len()).cloned())
        .collect();

    // All in one task, for stores that yield between their steps: there the
    // others come in between on every run.
    for (number, order) in [ascending, descending, mixed].into_iter().enumerate() {
        let race = WriteRace::new(&store, format!("together {number}"), order.len());
        let acks = together(order.into_iter().map(|entry| race.write(entry))).await;
        race.require_serial(&acks).await;
    }

    // Threads that race, for stores that do not. How often they meet is up to
    // chance: as many writes as a slow store allows.
    let race = WriteRace::new(&store, "threads", 4);
    let timestamps = Arc::new(AtomicU64::new(0));
    let racer = |number: u64| {
        let (race, timestamps) = (Arc::clone(&race), Arc::clone(&timestamps));
        async move {
            race.start.wait().await;
            let start = Instant::now();
            let mut acks = Vec::new();
            while acks.len() < RACES && start.elapsed() < RACE_TIME {
                // One number for two threads now and then, so that some
                // writes tie.
                let timestamp = timestamps.fetch_add(1, Ordering::Relaxed) / 2;
                let entry = match timestamp % 3 {
                    0 => tombstone(timestamp, 1),
                    _ => value(timestamp, 1, number.to_string()),
                };
                acks.push(race.write(entry).await);
            }
            acks
        }
    };
    let acks = on_threads((0..4).map(racer)).await.concat();
    race.require_serial(&acks).await;
}

/// Callers that have a key each see exactly their own changes.
pub(super) async fn own_keys<S: Store>(store: S) {
    let store = Subject::new(store);
    let writer = |number: u64| {
        let store = store.clone();
        async move {
            let key = Key::from(format!("own {number}"));
            let when = "after the only changes of it, while other keys were changed";
            for timestamp in (1..=32).rev() {
                let entry = value(timestamp, number, format!("{number}: {timestamp}"));
                let response = store.write(&key, &entry).await;
                RESPONSE.require(
                    response == Response::Ack(Ack::Applied),
                    format_args!("the only writer of {} got {response:?}", Named(&key)),
                );
                // Let the others write in between.
                yield_now().await;
                let record = Record::from(entry);
                store.expect(&SEES, &key, Some(&record), when).await;
                // The next entry is a lesser one.
                store.apply(&key, Change::remove()).await;
                yield_now().await;
                store.expect(&SEES, &key, None, when).await;
            }
        }
    };
    as_tasks((0..16).map(writer)).await;
    on_threads((16..20).map(writer)).await;
}

pub(super) async fn dropped<S: Store>(store: S) {
    let store = Subject::new(store);
    for polls in 0..16 {
        let key = Key::from(format!("dropped after {polls}"));
        let (old, new) = (value(1, 1, "old"), value(2, 1, "new"));
        store.write(&key, &old).await;
        let ended = polled(polls, store.store.apply(&key, Change::write(new.clone()))).await;
        // The store may still be at it: look more than once.
        for _ in 0..4 {
            let found = store.get(&key).await.and_then(Record::into_entry);
            let expected = found.as_ref() == Some(&new) || (!ended && found.as_ref() == Some(&old));
            DROPPED.require(
                expected,
                format_args!(
                    "a write of {} over {} was dropped after {polls} polls, and left {}",
                    Shown::entry(Some(&new)),
                    Shown::entry(Some(&old)),
                    Shown::entry(found.as_ref()),
                ),
            );
            yield_now().await;
        }
        let newer = value(3, 1, "newer");
        store.write(&key, &newer).await;
        let newer = Record::from(newer);
        for _ in 0..4 {
            let when = "after a dropped write, and a greater one that ended";
            store.expect(&DROPPED, &key, Some(&newer), when).await;
            yield_now().await;
        }
    }
}
