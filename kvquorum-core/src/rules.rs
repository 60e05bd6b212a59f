//! The rule book: what a request does to what is held under one key.
//!
//! All of it is one pure function, [`Change::decide`]. It knows no store, no
//! clock and no network. A store runs it within one atomic step for the key; what
//! a replica knows besides, such as its clock, the replica puts into the
//! [`Change`]. So a new rule changes no store.

use std::cmp::Ordering;

use crate::entry::Entry;
use crate::record::Record;
use crate::transport::{Ack, Refusal, Response};

/// What a request asks to be done to the record under one key. Opaque to stores,
/// which pass the record that they hold to [`decide`](Self::decide).
#[derive(Clone, Debug)]
pub struct Change(Kind);

#[derive(Clone, Debug)]
enum Kind {
    // What is rare is in a box, so that a change is small, and quick to move.
    Write {
        entry: Entry,
        ahead: Option<Box<Ahead>>,
    },
    Remove,
}

/// By what clock an entry is stamped too far ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) now_millis: u64,
    pub(crate) max_drift_millis: u64,
}

/// What a change comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// What the store does with the record under the key.
    pub action: Action,
    /// The answer to the request.
    pub response: Response,
}

/// What a store does with the record under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It keeps the record as it is, or none where there is none.
    Keep,
    /// It keeps this record from now on.
    Replace(Record),
    /// It keeps no record any more.
    Remove,
}

impl Change {
    /// The write of an entry, without a bound on its timestamp.
    pub fn write(entry: Entry) -> Self {
        Self(Kind::Write { entry, ahead: None })
    }

    /// The write of an entry that is stamped further ahead of the replica's clock
    /// than it admits.
    pub(crate) fn write_ahead(entry: Entry, ahead: Ahead) -> Self {
        Self(Kind::Write {
            entry,
            ahead: Some(Box::new(ahead)),
        })
    }

    /// The removal of whatever is held. No request asks for it; it is there to
    /// test stores with.
    pub fn remove() -> Self {
        Self(Kind::Remove)
    }

    /// Decides what becomes of the record that is held under the key.
    ///
    /// The write of an entry, by the first of these that is true:
    ///
    /// 1. **C-DRIFT.** It is stamped too far ahead of the replica's clock, and
    ///    more than one step past what is held: [refused](Refusal::TooFarAhead).
    ///    So a key that holds an entry from the future, which was acknowledged
    ///    while clocks were wrong, can be written again, and no key gets
    ///    further ahead than it is.
    /// 2. It equals what is held: [applied](Ack::Applied) already.
    /// 3. It is less than what is held: [superseded](Ack::Superseded).
    /// 4. Else it replaces what is held, and is [applied](Ack::Applied).
    #[inline]
    pub fn decide(self, held: Option<&Record>) -> Decision {
        match self.0 {
            Kind::Write { entry, ahead } => write(entry, ahead, held.map(Record::entry)),
            Kind::Remove => Decision {
                action: Action::Remove,
                response: Response::Ack(Ack::Applied),
            },
        }
    }
}

#[inline]
fn write(entry: Entry, ahead: Option<Box<Ahead>>, held: Option<&Entry>) -> Decision {
    let refusal = ahead.and_then(|ahead| ahead.refusal(&entry, held));
    let (action, response) = match (refusal, held) {
        (Some(refusal), _) => (Action::Keep, Response::Refused(refusal)),
        (None, Some(held)) => match held.cmp(&entry) {
            Ordering::Greater => {
                let by = held.version;
                (Action::Keep, Response::Ack(Ack::Superseded { by }))
            }
            Ordering::Equal => (Action::Keep, Response::Ack(Ack::Applied)),
            Ordering::Less => replaced(entry),
        },
        (None, None) => replaced(entry),
    };
    Decision { action, response }
}

#[inline]
fn replaced(entry: Entry) -> (Action, Response) {
    (Action::Replace(entry.into()), Response::Ack(Ack::Applied))
}

impl Ahead {
    fn refusal(self, entry: &Entry, held: Option<&Entry>) -> Option<Refusal> {
        let timestamp = entry.version.timestamp;
        let as_far = held.is_some_and(|held| {
            let next = held.version.timestamp.next();
            next.is_none_or(|next| timestamp <= next)
        });
        (!as_far).then_some(Refusal::TooFarAhead {
            timestamp,
            now_millis: self.now_millis,
            max_drift_millis: self.max_drift_millis,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Timestamp, Version, WriterId};

    const AHEAD: Ahead = Ahead {
        now_millis: 0,
        max_drift_millis: 0,
    };

    /// All entries of a small world, and none.
    fn all_held() -> Vec<Option<Entry>> {
        let mut entries = vec![None];
        for bits in 0..4 {
            for writer in 0..2 {
                let version = Version {
                    timestamp: Timestamp::from_bits(bits),
                    writer: WriterId::new(writer),
                };
                entries.push(Some(Entry::tombstone(version)));
                entries.extend(["", "a", "b"].map(|value| Some(Entry::new(version, value))));
            }
        }
        entries
    }

    fn apply(change: Change, held: &mut Option<Entry>) -> Response {
        let record = held.clone().map(Record::from);
        let Decision { action, response } = change.decide(record.as_ref());
        match action {
            Action::Keep => {}
            Action::Replace(record) => *held = Some(record.into_entry()),
            Action::Remove => *held = None,
        }
        response
    }

    /// All of the rules for a write, over every pair of entries. Bugs: ties by
    /// arrival, by version alone, or for the first; an equal entry is called
    /// superseded; a superseded one is stored, or says another version.
    #[test]
    fn a_write_keeps_the_greater_entry_and_says_which() {
        for held in all_held() {
            for entry in all_held().into_iter().flatten() {
                let mut after = held.clone();
                let response = apply(Change::write(entry.clone()), &mut after);
                assert_eq!(after, held.clone().max(Some(entry.clone())));
                let expected = match &held {
                    Some(held) if *held > entry => Ack::Superseded { by: held.version },
                    _ => Ack::Applied,
                };
                assert_eq!(response, Response::Ack(expected), "{held:?}, {entry:?}");
            }
        }
    }

    /// Bugs: a record that is the same already is written again.
    #[test]
    fn an_equal_entry_changes_nothing() {
        for entry in all_held().into_iter().flatten() {
            let record = Record::from(entry.clone());
            let decision = Change::write(entry).decide(Some(&record));
            assert_eq!(decision.action, Action::Keep);
        }
    }

    /// Bugs: what is kept depends on the order of arrival, or on repetition.
    #[test]
    fn writes_commute_and_can_be_repeated() {
        let entries: Vec<Entry> = all_held().into_iter().flatten().collect();
        for one in &entries {
            for other in &entries {
                let mut orders = [[one, other, one], [other, one, other]].map(|order| {
                    let mut held = None;
                    for entry in order {
                        apply(Change::write(entry.clone()), &mut held);
                    }
                    held
                });
                let [first, second] = &mut orders;
                assert_eq!(first, second);
                assert_eq!(first.as_ref(), Some(one.max(other)));
            }
        }
    }

    /// C-DRIFT. Bugs: an entry from the future is stored; a key that holds one
    /// can't be written again; each write carries it further than one step; what
    /// is held already, or superseded, is refused.
    #[test]
    fn c_drift_only_a_key_that_is_as_far_ahead_takes_an_entry_from_the_future() {
        for held in all_held() {
            for entry in all_held().into_iter().flatten() {
                let mut after = held.clone();
                let response = apply(Change::write_ahead(entry.clone(), AHEAD), &mut after);
                let bits = |entry: &Entry| entry.version.timestamp.to_bits();
                let as_far = held
                    .as_ref()
                    .is_some_and(|held| bits(&entry) <= bits(held) + 1);
                let refused = matches!(response, Response::Refused(Refusal::TooFarAhead { .. }));
                assert_eq!(refused, !as_far, "{held:?}, {entry:?}");
                if refused {
                    assert_eq!(after, held);
                } else {
                    let mut by_write = held.clone();
                    assert_eq!(response, apply(Change::write(entry), &mut by_write));
                    assert_eq!(after, by_write);
                }
            }
        }
    }

    /// Bug: at the end of time nothing is refused, or all overflows.
    #[test]
    fn c_drift_holds_at_the_end_of_time() {
        let last = Version {
            timestamp: Timestamp::MAX,
            writer: WriterId::new(0),
        };
        let mut held = None;
        let response = apply(Change::write_ahead(Entry::new(last, "a"), AHEAD), &mut held);
        assert!(matches!(response, Response::Refused(_)));
        held = Some(Entry::new(last, "a"));
        let response = apply(Change::write_ahead(Entry::new(last, "b"), AHEAD), &mut held);
        assert_eq!(response, Response::Ack(Ack::Applied));
    }

    #[test]
    fn a_removal_removes() {
        for mut held in all_held() {
            apply(Change::remove(), &mut held);
            assert_eq!(held, None);
        }
    }
}
