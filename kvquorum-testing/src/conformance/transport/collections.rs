//! Seals, collections, and the marks that answers tell.

use std::num::NonZeroU64;

use kvquorum_core::{
    Ack, Entry, Fingerprint, FingerprintRequest, Held, Key, KeyRange, Marks, Page, Records,
    Refusal, Request, RequestKind, Response, ScanLimit, Status, Swept, Timestamp, Told, Transport,
    Version, Versions, VersionsRequest,
};

use super::super::samples::{tombstone, value, version};
use super::rejoins::{marked, status, told};
use super::{ITS_OWN_ANSWER, Subject, UNCHANGED, asked, mistaken};

/// Before all clocks. Those next to it are one to an encoding that rounds to 53 bits.
const BASE: u64 = 1 << 56;
const COLLECTED: Timestamp = Timestamp::from_bits(BASE + 10);
const SEALED: Timestamp = Timestamp::from_bits(BASE + 20);

pub(super) async fn run<T: Transport>(link: T) {
    let link = Subject::new(link);
    let held = fill(&link).await;
    let boot = seal(&link).await;
    sealed(&link).await;
    collect(&link, boot).await;
    marks_are_told(&link, &held).await;
    let swept = sweep(&link).await;
    marks_are_told(&link, &held).await;
    expired(&link, swept).await;
}

/// What is held before, by its key, and whether it counts once it is collected.
fn entries() -> Vec<(&'static str, Option<Entry>, Option<Version>, bool)> {
    vec![
        ("a value", Some(value(BASE + 9, 1, "kept")), None, true),
        (
            "deleted before",
            Some(tombstone(BASE + 9, u64::MAX)),
            None,
            false,
        ),
        (
            "deleted just then",
            Some(tombstone(BASE + 10, 0)),
            None,
            true,
        ),
        ("deleted later", Some(tombstone(BASE + 15, 7)), None, true),
        ("promised before", None, Some(version(BASE + 9, 1)), false),
        (
            "promised later",
            Some(value(BASE + 1, 1, "")),
            Some(version(BASE + 30, 1)),
            true,
        ),
        (
            "promised, and kept",
            Some(value(BASE + 2, 1, "kept")),
            Some(version(BASE + 9, 1)),
            true,
        ),
    ]
}

/// From how many of these something is dropped once it is collected.
const DROPPED: u64 = 3;

/// Returns what counts once it is collected.
async fn fill<T: Transport>(link: &Subject<T>) -> Vec<(Key, Entry)> {
    let mut counting = Vec::new();
    for (key, entry, promise, counts) in entries() {
        let key = Key::from(key);
        if let Some(entry) = entry {
            link.write_as(&UNCHANGED, &key, &entry, Ack::Applied).await;
            if counts {
                counting.push((key.clone(), entry));
            }
        }
        if let Some(ballot) = promise {
            let request = Request::prepare(&key, ballot);
            match link.ask(request.clone()).await {
                Response::Promise(_) => {}
                other => mistaken(&request, &other),
            }
        }
    }
    counting.sort();
    counting
}

/// It is sealed, but not past its clock. Returns the start of its process.
async fn seal<T: Transport>(link: &Subject<T>) -> u64 {
    let seal = |to| Request::of(RequestKind::Seal { to });
    let is_expected = |refusal: &Refusal| match refusal {
        Refusal::TooFarAhead {
            timestamp,
            now_millis,
            max_drift_millis: 0,
        } => *timestamp == Timestamp::MAX && *now_millis > 0,
        _ => false,
    };
    link.refused(seal(Timestamp::MAX), is_expected).await;
    let before = status(link).await;
    let marks = Marks {
        sealed: SEALED,
        ..before.marks
    };
    // A lesser one changes nothing.
    for to in [SEALED, COLLECTED] {
        let request = seal(to);
        let Told::Status(Status {
            marks: found, boot, ..
        }) = told(link, &request).await
        else {
            ITS_OWN_ANSWER.broken(format_args!("{request:?} was answered by no status"))
        };
        UNCHANGED.require(
            (found, boot) == (marks, before.boot),
            format_args!("{request:?} left {found:?} of start {boot}; expected {marks:?}"),
        );
    }
    before.boot
}

/// What is new is refused where it is stamped before the seal, and no repair is.
async fn sealed<T: Transport>(link: &Subject<T>) {
    let (key, early) = (Key::from("new"), value(BASE + 19, u64::MAX, "early"));
    let is_before = |refusal: &Refusal| *refusal == Refusal::Before { to: SEALED };
    for entry in [&early, &tombstone(BASE + 19, u64::MAX)] {
        let write = Request::write(&key, entry.clone());
        link.refused(write, is_before).await;
    }
    let prepare = Request::prepare(&key, early.version);
    link.refused(prepare, is_before).await;
    link.expect(&UNCHANGED, &key, None, "after it was refused")
        .await;
    repaired(link, &key, &early).await;
    let just_then = tombstone(BASE + 20, 0);
    link.write_as(&UNCHANGED, &key, &just_then, Ack::Applied)
        .await;
}

/// Requires that a replica takes a repair.
async fn repaired<T: Transport>(link: &Subject<T>, key: &Key, entry: &Entry) {
    let request = Request::repair(key, entry.clone());
    match link.ask(request.clone()).await {
        Response::Ack(Ack::Applied) => {}
        other => mistaken(&request, &other),
    }
    let when = "after a repair";
    link.expect(&UNCHANGED, key, Some(entry), when).await;
}

/// It collects what it was sealed up to, and no more; and only since it was sealed.
async fn collect<T: Transport>(link: &Subject<T>, boot: u64) {
    let collect = |to, boot| Request::of(RequestKind::Collect { to, boot });
    let is_not_sealed = |refusal: &Refusal| *refusal == Refusal::NotSealed;
    let past = Timestamp::from_bits(SEALED.to_bits() + 1);
    for request in [
        collect(COLLECTED, boot ^ 1),
        collect(COLLECTED, boot ^ (1 << 63)),
        collect(past, boot),
    ] {
        link.refused(request, is_not_sealed).await;
    }
    let marks = Marks {
        collected: COLLECTED,
        ..status(link).await.marks
    };
    marked(link, collect(COLLECTED, boot), marks).await;
    let late = Request::repair("late", value(BASE + 9, u64::MAX, "late"));
    let is_before = |refusal: &Refusal| *refusal == Refusal::Before { to: COLLECTED };
    link.refused(late, is_before).await;
    let key = Key::from("in time");
    repaired(link, &key, &value(BASE + 10, 0, "in time")).await;
}

/// Requires that all kinds of answers tell the mark, and what counts.
async fn marks_are_told<T: Transport>(link: &Subject<T>, held: &[(Key, Entry)]) {
    let mut held = held.to_vec();
    held.push(("in time".into(), value(BASE + 10, 0, "in time")));
    held.push(("new".into(), tombstone(BASE + 20, 0)));
    held.sort();
    let all = entries().into_iter().map(|(key, ..)| Key::from(key));
    for key in all {
        let entry = held.iter().find(|(it, _)| *it == key);
        let expected = Held {
            collected: COLLECTED,
            entry: entry.map(|(_, entry)| entry.clone()),
        };
        told_as(link, Request::read(&key), Response::Entry(expected)).await;
    }
    let promised = Key::from("promised later");
    let expected = Held {
        collected: COLLECTED,
        entry: Some(value(BASE + 1, 1, "")),
    };
    let prepare = Request::prepare(promised, version(BASE + 30, 1));
    told_as(link, prepare, Response::Promise(expected)).await;
    let page = Page {
        entries: held.clone(),
        upto: None,
        collected: COLLECTED,
    };
    let scan = Request::scan(.., ScanLimit::NONE);
    told_as(link, scan, Response::Page(Box::new(page))).await;
    let records = RequestKind::Records {
        range: (..).into(),
        max_keys: u64::MAX,
        max_bytes: u64::MAX,
    };
    let records = Request::of(records);
    let Told::Records(Records { collected, .. }) = told(link, &records).await else {
        ITS_OWN_ANSWER.broken(format_args!("{records:?} was answered by no records"))
    };
    UNCHANGED.require(
        collected == COLLECTED,
        format_args!("records came with the mark {collected:?}; expected {COLLECTED:?}"),
    );
    for asked in [Timestamp::MIN, Timestamp::from_bits(BASE + 16)] {
        compared(link, &held, asked).await;
    }
}

/// Requires that comparisons leave out the tombstones that count no more, for the replica
/// or for who asks.
async fn compared<T: Transport>(link: &Subject<T>, held: &[(Key, Entry)], asked: Timestamp) {
    let (hash_key, range) = (7, KeyRange::from(..));
    let mark = asked.max(COLLECTED);
    let counts =
        |(_, entry): &&(Key, Entry)| entry.value.is_some() || entry.version.timestamp >= mark;
    let held = held.iter().filter(counts);
    let versions = Request::of(RequestKind::Versions(Box::new(VersionsRequest {
        range: range.clone(),
        hash_key,
        max_keys: u64::MAX,
        collected: asked,
    })));
    let Told::Versions(Versions {
        versions: found,
        collected,
        ..
    }) = told(link, &versions).await
    else {
        ITS_OWN_ANSWER.broken(format_args!("{versions:?} was answered by no versions"))
    };
    let found: Vec<_> = found.into_iter().map(|it| (it.key, it.version)).collect();
    let expected: Vec<_> = held
        .clone()
        .map(|(key, entry)| (key.clone(), entry.version))
        .collect();
    UNCHANGED.require(
        found == expected && collected == COLLECTED,
        format_args!("{versions:?} brought {found:?}, of {collected:?}; expected {expected:?}"),
    );
    let windows = Request::of(RequestKind::Fingerprint(Box::new(FingerprintRequest {
        range,
        hash_key,
        cuts: Vec::new(),
        every: u64::MAX,
        max_keys: u64::MAX,
        max_bytes: u64::MAX,
        collected: asked,
    })));
    let Told::Windows(found) = told(link, &windows).await else {
        ITS_OWN_ANSWER.broken(format_args!("{windows:?} was answered by no windows"))
    };
    let hashed = held.map(|(key, entry)| Fingerprint::of(hash_key, key, entry));
    let expected = hashed.fold(Fingerprint::default(), Fingerprint::and);
    let all = found.windows.iter().map(|window| window.fingerprint);
    UNCHANGED.require(
        all.fold(Fingerprint::default(), Fingerprint::and) == expected && found.collected == mark,
        format_args!("{windows:?} brought {found:?}; expected {expected:?}, of {mark:?}"),
    );
}

/// What counts no more is dropped, a little at a time. Returns what a sweep then finds.
async fn sweep<T: Transport>(link: &Subject<T>) -> Swept {
    // A link may carry a request twice, and then there is nothing left to be dropped.
    let first = swept(link, 0).await;
    UNCHANGED.require(
        first.dropped <= DROPPED,
        format_args!("of {DROPPED} that count no more, {first:?} were dropped"),
    );
    let again = swept(link, 0).await;
    let expected = Swept {
        // Two are gone, and two are new.
        keys: entries().len() as u64,
        tombstones: 3,
        ..Swept::default()
    };
    UNCHANGED.require(
        again == expected,
        format_args!("once all was swept, it was {again:?}; expected {expected:?}"),
    );
    expected
}

/// What has expired by a time is told, and stays.
async fn expired<T: Transport>(link: &Subject<T>, before: Swept) {
    let key = Key::from("expiring");
    let expires = (1 << 53) + 1;
    let entry = value(BASE + 30, 1, "for a while");
    let entry = entry.expiring_at(NonZeroU64::new(expires).unwrap_or(NonZeroU64::MAX));
    link.write_as(&UNCHANGED, &key, &entry, Ack::Applied).await;
    link.expect(&UNCHANGED, &key, Some(&entry), "which expires")
        .await;
    for (expired_by, told) in [(expires - 1, vec![]), (expires, vec![key.clone()])] {
        let expected = Swept {
            keys: before.keys + 1,
            expired: told,
            ..before.clone()
        };
        let swept = swept(link, expired_by).await;
        UNCHANGED.require(
            swept == expected,
            format_args!("by {expired_by} ms, it was {swept:?}; expected {expected:?}"),
        );
    }
}

/// The sum of all.
async fn swept<T: Transport>(link: &Subject<T>, expired_by: u64) -> Swept {
    const AT_ONCE: u64 = 2;
    let mut sum = Swept::default();
    let mut range = KeyRange::from(..);
    loop {
        let sweep = RequestKind::Sweep {
            range: range.clone(),
            max_keys: AT_ONCE,
            expired_by,
        };
        let request = Request::of(sweep);
        let Told::Swept(swept) = told(link, &request).await else {
            ITS_OWN_ANSWER.broken(format_args!("{} swept nothing", asked(&request)))
        };
        sum.keys += swept.keys;
        sum.tombstones += swept.tombstones;
        sum.dropped += swept.dropped;
        sum.expired.extend_from_slice(&swept.expired);
        let is_within = swept.upto.as_ref().is_none_or(|upto| range.contains(upto));
        UNCHANGED.require(
            swept.keys <= AT_ONCE && is_within,
            format_args!("{} was answered by {swept:?}", asked(&request)),
        );
        match swept.upto {
            Some(upto) => range = KeyRange::from(upto..),
            None => return sum,
        }
    }
}

async fn told_as<T: Transport>(link: &Subject<T>, request: Request, expected: Response) {
    let found = link.ask(request.clone()).await;
    UNCHANGED.require(
        found == expected,
        format_args!(
            "{} was answered by {found:?}; expected {expected:?}",
            asked(&request)
        ),
    );
}
