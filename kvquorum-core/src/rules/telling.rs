//! A change that tells when it is decided.

use std::fmt;
use std::sync::Arc;

use super::{Change, Decision, Kind, Under};
use crate::record::Record;

/// See [`Change::telling`].
#[derive(Clone)]
pub(super) struct Telling {
    pub(super) kind: Kind,
    tell: Arc<dyn Fn() + Send + Sync>,
}

impl Change<'static> {
    /// The same change, which also calls this when its decision begins. No request asks
    /// for it; it is there to test stores with.
    #[must_use]
    pub fn telling(self, tell: impl Fn() + Send + Sync + 'static) -> Self {
        let kind = Kind::Telling(Box::new(Telling {
            kind: self.kind,
            tell: Arc::new(tell),
        }));
        Self {
            kind,
            under: self.under,
        }
    }
}

impl Telling {
    #[cold]
    pub(super) fn decide(self, under: Under<'_>, held: Option<&Record>) -> Decision {
        (self.tell)();
        let kind = self.kind;
        Change { kind, under }.decide(held)
    }
}

impl fmt::Debug for Telling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}
