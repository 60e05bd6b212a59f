//! With the feature `metrics`.
//!
//! What can be counted is registered once, when a coordinator is made, and its
//! handles are kept. The table in docs/OPERATING.md names all of it.

mod clock;
mod collections;
mod hints;
mod passes;
mod registers;
mod rejoins;
mod stopwatch;

pub(super) use clock::ClockCounts;
use metrics::{Counter, Gauge, Histogram, Unit};
use metrics::{counter, gauge, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram};

use super::{Ended, Kind, Settling};
use crate::coordinator::{
    CollectError, Collected, HintStats, IdentityError, PassReport, RejoinProgress,
};
use crate::outcome::ReplicaFailure;
use crate::request::Refusal;
use crate::transport::TransportError;
use collections::CollectionCounts;
use hints::HintCounts;
use passes::PassCounts;
use registers::RegisterCounts;
use rejoins::RejoinCounts;
pub(crate) use stopwatch::Stopwatch;

const OPERATIONS: &str = "kvquorum_operations_total";
const OPERATION_DURATION: &str = "kvquorum_operation_duration_seconds";
const ABANDONED: &str = "kvquorum_abandoned_operations_total";
const SUPERSEDED: &str = "kvquorum_superseded_attempts_total";
const RETRIES: &str = "kvquorum_retries_total";
const CALLS: &str = "kvquorum_calls_total";
const CALL_DURATION: &str = "kvquorum_call_duration_seconds";
const REFUSALS: &str = "kvquorum_refusals_total";
const MISIDENTIFIED: &str = "kvquorum_identity_mismatches_total";
const REPAIRS: &str = "kvquorum_repairs_total";
const STRAGGLERS: &str = "kvquorum_stragglers_total";
const GIVEN_UP: &str = "kvquorum_given_up_total";
const IN_BACKGROUND: &str = "kvquorum_background_calls";

#[derive(Debug)]
pub(super) struct Counts<const N: usize> {
    /// By kind and outcome.
    operations: [[Counter; OUTCOMES]; Kind::ALL.len()],
    durations: [Histogram; Kind::ALL.len()],
    carried_on: Counter,
    dropped: Counter,
    superseded: Counter,
    retries: [Counter; Kind::ALL.len()],
    replicas: [Replica; N],
    passes: PassCounts<N>,
    collections: CollectionCounts<N>,
    rejoins: RejoinCounts,
    hints: [HintCounts; N],
    registers: RegisterCounts,
}

/// As many as there are of [`Ended`].
const OUTCOMES: usize = Ended::Contended as usize + 1;

impl<const N: usize> Counts<N> {
    pub(super) fn new(names: [&str; N]) -> Self {
        describe();
        Self {
            operations: Kind::ALL.map(operations),
            durations: Kind::ALL.map(|kind| histogram!(OPERATION_DURATION, "kind" => kind.name())),
            carried_on: counter!(ABANDONED, "outcome" => "carried_on"),
            dropped: counter!(ABANDONED, "outcome" => "dropped"),
            superseded: counter!(SUPERSEDED),
            retries: Kind::ALL.map(|kind| counter!(RETRIES, "kind" => kind.name())),
            replicas: names.map(Replica::new),
            passes: PassCounts::new(names),
            collections: CollectionCounts::new(names),
            rejoins: RejoinCounts::new(),
            hints: names.map(HintCounts::new),
            registers: RegisterCounts::new(),
        }
    }

    #[inline]
    pub(super) fn end(&self, kind: Kind, ended: Ended, waited: &Stopwatch) {
        let operations = self.operations.get(kind as usize);
        if let Some(counter) = operations.and_then(|counters| counters.get(ended as usize)) {
            counter.increment(1);
        }
        if waited.is_running() {
            self.waited(kind, waited);
        }
    }

    // Cold, so that what is over at once saves no registers for it.
    #[cold]
    fn waited(&self, kind: Kind, waited: &Stopwatch) {
        if let (Some(duration), Some(waited)) =
            (self.durations.get(kind as usize), waited.elapsed())
        {
            duration.record(waited);
        }
    }

    pub(super) fn answered(&self, replica: usize, waited: &Stopwatch) {
        if let Some(replica) = self.replicas.get(replica) {
            replica.answered.increment(1);
            if let Some(waited) = waited.elapsed() {
                replica.duration.record(waited);
            }
        }
    }

    pub(super) fn failed(&self, replica: usize, failure: &ReplicaFailure) {
        let Some(replica) = self.replicas.get(replica) else {
            return;
        };
        let outcome = match failure {
            ReplicaFailure::Transport(TransportError::NotSent(_)) => &replica.not_sent,
            ReplicaFailure::Transport(TransportError::NoAnswer(_)) => &replica.no_answer,
            ReplicaFailure::Transport(TransportError::Rejected(_)) => &replica.rejected,
            ReplicaFailure::Transport(TransportError::Store(_)) => &replica.store_failed,
            ReplicaFailure::TimedOut(_) => &replica.timed_out,
            ReplicaFailure::Panicked(_) => &replica.panicked,
            ReplicaFailure::Refused(refusal) => {
                replica.refusal(refusal).increment(1);
                &replica.refused
            }
            // Counted where it is given up; and by nobody, as it is a mistake of
            // the transport's, which its test is to find.
            ReplicaFailure::GivenUp | ReplicaFailure::Mismatched => return,
        };
        outcome.increment(1);
    }

    pub(super) fn misidentified(&self, replica: usize, error: &IdentityError) {
        if let Some(replica) = self.replicas.get(replica) {
            let reason = match error {
                IdentityError::SameReplica { .. } => &replica.same_replica,
                IdentityError::OtherCluster { .. } => &replica.other_cluster,
            };
            reason.increment(1);
        }
    }

    pub(super) fn superseded(&self) {
        self.superseded.increment(1);
    }

    pub(super) fn retries(&self, kind: Kind) {
        if let Some(retries) = self.retries.get(kind as usize) {
            retries.increment(1);
        }
    }

    pub(super) fn repaired(&self, replica: usize, is_acked: bool) {
        if let Some(replica) = self.replicas.get(replica) {
            let outcome = match is_acked {
                true => &replica.repaired,
                false => &replica.not_repaired,
            };
            outcome.increment(1);
        }
    }

    pub(super) fn background_begins(&self, replica: usize, is_straggler: bool) {
        if let Some(replica) = self.replicas.get(replica) {
            replica.in_background.increment(1);
            replica.stragglers.increment(u64::from(is_straggler));
        }
    }

    pub(super) fn background_ends(&self, replica: usize) {
        if let Some(replica) = self.replicas.get(replica) {
            replica.in_background.decrement(1);
        }
    }

    pub(super) fn given_up(&self, replica: usize) {
        if let Some(replica) = self.replicas.get(replica) {
            replica.given_up.increment(1);
        }
    }

    pub(super) fn abandoned(&self, is_carried_on: bool) {
        let outcome = match is_carried_on {
            true => &self.carried_on,
            false => &self.dropped,
        };
        outcome.increment(1);
    }

    pub(super) fn rejoin_ended(
        &self,
        progress: &RejoinProgress,
        is_done: bool,
        waited: &Stopwatch,
    ) {
        self.rejoins.ended(progress, is_done, waited);
    }

    pub(super) fn pass_ended(&self, report: &PassReport, now_millis: u64) {
        self.passes.ended(report, now_millis);
    }

    pub(super) fn collection_ended(&self, collection: &Result<Collected, CollectError>) {
        self.collections.ended(collection);
    }

    pub(super) fn hints_changed(&self, replica: usize, before: HintStats, now: HintStats) {
        if let Some(hints) = self.hints.get(replica) {
            hints.changed(before, now);
        }
    }

    pub(super) fn settled(&self, settling: Settling, is_done: bool) {
        self.registers.settled(settling, is_done);
    }

    pub(super) fn turn(&self, waited: &Stopwatch, is_missed: bool) {
        self.registers.turn(waited, is_missed);
    }
}

impl Kind {
    const ALL: [Self; 5] = [Self::Put, Self::Delete, Self::Get, Self::Update, Self::Scan];

    fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Get => "get",
            Self::Update => "update",
            Self::Scan => "scan",
        }
    }
}

impl Ended {
    fn name(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::NotApplied => "not_applied",
            Self::MaybeApplied => "maybe_applied",
            Self::Superseded => "superseded",
            Self::ClockExhausted => "clock_exhausted",
            Self::Unanswered => "failed",
            Self::NotRepaired => "not_repaired",
            Self::Contended => "contended",
        }
    }

    /// Of this kind of operation.
    fn all(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Put | Kind::Delete => &[
                Self::Done,
                Self::NotApplied,
                Self::MaybeApplied,
                Self::Superseded,
                Self::ClockExhausted,
            ],
            Kind::Get | Kind::Scan => &[Self::Done, Self::Unanswered, Self::NotRepaired],
            Kind::Update => &[
                Self::Done,
                Self::NotApplied,
                Self::MaybeApplied,
                Self::Contended,
                Self::ClockExhausted,
            ],
        }
    }
}

fn operations(kind: Kind) -> [Counter; OUTCOMES] {
    let mut counters = [const { Counter::noop() }; OUTCOMES];
    for ended in Ended::all(kind) {
        if let Some(counter) = counters.get_mut(*ended as usize) {
            *counter = counter!(OPERATIONS, "kind" => kind.name(), "outcome" => ended.name());
        }
    }
    counters
}

#[derive(Debug)]
struct Replica {
    answered: Counter,
    not_sent: Counter,
    no_answer: Counter,
    rejected: Counter,
    store_failed: Counter,
    refused: Counter,
    timed_out: Counter,
    panicked: Counter,
    duration: Histogram,
    empty_key: Counter,
    key_too_long: Counter,
    value_too_large: Counter,
    too_far_ahead: Counter,
    other_replica: Counter,
    promised: Counter,
    stale: Counter,
    joining: Counter,
    not_joining: Counter,
    era_too_far_ahead: Counter,
    before: Counter,
    not_sealed: Counter,
    superseded: Counter,
    same_replica: Counter,
    other_cluster: Counter,
    repaired: Counter,
    not_repaired: Counter,
    stragglers: Counter,
    given_up: Counter,
    in_background: Gauge,
}

impl Replica {
    fn new(name: &str) -> Self {
        let by_name = |metric| counter!(metric, "replica" => name.to_owned());
        let by =
            |metric, label, value| counter!(metric, "replica" => name.to_owned(), label => value);
        let call = |outcome| by(CALLS, "outcome", outcome);
        let refusal = |reason| by(REFUSALS, "reason", reason);
        Self {
            answered: call("answered"),
            not_sent: call("not_sent"),
            no_answer: call("no_answer"),
            rejected: call("rejected"),
            store_failed: call("store_failed"),
            refused: call("refused"),
            timed_out: call("timed_out"),
            panicked: call("panicked"),
            duration: histogram!(CALL_DURATION, "replica" => name.to_owned()),
            empty_key: refusal("empty_key"),
            key_too_long: refusal("key_too_long"),
            value_too_large: refusal("value_too_large"),
            too_far_ahead: refusal("too_far_ahead"),
            other_replica: refusal("other_replica"),
            promised: refusal("promised"),
            superseded: refusal("superseded"),
            stale: refusal("stale"),
            joining: refusal("joining"),
            not_joining: refusal("not_joining"),
            era_too_far_ahead: refusal("era_too_far_ahead"),
            before: refusal("before"),
            not_sealed: refusal("not_sealed"),
            same_replica: by(MISIDENTIFIED, "reason", "same_replica"),
            other_cluster: by(MISIDENTIFIED, "reason", "other_cluster"),
            repaired: by(REPAIRS, "outcome", "acked"),
            not_repaired: by(REPAIRS, "outcome", "failed"),
            stragglers: by_name(STRAGGLERS),
            given_up: by_name(GIVEN_UP),
            in_background: gauge!(IN_BACKGROUND, "replica" => name.to_owned()),
        }
    }

    fn refusal(&self, refusal: &Refusal) -> &Counter {
        match refusal {
            Refusal::EmptyKey => &self.empty_key,
            Refusal::KeyTooLong { .. } => &self.key_too_long,
            Refusal::ValueTooLarge { .. } => &self.value_too_large,
            Refusal::TooFarAhead { .. } => &self.too_far_ahead,
            Refusal::OtherReplica { .. } => &self.other_replica,
            Refusal::Promised { .. } => &self.promised,
            Refusal::Superseded { .. } => &self.superseded,
            Refusal::Stale { .. } => &self.stale,
            Refusal::Joining { .. } => &self.joining,
            Refusal::NotJoining => &self.not_joining,
            Refusal::EraTooFarAhead { .. } => &self.era_too_far_ahead,
            Refusal::Before { .. } => &self.before,
            Refusal::NotSealed => &self.not_sealed,
        }
    }
}

fn describe() {
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    let time = |name, text| describe_histogram!(name, Unit::Seconds, text);
    count(OPERATIONS, "Operations of a coordinator that were decided");
    time(
        OPERATION_DURATION,
        "How long operations that were not over at once had to wait, with all attempts",
    );
    count(
        ABANDONED,
        "Operations whose caller left before they were decided",
    );
    count(SUPERSEDED, "Attempts of writes that found a greater entry");
    count(RETRIES, "Attempts of operations beyond the first");
    count(
        CALLS,
        "Calls to a replica that ended, without those answered at once",
    );
    time(
        CALL_DURATION,
        "How long a replica took to answer a call, of one call in eight",
    );
    count(REFUSALS, "Requests that a replica did not admit");
    count(
        MISIDENTIFIED,
        "Times that a replica was not counted for what it said it is",
    );
    count(REPAIRS, "Repairs of a replica that a read found behind");
    count(
        STRAGGLERS,
        "Calls that went on in the background when their operation was decided",
    );
    count(
        GIVEN_UP,
        "Calls that were dropped unfinished, as there was no room or no runtime",
    );
    describe_gauge!(
        IN_BACKGROUND,
        Unit::Count,
        "Calls that go on in the background now"
    );
    clock::describe();
    passes::describe();
    collections::describe();
    rejoins::describe();
    hints::describe();
    registers::describe();
}
