//! What one caller sees, key by key.

use kvquorum_core::{Change, Key, Record, Response, ScanLimit, Store};
use tokio::task::yield_now;

use super::super::Clause;
use super::super::samples::{awkward_entries, awkward_keys, tombstone, value, version};
use super::super::shown::{Named, Shown};
use super::{ALL, HANDED_BACK, HELD, Model, ONCE, Subject, TRY_APPLIES, TRY_READS, sound};

pub(super) async fn fresh<S: Store>(store: S) {
    let store = Subject::new(store);
    for key in ["key", ""].map(Key::from) {
        store.expect(&HELD, &key, None, "in a fresh store").await;
    }
    let found = store.scan(ALL, ScanLimit::NONE).await;
    ONCE.require(
        found.is_empty(),
        format_args!("a scan of a fresh store returned {} records", found.len()),
    );
}

/// The keys of stores: those of requests, and the empty one, under which a replica
/// keeps what it knows of itself.
pub(super) fn keys() -> impl Iterator<Item = Key> {
    [Key::from("")].into_iter().chain(awkward_keys())
}

pub(super) async fn round_trip<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut model = Model::default();
    for (key, entry) in keys().zip(awkward_entries().into_iter().cycle()) {
        let when = "before anything was written under it";
        store.expect(&HELD, &key, None, when).await;
        store.step(&mut model, &key, Change::write(entry)).await;
    }
    for (key, record) in &model.0 {
        let when = "after all keys were written";
        store.expect(&HELD, key, Some(record), when).await;
    }
    for absent in ["a\0\0\0", "abc", "b\0"].map(Key::from) {
        let when = "though only its prefixes were written";
        store.expect(&HELD, &absent, None, when).await;
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

pub(super) async fn orders<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut model = Model::default();
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
    for (number, order) in permutations(&entries).into_iter().enumerate() {
        let key = Key::from(format!("order {number}"));
        for entry in order {
            store.step(&mut model, &key, Change::write(entry)).await;
        }
    }
    // Each of the entries may come again, and is then equal or superseded.
    let key = Key::from("again");
    for entry in entries.iter().flat_map(|entry| [entry, entry]) {
        let change = Change::write(entry.clone());
        store.step(&mut model, &key, change).await;
    }
}

pub(super) async fn removed<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut model = Model::default();
    let keys = ["", "a", "a\0", "b", "c"].map(Key::from);
    for key in &keys {
        // Where nothing is held there is nothing to remove.
        store.step(&mut model, key, Change::remove()).await;
        let change = Change::write(value(9, 9, "a value"));
        store.step(&mut model, key, change).await;
    }
    for key in &keys {
        store.step(&mut model, key, Change::remove()).await;
        let found = store.walk(ALL, ScanLimit::keys(2)).await;
        let held: Vec<_> = model.0.clone().into_iter().collect();
        ONCE.require(
            found == held,
            format_args!(
                "a walk returned {} records and not {} after {} was removed",
                found.len(),
                held.len(),
                Named(key),
            ),
        );
        store.step(&mut model, key, Change::remove()).await;
        // Lesser entries than were removed: nothing is left to supersede them.
        for entry in [value(1, 1, ""), tombstone(2, 1), value(3, 1, "again")] {
            store.step(&mut model, key, Change::write(entry)).await;
        }
    }
    for key in &keys {
        let when = "after keys beside it were removed and written";
        store.expect(&HELD, key, model.get(key), when).await;
    }
}

/// Promises are kept like entries, with one and without, and stay when it changes.
pub(super) async fn promised<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut model = Model::default();
    for (key, entry) in keys().zip(awkward_entries().into_iter().cycle()) {
        let ballot = entry.version;
        let promise = Change::prepare(ballot);
        store.step(&mut model, &key, promise.clone()).await;
        // Again, below it, and what it was made for.
        store.step(&mut model, &key, promise).await;
        let below = Change::write(value(0, 0, "below"));
        store.step(&mut model, &key, below).await;
        store.step(&mut model, &key, Change::write(entry)).await;
        let above = Change::prepare(version(ballot.timestamp.to_bits(), u64::MAX));
        store.step(&mut model, &key, above).await;
    }
    for (key, record) in &model.0 {
        let when = "after a ballot was promised for each key";
        store.expect(&HELD, key, Some(record), when).await;
    }
}

pub(super) async fn at_once<S: Store>(store: S) {
    let store = AtOnce {
        store,
        key: Key::from("key"),
    };
    let mut model = Model::default();
    store.require(&TRY_READS, None, "in a fresh store").await;
    let write = |at| Change::write(value(at, 1, "value"));
    let promise = |at| Change::prepare(version(at, 1));
    let changes = [
        write(1),
        write(3),
        write(2),
        write(3),
        promise(4),
        write(3),
        write(2),
        promise(3),
        Change::remove(),
        promise(1),
        promise(1),
    ];
    for change in changes {
        // What is handed back is dropped here,
        store.make(&mut model, change.clone(), false).await;
        // and made here.
        store.make(&mut model, change, true).await;
    }
}

/// A store that is asked in one of the two ways, as a check wants it.
struct AtOnce<S> {
    store: S,
    key: Key,
}

impl<S: Store> AtOnce<S> {
    /// Requires that the key holds this, whichever way it is read.
    async fn require(&self, clause: &Clause, held: Option<&Record>, when: &str) {
        let require = |clause: &Clause, how: &str, found: Option<&Record>| {
            let (shown, expected) = (Shown::record(found), Shown::record(held));
            clause.require(
                found == held,
                format_args!("{how} brought back {shown} {when}; expected {expected}"),
            );
        };
        let found = sound(self.store.get(&self.key).await, || "`get`".to_owned());
        require(clause, "`get`", found.as_ref());
        if let Some(result) = self.store.try_get(&self.key) {
            let found = sound(result, || "`try_get`".to_owned());
            require(&TRY_READS, "`try_get`", found.as_ref());
        }
    }

    /// Makes a change at once, or, if it is handed back and `insists`, otherwise.
    async fn make(&self, model: &mut Model, change: Change<'_>, insists: bool) {
        let (key, what) = (&self.key, format!("{change:?}"));
        let before = model.get(key).cloned();
        let require = |clause: &Clause, how: &str, response: Response, expected: Response| {
            let over = Shown::record(before.as_ref());
            clause.require(
                response == expected,
                format_args!("{how} {what} over {over} said {response:?}; expected {expected:?}"),
            );
        };
        match self.store.try_apply(key, change.clone()) {
            Ok(result) => {
                let response = sound(result, || format!("`try_apply` of {what}"));
                require(&TRY_APPLIES, "trying", response, model.apply(key, change));
                let when = format!("after {what} at once");
                self.require(&TRY_APPLIES, model.get(key), &when).await;
            }
            Err(change) => {
                for _ in 0..4 {
                    let when = format!("after {what} was handed back");
                    self.require(&HANDED_BACK, model.get(key), &when).await;
                    yield_now().await;
                }
                if insists {
                    let expected = model.apply(key, change.clone());
                    let result = self.store.apply(key, change).await;
                    let response = sound(result, || format!("`apply` of {what}"));
                    require(&HANDED_BACK, "applying", response, expected);
                }
            }
        }
    }
}
