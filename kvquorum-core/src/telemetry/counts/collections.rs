//! What collections of deletes came to.

use std::time::Duration;

use metrics::{Counter, Gauge, Unit};
use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::coordinator::{CollectError, Collected};

const COLLECTIONS: &str = "kvquorum_collections_total";
const UPTO: &str = "kvquorum_collected_up_to_timestamp_seconds";

#[derive(Debug)]
pub(super) struct CollectionCounts {
    collected: Counter,
    waiting: Counter,
    not_level: Counter,
    rejoined: Counter,
    failed: Counter,
    upto: Gauge,
}

impl CollectionCounts {
    pub(super) fn new() -> Self {
        let ended = |outcome| counter!(COLLECTIONS, "outcome" => outcome);
        Self {
            collected: ended("collected"),
            waiting: ended("waiting"),
            not_level: ended("not_level"),
            rejoined: ended("rejoined"),
            failed: ended("failed"),
            upto: gauge!(UPTO),
        }
    }

    pub(super) fn ended(&self, collected: &Result<Collected, CollectError>) {
        let outcome = match collected {
            Ok(collected) if collected.replicas.iter().all(|it| it.failure.is_none()) => {
                let upto = Duration::from_millis(collected.upto.millis());
                self.upto.set(upto);
                &self.collected
            }
            Ok(_) => &self.failed,
            Err(CollectError::Waiting { .. }) => &self.waiting,
            Err(CollectError::NotLevel) => &self.not_level,
            Err(CollectError::Rejoined) => &self.rejoined,
        };
        outcome.increment(1);
    }
}

pub(super) fn describe() {
    describe_counter!(
        COLLECTIONS,
        Unit::Count,
        "Passes that were to collect deletes, by what came of it"
    );
    describe_gauge!(
        UPTO,
        Unit::Seconds,
        "Up to when deletes are collected on all replicas, since 1970; 0 before the first time"
    );
}
