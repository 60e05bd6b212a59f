//! What a change asks, for whoever watches a store.

use super::{Change, Kind};
use crate::entry::{Entry, Timestamp, Version};
use crate::record::Record;

/// What a [`Change`] asks, for whoever watches a store, or tests one. A store needs none
/// of it: what becomes of the record is for [`Change::decide`] to say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// The write of a new entry.
    Write(Entry),
    /// The write of an entry that another replica holds.
    Repair(Entry),
    /// The promise of a ballot.
    Prepare(Version),
    /// What is copied to a replica that is joining.
    Copy(Record),
    /// That a replica which is joining drops an entry that is stamped before this.
    Forget(Timestamp),
    /// That what counts no more is dropped.
    Sweep,
    /// Something that concerns the replica itself, or is there for tests.
    Other,
}

impl Change<'_> {
    /// What it asks.
    pub fn asked(&self) -> Asked {
        let kind = match &self.kind {
            Kind::Telling(telling) => &telling.kind,
            kind => kind,
        };
        match kind {
            Kind::Write { entry, .. } => entry.entry().map_or(Asked::Other, Asked::Write),
            Kind::Repair { entry, .. } => entry.entry().map_or(Asked::Other, Asked::Repair),
            Kind::Prepare { ballot, .. } => Asked::Prepare(*ballot),
            Kind::Copy { record, .. } => Asked::Copy(record.clone()),
            Kind::Forget { before, .. } => Asked::Forget(*before),
            Kind::Sweep => Asked::Sweep,
            Kind::Marks(_) | Kind::Remove | Kind::Telling(_) => Asked::Other,
        }
    }
}
