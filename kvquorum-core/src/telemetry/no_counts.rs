//! Without the feature `metrics`.

use super::{Ended, Kind, Settling};
use crate::coordinator::{
    CollectError, Collected, HintStats, IdentityError, PassReport, RejoinProgress,
};
use crate::outcome::ReplicaFailure;

#[derive(Debug)]
pub(super) struct Counts<const N: usize>;

impl<const N: usize> Counts<N> {
    pub(super) fn new(_: [&str; N]) -> Self {
        Self
    }

    pub(super) fn end(&self, _: Kind, _: Ended, _: &Stopwatch) {}

    pub(super) fn answered(&self, _: usize, _: &Stopwatch) {}

    pub(super) fn failed(&self, _: usize, _: &ReplicaFailure) {}

    pub(super) fn misidentified(&self, _: usize, _: &IdentityError) {}

    pub(super) fn superseded(&self) {}

    pub(super) fn retries(&self, _: Kind) {}

    pub(super) fn repaired(&self, _: usize, _: bool) {}

    pub(super) fn background_begins(&self, _: usize, _: bool) {}

    pub(super) fn background_ends(&self, _: usize) {}

    pub(super) fn given_up(&self, _: usize) {}

    pub(super) fn abandoned(&self, _: bool) {}

    pub(super) fn pass_ended(&self, _: &PassReport, _: u64) {}

    pub(super) fn collection_ended(&self, _: &Result<Collected, CollectError>) {}

    pub(super) fn rejoin_ended(&self, _: &RejoinProgress, _: bool, _: &Stopwatch) {}

    pub(super) fn hints_changed(&self, _: usize, _: HintStats, _: HintStats) {}

    pub(super) fn settled(&self, _: Settling, _: bool) {}

    pub(super) fn turn(&self, _: &Stopwatch, _: bool) {}
}

pub(super) struct ClockCounts;

impl ClockCounts {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn drift_seen(&self, _: u64, _: bool) {}

    pub(super) fn stepped_back(&self) {}
}

pub(crate) struct Stopwatch;

impl Stopwatch {
    pub(crate) fn started() -> Self {
        Self
    }

    pub(crate) fn stopped() -> Self {
        Self
    }

    pub(crate) fn sampled() -> Self {
        Self
    }

    pub(crate) fn start(&mut self) {}
}
