//! What rejoins came to.

use metrics::{Counter, Histogram, Unit};
use metrics::{counter, describe_counter, describe_histogram, histogram};

use super::Stopwatch;
use crate::coordinator::RejoinProgress;

const REJOINS: &str = "kvquorum_rejoins_total";
const DURATION: &str = "kvquorum_rejoin_duration_seconds";
const KEYS: &str = "kvquorum_rejoin_keys_total";

#[derive(Debug)]
pub(super) struct RejoinCounts {
    done: Counter,
    failed: Counter,
    duration: Histogram,
    keys: Counter,
}

impl RejoinCounts {
    pub(super) fn new() -> Self {
        Self {
            done: counter!(REJOINS, "outcome" => "ok"),
            failed: counter!(REJOINS, "outcome" => "failed"),
            duration: histogram!(DURATION),
            keys: counter!(KEYS),
        }
    }

    pub(super) fn ended(&self, progress: &RejoinProgress, is_done: bool, waited: &Stopwatch) {
        let outcome = match is_done {
            true => &self.done,
            false => &self.failed,
        };
        outcome.increment(1);
        if let Some(waited) = waited.elapsed() {
            self.duration.record(waited);
        }
        self.keys.increment(progress.copied);
    }
}

pub(super) fn describe() {
    describe_counter!(
        REJOINS,
        Unit::Count,
        "Attempts to have a replica rejoin that lost its data or is new"
    );
    describe_histogram!(DURATION, Unit::Seconds, "How long these took");
    describe_counter!(KEYS, Unit::Count, "Keys that were copied to such replicas");
}
