//! What seals and marks change in the rules, over the same small world.

use super::*;
use crate::marks::{Era, Marks};

/// The seal and the mark of a replica.
type At = (Timestamp, Timestamp);

/// All of them that there can be: the mark is at most the seal.
fn all_at() -> Vec<At> {
    let times = || (0..5).map(Timestamp::from_bits);
    let below = |sealed| {
        let marks = times().filter(move |collected| *collected <= sealed);
        marks.map(move |collected| (sealed, collected))
    };
    times().flat_map(below).collect()
}

fn floors((sealed, collected): At) -> Arc<Floors> {
    let floors = Floors::default();
    floors.take_in(&Marks {
        sealed,
        collected,
        ..Marks::new(false)
    });
    floors.into()
}

/// What counts of what is held: of what is stamped before the mark, values alone.
fn counting((entry, anchor): &Held, (_, collected): At) -> Held {
    let is_kept = |version: Version| version.timestamp >= collected;
    let entry = entry.clone();
    let entry = entry.filter(|it| it.value.is_some() || is_kept(it.version));
    (entry, anchor.filter(|anchor| is_kept(*anchor)))
}

/// What a write comes to, as the rules are written down, where nothing new is taken that
/// is stamped before `floor`.
fn written(held: &Held, entry: &Entry, floor: Timestamp) -> (Response, Option<Held>) {
    let (is, anchor) = held;
    if is.as_ref() == Some(entry) {
        return (Response::Ack(Ack::Applied), None);
    }
    if Some(entry.version) < *anchor {
        let by = top(held).unwrap();
        return (Response::Refused(Refusal::Promised { by }), None);
    }
    if entry.version.timestamp < floor {
        let held = is.as_ref().map(|is| is.version.timestamp);
        let to = held.map_or(floor, |held| floor.max(held));
        return (Response::Refused(Refusal::Before { to }), None);
    }
    if is.as_ref() > Some(entry) {
        let by = is.as_ref().unwrap().version;
        return (Response::Ack(Ack::Superseded { by }), None);
    }
    let kept = (Some(entry.clone()), *anchor);
    (Response::Ack(Ack::Applied), Some(kept))
}

/// Checks a change of every record under every seal and mark: its answer, and what is held
/// afterwards, as far as it counts.
fn check(
    name: &str,
    change: &Change<'static>,
    expected: impl Fn(&Held, At) -> (Response, Option<Held>),
) {
    for at in all_at() {
        let floors = floors(at);
        for held in all_held() {
            let counted = counting(&held, at);
            let (response, kept) = expected(&counted, at);
            let mut after = held.clone();
            let told = apply(change.clone().under(&floors), &mut after);
            assert_eq!(told, response, "{name} of {held:?} at {at:?}");
            let kept = kept.unwrap_or_else(|| counted.clone());
            assert_eq!(counting(&after, at), kept, "{name} of {held:?} at {at:?}");
            // It makes no difference whether what counts no more was dropped before.
            let mut swept = counted;
            let told = apply(change.clone().under(&floors), &mut swept);
            assert_eq!((told, swept), (response, kept), "{name} of {held:?}, swept");
        }
    }
}

/// G-SEAL, all of the rules for a write. Bugs: a new entry is taken that is stamped before
/// the seal, or one at the seal is refused; one that is held is refused; superseded is said
/// before the seal is looked at, or the seal is before the promise; the seal is told wrong;
/// what is collected counts still.
#[test]
fn g_seal_a_write_is_decided_as_written() {
    for entry in entries() {
        let change = Change::write(entry.clone());
        check("a write", &change, |held, (sealed, _)| {
            written(held, &entry, sealed)
        });
    }
}

/// G-COLLECT, all of the rules for a repair. Bugs: a repair is refused that is stamped before
/// the seal and not before the mark; one before the mark is taken, or called superseded by
/// what counts no more.
#[test]
fn g_collect_a_repair_is_decided_as_written() {
    for entry in entries() {
        let change = Change::repair(&entry, None);
        check("a repair", &change, |held, (_, collected)| {
            written(held, &entry, collected)
        });
    }
}

/// G-SEAL, all of the rules for a ballot. Bugs: a ballot before the seal is promised; the
/// seal is looked at before the anchor or the entry; a tombstone that counts no more is
/// told; the mark is not told, or the seal is in its place.
#[test]
fn g_seal_a_ballot_is_decided_as_written() {
    for ballot in versions() {
        let change = Change::prepare(ballot);
        check("a ballot", &change, |(is, anchor), (sealed, collected)| {
            let held = (is.clone(), *anchor);
            if *anchor > Some(ballot) {
                let by = top(&held).unwrap();
                return (Response::Refused(Refusal::Promised { by }), None);
            }
            if let Some(is) = is
                && is.version > ballot
            {
                let by = is.version;
                return (Response::Refused(Refusal::Superseded { by }), None);
            }
            if ballot.timestamp < sealed {
                return (Response::Refused(Refusal::Before { to: sealed }), None);
            }
            let entry = is.clone();
            let promise = Response::Promise(crate::request::Held { collected, entry });
            (promise, Some((is.clone(), Some(ballot))))
        });
    }
}

/// G-COLLECT. Bugs: a sweep drops what counts still, a value, or an anchor with its
/// tombstone; or leaves what counts no more; or writes what is the same already.
#[test]
fn g_collect_a_sweep_leaves_what_counts() {
    for at in all_at() {
        let floors = floors(at);
        for held in all_held() {
            let mut after = held.clone();
            let response = apply(Change::sweep().under(&floors), &mut after);
            assert_eq!(response, Response::Ack(Ack::Applied));
            assert_eq!(after, counting(&held, at), "{held:?} at {at:?}");
            let again = Change::sweep().under(&floors);
            let again = again.decide(record(&after).as_ref());
            assert_eq!(again.action, Action::Keep, "{held:?} at {at:?}");
        }
    }
}

/// G-VOID, J-COPY. Bugs: of what its store was found with, a replica that is joining keeps
/// what is stamped before the mark of its peers, or drops what is not, or a promise; one
/// request that comes late drops what was copied meanwhile, or what was written since it
/// answers; one of another rejoin does anything; something is copied behind a rejoin.
#[test]
fn g_void_what_a_rejoin_drops_and_copies() {
    let era = |number: u64| Era::new(number.try_into().unwrap());
    let copied = Record::from(entries().remove(0));
    for (sealed, collected) in all_at() {
        for (is_joining, asks) in [(true, 2), (true, 1), (true, 3), (false, 2)] {
            let floors = Floors::default();
            floors.take_in(&Marks {
                era: era(2),
                sealed,
                collected,
                ..Marks::new(is_joining)
            });
            let (floors, is_taken) = (floors.into(), is_joining && asks == 2);
            let told = match is_taken {
                true => Response::Ack(Ack::Applied),
                false => Response::Refused(Refusal::NotJoining),
            };
            for held in all_held() {
                for before in (0..5).map(Timestamp::from_bits) {
                    let mut after = held.clone();
                    let forget = Change::forget(before, era(asks)).under(&floors);
                    assert_eq!(apply(forget, &mut after), told);
                    let is_older = |it: &Entry| it.version.timestamp < before;
                    let mut expected = held.clone();
                    if is_taken && collected < before {
                        expected.0.take_if(|it| is_older(it));
                    }
                    assert_eq!(after, expected, "{held:?} before {before:?}");
                }
                let mut after = held.clone();
                let copy = Change::copy(copied.clone(), era(asks)).under(&floors);
                assert_eq!(apply(copy, &mut after), told);
                let mut expected = held.clone();
                if is_taken {
                    expected.0 = expected.0.max(copied.entry());
                }
                assert_eq!(after, expected, "{held:?}");
            }
        }
    }
}

/// Bug: whoever makes a change its own decides by other floors than those that are in
/// force when it is decided.
#[test]
fn g_seal_what_is_decided_later_is_decided_by_what_is_sealed_then() {
    let floors = floors((Timestamp::MIN, Timestamp::MIN));
    let entry = entries().remove(0);
    let change = Change::write(entry).under(&floors).into_owned();
    let to = Timestamp::from_bits(9);
    floors.seal(to);
    let refused = Response::Refused(Refusal::Before { to });
    assert_eq!(change.decide(None).response, refused);
}
