//! A cause is the source of its error, and not in its text.

use std::error::Error;

use crate::conditional::TooContended;
use crate::coordinator::{IdentityError, RejoinError};
use crate::outcome::ReplicaFailure;
use crate::transport::TransportError;
use crate::{CodecError, Key, MapError, RecordError, Refusal, ReplicaId, StoreError};

#[derive(Debug, thiserror::Error)]
#[error("the cause")]
struct Cause;

fn boxed() -> Box<dyn Error + Send + Sync> {
    Cause.into()
}

/// Those with a cause; by their variants, so that a new one is not forgotten.
fn failures() -> Vec<(ReplicaFailure, bool)> {
    let has_cause = |failure: &ReplicaFailure| match failure {
        ReplicaFailure::Transport(
            TransportError::NotSent(_)
            | TransportError::NoAnswer(_)
            | TransportError::Rejected(_)
            | TransportError::Store(_),
        )
        | ReplicaFailure::Refused(_) => true,
        ReplicaFailure::TimedOut(_)
        | ReplicaFailure::GivenUp
        | ReplicaFailure::Panicked(_)
        | ReplicaFailure::Mismatched => false,
    };
    [
        TransportError::NotSent(boxed()).into(),
        TransportError::NoAnswer(boxed()).into(),
        TransportError::Rejected(boxed()).into(),
        TransportError::Store(StoreError::new(Cause)).into(),
        ReplicaFailure::Refused(Refusal::EmptyKey),
        ReplicaFailure::TimedOut(std::time::Duration::ZERO),
        ReplicaFailure::GivenUp,
        ReplicaFailure::Panicked("a message".to_owned()),
        ReplicaFailure::Mismatched,
    ]
    .map(|failure| {
        let has_cause = has_cause(&failure);
        (failure, has_cause)
    })
    .into()
}

fn map_errors() -> Vec<MapError> {
    let source = || CodecError::new(StoreError::new(Cause));
    vec![
        MapError::EncodeKey(source()),
        MapError::EncodeValue(source()),
        MapError::Decode(source()),
        MapError::DecodeEntry {
            key: Key::from("k"),
            source: source(),
        },
    ]
}

fn rejoin_errors() -> [RejoinError; 2] {
    let source = || ReplicaFailure::Transport(TransportError::NotSent("the cause".into()));
    [
        RejoinError::NotTaken {
            place: 0,
            source: source(),
        },
        RejoinError::NotCopied {
            key: "k".into(),
            source: source(),
        },
    ]
}

fn without_cause() -> Vec<Box<dyn Error>> {
    let id = ReplicaId::random();
    vec![
        Box::new(TooContended { attempts: 1 }),
        Box::new(RecordError::Short { len: 0 }),
        Box::new(crate::ClockExhausted),
        Box::new(IdentityError::SameReplica { id, other: 1 }),
        Box::new(IdentityError::OtherCluster {
            expected: "a".to_owned(),
            found: None,
        }),
        Box::new(Refusal::OtherReplica { is: id }),
        Box::new(RejoinError::NoReplica { place: 3 }),
    ]
}

/// Bugs: a report of the whole chain says a cause twice, since the text of an error
/// has it too; or never, since it is no source.
#[test]
fn a_cause_is_the_source_and_not_in_the_text() {
    let check = |error: &dyn Error, has_cause: bool| {
        let text = error.to_string();
        let source = error.source().map(ToString::to_string);
        assert_eq!(source.is_some(), has_cause, "{text}");
        assert!(
            source.is_none_or(|source| !text.contains(&source)),
            "{text}"
        );
        assert!(!text.contains("the cause"), "{text}");
    };
    for (failure, has_cause) in failures() {
        check(&failure, has_cause);
    }
    for error in map_errors() {
        check(&error, true);
    }
    for error in rejoin_errors() {
        check(&error, true);
    }
    for error in without_cause() {
        check(&*error, false);
    }
}
