//! What is known of a replica, in few words.

use kvquorum_core::{Entry, Merged, Outcome, ReplicaFailure, TransportError, Version};

/// A replica's part in a write.
pub(crate) fn of_write(outcome: &Outcome<Merged>) -> String {
    in_words(outcome, |merged| match merged {
        Merged::Applied => "acked".to_owned(),
        Merged::Superseded { .. } => "acked, superseded".to_owned(),
    })
}

/// A replica's part in a read.
pub(crate) fn of_read(outcome: &Outcome<Option<Version>>) -> String {
    in_words(outcome, |held| match held {
        Some(version) => format!("holds {version}"),
        None => "holds nothing".to_owned(),
    })
}

fn in_words<A>(outcome: &Outcome<A>, answer: impl Fn(&A) -> String) -> String {
    match outcome {
        Outcome::NotAsked => "not asked".to_owned(),
        Outcome::Pending => "still under way".to_owned(),
        Outcome::Answered(answered) => answer(answered),
        Outcome::Failed(failure) => format!("failed: {}", why(failure)),
        _ => "unknown".to_owned(),
    }
}

/// The kind of failure. Its text has the whole cause, and fills a line.
fn why(failure: &ReplicaFailure) -> &'static str {
    match failure {
        ReplicaFailure::Transport(TransportError::NotSent(_)) => "not reached",
        ReplicaFailure::Transport(TransportError::NoAnswer(_)) => "no answer",
        ReplicaFailure::Transport(TransportError::Rejected(_)) => "no replica",
        ReplicaFailure::Transport(TransportError::Store(_)) => "its store",
        ReplicaFailure::Refused(_) => "refused",
        ReplicaFailure::TimedOut(_) => "took too long",
        ReplicaFailure::GivenUp => "given up",
        _ => "unknown",
    }
}

/// What a replica says that it holds under a key, when asked directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    NoAnswer,
    Nothing,
    Entry(Entry),
}

impl Held {
    /// The value, or why there is none.
    pub(crate) fn value(&self) -> String {
        match self {
            Self::NoAnswer => "no answer".to_owned(),
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
