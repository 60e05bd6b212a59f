//! G-VOID over every order of answers of replicas with different marks.

use super::*;
use crate::request::Held as Answer;

/// What a replica holds, and its mark. Values and tombstones are on both sides of each
/// mark, and at one.
const ENTRIES: [Option<(u64, bool)>; 5] = [
    None,
    Some((1, false)),
    Some((2, false)),
    Some((2, true)),
    Some((3, false)),
];
const MARKS: [u64; 3] = [0, 2, 3];

fn answers() -> Vec<(usize, u64)> {
    let all = (0..ENTRIES.len()).flat_map(|held| MARKS.map(|mark| (held, mark)));
    // A tombstone from before its own mark is not told.
    let is_told = |(held, mark): &(usize, u64)| match ENTRIES[*held] {
        Some((bits, true)) => bits >= *mark,
        _ => true,
    };
    all.filter(is_told).collect()
}

fn answer((held, mark): (usize, u64)) -> Answer {
    let entry = ENTRIES[held].map(|(bits, is_tombstone)| match is_tombstone {
        true => Entry::tombstone(version(bits)),
        false => Entry::new(version(bits), "value"),
    });
    Answer {
        entry,
        collected: Timestamp::from_bits(mark),
    }
}

/// The rule, as it is written down: the greatest of what counts, and the greatest mark.
fn rule(answers: &[Answer]) -> (Option<Entry>, Timestamp) {
    let mark = answers.iter().map(|it| it.collected).max();
    let mark = mark.unwrap_or(Timestamp::MIN);
    let counting = answers.iter().filter_map(|it| {
        let entry = it.entry.clone()?;
        let counts = it.collected == mark || entry.version.timestamp >= mark;
        counts.then_some(entry)
    });
    (counting.max(), mark)
}

fn counted(answer: &Answer, mark: Timestamp) -> Option<Entry> {
    let (counted, _) = rule(&[
        answer.clone(),
        Answer {
            entry: None,
            collected: mark,
        },
    ]);
    counted
}

/// Three replicas, in every order of every answer.
fn each(check: &mut impl FnMut(&[(usize, Answer)])) {
    let answers = answers();
    for first in 0..3 {
        for second in (0..3).filter(|it| *it != first) {
            let order = [first, second, 3 - first - second];
            for one in &answers {
                for two in &answers {
                    for three in &answers {
                        let told = [*one, *two, *three].map(answer);
                        let told: Vec<_> = order.into_iter().zip(told).collect();
                        check(&told);
                    }
                }
            }
        }
    }
}

/// Bugs: what is void is returned; or what counts is not: an entry at the mark, one of a
/// replica of that mark, or one that was told before a greater mark was; repairs bring what
/// is void, or do not bring what counts to one that holds what is void, or are sent to one
/// that is not behind; who holds what is void is taken for a holder, but for one that
/// holds the very entry that counts by others' answers.
#[test]
fn g_void_answers_count_as_written_in_every_order() {
    each(&mut |answers| {
        let mut tally = ReadTally::<3>::new(1);
        (0..3).for_each(|replica| tally.asked(replica));
        for (count, (replica, held)) in answers.iter().enumerate() {
            tally.add(*replica, Ok(Response::Entry(held.clone())));
            let told: Vec<_> = answers[..=count].iter().map(|(_, it)| it.clone()).collect();
            let (greatest, mark) = rule(&told);
            assert_eq!(tally.greatest(), greatest.as_ref(), "{told:?}");
            assert_eq!(tally.collected(), mark);
        }
        let told: Vec<_> = answers.iter().map(|(_, it)| it.clone()).collect();
        let (greatest, mark) = rule(&told);
        let holds = |it: &&Answer| counted(it, mark) >= greatest || it.entry == greatest;
        assert_eq!(
            tally.holders(greatest.as_ref()),
            told.iter().filter(holds).count(),
            "{told:?}"
        );
        let mut behind: Vec<usize> = answers
            .iter()
            .filter(|(_, it)| it.entry < greatest)
            .map(|(replica, _)| *replica)
            .collect();
        behind.sort_unstable();
        assert_eq!(tally.is_repair_due(), !behind.is_empty(), "{told:?}");
        let mut sent = Vec::new();
        while let Some((replica, entry)) = tally.next_repair() {
            assert_eq!(Some(entry), greatest, "{told:?}");
            sent.push(replica);
        }
        assert_eq!(sent, behind, "{told:?}");
        assert_eq!(tally.take_greatest(), greatest);
    });
}

/// As they come, repairs are sent with what counts so far. Bugs: one that was sent what
/// turns out to be void counts as a holder of what counts, or takes the greatest with it.
#[test]
fn g_void_repairs_as_answers_come_end_with_what_counts() {
    each(&mut |answers| {
        let mut tally = ReadTally::<3>::new(1);
        (0..3).for_each(|replica| tally.asked(replica));
        let mut told = Vec::new();
        for (replica, held) in answers {
            tally.add(*replica, Ok(Response::Entry(held.clone())));
            told.push(held.clone());
            let (greatest, _) = rule(&told);
            while let Some((behind, entry)) = tally.next_repair() {
                assert_eq!(Some(&entry), greatest.as_ref(), "{told:?}");
                let refused = Refusal::Before { to: Timestamp::MAX };
                let refused = Err(ReplicaFailure::Refused(refused));
                assert_eq!(tally.add(behind, refused), Added::NotRepaired);
            }
            assert_eq!(tally.greatest(), greatest.as_ref(), "{told:?}");
        }
        let (greatest, mark) = rule(&told);
        let holds = |it: &&Answer| counted(it, mark) >= greatest || it.entry == greatest;
        let holders = told.iter().filter(holds);
        if greatest.is_some() {
            assert_eq!(
                tally.holders(greatest.as_ref()),
                holders.count(),
                "{told:?}"
            );
        }
        assert_eq!(tally.take_greatest(), greatest);
    });
}
