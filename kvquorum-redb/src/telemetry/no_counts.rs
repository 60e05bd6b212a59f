//! Without the feature `metrics`.

use std::time::Duration;

use crate::compaction::Compaction;

pub(crate) struct Counts;

impl Counts {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn committing<T>(&self, commit: impl FnOnce() -> T) -> T {
        commit()
    }

    pub(crate) fn applied(&self, _: usize, _: usize) {}

    pub(crate) fn write_failed(&self) {}

    pub(crate) fn read_failed(&self) {}

    pub(crate) fn backed_up(&self, _: bool) {}

    pub(crate) fn compacted(&self, _: Option<&Compaction>, _: Duration) {}
}
