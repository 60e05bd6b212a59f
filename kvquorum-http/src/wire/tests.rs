//! The tables of the protocol, as bytes.

use std::num::NonZeroU64;

use kvquorum_core::{
    Ack, Action, Change, Era, Fingerprint, FingerprintRequest, Identity, KeyRange, LastCollection,
    LastPass, Marks, Page, Quorums, Record, Records, Refusal, ReplicaId, ScanLimit, Status, Swept,
    Timestamp, Told, Version, Versioned, Versions, VersionsRequest, Waits, Window, WindowEnd,
    Windows, WriterId,
};

use super::*;

const VERSION: Version = Version {
    // 1 ms and counter 2: 65538, in seven-bit groups 02 00 04.
    timestamp: Timestamp::from_bits(65_538),
    writer: WriterId::new(300),
};

fn replica() -> ReplicaId {
    ReplicaId::new(NonZeroU64::new(300).unwrap())
}

fn era(number: u64) -> Era {
    Era::new(number.try_into().unwrap())
}

/// 300, which is `AC 02`.
const COLLECTED: Timestamp = Timestamp::from_bits(300);

fn marks() -> Marks {
    Marks {
        era: era(300),
        announced: era(301),
        is_joining: true,
        sealed: VERSION.timestamp,
        collected: COLLECTED,
    }
}

fn held(entry: Option<Entry>) -> Held {
    Held {
        collected: COLLECTED,
        entry,
    }
}

/// Under which a ballot is promised beside what is held.
fn anchored(held: Option<Record>) -> Record {
    match Change::prepare(VERSION).decide(held.as_ref()).action {
        Action::Replace(record) => record,
        other => panic!("{other:?}"),
    }
}

/// 301, which is `AD 02`.
fn expiring() -> Entry {
    Entry::new(VERSION, "xyz").expiring_at(NonZeroU64::new(301).unwrap())
}

/// An entry that is less than the ballot.
fn lesser() -> Entry {
    let version = Version {
        timestamp: Timestamp::MIN,
        writer: WriterId::new(1),
    };
    Entry::new(version, "xyz")
}

fn asked(kind: RequestKind) -> Request {
    let mut request = Request::identify();
    request.kind = kind;
    request
}

/// What a message that may be in two parts has as its bytes.
fn whole(encode: impl FnOnce(&mut Vec<u8>) -> Result<Option<Bytes>, EncodeError>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let value = encode(&mut bytes).unwrap();
    bytes.extend(value.unwrap_or_default());
    bytes
}

fn fingerprint() -> Request {
    asked(RequestKind::Fingerprint(Box::new(FingerprintRequest {
        range: ("ab"..).into(),
        hash_key: 300,
        cuts: vec!["b".into(), "bc".into()],
        every: 1,
        max_keys: 300,
        max_bytes: 2,
        collected: VERSION.timestamp,
    })))
}

fn versions() -> Request {
    asked(RequestKind::Versions(Box::new(VersionsRequest {
        range: (.."ab").into(),
        hash_key: 300,
        max_keys: 300,
        collected: VERSION.timestamp,
    })))
}

/// What a rejoin asks.
fn rejoining() -> [(RequestKind, &'static [u8]); 8] {
    let copy = |record| RequestKind::Copy {
        key: "ab".into(),
        record,
    };
    let join = RequestKind::Join {
        boot: 300,
        sealed: VERSION.timestamp,
        collected: COLLECTED,
    };
    let records = RequestKind::Records {
        range: ("ab".."c").into(),
        max_keys: 300,
        max_bytes: 1,
    };
    let forget = RequestKind::Forget {
        range: ("ab".."c").into(),
        max_keys: 300,
        before: COLLECTED,
    };
    [
        (RequestKind::Announce { era: era(300) }, b"\x08\xAC\x02"),
        (join, b"\x09\xAC\x02\x82\x80\x04\xAC\x02"),
        (records, b"\x0A\x02ab\x01\x01c\xAC\x02\x01"),
        (
            copy(Entry::new(VERSION, "xyz").into()),
            b"\x0B\x02ab\x00\x01\x82\x80\x04\xAC\x02\x00\x01\x03xyz",
        ),
        (
            copy(anchored(None)),
            b"\x0B\x02ab\x01\x82\x80\x04\xAC\x02\x00",
        ),
        (
            copy(anchored(Some(lesser().into()))),
            b"\x0B\x02ab\x01\x82\x80\x04\xAC\x02\x01\x00\x01\x00\x01\x03xyz",
        ),
        (RequestKind::Open { boot: 300 }, b"\x0C\xAC\x02"),
        (forget, b"\x11\x02ab\x01\x01c\xAC\x02\xAC\x02"),
    ]
}

/// What a collection asks.
fn collecting() -> [(RequestKind, &'static [u8]); 3] {
    let sweep = |range| RequestKind::Sweep {
        range,
        max_keys: 300,
        expired_by: 301,
    };
    let collect = RequestKind::Collect {
        to: VERSION.timestamp,
        boot: 300,
    };
    let seal = RequestKind::Seal {
        to: VERSION.timestamp,
    };
    [
        (seal, b"\x0D\x82\x80\x04"),
        (collect, b"\x0E\x82\x80\x04\xAC\x02"),
        (
            sweep(KeyRange::from("ab".."c")),
            b"\x0F\x02ab\x01\x01c\xAC\x02\xAD\x02",
        ),
    ]
}

/// The tables above are a promise to other languages and later versions.
#[test]
fn requests_have_the_bytes_that_the_docs_say() {
    let mut meant = Request::read("ab");
    meant.to = Some(replica());
    let mut introduced = Request::identify();
    let quorums = Some(Quorums { n: 3, w: 2, r: 1 });
    introduced.kind = RequestKind::Identify { quorums };
    let mut of_era = Request::read("ab");
    of_era.era = Some(era(300));
    let mut both = of_era.clone();
    both.to = Some(replica());
    for (request, bytes) in [
        (Request::read("ab"), &b"\x00\x00\x00\x02ab"[..]),
        (meant, b"\x01\xAC\x02\x00\x00\x02ab"),
        (of_era, b"\x00\x01\xAC\x02\x00\x02ab"),
        (both, b"\x01\xAC\x02\x01\xAC\x02\x00\x02ab"),
        (
            Request::write("ab", Entry::new(VERSION, "xyz")),
            b"\x00\x00\x01\x02ab\x82\x80\x04\xAC\x02\x00\x01\x03xyz",
        ),
        (
            Request::write("ab", expiring()),
            b"\x00\x00\x01\x02ab\x82\x80\x04\xAC\x02\x01\xAD\x02\x01\x03xyz",
        ),
        (
            Request::write("ab", Entry::tombstone(VERSION)),
            b"\x00\x00\x01\x02ab\x82\x80\x04\xAC\x02\x00\x00",
        ),
        (Request::identify(), b"\x00\x00\x02\x00"),
        (introduced, b"\x00\x00\x02\x01\x03\x02\x01"),
        (
            Request::prepare("ab", VERSION),
            b"\x00\x00\x04\x02ab\x82\x80\x04\xAC\x02",
        ),
        (
            Request::scan("ab"..="c", ScanLimit::keys(300).with_max_bytes(1)),
            b"\x00\x00\x03\x02ab\x01\x02c\x00\xAC\x02\x01",
        ),
        (
            Request::scan(.., ScanLimit::keys(1).with_max_bytes(300)),
            b"\x00\x00\x03\x00\x00\x01\xAC\x02",
        ),
        (
            fingerprint(),
            b"\x00\x00\x05\x02ab\x00\xAC\x02\x02\x01b\x02bc\x01\xAC\x02\x02\x82\x80\x04",
        ),
        (Request::status(), b"\x00\x00\x07"),
        (
            versions(),
            b"\x00\x00\x06\x00\x01\x02ab\xAC\x02\xAC\x02\x82\x80\x04",
        ),
        (
            Request::repair("ab", Entry::new(VERSION, "xyz")),
            b"\x00\x00\x10\x02ab\x82\x80\x04\xAC\x02\x00\x01\x03xyz",
        ),
        (
            Request::repair("ab", Entry::tombstone(VERSION)),
            b"\x00\x00\x10\x02ab\x82\x80\x04\xAC\x02\x00\x00",
        ),
    ] {
        assert_eq!(
            whole(|to| encode_request(&request, to)),
            bytes,
            "{request:?}"
        );
        assert_eq!(decode::<Request>(bytes).unwrap(), request);
    }
    for (kind, bytes) in rejoining().into_iter().chain(collecting()) {
        let request = asked(kind);
        let bytes = [b"\x00\x00", bytes].concat();
        let encoded = whole(|to| encode_request(&request, to));
        assert_eq!(encoded, bytes, "{request:?}");
        assert_eq!(decode::<Request>(&bytes).unwrap(), request);
    }
}

#[test]
fn a_value_sent_from_where_it_lies_has_the_same_bytes() {
    for len in [LARGE - 1, LARGE, LARGE + 1, 1 << 20] {
        let value = Bytes::from(vec![b'x'; len]);
        let is_apart = |encoded: Option<Bytes>| match encoded {
            Some(apart) => apart.as_ptr() == value.as_ptr(),
            None => false,
        };
        let entry = Entry::new(VERSION, value.clone());
        let expiring = entry.clone().expiring_at(NonZeroU64::MAX);
        for mut request in [
            Request::write("ab", entry.clone()),
            Request::repair("ab", entry.clone()),
            Request::repair("ab", expiring.clone()),
        ] {
            (request.to, request.era) = (Some(replica()), Some(era(300)));
            let bytes = whole(|to| encode_request(&request, to));
            assert!(bytes == postcard::to_stdvec(&request).unwrap());
            let encoded = encode_request(&request, &mut Vec::new());
            assert_eq!(is_apart(encoded.unwrap()), len >= LARGE);
        }

        for (response, entry) in [
            (Response::Entry as fn(Held) -> Response, &entry),
            (Response::Promise, &entry),
            (Response::Entry, &expiring),
        ] {
            let reply = Reply::Answered(response(held(Some(entry.clone()))));
            let bytes = whole(|to| encode_reply(&reply, to));
            assert!(bytes == postcard::to_stdvec(&reply).unwrap());
            let encoded = encode_reply(&reply, &mut Vec::new());
            assert_eq!(is_apart(encoded.unwrap()), len >= LARGE);
        }
    }
}

#[test]
fn no_request_takes_more_room_than_is_thought() {
    let version = Version {
        timestamp: Timestamp::MAX,
        writer: WriterId::new(u64::MAX),
    };
    for len in [0, 127, 128, LARGE, 1 << 21] {
        let payload = vec![b'x'; len];
        let key = Key::from(payload.clone());
        let entry = Entry::new(version, payload).expiring_at(NonZeroU64::MAX);
        let promised = Change::prepare(version).decide(Some(&entry.clone().into()));
        let Action::Replace(record) = promised.action else {
            panic!("{promised:?}");
        };
        let copy = RequestKind::Copy {
            key: key.clone(),
            record,
        };
        for mut request in [
            Request::write(&key, entry.clone()),
            Request::repair(&key, entry),
            Request::prepare(&key, version),
            Request::read(key),
            asked(copy),
        ] {
            request.to = Some(ReplicaId::new(NonZeroU64::MAX));
            request.era = Some(Era::new(NonZeroU64::MAX));
            let beside = longest_beside_value(&request);
            let mut encoded = Vec::new();
            encode_request(&request, &mut encoded).unwrap();
            assert!(encoded.len() + 4 <= beside);
        }
    }
}

#[test]
fn outcomes_have_the_bytes_that_the_docs_say() {
    let text = || "no".to_owned();
    for (reply, bytes) in [
        (
            Reply::Answered(Response::Ack(Ack::Applied)),
            &b"\x00\x01\x00"[..],
        ),
        (Reply::StoreFailed(text()), b"\x01\x02no"),
        (Reply::NotUnderstood(text()), b"\x02\x02no"),
    ] {
        assert_eq!(whole(|to| encode_reply(&reply, to)), bytes);
        assert_eq!(decode::<Reply>(bytes).unwrap(), reply);
    }
}

fn status() -> Status {
    Status {
        marks: marks(),
        boot: 300,
        now_millis: 301,
        copied: 1,
        last_pass: Some(LastPass {
            ended_millis: 300,
            keys: 1,
            differing: 2,
            repaired: vec![0, 300],
            is_complete: true,
        }),
        last_collection: Some(LastCollection {
            ended_millis: 300,
            waits: None,
        }),
    }
}

/// One whose last collection came to nothing.
fn waiting(replica: Option<&str>) -> Status {
    let waits = Waits {
        replica: replica.map(str::to_owned),
        reason: "away".to_owned(),
        since_millis: 301,
    };
    Status {
        last_collection: Some(LastCollection {
            ended_millis: 300,
            waits: Some(waits),
        }),
        ..status()
    }
}

#[test]
fn responses_have_the_bytes_that_the_docs_say() {
    let refused = Response::Refused;
    for (response, bytes) in [
        (Response::Entry(Held::default()), &b"\x00\x00\x00"[..]),
        (Response::Entry(held(None)), b"\x00\xAC\x02\x00"),
        (
            Response::Entry(held(Some(Entry::new(VERSION, "xyz")))),
            b"\x00\xAC\x02\x01\x82\x80\x04\xAC\x02\x00\x01\x03xyz",
        ),
        (
            Response::Entry(held(Some(expiring()))),
            b"\x00\xAC\x02\x01\x82\x80\x04\xAC\x02\x01\xAD\x02\x01\x03xyz",
        ),
        (
            Response::Entry(held(Some(Entry::tombstone(VERSION)))),
            b"\x00\xAC\x02\x01\x82\x80\x04\xAC\x02\x00\x00",
        ),
        (Response::Ack(Ack::Applied), b"\x01\x00"),
        (
            Response::Ack(Ack::Superseded { by: VERSION }),
            b"\x01\x01\x82\x80\x04\xAC\x02",
        ),
        (refused(Refusal::EmptyKey), b"\x02\x00"),
        (
            refused(Refusal::KeyTooLong { len: 300, max: 1 }),
            b"\x02\x01\xAC\x02\x01",
        ),
        (
            refused(Refusal::ValueTooLarge { len: 300, max: 1 }),
            b"\x02\x02\xAC\x02\x01",
        ),
        (
            refused(Refusal::TooFarAhead {
                timestamp: VERSION.timestamp,
                now_millis: 0,
                max_drift_millis: 300,
            }),
            b"\x02\x03\x82\x80\x04\x00\xAC\x02",
        ),
        (
            refused(Refusal::OtherReplica { is: replica() }),
            b"\x02\x04\xAC\x02",
        ),
        (
            Response::Identity(Box::new(Identity {
                id: replica(),
                era: era(300),
                cluster: None,
                quorums: Vec::new(),
            })),
            b"\x03\xAC\x02\xAC\x02\x00\x00",
        ),
        (
            Response::Identity(Box::new(Identity {
                id: replica(),
                era: era(1),
                cluster: Some("tea".into()),
                quorums: vec![Quorums { n: 3, w: 2, r: 1 }],
            })),
            b"\x03\xAC\x02\x01\x01\x03tea\x01\x03\x02\x01",
        ),
        (
            refused(Refusal::Promised { by: VERSION }),
            b"\x02\x05\x82\x80\x04\xAC\x02",
        ),
        (
            refused(Refusal::Superseded { by: VERSION }),
            b"\x02\x06\x82\x80\x04\xAC\x02",
        ),
        (
            refused(Refusal::Stale { era: era(300) }),
            b"\x02\x07\xAC\x02",
        ),
        (
            refused(Refusal::Joining { has_begun: false }),
            b"\x02\x08\x00",
        ),
        (
            refused(Refusal::Joining { has_begun: true }),
            b"\x02\x08\x01",
        ),
        (refused(Refusal::NotJoining), b"\x02\x09"),
        (
            refused(Refusal::EraTooFarAhead { era: era(300) }),
            b"\x02\x0A\xAC\x02",
        ),
        (
            refused(Refusal::Before {
                to: VERSION.timestamp,
            }),
            b"\x02\x0B\x82\x80\x04",
        ),
        (refused(Refusal::NotSealed), b"\x02\x0C"),
        (Response::Promise(held(None)), b"\x05\xAC\x02\x00"),
        (
            Response::Promise(held(Some(Entry::new(VERSION, "xyz")))),
            b"\x05\xAC\x02\x01\x82\x80\x04\xAC\x02\x00\x01\x03xyz",
        ),
        (Response::Page(Box::default()), b"\x04\x00\x00\x00"),
        (
            Response::Page(Box::new(Page {
                entries: vec![
                    ("ab".into(), Entry::new(VERSION, "xyz")),
                    ("b".into(), Entry::tombstone(VERSION)),
                ],
                upto: Some("c".into()),
                collected: COLLECTED,
            })),
            b"\x04\x02\x02ab\x82\x80\x04\xAC\x02\x00\x01\x03xyz\
              \x01b\x82\x80\x04\xAC\x02\x00\x00\x01\x01c\xAC\x02",
        ),
        (
            Told::Windows(Windows {
                bytes: 300,
                windows: vec![
                    Window {
                        end: WindowEnd::Cut,
                        fingerprint: Fingerprint::default(),
                    },
                    Window {
                        end: WindowEnd::Before("ab".into()),
                        fingerprint: Fingerprint { count: 1, sum: 300 },
                    },
                    Window {
                        end: WindowEnd::Range,
                        // 2¹²⁸ - 1: eighteen groups of seven bits, and two bits more.
                        fingerprint: Fingerprint {
                            count: 300,
                            sum: u128::MAX,
                        },
                    },
                ],
                collected: COLLECTED,
                is_beside_others: true,
            })
            .into(),
            b"\x06\x00\xAC\x02\x03\x00\x00\x00\x01\x02ab\x01\xAC\x02\x02\xAC\x02\
              \xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x03\xAC\x02\x01",
        ),
        (
            Told::Versions(Versions {
                versions: vec![Versioned {
                    key: "ab".into(),
                    version: VERSION,
                    hash: 300,
                }],
                upto: Some("c".into()),
                collected: COLLECTED,
                is_beside_others: true,
            })
            .into(),
            b"\x06\x01\x01\x02ab\x82\x80\x04\xAC\x02\xAC\x02\x01\x01c\xAC\x02\x01",
        ),
        (
            Told::Versions(Versions::default()).into(),
            b"\x06\x01\x00\x00\x00\x00",
        ),
        (
            Told::Status(Status {
                last_pass: None,
                last_collection: None,
                ..status()
            })
            .into(),
            b"\x06\x02\xAC\x02\xAD\x02\x01\x82\x80\x04\xAC\x02\xAC\x02\xAD\x02\x01\x00\x00",
        ),
        (
            Told::Status(Status {
                marks: Marks {
                    is_joining: false,
                    ..marks()
                },
                ..status()
            })
            .into(),
            b"\x06\x02\xAC\x02\xAD\x02\x00\x82\x80\x04\xAC\x02\xAC\x02\xAD\x02\x01\
              \x01\xAC\x02\x01\x02\x02\x00\xAC\x02\x01\x01\xAC\x02\x00",
        ),
        (
            Told::Status(Status {
                last_pass: None,
                ..waiting(Some("c"))
            })
            .into(),
            b"\x06\x02\xAC\x02\xAD\x02\x01\x82\x80\x04\xAC\x02\xAC\x02\xAD\x02\x01\x00\
              \x01\xAC\x02\x01\x01\x01c\x04away\xAD\x02",
        ),
        (
            Told::Status(Status {
                last_pass: None,
                ..waiting(None)
            })
            .into(),
            b"\x06\x02\xAC\x02\xAD\x02\x01\x82\x80\x04\xAC\x02\xAC\x02\xAD\x02\x01\x00\
              \x01\xAC\x02\x01\x00\x04away\xAD\x02",
        ),
        (
            Told::Marks(marks()).into(),
            b"\x06\x03\xAC\x02\xAD\x02\x01\x82\x80\x04\xAC\x02",
        ),
        (
            Told::Swept(Swept {
                keys: 300,
                tombstones: 1,
                dropped: 2,
                expired: vec!["b".into(), "ab".into()],
                upto: Some("ab".into()),
                is_beside_others: true,
            })
            .into(),
            b"\x06\x05\xAC\x02\x01\x02\x02\x01b\x02ab\x01\x02ab\x01",
        ),
        (
            Told::Swept(Swept::default()).into(),
            b"\x06\x05\x00\x00\x00\x00\x00\x00",
        ),
        (
            Told::Records(Records {
                records: vec![
                    ("ab".into(), anchored(Some(lesser().into()))),
                    ("b".into(), anchored(None)),
                    ("c".into(), Entry::tombstone(VERSION).into()),
                ],
                upto: Some("d".into()),
                collected: COLLECTED,
            })
            .into(),
            b"\x06\x04\x03\x02ab\x01\x82\x80\x04\xAC\x02\x01\x00\x01\x00\x01\x03xyz\
              \x01b\x01\x82\x80\x04\xAC\x02\x00\
              \x01c\x00\x01\x82\x80\x04\xAC\x02\x00\x00\x01\x01d\xAC\x02",
        ),
        (
            Told::Records(Records::default()).into(),
            b"\x06\x04\x00\x00\x00",
        ),
    ] {
        assert_eq!(decode::<Response>(bytes).unwrap(), response);
        let reply = Reply::Answered(response);
        let encoded = whole(|to| encode_reply(&reply, to));
        assert_eq!(encoded, [b"\x00", bytes].concat(), "{reply:?}");
    }
}

#[test]
fn whatever_is_not_exactly_one_message_is_an_error() {
    let whole = b"\x00\x00\x01\x02ab\x82\x80\x04\xAC\x02\x00\x01\x03xyz";
    for cut in 0..whole.len() {
        let decoded = decode::<Request>(&whole[..cut]);
        assert!(matches!(decoded, Err(DecodeError::Malformed(_))), "{cut}");
    }
    let trailing = decode::<Request>(b"\x00\x00\x00\x02ab!!");
    assert!(matches!(trailing, Err(DecodeError::Trailing(2))));
    // A kind of request that is not known yet, no era, a record of nothing, and lengths
    // beyond the end.
    for bytes in [
        &b"\x00\x01\x00\x00\x02ab"[..],
        b"\x00\x00\x0B\x02ab\x00\x00",
        b"\x00\x00\x7f\x02ab",
        b"\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab",
        b"\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffab",
    ] {
        assert!(decode::<Request>(bytes).is_err(), "{bytes:?}");
    }
}
