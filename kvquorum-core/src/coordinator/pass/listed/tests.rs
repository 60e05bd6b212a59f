use super::*;
use crate::entry::{Timestamp, WriterId};
use crate::fingerprint::Versioned;

fn version(bits: u64) -> Version {
    Version {
        timestamp: Timestamp::from_bits(bits),
        writer: WriterId::new(1),
    }
}

fn told(keys: &[(&'static str, u64)], upto: Option<&'static str>) -> Versions {
    let versions = keys.iter().map(|(key, bits)| Versioned {
        key: Key::from(*key),
        version: version(*bits),
        hash: (*bits).into(),
    });
    Versions {
        versions: versions.collect(),
        upto: upto.map(Key::from),
        collected: Timestamp::MIN,
        is_beside_others: false,
    }
}

/// P-CONVERGE. Bug: what lies beyond the end of one list is taken for lacked there; the
/// greatest end, and not the least, is taken for how far they go.
#[test]
fn p_converge_lists_count_as_far_as_all_of_them_go() {
    let listed = Listed::<3>::merge(vec![
        (0, told(&[("a", 1), ("b", 1), ("c", 1)], None)),
        (2, told(&[("a", 2)], Some("b"))),
    ]);
    assert_eq!(listed.upto, Some(Key::from("b")));
    assert_eq!(listed.held.len(), 1);
    let held = listed.held[&Key::from("a")];
    assert_eq!(
        held.map(|it| it.map(|(_, hash)| hash)),
        [Some(1), None, Some(2)]
    );
    // Replica 1 told nothing, and so is not asked, nor sent anything.
    let unlike = Unlike::of(&Key::from("a"), &held, &listed.marks, &[0, 2]).unwrap();
    assert_eq!(
        (unlike.sources.as_slice(), unlike.only_source()),
        (&[2][..], Some(2))
    );
}

/// Bugs: a replica without the key is not behind; entries of one version are alike.
#[test]
fn p_converge_what_is_unlike_is_found() {
    let of = |held: Held<3>| Unlike::of(&Key::from("a"), &held, &[Timestamp::MIN; 3], &[0, 1, 2]);
    let one = Some((version(1), 1));
    assert_eq!(of([one; 3]), None);
    assert_eq!(of([one, one, None]).unwrap().sources, [0, 1]);
    let unlike = of([one, Some((version(1), 9)), Some((version(0), 8))]).unwrap();
    assert_eq!(
        (unlike.sources.as_slice(), unlike.only_source()),
        (&[0, 1][..], None)
    );
}

/// G-VOID, over all that three replicas can tell of a key. Bugs: the source of a repair is
/// one that holds what is void; a replica that holds what is void and more than what counts
/// is sent a repair, which it keeps less of; or one that a repair can bring right is settled.
#[test]
fn g_void_what_is_void_is_no_source() {
    const MARKS: [u64; 3] = [0, 2, 3];
    let held: Vec<Option<u64>> = [None].into_iter().chain((1..4).map(Some)).collect();
    let all = || {
        let with = |held: &Option<u64>| MARKS.map(|mark| (*held, mark));
        held.iter().flat_map(with)
    };
    for one in all() {
        for two in all() {
            for three in all() {
                let told = [one, two, three];
                let marks = told.map(|(_, mark)| Timestamp::from_bits(mark));
                let held = told.map(|(held, _)| held.map(|bits| (version(bits), bits.into())));
                let unlike = Unlike::of(&Key::from("a"), &held, &marks, &[0, 1, 2]);
                let Some(unlike) = unlike else {
                    assert!(one.0 == two.0 && two.0 == three.0, "{told:?}");
                    continue;
                };
                let mark = told.map(|(_, mark)| mark).into_iter().max().unwrap();
                let counts = |(held, own): (Option<u64>, u64)| {
                    held.filter(|bits| own == mark || *bits >= mark)
                };
                let greatest = told.into_iter().filter_map(counts).max();
                let is_source =
                    |replica: &usize| greatest.is_some() && counts(told[*replica]) == greatest;
                let sources: Vec<usize> = (0..3).filter(is_source).collect();
                assert_eq!(unlike.sources, sources, "{told:?}");
                let is_void = told.iter().any(|(held, _)| *held > greatest);
                assert_eq!(unlike.is_void, is_void, "{told:?}");
            }
        }
    }
}
