//! What an operator sees: counts and times through the `metrics` facade, spans and
//! events through `tracing`.
//!
//! Here, and nowhere else, the features choose. Without them all of it is empty
//! types and empty functions.

#[cfg(feature = "metrics")]
mod counts;
#[cfg(not(feature = "metrics"))]
#[path = "no_counts.rs"]
mod counts;
#[cfg(feature = "tracing")]
mod events;
#[cfg(not(feature = "tracing"))]
#[path = "no_events.rs"]
mod events;
mod sample;

pub(crate) use counts::Stopwatch;
use counts::{ClockCounts, Counts};
pub use events::EventLimit;
use events::{ClockEvents, Events};
pub(crate) use events::{OperationSpan, in_current_span};
pub use sample::is_sampled;

use crate::coordinator::{
    Calling, CollectError, Collected, HintStats, IdentityError, PassReport, RejoinProgress,
};
use crate::outcome::ReplicaFailure;
use crate::request::{Request, RequestKind};

/// The kinds of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Put,
    Delete,
    Get,
    Update,
    /// Of one page.
    Scan,
}

/// The kinds of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    Read,
    Write,
    Identify,
    Scan,
    Prepare,
    Fingerprint,
    Versions,
    Status,
    Rejoin,
    Repair,
    Collect,
}

impl CallKind {
    pub(crate) fn of(request: &Request) -> Self {
        match request.kind {
            RequestKind::Read { .. } => Self::Read,
            RequestKind::Write { .. } => Self::Write,
            RequestKind::Repair { .. } => Self::Repair,
            RequestKind::Identify { .. } => Self::Identify,
            RequestKind::Scan { .. } => Self::Scan,
            RequestKind::Prepare { .. } => Self::Prepare,
            RequestKind::Fingerprint(_) => Self::Fingerprint,
            RequestKind::Versions(_) => Self::Versions,
            RequestKind::Status => Self::Status,
            RequestKind::Announce { .. }
            | RequestKind::Forget { .. }
            | RequestKind::Join { .. }
            | RequestKind::Records { .. }
            | RequestKind::Copy { .. }
            | RequestKind::Open { .. } => Self::Rejoin,
            RequestKind::Seal { .. } | RequestKind::Collect { .. } | RequestKind::Sweep { .. } => {
                Self::Collect
            }
        }
    }
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Done,
    NotApplied,
    MaybeApplied,
    Superseded,
    ClockExhausted,
    Unanswered,
    NotRepaired,
    Contended,
}

/// Who needs a key settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settling {
    /// A get of a register.
    Get,
    Pass,
}

/// Of one coordinator and its clones.
#[derive(Debug)]
pub(crate) struct Telemetry<const N: usize> {
    counts: Counts<N>,
    events: Events<N>,
}

impl<const N: usize> Telemetry<N> {
    pub(crate) fn new(names: [&str; N]) -> Self {
        Self {
            counts: Counts::new(names),
            events: Events::new(names),
        }
    }

    /// An operation is over, and had to wait for so long.
    #[inline]
    pub(crate) fn end(&self, kind: Kind, ended: Ended, waited: &Stopwatch) {
        self.counts.end(kind, ended, waited);
    }

    /// Goes on with a call in a span of its own.
    pub(crate) fn in_call_span(&self, replica: usize, kind: CallKind, call: Calling) -> Calling {
        self.events.in_call_span(replica, kind, call)
    }

    /// A call was answered that was not over at once.
    pub(crate) fn answered(&self, replica: usize, waited: &Stopwatch) {
        self.counts.answered(replica, waited);
        self.events.answered(replica);
    }

    /// Some calls of an operation were answered at once: that is counted with the
    /// operation.
    #[inline]
    pub(crate) fn answered_at_once(&self, has_answered: impl Fn(usize) -> bool) {
        if self.events.are_some_gone() {
            let answered = (0..N).filter(|replica| has_answered(*replica));
            answered.for_each(|replica| self.events.answered(replica));
        }
    }

    pub(crate) fn failed(&self, replica: usize, failure: &ReplicaFailure) {
        self.counts.failed(replica, failure);
        self.events.failed(replica, failure);
    }

    pub(crate) fn misidentified(&self, replica: usize, error: &IdentityError) {
        self.counts.misidentified(replica, error);
        self.events.misidentified(replica, error);
    }

    /// An attempt of a write found itself superseded.
    pub(crate) fn superseded(&self) {
        self.counts.superseded();
    }

    /// An operation makes a further attempt.
    pub(crate) fn retries(&self, kind: Kind) {
        self.counts.retries(kind);
    }

    /// A repair of a replica ended.
    pub(crate) fn repaired(&self, replica: usize, is_acked: bool) {
        self.counts.repaired(replica, is_acked);
    }

    /// A call goes on in the background: `is_straggler` if its operation was just
    /// decided.
    pub(crate) fn background_begins(&self, replica: usize, is_straggler: bool) {
        self.counts.background_begins(replica, is_straggler);
    }

    pub(crate) fn background_ends(&self, replica: usize) {
        self.counts.background_ends(replica);
    }

    pub(crate) fn given_up(&self, replica: usize) {
        self.counts.given_up(replica);
    }

    /// A caller left before its operation was decided.
    pub(crate) fn abandoned(&self, is_carried_on: bool) {
        self.counts.abandoned(is_carried_on);
    }

    /// An attempt to have a replica rejoin has ended.
    pub(crate) fn rejoin_ended(
        &self,
        progress: &RejoinProgress,
        is_done: bool,
        waited: &Stopwatch,
    ) {
        self.counts.rejoin_ended(progress, is_done, waited);
    }

    /// A pass has ended, or was cut, at this time of the wall clock's.
    pub(crate) fn pass_ended(&self, report: &PassReport, now_millis: u64) {
        self.counts.pass_ended(report, now_millis);
    }

    /// A pass that was to collect deletes is over.
    pub(crate) fn collection_ended(&self, collection: &Result<Collected, CollectError>) {
        self.counts.collection_ended(collection);
    }

    /// What is known of the hints for a replica has changed.
    pub(crate) fn hints_changed(&self, replica: usize, before: HintStats, now: HintStats) {
        self.counts.hints_changed(replica, before, now);
    }

    /// An update that settles a key is over.
    pub(crate) fn settled(&self, settling: Settling, is_done: bool) {
        self.counts.settled(settling, is_done);
    }

    /// An update has its turn, or goes ahead without, and had to wait for so long.
    pub(crate) fn turn(&self, waited: &Stopwatch, is_missed: bool) {
        self.counts.turn(waited, is_missed);
    }
}

/// Of one clock.
pub(crate) struct ClockTelemetry {
    counts: ClockCounts,
    events: ClockEvents,
}

impl ClockTelemetry {
    pub(crate) fn new() -> Self {
        Self {
            counts: ClockCounts::new(),
            events: ClockEvents::new(),
        }
    }

    /// An answer told of a timestamp that is this far ahead of the wall clock.
    pub(crate) fn drift_seen(&self, millis: u64, is_followed: bool) {
        self.counts.drift_seen(millis, is_followed);
        self.events.drift_seen(millis, is_followed);
    }

    pub(crate) fn stepped_back(&self) {
        self.counts.stepped_back();
        self.events.stepped_back();
    }
}
