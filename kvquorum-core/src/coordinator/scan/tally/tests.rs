use super::*;
use crate::entry::{Version, WriterId};
use crate::marks::Era;
use crate::request::Refusal;

/// Bug in J-ERA: a page waits for others, which may hang, though a replica has told
/// that the era is over.
#[test]
fn j_era_a_later_era_decides_at_once() {
    let mut tally = PageTally::<5>::new(KeyRange::from(..), 3);
    (0..5).for_each(|replica| tally.asked(replica));
    tally.add(0, Ok(Response::Page(Box::default())));
    assert!(!tally.is_decided());
    let stale = Refusal::Stale { era: Era::FIRST };
    tally.add(1, Err(ReplicaFailure::Refused(stale)));
    assert!(tally.is_decided() && !tally.is_answered());
}

/// What a replica may hold under the key: nothing, a value or a tombstone, by its bits.
const HELD: [Option<(u64, bool)>; 5] = [
    None,
    Some((1, false)),
    Some((2, false)),
    Some((2, true)),
    Some((3, false)),
];
const MARKS: [u64; 3] = [0, 2, 3];

fn key() -> Key {
    Key::from("k")
}

fn page(entry: Option<&Entry>, mark: u64) -> Page {
    Page {
        entries: entry
            .map(|entry| (key(), entry.clone()))
            .into_iter()
            .collect(),
        upto: None,
        collected: Timestamp::from_bits(mark),
    }
}

fn pages() -> Vec<(Option<Entry>, u64)> {
    let entry = |(bits, is_tombstone): (u64, bool)| {
        let version = Version {
            timestamp: Timestamp::from_bits(bits),
            writer: WriterId::new(1),
        };
        match is_tombstone {
            true => Entry::tombstone(version),
            false => Entry::new(version, "value"),
        }
    };
    let with = |held: Option<(u64, bool)>| MARKS.map(|mark| (held.map(entry), mark));
    let all = HELD.into_iter().flat_map(with);
    // A tombstone from before its own mark is not told.
    all.filter(|(held, mark)| {
        let mark = Timestamp::from_bits(*mark);
        held.as_ref()
            .is_none_or(|it| it.value.is_some() || it.version.timestamp >= mark)
    })
    .collect()
}

/// The rule, as it is written down.
fn counts(entry: &Entry, told: u64, mark: u64) -> bool {
    told == mark || entry.version.timestamp >= Timestamp::from_bits(mark)
}

/// G-VOID. Bug: the mark of a late and shorter page makes void what it does not tell of.
#[test]
fn g_void_a_mark_says_nothing_beyond_its_page() {
    let entry = |bits| {
        let version = Version {
            timestamp: Timestamp::from_bits(bits),
            writer: WriterId::new(1),
        };
        Entry::new(version, "value")
    };
    let [before, beyond] = ["a", "c"].map(Key::from);
    let whole = Page {
        entries: vec![(before.clone(), entry(2)), (beyond.clone(), entry(2))],
        upto: None,
        collected: Timestamp::MIN,
    };
    let short = Page {
        entries: Vec::new(),
        upto: Some(Key::from("b")),
        collected: Timestamp::from_bits(3),
    };
    let mut tally = PageTally::<3>::new(KeyRange::from(..), 1);
    (0..3).for_each(|replica| tally.asked(replica));
    tally.add(0, Ok(Response::Page(Box::new(whole))));
    tally.add(1, Ok(Response::Page(Box::new(short))));
    let values = tally.values(|_| false);
    let keys: Vec<&Key> = values.iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [&beyond]);
    // It is not known to lack that.
    assert!(tally.take_due(1, 1).is_empty());
    assert_eq!(tally.take_due(1, 2), [(beyond, entry(2))]);
}

/// G-VOID, as of a read. Bugs: a scan shows what is void, or does not show what counts,
/// whoever answers first; what is void is sent to others; one that lacks what counts is not
/// sent it; one that holds what is void is taken for a holder.
#[test]
fn g_void_pages_count_as_written_in_every_order() {
    let pages = pages();
    for one in &pages {
        for two in &pages {
            for three in &pages {
                for order in [
                    [0, 1, 2],
                    [0, 2, 1],
                    [1, 0, 2],
                    [1, 2, 0],
                    [2, 0, 1],
                    [2, 1, 0],
                ] {
                    check(&[one, two, three], &order);
                }
            }
        }
    }
}

fn check(told: &[&(Option<Entry>, u64); 3], order: &[usize; 3]) {
    let mut tally = PageTally::<3>::new(KeyRange::from(..), 3);
    (0..3).for_each(|replica| tally.asked(replica));
    for replica in order {
        let (entry, mark) = told[*replica];
        let page = page(entry.as_ref(), *mark);
        tally.add(*replica, Ok(Response::Page(Box::new(page))));
    }
    let mark = told.iter().map(|(_, mark)| *mark).max().unwrap();
    let counting = |(entry, own): &(Option<Entry>, u64)| {
        let entry = entry.clone()?;
        counts(&entry, *own, mark).then_some(entry)
    };
    let greatest = told.iter().filter_map(|it| counting(it)).max();
    let value = greatest.as_ref().and_then(|it| it.value.clone());
    let shown: Vec<_> = value.map(|value| (key(), value)).into_iter().collect();
    assert_eq!(tally.values(|_| false), shown, "{told:?}, {order:?}");
    // All who have collected held the greatest of what was before. So of that they hold the
    // same, if anything, and nobody more.
    let before = |(entry, _): &&(Option<Entry>, u64)| {
        let is_before = |it: &&Entry| it.version.timestamp < Timestamp::from_bits(mark);
        entry.as_ref().filter(is_before).cloned()
    };
    let of_mark = told.iter().copied().filter(|(_, own)| *own == mark);
    if let Some(collected) = of_mark.filter_map(|it| before(&it)).min()
        && told.iter().copied().filter_map(|it| before(&it)).max() > Some(collected)
    {
        return;
    }
    let held = told
        .iter()
        .filter(|it| greatest.is_some() && it.0 == greatest);
    let held = held.count();
    match &greatest {
        None => assert_eq!(tally.not_held(3), None),
        Some(_) if held == 3 => assert_eq!(tally.not_held(3), None),
        Some(_) => assert_eq!(
            tally.not_held(3),
            Some((&key(), held)),
            "{told:?}, {order:?}"
        ),
    }
    for replica in 0..3 {
        let due = tally.take_due(replica, 3);
        let lacks = greatest.is_some() && told[replica].0 != greatest;
        let expected: Vec<_> = greatest
            .clone()
            .filter(|_| lacks)
            .map(|it| (key(), it))
            .into_iter()
            .collect();
        assert_eq!(due, expected, "to {replica}: {told:?}, {order:?}");
    }
}
