//! What operations on registers come to.

use crate::coordinator::Edit;
use crate::entry::{Entry, Version};

/// An update that was applied: what it found, and what it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated<V> {
    before: Option<V>,
    edit: Edit<V>,
    version: Option<Version>,
    attempts: u32,
}

impl<V> Updated<V> {
    pub(super) fn new(
        before: Option<V>,
        edit: Edit<V>,
        entry: Option<Entry>,
        attempts: u32,
    ) -> Self {
        Self {
            before,
            edit,
            version: entry.map(|entry| entry.version),
            attempts,
        }
    }

    /// The value that the update found; `None` where there was none.
    pub fn before(&self) -> Option<&V> {
        self.before.as_ref()
    }

    /// The value that the update left; `None` where there is none.
    pub fn after(&self) -> Option<&V> {
        match &self.edit {
            Edit::Put(value) => Some(value),
            Edit::Delete => None,
            Edit::Keep => self.before.as_ref(),
        }
    }

    /// The value that the update left, moved out.
    pub fn into_after(self) -> Option<V> {
        match self.edit {
            Edit::Put(value) => Some(value),
            Edit::Delete => None,
            Edit::Keep => self.before,
        }
    }

    /// Whether the update wrote, or deleted, and did not keep what there was. Compare
    /// this, and not values, to see if a lock was taken: what there was may look just
    /// like what would have been written.
    pub fn is_changed(&self) -> bool {
        !matches!(self.edit, Edit::Keep)
    }

    /// The version under which that is held: see L-VERSION at
    /// [`Registers`](crate::Registers). `None` where the update kept what there was,
    /// and the register was never written.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// How many attempts it took: 1, and one more for each that others overtook.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

/// What a compare-and-set came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap<V> {
    /// The value was as expected, and the new one has taken its place.
    Swapped {
        /// The version of the new value: see L-VERSION at
        /// [`Registers`](crate::Registers).
        version: Version,
    },
    /// The value was another. Nothing was changed.
    Differs {
        /// The value; `None` where there is none.
        current: Option<V>,
        /// Its version, or that of its tombstone; `None` where the register was never
        /// written.
        version: Option<Version>,
    },
}

impl<V> Swap<V> {
    /// Whether the new value has taken the other's place.
    pub fn is_swapped(&self) -> bool {
        matches!(self, Self::Swapped { .. })
    }
}
