//! A checker of linearizability, for histories of registers.
//!
//! Clients call operations on registers, at the same time, and some are told what
//! came of theirs. Such a [`History`] is linearizable if each operation can have
//! taken effect in one instant between its call and its return, so that all answers
//! are those of a single register that does one thing after the other (Herlihy and
//! Wing, *Linearizability*, 1990). An operation that failed, or has not ended, may
//! have taken effect at any instant after its call, or never.
//!
//! ```
//! use kvquorum_testing::linearizability::{History, Step};
//!
//! let history = History::new();
//! let put = history.call("a", Step::Write(Some(1)));
//! let get = history.call("a", Step::Read(None)); // what it finds is told later
//! history.returned(get, Step::Read(Some(1)));
//! // The put failed, and its error says that it may have been applied: it stays as
//! // it is. If it had surely not been, `history.never(put)` would say so.
//! # let _ = put;
//! assert!(history.check().is_ok());
//!
//! // Once it was seen, it can't be gone again.
//! let get = history.call("a", Step::Read(None));
//! history.returned(get, Step::Read(None));
//! let error = history.check().unwrap_err();
//! println!("{error}");
//! ```
//!
//! Registers are checked one by one: a history is linearizable if that of each key
//! is. The search is that of Wing and Gong (*Testing and Verifying Concurrent
//! Objects*, 1993) with the memory of Lowe (*Testing for linearizability*, 2017). It
//! takes exponential time at worst; what makes a history hard is many operations at
//! the same time, or that failed, whose values are seen.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "its numbers and places are its own"
)]

mod bits;
mod search;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use search::check;

/// What an operation does to a register, and what it told. The register holds a
/// value, or none.
#[derive(Clone)]
pub enum Step<V> {
    /// It found this, and changed nothing: a get, or a compare-and-set that
    /// differed. Of a read that did not return nothing is known, whatever is said
    /// here.
    Read(Option<V>),
    /// It left this, whatever was there: a put, or a delete.
    Write(Option<V>),
    /// It found the first, and left the second: an update, or a compare-and-set that
    /// swapped. One that did not return may have swapped if the first was there.
    Swap(Option<V>, Option<V>),
    /// It left what this function makes of what was there: an update that did not
    /// return. Operations that do the same share one function by cloning its
    /// [`Arc`], which makes checking quicker.
    Update(Arc<Function<V>>),
}

/// What an update makes of a value, or of none.
pub type Function<V> = dyn Fn(Option<&V>) -> Option<V> + Send + Sync;

impl<V: Clone + PartialEq> Step<V> {
    /// What a register holds after this, if it can have held `before`.
    fn after(&self, before: &Option<V>) -> Option<Option<V>> {
        match self {
            Self::Read(found) => (found == before).then(|| before.clone()),
            Self::Write(left) => Some(left.clone()),
            Self::Swap(found, left) => (found == before).then(|| left.clone()),
            Self::Update(function) => Some(function(before.as_ref())),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Read(one), Self::Read(other)) | (Self::Write(one), Self::Write(other)) => {
                one == other
            }
            (Self::Swap(one, two), Self::Swap(other, another)) => one == other && two == another,
            (Self::Update(one), Self::Update(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl<V: fmt::Debug> fmt::Debug for Step<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(found) => f.debug_tuple("Read").field(found).finish(),
            Self::Write(left) => f.debug_tuple("Write").field(left).finish(),
            Self::Swap(found, left) => f.debug_tuple("Swap").field(found).field(left).finish(),
            Self::Update(_) => f.write_str("Update(..)"),
        }
    }
}

/// One operation on one register.
#[derive(Clone, Debug)]
pub struct Operation<V> {
    /// When it was called, on a clock that all operations share.
    pub called: u64,
    /// When it returned, not before it was called; `None` where it has not, or
    /// failed, and may or may not take effect.
    pub returned: Option<u64>,
    /// What it does, and what it told.
    pub step: Step<V>,
}

/// What clients did, on registers that hold nothing at first. It has a clock of its
/// own, which goes on with each call and return. Share it by reference, or in an
/// [`Arc`].
#[derive(Debug)]
pub struct History<K, V>(Mutex<Recorded<K, V>>);

#[derive(Debug)]
struct Recorded<K, V> {
    now: u64,
    operations: Vec<Option<(K, Operation<V>)>>,
}

/// An operation of a [`History`] that was called.
#[derive(Debug)]
#[must_use = "what is not told to have returned may never have taken effect"]
pub struct Called(usize);

impl<K: Clone + Eq + Hash, V: Clone + Eq + Hash> History<K, V> {
    /// A history in which nothing has happened yet.
    pub fn new() -> Self {
        Self(Mutex::new(Recorded {
            now: 0,
            operations: Vec::new(),
        }))
    }

    /// An operation is called. Until more is told of it, it may take effect at any
    /// time from now on, or never: so it need not be told of one that failed, if
    /// that may have been applied.
    pub fn call(&self, key: K, step: Step<V>) -> Called {
        let mut recorded = self.recorded();
        let called = recorded.tick();
        recorded.add(key, called, step)
    }

    /// An operation returned: it took effect between its call and now, and this is
    /// what it told.
    pub fn returned(&self, Called(call): Called, step: Step<V>) {
        let mut recorded = self.recorded();
        let now = recorded.tick();
        if let Some(Some((_, operation))) = recorded.operations.get_mut(call) {
            operation.returned = Some(now);
            operation.step = step;
        }
    }

    /// An operation surely did not take effect, and never will.
    pub fn never(&self, Called(call): Called) {
        if let Some(operation) = self.recorded().operations.get_mut(call) {
            *operation = None;
        }
    }

    /// Something may have taken effect at any time, even before now, or never. A
    /// last-write-wins put that was stamped more than once is such a thing for each
    /// time but the last, beside registers on the same key.
    pub fn at_any_time(&self, key: K, step: Step<V>) {
        let _ = self.recorded().add(key, 0, step);
    }

    /// The operations on a key, in the order in which they were called.
    pub fn operations(&self, key: &K) -> Vec<Operation<V>> {
        let recorded = self.recorded();
        let operations = recorded.operations.iter().flatten();
        let of_key = operations.filter(|(of, _)| of == key);
        of_key.map(|(_, operation)| operation.clone()).collect()
    }

    /// Whether the history is linearizable.
    ///
    /// # Errors
    ///
    /// Where that of some key is not. It names one.
    pub fn check(&self) -> Result<(), NotLinearizable<K, V>> {
        let mut keys: Vec<(&K, Vec<Operation<V>>)> = Vec::new();
        let mut places = HashMap::new();
        let recorded = self.recorded();
        for (key, operation) in recorded.operations.iter().flatten() {
            let place = *places.entry(key).or_insert_with(|| {
                keys.push((key, Vec::new()));
                keys.len() - 1
            });
            keys[place].1.push(operation.clone());
        }
        for (key, operations) in keys {
            if let Err(explained) = check(&operations) {
                return Err(NotLinearizable {
                    key: key.clone(),
                    operations,
                    explained,
                });
            }
        }
        Ok(())
    }

    /// What is recorded is whole between any two statements.
    fn recorded(&self) -> MutexGuard<'_, Recorded<K, V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, V: Clone + Eq + Hash> Default for History<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> Recorded<K, V> {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn add(&mut self, key: K, called: u64, step: Step<V>) -> Called {
        let operation = Operation {
            called,
            returned: None,
            step,
        };
        self.operations.push(Some((key, operation)));
        Called(self.operations.len() - 1)
    }
}

/// A history that no single register can have had.
#[derive(Clone, Debug)]
pub struct NotLinearizable<K, V> {
    /// The register.
    pub key: K,
    /// All operations on it.
    pub operations: Vec<Operation<V>>,
    /// The most of them that can be explained, by their places in `operations`, in
    /// the order that explains them. What follows next contradicts it.
    pub explained: Vec<usize>,
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Display for NotLinearizable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the history of {:?} is not linearizable", self.key)?;
        let mut line = |mark: &str, place: usize| match self.operations.get(place) {
            Some(Operation {
                called,
                returned: Some(returned),
                step,
            }) => write!(f, "\n  {mark} {called:>4} to {returned:>4}: {step:?}"),
            Some(Operation { called, step, .. }) => {
                write!(f, "\n  {mark} {called:>4} to    ?: {step:?}")
            }
            None => Ok(()),
        };
        for place in &self.explained {
            line("then", *place)?;
        }
        let rest = (0..self.operations.len()).filter(|place| !self.explained.contains(place));
        for place in rest {
            line("and no longer", place)?;
        }
        Ok(())
    }
}

impl<K: fmt::Debug, V: fmt::Debug> Error for NotLinearizable<K, V> {}
