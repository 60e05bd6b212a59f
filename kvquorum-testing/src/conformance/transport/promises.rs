//! Ballots there, and promises back.

use kvquorum_core::{Ack, Entry, Key, Limits, Refusal, Request, Response, Transport, Version};

use super::super::futures::together;
use super::super::samples::{all_bytes, awkward_keys, tombstone, value, version};
use super::super::shown::Shown;
use super::{PAST, Subject, UNCHANGED, asked, mistaken};

pub(super) async fn run<T: Transport>(link: T) {
    let link = Subject::new(link);
    told(&link).await;
    anchored(&link).await;
    superseded(&link).await;
}

/// A promise tells the entry, of whatever kind, or that there is none.
async fn told<T: Transport>(link: &Subject<T>) {
    let entries = [
        None,
        Some(value(0, 0, "")),
        Some(value(PAST, u64::MAX, all_bytes())),
        Some(tombstone(PAST + 1, 1 << 63)),
        Some(value(PAST, (1 << 53) + 1, "null")),
        Some(tombstone(0, 0)),
    ];
    let ballot = version(PAST + 2, u64::MAX);
    let keys = awkward_keys();
    let told: Vec<_> = keys.iter().zip(entries.iter().cycle()).collect();
    for few in told.chunks(16) {
        let tell = async |key: &Key, entry: Option<&Entry>| {
            if let Some(entry) = entry {
                link.write_as(&UNCHANGED, key, entry, Ack::Applied).await;
            }
            promised(link, key, ballot, entry).await;
            let when = "after a ballot was promised";
            link.expect(&UNCHANGED, key, entry, when).await;
        };
        let few = few.iter().copied();
        together(few.map(|(key, entry)| tell(key, entry.as_ref()))).await;
    }
    let key = Key::from("the largest value");
    let largest = value(PAST, 1, vec![b'v'; Limits::default().max_value_len]);
    link.write_as(&UNCHANGED, &key, &largest, Ack::Applied)
        .await;
    promised(link, &key, ballot, Some(&largest)).await;
}

/// Two versions next to each other. They are one to an encoding that rounds.
fn low_and_high() -> (Version, Version) {
    (version(PAST, 1 << 53), version(PAST, (1 << 53) + 1))
}

/// What is below a promised ballot is refused, by that ballot.
async fn anchored<T: Transport>(link: &Subject<T>) {
    let (key, (low, high)) = (Key::from("promised"), low_and_high());
    let refused = async |request, by| {
        let expected = Refusal::Promised { by };
        link.refused(request, |refusal| *refusal == expected).await;
    };
    promised(link, &key, high, None).await;
    refused(Request::write(&key, Entry::new(low, "below")), high).await;
    refused(Request::prepare(&key, low), high).await;
    // As where a call is tried again.
    promised(link, &key, high, None).await;
    let entry = Entry::new(high, "at the ballot");
    link.write_as(&UNCHANGED, &key, &entry, Ack::Applied).await;
    promised(link, &key, high, Some(&entry)).await;
    let greater = value(PAST + 1, 1 << 63, "above");
    link.write_as(&UNCHANGED, &key, &greater, Ack::Applied)
        .await;
    refused(Request::prepare(&key, low), greater.version).await;
    refused(Request::write(&key, Entry::tombstone(low)), greater.version).await;
    let when = "after what is below its ballot was refused";
    link.expect(&UNCHANGED, &key, Some(&greater), when).await;
}

/// A ballot below the entry that is held is refused, by that entry.
async fn superseded<T: Transport>(link: &Subject<T>) {
    let (low, by) = low_and_high();
    for (key, entry) in [
        ("a value", Entry::new(by, "held")),
        ("a tombstone", Entry::tombstone(by)),
    ] {
        let key = Key::from(key);
        link.write_as(&UNCHANGED, &key, &entry, Ack::Applied).await;
        let expected = Refusal::Superseded { by };
        let is_expected = |refusal: &Refusal| *refusal == expected;
        link.refused(Request::prepare(&key, low), is_expected).await;
        promised(link, &key, by, Some(&entry)).await;
    }
}

/// Requires that a ballot is promised, and that this entry is told.
async fn promised<T: Transport>(
    link: &Subject<T>,
    key: &Key,
    ballot: Version,
    expected: Option<&Entry>,
) {
    let request = Request::prepare(key, ballot);
    match link.ask(request.clone()).await {
        Response::Promise(told) => UNCHANGED.require(
            told.entry.as_ref() == expected,
            format_args!(
                "{} told {}; expected {}",
                asked(&request),
                Shown::entry(told.entry.as_ref()),
                Shown::entry(expected),
            ),
        ),
        other => mistaken(&request, &other),
    }
}
