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
    let unlike = Unlike::of(&Key::from("a"), &held, &[0, 2]).unwrap();
    assert_eq!(
        (unlike.sources.as_slice(), unlike.only_source()),
        (&[2][..], Some(2))
    );
}

/// Bugs: a replica without the key is not behind; entries of one version are alike.
#[test]
fn p_converge_what_is_unlike_is_found() {
    let of = |held: Held<3>| Unlike::of(&Key::from("a"), &held, &[0, 1, 2]);
    let one = Some((version(1), 1));
    assert_eq!(of([one; 3]), None);
    assert_eq!(of([one, one, None]).unwrap().sources, [0, 1]);
    let unlike = of([one, Some((version(1), 9)), Some((version(0), 8))]).unwrap();
    assert_eq!(
        (unlike.sources.as_slice(), unlike.only_source()),
        (&[0, 1][..], None)
    );
}
