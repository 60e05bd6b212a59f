//! Tallies over every order of every outcome: no runtime, no time.

use super::*;
use crate::entry::{Timestamp, WriterId};
use crate::request::Refusal;
use crate::transport::TransportError;

mod voids;

const N: usize = 4;

fn version(bits: u64) -> Version {
    Version {
        timestamp: Timestamp::from_bits(bits),
        writer: WriterId::new(1),
    }
}

/// Calls `check` with every sequence of N choices, as pairs of a replica and
/// its choice, in every order in which the replicas can answer.
fn every_order<C: Copy>(choices: &[C], check: &mut impl FnMut(&[(usize, C)])) {
    fn go<C: Copy>(
        choices: &[C],
        so_far: &mut Vec<(usize, C)>,
        check: &mut impl FnMut(&[(usize, C)]),
    ) {
        if so_far.len() == N {
            check(so_far);
        }
        for replica in 0..N {
            if so_far.iter().any(|(answered, _)| *answered == replica) {
                continue;
            }
            for choice in choices {
                so_far.push((replica, *choice));
                go(choices, so_far, check);
                so_far.pop();
            }
        }
    }
    go(choices, &mut Vec::new(), check);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Applied,
    Superseded,
    Refused,
    Lost,
    Mismatched,
}

impl Part {
    fn is_ack(self) -> bool {
        matches!(self, Self::Applied | Self::Superseded)
    }

    fn result(self, replica: usize) -> Result<Response, ReplicaFailure> {
        match self {
            Self::Applied => Ok(Response::Ack(Ack::Applied)),
            Self::Superseded => Ok(Response::Ack(Ack::Superseded {
                by: version(10 + replica as u64),
            })),
            Self::Refused => Err(ReplicaFailure::Refused(Refusal::EmptyKey)),
            Self::Lost => Err(TransportError::NoAnswer("lost".into()).into()),
            Self::Mismatched => Ok(Response::Entry(None.into())),
        }
    }
}

/// W-QUORUM, W-FAIL, W-SUPERSEDED. Bugs: W off by one; anything but acks
/// counted; a failure declared while W acks are possible, or not declared when
/// they are not; a superseded ack forgotten.
#[test]
fn writes_are_decided_at_the_first_answer_that_decides_them() {
    let parts = [Part::Applied, Part::Superseded, Part::Refused, Part::Lost];
    for needed in 1..=N {
        every_order(&parts, &mut |answers| {
            let mut tally = WriteTally::<N>::new(needed);
            for (count, (replica, part)) in answers.iter().enumerate() {
                let before = &answers[..count];
                let acks = before.iter().filter(|(_, part)| part.is_ack()).count();
                let greatest = before
                    .iter()
                    .filter(|(_, part)| *part == Part::Superseded)
                    .map(|(replica, _)| version(10 + *replica as u64))
                    .max();
                let expected = if acks >= needed {
                    Some(greatest.map_or(WriteVerdict::Acked, |by| WriteVerdict::Superseded { by }))
                } else if acks + (N - count) < needed {
                    Some(WriteVerdict::Failed)
                } else {
                    None
                };
                assert_eq!(tally.verdict(), expected, "W = {needed}, {before:?}");
                tally.add(*replica, part.result(*replica));
            }
            assert!(tally.verdict().is_some(), "all have answered");
            let expected = answers.iter().any(|(_, part)| *part != Part::Refused);
            assert_eq!(may_be_seen(&tally.into_outcomes()), expected, "{answers:?}");
        });
    }
}

/// W-FAIL. Bug: "not applied" is said while a replica may yet apply it.
#[test]
fn what_is_pending_may_be_seen() {
    let mut tally = WriteTally::<2>::new(2);
    tally.add(0, Part::Refused.result(0));
    assert!(may_be_seen(&tally.into_outcomes()));
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    Absent,
    Old,
    New,
    Nothing(Part),
}

impl Held {
    fn entry(self) -> Option<Entry> {
        match self {
            Self::Absent | Self::Nothing(_) => None,
            Self::Old => Some(Entry::new(version(1), "old")),
            Self::New => Some(Entry::tombstone(version(2))),
        }
    }

    fn is_answer(self) -> bool {
        !matches!(self, Self::Nothing(_))
    }

    fn result(self) -> Result<Response, ReplicaFailure> {
        match self {
            Self::Nothing(part) => part.result(0),
            held => Ok(Response::Entry(held.entry().into())),
        }
    }
}

const HELD: [Held; 4] = [
    Held::Absent,
    Held::Old,
    Held::New,
    Held::Nothing(Part::Refused),
];

fn asked_all(needed: usize) -> ReadTally<N> {
    let mut tally = ReadTally::new(needed);
    (0..N).for_each(|replica| tally.asked(replica));
    tally
}

/// R-QUORUM, R-FAIL. Bugs: R off by one; "absent" not counted; not the greatest
/// entry but the first, the last or the most frequent.
#[test]
fn reads_are_decided_at_the_first_answer_that_decides_them() {
    for needed in 1..=N {
        every_order(&HELD, &mut |answers| {
            let mut tally = asked_all(needed);
            for (count, (replica, held)) in answers.iter().enumerate() {
                let before = &answers[..count];
                let answered = before.iter().filter(|(_, held)| held.is_answer()).count();
                let greatest = before.iter().filter_map(|(_, held)| held.entry()).max();
                let failed = answered + (N - count) < needed;
                assert_eq!(tally.is_answered(), answered >= needed, "{before:?}");
                assert_eq!(
                    tally.is_decided(),
                    answered >= needed || failed,
                    "{before:?}"
                );
                assert_eq!(tally.greatest(), greatest.as_ref());
                tally.add(*replica, held.result());
            }
        });
    }
}

/// R-REPAIR. Bugs: one that is behind is not repaired, or one that is not is;
/// with another entry than the greatest; more than once.
#[test]
fn exactly_those_behind_are_repaired_with_the_greatest_entry() {
    every_order(&HELD, &mut |answers| {
        let mut tally = asked_all(1);
        let mut sent = Vec::new();
        let mut greatest = None;
        let next_repair = |tally: &mut ReadTally<N>| {
            let is_due = tally.is_repair_due();
            let repair = tally.next_repair();
            assert_eq!(repair.is_some(), is_due);
            repair
        };
        for (replica, held) in answers {
            tally.add(*replica, held.result());
            greatest = greatest.max(held.entry());
            while let Some((behind, entry)) = next_repair(&mut tally) {
                sent.push((behind, entry));
            }
            assert_eq!(tally.greatest(), greatest.as_ref(), "{answers:?}");
        }
        // As they come, repairs are sent with what is the greatest so far; when
        // those are acked, what has become behind is sent the last word.
        let mut round = sent.clone();
        while !round.is_empty() {
            for (behind, _) in round.drain(..) {
                let ack = Response::Ack(Ack::Applied);
                assert_eq!(tally.add(behind, Ok(ack)), Added::Repaired);
                assert_eq!(tally.greatest(), greatest.as_ref(), "{answers:?}");
            }
            while let Some(repair) = next_repair(&mut tally) {
                round.push(repair);
            }
            sent.extend(round.iter().cloned());
        }
        let Some(greatest) = greatest else {
            assert_eq!(sent, []);
            return;
        };
        for (replica, held) in answers {
            let last_sent = sent.iter().rfind(|(behind, _)| behind == replica);
            let behind = held.is_answer() && held.entry().as_ref() < Some(&greatest);
            assert_eq!(last_sent.is_some(), behind, "{answers:?}");
            assert!(last_sent.is_none_or(|(_, entry)| *entry == greatest));
        }
        let answered = answers.iter().filter(|(_, held)| held.is_answer()).count();
        assert_eq!(tally.holders(Some(&greatest)), answered);
        assert_eq!(tally.possible_holders(Some(&greatest)), answered);
        assert_eq!(tally.take_greatest(), Some(greatest));
    });
}

/// R-REPAIR. Bugs: a repair that failed takes the greatest entry with it; the
/// replica that holds it is taken for one that is behind.
#[test]
fn failed_repairs_leave_the_greatest_entry() {
    every_order(&[Held::Absent, Held::Old, Held::New], &mut |answers| {
        let mut tally = asked_all(1);
        let mut greatest = None;
        for (replica, held) in answers {
            tally.add(*replica, held.result());
            greatest = greatest.max(held.entry());
            while let Some((behind, _)) = tally.next_repair() {
                let lost = Part::Lost.result(behind);
                assert_eq!(tally.add(behind, lost), Added::NotRepaired);
                assert_eq!(tally.greatest(), greatest.as_ref(), "{answers:?}");
            }
        }
        assert!(!tally.is_repair_due());
        assert_eq!(tally.take_greatest(), greatest);
    });
}

/// Bug: an answer that comes at once counts otherwise than one that was asked
/// for before.
#[test]
fn answers_at_once_count_as_others_do() {
    every_order(&[Held::Absent, Held::Old, Held::New], &mut |answers| {
        let (mut at_once, mut later) = (ReadTally::<N>::new(2), asked_all(2));
        for (replica, held) in answers {
            at_once.add_answer(*replica, held.entry().into());
            later.add(*replica, held.result());
            assert_eq!(at_once.is_decided(), later.is_decided());
            assert_eq!(at_once.greatest(), later.greatest());
            assert_eq!(at_once.is_repair_due(), later.is_repair_due());
        }
        assert_eq!(at_once.take_greatest(), later.take_greatest());
    });
}

/// R-REPAIR, blocking. Bugs: one that is being repaired, or could not be, counts
/// as a holder; one that answers with a greater entry does not.
#[test]
fn holders_are_those_known_to_hold_it() {
    let new = Held::New.entry();
    let mut tally = asked_all(1);
    tally.add(0, Held::New.result());
    tally.add(1, Held::Old.result());
    tally.add(2, Held::Absent.result());
    assert_eq!(tally.holders(new.as_ref()), 1);
    assert_eq!(tally.possible_holders(new.as_ref()), 4);
    assert_eq!(tally.next_repair(), Some((1, Held::New.entry().unwrap())));
    assert_eq!(tally.next_repair(), Some((2, Held::New.entry().unwrap())));
    assert_eq!(tally.next_repair(), None);
    assert_eq!(tally.holders(new.as_ref()), 1);

    let superseded = Part::Superseded.result(1);
    assert_eq!(tally.add(1, superseded), Added::Repaired);
    assert_eq!(tally.holders(new.as_ref()), 2);
    let mismatched = Part::Mismatched.result(2);
    assert_eq!(tally.add(2, mismatched), Added::NotRepaired);
    assert_eq!(tally.holders(new.as_ref()), 2);
    assert_eq!(tally.possible_holders(new.as_ref()), 3);
    assert_eq!(tally.next_repair(), None, "none is ahead of what it acked");

    // One that could not be brought further still holds what it answered with.
    let mut tally = asked_all(1);
    tally.add(0, Held::Old.result());
    tally.add(1, Held::New.result());
    assert!(tally.next_repair().is_some());
    tally.add(0, Part::Refused.result(0));
    assert_eq!(tally.holders(Held::Old.entry().as_ref()), 2);
    assert_eq!(tally.possible_holders(Held::Old.entry().as_ref()), 4);
    assert_eq!(tally.possible_holders(new.as_ref()), 3);
    // Each still holds what it answered with.
    assert_eq!(tally.holders(Held::Old.entry().as_ref()), 2);
}

/// Reports. Bug: a replica's part is told wrongly, or of another replica.
#[test]
fn reports_say_what_each_replica_answered() {
    let mut tally = ReadTally::<N>::new(1);
    (0..3).for_each(|replica| tally.asked(replica));
    tally.add(0, Held::Old.result());
    tally.add(2, Part::Refused.result(2));
    let outcomes = tally.report();
    assert_eq!(outcomes[0].answer(), Some(&Some(version(1))));
    assert!(outcomes[1].is_pending());
    assert!(matches!(
        outcomes[2].failure(),
        Some(ReplicaFailure::Refused(_))
    ));
    assert!(matches!(outcomes[3], Outcome::NotAsked));
}

/// Bug in J-ERA: who has told that the era is over is waited for others with, which may
/// hang; or undoes enough answers of the era that were there before.
#[test]
fn j_era_a_later_era_decides_at_once() {
    let era = crate::marks::Era::FIRST;
    let stale = || Err(ReplicaFailure::Refused(Refusal::Stale { era }));
    let applied = || Ok(Response::Ack(Ack::Applied));
    let mut write = WriteTally::<5>::new(3);
    write.add(0, applied());
    write.add(1, stale());
    assert_eq!(write.verdict(), Some(WriteVerdict::Failed));
    assert!(write.is_pending());
    write.add(2, applied());
    write.add(3, applied());
    assert_eq!(write.verdict(), Some(WriteVerdict::Acked));

    let mut read = ReadTally::<5>::new(3);
    (0..5).for_each(|replica| read.asked(replica));
    read.add(0, Ok(Response::Entry(None.into())));
    assert!(!read.is_decided());
    read.add(1, stale());
    assert!(read.is_decided() && !read.is_answered());
}
