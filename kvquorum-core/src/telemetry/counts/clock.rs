//! How far ahead entries are, and when the clock is.

use std::time::Duration;

use metrics::{Counter, Histogram, Unit};
use metrics::{counter, describe_counter, describe_histogram, histogram};

const DRIFT: &str = "kvquorum_clock_drift_seconds";
const NOT_FOLLOWED: &str = "kvquorum_clock_not_followed_total";
const STEPPED_BACK: &str = "kvquorum_clock_steps_back_total";

pub(in crate::telemetry) struct ClockCounts {
    drift: Histogram,
    not_followed: Counter,
    stepped_back: Counter,
}

impl ClockCounts {
    pub(in crate::telemetry) fn new() -> Self {
        Self {
            drift: histogram!(DRIFT),
            not_followed: counter!(NOT_FOLLOWED),
            stepped_back: counter!(STEPPED_BACK),
        }
    }

    // Cold, so that the clock, which seldom sees any, saves no registers for it.
    #[cold]
    pub(in crate::telemetry) fn drift_seen(&self, millis: u64, is_followed: bool) {
        self.drift.record(Duration::from_millis(millis));
        if !is_followed {
            self.not_followed.increment(1);
        }
    }

    pub(in crate::telemetry) fn stepped_back(&self) {
        self.stepped_back.increment(1);
    }
}

pub(super) fn describe() {
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    describe_histogram!(
        DRIFT,
        Unit::Seconds,
        "How far ahead of the wall clock an entry was that a replica told of"
    );
    count(
        NOT_FOLLOWED,
        "Entries that were too far ahead for the clock to follow",
    );
    count(
        STEPPED_BACK,
        "Times that the clock stepped back to its wall clock",
    );
}
