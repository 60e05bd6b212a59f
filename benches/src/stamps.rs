//! Where entries written by hand get their versions.

use std::sync::atomic::{AtomicU64, Ordering};

use kvquorum_core::{Bytes, Entry, SystemClock, Timestamp, Version, WallClock, WriterId};

/// A hybrid logical clock that follows nobody, and a writer's id.
pub(crate) struct Stamps {
    last: CachePadded,
    writer: WriterId,
}

/// As the coordinator's clock has it, to avoid false sharing.
#[repr(align(128))]
struct CachePadded(AtomicU64);

impl Stamps {
    pub(crate) fn new() -> Self {
        Self {
            last: CachePadded(AtomicU64::new(0)),
            writer: WriterId::random(),
        }
    }

    #[inline]
    pub(crate) fn entry(&self, value: &Bytes) -> Entry {
        let version = Version {
            timestamp: self.tick(),
            writer: self.writer,
        };
        Entry::new(version, value.clone())
    }

    /// The wall clock's time, or the timestamp after the last where that is later.
    fn tick(&self) -> Timestamp {
        let now = Timestamp::new(SystemClock.now_millis(), 0)
            .unwrap()
            .to_bits();
        let CachePadded(last) = &self.last;
        let step = || last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut tick = step();
        if tick < now {
            let before = last.fetch_max(now, Ordering::Relaxed);
            tick = if before < now { now } else { step() };
        }
        Timestamp::from_bits(tick)
    }
}
