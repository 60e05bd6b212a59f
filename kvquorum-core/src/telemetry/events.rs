//! With the feature `tracing`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Instrument, Level, Span, debug_span, error, info, level_enabled, warn};

use super::{CallKind, Kind};
use crate::coordinator::{Calling, IdentityError};
use crate::outcome::{ReplicaFailure, WithCauses};
use crate::request::Refusal;
use crate::transport::TransportError;

/// Between two events of one kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Lets one event of a kind through in ten seconds, and counts the others.
#[derive(Debug, Default)]
pub struct EventLimit(Mutex<Limited>);

#[derive(Debug, Default)]
struct Limited {
    last: Option<Instant>,
    held_back: u64,
}

impl EventLimit {
    /// Whether an event may be told now: how many were held back before it.
    pub fn pass(&self) -> Option<u64> {
        let mut limited = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if limited
            .last
            .is_some_and(|last| now.duration_since(last) < PAUSE)
        {
            limited.held_back = limited.held_back.saturating_add(1);
            return None;
        }
        limited.last = Some(now);
        Some(std::mem::take(&mut limited.held_back))
    }
}

#[derive(Debug)]
pub(super) struct Events<const N: usize> {
    /// A bit for each replica of which it was told that it does not answer. There
    /// are at most 64.
    down: AtomicU64,
    replicas: [Replica; N],
}

#[derive(Debug, Default)]
struct Replica {
    name: Box<str>,
    down: EventLimit,
    store: EventLimit,
    panic: EventLimit,
    refusal: EventLimit,
    identity: EventLimit,
}

impl<const N: usize> Events<N> {
    pub(super) fn new(names: [&str; N]) -> Self {
        Self {
            down: AtomicU64::new(0),
            replicas: names.map(|name| Replica {
                name: name.into(),
                ..Replica::default()
            }),
        }
    }

    pub(super) fn in_call_span(&self, replica: usize, kind: CallKind, call: Calling) -> Calling {
        // One comparison where nobody wants the span.
        match self.replicas.get(replica) {
            Some(it) if level_enabled!(Level::DEBUG) => {
                Box::pin(call.instrument(debug_span!("call", replica = &*it.name, ?kind)))
            }
            _ => call,
        }
    }

    #[inline]
    pub(super) fn answered(&self, replica: usize) {
        if self.are_some_gone() {
            self.is_back(replica);
        }
    }

    /// Whether some have not answered since they were called last.
    #[inline]
    pub(super) fn are_some_gone(&self) -> bool {
        self.down.load(Ordering::Relaxed) != 0
    }

    #[cold]
    fn is_back(&self, replica: usize) {
        let bit = bit(replica);
        if self.down.fetch_and(!bit, Ordering::Relaxed) & bit != 0
            && let Some(it) = self.replicas.get(replica)
        {
            info!(replica = &*it.name, "a replica answers again");
        }
    }

    fn is_gone(&self, replica: usize, failure: &ReplicaFailure) {
        let bit = bit(replica);
        if self.down.load(Ordering::Relaxed) & bit == 0
            && let Some(it) = self.replicas.get(replica)
            && let Some(held_back) = it.down.pass()
        {
            self.down.fetch_or(bit, Ordering::Relaxed);
            let error = WithCauses(failure);
            warn!(replica = &*it.name, %error, held_back, "a replica does not answer");
        }
    }

    pub(super) fn failed(&self, replica: usize, failure: &ReplicaFailure) {
        let Some(it) = self.replicas.get(replica) else {
            return;
        };
        let name = &*it.name;
        match failure {
            ReplicaFailure::TimedOut(_)
            | ReplicaFailure::Transport(TransportError::NotSent(_) | TransportError::NoAnswer(_)) =>
            {
                self.is_gone(replica, failure);
            }
            // What it says may name a key, and is told where the store is.
            ReplicaFailure::Transport(TransportError::Store(_)) => {
                if let Some(held_back) = it.store.pass() {
                    error!(replica = name, held_back, "a replica's store failed");
                }
            }
            ReplicaFailure::Panicked(_) => {
                if let Some(held_back) = it.panic.pass() {
                    error!(replica = name, held_back, "a call panicked");
                }
            }
            ReplicaFailure::Refused(Refusal::TooFarAhead { .. })
            | ReplicaFailure::Transport(TransportError::Rejected(_)) => {
                if let Some(held_back) = it.refusal.pass() {
                    warn!(replica = name, error = %WithCauses(failure), held_back, "a replica refuses calls");
                }
            }
            // The caller's, and told to it.
            ReplicaFailure::Refused(_) | ReplicaFailure::GivenUp | ReplicaFailure::Mismatched => {}
        }
    }

    pub(super) fn misidentified(&self, replica: usize, error: &IdentityError) {
        if let Some(it) = self.replicas.get(replica)
            && let Some(held_back) = it.identity.pass()
        {
            error!(replica = &*it.name, %error, held_back, "a replica is not counted");
        }
    }
}

fn bit(replica: usize) -> u64 {
    u32::try_from(replica).map_or(0, |at| 1_u64.wrapping_shl(at))
}

#[derive(Default)]
pub(super) struct ClockEvents {
    ahead: EventLimit,
    back: EventLimit,
}

impl ClockEvents {
    pub(super) fn new() -> Self {
        Self::default()
    }

    #[cold]
    pub(super) fn drift_seen(&self, ahead_millis: u64, is_followed: bool) {
        if !is_followed && let Some(held_back) = self.ahead.pass() {
            warn!(
                ahead_millis,
                held_back, "an entry is too far ahead to follow"
            );
        }
    }

    pub(super) fn stepped_back(&self) {
        if let Some(held_back) = self.back.pass() {
            warn!(
                held_back,
                "the clock stepped back: it was ahead of replicas' clocks"
            );
        }
    }
}

pub(crate) type Entered<'a> = Option<tracing::span::Entered<'a>>;

/// None where nobody wants it. Behind a pointer, so that it makes no operation larger.
#[derive(Clone)]
pub(crate) struct OperationSpan(Option<Box<Span>>);

impl OperationSpan {
    #[inline]
    pub(crate) fn new(kind: Kind) -> Self {
        let is_wanted = level_enabled!(Level::DEBUG);
        Self(is_wanted.then(|| Self::wanted(kind)))
    }

    #[cold]
    fn wanted(kind: Kind) -> Box<Span> {
        Box::new(debug_span!("operation", ?kind))
    }

    /// What is done until this is dropped is done in the span.
    #[inline]
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.0.as_deref().map(Span::enter)
    }
}

/// In place, so that to drop one that is not there is no call.
impl Drop for OperationSpan {
    #[inline]
    fn drop(&mut self) {
        if let Some(span) = self.0.take() {
            close(span);
        }
    }
}

#[cold]
fn close(span: Box<Span>) {
    drop(span);
}

pub(crate) fn in_current_span<F: Future>(task: F) -> impl Future<Output = F::Output> {
    task.in_current_span()
}
