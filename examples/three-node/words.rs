//! What is known of a replica, in few words.

use kvquorum_core::{
    Ack, Entry, Outcome, Refusal, ReplicaFailure, TransportError, Version, WithCauses,
};

/// A replica's part in a write.
pub(crate) fn of_write(outcome: &Outcome<Ack>) -> String {
    in_words(outcome, of_ack, |failure| kind(failure).to_owned())
}

/// A replica's part in a write that failed: of its failure, all causes.
pub(crate) fn of_failed_write(outcome: &Outcome<Ack>) -> String {
    in_words(outcome, of_ack, |failure| WithCauses(failure).to_string())
}

/// A replica's part in a read. A replica answers with no more than a version,
/// so the caller tells which one, if any, is known to be that of a tombstone.
pub(crate) fn of_read(outcome: &Outcome<Option<Version>>, tombstone: Option<Version>) -> String {
    let of_held = |held: &Option<Version>| match held {
        Some(version) if Some(*version) == tombstone => format!("holds a tombstone, {version}"),
        held => of_version(held),
    };
    in_words(outcome, of_held, |failure| kind(failure).to_owned())
}

/// A replica's part in a read that failed: of its failure, all causes.
pub(crate) fn of_failed_read(outcome: &Outcome<Option<Version>>) -> String {
    in_words(outcome, of_version, |failure| {
        WithCauses(failure).to_string()
    })
}

/// A replica's part in a page of a scan that failed.
pub(crate) fn of_failed_page(outcome: &Outcome<usize>) -> String {
    let of_entries = |entries: &usize| format!("answered with {entries} entries");
    in_words(outcome, of_entries, |failure| {
        WithCauses(failure).to_string()
    })
}

fn of_ack(ack: &Ack) -> String {
    match ack {
        Ack::Applied => "acked".to_owned(),
        Ack::Superseded { .. } => "acked, superseded".to_owned(),
    }
}

fn of_version(held: &Option<Version>) -> String {
    match held {
        Some(version) => format!("holds {version}"),
        None => "holds nothing".to_owned(),
    }
}

fn in_words<A>(
    outcome: &Outcome<A>,
    answer: impl Fn(&A) -> String,
    failure: impl Fn(&ReplicaFailure) -> String,
) -> String {
    match outcome {
        Outcome::NotAsked => "not asked".to_owned(),
        Outcome::Pending => "still under way".to_owned(),
        Outcome::Answered(answered) => answer(answered),
        Outcome::Failed(failed) => format!("failed: {}", failure(failed)),
        _ => "unknown".to_owned(),
    }
}

/// The kind of failure. Its text with all causes would fill a line.
fn kind(failure: &ReplicaFailure) -> &'static str {
    match failure {
        ReplicaFailure::Transport(TransportError::NotSent(_)) => "not reached",
        ReplicaFailure::Transport(TransportError::NoAnswer(_)) => "no answer",
        ReplicaFailure::Transport(TransportError::Rejected(_)) => "no replica",
        ReplicaFailure::Transport(TransportError::Store(_)) => "its store",
        ReplicaFailure::Refused(Refusal::Joining { .. }) => "joining",
        ReplicaFailure::Refused(_) => "refused",
        ReplicaFailure::TimedOut(_) => "took too long",
        ReplicaFailure::GivenUp => "given up",
        ReplicaFailure::Panicked(_) => "panicked",
        _ => "unknown",
    }
}

/// What a replica says that it holds under a key, when asked directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    NoAnswer,
    /// It is joining, and does not say.
    Joining,
    Nothing,
    Entry(Entry),
}

impl Held {
    /// The value, or why there is none.
    pub(crate) fn value(&self) -> String {
        match self {
            Self::NoAnswer => "no answer".to_owned(),
            Self::Joining => "joining".to_owned(),
            Self::Nothing => "nothing".to_owned(),
            Self::Entry(Entry { value: None, .. }) => "a tombstone".to_owned(),
            Self::Entry(Entry {
                value: Some(value), ..
            }) => format!("\"{}\"", value.escape_ascii()),
        }
    }

    pub(crate) fn version(&self) -> Option<Version> {
        match self {
            Self::Entry(entry) => Some(entry.version),
            _ => None,
        }
    }
}
