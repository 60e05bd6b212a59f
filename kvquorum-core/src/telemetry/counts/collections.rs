//! What collections of deletes came to, as their reports tell it.

use std::time::Duration;

use metrics::{Counter, Gauge, Unit};
use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::coordinator::{CollectError, Collected, CollectedReplica};

const COLLECTIONS: &str = "kvquorum_collections_total";
const COLLECTED_UPTO: &str = "kvquorum_collected_up_to_timestamp_seconds";
const DROPPED: &str = "kvquorum_collected_records_total";
const TOMBSTONES: &str = "kvquorum_tombstones";
const REPLICAS: &str = "kvquorum_collection_replicas_total";

#[derive(Debug)]
pub(super) struct CollectionCounts<const N: usize> {
    done: Counter,
    partial: Counter,
    waiting: Counter,
    not_level: Counter,
    rejoined: Counter,
    upto: Gauge,
    replicas: [Replica; N],
}

impl<const N: usize> CollectionCounts<N> {
    pub(super) fn new(names: [&str; N]) -> Self {
        let by = |outcome| counter!(COLLECTIONS, "outcome" => outcome);
        Self {
            done: by("done"),
            partial: by("partial"),
            waiting: by("waiting"),
            not_level: by("not_level"),
            rejoined: by("rejoined"),
            upto: gauge!(COLLECTED_UPTO),
            replicas: names.map(Replica::new),
        }
    }

    pub(super) fn ended(&self, collection: &Result<Collected, CollectError>) {
        let outcome = match collection {
            Ok(collected) => {
                for (replica, part) in self.replicas.iter().zip(&collected.replicas) {
                    replica.ended(part);
                }
                match collected.replicas.iter().all(|it| it.failure.is_none()) {
                    true => {
                        let upto = Duration::from_millis(collected.upto.millis());
                        self.upto.set(upto);
                        &self.done
                    }
                    false => &self.partial,
                }
            }
            Err(CollectError::Waiting { .. }) => &self.waiting,
            Err(CollectError::NotLevel) => &self.not_level,
            Err(CollectError::Rejoined) => &self.rejoined,
        };
        outcome.increment(1);
    }
}

#[derive(Debug)]
struct Replica {
    done: Counter,
    failed: Counter,
    dropped: Counter,
    tombstones: Gauge,
}

impl Replica {
    fn new(name: &str) -> Self {
        let by = |outcome| counter!(REPLICAS, "replica" => name.to_owned(), "outcome" => outcome);
        Self {
            done: by("done"),
            failed: by("failed"),
            dropped: counter!(DROPPED, "replica" => name.to_owned()),
            tombstones: gauge!(TOMBSTONES, "replica" => name.to_owned()),
        }
    }

    fn ended(&self, part: &CollectedReplica) {
        self.dropped.increment(part.dropped);
        match part.failure {
            Some(_) => self.failed.increment(1),
            // It was swept to its end.
            None => {
                self.done.increment(1);
                #[allow(clippy::cast_precision_loss, reason = "a gauge")]
                self.tombstones.set(part.tombstones as f64);
            }
        }
    }
}

pub(super) fn describe() {
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    count(COLLECTIONS, "Collections of deletes that ended");
    describe_gauge!(
        COLLECTED_UPTO,
        Unit::Seconds,
        "Deletes from before this are collected everywhere, since 1970; 0 before the first"
    );
    count(
        REPLICAS,
        "Collections, by whether this replica collected and dropped all",
    );
    count(
        DROPPED,
        "Records of this replica from which a tombstone or a promise was dropped",
    );
    describe_gauge!(
        TOMBSTONES,
        Unit::Count,
        "Tombstones that this replica held after the last collection"
    );
}
