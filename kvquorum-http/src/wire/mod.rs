//! The replica face: how coordinators talk to replicas, byte for byte.
//!
//! # Version 1
//!
//! An *exchange* is a `POST` to [`CALL_PATH`], and carries a batch of
//! [`Request`]s: one, or as many as the replica takes. Its body is a *request
//! frame* for each of them. The answer's status is 200, and its body is an
//! *answer frame* for each of them, in the order in which the answers are
//! ready. Each tells which request it answers, counted from 0. The answer
//! begins as soon as the replica has begun with every request, so a slow one
//! holds back no other. Nothing comes before, between or after the frames, and
//! headers mean nothing beyond what HTTP itself needs.
//!
//! A *u32* is a number in four bytes, the least first: 300 is `2C 01 00 00`.
//!
//! | frame | bytes |
//! |---|---|
//! | request frame | length: u32, and so many bytes: a request |
//! | answer frame | which request: u32, length: u32, and so many bytes: an outcome |
//!
//! Requests and outcomes are in [postcard]'s format, version 1, which is
//! stable. An *int* is an unsigned number in seven-bit groups, the least group
//! first, with the high bit set on every byte but the last: 300 is `AC 02`.
//! *Bytes* are an int, their length, and then so many bytes as they are. *Text*
//! is bytes in UTF-8.
//!
//! A request begins with the replica that is meant: `00` for whichever it is, or
//! `01` and its id: int. Then comes what is asked. A value comes last, so that it can
//! be sent from where it lies.
//!
//! | message | bytes |
//! |---|---|
//! | asked: *read* | `00`, key: bytes |
//! | asked: *write* | `01`, key: bytes, entry |
//! | asked: *identify* | `02`, then `00`, or `01` and the coordinator's N, W and R: three bytes |
//! | asked: *prepare* | `03`, key: bytes, the ballot: version |
//! | outcome *answered* | `00`, response |
//! | outcome *the store failed* | `01`, what it says: text. The entry may be stored or not |
//! | outcome *not understood* | `02`, why: text. Nothing was stored |
//! | response *entry* | `00`, then `00` for none, or `01` and an entry |
//! | response *ack, applied* | `01 00` |
//! | response *ack, superseded* | `01 01`, version |
//! | response *refused, empty key* | `02 00` |
//! | response *refused, key too long* | `02 01`, length: int, limit: int |
//! | response *refused, value too large* | `02 02`, length: int, limit: int |
//! | response *refused, too far ahead* | `02 03`, timestamp: int, the replica's clock in ms: int, limit in ms: int |
//! | response *refused, another replica* | `02 04`, the replica's id: int |
//! | response *refused, a greater ballot is promised* | `02 05`, the version to go past: version |
//! | response *refused, a greater entry is held than the ballot* | `02 06`, its version: version |
//! | response *identity* | `03`, the replica's id: int, then `00`, or `01` and its cluster: text; how many quorums were seen: int, and N, W and R of each: three bytes |
//! | response *promise* | `04`, then `00` for no entry, or `01` and the entry |
//!
//! | part | bytes |
//! |---|---|
//! | entry | version, then `00` for a tombstone, or `01` and the value: bytes |
//! | version | timestamp: int, writer: int |
//! | timestamp | one 64-bit number: milliseconds since the Unix epoch × 65536 + counter |
//!
//! Further kinds of request, and of response to them, get further numbers. A
//! replica that does not know a request says that it was not understood, and
//! answers the others of the batch. A coordinator that does not know a response
//! can only say that it had no answer: what it asked for may have been done. So
//! the requests above are answered in the ways above for as long as the path
//! stays the same, and a new reason to refuse them comes with a new path.
//!
//! Any status other than 200 is for all requests of the batch, and comes with a
//! JSON body `{"error": string}`, where the exchange could be read as HTTP:
//!
//! | status | meaning |
//! |---|---|
//! | 400 | the body is not whole frames, or there is none, or the path has a query |
//! | 404 | another version of the protocol |
//! | 405 | not a `POST` |
//! | 408 | the body did not arrive in time |
//! | 413 | more bytes, or more requests, than the replica reads |
//! | 503 | no memory for the body in time |
//!
//! Nothing was stored with any of them, if it was the replica that said so. A
//! proxy or a gateway can say the same by itself, after it handed the request on.
//! So a replica's own answer has the header [`kvquorum-nothing-stored:
//! 1`](NOTHING_STORED), except with 408; a coordinator must take every status
//! without it for no answer.
//!
//! What is not HTTP is answered with 400, a head that is too long with 431, and
//! both without a body and that header.
//!
//! A change that a replica of version 1 could misread will have the path
//! `/v2/call`.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

pub(crate) mod frames;

use std::error::Error;

use bytes::Bytes;
use kvquorum_core::{Entry, Key, Request, RequestKind, Response};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where calls of the version spoken here go.
pub const CALL_PATH: &str = "/v1/call";

/// The header by which a server says that nothing was stored.
pub const NOTHING_STORED: &str = "kvquorum-nothing-stored";

/// What a request has at most beyond its key and its value, its frame included.
const FRAMING: usize = 64;

/// The length from which a value is not copied beside its framing. Below, one
/// piece is cheaper to send than two.
const LARGE: usize = 16 * 1024;

/// Why bytes are not what the replica protocol has there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes break off, or make no sense.
    #[error("not a message of the replica protocol, version 1")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// A whole message, and then more.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// Not whole frames, or one that answers no request.
    #[error("not the frames of the replica protocol, version 1")]
    Unframed,
}

/// Why a message was not put into bytes.
pub(crate) type EncodeError = Box<dyn Error + Send + Sync>;

/// What became of one request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Answered(Response),
    StoreFailed(String),
    NotUnderstood(String),
}

/// What a request takes at most, framed and without a large value.
pub(crate) fn longest_beside_value(request: &Request) -> usize {
    let key_len = request.key().map_or(0, Key::len);
    let small_value_len = match &request.kind {
        RequestKind::Write { entry, .. } if large_value(entry).is_none() => value_len(entry),
        _ => 0,
    };
    key_len
        .saturating_add(small_value_len)
        .saturating_add(FRAMING)
}

/// Appends a request. Its value, where that is large, is left out and
/// returned: it belongs after the rest, from where it lies.
pub(crate) fn encode_request(
    request: &Request,
    to: &mut Vec<u8>,
) -> Result<Option<Bytes>, EncodeError> {
    if let RequestKind::Write { key, entry } = &request.kind
        && let Some(value) = large_value(entry)
    {
        let entry = Entry::new(entry.version, Bytes::new());
        let without_value = Request {
            to: request.to,
            ..Request::write(key, entry)
        };
        return encode_apart(&without_value, value, to);
    }
    postcard::to_io(request, to)?;
    Ok(None)
}

/// Appends an outcome, except for a large value, as [`encode_request`] does.
pub(crate) fn encode_outcome(
    outcome: &Outcome,
    to: &mut Vec<u8>,
) -> Result<Option<Bytes>, EncodeError> {
    if let Outcome::Answered(
        response @ (Response::Entry(Some(entry)) | Response::Promise(Some(entry))),
    ) = outcome
    {
        if let Some(value) = large_value(entry) {
            let without_value = Some(Entry::new(entry.version, Bytes::new()));
            let without_value = Outcome::Answered(match response {
                Response::Promise(_) => Response::Promise(without_value),
                _ => Response::Entry(without_value),
            });
            return encode_apart(&without_value, value, to);
        }
        to.reserve(value_len(entry).saturating_add(FRAMING));
    }
    postcard::to_io(outcome, to)?;
    Ok(None)
}

/// Appends a message whose last part is an empty value, with the length of
/// this one in its place.
fn encode_apart(
    without_value: &impl Serialize,
    value: &Bytes,
    to: &mut Vec<u8>,
) -> Result<Option<Bytes>, EncodeError> {
    postcard::to_io(without_value, &mut *to)?;
    // The length of the empty one: the one byte 0.
    to.pop();
    postcard::to_io(&value.len(), to)?;
    Ok(Some(value.clone()))
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(DecodeError::Trailing(rest.len())),
        Err(error) => Err(DecodeError::Malformed(error.into())),
    }
}

fn large_value(entry: &Entry) -> Option<&Bytes> {
    entry.value.as_ref().filter(|value| value.len() >= LARGE)
}

fn value_len(entry: &Entry) -> usize {
    entry.value.as_ref().map_or(0, |value| value.len())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use kvquorum_core::{Ack, Identity, Quorums, Refusal, ReplicaId, Timestamp, Version, WriterId};

    use super::*;

    const VERSION: Version = Version {
        // 1 ms and counter 2: 65538, in seven-bit groups 02 00 04.
        timestamp: Timestamp::from_bits(65_538),
        writer: WriterId::new(300),
    };

    fn replica() -> ReplicaId {
        ReplicaId::new(NonZeroU64::new(300).unwrap())
    }

    /// What a message that may be in two parts has as its bytes.
    fn whole(encode: impl FnOnce(&mut Vec<u8>) -> Result<Option<Bytes>, EncodeError>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let value = encode(&mut bytes).unwrap();
        bytes.extend(value.unwrap_or_default());
        bytes
    }

    /// The tables above are a promise to other languages and later versions.
    #[test]
    fn requests_have_the_bytes_that_the_docs_say() {
        let mut meant = Request::read("ab");
        meant.to = Some(replica());
        let mut introduced = Request::identify();
        let quorums = Some(Quorums { n: 3, w: 2, r: 1 });
        introduced.kind = RequestKind::Identify { quorums };
        for (request, bytes) in [
            (Request::read("ab"), &b"\x00\x00\x02ab"[..]),
            (meant, b"\x01\xAC\x02\x00\x02ab"),
            (
                Request::write("ab", Entry::new(VERSION, "xyz")),
                b"\x00\x01\x02ab\x82\x80\x04\xAC\x02\x01\x03xyz",
            ),
            (
                Request::write("ab", Entry::tombstone(VERSION)),
                b"\x00\x01\x02ab\x82\x80\x04\xAC\x02\x00",
            ),
            (Request::identify(), b"\x00\x02\x00"),
            (introduced, b"\x00\x02\x01\x03\x02\x01"),
            (
                Request::prepare("ab", VERSION),
                b"\x00\x03\x02ab\x82\x80\x04\xAC\x02",
            ),
        ] {
            assert_eq!(
                whole(|to| encode_request(&request, to)),
                bytes,
                "{request:?}"
            );
            assert_eq!(decode::<Request>(bytes).unwrap(), request);
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
            let mut request = Request::write("ab", Entry::new(VERSION, value.clone()));
            request.to = Some(replica());
            let bytes = whole(|to| encode_request(&request, to));
            assert!(bytes == postcard::to_stdvec(&request).unwrap());
            let encoded = encode_request(&request, &mut Vec::new());
            assert_eq!(is_apart(encoded.unwrap()), len >= LARGE);

            for response in [Response::Entry, Response::Promise] {
                let entry = Some(Entry::new(VERSION, value.clone()));
                let outcome = Outcome::Answered(response(entry));
                let bytes = whole(|to| encode_outcome(&outcome, to));
                assert!(bytes == postcard::to_stdvec(&outcome).unwrap());
                let encoded = encode_outcome(&outcome, &mut Vec::new());
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
            let entry = Entry::new(version, payload);
            for mut request in [Request::write(&key, entry), Request::read(key)] {
                request.to = Some(ReplicaId::new(NonZeroU64::MAX));
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
        for (outcome, bytes) in [
            (
                Outcome::Answered(Response::Ack(Ack::Applied)),
                &b"\x00\x01\x00"[..],
            ),
            (Outcome::StoreFailed(text()), b"\x01\x02no"),
            (Outcome::NotUnderstood(text()), b"\x02\x02no"),
        ] {
            assert_eq!(whole(|to| encode_outcome(&outcome, to)), bytes);
            assert_eq!(decode::<Outcome>(bytes).unwrap(), outcome);
        }
    }

    #[test]
    fn responses_have_the_bytes_that_the_docs_say() {
        let refused = Response::Refused;
        for (response, bytes) in [
            (Response::Entry(None), &b"\x00\x00"[..]),
            (
                Response::Entry(Some(Entry::new(VERSION, "xyz"))),
                b"\x00\x01\x82\x80\x04\xAC\x02\x01\x03xyz",
            ),
            (
                Response::Entry(Some(Entry::tombstone(VERSION))),
                b"\x00\x01\x82\x80\x04\xAC\x02\x00",
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
                refused(Refusal::Promised { by: VERSION }),
                b"\x02\x05\x82\x80\x04\xAC\x02",
            ),
            (
                refused(Refusal::Superseded { by: VERSION }),
                b"\x02\x06\x82\x80\x04\xAC\x02",
            ),
            (Response::Promise(None), b"\x04\x00"),
            (
                Response::Promise(Some(Entry::new(VERSION, "xyz"))),
                b"\x04\x01\x82\x80\x04\xAC\x02\x01\x03xyz",
            ),
            (
                Response::Identity(Box::new(Identity {
                    id: replica(),
                    cluster: None,
                    quorums: Vec::new(),
                })),
                b"\x03\xAC\x02\x00\x00",
            ),
            (
                Response::Identity(Box::new(Identity {
                    id: replica(),
                    cluster: Some("tea".into()),
                    quorums: vec![Quorums { n: 3, w: 2, r: 1 }],
                })),
                b"\x03\xAC\x02\x01\x03tea\x01\x03\x02\x01",
            ),
        ] {
            assert_eq!(decode::<Response>(bytes).unwrap(), response);
            let outcome = Outcome::Answered(response);
            let encoded = whole(|to| encode_outcome(&outcome, to));
            assert_eq!(encoded, [b"\x00", bytes].concat(), "{outcome:?}");
        }
    }

    #[test]
    fn whatever_is_not_exactly_one_message_is_an_error() {
        let whole = b"\x00\x01\x02ab\x82\x80\x04\xAC\x02\x01\x03xyz";
        for cut in 0..whole.len() {
            let decoded = decode::<Request>(&whole[..cut]);
            assert!(matches!(decoded, Err(DecodeError::Malformed(_))), "{cut}");
        }
        let trailing = decode::<Request>(b"\x00\x00\x02ab!!");
        assert!(matches!(trailing, Err(DecodeError::Trailing(2))));
        // A kind of request that is not known yet, and lengths beyond the end.
        for bytes in [
            &b"\x00\x7f\x02ab"[..],
            b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab",
            b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffab",
        ] {
            assert!(decode::<Request>(bytes).is_err(), "{bytes:?}");
        }
    }
}
