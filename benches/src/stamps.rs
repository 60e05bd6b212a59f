//! Where entries written by hand get their versions.

use kvquorum_core::{Bytes, Clock, DEFAULT_MAX_DRIFT, Entry, SystemClock, Version, WriterId};

/// A clock and a writer's id.
pub(crate) struct Stamps {
    clock: Clock,
    writer: WriterId,
}

impl Stamps {
    pub(crate) fn new() -> Self {
        Self {
            clock: Clock::new(SystemClock, DEFAULT_MAX_DRIFT),
            writer: WriterId::random(),
        }
    }

    #[inline]
    pub(crate) fn entry(&self, value: &Bytes) -> Entry {
        let version = Version {
            timestamp: self.clock.tick().unwrap(),
            writer: self.writer,
        };
        Entry::new(version, value.clone())
    }
}
