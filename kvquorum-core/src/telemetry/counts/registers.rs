//! What registers cost beside their operations and attempts.

use metrics::{Counter, Histogram, Unit};
use metrics::{counter, describe_counter, describe_histogram, histogram};

use super::Stopwatch;
use crate::telemetry::Settling;

const SETTLINGS: &str = "kvquorum_settlings_total";
const TURN_WAIT: &str = "kvquorum_turn_wait_seconds";
const MISSED_TURNS: &str = "kvquorum_missed_turns_total";

#[derive(Debug)]
pub(super) struct RegisterCounts {
    /// By who needed it, failed and done.
    settlings: [[Counter; 2]; 2],
    turn_wait: Histogram,
    missed_turns: Counter,
}

impl RegisterCounts {
    pub(super) fn new() -> Self {
        Self {
            settlings: ["get", "pass"].map(|kind| {
                ["failed", "ok"]
                    .map(|outcome| counter!(SETTLINGS, "kind" => kind, "outcome" => outcome))
            }),
            turn_wait: histogram!(TURN_WAIT),
            missed_turns: counter!(MISSED_TURNS),
        }
    }

    pub(super) fn settled(&self, settling: Settling, is_done: bool) {
        let outcomes = self.settlings.get(settling as usize);
        if let Some(counter) = outcomes.and_then(|it| it.get(usize::from(is_done))) {
            counter.increment(1);
        }
    }

    pub(super) fn turn(&self, waited: &Stopwatch, is_missed: bool) {
        if let Some(waited) = waited.elapsed() {
            self.turn_wait.record(waited);
        }
        if is_missed {
            self.missed_turns.increment(1);
        }
    }
}

pub(super) fn describe() {
    describe_counter!(
        SETTLINGS,
        Unit::Count,
        "Updates that gave a key a version which all replicas can take"
    );
    describe_histogram!(
        TURN_WAIT,
        Unit::Seconds,
        "How long updates waited for others of the same key"
    );
    describe_counter!(
        MISSED_TURNS,
        Unit::Count,
        "Updates that had waited for too long, and went ahead without their turn"
    );
}
