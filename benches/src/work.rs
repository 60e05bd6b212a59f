//! What is done with a map while it is measured.

use std::fmt;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvquorum_core::{Bytes, Key};
use tokio::runtime::Runtime;

use crate::map::Map;

/// How many keys there are: few enough that a core's cache holds them.
pub const KEYS: usize = 1_024;

/// How many tasks many are.
pub const TASKS: usize = 64;

// Or tasks would not have keys of their own.
const _: () = assert!(KEYS.is_multiple_of(TASKS));

/// How long the work between two looks at the clock takes at least. Turns this
/// short meet the machine at the same speed.
const TURN: Duration = Duration::from_millis(10);

/// A put or a get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Over a value that exists.
    Put,
    /// Of a value that exists, and is the same on all replicas.
    Get,
}

impl Operation {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Put, Self::Get];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
        })
    }
}

/// An operation, on these keys, with these values.
#[derive(Clone)]
pub struct Work {
    /// What is done.
    pub operation: Operation,
    /// All keys there are, and what is put under each. Values that were one
    /// allocation would have all threads count its references.
    pub pairs: Arc<[(Key, Bytes)]>,
}

/// Which keys one task works on: so many after the first, round and round.
#[derive(Clone, Copy)]
pub struct Walk {
    first: usize,
    keys: usize,
    operations: usize,
}

impl Walk {
    /// Each key once.
    pub fn over_all() -> Self {
        Self::alone(KEYS)
    }

    /// So many operations of a task that has all keys.
    pub fn alone(operations: usize) -> Self {
        Self {
            first: 0,
            keys: KEYS,
            operations,
        }
    }
}

/// Which keys each of many tasks works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Each on its own.
    Disjoint,
    /// Each on all, every task a little further on than the one before it.
    Shared,
}

impl Sharing {
    fn walk(self, task: usize, operations: usize) -> Walk {
        const OWN: usize = KEYS / TASKS;
        let (first, keys) = match self {
            Self::Disjoint => (task * OWN, OWN),
            Self::Shared => (task, KEYS),
        };
        Walk {
            first,
            keys,
            operations,
        }
    }
}

impl Work {
    /// An operation on all keys with values of this length.
    pub fn new(operation: Operation, value_len: usize) -> Self {
        let pair = |index| {
            let key = format!("key-{index:09}");
            (key.into(), vec![b'v'; value_len].into())
        };
        Self {
            operation,
            pairs: (0..KEYS).map(pair).collect(),
        }
    }

    /// The same with puts.
    pub(crate) fn putting(&self) -> Self {
        Self {
            operation: Operation::Put,
            ..self.clone()
        }
    }

    /// One operation on the key with this number; they come again and again.
    pub(crate) async fn once(&self, map: &impl Map, number: usize) {
        let (key, value) = &self.pairs[number % KEYS];
        match self.operation {
            Operation::Put => map.put(key, value).await,
            Operation::Get => drop(black_box(map.get(key).await)),
        }
    }

    /// One operation after the other.
    pub async fn on(&self, map: &impl Map, walk: Walk) {
        let mut further = 0;
        for _ in 0..walk.operations {
            self.once(map, walk.first + further).await;
            further += 1;
            if further == walk.keys {
                further = 0;
            }
        }
    }

    /// How long one task takes on this thread.
    pub fn time(&self, runtime: &Runtime, map: &impl Map, operations: usize) -> Duration {
        let start = Instant::now();
        runtime.block_on(self.on(map, Walk::alone(operations)));
        start.elapsed()
    }

    /// How long many tasks take together, each with its share of the
    /// operations.
    pub fn time_of_many<M: Map>(
        &self,
        runtime: &Runtime,
        map: &Arc<M>,
        sharing: Sharing,
        operations: usize,
    ) -> Duration {
        let share = operations.div_ceil(TASKS);
        let start = Instant::now();
        let spawn = |task| {
            let (work, map) = (self.clone(), Arc::clone(map));
            runtime.spawn(async move { work.on(&*map, sharing.walk(task, share)).await })
        };
        let tasks: Vec<_> = (0..TASKS).map(spawn).collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
        start
            .elapsed()
            .mul_f64(operations as f64 / (share * TASKS) as f64)
    }
}

/// Nanoseconds for an operation, from a function that takes how many to do and
/// tells how long they took. How many make a turn is found out at the first.
pub fn nanos(time: impl Fn(usize) -> Duration) -> impl FnMut() -> f64 {
    let mut operations = TASKS;
    let mut long_enough = false;
    move || {
        loop {
            let taken = time(operations);
            if long_enough || taken >= TURN {
                long_enough = true;
                return taken.as_secs_f64() * 1e9 / operations as f64;
            }
            operations *= 2;
        }
    }
}
