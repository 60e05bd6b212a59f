//! What passes came to, as their reports tell it.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};
use metrics::{counter, gauge, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram};

use crate::coordinator::{PassReport, ReplicaPass};

const PASSES: &str = "kvquorum_passes_total";
const DURATION: &str = "kvquorum_pass_duration_seconds";
const LAST_COMPLETE: &str = "kvquorum_last_complete_pass_timestamp_seconds";
const KEYS: &str = "kvquorum_pass_keys_total";
const DIFFERING: &str = "kvquorum_pass_differing_keys_total";
const BYTES: &str = "kvquorum_pass_bytes_total";
const REPLICAS: &str = "kvquorum_pass_replicas_total";
const REPAIRS: &str = "kvquorum_pass_repairs_total";

#[derive(Debug)]
pub(super) struct PassCounts<const N: usize> {
    complete: Counter,
    incomplete: Counter,
    duration: Histogram,
    last_complete: Gauge,
    keys: Counter,
    differing: Counter,
    bytes: Counter,
    replicas: [Replica; N],
}

impl<const N: usize> PassCounts<N> {
    pub(super) fn new(names: [&str; N]) -> Self {
        Self {
            complete: counter!(PASSES, "outcome" => "complete"),
            incomplete: counter!(PASSES, "outcome" => "incomplete"),
            duration: histogram!(DURATION),
            last_complete: gauge!(LAST_COMPLETE),
            keys: counter!(KEYS),
            differing: counter!(DIFFERING),
            bytes: counter!(BYTES),
            replicas: names.map(Replica::new),
        }
    }

    pub(super) fn ended(&self, report: &PassReport, now_millis: u64) {
        if report.is_complete() {
            self.complete.increment(1);
            self.last_complete.set(Duration::from_millis(now_millis));
        } else {
            self.incomplete.increment(1);
        }
        self.duration.record(report.took);
        self.keys.increment(report.progress.keys);
        self.differing.increment(report.progress.differing);
        self.bytes.increment(report.progress.bytes);
        for (replica, part) in self.replicas.iter().zip(&report.replicas) {
            replica.ended(part);
        }
    }
}

#[derive(Debug)]
struct Replica {
    done: Counter,
    not_done: Counter,
    repaired: Counter,
    not_repaired: Counter,
}

impl Replica {
    fn new(name: &str) -> Self {
        let by =
            |metric, outcome| counter!(metric, "replica" => name.to_owned(), "outcome" => outcome);
        Self {
            done: by(REPLICAS, "done"),
            not_done: by(REPLICAS, "not_done"),
            repaired: by(REPAIRS, "acked"),
            not_repaired: by(REPAIRS, "failed"),
        }
    }

    fn ended(&self, part: &ReplicaPass) {
        let outcome = match part.is_done {
            true => &self.done,
            false => &self.not_done,
        };
        outcome.increment(1);
        self.repaired.increment(part.repaired);
        self.not_repaired.increment(part.not_repaired);
    }
}

pub(super) fn describe() {
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    count(PASSES, "Passes that ended, or were cut");
    describe_histogram!(DURATION, Unit::Seconds, "How long passes took");
    describe_gauge!(
        LAST_COMPLETE,
        Unit::Seconds,
        "When the last complete pass ended, since 1970; 0 before the first"
    );
    count(KEYS, "Keys that passes compared");
    count(
        DIFFERING,
        "Keys under which passes found replicas to hold unlike entries",
    );
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Keys, versions, fingerprints and values that passes sent and received"
    );
    count(
        REPLICAS,
        "Passes, by whether they were done for this replica",
    );
    count(REPAIRS, "Entries that passes found this replica to lack");
}
