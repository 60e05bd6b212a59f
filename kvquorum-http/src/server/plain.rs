//! The plain face: JSON in and out, for people, curl and any language.

use hyper::StatusCode;
use kvquorum_core::{
    Ack, Entry, Held, Refusal, Request, Response, SystemClock, Timestamp, Version, WallClock,
    WriterId,
};
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::problem::Problem;

/// The body of `POST /write`. Fields of other names are ignored.
#[derive(Deserialize)]
struct Write<'a> {
    key: String,
    /// As text, so that it comes out again exactly as it came in: large
    /// numbers, the order of keys and all.
    #[serde(borrow)]
    value: &'a RawValue,
    #[serde(deserialize_with = "whole_millis")]
    timestamp: Timestamp,
}

/// The body of an answer to `POST /write`.
#[derive(Serialize)]
struct Written {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    superseded_by: Option<Superseding>,
}

/// The entry that a write did not replace.
#[derive(Serialize)]
struct Superseding {
    timestamp: u64,
}

/// The body of an answer to `GET /read/{key}`.
#[derive(Serialize)]
struct Read<'a> {
    value: &'a RawValue,
    timestamp: u64,
}

pub(super) fn parse_write(body: &[u8]) -> Result<Request, Problem> {
    // serde would take an array of the three fields as well.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(not_a_write("it is not a JSON object"));
    }
    let write: Write<'_> = serde_json::from_slice(body).map_err(not_a_write)?;
    let version = Version {
        timestamp: write.timestamp,
        writer: WriterId::ANONYMOUS,
    };
    let entry = Entry::new(version, write.value.get().as_bytes().to_vec());
    Ok(Request::write(write.key, entry))
}

fn not_a_write(error: impl std::fmt::Display) -> Problem {
    Problem::bad_request(format!(
        "the body is not {{\"key\": string, \"value\": any JSON, \"timestamp\": milliseconds}}: \
         {error}"
    ))
}

fn whole_millis<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    struct WholeMillis;

    impl Visitor<'_> for WholeMillis {
        type Value = Timestamp;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(
                f,
                "as the timestamp whole milliseconds since the Unix epoch, from 0 to {}",
                Timestamp::MAX_MILLIS
            )
        }

        fn visit_u64<E: Error>(self, millis: u64) -> Result<Timestamp, E> {
            Timestamp::new(millis, 0)
                .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(millis), &self))
        }

        fn visit_i64<E: Error>(self, millis: i64) -> Result<Timestamp, E> {
            Err(E::invalid_value(Unexpected::Signed(millis), &self))
        }
    }

    from.deserialize_u64(WholeMillis)
}

pub(super) fn write_answer(response: Response) -> Result<Vec<u8>, Problem> {
    let superseded_by = match response {
        Response::Ack(Ack::Applied) => None,
        Response::Ack(Ack::Superseded { by }) => Some(Superseding {
            timestamp: by.timestamp.millis(),
        }),
        other => return Err(not_the_answer(&other)),
    };
    let written = Written {
        status: "ok",
        superseded_by,
    };
    json_line(&written, 64)
}

fn json_line(answer: &impl Serialize, room: usize) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::with_capacity(room);
    serde_json::to_writer(&mut body, answer)
        .map_err(|error| Problem::internal(format!("no answer could be written: {error}")))?;
    body.push(b'\n');
    Ok(body)
}

pub(super) fn parse_read(path: &str) -> Result<Request, Problem> {
    let key = percent_decode(path).ok_or_else(|| {
        Problem::bad_request("in the key, a % is not followed by two hexadecimal digits")
    })?;
    let key = String::from_utf8(key)
        .map_err(|error| Problem::bad_request(format!("the key is not UTF-8: {error}")))?;
    Ok(Request::read(key))
}

/// `None` where a `%` is not followed by two hexadecimal digits.
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let hex = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?,
            other => other,
        });
    }
    Some(decoded)
}

pub(super) fn read_answer(response: Response) -> Result<Vec<u8>, Problem> {
    let (version, value) = match response {
        Response::Entry(Held {
            entry:
                Some(Entry {
                    version,
                    expires_millis,
                    value: Some(value),
                }),
            ..
        }) if expires_millis.is_none_or(|at| at.get() > SystemClock.now_millis()) => {
            (version, value)
        }
        Response::Entry(_) => return Ok(b"null\n".to_vec()),
        other => return Err(not_the_answer(&other)),
    };
    // Coordinators store what they like under a key.
    let value: &RawValue = serde_json::from_slice(&value).map_err(|error| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("the value under this key is not JSON, and cannot be shown as such: {error}"),
        )
    })?;
    let read = Read {
        value,
        timestamp: version.timestamp.millis(),
    };
    json_line(&read, value.get().len().saturating_add(64))
}

/// The first whole millisecond that is not before this.
fn whole_millis_from(timestamp: Timestamp) -> u64 {
    let is_whole = timestamp.counter() == 0;
    timestamp.millis().saturating_add(u64::from(!is_whole))
}

fn not_the_answer(response: &Response) -> Problem {
    match response {
        Response::Refused(refusal @ Refusal::ValueTooLarge { .. }) => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, refusal.to_string())
        }
        // Nothing is wrong with these requests, but that they come too late.
        Response::Refused(refusal @ Refusal::Promised { by }) => {
            let from = by.timestamp.millis().saturating_add(1);
            Problem::too_early(refusal.to_string(), from)
        }
        Response::Refused(refusal @ Refusal::Before { to }) => {
            Problem::too_early(refusal.to_string(), whole_millis_from(*to))
        }
        // Nor here: the replica is.
        Response::Refused(refusal @ Refusal::Joining { .. }) => {
            Problem::joining(format!("the replica is joining: {refusal}"))
        }
        Response::Refused(refusal) if refusal.may_have_applied() => {
            Problem::internal(refusal.to_string())
        }
        Response::Refused(refusal) => Problem::bad_request(refusal.to_string()),
        _ => Problem::internal("the replica answered another question"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bug: what may have been stored is told not to have been.
    #[test]
    fn of_a_later_era_a_write_may_have_been_stored() {
        let stale = Response::Refused(Refusal::Stale {
            era: kvquorum_core::Era::FIRST,
        });
        let problem = write_answer(stale).unwrap_err();
        assert_eq!(problem.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    /// Bug: the time that is told is refused as well.
    #[test]
    fn what_is_stamped_when_it_is_told_to_be_is_taken() {
        for (to, from) in [
            (Timestamp::MIN, 0),
            (Timestamp::new(7, 0).unwrap(), 7),
            (Timestamp::new(7, 1).unwrap(), 8),
            (Timestamp::new(7, u16::MAX).unwrap(), 8),
        ] {
            assert_eq!(whole_millis_from(to), from);
            assert!(Timestamp::new(from, 0).unwrap() >= to);
        }
    }

    #[test]
    fn percent_decoding_is_strict() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("a+b/c", b"a+b/c"),
            ("%2F%2f%00%ff", b"//\x00\xff"),
            ("%25%32%35", b"%25"),
            ("é", "é".as_bytes()),
        ] {
            assert_eq!(percent_decode(text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["%", "a%2", "%zz", "%2g", "%%20", "% 1", "%+1", "%é1"] {
            assert_eq!(percent_decode(text), None, "{text}");
        }
    }
}
