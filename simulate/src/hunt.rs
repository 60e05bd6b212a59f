//! Seeds by the thousand, until one breaks a promise.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::panic::{self, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use crate::oracle::{Counts, Violation};
use crate::scenario::{self, Plan, Run};

/// What all seeds together came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub seeds: u64,
    pub counts: Counts,
    pub simulated: Duration,
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Runs one seed. A panic breaks a promise too, and also where it only ends a
/// task in the background; unless a store was to panic, which the hook is not told
/// of.
pub fn run(plan: Plan) -> Run {
    static COUNTING: Once = Once::new();
    COUNTING.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            report(panic);
        }));
    });
    let before = PANICS.get();
    let broken = |what: String| Run {
        violation: Some(Violation {
            promise: "no panic",
            what,
        }),
        ..Run::default()
    };
    match catch_unwind(|| scenario::run(plan)) {
        Ok(Err(error)) => broken(error.to_string()),
        Ok(Ok(run)) if PANICS.get() == before => run,
        _ => broken(format!("seed {} panics", plan.seed)),
    }
}

/// Runs seeds until all are run or one breaks a promise, which is returned: the
/// least of those that were found.
pub fn hunt(
    plan: Plan,
    seeds: u64,
    jobs: NonZeroUsize,
    progress: impl Fn() + Sync,
) -> (Tally, Option<u64>) {
    let next = AtomicU64::new(0);
    let found = AtomicU64::new(u64::MAX);
    let total = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            scope.spawn(|| {
                let mut tally = Tally::default();
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    if offset >= seeds || found.load(Ordering::Relaxed) != u64::MAX {
                        break;
                    }
                    let seed = plan.seed.wrapping_add(offset);
                    let run = run(Plan { seed, ..plan });
                    if run.violation.is_some() {
                        found.fetch_min(offset, Ordering::Relaxed);
                    }
                    tally.seeds += 1;
                    tally.counts.add(&run.counts);
                    tally.simulated += run.simulated;
                    progress();
                }
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                total.seeds += tally.seeds;
                total.counts.add(&tally.counts);
                total.simulated += tally.simulated;
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let found = found.into_inner();
    let seed = (found != u64::MAX).then(|| plan.seed.wrapping_add(found));
    (total, seed)
}

/// The fewest operations of a seed that break a promise, and the run of them.
/// An operation that never begins changes nothing of what came before it.
pub fn shorten(plan: Plan) -> Option<(u64, Run)> {
    (0..=Plan::MOST_OPERATIONS).find_map(|operations| {
        let run = run(Plan {
            operations: Some(operations),
            keep_trace: true,
            ..plan
        });
        run.violation.is_some().then_some((operations, run))
    })
}
