//! The search for an order that explains a history.

use std::collections::HashSet;
use std::hash::Hash;

use super::bits::Bits;
use super::{Operation, Step};

/// Whether these operations on one register, which holds nothing at first, are
/// linearizable.
///
/// # Errors
///
/// Where they are not: the longest sequence that can be explained, by places in
/// `operations`.
///
/// ```
/// use kvquorum_testing::linearizability::{Operation, Step, check};
///
/// let write = Operation { called: 1, returned: Some(3), step: Step::Write(Some("tea")) };
/// let read = Operation { called: 2, returned: Some(4), step: Step::Read(None) };
/// assert_eq!(check(&[write.clone(), read.clone()]), Ok(()));
/// let late = Operation { called: 4, ..read };
/// assert_eq!(check(&[write, late]), Err(vec![0]));
/// ```
pub fn check<V: Clone + Eq + Hash>(operations: &[Operation<V>]) -> Result<(), Vec<usize>> {
    Search::new(operations).run()
}

struct Search<'a, V> {
    /// Those that returned, in the order in which they were called.
    returned: Vec<Place<'a, V>>,
    /// Those that may have taken effect, in the same order.
    pending: Vec<Place<'a, V>>,
    /// Of each that is pending, the one before it that does the same. It is used
    /// first: one is as good as the other.
    twins: Vec<Option<usize>>,
    done: Done,
    seen: HashSet<(Done, Option<V>, bool)>,
}

struct Place<'a, V> {
    place: usize,
    operation: &'a Operation<V>,
}

/// Which operations were explained.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Done {
    returned: Bits,
    pending: Bits,
}

/// An operation that may come next, and what the register holds after it.
struct Next<V> {
    operation: Which,
    after: Option<V>,
}

#[derive(Clone, Copy)]
enum Which {
    Returned(usize),
    Pending(usize),
}

/// What was explained last, and what may come next that was not tried yet.
struct Level<V> {
    last: Option<Which>,
    untried: Vec<Next<V>>,
}

impl<'a, V: Clone + Eq + Hash> Search<'a, V> {
    fn new(operations: &'a [Operation<V>]) -> Self {
        let mut places: Vec<Place<V>> = operations
            .iter()
            .enumerate()
            .map(|(place, operation)| Place { place, operation })
            .collect();
        places.sort_by_key(|it| it.operation.called);
        let (returned, mut pending): (Vec<_>, Vec<_>) = places
            .into_iter()
            .partition(|it| it.operation.returned.is_some());
        let used = Used::of(operations);
        pending.retain(|it| used.may_matter(&it.operation.step));
        let twins = (0..pending.len())
            .map(|at| {
                let is_same =
                    |it: &Place<V>| it.operation.step.is_same(&pending[at].operation.step);
                pending[..at].iter().rposition(is_same)
            })
            .collect();
        Self {
            returned,
            pending,
            twins,
            done: Done::default(),
            seen: HashSet::new(),
        }
    }

    fn run(mut self) -> Result<(), Vec<usize>> {
        let mut longest = Vec::new();
        let mut explained = 0;
        let mut levels = vec![Level {
            last: None,
            untried: self.next(None, false),
        }];
        while explained < self.returned.len() {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else {
                return Err(longest);
            };
            let Some(Next { operation, after }) = level.untried.pop() else {
                let last = level.last;
                if depth > longest.len() + 1 {
                    let order = levels.iter().filter_map(|level| level.last);
                    longest = order.map(|which| self.place(which)).collect();
                }
                if let Some(last) = last {
                    self.take_back(last);
                    explained -= usize::from(matches!(last, Which::Returned(_)));
                }
                levels.pop();
                continue;
            };
            self.explain(operation);
            let is_pending = matches!(operation, Which::Pending(_));
            let state = (self.done.clone(), after.clone(), is_pending);
            if !self.seen.insert(state) {
                self.take_back(operation);
                continue;
            }
            explained += usize::from(!is_pending);
            levels.push(Level {
                last: Some(operation),
                untried: self.next(after, is_pending),
            });
        }
        Ok(())
    }

    /// What may come next, the likeliest last. What need not have happened did so
    /// for what comes after it: that is none that writes whatever was there.
    fn next(&self, held: Option<V>, after_pending: bool) -> Vec<Next<V>> {
        let is_out = |step: &Step<V>| after_pending && matches!(step, Step::Write(_));
        let mut next = Vec::new();
        // Whatever was called after another had returned comes after it.
        let mut limit = u64::MAX;
        for at in self.done.returned.all_below()..self.returned.len() {
            let operation = self.returned[at].operation;
            if operation.called > limit {
                break;
            }
            if self.done.returned.contains(at) {
                continue;
            }
            limit = limit.min(operation.returned.unwrap_or(u64::MAX));
            if !is_out(&operation.step)
                && let Some(after) = operation.step.after(&held)
            {
                let operation = Which::Returned(at);
                if let Step::Read(_) = self.returned[at].operation.step {
                    // It changes nothing: now is as good as later.
                    return vec![Next { operation, after }];
                }
                next.push(Next { operation, after });
            }
        }
        next.reverse();
        let mut pending = Vec::new();
        for at in self.done.pending.all_below()..self.pending.len() {
            let operation = self.pending[at].operation;
            if operation.called > limit {
                break;
            }
            let twin_is_done = self.twins[at].is_none_or(|twin| self.done.pending.contains(twin));
            if !self.done.pending.contains(at)
                && twin_is_done
                && !is_out(&operation.step)
                && let Some(after) = operation.step.after(&held)
                && after != held
            {
                let operation = Which::Pending(at);
                pending.push(Next { operation, after });
            }
        }
        pending.append(&mut next);
        pending
    }

    fn explain(&mut self, which: Which) {
        match which {
            Which::Returned(at) => self.done.returned.insert(at),
            Which::Pending(at) => self.done.pending.insert(at),
        }
    }

    fn take_back(&mut self, which: Which) {
        match which {
            Which::Returned(at) => self.done.returned.remove(at),
            Which::Pending(at) => self.done.pending.remove(at),
        }
    }

    fn place(&self, which: Which) -> usize {
        match which {
            Which::Returned(at) => self.returned[at].place,
            Which::Pending(at) => self.pending[at].place,
        }
    }
}

/// Which values any operation needs to find.
struct Used<'a, V> {
    found: HashSet<&'a Option<V>>,
    /// Whether there are functions, which may find any.
    any: bool,
}

impl<'a, V: Clone + Eq + Hash> Used<'a, V> {
    fn of(operations: &'a [Operation<V>]) -> Self {
        let mut used = Self {
            found: HashSet::new(),
            any: false,
        };
        for operation in operations {
            match &operation.step {
                Step::Read(found) if operation.returned.is_some() => {
                    used.found.insert(found);
                }
                Step::Swap(found, _) => {
                    used.found.insert(found);
                }
                Step::Update(_) => used.any = true,
                Step::Read(_) | Step::Write(_) => {}
            }
        }
        used
    }

    /// Whether a step that need not have happened can explain anything: a value that
    /// nobody finds explains nothing, as only a write can come after it.
    fn may_matter(&self, step: &Step<V>) -> bool {
        match step {
            Step::Read(_) => false,
            Step::Write(left) | Step::Swap(_, left) => self.any || self.found.contains(left),
            Step::Update(_) => true,
        }
    }
}
