//! What a request does to a replica's marks.

use super::Decision;
use crate::identity::ReplicaId;
use crate::marks::{Era, Marks, Own};
use crate::record::Record;
use crate::told::Told;
use crate::transport::{Refusal, Response};

/// A change of what a replica keeps of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MarksChange {
    /// This is who it is, where nothing is kept yet.
    Begin(Own),
    Announce(Era),
    Enter(Era),
    Join(Era),
    Open(Era),
}

impl MarksChange {
    pub(crate) fn begin(id: ReplicaId, is_joining: bool) -> Self {
        let marks = Marks::new(is_joining);
        Self::Begin(Own { id, marks })
    }

    /// Decides what becomes of the marks.
    ///
    /// - **J-ERA.** An era is announced only if it is greater than all that were
    ///   before, so that no two rejoins have the same. A replica enters it before it
    ///   answers a request of it, and never goes back.
    /// - **J-SILENT.** A replica that is joining enters no era but that of its rejoin,
    ///   and is no witness of what was announced. It opens in the era in which it was
    ///   copied to, and in no other.
    #[cold]
    pub(super) fn decide(self, held: Option<&Record>) -> Decision {
        let own = match (held.and_then(Own::of), self) {
            (Some(own), Self::Begin(_)) => return told(own.marks),
            (Some(own), _) => own,
            (None, Self::Begin(own)) if held.is_none() => return keeping(own),
            // It can't be read, or is gone.
            (None, _) => return refused(Refusal::NotJoining),
        };
        match self.changed(own.marks) {
            Err(refusal) => refused(refusal),
            Ok(marks) if marks == own.marks => told(marks),
            Ok(marks) => keeping(Own { marks, ..own }),
        }
    }

    fn changed(self, marks: Marks) -> Result<Marks, Refusal> {
        let before = marks.era.max(marks.announced);
        match self {
            Self::Begin(_) => Ok(marks),
            Self::Join(era) if marks.is_joining && era >= marks.era => Ok(Marks { era, ..marks }),
            Self::Open(era) if marks.is_joining && era == marks.era => Ok(Marks {
                is_joining: false,
                ..marks
            }),
            Self::Join(_) | Self::Open(_) => Err(Refusal::NotJoining),
            Self::Announce(_) | Self::Enter(_) if marks.is_joining => Err(Refusal::Joining {
                has_begun: marks.has_begun(),
            }),
            Self::Announce(era) if era > before => Ok(Marks {
                announced: era,
                ..marks
            }),
            Self::Announce(_) => Err(Refusal::Stale { era: before }),
            Self::Enter(era) => Ok(Marks {
                era: era.max(marks.era),
                ..marks
            }),
        }
    }
}

fn told(marks: Marks) -> Decision {
    Decision::keep(Told::Marks(marks).into())
}

fn keeping(own: Own) -> Decision {
    Decision::replace(own.record(), Told::Marks(own.marks).into())
}

fn refused(refusal: Refusal) -> Decision {
    Decision::keep(Response::Refused(refusal))
}
