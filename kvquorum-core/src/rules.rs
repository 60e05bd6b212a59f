//! The rule book: what a request does to what is held under one key.
//!
//! All of it is one pure function, [`Change::decide`]. It knows no store, no
//! clock and no network. A store runs it within one atomic step for the key; what
//! a replica knows besides, such as its clock, the replica puts into the
//! [`Change`]. So a new rule changes no store.

mod ahead;
mod asked;
mod floors;
mod marks;
mod telling;

use std::cmp::Ordering;
use std::sync::Arc;

pub(crate) use ahead::Ahead;
pub use asked::Asked;
pub(crate) use floors::Floors;
use floors::Under;
pub(crate) use marks::MarksChange;
use telling::Telling;

use crate::entry::{Entry, Timestamp, Version, WriterId};
use crate::marks::Era;
use crate::record::Record;
use crate::request::{Ack, Held, Refusal, Response};

/// What a request asks to be done to the record under one key. Opaque to stores,
/// which pass the record that they hold to [`decide`](Self::decide).
///
/// It may borrow from the replica whose change it is. A store that hands it to another
/// thread, or keeps it beyond the call, makes it [its own](Self::into_owned).
#[derive(Clone, Debug)]
pub struct Change<'a> {
    kind: Kind,
    under: Under<'a>,
}

#[derive(Clone, Debug)]
enum Kind {
    // What is rare is in a box, so that a change is small, and quick to move.
    Write {
        /// As it will be kept, unless there is an anchor.
        entry: Record,
        ahead: Option<Box<Ahead>>,
    },
    Repair {
        entry: Record,
        ahead: Option<Box<Ahead>>,
    },
    Prepare {
        ballot: Version,
        ahead: Option<Box<Ahead>>,
    },
    Copy {
        record: Record,
        era: Era,
    },
    Forget {
        before: Timestamp,
        era: Era,
    },
    Sweep,
    Marks(MarksChange),
    Remove,
    Telling(Box<Telling>),
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

impl Change<'static> {
    #[inline(always)]
    const fn new(kind: Kind) -> Self {
        let under = Under::Nothing;
        Self { kind, under }
    }

    /// The write of an entry, without a bound on its timestamp.
    pub fn write(entry: Entry) -> Self {
        Self::write_within(&entry, None)
    }

    /// The write of an entry, and by how much it is stamped further ahead of the
    /// replica's clock than it admits.
    #[inline(always)]
    pub(crate) fn write_within(entry: &Entry, ahead: Option<Ahead>) -> Self {
        Self::new(Kind::Write {
            entry: Record::of(entry),
            ahead: ahead.map(Box::new),
        })
    }

    /// The write of an entry that a replica holds.
    pub(crate) fn repair(entry: &Entry, ahead: Option<Ahead>) -> Self {
        Self::new(Kind::Repair {
            entry: Record::of(entry),
            ahead: ahead.map(Box::new),
        })
    }

    /// The promise of a ballot, without a bound on its timestamp.
    pub fn prepare(ballot: Version) -> Self {
        Self::prepare_within(ballot, None)
    }

    /// The promise of a ballot, and by how much it is stamped further ahead of the
    /// replica's clock than it admits.
    pub(crate) fn prepare_within(ballot: Version, ahead: Option<Ahead>) -> Self {
        let ahead = ahead.map(Box::new);
        Self::new(Kind::Prepare { ballot, ahead })
    }

    /// What is copied to a replica that is joining in this era.
    pub(crate) fn copy(record: Record, era: Era) -> Self {
        Self::new(Kind::Copy { record, era })
    }

    /// That a replica which is joining in this era drops an entry that is stamped before a
    /// mark, which is to be its own.
    pub(crate) fn forget(before: Timestamp, era: Era) -> Self {
        Self::new(Kind::Forget { before, era })
    }

    /// That what counts no more is dropped.
    pub(crate) fn sweep() -> Self {
        Self::new(Kind::Sweep)
    }

    /// A change of what the replica keeps of itself, under the empty key.
    pub(crate) fn marks(change: MarksChange) -> Self {
        Self::new(Kind::Marks(change))
    }

    /// The removal of whatever is held. No request asks for it; it is there to
    /// test stores with.
    pub fn remove() -> Self {
        Self::new(Kind::Remove)
    }

    /// To be decided by these floors.
    #[inline(always)]
    pub(crate) fn under(self, floors: &Arc<Floors>) -> Change<'_> {
        Change {
            kind: self.kind,
            under: Under::Lent(floors),
        }
    }
}

impl Change<'_> {
    /// The same change, which borrows nothing.
    pub fn into_owned(self) -> Change<'static> {
        Change {
            kind: self.kind,
            under: self.under.into_owned(),
        }
    }

    /// Decides what becomes of the record that is held under the key.
    ///
    /// A record holds an entry and an *anchor*, the greatest ballot that was
    /// promised under the key. What is stamped before the replica's
    /// [mark](crate::Marks::collected) counts as not held, if it is a tombstone or an
    /// anchor. A write may be a put, or the second phase of an update: there is no
    /// difference. The first of these that is true decides:
    ///
    /// 1. **C-DRIFT.** It is stamped too far ahead of the replica's clock, and
    ///    more than one step past what is held, promised or sealed:
    ///    [refused](Refusal::TooFarAhead). So a key that holds an entry from the
    ///    future, acknowledged while clocks were wrong, can be written again, and
    ///    each such write takes it at most one step further.
    /// 2. It equals the entry that is held: [applied](Ack::Applied) already.
    /// 3. **L-PROMISE.** It is below the anchor: [refused](Refusal::Promised), even
    ///    where a greater entry is held. The update that was promised that ballot has
    ///    not seen this entry, and is going to overwrite it.
    /// 4. **G-SEAL.** It is stamped before what the replica is
    ///    [sealed](crate::Marks::sealed) up to: [refused](Refusal::Before).
    /// 5. It is less than the entry that is held: [superseded](Ack::Superseded).
    /// 6. Else it replaces that entry, and is [applied](Ack::Applied). The anchor
    ///    stays, whatever is written over it.
    ///
    /// A repair is a write, but for the fourth rule: what was written before the seal may
    /// still be brought to those that lack it. It is refused where it is stamped before
    /// what the replica has [collected](crate::Marks::collected) (**G-COLLECT**): what had
    /// deleted it may be forgotten.
    ///
    /// The promise of a ballot:
    ///
    /// 1. **C-DRIFT**, as of a write.
    /// 2. It is below the anchor: [refused](Refusal::Promised).
    /// 3. It is below the entry that is held: [refused](Refusal::Superseded).
    /// 4. **G-SEAL**, as of a write.
    /// 5. Else it is the anchor from now on, and the entry is
    ///    [told](Response::Promise).
    ///
    /// Of what is copied to a replica that is joining, the greater entry is kept, and
    /// the greater anchor, each for itself. Before that, it drops those entries that are
    /// stamped before the greatest mark of its peers (**G-VOID**): its store may have been
    /// found with one whose delete is forgotten. It does so only while that is not its own
    /// mark, so that it drops nothing that is copied. Once its rejoin has ended, or another
    /// has begun, both are [refused](Refusal::NotJoining).
    #[inline(always)]
    pub fn decide(self, held: Option<&Record>) -> Decision {
        let under = &self.under;
        match self.kind {
            Kind::Write { entry, ahead } => write(entry, ahead, under, held),
            Kind::Repair { entry, ahead } => repair(entry, ahead, under, held),
            Kind::Prepare { ballot, ahead } => prepare(ballot, ahead, under, held),
            Kind::Copy { era, .. } | Kind::Forget { era, .. } if !under.joins_in(era) => {
                Decision::keep(Response::Refused(Refusal::NotJoining))
            }
            Kind::Copy { record, .. } => copy(&record, held),
            Kind::Forget { before, .. } => forget(before, under, held),
            Kind::Sweep => sweep(under, held),
            Kind::Marks(change) => change.decide(held),
            Kind::Remove => Decision {
                action: Action::Remove,
                response: Response::Ack(Ack::Applied),
            },
            Kind::Telling(telling) => telling.decide(self.under, held),
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

// The order of the lines in these is part of the rule. What is rare is kept out
// of the way of what is usual.

#[inline(always)]
fn write(
    entry: Record,
    ahead: Option<Box<Ahead>>,
    under: &Under<'_>,
    held: Option<&Record>,
) -> Decision {
    if let Some(refusal) = ahead.and_then(|ahead| ahead.refusal_past(held, under.sealed())) {
        return Decision::keep(Response::Refused(refusal));
    }
    let floor = under.sealed();
    match held {
        // What is usual, by rule 6: a value has no anchor.
        Some(held) if held.is_value_before(&entry) && !is_before(&entry, floor) => {
            Decision::replace(entry, Response::Ack(Ack::Applied))
        }
        Some(held) if held.is_only_value() => write_over(entry, floor, held),
        Some(held) => write_over_other(entry, floor, under.collected(), held),
        None => write_first(entry, floor),
    }
}

#[cold]
fn repair(
    entry: Record,
    ahead: Option<Box<Ahead>>,
    under: &Under<'_>,
    held: Option<&Record>,
) -> Decision {
    if let Some(refusal) = ahead.and_then(|ahead| ahead.refusal_past(held, under.sealed())) {
        return Decision::keep(Response::Refused(refusal));
    }
    // Read once: what it does not exceed and what counts no more are one mark.
    let collected = under.collected();
    match held {
        Some(held) => write_over_other(entry, collected, collected, held),
        None => write_first(entry, collected),
    }
}

#[inline(always)]
fn write_first(entry: Record, floor: Timestamp) -> Decision {
    if is_before(&entry, floor) {
        return before(floor, None);
    }
    Decision::replace(entry, Response::Ack(Ack::Applied))
}

#[cold]
fn write_over(entry: Record, floor: Timestamp, held: &Record) -> Decision {
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
    if is_before(&entry, floor) {
        return before(floor, Some(held));
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
fn write_over_other(
    entry: Record,
    floor: Timestamp,
    collected: Timestamp,
    held: &Record,
) -> Decision {
    match held.counting(collected) {
        Some(held) => write_over(entry, floor, &held),
        None => write_first(entry, floor),
    }
}

#[inline]
fn is_before(entry: &Record, floor: Timestamp) -> bool {
    entry.version().is_some_and(|it| it.timestamp < floor)
}

#[cold]
fn before(floor: Timestamp, held: Option<&Record>) -> Decision {
    // As of a promise: so that whoever stamps past it is past all that is here.
    let held = held.and_then(Record::version);
    let to = held.map_or(floor, |held| floor.max(held.timestamp));
    Decision::keep(Response::Refused(Refusal::Before { to }))
}

#[cold]
fn prepare(
    ballot: Version,
    ahead: Option<Box<Ahead>>,
    under: &Under<'_>,
    held: Option<&Record>,
) -> Decision {
    if let Some(refusal) = ahead.and_then(|ahead| ahead.refusal_past(held, under.sealed())) {
        return Decision::keep(Response::Refused(refusal));
    }
    let collected = under.collected();
    let held = held.and_then(|held| held.counting(collected));
    let anchor = held.as_ref().and_then(Record::anchor);
    if let (Some(anchor), Some(held)) = (anchor, &held)
        && ballot < anchor
    {
        return promised(anchor, held);
    }
    if let Some(by) = held.as_ref().and_then(Record::version)
        && ballot < by
    {
        return Decision::keep(Response::Refused(Refusal::Superseded { by }));
    }
    let sealed = under.sealed();
    if ballot.timestamp < sealed {
        return before(sealed, held.as_ref());
    }
    let entry = held.and_then(Record::into_entry);
    let promise = Response::Promise(Held {
        entry: entry.clone(),
        collected,
    });
    if anchor == Some(ballot) {
        return Decision::keep(promise);
    }
    Decision::replace(Record::anchored(entry, ballot), promise)
}

#[cold]
fn sweep(under: &Under<'_>, held: Option<&Record>) -> Decision {
    let counting = held.and_then(|held| held.counting(under.collected()));
    let action = match counting {
        None if held.is_some() => Action::Remove,
        Some(counting) if held != Some(&counting) => Action::Replace(counting),
        _ => Action::Keep,
    };
    let response = Response::Ack(Ack::Applied);
    Decision { action, response }
}

#[cold]
fn forget(before: Timestamp, under: &Under<'_>, held: Option<&Record>) -> Decision {
    let action = match held {
        Some(held) if is_before(held, before) && under.collected() < before => {
            match held.anchor() {
                // A promise does no harm.
                Some(anchor) => Action::Replace(Record::anchored(None, anchor)),
                None => Action::Remove,
            }
        }
        _ => Action::Keep,
    };
    let response = Response::Ack(Ack::Applied);
    Decision { action, response }
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
            Self::Before { to } => Some(Version {
                timestamp: *to,
                writer: WriterId::ANONYMOUS,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
