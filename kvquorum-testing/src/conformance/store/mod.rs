//! The suite for stores.

mod at_rest;
mod empty_key;
mod races;
mod records;
mod scan_races;
mod scans;

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvquorum_core::{Action, Change, Entry, Key, Record, Response, ScanLimit, Store, StoreError};

use super::shown::{Causes, Named, Shown};
use super::{Clause, check};

const AT_REST: Clause = Clause {
    of: "Store",
    says: "A call that is not polled holds up no other.",
};
const HELD: Clause = Clause {
    of: "Store::get",
    says: "It returns the record that the last `apply` under exactly this key left, \
           unchanged, bit for bit.",
};
const SEES: Clause = Clause {
    of: "Store::get",
    says: "A `get` that starts after an `apply` has returned sees what that left, or \
           something later.",
};
const ATOMIC: Clause = Clause {
    of: "Store::apply",
    says: "Reading the record, deciding by it with `Change::decide`, and doing what the \
           `Action` says are one atomic step for the key: no other change of it comes in \
           between.",
};
const RESPONSE: Clause = Clause {
    of: "Store::apply",
    says: "The response is the one that was decided at that step.",
};
const DROPPED: Clause = Clause {
    of: "Store::apply",
    says: "Where the future is dropped half-way, the change is made as a whole, now or \
           later, or not at all.",
};
const EMPTY_KEY: Clause = Clause {
    of: "Store::apply",
    says: "When a change under the empty key has returned, whoever reads or scans sees what \
           became of each change whose decision had begun before this one was asked for; or it \
           is never made. A replica keeps its marks there, and what they forbid must not turn up \
           afterwards. A store that makes its changes one after the other, or under a lock \
           that readers take as well, need do nothing for it.",
};
const ORDER: Clause = Clause {
    of: "Store::scan",
    says: "The keys of a page are in the range, and ascend by their bytes.",
};
const LIMIT: Clause = Clause {
    of: "Store::scan",
    says: "A page holds no more than the `ScanLimit` allows.",
};
const END: Clause = Clause {
    of: "Store::scan",
    says: "An empty page means that nothing is left in the range. A page may be shorter than \
           the limit allows.",
};
const ONCE: Clause = Clause {
    of: "Store::scan",
    says: "Each key comes at most once, with a record that it held at some time during the call.",
};
const COMPLETE: Clause = Clause {
    of: "Store::scan",
    says: "No key of the range up to the last of the page is left out that held a record \
           throughout the call.",
};
const TRY_READS: Clause = Clause {
    of: "Store::try_get",
    says: "A result is what `get` would have brought back.",
};
const HANDED_BACK: Clause = Clause {
    of: "Store::try_apply",
    says: "A change that is handed back is as it was, has not been made, and never will be \
           from this.",
};
const TRY_APPLIES: Clause = Clause {
    of: "Store::try_apply",
    says: "A result is what `apply` would have brought back, and promises the same.",
};

#[cfg(test)]
pub(super) const CLAUSES: &[&Clause] = &[
    &AT_REST,
    &HELD,
    &SEES,
    &ATOMIC,
    &RESPONSE,
    &DROPPED,
    &EMPTY_KEY,
    &ORDER,
    &LIMIT,
    &END,
    &ONCE,
    &COMPLETE,
    &TRY_READS,
    &HANDED_BACK,
    &TRY_APPLIES,
];

#[cfg(test)]
pub(super) const UNCHECKED: &[&str] = &[
    "When `apply` returns `Ok`, what is then held is as safe as this store ever makes it: a \
     durable store has flushed it. This holds where the action is to keep what is held, too.",
    "On `Err` the change has been made as a whole, or not at all.",
    "It returns at once: it waits for no I/O that the store's own docs don't tell of, and for \
     no lock that is held for long.",
    "It returns at once, as `try_get` does.",
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
    check("a fresh store is empty", &build, records::fresh).await;
    check("records come back unchanged", &build, records::round_trip).await;
    check("every order of arrival ends alike", &build, records::orders).await;
    check("what is removed is gone", &build, records::removed).await;
    check("promises are kept", &build, records::promised).await;
    check("results at once are true", &build, records::at_once).await;
    check("concurrent changes are atomic", &build, races::concurrent).await;
    check(
        "changes of other keys do not disturb",
        &build,
        races::own_keys,
    )
    .await;
    check("a dropped change leaves old or new", &build, races::dropped).await;
    check(
        "the empty key's changes come after those decided before",
        &build,
        empty_key::run,
    )
    .await;
    check("scans keep the order of bytes", &build, scans::ordered).await;
    check("scans keep bounds and limits", &build, scans::bounded).await;
    check("scans go on during changes", &build, scan_races::run).await;
    check("a call at rest holds up no other", &build, at_rest::run).await;
}

/// A store whose errors are failures of the suite: nothing here may fail.
///
/// Where the store has results at once, half of the calls take them: the two
/// ways to ask have to agree in every check.
struct Subject<S> {
    store: Arc<S>,
    turns: Arc<AtomicU64>,
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

    /// Whether to ask at once, half of the times: by the sequence of Thue and
    /// Morse, which is in step with no pattern of calls.
    fn tries(&self) -> bool {
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        turn.count_ones() % 2 == 1
    }

    async fn get(&self, key: &Key) -> Option<Record> {
        let tried = self.tries().then(|| self.store.try_get(key)).flatten();
        let result = match tried {
            Some(result) => result,
            None => self.store.get(key).await,
        };
        sound(result, || format!("`get` of {}", Named(key)))
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Response {
        let tried = match self.tries() {
            true => self.store.try_apply(key, change),
            false => Err(change),
        };
        let result = match tried {
            Ok(result) => result,
            Err(change) => self.store.apply(key, change).await,
        };
        sound(result, || format!("`apply` to {}", Named(key)))
    }

    async fn write(&self, key: &Key, entry: &Entry) -> Response {
        self.apply(key, Change::write(entry.clone())).await
    }

    /// One page, which keeps range, order and limit.
    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Vec<(Key, Record)> {
        let result = self.store.scan(range, limit).await;
        let page = sound(result, || format!("`scan` of {range:?}"));
        let what = || format!("a scan of {range:?} with {limit:?}");
        require_ascending(&page, &what());
        for (key, _) in &page {
            ORDER.require(
                RangeBounds::<Key>::contains(&range, key),
                format_args!("{} returned {}", what(), Named(key)),
            );
        }
        let bytes = |(key, record): &(Key, Record)| key.len() + record.encoded_len();
        let (keys, bytes) = (page.len(), page.iter().map(bytes).sum());
        LIMIT.require(
            keys == 0 || limit.allows(keys - 1, bytes),
            format_args!("{} returned {keys} records of {bytes} bytes", what()),
        );
        page
    }

    /// Walks a range as the documentation of `scan` says to.
    async fn walk(
        &self,
        (start, end): (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Vec<(Key, Record)> {
        let mut walked: Vec<(Key, Record)> = Vec::new();
        loop {
            let start = match walked.last() {
                Some((key, _)) => Bound::Excluded(key),
                None => start,
            };
            let page = self.scan((start, end), limit).await;
            if page.is_empty() {
                return walked;
            }
            walked.extend(page);
        }
    }

    async fn expect(&self, clause: &Clause, key: &Key, expected: Option<&Record>, when: &str) {
        let found = self.get(key).await;
        clause.require(
            found.as_ref() == expected,
            format_args!(
                "{} holds {} {when}; expected {}",
                Named(key),
                Shown::record(found.as_ref()),
                Shown::record(expected),
            ),
        );
    }

    /// Makes a change that nothing races, and looks what it left. The model knows
    /// what is held.
    async fn step(&self, model: &mut Model, key: &Key, change: Change<'_>) {
        let what = format!("{change:?}");
        let before = model.get(key).cloned();
        let expected = model.apply(key, change.clone());
        let response = self.apply(key, change).await;
        require_response(before.as_ref(), &what, &response, &expected);
        let when = format!("after {what}");
        self.expect(&HELD, key, model.get(key), &when).await;
    }
}

const ALL: (Bound<&Key>, Bound<&Key>) = (Bound::Unbounded, Bound::Unbounded);

/// A result that is no error: nothing here may fail.
fn sound<T>(result: Result<T, StoreError>, call: impl Fn() -> String) -> T {
    result.unwrap_or_else(|error| panic!("{} failed: {}", call(), Causes(&error)))
}

fn require_response(before: Option<&Record>, what: &str, response: &Response, expected: &Response) {
    RESPONSE.require(
        response == expected,
        format_args!(
            "{what} over {} was answered {response:?}; expected {expected:?}",
            Shown::record(before),
        ),
    );
}

fn require_ascending(found: &[(Key, Record)], what: &str) {
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
}

/// What a store should hold.
#[derive(Default)]
struct Model(BTreeMap<Key, Record>);

impl Model {
    fn get(&self, key: &Key) -> Option<&Record> {
        self.0.get(key)
    }

    fn apply(&mut self, key: &Key, change: Change<'_>) -> Response {
        let decision = change.decide(self.0.get(key));
        match decision.action {
            Action::Keep => None,
            Action::Replace(record) => self.0.insert(key.clone(), record),
            Action::Remove => self.0.remove(key),
        };
        decision.response
    }
}
