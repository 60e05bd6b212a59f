//! The rule book: what a request does to what is held under one key.
//!
//! All of it is one pure function, [`Change::decide`]. It knows no store, no
//! clock and no network. A store runs it within one atomic step for the key; what
//! a replica knows besides, such as its clock, the replica puts into the
//! [`Change`]. So a new rule changes no store.

mod marks;

use std::cmp::Ordering;

pub(crate) use marks::MarksChange;

use crate::entry::{Entry, Timestamp, Version};
use crate::record::Record;
use crate::request::{Ack, Refusal, Response};

/// What a request asks to be done to the record under one key. Opaque to stores,
/// which pass the record that they hold to [`decide`](Self::decide).
#[derive(Clone, Debug)]
pub struct Change(Kind);

#[derive(Clone, Debug)]
enum Kind {
    // What is rare is in a box, so that a change is small, and quick to move.
    Write {
        /// As it will be kept, unless there is an anchor.
        entry: Record,
        ahead: Option<Box<Ahead>>,
    },
    Prepare {
        ballot: Version,
        ahead: Option<Box<Ahead>>,
    },
    Copy(Record),
    Marks(MarksChange),
    Remove,
}

/// A timestamp that is too far ahead, and of what clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) timestamp: Timestamp,
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
        let entry = Record::from(entry);
        Self(Kind::Write { entry, ahead: None })
    }

    /// The write of an entry that is stamped further ahead of the replica's clock
    /// than it admits.
    pub(crate) fn write_ahead(entry: Entry, ahead: Ahead) -> Self {
        Self(Kind::Write {
            entry: Record::from(entry),
            ahead: Some(Box::new(ahead)),
        })
    }

    /// The promise of a ballot, without a bound on its timestamp.
    pub fn prepare(ballot: Version) -> Self {
        Self(Kind::Prepare {
            ballot,
            ahead: None,
        })
    }

    /// The promise of a ballot that is stamped further ahead of the replica's clock
    /// than it admits.
    pub(crate) fn prepare_ahead(ballot: Version, ahead: Ahead) -> Self {
        Self(Kind::Prepare {
            ballot,
            ahead: Some(Box::new(ahead)),
        })
    }

    /// What is copied to a replica that is joining.
    pub(crate) fn copy(record: Record) -> Self {
        Self(Kind::Copy(record))
    }

    /// A change of what the replica keeps of itself, under the empty key.
    pub(crate) fn marks(change: MarksChange) -> Self {
        Self(Kind::Marks(change))
    }

    /// The removal of whatever is held. No request asks for it; it is there to
    /// test stores with.
    pub fn remove() -> Self {
        Self(Kind::Remove)
    }

    /// Decides what becomes of the record that is held under the key.
    ///
    /// A record holds an entry and an *anchor*, the greatest ballot that was
    /// promised under the key. A write may be a put, a repair, or the second phase
    /// of an update: there is no difference. The first of these that is true decides:
    ///
    /// 1. **C-DRIFT.** It is stamped too far ahead of the replica's clock, and
    ///    more than one step past what is held or promised:
    ///    [refused](Refusal::TooFarAhead). So a key that holds an entry from the
    ///    future, acknowledged while clocks were wrong, can be written again, and
    ///    each such write takes it at most one step further.
    /// 2. It equals the entry that is held: [applied](Ack::Applied) already.
    /// 3. **L-PROMISE.** It is below the anchor: [refused](Refusal::Promised), even
    ///    where a greater entry is held. The update that was promised that ballot has
    ///    not seen this entry, and is going to overwrite it.
    /// 4. It is less than the entry that is held: [superseded](Ack::Superseded).
    /// 5. Else it replaces that entry, and is [applied](Ack::Applied). The anchor
    ///    stays, whatever is written over it.
    ///
    /// The promise of a ballot:
    ///
    /// 1. **C-DRIFT**, as of a write.
    /// 2. It is below the anchor: [refused](Refusal::Promised).
    /// 3. It is below the entry that is held: [refused](Refusal::Superseded).
    /// 4. Else it is the anchor from now on, and the entry is
    ///    [told](Response::Promise).
    ///
    /// Of what is copied to a replica that is joining, the greater entry is kept, and
    /// the greater anchor, each for itself.
    #[inline(always)]
    pub fn decide(self, held: Option<&Record>) -> Decision {
        match self.0 {
            Kind::Write { entry, ahead } => write(entry, ahead, held),
            Kind::Prepare { ballot, ahead } => prepare(ballot, ahead, held),
            Kind::Copy(record) => copy(&record, held),
            Kind::Marks(change) => change.decide(held),
            Kind::Remove => Decision {
                action: Action::Remove,
                response: Response::Ack(Ack::Applied),
            },
        }
    }
}

impl Decision {
    fn keep(response: Response) -> Self {
        Self {
            action: Action::Keep,
            response,
        }
    }

    fn replace(record: Record, response: Response) -> Self {
        Self {
            action: Action::Replace(record),
            response,
        }
    }
}

// The order of the lines in these two is part of the rule. What is rare is kept out
// of the way of what is usual.

#[inline(always)]
fn write(entry: Record, ahead: Option<Box<Ahead>>, held: Option<&Record>) -> Decision {
    if let Some(refusal) = ahead.and_then(|ahead| ahead.refusal(held)) {
        return Decision::keep(Response::Refused(refusal));
    }
    let Some(held) = held else {
        return Decision::replace(entry, Response::Ack(Ack::Applied));
    };
    let compared = held.compare(&entry);
    if compared == Ordering::Equal {
        return Decision::keep(Response::Ack(Ack::Applied));
    }
    let anchor = held.anchor();
    if let Some(anchor) = anchor
        && entry.version() < Some(anchor)
    {
        return promised(anchor, held);
    }
    if compared == Ordering::Greater
        && let Some(by) = held.version()
    {
        return Decision::keep(Response::Ack(Ack::Superseded { by }));
    }
    if let Some(anchor) = anchor {
        let record = Record::anchored(entry.into_entry(), anchor);
        return Decision::replace(record, Response::Ack(Ack::Applied));
    }
    Decision::replace(entry, Response::Ack(Ack::Applied))
}

#[cold]
fn prepare(ballot: Version, ahead: Option<Box<Ahead>>, held: Option<&Record>) -> Decision {
    if let Some(refusal) = ahead.and_then(|ahead| ahead.refusal(held)) {
        return Decision::keep(Response::Refused(refusal));
    }
    let anchor = held.and_then(Record::anchor);
    if let (Some(anchor), Some(held)) = (anchor, held)
        && ballot < anchor
    {
        return promised(anchor, held);
    }
    if let Some(by) = held.and_then(Record::version)
        && ballot < by
    {
        return Decision::keep(Response::Refused(Refusal::Superseded { by }));
    }
    let entry = held.and_then(Record::entry);
    if anchor == Some(ballot) {
        return Decision::keep(Response::Promise(entry));
    }
    let record = Record::anchored(entry.clone(), ballot);
    Decision::replace(record, Response::Promise(entry))
}

#[cold]
fn copy(copied: &Record, held: Option<&Record>) -> Decision {
    let record = merged(copied, held);
    let response = Response::Ack(Ack::Applied);
    match held {
        Some(held) if *held == record => Decision::keep(response),
        _ => Decision::replace(record, response),
    }
}

/// The greater entry of two records, and the greater anchor.
pub(crate) fn merged(one: &Record, other: Option<&Record>) -> Record {
    let entry = one.entry().max(other.and_then(Record::entry));
    let anchor = one.anchor().max(other.and_then(Record::anchor));
    match (entry, anchor) {
        (entry, Some(anchor)) => Record::anchored(entry, anchor),
        (Some(entry), None) => entry.into(),
        // There is no such record.
        (None, None) => one.clone(),
    }
}

#[cold]
fn promised(anchor: Version, held: &Record) -> Decision {
    // So that whoever stamps past it is past all that is here.
    let by = held.version().map_or(anchor, |version| version.max(anchor));
    Decision::keep(Response::Refused(Refusal::Promised { by }))
}

impl Ahead {
    #[cold]
    fn refusal(self, held: Option<&Record>) -> Option<Refusal> {
        let seen = held.and_then(|held| held.version().max(held.anchor()));
        let as_far = seen.is_some_and(|seen| {
            let next = seen.timestamp.next();
            next.is_none_or(|next| self.timestamp <= next)
        });
        (!as_far).then_some(Refusal::TooFarAhead {
            timestamp: self.timestamp,
            now_millis: self.now_millis,
            max_drift_millis: self.max_drift_millis,
        })
    }
}

impl Refusal {
    /// Whether what was asked may have been stored, now or later: only where the replica
    /// has entered a [later era](Self::Stale) meanwhile.
    pub fn may_have_applied(&self) -> bool {
        matches!(self, Self::Stale { .. })
    }

    /// The version that the refused request would have had to exceed.
    pub(crate) fn by(&self) -> Option<Version> {
        match self {
            Self::Promised { by } | Self::Superseded { by } => Some(*by),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
