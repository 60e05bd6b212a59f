use super::*;
use crate::entry::{Entry, Timestamp, WriterId};

fn version(bits: u64) -> Version {
    Version {
        timestamp: Timestamp::from_bits(bits),
        writer: WriterId::new(1),
    }
}

/// L-DOUBT, G-VOID: what a promise shows of earlier attempts, over all of a small world.
/// Bugs: an attempt that was a delete, and is forgotten, is taken for one that was never
/// applied, and made again; one that can be known is called unknown; another attempt than
/// the one that was found is taken for the one that was applied.
#[tokio::test]
async fn l_doubt_a_promise_shows_what_became_of_attempts() {
    let attempts = [vec![], vec![3], vec![1, 3]];
    let bases: Vec<Option<u64>> = [None].into_iter().chain((0..5).map(Some)).collect();
    for ballots in &attempts {
        for base in &bases {
            for mark in 0..6 {
                let mut memory = Memory::new();
                for ballot in ballots {
                    let stored = [Outcome::Answered(Ack::Applied)];
                    let output = Output::New(*ballot);
                    memory.remember(version(*ballot), output, &stored, &mut None);
                }
                let held = Held {
                    entry: base.map(|bits| Entry::new(version(bits), "v")),
                    collected: Timestamp::from_bits(mark),
                };
                let place = ballots.iter().position(|ballot| Some(*ballot) == *base);
                let expected = match (place, ballots.first(), base) {
                    (Some(place), ..) => Became::Applied(place),
                    (None, None, _) => Became::NotApplied,
                    (None, Some(first), Some(base)) if base < first => Became::NotApplied,
                    // A delete of that ballot would still be there.
                    (None, Some(first), None) if mark <= *first => Became::NotApplied,
                    _ => Became::Unknown,
                };
                let became = memory.became(&held).await;
                assert_eq!(became, expected, "{ballots:?}, {base:?}, {mark}");
            }
        }
    }
}
