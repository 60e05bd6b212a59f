//! What became of hints, as their stats tell it.

use metrics::{Counter, Gauge, Unit};
use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::coordinator::HintStats;

const WAITING: &str = "kvquorum_waiting_hints";
const HINTS: &str = "kvquorum_hints_total";
const DUE_PASSES: &str = "kvquorum_due_passes";

/// Of one replica.
#[derive(Debug)]
pub(super) struct HintCounts {
    waiting: Gauge,
    delivered: Counter,
    dropped: Counter,
    due_passes: Gauge,
}

impl HintCounts {
    pub(super) fn new(name: &str) -> Self {
        let hints = |outcome| counter!(HINTS, "replica" => name.to_owned(), "outcome" => outcome);
        Self {
            waiting: gauge!(WAITING, "replica" => name.to_owned()),
            delivered: hints("delivered"),
            dropped: hints("dropped"),
            due_passes: gauge!(DUE_PASSES, "replica" => name.to_owned()),
        }
    }

    /// By how much, and not to what: coordinators of the same replicas share these.
    pub(super) fn changed(&self, before: HintStats, now: HintStats) {
        let waiting = |stats: HintStats| as_value(stats.waiting);
        self.waiting.increment(waiting(now) - waiting(before));
        let delivered = now.delivered.saturating_sub(before.delivered);
        self.delivered.increment(delivered);
        let dropped = now.dropped.saturating_sub(before.dropped);
        self.dropped.increment(dropped);
        let is_due = |stats: HintStats| f64::from(u8::from(stats.is_pass_due));
        self.due_passes.increment(is_due(now) - is_due(before));
    }
}

/// It is exact far beyond any bound.
#[allow(clippy::cast_precision_loss)]
fn as_value(count: usize) -> f64 {
    count as f64
}

pub(super) fn describe() {
    describe_gauge!(
        WAITING,
        Unit::Count,
        "Keys that a replica missed and is yet to be brought"
    );
    describe_counter!(
        HINTS,
        Unit::Count,
        "Keys that a replica missed and was brought, or that were too many to be kept"
    );
    describe_gauge!(
        DUE_PASSES,
        Unit::Count,
        "Whether a pass will be asked for when the replica answers"
    );
}
