//! The replica face: how coordinators talk to replicas, byte for byte.
//!
//! # Version 2
//!
//! An *exchange* is a `POST` to [`CALL_PATH`], and carries a batch of
//! [`Request`]s: one, or as many as the replica takes. Its body is a *request
//! frame* for each of them. The answer's status is 200, and its body is an
//! *answer frame* for each of them, in the order in which the answers are
//! ready. Each tells which request it answers, counted from 0. The answer
//! begins as soon as the replica has begun with every request, so a slow one
//! holds back no other; it begins earlier where 64 KiB of answers are ready, and
//! then the requests that are left begin as these are read. Nothing comes before,
//! between or after the frames. The content type of both is [`CONTENT_TYPE`].
//! Where the replica asks for a secret, the exchange has it as `Authorization:
//! Bearer`. Other headers mean nothing beyond what HTTP itself needs.
//!
//! A *u32* is a number in four bytes, the least first: 300 is `2C 01 00 00`.
//!
//! | frame | bytes |
//! |---|---|
//! | request frame | length: u32, and so many bytes: a request |
//! | answer frame | which request: u32, length: u32, and so many bytes: a reply |
//!
//! Requests and replies are in [postcard]'s format, version 1, which is
//! stable. An *int* is an unsigned number in seven-bit groups, the least group
//! first, with the high bit set on every byte but the last: 300 is `AC 02`. A hash,
//! its key and a sum of hashes have 128 bits, all other numbers 64 at the most. What
//! is hashed, and how, is said at [`Fingerprint`](kvquorum_core::Fingerprint).
//! *Bytes* are an int, their length, and then so many bytes as they are. *Text*
//! is bytes in UTF-8.
//!
//! A request begins with the replica that is meant: `00` for whichever it is, or
//! `01` and its id: int; and with the [era](kvquorum_core::Era) that it is of: `00` for
//! whichever it is, or `01` and its number: int. Then comes what is asked. A value comes
//! last, so that it can be sent from where it lies.
//!
//! | message | bytes |
//! |---|---|
//! | asked: *read* | `00`, key: bytes |
//! | asked: *write* | `01`, key: bytes, entry |
//! | asked: *identify* | `02`, then `00`, or `01` and the coordinator's N, W and R: three bytes |
//! | asked: *scan* | `03`, range, how many entries at most: int, how many bytes of them at most: int |
//! | asked: *prepare* | `04`, key: bytes, ballot: version |
//! | asked: *fingerprint* | `05`, range, key of the hash: int, how many cuts: int, and each of them: bytes; how many entries in a window at most: int, how many records at most: int, how many bytes of them at most: int, before when tombstones are left out: timestamp |
//! | asked: *versions* | `06`, range, key of the hash: int, how many at most: int, before when tombstones are left out: timestamp |
//! | asked: *status* | `07` |
//! | asked: *announce* | `08`, era: int |
//! | asked: *join* | `09`, the start of the process that is meant: int, what its peers are sealed up to: timestamp, and what they have collected: timestamp |
//! | asked: *records* | `0A`, range, how many records at most: int, how many bytes of them at most: int |
//! | asked: *copy* | `0B`, key: bytes, record |
//! | asked: *open* | `0C`, the start of the process that is meant: int |
//! | asked: *seal* | `0D`, timestamp |
//! | asked: *collect* | `0E`, timestamp, the start of the process that was sealed: int |
//! | asked: *sweep* | `0F`, range, how many records at most: int, by when values have expired that are told, in ms: int |
//! | asked: *repair* | `10`, key: bytes, entry |
//! | reply *answered* | `00`, response |
//! | reply *the store failed* | `01`, what it says: text. The entry may be stored or not |
//! | reply *not understood* | `02`, why: text. Nothing was stored |
//! | response *entry* | `00`, what the replica has collected: timestamp, then `00` for no entry, or `01` and the entry |
//! | response *ack, applied* | `01 00` |
//! | response *ack, superseded* | `01 01`, version |
//! | response *refused, empty key* | `02 00` |
//! | response *refused, key too long* | `02 01`, length: int, limit: int |
//! | response *refused, value too large* | `02 02`, length: int, limit: int |
//! | response *refused, too far ahead* | `02 03`, timestamp: int, the replica's clock in ms: int, limit in ms: int |
//! | response *refused, another replica* | `02 04`, the replica's id: int |
//! | response *refused, promised* | `02 05`, version |
//! | response *refused, superseded* | `02 06`, version |
//! | response *refused, stale* | `02 07`, the era to ask in: int. What was asked may have been done, and counts for nothing |
//! | response *refused, joining* | `02 08`, `01` where it has begun to copy, else `00` |
//! | response *refused, not joining* | `02 09` |
//! | response *refused, era too far ahead* | `02 0A`, the greatest era that is known: int |
//! | response *refused, before* | `02 0B`, from when on it is taken: timestamp |
//! | response *refused, not sealed* | `02 0C` |
//! | response *identity* | `03`, the replica's id: int, its era: int, then `00`, or `01` and its cluster: text; how many quorums were seen: int, and N, W and R of each: three bytes |
//! | response *page* | `04`, how many entries: int, and of each its key: bytes, and entry; then `00` where they are all of the range, or `01` and the key before which they are: bytes; what the replica has collected: timestamp |
//! | response *promise* | `05`, as *entry* |
//! | response *windows* | `06 00`, how many bytes were read: int, how many windows: int, and of each where it ends: `00` at the next cut, `01` and the key before which it is: bytes, or `02` where the range does; how many entries: int, and the sum of their hashes: int; before when tombstones are left out: timestamp |
//! | response *versions* | `06 01`, how many: int, and of each its key: bytes, version, and hash: int; then `00` where they are all of the range, or `01` and the key before which they are: bytes; what the replica has collected: timestamp |
//! | response *status* | `06 02`, marks, the start of its process: int, its clock in ms: int, how many keys were copied to it since: int, then `00` where no pass has ended, or `01` and when it did, in ms: int, how many keys were compared: int, how many differed: int, of how many replicas it tells: int, and how many entries each was sent: int; `01` where it was complete, else `00`; then `00` where no collection has ended, or `01` and when it did, in ms: int, and `00` where something was collected, or `01`, then `00` or `01` and the replica that is waited for: text, why: text, and since when, in ms: int |
//! | response *marks* | `06 03`, marks |
//! | response *records* | `06 04`, how many: int, and of each its key: bytes, and record; then `00` where they are all of the range, or `01` and the key before which they are: bytes; what the replica has collected: timestamp |
//! | response *swept* | `06 05`, how many records were looked at: int, how many tombstones still count: int, from how many records something was dropped: int, under how many keys values have expired: int, and each of them: bytes; then `00` where these were all of the range, or `01` and the key before which they were: bytes |
//!
//! | part | bytes |
//! |---|---|
//! | entry | version, then `00` where it does not expire, or `01` and when it does, in ms: int; then `00` for a tombstone, or `01` and the value: bytes |
//! | record | `00` where no ballot was promised, or `01` and the greatest that was: version; then `00` for no entry, or `01` and the entry |
//! | marks | era: int, the greatest era that was announced: int, `01` where the replica is joining, else `00`; what it is sealed up to: timestamp, what it has collected: timestamp |
//! | range | its first key: bytes, then `00` where it has no end, or `01` and the key before which it ends: bytes |
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
//! | 401 | a token is needed, and there is none, or a wrong one |
//! | 403 | a browser sends it for a page of another server |
//! | 404 | another version of the protocol, or the replica face is switched off |
//! | 405 | not a `POST` |
//! | 408 | the body did not arrive in time |
//! | 413 | more bytes, or more requests, than the replica reads |
//! | 415 | another content type |
//! | 421 | a browser sends it, by a name that is not known to be the replica's |
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
//! # Version 1
//!
//! It had the path `/v1/call`, and no eras. A change that a replica of version 2 could
//! misread will have the path `/v3/call`.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

pub(crate) mod frames;

use std::error::Error;

use bytes::Bytes;
use kvquorum_core::{Entry, Held, Key, Request, RequestKind, Response};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Where calls of the version spoken here go.
pub const CALL_PATH: &str = "/v2/call";

/// The content type of a call and of its answer. A web form has another.
pub const CONTENT_TYPE: &str = "application/octet-stream";

/// The header by which a server says that nothing was stored: its value is `1`.
/// Any other value says nothing.
pub const NOTHING_STORED: &str = "kvquorum-nothing-stored";

/// What a request has at most beyond its key and its value, its frame included.
const FRAMING: usize = 80;

/// The length from which a value is not copied beside its framing. Below, one
/// piece is cheaper to send than two.
const LARGE: usize = 16 * 1024;

/// Why bytes are not what the replica protocol has there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes break off, or make no sense.
    #[error("not a message of the replica protocol, version 2")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
    /// A whole message, and then more.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// Not whole frames, or one that answers no request.
    #[error("not the frames of the replica protocol, version 2")]
    Unframed,
}

/// Why a message was not put into bytes.
pub(crate) type EncodeError = Box<dyn Error + Send + Sync>;

/// What became of one request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Answered(Response),
    StoreFailed(String),
    NotUnderstood(String),
}

/// What a request of one key takes at most, framed and without a large value. Another
/// may take more.
pub(crate) fn longest_beside_value(request: &Request) -> usize {
    let key_len = request.key().map_or(0, Key::len);
    let small_value_len = match &request.kind {
        RequestKind::Write { entry, .. } | RequestKind::Repair { entry, .. }
            if large_value(entry).is_none() =>
        {
            value_len(entry)
        }
        // It is seldom, and copied whatever its length.
        RequestKind::Copy { record, .. } => record.encoded_len(),
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
    if let RequestKind::Write { key, entry } | RequestKind::Repair { key, entry } = &request.kind
        && let Some(value) = large_value(entry)
    {
        let key = key.clone();
        let entry = without_value_of(entry);
        let without_value = Request {
            to: request.to,
            era: request.era,
            kind: match request.kind {
                RequestKind::Repair { .. } => RequestKind::Repair { key, entry },
                _ => RequestKind::Write { key, entry },
            },
        };
        return encode_apart(&without_value, value, to);
    }
    postcard::to_io(request, to)?;
    Ok(None)
}

/// Appends a reply, except for a large value, as [`encode_request`] does.
pub(crate) fn encode_reply(reply: &Reply, to: &mut Vec<u8>) -> Result<Option<Bytes>, EncodeError> {
    if let Reply::Answered(response @ (Response::Entry(held) | Response::Promise(held))) = reply
        && let Some(entry) = &held.entry
    {
        if let Some(value) = large_value(entry) {
            let without_value = Held {
                entry: Some(without_value_of(entry)),
                ..*held
            };
            let without_value = Reply::Answered(match response {
                Response::Promise(_) => Response::Promise(without_value),
                _ => Response::Entry(without_value),
            });
            return encode_apart(&without_value, value, to);
        }
        to.reserve(value_len(entry).saturating_add(FRAMING));
    }
    postcard::to_io(reply, to)?;
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

fn without_value_of(entry: &Entry) -> Entry {
    Entry {
        value: Some(Bytes::new()),
        ..*entry
    }
}

fn large_value(entry: &Entry) -> Option<&Bytes> {
    entry.value.as_ref().filter(|value| value.len() >= LARGE)
}

fn value_len(entry: &Entry) -> usize {
    entry.value.as_ref().map_or(0, |value| value.len())
}

#[cfg(test)]
mod tests;
