//! What a request does to a replica's marks.

use super::Decision;
use crate::entry::Timestamp;
use crate::identity::ReplicaId;
use crate::marks::{Era, Marks, Own};
use crate::record::Record;
use crate::request::{Refusal, Response};
use crate::told::Told;

/// A change of what a replica keeps of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MarksChange {
    /// This is who it is, where nothing is kept yet.
    Begin(Own),
    Announce(Era),
    Enter(Era),
    /// With the greatest seal and the greatest mark of those that are copied from.
    Join(Era, Timestamp, Timestamp),
    Open(Era),
    Seal(Timestamp),
    Collect(Timestamp),
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
    ///   answers a request of it, and never goes back. One that no rejoins can have led
    ///   to is [refused](Refusal::EraTooFarAhead).
    /// - **J-SILENT.** A replica that is joining enters no era but that of its rejoin,
    ///   and is no witness of what was announced. It opens in the era in which it was
    ///   copied to, and in no other.
    /// - **G-SEAL, G-COLLECT.** What it is sealed up to and what it has collected only
    ///   rises, and never the latter past the former. One that is joining takes both from
    ///   those that it copies from, and is neither sealed nor told to collect.
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
            Self::Announce(era) | Self::Enter(era) | Self::Join(era, ..)
                if !before.reaches(era) =>
            {
                Err(Refusal::EraTooFarAhead { era: before })
            }
            Self::Join(era, sealed, collected) if marks.is_joining && era >= marks.era => {
                Ok(Marks {
                    era,
                    sealed: sealed.max(marks.sealed),
                    collected: collected.max(marks.collected),
                    ..marks
                })
            }
            Self::Open(era) if marks.is_joining && era == marks.era => Ok(Marks {
                is_joining: false,
                ..marks
            }),
            Self::Join(..) | Self::Open(_) => Err(Refusal::NotJoining),
            _ if marks.is_joining => Err(marks.refusal()),
            Self::Announce(era) if era > before => Ok(Marks {
                announced: era,
                ..marks
            }),
            Self::Announce(_) => Err(Refusal::Stale { era: before }),
            Self::Enter(era) => Ok(Marks {
                era: era.max(marks.era),
                ..marks
            }),
            Self::Seal(to) => Ok(Marks {
                sealed: to.max(marks.sealed),
                ..marks
            }),
            Self::Collect(to) if to <= marks.sealed => Ok(Marks {
                collected: to.max(marks.collected),
                ..marks
            }),
            Self::Collect(_) => Err(Refusal::NotSealed),
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::rules::{Action, Change};

    fn eras() -> [Era; 4] {
        [1, 2, 3, 4].map(|number: u64| Era::new(number.try_into().unwrap()))
    }

    fn id(id: u64) -> ReplicaId {
        ReplicaId::new(NonZeroU64::new(id).unwrap())
    }

    fn times() -> [Timestamp; 3] {
        [0, 1, 2].map(Timestamp::from_bits)
    }

    fn all_marks() -> Vec<Marks> {
        let mut all = Vec::new();
        for (era, announced) in pairs(eras()) {
            for (sealed, collected) in pairs(times()) {
                for is_joining in [false, true] {
                    all.push(Marks {
                        era,
                        announced,
                        is_joining,
                        sealed,
                        collected,
                    });
                }
            }
        }
        // G-COLLECT: nothing else can be.
        all.retain(|marks| marks.collected <= marks.sealed);
        all
    }

    fn pairs<A: Copy, const N: usize>(of: [A; N]) -> impl Iterator<Item = (A, A)> {
        of.into_iter()
            .flat_map(move |one| of.map(|other| (one, other)))
    }

    fn all() -> Vec<Option<Own>> {
        let own = |marks| Some(Own { id: id(7), marks });
        let all = all_marks().into_iter().map(own);
        [None].into_iter().chain(all).collect()
    }

    fn changes() -> Vec<MarksChange> {
        let of = |era| {
            [
                MarksChange::Announce(era),
                MarksChange::Enter(era),
                MarksChange::Open(era),
            ]
        };
        let join = |era| {
            let with = pairs(times()).filter(|(sealed, collected)| collected <= sealed);
            with.map(move |(sealed, collected)| MarksChange::Join(era, sealed, collected))
        };
        let at = |to| [MarksChange::Seal(to), MarksChange::Collect(to)];
        let begin = [false, true].map(|is_joining| MarksChange::begin(id(9), is_joining));
        let changes = eras().into_iter().flat_map(of);
        let changes = changes.chain(eras().into_iter().flat_map(join));
        let changes = changes.chain(times().into_iter().flat_map(at));
        changes.chain(begin).collect()
    }

    fn apply(change: MarksChange, held: Option<Own>) -> (Option<Own>, Response) {
        let held = held.as_ref().map(Own::record);
        let Decision { action, response } = Change::marks(change).decide(held.as_ref());
        let held = match action {
            Action::Keep => held,
            Action::Replace(record) => Some(record),
            Action::Remove => None,
        };
        (held.as_ref().and_then(Own::of), response)
    }

    fn is_refused(response: &Response) -> bool {
        matches!(response, Response::Refused(_))
    }

    /// Bugs: a mark falls; a change that is repeated comes to something else; a refused
    /// one changes something; who the replica is changes.
    #[test]
    fn j_era_marks_only_rise() {
        for held in all() {
            for change in changes() {
                let (after, response) = apply(change, held);
                if is_refused(&response) {
                    assert_eq!(after, held, "{change:?}");
                }
                if let (Some(before), Some(after)) = (held, after) {
                    assert_eq!(before.id, after.id);
                    let (before, after) = (before.marks, after.marks);
                    assert!(after.era >= before.era, "{change:?} of {before:?}");
                    assert!(after.announced >= before.announced);
                    assert!(before.is_joining || !after.is_joining);
                    assert!(after.sealed >= before.sealed, "{change:?} of {before:?}");
                    assert!(after.collected >= before.collected);
                    assert!(after.collected <= after.sealed, "{change:?} of {before:?}");
                }
                // But for an announcement, which must not be taken for another's.
                if !matches!(change, MarksChange::Announce(_)) {
                    let (again, response_again) = apply(change, after);
                    assert_eq!(again, after, "{change:?} of {held:?}");
                    if after.is_some_and(|after| !is_opened(held, after)) {
                        assert_eq!(response_again, response, "{change:?} of {held:?}");
                    }
                }
            }
        }
    }

    fn is_opened(before: Option<Own>, after: Own) -> bool {
        before.is_some_and(|before| before.marks.is_joining) && !after.marks.is_joining
    }

    /// Bugs: an era is announced twice, or below one that is in force; a replica that is
    /// joining is a witness of an announcement, or enters an era by a request; one that
    /// is not joining is opened, or joins; one is opened in another era than that in which
    /// it was copied to; an entered era is not told.
    #[test]
    fn j_silent_marks_change_as_they_should() {
        for held in all().into_iter().flatten() {
            let marks = held.marks;
            for era in eras() {
                let before = marks.era.max(marks.announced);
                let changed = |change| apply(change, Some(held)).0.unwrap().marks;
                let refused = |change| is_refused(&apply(change, Some(held)).1);
                let is_announced = !marks.is_joining && era > before;
                assert_eq!(refused(MarksChange::Announce(era)), !is_announced);
                if is_announced {
                    let expected = Marks {
                        announced: era,
                        ..marks
                    };
                    assert_eq!(changed(MarksChange::Announce(era)), expected);
                }
                assert_eq!(refused(MarksChange::Enter(era)), marks.is_joining);
                if !marks.is_joining {
                    assert_eq!(changed(MarksChange::Enter(era)).era, era.max(marks.era));
                }
                let joins = marks.is_joining && era >= marks.era;
                for (sealed, collected) in pairs(times()) {
                    let join = MarksChange::Join(era, sealed, collected);
                    assert_eq!(refused(join), !joins);
                    if joins {
                        let expected = Marks {
                            era,
                            sealed: sealed.max(marks.sealed),
                            collected: collected.max(marks.collected),
                            ..marks
                        };
                        assert_eq!(changed(join), expected);
                    }
                }
                let opens = marks.is_joining && era == marks.era;
                assert_eq!(refused(MarksChange::Open(era)), !opens);
                if opens {
                    let expected = Marks {
                        is_joining: false,
                        ..marks
                    };
                    assert_eq!(changed(MarksChange::Open(era)), expected);
                }
            }
        }
    }

    /// G-SEAL, G-COLLECT. Bugs: a replica collects what it was not sealed for; a seal or a
    /// mark falls, or takes the other with it; a replica that is joining is sealed, or
    /// collects.
    #[test]
    fn g_collect_marks_are_sealed_and_collected_as_they_should() {
        for marks in all_marks() {
            let held = Some(Own { id: id(7), marks });
            for to in times() {
                let (sealed, response) = apply(MarksChange::Seal(to), held);
                assert_eq!(is_refused(&response), marks.is_joining);
                let expected = match marks.is_joining {
                    true => marks,
                    false => Marks {
                        sealed: to.max(marks.sealed),
                        ..marks
                    },
                };
                assert_eq!(sealed.unwrap().marks, expected);

                let (collected, response) = apply(MarksChange::Collect(to), held);
                let collects = !marks.is_joining && to <= marks.sealed;
                assert_eq!(is_refused(&response), !collects, "{to:?} of {marks:?}");
                if !marks.is_joining && !collects {
                    assert_eq!(response, Response::Refused(Refusal::NotSealed));
                }
                let expected = match collects {
                    false => marks,
                    true => Marks {
                        collected: to.max(marks.collected),
                        ..marks
                    },
                };
                assert_eq!(collected.unwrap().marks, expected);
            }
        }
    }

    /// Bug: one request with an era from nowhere leaves no further one for rejoins.
    #[test]
    fn j_era_none_is_entered_that_no_rejoins_lead_to() {
        let era = |number: u64| Era::new(number.try_into().unwrap());
        for is_joining in [false, true] {
            let marks = Marks::new(is_joining);
            let held = Some(Own { id: id(7), marks });
            let far = [era((1 << 32) + 2), era(u64::MAX)];
            for change in far.map(|far| [MarksChange::Enter(far), MarksChange::Announce(far)]) {
                for change in change {
                    let (after, response) = apply(change, held);
                    assert_eq!(after, held);
                    assert!(is_refused(&response), "{change:?}");
                }
            }
            let join = |number| MarksChange::Join(era(number), Timestamp::MIN, Timestamp::MIN);
            let (after, response) = apply(join(u64::MAX), held);
            assert!(is_refused(&response) && after == held);
            let near = match is_joining {
                true => join((1 << 32) + 1),
                false => MarksChange::Enter(era((1 << 32) + 1)),
            };
            assert!(!is_refused(&apply(near, held).1));
        }
    }

    /// Bug: a replica whose own record is gone, or damaged, goes on as one that is new.
    #[test]
    fn what_is_damaged_is_not_begun_anew() {
        for change in changes() {
            let is_begin = matches!(change, MarksChange::Begin(_));
            assert_eq!(is_refused(&apply(change, None).1), !is_begin, "{change:?}");
            let damaged = Own {
                id: id(7),
                marks: Marks::new(false),
            }
            .record();
            let mut damaged = damaged.into_entry().unwrap();
            damaged.value = Some("?".into());
            let decision = Change::marks(change).decide(Some(&damaged.into()));
            assert_eq!(decision.action, Action::Keep);
            assert!(is_refused(&decision.response));
        }
    }
}
