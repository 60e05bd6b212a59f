//! What a replica takes no more, and what counts no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::entry::Timestamp;
use crate::marks::{Era, Marks};

/// A replica's [seal](Marks::sealed) and [mark](Marks::collected), and how far its rejoin
/// is, as they are now. They only rise.
#[derive(Debug, Default)]
pub(crate) struct Floors {
    sealed: AtomicU64,
    collected: AtomicU64,
    /// The era that it is joining in, and [`OPEN`] from then on.
    joining: AtomicU64,
}

const OPEN: u64 = u64::MAX;

impl Floors {
    #[inline]
    pub(crate) fn sealed(&self) -> Timestamp {
        Timestamp::from_bits(self.sealed.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn collected(&self) -> Timestamp {
        Timestamp::from_bits(self.collected.load(Ordering::Acquire))
    }

    pub(crate) fn seal(&self, to: Timestamp) {
        self.sealed.fetch_max(to.to_bits(), Ordering::AcqRel);
    }

    /// Takes in marks that the store keeps.
    pub(crate) fn take_in(&self, marks: &Marks) {
        self.seal(marks.sealed);
        let collected = marks.collected.to_bits();
        self.collected.fetch_max(collected, Ordering::AcqRel);
        let joining = match marks.is_joining {
            true => marks.era.get(),
            false => OPEN,
        };
        self.joining.fetch_max(joining, Ordering::AcqRel);
    }
}

/// By what floors a change is decided: they are read when it is.
#[derive(Clone, Debug)]
pub(super) enum Under<'a> {
    Nothing,
    Lent(&'a Arc<Floors>),
    Shared(Arc<Floors>),
}

impl Under<'_> {
    pub(super) fn into_owned(self) -> Under<'static> {
        match self {
            Under::Nothing => Under::Nothing,
            Under::Lent(floors) => Under::Shared(Arc::clone(floors)),
            Under::Shared(floors) => Under::Shared(floors),
        }
    }

    fn floors(&self) -> Option<&Floors> {
        match self {
            Self::Nothing => None,
            Self::Lent(floors) => Some(floors),
            Self::Shared(floors) => Some(floors),
        }
    }

    #[inline]
    pub(super) fn sealed(&self) -> Timestamp {
        self.floors().map_or(Timestamp::MIN, Floors::sealed)
    }

    #[inline]
    pub(super) fn collected(&self) -> Timestamp {
        self.floors().map_or(Timestamp::MIN, Floors::collected)
    }

    /// Whether it is joining in this era.
    pub(super) fn joins_in(&self, era: Era) -> bool {
        let joining = |floors: &Floors| floors.joining.load(Ordering::Acquire);
        self.floors().is_none_or(|it| joining(it) == era.get())
    }
}
