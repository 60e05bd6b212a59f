//! Without the feature `tracing`.

use std::marker::PhantomData;

use super::{CallKind, Kind};
use crate::coordinator::{Calling, IdentityError};
use crate::outcome::ReplicaFailure;

#[derive(Debug)]
pub(super) struct Events<const N: usize>;

impl<const N: usize> Events<N> {
    pub(super) fn new(_: [&str; N]) -> Self {
        Self
    }

    pub(super) fn in_call_span(&self, _: usize, _: CallKind, call: Calling) -> Calling {
        call
    }

    pub(super) fn answered(&self, _: usize) {}

    pub(super) fn are_some_gone(&self) -> bool {
        false
    }

    pub(super) fn failed(&self, _: usize, _: &ReplicaFailure) {}

    pub(super) fn misidentified(&self, _: usize, _: &IdentityError) {}
}

pub(super) struct ClockEvents;

impl ClockEvents {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn drift_seen(&self, _: u64, _: bool) {}

    pub(super) fn stepped_back(&self) {}
}

pub(crate) struct Entered<'a>(PhantomData<&'a OperationSpan>);

/// So that it can be dropped early, as one that does something.
impl Drop for Entered<'_> {
    fn drop(&mut self) {}
}

#[derive(Clone)]
pub(crate) struct OperationSpan;

impl OperationSpan {
    pub(crate) fn new(_: Kind) -> Self {
        Self
    }

    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered(PhantomData)
    }
}

pub(crate) fn in_current_span<F>(task: F) -> F {
    task
}

/// At most so many events of one kind.
#[derive(Debug, Default)]
pub struct EventLimit;
