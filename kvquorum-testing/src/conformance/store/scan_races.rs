//! Scans that race changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvquorum_core::{Change, Entry, Key, Record, ScanLimit, Store};
use tokio::task::yield_now;

use super::super::futures::{joined, on_threads};
use super::super::samples::value;
use super::super::shown::{Named, Shown};
use super::{ALL, COMPLETE, ONCE, Subject, require_ascending};

pub(super) async fn run<S: Store>(store: S) {
    let store = Subject::new(store);
    // As tasks, for stores that yield between their steps; then on threads.
    // The changes come second, so that the first scan begins before them.
    let race = ScanRace::new(&store).await;
    let scanning = tokio::spawn(Arc::clone(&race).scan());
    let changing = tokio::spawn(race.change());
    joined(scanning).await;
    joined(changing).await;

    for number in 0..ScanRace::<S>::KEYS {
        let key = ScanRace::<S>::key(number);
        store.apply(&key, Change::remove()).await;
    }
    let race = ScanRace::new(&store).await;
    let changing = on_threads([Arc::clone(&race).change()]);
    let scanning = tokio::spawn(race.scan());
    changing.await;
    joined(scanning).await;
}

/// What becomes of a key during a race.
enum Fate {
    /// It is there throughout.
    Stays,
    /// It is written for the first time in this round, and is there from then on.
    Comes(u64),
    /// It is removed in each round, and written again.
    ComesAndGoes,
}

struct ScanRace<S> {
    store: Subject<S>,
    /// How many rounds of changes are over.
    rounds: AtomicU64,
}

impl<S: Store> ScanRace<S> {
    const KEYS: u64 = 96;
    const ROUNDS: u64 = 6;

    async fn new(store: &Subject<S>) -> Arc<Self> {
        let race = Self {
            store: store.clone(),
            rounds: AtomicU64::new(0),
        };
        for number in 0..Self::KEYS {
            if !matches!(Self::fate(number), Fate::Comes(_)) {
                race.write(number, 0).await;
            }
        }
        Arc::new(race)
    }

    fn fate(number: u64) -> Fate {
        match number % 4 {
            1 => Fate::Comes(number / 4 % Self::ROUNDS + 1),
            3 => Fate::ComesAndGoes,
            _ => Fate::Stays,
        }
    }

    fn key(number: u64) -> Key {
        Key::from(format!("key {number:04}"))
    }

    fn entry(number: u64, round: u64) -> Entry {
        value(round, 1, format!("{number} {round}"))
    }

    async fn write(&self, number: u64, round: u64) {
        let entry = Self::entry(number, round);
        self.store.write(&Self::key(number), &entry).await;
    }

    async fn change(self: Arc<Self>) {
        for round in 1..=Self::ROUNDS {
            // From the end, so that a new key moves those before which it is.
            for number in (0..Self::KEYS).rev() {
                match Self::fate(number) {
                    Fate::Comes(first) if first > round => continue,
                    Fate::ComesAndGoes => {
                        let key = Self::key(number);
                        self.store.apply(&key, Change::remove()).await;
                        yield_now().await;
                    }
                    _ => {}
                }
                self.write(number, round).await;
                yield_now().await;
            }
            self.rounds.store(round, Ordering::SeqCst);
        }
    }

    async fn scan(self: Arc<Self>) {
        let limits = [
            ScanLimit::NONE,
            ScanLimit::keys(7),
            ScanLimit::keys(usize::MAX).with_max_bytes(500),
        ];
        for limit in limits.iter().cycle() {
            // What was over before the walk is in it. The last walk begins after
            // the last change.
            let over = self.rounds.load(Ordering::SeqCst);
            let walked = self.store.walk(ALL, *limit).await;
            Self::require_sound(walked, over);
            if over == Self::ROUNDS {
                return;
            }
            yield_now().await;
        }
    }

    /// What a walk found that began after so many rounds.
    fn require_sound(walked: Vec<(Key, Record)>, over: u64) {
        require_ascending(&walked, "a walk during changes");
        let found: BTreeMap<_, _> = walked.into_iter().collect();
        for number in 0..Self::KEYS {
            let key = Self::key(number);
            let found = found.get(&key);
            let (first, is_there) = match Self::fate(number) {
                Fate::Comes(first) => (first.max(over), first <= over),
                Fate::Stays => (over, true),
                Fate::ComesAndGoes => (over, over == Self::ROUNDS),
            };
            COMPLETE.require(
                found.is_some() || !is_there,
                format_args!("a walk during changes left out {}", Named(&key)),
            );
            let mut held = (first..=Self::ROUNDS).map(|round| Self::entry(number, round));
            ONCE.require(
                found.is_none_or(|found| held.any(|held| Some(held) == found.entry())),
                format_args!(
                    "a walk that began after {over} rounds of changes returned {} with {}, \
                     which it did not hold any more, or never did",
                    Named(&key),
                    Shown::record(found),
                ),
            );
        }
    }
}
