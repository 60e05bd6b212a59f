//! What a replica that is joining is sent, and eras.

use std::num::NonZeroU64;

use kvquorum_core::{
    Ack, Action, Change, Entry, Era, Held, Key, KeyRange, Marks, Record, Records, Refusal, Request,
    RequestKind, Response, ScanLimit, Status, Timestamp, Told, Transport, Version, WriterId,
};

use super::super::futures::together;
use super::super::samples::{all_bytes, awkward_keys, tombstone, value, version};
use super::{ITS_OWN_ANSWER, PAST, SAME_REPLICA, Subject, UNCHANGED, asked, mistaken};

/// Opens a fresh replica, as those of a new cluster are opened.
pub(super) async fn open<T: Transport>(link: &Subject<T>) {
    let boot = status(link).await.boot;
    let request = of(RequestKind::Open { boot }, Era::FIRST);
    match link.ask(request.clone()).await {
        Response::Told(_) => return,
        Response::Refused(Refusal::NotJoining) => {}
        other => mistaken(&request, &other),
    }
    for _ in 0..2 {
        let Status {
            boot: is, marks, ..
        } = status(link).await;
        // It was opened before it came here.
        if !marks.is_joining {
            return;
        }
        SAME_REPLICA.require(
            is == boot,
            format_args!("first it was that of start {boot}, then of {is}"),
        );
    }
    UNCHANGED.broken(format_args!(
        "{} was refused by the replica that is meant",
        asked(&request)
    ))
}

pub(super) async fn run<T: Transport>(link: T) {
    let link = Subject::new(link);
    let boot = begin(&link).await;
    let mut held = forget(&link).await;
    join(&link, boot, joined().collected).await;
    held.extend(copy(&link).await);
    held.sort_by(|(one, _), (other, _)| one.cmp(other));
    let copied = status(&link).await.copied;
    // A link may carry a request twice.
    UNCHANGED.require(
        copied >= held.len() as u64,
        format_args!("{} keys were copied, and {copied} are told", held.len()),
    );
    opened(&link, boot).await;
    pages(&link, &held).await;
    eras(&link).await;
}

/// Next to each other, as far ahead as a replica takes them. They are one to an encoding
/// that rounds to 24 bits, and the last two are lost on one of 32.
fn eras_in_a_row() -> [Era; 4] {
    let first = (1_u64 << 32) - 2;
    [first, first + 1, first + 2, first + 3].map(era)
}

fn era(number: u64) -> Era {
    NonZeroU64::new(number).map_or(Era::FIRST, Era::new)
}

fn of(kind: RequestKind, era: Era) -> Request {
    let mut request = Request::status();
    (request.era, request.kind) = (Some(era), kind);
    request
}

/// It begins to join, when it is asked to by its own number.
async fn begin<T: Transport>(link: &Subject<T>) -> u64 {
    let first = status(link).await;
    if !first.marks.is_joining {
        panic!("the builder gives a replica that is not new: `of_new_cluster` is not for it");
    }
    let mut again = status(link).await;
    // Its clock goes on.
    again.now_millis = first.now_millis;
    SAME_REPLICA.require(
        first == again,
        format_args!("first it was {first:?}, then {again:?}"),
    );
    let marks = Marks::new(true);
    UNCHANGED.require(
        (first.marks, first.copied) == (marks, 0)
            && (&first.last_pass, &first.last_collection) == (&None, &None)
            && first.now_millis > 0,
        format_args!("a fresh replica is {first:?}"),
    );
    silent(link, false).await;
    let [lower, era, ..] = eras_in_a_row();
    let boot = first.boot;
    for other in [boot ^ 1, boot ^ (1 << 63)] {
        refused(link, of(joining(other, Timestamp::MIN), era)).await;
    }
    join(link, boot, Timestamp::MIN).await;
    refused(link, of(joining(boot, Timestamp::MIN), lower)).await;
    silent(link, true).await;
    boot
}

fn joining(boot: u64, collected: Timestamp) -> RequestKind {
    let sealed = joined().sealed;
    RequestKind::Join {
        boot,
        sealed,
        collected,
    }
}

/// It joins those who have collected up to there.
async fn join<T: Transport>(link: &Subject<T>, boot: u64, collected: Timestamp) {
    let [_, era, ..] = eras_in_a_row();
    let marks = Marks {
        era,
        is_joining: true,
        collected,
        ..joined()
    };
    marked(link, of(joining(boot, collected), era), marks).await;
}

/// It drops what is stamped before the mark that it is to have, a little at a time. Returns
/// what stays.
async fn forget<T: Transport>(link: &Subject<T>) -> All {
    let [lower, era, ..] = eras_in_a_row();
    let before = joined().collected;
    let entry = |bits| Entry {
        version: Version {
            timestamp: Timestamp::from_bits(bits),
            writer: WriterId::new(1),
        },
        ..value(0, 0, "found")
    };
    let mut stays = Vec::new();
    for (key, bits, is_dropped) in [
        ("found 0", 1, false),
        ("found 1", before.to_bits() - 1, true),
        ("found 2", before.to_bits(), false),
        ("found 3", 0, true),
        ("found 4", 1, false),
    ] {
        let (key, record) = (Key::from(key), Record::from(entry(bits)));
        let copy = RequestKind::Copy {
            key: key.clone(),
            record: record.clone(),
        };
        copied(link, of(copy, era)).await;
        if !is_dropped {
            stays.push((key, record));
        }
    }
    let mut range = KeyRange::from("found 1".."found 4");
    let forget = |range, era| {
        let max_keys = 1;
        let forget = RequestKind::Forget {
            range,
            max_keys,
            before,
        };
        of(forget, era)
    };
    refused(link, forget(range.clone(), lower)).await;
    loop {
        let request = forget(range.clone(), era);
        let Told::Swept(told) = told(link, &request).await else {
            ITS_OWN_ANSWER.broken(format_args!("{} dropped nothing", asked(&request)))
        };
        let is_within = told.upto.as_ref().is_none_or(|upto| range.contains(upto));
        UNCHANGED.require(
            told.keys <= 1 && told.dropped <= 1 && is_within,
            format_args!("{} was answered by {told:?}", asked(&request)),
        );
        match told.upto {
            Some(upto) => range = KeyRange::from(upto..Key::from("found 4")),
            None => return stays,
        }
    }
}

async fn copied<T: Transport>(link: &Subject<T>, request: Request) {
    match link.ask(request.clone()).await {
        Response::Ack(Ack::Applied) => {}
        other => mistaken(&request, &other),
    }
}

/// The marks of a replica that has joined, but for its era.
fn joined() -> Marks {
    Marks {
        sealed: Timestamp::from_bits((1 << 40) + 3),
        collected: Timestamp::from_bits(300),
        ..Marks::new(false)
    }
}

/// It answers nothing, and says how far it is.
async fn silent<T: Transport>(link: &Subject<T>, has_begun: bool) {
    let expected = Refusal::Joining { has_begun };
    for request in [
        Request::read("key"),
        Request::write("key", value(PAST, 1, "a value")),
        Request::prepare("key", version(PAST, 1)),
        Request::scan(.., ScanLimit::NONE),
        of(RequestKind::Announce { era: Era::FIRST }, Era::FIRST),
    ] {
        link.refused(request, |refusal| *refusal == expected).await;
    }
}

type All = Vec<(Key, Record)>;

/// Records of every kind, under keys that an encoding could bend.
async fn copy<T: Transport>(link: &Subject<T>) -> All {
    let [lower, era, ..] = eras_in_a_row();
    let ballot = version(PAST + 2, (1 << 53) + 1);
    let promised = |entry: Option<Entry>| anchored(ballot, entry.map(Record::from));
    let records = [
        value(PAST, (1 << 53) + 1, all_bytes()).into(),
        promised(None),
        promised(Some(value(0, 0, ""))),
        tombstone(PAST, u64::MAX).into(),
        promised(Some(tombstone(PAST + 1, 1 << 63))),
        value(PAST, 300, vec![0xff; 20_000]).into(),
        promised(Some(value(PAST, 300, vec![0xfe; 20_000]))),
    ];
    let mut held: All = awkward_keys()
        .into_iter()
        .zip(records.into_iter().cycle())
        .collect();
    held.sort_by(|(one, _), (other, _)| one.cmp(other));
    let copy = |(key, record): &(Key, Record)| RequestKind::Copy {
        key: key.clone(),
        record: record.clone(),
    };
    for few in held.chunks(16) {
        together(few.iter().map(|it| copied(link, of(copy(it), era)))).await;
    }
    for first in held.iter().take(1) {
        refused(link, of(copy(first), lower)).await;
    }
    held
}

/// What is held once a ballot was promised.
fn anchored(ballot: Version, held: Option<Record>) -> Record {
    match Change::prepare(ballot).decide(held.as_ref()).action {
        Action::Replace(record) => record,
        other => panic!("a promise leaves {other:?}"),
    }
}

/// It is ready, when it is told so by its own number.
async fn opened<T: Transport>(link: &Subject<T>, boot: u64) {
    let [lower, era, ..] = eras_in_a_row();
    refused(link, of(RequestKind::Open { boot: boot ^ 1 }, era)).await;
    refused(link, of(RequestKind::Open { boot }, lower)).await;
    let marks = Marks { era, ..joined() };
    marked(link, of(RequestKind::Open { boot }, era), marks).await;
    refused(link, of(RequestKind::Open { boot }, era)).await;
}

/// Pages of what was copied.
async fn pages<T: Transport>(link: &Subject<T>, held: &All) {
    let [_, era, ..] = eras_in_a_row();
    for range in [
        KeyRange::from(..),
        KeyRange::prefix("a"),
        KeyRange::from(&b"\0"[..]..&b"a\0b"[..]),
        KeyRange::from(vec![0xff; 1024]..),
    ] {
        for (max_keys, max_bytes) in [(u64::MAX, u64::MAX), (7, u64::MAX), (u64::MAX, 5000)] {
            let wanted = RequestKind::Records {
                range: range.clone(),
                max_keys,
                max_bytes,
            };
            let request = of(wanted, era);
            let Told::Records(Records {
                records,
                upto,
                collected,
            }) = told(link, &request).await
            else {
                ITS_OWN_ANSWER.broken(format_args!("{request:?} was answered by no records"))
            };
            let is_covered = |key: &Key| upto.as_ref().is_none_or(|upto| key < upto);
            let within = |(key, _): &&(Key, Record)| range.contains(key) && is_covered(key);
            let expected: All = held.iter().filter(within).cloned().collect();
            let is_whole = upto.is_none();
            let is_bounded = max_keys < u64::MAX || max_bytes < u64::MAX;
            UNCHANGED.require(
                records == expected
                    && collected == joined().collected
                    && records.len() as u64 <= max_keys
                    && (is_whole || is_bounded || records.len() > held.len() / 2),
                format_args!(
                    "{} brought {records:?} up to {upto:?}; expected {expected:?}",
                    asked(&request)
                ),
            );
        }
    }
}

/// A request of a later era is answered in it, and one of an earlier era is refused.
async fn eras<T: Transport>(link: &Subject<T>) {
    let [_, era, later, last] = eras_in_a_row();
    let read = |era| of(RequestKind::Read { key: "none".into() }, era);
    let stale = async |request, era| {
        let expected = Refusal::Stale { era };
        link.refused(request, |refusal| *refusal == expected).await;
    };
    for now in [era, later] {
        let request = read(now);
        let response = link.ask(request.clone()).await;
        UNCHANGED.require(
            response
                == Response::Entry(Held {
                    collected: joined().collected,
                    entry: None,
                }),
            format_args!("{} was answered by {response:?}", asked(&request)),
        );
    }
    stale(read(era), later).await;
    let identity = link.identify(Request::identify()).await;
    UNCHANGED.require(
        identity.era == later,
        format_args!("in {later:?} the replica was {identity:?}"),
    );
    let announce = |era| of(RequestKind::Announce { era }, later);
    let marks = Marks {
        era: later,
        announced: last,
        ..joined()
    };
    marked(link, announce(last), marks).await;
    stale(announce(last), last).await;
    stale(announce(later), last).await;
    let found = status(link).await.marks;
    UNCHANGED.require(
        found == marks,
        format_args!("the replica has {found:?}; expected {marks:?}"),
    );
}

/// Requires that a replica does not take what only one takes that is joining.
async fn refused<T: Transport>(link: &Subject<T>, request: Request) {
    link.refused(request, |refusal| *refusal == Refusal::NotJoining)
        .await;
}

/// Requires that the marks are these afterwards.
pub(super) async fn marked<T: Transport>(link: &Subject<T>, request: Request, expected: Marks) {
    match told(link, &request).await {
        Told::Marks(found) => UNCHANGED.require(
            found == expected,
            format_args!("{} left {found:?}; expected {expected:?}", asked(&request)),
        ),
        other => ITS_OWN_ANSWER.broken(format_args!(
            "{} was answered by {other:?}",
            asked(&request)
        )),
    }
}

pub(super) async fn status<T: Transport>(link: &Subject<T>) -> Status {
    let request = Request::status();
    match told(link, &request).await {
        Told::Status(status) => status,
        other => ITS_OWN_ANSWER.broken(format_args!(
            "{} was answered by {other:?}",
            asked(&request)
        )),
    }
}

pub(super) async fn told<T: Transport>(link: &Subject<T>, request: &Request) -> Told {
    match link.ask(request.clone()).await {
        Response::Told(told) => *told,
        other => mistaken(request, &other),
    }
}
