//! The suite for stores.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Barrier;
use tokio::task::{spawn_blocking, yield_now};

use super::{
    Clause, Named, Shown, Turns, awkward_keys, check, joined, polled, together, tombstone, value,
};
use crate::entry::{Entry, Key, Timestamp, Version};
use crate::store::{Merged, Store, StoreError};

const GREATEST: Clause = Clause {
    of: "Store::get",
    says: "It returns the greatest entry ever merged under exactly this key, \
           with version and value unchanged, bit for bit.",
};
const SEES_MERGES: Clause = Clause {
    of: "Store::get",
    says: "A `get` that starts after a `merge` has returned sees that merge.",
};
const ATOMIC: Clause = Clause {
    of: "Store::merge",
    says: "Compare and store are one atomic step for each key: of any number of \
           concurrent merges, the greatest entry remains.",
};
const VERDICT: Clause = Clause {
    of: "Store::merge",
    says: "The answer is `Merged::verdict` for the entry that was stored at that step. \
           An equal entry is `Applied`.",
};
const DROPPED: Clause = Clause {
    of: "Store::merge",
    says: "The same holds where the future is dropped half-way.",
};
const NOW_READS: Clause = Clause {
    of: "Store::get_now",
    says: "A result is what `get` would have brought back.",
};
const NOW_NOTHING: Clause = Clause {
    of: "Store::merge_now",
    says: "`None` means that nothing was merged.",
};
const NOW_MERGES: Clause = Clause {
    of: "Store::merge_now",
    says: "A result is what `merge` would have brought back, and promises the same.",
};
const ORDER: Clause = Clause {
    of: "Store::scan",
    says: "Up to `limit` entries in ascending order of the keys' bytes, tombstones \
           included, starting at `from`.",
};
const END: Clause = Clause {
    of: "Store::scan",
    says: "Fewer than `limit` entries mean that the end was reached.",
};
const ONCE: Clause = Clause {
    of: "Store::scan",
    says: "Each key comes at most once, with an entry that it held at some time during the call.",
};
const COMPLETE: Clause = Clause {
    of: "Store::scan",
    says: "A key merged before the call began is among them, if it is in range.",
};

#[cfg(test)]
pub(super) const CLAUSES: &[&Clause] = &[
    &GREATEST,
    &SEES_MERGES,
    &ATOMIC,
    &VERDICT,
    &DROPPED,
    &NOW_READS,
    &NOW_NOTHING,
    &NOW_MERGES,
    &ORDER,
    &END,
    &ONCE,
    &COMPLETE,
];

#[cfg(test)]
pub(super) const UNCHECKED: &[&str] = &[
    "When `merge` returns `Ok`, the entry is as safe as this store ever makes it: a durable \
     store has flushed it. This holds for `Superseded` too: the greater entry is safe.",
    "On `Err` the key holds either what it held before, or this entry, and nothing between.",
    "It returns at once: it waits for no I/O, and for no lock that is held for long.",
    "It returns at once, as `get_now` does.",
];

/// Checks a [`Store`] against its contract.
///
/// The builder gives an empty store for each check, and a guard that is kept
/// until the check is over: see the [module](super).
///
/// # Panics
///
/// Where the store breaks its contract, fails, or does not answer.
pub async fn store<B, F, S, G>(build: B)
where
    B: Fn() -> F,
    F: Future<Output = (S, G)>,
    S: Store,
{
    check("a fresh store is empty", &build, fresh_is_empty).await;
    check("entries come back unchanged", &build, round_trip).await;
    check("every order of arrival ends alike", &build, all_orders).await;
    check("concurrent merges keep the maximum", &build, concurrent).await;
    check("merges on other keys do not disturb", &build, own_keys).await;
    check("a dropped merge leaves old or new", &build, dropped).await;
    check("results at once are true", &build, at_once).await;
    check("scans keep the order of bytes", &build, ordered).await;
    check("scans keep bounds and limits", &build, bounded).await;
    check("scans go on during merges", &build, scan_while_merging).await;
}

/// A store whose errors are failures of the suite: nothing here may fail.
///
/// Where the store has results at once, half of the calls take them: the two
/// ways to ask have to agree in every check.
struct Subject<S> {
    store: Arc<S>,
    turns: Arc<Turns>,
}

impl<S> Clone for Subject<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            turns: Arc::clone(&self.turns),
        }
    }
}

impl<S: Store> Subject<S> {
    fn new(store: S) -> Self {
        Self {
            store: Arc::new(store),
            turns: Arc::default(),
        }
    }

    async fn get(&self, key: &Key) -> Option<Entry> {
        let result = match self.turns.take(|| self.store.get_now(key)) {
            Some(result) => result,
            None => self.store.get(key).await,
        };
        match result {
            Ok(entry) => entry,
            Err(error) => panic!("`Store::get` of {} failed: {error}", Named(key)),
        }
    }

    async fn merge(&self, key: &Key, entry: &Entry) -> Merged {
        let result = match self.turns.take(|| self.store.merge_now(key, entry)) {
            Some(result) => result,
            None => self.store.merge(key, entry.clone()).await,
        };
        match result {
            Ok(merged) => merged,
            Err(error) => panic!("`Store::merge` of {} failed: {error}", Named(key)),
        }
    }

    async fn scan(&self, from: Bound<&Key>, limit: usize) -> Vec<(Key, Entry)> {
        match self.store.scan(from, limit).await {
            Ok(entries) => entries,
            Err(error) => panic!("`Store::scan` from {from:?} failed: {error}"),
        }
    }

    /// Walks the whole store as the documentation of `scan` says to.
    async fn walk(&self, limit: usize) -> Vec<(Key, Entry)> {
        let mut walked: Vec<(Key, Entry)> = Vec::new();
        loop {
            let from = match walked.last() {
                Some((key, _)) => Bound::Excluded(key),
                None => Bound::Unbounded,
            };
            let page = self.scan(from, limit).await;
            let from = from.cloned();
            ORDER.require(
                page.len() <= limit,
                format_args!("{} entries for limit {limit}", page.len()),
            );
            for (key, _) in &page {
                // A page that does not go on would have this loop run forever.
                require_in_range(from.as_ref(), key);
            }
            let ended = page.len() < limit;
            walked.extend(page);
            if ended {
                return walked;
            }
        }
    }

    async fn expect(&self, clause: &Clause, key: &Key, expected: Option<&Entry>, when: &str) {
        let found = self.get(key).await;
        clause.require(
            found.as_ref() == expected,
            format_args!(
                "{} holds {} {when}; expected {}",
                Named(key),
                Shown(found.as_ref()),
                Shown(expected),
            ),
        );
    }
}

fn require_in_range(from: Bound<&Key>, key: &Key) {
    let in_range = match from {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    };
    ORDER.require(
        in_range,
        format_args!("a scan from {from:?} returned {}", Named(key)),
    );
}

fn require_verdict(current: Option<&Entry>, incoming: &Entry, merged: Merged) {
    let expected = Merged::verdict(current, incoming);
    VERDICT.require(
        merged == expected,
        format_args!(
            "merging {} over {} answered {merged:?}; expected {expected:?}",
            Shown(Some(incoming)),
            Shown(current),
        ),
    );
}

async fn fresh_is_empty<S: Store>(store: S) {
    let store = Subject::new(store);
    store
        .expect(&GREATEST, &Key::from("key"), None, "in a fresh store")
        .await;
    let found = store.scan(Bound::Unbounded, 10).await;
    ONCE.require(
        found.is_empty(),
        format_args!("a scan of a fresh store returned {} entries", found.len()),
    );
}

/// Values and versions that an encoding could bend.
fn awkward_entries() -> Vec<Entry> {
    let all_bytes: Vec<u8> = (0..=u8::MAX).collect();
    let sign = 1 << 63;
    vec![
        value(0, 0, ""),
        value(0, u64::MAX, all_bytes),
        tombstone(u64::MAX, u64::MAX),
        value(u64::MAX, 0, "null"),
        value(sign, sign, vec![0; 3]),
        tombstone(0, 0),
        value(sign - 1, sign - 1, vec![0xff; 70_000]),
        value((1 << 53) + 1, (1 << 53) + 1, "\u{feff}\r\n"),
    ]
}

async fn round_trip<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut expected = BTreeMap::new();
    for (key, entry) in awkward_keys().iter().zip(awkward_entries().iter().cycle()) {
        store
            .expect(&GREATEST, key, None, "before anything was merged under it")
            .await;
        require_verdict(None, entry, store.merge(key, entry).await);
        expected.insert(key.clone(), entry.clone());
    }
    for (key, entry) in &expected {
        store
            .expect(&GREATEST, key, Some(entry), "after it was merged")
            .await;
    }
    for absent in ["a\0\0\0", "abc", "b\0"].map(Key::from) {
        store
            .expect(
                &GREATEST,
                &absent,
                None,
                "though only its prefixes were merged",
            )
            .await;
    }
}

/// Every order of `items`, by Heap's algorithm.
fn permutations<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    fn heap<T: Clone>(size: usize, items: &mut Vec<T>, all: &mut Vec<Vec<T>>) {
        if size <= 1 {
            all.push(items.clone());
            return;
        }
        for round in 0..size {
            heap(size - 1, items, all);
            let other = if size.is_multiple_of(2) { round } else { 0 };
            items.swap(other, size - 1);
        }
    }
    let mut all = Vec::new();
    heap(items.len(), &mut items.to_vec(), &mut all);
    all
}

async fn all_orders<S: Store>(store: S) {
    let store = Subject::new(store);
    let entries = [
        value(5, 1, "a"),
        // The same version: the greater bytes win, and the longer is greater.
        value(5, 1, "a\0"),
        // The same version: a tombstone wins over any value.
        tombstone(5, 1),
        // A greater writer, as an unsigned number, at the same time.
        value(5, u64::MAX, ""),
        // A greater time, as an unsigned number, by a lesser writer.
        value(1 << 63, 0, "z"),
    ];
    for (number, order) in permutations(&entries).iter().enumerate() {
        let key = Key::from(format!("order {number}"));
        let mut current: Option<Entry> = None;
        for entry in order {
            let merged = store.merge(&key, entry).await;
            require_verdict(current.as_ref(), entry, merged);
            current = current.max(Some(entry.clone()));
            let when = format!("after {} was merged", Shown(Some(entry)));
            store.expect(&GREATEST, &key, current.as_ref(), &when).await;
        }
    }
    // Each of the entries may come again, and is then equal or superseded.
    let key = Key::from("again");
    let mut current: Option<Entry> = None;
    for entry in entries.iter().flat_map(|entry| [entry, entry]) {
        require_verdict(current.as_ref(), entry, store.merge(&key, entry).await);
        current = current.max(Some(entry.clone()));
    }
    store
        .expect(
            &GREATEST,
            &key,
            current.as_ref(),
            "after all were merged twice",
        )
        .await;
}

/// Merges that race under one key.
struct MergeRace<S> {
    store: Subject<S>,
    key: Key,
    /// All racers start at once.
    start: Barrier,
    /// The greatest timestamp whose merge has returned.
    returned: AtomicU64,
}

impl<S: Store> MergeRace<S> {
    fn new(store: &Subject<S>, key: impl Into<Key>, racers: usize) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            key: key.into(),
            start: Barrier::new(racers),
            returned: AtomicU64::new(0),
        })
    }

    /// Merges, and looks at once whether the store shows this entry, and all
    /// others whose merges have returned, or a greater one.
    async fn merge(&self, entry: Entry) -> (Entry, Merged) {
        let (key, timestamp) = (&self.key, entry.version.timestamp.to_bits());
        let merged = self.store.merge(key, &entry).await;
        let returned = self.returned.fetch_max(timestamp, Ordering::SeqCst);
        let found = self.store.get(key).await;
        let latest = found
            .as_ref()
            .map(|found| found.version.timestamp.to_bits());
        SEES_MERGES.require(
            found.as_ref() >= Some(&entry) && latest >= Some(returned),
            format_args!(
                "{} holds {} after a merge of {} had answered {merged:?}, and one of \
                 timestamp {} had returned",
                Named(key),
                Shown(found.as_ref()),
                Shown(Some(&entry)),
                Timestamp::from_bits(returned),
            ),
        );
        (entry, merged)
    }
}

/// Every verdict is consistent with one serial order, in which the applied
/// entries come by size, and each superseded one at once after the entry that
/// it names.
fn require_serial(key: &Key, verdicts: &[(Entry, Merged)], last: Option<&Entry>) {
    let greatest = verdicts.iter().map(|(entry, _)| entry).max();
    ATOMIC.require(
        last == greatest,
        format_args!(
            "{} holds {} after {} concurrent merges, the greatest of which was {}",
            Named(key),
            Shown(last),
            verdicts.len(),
            Shown(greatest),
        ),
    );
    // By version, the greatest that was applied.
    let mut applied: BTreeMap<Version, &Entry> = BTreeMap::new();
    for (entry, merged) in verdicts {
        if *merged == Merged::Applied {
            let greatest = applied.entry(entry.version).or_insert(entry);
            *greatest = entry.max(greatest);
        }
    }
    VERDICT.require(
        applied.last_entry().map(|last| *last.get()) == greatest,
        format_args!(
            "no merge of the greatest entry, {}, answered `Applied`",
            Shown(greatest)
        ),
    );
    for (entry, merged) in verdicts {
        let Merged::Superseded { by } = merged else {
            continue;
        };
        VERDICT.require(
            applied.get(by).is_some_and(|other| *other > entry),
            format_args!(
                "a concurrent merge of {} was superseded by {by}, which is no greater entry \
                 that was applied",
                Shown(Some(entry)),
            ),
        );
    }
}

/// What comes back from futures that run on a thread each: a store that never
/// yields would otherwise see no concurrency on a current-thread runtime.
async fn on_threads<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let runtime = Handle::current();
    let threads: Vec<_> = futures
        .into_iter()
        .map(|future| {
            let runtime = runtime.clone();
            spawn_blocking(move || runtime.block_on(future))
        })
        .collect();
    let mut results = Vec::new();
    for thread in threads {
        results.push(joined(thread).await);
    }
    results
}

/// A race of threads ends after this many merges by each,
const RACES: usize = 5_000;
/// or after this long.
const RACE_TIME: Duration = Duration::from_millis(300);

async fn concurrent<S: Store>(store: S) {
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
        let race = MergeRace::new(&store, format!("together {number}"), order.len());
        let verdicts = together(order.into_iter().map(|entry| race.merge(entry))).await;
        require_serial(&race.key, &verdicts, store.get(&race.key).await.as_ref());
    }

    // Threads that race, for stores that do not. How often they meet is up to
    // chance: as many merges as a slow store allows.
    let race = MergeRace::new(&store, "threads", 4);
    let timestamps = Arc::new(AtomicU64::new(0));
    let racer = |number: u64| {
        let (race, timestamps) = (Arc::clone(&race), Arc::clone(&timestamps));
        async move {
            race.start.wait().await;
            let start = Instant::now();
            let mut verdicts = Vec::new();
            while verdicts.len() < RACES && start.elapsed() < RACE_TIME {
                // One number for two threads now and then, so that some
                // merges tie.
                let timestamp = timestamps.fetch_add(1, Ordering::Relaxed) / 2;
                let entry = match timestamp % 3 {
                    0 => tombstone(timestamp, 1),
                    _ => value(timestamp, 1, number.to_string()),
                };
                verdicts.push(race.merge(entry).await);
            }
            verdicts
        }
    };
    let verdicts: Vec<_> = on_threads((0..4).map(racer)).await.concat();
    require_serial(&race.key, &verdicts, store.get(&race.key).await.as_ref());
}

/// Writers that have a key each see exactly their own merges.
async fn own_keys<S: Store>(store: S) {
    let store = Subject::new(store);
    let writer = |number: u64| {
        let store = store.clone();
        async move {
            let key = Key::from(format!("own {number}"));
            for timestamp in 1..=32 {
                let entry = value(timestamp, number, format!("{number}: {timestamp}"));
                let merged = store.merge(&key, &entry).await;
                VERDICT.require(
                    merged == Merged::Applied,
                    format_args!("the only writer of {} got {merged:?}", Named(&key)),
                );
                // Let the others write in between.
                yield_now().await;
                let when = "after its only writer had merged it, while other keys were written";
                store.expect(&SEES_MERGES, &key, Some(&entry), when).await;
            }
        }
    };
    let tasks: Vec<_> = (0..16).map(|number| tokio::spawn(writer(number))).collect();
    for task in tasks {
        joined(task).await;
    }
    on_threads((16..20).map(writer)).await;
}

async fn dropped<S: Store>(store: S) {
    let store = Subject::new(store);
    for polls in 0..16 {
        let key = Key::from(format!("dropped after {polls}"));
        let old = value(1, 1, "old");
        let new = value(2, 1, "new");
        store.merge(&key, &old).await;
        let ended = polled(polls, store.store.merge(&key, new.clone())).await;
        // The store may still be at it: look more than once.
        for _ in 0..4 {
            let found = store.get(&key).await;
            let expected = found.as_ref() == Some(&new) || (!ended && found.as_ref() == Some(&old));
            DROPPED.require(
                expected,
                format_args!(
                    "a merge of {} over {} was dropped after {polls} polls, and left {}",
                    Shown(Some(&new)),
                    Shown(Some(&old)),
                    Shown(found.as_ref()),
                ),
            );
            yield_now().await;
        }
        let newer = value(3, 1, "newer");
        store.merge(&key, &newer).await;
        for _ in 0..4 {
            let when = "after a dropped merge, and a greater one that ended";
            store.expect(&DROPPED, &key, Some(&newer), when).await;
            yield_now().await;
        }
    }
}

async fn at_once<S: Store>(store: S) {
    let store = AtOnce {
        store,
        key: Key::from("key"),
    };
    let mut held: Option<Entry> = None;
    store.require(&NOW_READS, None).await;
    for at in [1, 3, 2, 3] {
        let entry = value(at, 1, "value");
        match store.store.merge_now(&store.key, &entry) {
            Some(merged) => {
                let (merged, expected) = (sound(merged), Merged::verdict(held.as_ref(), &entry));
                NOW_MERGES.require(
                    merged == expected,
                    format_args!("{merged:?} at once; expected {expected:?}"),
                );
            }
            None => {
                store.require(&NOW_NOTHING, held.as_ref()).await;
                let merged = sound(store.store.merge(&store.key, entry.clone()).await);
                require_verdict(held.as_ref(), &entry, merged);
            }
        }
        held = held.max(Some(entry));
        store.require(&NOW_MERGES, held.as_ref()).await;
    }
}

/// A store that is asked in one of the two ways, as a check wants it.
struct AtOnce<S> {
    store: S,
    key: Key,
}

impl<S: Store> AtOnce<S> {
    /// Requires that the key holds this, whichever way it is read.
    async fn require(&self, clause: &Clause, held: Option<&Entry>) {
        let found = sound(self.store.get(&self.key).await);
        clause.require(
            found.as_ref() == held,
            format_args!("the key reads as {}", Shown(found.as_ref())),
        );
        if let Some(found) = self.store.get_now(&self.key).map(sound) {
            NOW_READS.require(
                found.as_ref() == held,
                format_args!("the key reads as {} at once", Shown(found.as_ref())),
            );
        }
    }
}

/// A result that is no error: nothing here may fail.
fn sound<T>(result: Result<T, StoreError>) -> T {
    result.unwrap_or_else(|error| panic!("the store failed: {error}"))
}

fn require_equal(expected: &BTreeMap<Key, Entry>, found: &[(Key, Entry)], what: &str) {
    for pair in found.windows(2) {
        let [(key, _), (next, _)] = pair else {
            continue;
        };
        ONCE.require(
            key != next,
            format_args!("{what} returned {} twice", Named(key)),
        );
        ORDER.require(
            key < next,
            format_args!("{what} returned {} before {}", Named(key), Named(next)),
        );
    }
    let keys: BTreeSet<&Key> = found.iter().map(|(key, _)| key).collect();
    for (key, entry) in expected {
        let clause = match entry.value {
            _ if found.last().is_none_or(|(last, _)| last < key) => &END,
            Some(_) => &COMPLETE,
            None => &ORDER,
        };
        clause.require(
            keys.contains(key),
            format_args!("{what} left out {} with {}", Named(key), Shown(Some(entry))),
        );
    }
    for (key, entry) in found {
        ONCE.require(
            expected.get(key) == Some(entry),
            format_args!(
                "{what} returned {} with {}; it held {}",
                Named(key),
                Shown(Some(entry)),
                Shown(expected.get(key)),
            ),
        );
    }
}

async fn ordered<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut expected = BTreeMap::new();
    // Merged in descending order, so that the order of arrival is not it.
    let entries = awkward_entries();
    for (key, entry) in awkward_keys().iter().rev().zip(entries.iter().cycle()) {
        store.merge(key, entry).await;
        expected.insert(key.clone(), entry.clone());
    }
    let found = store.scan(Bound::Unbounded, expected.len() + 1).await;
    require_equal(&expected, &found, "a scan of the whole store");
    for limit in [1, 2, 7, expected.len(), expected.len() + 1] {
        let walked = store.walk(limit).await;
        require_equal(&expected, &walked, &format!("a walk in pages of {limit}"));
    }
}

async fn bounded<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut expected = Vec::new();
    for (key, timestamp) in [&b"b"[..], b"b\0", b"bb", b"d", b"\xff"].iter().zip(1..) {
        let entry = match timestamp {
            3 => tombstone(timestamp, 1),
            _ => value(timestamp, 1, *key),
        };
        store.merge(&Key::from(*key), &entry).await;
        expected.push((Key::from(*key), entry));
    }
    // Between the keys, on them, before and after them all.
    let starts = ["a", "b", "b\0", "b\0\0", "ba", "bb", "c", "d", "e"].map(Key::from);
    let starts = starts
        .into_iter()
        .chain([Key::from(&b"\xff"[..]), Key::from(&b"\xff\0"[..])]);
    let bounds = starts
        .flat_map(|key| [Bound::Included(key.clone()), Bound::Excluded(key)])
        .chain([Bound::Unbounded]);
    for from in bounds {
        for limit in [0, 1, 2, 3, 4, 5, 6, usize::MAX] {
            let found = store.scan(from.as_ref(), limit).await;
            let in_range: Vec<_> = expected
                .iter()
                .skip_while(|(key, _)| match &from {
                    Bound::Included(start) => key < start,
                    Bound::Excluded(start) => key <= start,
                    Bound::Unbounded => false,
                })
                .collect();
            let wanted = in_range.len().min(limit);
            for (key, _) in &found {
                require_in_range(from.as_ref(), key);
            }
            ORDER.require(
                found.len() <= wanted,
                format_args!("{} entries from {from:?} with limit {limit}", found.len()),
            );
            END.require(
                found.len() == wanted,
                format_args!(
                    "{} entries from {from:?} with limit {limit}, and there are {}",
                    found.len(),
                    in_range.len(),
                ),
            );
            let wanted = in_range.into_iter().take(limit).cloned().collect();
            require_equal(
                &wanted,
                &found,
                &format!("a scan from {from:?}, limit {limit},"),
            );
        }
    }
}

async fn scan_while_merging<S: Store>(store: S) {
    let store = Subject::new(store);
    // As tasks, for stores that yield between their steps; then on threads.
    // The merging comes second, so that the first scan begins before it.
    let race = ScanRace::new(&store, "tasks").await;
    let scanning = tokio::spawn(Arc::clone(&race).scan());
    let merging = tokio::spawn(race.merge());
    joined(scanning).await;
    joined(merging).await;

    let race = ScanRace::new(&store, "threads").await;
    let merging = on_threads([Arc::clone(&race).merge()]);
    let scanning = tokio::spawn(race.scan());
    merging.await;
    joined(scanning).await;
}

/// Scans that race merges, under keys of their own.
struct ScanRace<S> {
    store: Subject<S>,
    prefix: &'static str,
    done: AtomicBool,
}

impl<S: Store> ScanRace<S> {
    const KEYS: u64 = 96;
    const ROUNDS: u64 = 6;

    async fn new(store: &Subject<S>, prefix: &'static str) -> Arc<Self> {
        let race = Self {
            store: store.clone(),
            prefix,
            done: AtomicBool::new(false),
        };
        for number in (0..Self::KEYS).filter(|number| Self::first_round(*number) == 0) {
            race.merge_one(number, 0).await;
        }
        Arc::new(race)
    }

    /// Even keys are there before all scans; the odd ones come bit by bit.
    fn first_round(number: u64) -> u64 {
        match number % 2 {
            0 => 0,
            _ => number / 2 % Self::ROUNDS + 1,
        }
    }

    fn key(&self, number: u64) -> Key {
        Key::from(format!("{} {number:04}", self.prefix))
    }

    fn entry(number: u64, round: u64) -> Entry {
        value(round, 1, format!("{number} {round}"))
    }

    async fn merge_one(&self, number: u64, round: u64) {
        let entry = Self::entry(number, round);
        self.store.merge(&self.key(number), &entry).await;
    }

    async fn merge(self: Arc<Self>) {
        for round in 1..=Self::ROUNDS {
            // From the end, so that a new key moves those before which it is.
            for number in (0..Self::KEYS).rev() {
                if Self::first_round(number) <= round {
                    self.merge_one(number, round).await;
                    yield_now().await;
                }
            }
        }
        self.done.store(true, Ordering::SeqCst);
    }

    async fn scan(self: Arc<Self>) {
        for limit in [usize::MAX, 7].iter().cycle() {
            // The last scan begins after the last merge.
            let last = self.done.load(Ordering::SeqCst);
            let walked = self.store.walk(*limit).await;
            self.require_sound(walked, last);
            if last {
                return;
            }
            yield_now().await;
        }
    }

    fn require_sound(&self, walked: Vec<(Key, Entry)>, last: bool) {
        let mut found = BTreeMap::new();
        for (key, entry) in walked {
            let twice = found.insert(key.clone(), entry).is_some();
            let key = Named(&key);
            ONCE.require(
                !twice,
                format_args!("a scan during merges returned {key} twice"),
            );
        }
        for number in 0..Self::KEYS {
            let key = self.key(number);
            let found = found.get(&key);
            let first = if last {
                Self::ROUNDS
            } else {
                Self::first_round(number)
            };
            COMPLETE.require(
                found.is_some() || (first > 0 && !last),
                format_args!("a scan during merges left out {}", Named(&key)),
            );
            let held = (first..=Self::ROUNDS).map(|round| Self::entry(number, round));
            ONCE.require(
                found.is_none_or(|found| held.into_iter().any(|held| held == *found)),
                format_args!(
                    "a scan during merges returned {} with {}, which it did not hold",
                    Named(&key),
                    Shown(found),
                ),
            );
        }
    }
}
