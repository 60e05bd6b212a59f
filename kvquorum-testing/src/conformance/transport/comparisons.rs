//! What replicas compare themselves by.

use std::ops::{Bound, RangeBounds};

use kvquorum_core::{
    Entry, Fingerprint, FingerprintRequest, Key, KeyRange, Record, Request, RequestKind, Response,
    Timestamp, Told, Transport, Versioned, VersionsRequest,
};

use super::pages::{Held, fill};
use super::{ITS_OWN_ANSWER, Subject, UNCHANGED, asked, mistaken};

/// With a number in each byte, so that none is lost unseen.
const HASH_KEY: u128 = 0xfedc_ba98_7654_3210_0f1e_2d3c_4b5a_6978;

pub(super) async fn run<T: Transport>(link: T) {
    let link = Subject::new(link);
    let held = fill(&link).await;
    let keys: Vec<&Key> = held.keys().collect();
    let (Some(first), Some(middle), Some(last)) =
        (keys.first(), keys.get(keys.len() / 2), keys.last())
    else {
        return;
    };
    let first = KeyRange::from(Key::clone(first)..);
    let some = KeyRange::from(Key::clone(middle)..Key::clone(last));
    let cuts: Vec<Key> = keys.iter().step_by(5).copied().cloned().collect();
    for range in [KeyRange::from(..), first, some] {
        for (cuts, every, max_keys, max_bytes) in [
            (Vec::new(), u64::MAX, u64::MAX, u64::MAX),
            (cuts.clone(), u64::MAX, u64::MAX, u64::MAX),
            (Vec::new(), 3, u64::MAX, u64::MAX),
            (cuts.clone(), 4, 7, u64::MAX),
            (Vec::new(), u64::MAX, u64::MAX, 300),
        ] {
            let request = FingerprintRequest {
                range: range.clone(),
                hash_key: HASH_KEY,
                cuts,
                every,
                max_keys,
                max_bytes,
                collected: Timestamp::MIN,
            };
            windows(&link, &held, request).await;
        }
        for max_keys in [u64::MAX, 7, 1] {
            let hash_key = HASH_KEY;
            let range = range.clone();
            versions(
                &link,
                &held,
                VersionsRequest {
                    range,
                    hash_key,
                    max_keys,
                    collected: Timestamp::MIN,
                },
            )
            .await;
        }
    }
}

/// Windows that tell what the replica holds, as far as they go.
async fn windows<T: Transport>(link: &Subject<T>, held: &Held, wanted: FingerprintRequest) {
    let request = of(RequestKind::Fingerprint(Box::new(wanted.clone())));
    let Told::Windows(found) = told(link, &request).await else {
        ITS_OWN_ANSWER.broken(format_args!("{request:?} was answered by no windows"))
    };
    let what = asked(&request);
    let Some(ends) = found.ends(&wanted.range, &wanted.cuts) else {
        UNCHANGED.broken(format_args!("{what} brought {found:?}"))
    };
    let mut rest = wanted.range.clone();
    let (mut records, mut bytes) = (0, 0);
    for (window, end) in found.windows.iter().zip(&ends) {
        let part = match end {
            Some(end) => rest.intersection(&KeyRange::from(..end.clone())),
            None => rest.clone(),
        };
        let within = held.iter().filter(|(key, _)| part.contains(key));
        let hashed = within
            .clone()
            .map(|(key, entry)| Fingerprint::of(wanted.hash_key, key, entry));
        let expected = hashed.fold(Fingerprint::default(), Fingerprint::and);
        UNCHANGED.require(
            window.fingerprint == expected,
            format_args!("{what} brought {window:?}; expected {expected:?}"),
        );
        let is_within = |cut: &Key| part.contains(cut) && !is_start(&part, cut);
        UNCHANGED.require(
            !wanted.cuts.iter().any(is_within) && expected.count <= wanted.every,
            format_args!("{what} brought a window that is not cut: {window:?}"),
        );
        records += expected.count;
        // As the replica counts: no promise was made here, so its records are the
        // entries.
        let len =
            |(key, entry): (&Key, &Entry)| key.len() + Record::from(entry.clone()).encoded_len();
        bytes += within.map(len).sum::<usize>() as u64;
        if let Some(end) = end {
            rest = rest.intersection(&KeyRange::from(end.clone()..));
        }
    }
    let is_whole = ends.last().is_some_and(Option::is_none);
    let is_bounded = wanted.max_keys < u64::MAX || wanted.max_bytes < u64::MAX;
    UNCHANGED.require(
        (is_bounded || is_whole)
            && found.bytes == bytes
            && records <= wanted.max_keys
            && (bytes <= wanted.max_bytes || bytes - wanted.max_bytes < LONGEST),
        format_args!(
            "{what} brought {} windows of {records} entries and {bytes} bytes",
            ends.len()
        ),
    );
}

/// A record here, and its key, are no longer.
const LONGEST: u64 = 1024 + 20_100;

fn is_start(part: &KeyRange, key: &Key) -> bool {
    part.start_bound() == Bound::Included(key)
}

/// Versions of all that the replica holds, as far as they go.
async fn versions<T: Transport>(link: &Subject<T>, held: &Held, wanted: VersionsRequest) {
    let request = of(RequestKind::Versions(Box::new(wanted.clone())));
    let Told::Versions(told) = told(link, &request).await else {
        ITS_OWN_ANSWER.broken(format_args!("{request:?} was answered by no versions"))
    };
    let is_covered = |key: &Key| told.upto.as_ref().is_none_or(|upto| key < upto);
    let within = |key: &Key| wanted.range.contains(key) && is_covered(key);
    let expected = held.iter().filter(|(key, _)| within(key));
    let expected: Vec<_> = expected
        .map(|(key, entry)| Versioned {
            key: key.clone(),
            version: entry.version,
            hash: Fingerprint::of(wanted.hash_key, key, entry).sum,
        })
        .collect();
    UNCHANGED.require(
        told.versions == expected && expected.len() as u64 <= wanted.max_keys,
        format_args!(
            "{} brought {told:?}; expected {expected:?}",
            asked(&request)
        ),
    );
    UNCHANGED.require(
        told.upto.is_none() || wanted.max_keys < u64::MAX,
        format_args!("{} goes up to {:?}", asked(&request), told.upto),
    );
}

async fn told<T: Transport>(link: &Subject<T>, request: &Request) -> Told {
    match link.ask(request.clone()).await {
        Response::Told(told) => *told,
        other => mistaken(request, &other),
    }
}

fn of(kind: RequestKind) -> Request {
    let mut request = Request::identify();
    request.kind = kind;
    request
}
