//! The rules over every record and every request of a small world.

use super::*;
use crate::entry::{Timestamp, WriterId};

fn ahead(of: Version) -> Ahead {
    Ahead {
        timestamp: of.timestamp,
        now_millis: 0,
        max_drift_millis: 0,
    }
}

/// What is held under a key: an entry and an anchor.
type Held = (Option<Entry>, Option<Version>);

fn versions() -> Vec<Version> {
    let each = |bits| {
        [0, 1].map(|writer| Version {
            timestamp: Timestamp::from_bits(bits),
            writer: WriterId::new(writer),
        })
    };
    (0..4).flat_map(each).collect()
}

fn entries() -> Vec<Entry> {
    let of = |version| {
        let values = ["", "a", "b"].map(|value| Entry::new(version, value));
        values.into_iter().chain([Entry::tombstone(version)])
    };
    versions().into_iter().flat_map(of).collect()
}

fn or_none<T>(of: Vec<T>) -> Vec<Option<T>> {
    [None].into_iter().chain(of.into_iter().map(Some)).collect()
}

fn all_held() -> Vec<Held> {
    let anchors = or_none(versions());
    let with = |entry: Option<Entry>| {
        anchors
            .clone()
            .into_iter()
            .map(move |anchor| (entry.clone(), anchor))
    };
    or_none(entries()).into_iter().flat_map(with).collect()
}

fn record((entry, anchor): &Held) -> Option<Record> {
    Record::new(entry.clone(), *anchor)
}

fn apply(change: Change<'_>, held: &mut Held) -> Response {
    let Decision { action, response } = change.decide(record(held).as_ref());
    match action {
        Action::Keep => {}
        Action::Replace(record) => {
            let anchor = record.anchor();
            *held = (record.into_entry(), anchor);
        }
        Action::Remove => *held = (None, None),
    }
    response
}

/// The greatest version that is held or promised.
fn top((entry, anchor): &Held) -> Option<Version> {
    entry.as_ref().map(|entry| entry.version).max(*anchor)
}

/// All of the rules for a write. Bugs: ties by arrival, by version alone, or for
/// the first; an equal entry is called superseded, or refused; a superseded one is
/// stored, or says another version; promises are ignored; superseded is looked at
/// before the promise; an anchor is cleared by a put.
#[test]
fn l_promise_a_write_is_decided_as_written() {
    for held in all_held() {
        for entry in entries() {
            let mut after = held.clone();
            let response = apply(Change::write(entry.clone()), &mut after);
            let (is, anchor) = &held;
            let (expected, kept) = if is.as_ref() == Some(&entry) {
                (Response::Ack(Ack::Applied), held.clone())
            } else if Some(entry.version) < *anchor {
                let by = top(&held).unwrap();
                (Response::Refused(Refusal::Promised { by }), held.clone())
            } else if is.as_ref() > Some(&entry) {
                let by = is.as_ref().unwrap().version;
                (Response::Ack(Ack::Superseded { by }), held.clone())
            } else {
                let kept = (Some(entry.clone()), *anchor);
                (Response::Ack(Ack::Applied), kept)
            };
            assert_eq!(response, expected, "{held:?}, {entry:?}");
            assert_eq!(after, kept, "{held:?}, {entry:?}");
        }
    }
}

/// All of the rules for a ballot. Bugs: a ballot below the anchor or the entry is
/// promised; one that is promised already is refused; the entry is lost, or another
/// one told.
#[test]
fn l_promise_a_ballot_is_decided_as_written() {
    for held in all_held() {
        for ballot in versions() {
            let mut after = held.clone();
            let response = apply(Change::prepare(ballot), &mut after);
            let (is, anchor) = held.clone();
            let (expected, kept) = if anchor > Some(ballot) {
                let by = top(&held).unwrap();
                (Response::Refused(Refusal::Promised { by }), anchor)
            } else if let Some(is) = &is
                && is.version > ballot
            {
                let by = is.version;
                (Response::Refused(Refusal::Superseded { by }), anchor)
            } else {
                (Response::Promise(is.clone().into()), Some(ballot))
            };
            assert_eq!(response, expected, "{held:?}, {ballot:?}");
            assert_eq!(after, (is, kept), "{held:?}, {ballot:?}");
        }
    }
}

/// Bugs: a request that came twice is answered otherwise the second time; a record
/// that is the same already is written again.
#[test]
fn a_repeated_request_changes_nothing() {
    let writes = entries().into_iter().map(Change::write);
    let ballots = versions().into_iter().map(Change::prepare);
    let changes: Vec<Change<'_>> = writes.chain(ballots).collect();
    for held in all_held() {
        for change in &changes {
            let mut after = held.clone();
            let response = apply(change.clone(), &mut after);
            let again = change.clone().decide(record(&after).as_ref());
            assert_eq!(again.action, Action::Keep, "{held:?}, {change:?}");
            assert_eq!(again.response, response, "{held:?}, {change:?}");
        }
    }
}

/// Bugs: what is held, or promised, falls; what is refused leaves something behind.
#[test]
fn what_is_held_and_promised_only_rises() {
    let writes = entries().into_iter().map(Change::write);
    let ballots = versions().into_iter().map(Change::prepare);
    let changes: Vec<Change<'_>> = writes.chain(ballots).collect();
    for held in all_held() {
        for change in &changes {
            let mut after = held.clone();
            let response = apply(change.clone(), &mut after);
            assert!(
                after.0 >= held.0 && after.1 >= held.1,
                "{held:?}, {change:?}"
            );
            if matches!(response, Response::Refused(_)) {
                assert_eq!(after, held, "{change:?}");
            }
        }
    }
}

/// Bugs: what is kept depends on the order of arrival, or on repetition.
#[test]
fn writes_commute_where_nothing_is_promised() {
    let entries = entries();
    for one in &entries {
        for other in &entries {
            let mut orders = [[one, other, one], [other, one, other]].map(|order| {
                let mut held = (None, None);
                for entry in order {
                    apply(Change::write(entry.clone()), &mut held);
                }
                held
            });
            let [first, second] = &mut orders;
            assert_eq!(first, second);
            assert_eq!(first.0.as_ref(), Some(one.max(other)));
        }
    }
}

/// C-DRIFT. Bugs: an entry or a ballot from the future is taken; a key that holds
/// one, or promised one, can't be written again; each write carries it further than
/// one step; what is held already, or superseded, is refused.
#[test]
fn c_drift_only_a_key_that_is_as_far_ahead_takes_what_is_from_the_future() {
    for held in all_held() {
        let writes = entries().into_iter().map(|entry| {
            let version = entry.version;
            let ahead = Change::write_within(&entry, Some(ahead(entry.version)));
            (version, ahead, Change::write(entry))
        });
        let ballots = versions().into_iter().map(|ballot| {
            let ahead = Change::prepare_within(ballot, Some(ahead(ballot)));
            (ballot, ahead, Change::prepare(ballot))
        });
        for (version, ahead, plain) in writes.chain(ballots) {
            let mut after = held.clone();
            let response = apply(ahead, &mut after);
            let bits = version.timestamp.to_bits();
            let as_far = top(&held).is_some_and(|top| bits <= top.timestamp.to_bits() + 1);
            let refused = matches!(response, Response::Refused(Refusal::TooFarAhead { .. }));
            assert_eq!(refused, !as_far, "{held:?}, {version:?}");
            if refused {
                assert_eq!(after, held);
            } else {
                let mut by_plain = held.clone();
                assert_eq!(response, apply(plain, &mut by_plain));
                assert_eq!(after, by_plain);
            }
        }
    }
}

/// Bug: at the end of time nothing is refused, or all overflows.
#[test]
fn c_drift_holds_at_the_end_of_time() {
    let last = Version {
        timestamp: Timestamp::MAX,
        writer: WriterId::new(0),
    };
    let mut held = (None, None);
    let response = apply(
        Change::write_within(&Entry::new(last, "a"), Some(ahead(last))),
        &mut held,
    );
    assert!(matches!(response, Response::Refused(_)));
    held.0 = Some(Entry::new(last, "a"));
    let response = apply(
        Change::write_within(&Entry::new(last, "b"), Some(ahead(last))),
        &mut held,
    );
    assert_eq!(response, Response::Ack(Ack::Applied));
}

mod collection;

#[test]
fn a_removal_removes() {
    for mut held in all_held() {
        apply(Change::remove(), &mut held);
        assert_eq!(held, (None, None));
    }
}
