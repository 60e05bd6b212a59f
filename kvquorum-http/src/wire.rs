//! The replica face: how coordinators talk to replicas, byte for byte.
//!
//! # Version 1
//!
//! A call is a `POST` to [`CALL_PATH`], and its body is one
//! [`Request`]. The answer's status is 200, and its body is one [`Response`].
//! Both are in [postcard]'s format, version 1, which is stable, with nothing
//! after them. Headers mean nothing here beyond what HTTP itself needs.
//!
//! An *int* is an unsigned number in seven-bit groups, the least group first,
//! with the high bit set on every byte but the last: 300 is `AC 02`. *Bytes*
//! are an int, their length, and then so many bytes as they are.
//!
//! | message | bytes |
//! |---|---|
//! | request *get* | `00`, key: bytes |
//! | request *merge* | `01`, key: bytes, entry |
//! | response *entry* | `00`, then `00` for none, or `01` and an entry |
//! | response *merged, applied* | `01 00` |
//! | response *merged, superseded* | `01 01`, version |
//! | response *refused, empty key* | `02 00` |
//! | response *refused, key too long* | `02 01`, length: int, limit: int |
//! | response *refused, value too large* | `02 02`, length: int, limit: int |
//! | response *refused, too far ahead* | `02 03`, timestamp: int, the replica's clock in ms: int, limit in ms: int |
//!
//! | part | bytes |
//! |---|---|
//! | entry | version, then `00` for a tombstone, or `01` and the value: bytes |
//! | version | timestamp: int, writer: int |
//! | timestamp | one 64-bit number: milliseconds since the Unix epoch × 65536 + counter |
//!
//! Further kinds of request, and of response to them, get further numbers. A
//! replica that does not know a request answers 400 and has changed nothing. A
//! coordinator that does not know a response can only say that it had no
//! answer: what it asked for may have been done. So the requests above are
//! answered in the ways above for as long as the path stays the same, and a new
//! reason to refuse them comes with a new path.
//!
//! Any status other than 200 comes with a JSON body `{"error": string}`, where
//! the request could be read as HTTP:
//!
//! | status | meaning |
//! |---|---|
//! | 400 | the body is not a request that this replica knows; nothing was stored |
//! | 404 | another version of the protocol; nothing was stored |
//! | 405 | not a `POST`; nothing was stored |
//! | 408 | the body did not arrive in time; nothing was stored |
//! | 413 | the body is longer than the replica reads; nothing was stored |
//! | 500 | the store failed; the entry may be stored or not |
//!
//! What is not HTTP is answered with 400, a head that is too long with 431, and
//! both without a body: nothing was stored.
//!
//! A change that a replica of version 1 could misread will have the path
//! `/v2/call`.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use kvquorum_core::{Entry, Request, Response};
use serde::{Serialize, de::DeserializeOwned};

/// Where calls of the version spoken here go.
pub const CALL_PATH: &str = "/v1/call";

/// What a message has at most beyond its key and its value.
const FRAMING: usize = 64;

/// The length from which a value is not copied beside its framing. Below, one
/// piece is cheaper to send than two.
const LARGE: usize = 16 * 1024;

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes break off, or make no sense.
    #[error("not a message of the replica protocol, version 1")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// A whole message, and then more.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// A request's bytes on their way out. A large value is sent from where it
/// lies: copying it would cost more than all the rest of the call.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    head: Bytes,
    value: Bytes,
}

impl Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match std::mem::take(&mut self.head) {
            head if head.is_empty() => std::mem::take(&mut self.value),
            head => head,
        };
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_empty() && self.value.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let len = self.head.len().saturating_add(self.value.len());
        SizeHint::with_exact(len as u64)
    }
}

pub(crate) fn encode_request(request: &Request) -> Result<Message, postcard::Error> {
    match request {
        Request::Merge {
            key,
            entry:
                Entry {
                    version,
                    value: Some(value),
                },
        } if value.len() >= LARGE => {
            let without_value = Request::Merge {
                key: key.clone(),
                entry: Entry::new(*version, Bytes::new()),
            };
            let mut head = encode(&without_value, key.len())?;
            // The value comes last, after its length: now the one byte 0.
            head.pop();
            Ok(Message {
                head: postcard::to_extend(&value.len(), head)?.into(),
                value: value.clone(),
            })
        }
        Request::Merge { key, entry } => whole(request, key.len().saturating_add(value_len(entry))),
        Request::Get { key } => whole(request, key.len()),
        _ => whole(request, 0),
    }
}

/// A message in one piece.
fn whole(request: &Request, payload: usize) -> Result<Message, postcard::Error> {
    Ok(Message {
        head: encode(request, payload)?.into(),
        value: Bytes::new(),
    })
}

pub(crate) fn encode_response(response: &Response) -> Result<Bytes, postcard::Error> {
    let payload = match response {
        Response::Entry(Some(entry)) => value_len(entry),
        _ => 0,
    };
    encode(response, payload).map(Bytes::from)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(DecodeError::Trailing(rest.len())),
        Err(error) => Err(DecodeError::Malformed(error.into())),
    }
}

fn value_len(entry: &Entry) -> usize {
    entry.value.as_ref().map_or(0, |value| value.len())
}

/// `payload` is what the message holds in keys and values: with room for them
/// from the start, a large value is copied once.
fn encode<T: Serialize>(message: &T, payload: usize) -> Result<Vec<u8>, postcard::Error> {
    let room = Vec::with_capacity(payload.saturating_add(FRAMING));
    postcard::to_extend(message, room)
}

#[cfg(test)]
mod tests {
    use kvquorum_core::{Merged, Refusal, Timestamp, Version, WriterId};

    use super::*;

    const VERSION: Version = Version {
        // 1 ms and counter 2: 65538, in seven-bit groups 02 00 04.
        timestamp: Timestamp::from_bits(65_538),
        writer: WriterId::new(300),
    };

    /// What goes over the wire, put together.
    fn sent(request: &Request) -> Vec<u8> {
        let mut message = encode_request(request).unwrap();
        let announced = message.size_hint().exact().unwrap();
        let mut sent = Vec::new();
        while !message.is_end_stream() {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut message).poll_frame(&mut cx) else {
                panic!("it ends before its end");
            };
            sent.extend(frame.into_data().unwrap());
        }
        assert_eq!(sent.len() as u64, announced);
        sent
    }

    /// The tables above are a promise to other languages and later versions.
    #[test]
    fn requests_have_the_bytes_that_the_docs_say() {
        let key = || "ab".into();
        for (request, bytes) in [
            (Request::Get { key: key() }, &b"\x00\x02ab"[..]),
            (
                Request::Merge {
                    key: key(),
                    entry: Entry::new(VERSION, "xyz"),
                },
                b"\x01\x02ab\x82\x80\x04\xAC\x02\x01\x03xyz",
            ),
            (
                Request::Merge {
                    key: key(),
                    entry: Entry::tombstone(VERSION),
                },
                b"\x01\x02ab\x82\x80\x04\xAC\x02\x00",
            ),
        ] {
            assert_eq!(sent(&request), bytes, "{request:?}");
            assert_eq!(decode::<Request>(bytes).unwrap(), request);
        }
    }

    #[test]
    fn a_value_sent_from_where_it_lies_has_the_same_bytes() {
        for len in [LARGE - 1, LARGE, LARGE + 1, 1 << 20] {
            let value = Bytes::from(vec![b'x'; len]);
            let request = Request::Merge {
                key: "ab".into(),
                entry: Entry::new(VERSION, value.clone()),
            };
            assert!(sent(&request) == postcard::to_stdvec(&request).unwrap());
            let message = encode_request(&request).unwrap();
            assert_eq!(message.value.as_ptr() == value.as_ptr(), len >= LARGE);
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
            (Response::Merged(Merged::Applied), b"\x01\x00"),
            (
                Response::Merged(Merged::Superseded { by: VERSION }),
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
        ] {
            assert_eq!(encode_response(&response).unwrap(), bytes, "{response:?}");
            assert_eq!(decode::<Response>(bytes).unwrap(), response);
        }
    }

    #[test]
    fn whatever_is_not_exactly_one_message_is_an_error() {
        let whole = b"\x01\x02ab\x82\x80\x04\xAC\x02\x01\x03xyz";
        for cut in 0..whole.len() {
            let decoded = decode::<Request>(&whole[..cut]);
            assert!(matches!(decoded, Err(DecodeError::Malformed(_))), "{cut}");
        }
        let trailing = decode::<Request>(b"\x00\x02ab!!");
        assert!(matches!(trailing, Err(DecodeError::Trailing(2))));
        // A kind of request that is not known yet, and lengths beyond the end.
        for bytes in [
            &b"\x7f\x02ab"[..],
            b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab",
            b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xffab",
        ] {
            assert!(decode::<Request>(bytes).is_err(), "{bytes:?}");
        }
    }
}
