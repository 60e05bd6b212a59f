//! Frames: messages one after another, each with its length before it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use kvquorum_core::Request;

use crate::wire::{self, DecodeError, EncodeError, Reply};

/// A u32's bytes on the wire.
const U32: usize = 4;

/// What comes before a reply: which request it is of, and its length.
const ANSWER_HEAD: usize = U32 * 2;

/// Frames on their way out, and their bytes as a body. A large value is sent
/// from where it lies: copying it would cost more than all the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    /// What goes first.
    pieces: VecDeque<Bytes>,
    /// What goes last: small frames, in one piece.
    last: Vec<u8>,
}

impl Frames {
    /// One request.
    pub(crate) fn of_request(request: &Request) -> Result<Self, EncodeError> {
        let room = wire::longest_beside_value(request);
        let mut frames = Self::from(Vec::with_capacity(room));
        frames.push(None, |to| wire::encode_request(request, to))?;
        Ok(frames)
    }

    /// All of these, one after the other.
    pub(crate) fn joined<'a>(all: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let small = all.clone().map(|frames| frames.last.len());
        let mut joined = Self::from(Vec::with_capacity(small.sum()));
        for Self { pieces, last } in all {
            for piece in pieces {
                joined.push_piece(piece.clone());
            }
            joined.last.extend_from_slice(last);
        }
        joined
    }

    /// Appends the answer to a request of a batch. Where that fails, nothing is
    /// appended.
    pub(crate) fn push_answer(&mut self, which: u32, reply: &Reply) -> Result<(), EncodeError> {
        self.push(Some(which), |to| wire::encode_reply(reply, to))
    }

    fn push(
        &mut self,
        which: Option<u32>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<Option<Bytes>, EncodeError>,
    ) -> Result<(), EncodeError> {
        let begin = self.last.len();
        if let Some(which) = which {
            self.last.extend_from_slice(&which.to_le_bytes());
        }
        let len_at = self.last.len();
        self.last.extend_from_slice(&[0; U32]);
        let message_at = self.last.len();
        let encoded = encode(&mut self.last).and_then(|value| {
            let len = self.last.len().saturating_sub(message_at);
            let len = len.saturating_add(value.as_ref().map_or(0, Bytes::len));
            Ok((u32::try_from(len)?, value))
        });
        match encoded {
            Ok((len, value)) => {
                if let Some(place) = self.last.get_mut(len_at..message_at) {
                    place.copy_from_slice(&len.to_le_bytes());
                }
                if let Some(value) = value {
                    self.push_piece(value);
                }
                Ok(())
            }
            Err(error) => {
                self.last.truncate(begin);
                Err(error)
            }
        }
    }

    fn push_piece(&mut self, piece: Bytes) {
        if !self.last.is_empty() {
            let before = std::mem::take(&mut self.last);
            self.pieces.push_back(before.into());
        }
        self.pieces.push_back(piece);
    }

    /// Takes the first piece.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        self.pieces.pop_front().or_else(|| {
            let last = std::mem::take(&mut self.last);
            (!last.is_empty()).then(|| last.into())
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.last.is_empty()
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        let lens = self.pieces.iter().map(Bytes::len);
        lens.fold(self.last.len(), usize::saturating_add)
    }
}

/// Bytes of any kind, to be sent as they are.
impl From<Vec<u8>> for Frames {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            pieces: VecDeque::new(),
            last: bytes,
        }
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pop().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

/// The requests of a batch, each still as bytes.
pub(crate) struct Requests {
    body: Bytes,
    /// How many have been taken.
    taken: u32,
}

impl Requests {
    /// Takes the body of an exchange apart. Returns how many there are, too.
    pub(crate) fn of(body: Bytes) -> Result<(Self, usize), DecodeError> {
        let mut rest = &body[..];
        let mut count = 0_usize;
        while let Some((len, after)) = split_u32(rest) {
            rest = after.get(len..).ok_or(DecodeError::Unframed)?;
            count = count.saturating_add(1);
        }
        if rest.is_empty() && count > 0 {
            Ok((Self { body, taken: 0 }, count))
        } else {
            Err(DecodeError::Unframed)
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}

/// Each with its number.
impl Iterator for Requests {
    type Item = (u32, Result<Request, DecodeError>);

    fn next(&mut self) -> Option<Self::Item> {
        let (len, after) = split_u32(&self.body)?;
        let request = wire::decode(after.get(..len)?);
        self.body.advance(U32.saturating_add(len));
        let which = self.taken;
        self.taken = which.saturating_add(1);
        Some((which, request))
    }
}

/// Answer frames as they come in, in chunks of any size.
pub(crate) struct AnswerFrames {
    /// The longest that is taken.
    max: usize,
    /// Bytes that were not looked at yet.
    chunk: Bytes,
    /// The beginning of a frame; then the chunk is empty.
    begun: BytesMut,
    /// How long that frame is, as far as is known.
    wanted: usize,
    /// What is still to come of a frame that is not taken.
    skipped: usize,
}

/// An answer frame's number, and its message if it is not too long.
pub(crate) struct AnswerFrame {
    pub(crate) which: u32,
    pub(crate) message: Option<Bytes>,
}

impl AnswerFrames {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            chunk: Bytes::new(),
            begun: BytesMut::new(),
            wanted: 0,
            skipped: 0,
        }
    }

    /// Takes in what came after all that [`next`](Self::next) has looked at.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.begun.is_empty() {
            self.chunk = chunk;
            return;
        }
        self.begun.extend_from_slice(&chunk);
        if self.begun.len() >= self.wanted {
            self.chunk = self.begun.split().freeze();
        }
    }

    /// The next answer; `None` where more has to come first.
    pub(crate) fn next(&mut self) -> Option<AnswerFrame> {
        let skipped = self.skipped.min(self.chunk.len());
        self.chunk.advance(skipped);
        self.skipped = self.skipped.saturating_sub(skipped);

        let Some((which, len)) = answer_head(&self.chunk) else {
            self.put_aside(ANSWER_HEAD);
            return None;
        };
        if len > self.max {
            self.chunk.advance(ANSWER_HEAD);
            self.skipped = len;
            return Some(AnswerFrame {
                which,
                message: None,
            });
        }
        let whole = ANSWER_HEAD.saturating_add(len);
        if self.chunk.len() < whole {
            self.put_aside(whole);
            return None;
        }
        self.chunk.advance(ANSWER_HEAD);
        Some(AnswerFrame {
            which,
            message: Some(self.chunk.split_to(len)),
        })
    }

    /// Keeps the beginning of a frame until this much of it is there.
    fn put_aside(&mut self, wanted: usize) {
        /// Taken at its word up to here: a word costs nothing.
        const ROOM: usize = 16 * 1024 * 1024;
        if !self.chunk.is_empty() {
            self.wanted = wanted;
            self.begun.reserve(wanted.min(ROOM));
            self.begun.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
        }
    }

    /// Whether nothing is left that a whole frame is not made of.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.chunk.is_empty() && self.begun.is_empty() && self.skipped == 0
    }
}

fn answer_head(bytes: &[u8]) -> Option<(u32, usize)> {
    let (which, rest) = bytes.split_first_chunk()?;
    let (len, _) = split_u32(rest)?;
    Some((u32::from_le_bytes(*which), len))
}

/// A length, and what comes after it.
fn split_u32(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    let number = usize::try_from(u32::from_le_bytes(*number)).ok()?;
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use kvquorum_core::{Ack, Entry, Response, Timestamp, Version, WriterId};

    use super::*;

    fn sent(mut frames: Frames) -> Vec<u8> {
        let announced = frames.size_hint().exact().unwrap();
        let mut sent = Vec::new();
        while let Some(piece) = frames.pop() {
            sent.extend(piece);
        }
        assert!(frames.is_end_stream());
        assert_eq!(sent.len() as u64, announced);
        sent
    }

    fn get(key: &str) -> Request {
        Request::read(key)
    }

    fn entry(value: Vec<u8>) -> Entry {
        let version = Version {
            timestamp: Timestamp::from_bits(1),
            writer: WriterId::new(2),
        };
        Entry::new(version, value)
    }

    fn large() -> Vec<u8> {
        vec![b'x'; 20_000]
    }

    /// The tables of the module `wire` are a promise.
    #[test]
    fn frames_have_the_bytes_that_the_docs_say() {
        let requests = [get("ab"), get("c")].map(|it| Frames::of_request(&it).unwrap());
        assert_eq!(
            sent(Frames::joined(requests.iter())),
            b"\x06\x00\x00\x00\x00\x00\x00\x02ab\x05\x00\x00\x00\x00\x00\x00\x01c"
        );
        let mut answers = Frames::default();
        let applied = Reply::Answered(Response::Ack(Ack::Applied));
        answers.push_answer(300, &applied).unwrap();
        let failed = Reply::StoreFailed("no".into());
        answers.push_answer(0, &failed).unwrap();
        assert_eq!(
            sent(answers),
            b"\x2C\x01\x00\x00\x03\x00\x00\x00\x00\x01\x00\
              \x00\x00\x00\x00\x04\x00\x00\x00\x01\x02no"
        );
    }

    #[test]
    fn requests_come_out_as_they_went_in() {
        let write = |value| Request::write("k", entry(value));
        let all = [
            get("a"),
            write(large()),
            write(large()),
            get("b"),
            write(vec![]),
        ];
        let frames = all.clone().map(|it| Frames::of_request(&it).unwrap());
        let body = sent(Frames::joined(frames.iter()));
        let (requests, count) = Requests::of(body.into()).unwrap();
        assert_eq!(count, all.len());
        let requests: Vec<_> = requests.map(|(which, it)| (which, it.unwrap())).collect();
        assert!(requests == [0, 1, 2, 3, 4].into_iter().zip(all).collect::<Vec<_>>());
    }

    #[test]
    fn only_whole_frames_are_taken() {
        let frames = ["a", "bc", "d"].map(|key| Frames::of_request(&get(key)).unwrap());
        let body = Bytes::from(sent(Frames::joined(frames.iter())));
        let ends: Vec<_> = (0..=body.len())
            .filter(|end| Requests::of(body.slice(..*end)).is_ok())
            .collect();
        assert_eq!(ends, [9, 19, 28]);
    }

    #[test]
    fn lengths_beyond_the_end_are_not_frames() {
        for body in [
            &b""[..],
            b"\x00",
            b"\x01\x00\x00\x00",
            b"\xff\xff\xff\xffabc",
        ] {
            let requests = Requests::of(Bytes::copy_from_slice(body));
            assert!(matches!(requests, Err(DecodeError::Unframed)), "{body:?}");
        }
    }

    /// All answers that come of these chunks: their numbers, and the lengths of
    /// those that are taken.
    fn read<'a>(max: usize, chunks: impl Iterator<Item = &'a [u8]>) -> Vec<(u32, Option<usize>)> {
        let mut answers = AnswerFrames::new(max);
        let mut read = Vec::new();
        for chunk in chunks {
            answers.push(Bytes::copy_from_slice(chunk));
            while let Some(AnswerFrame { which, message }) = answers.next() {
                read.push((which, message.map(|message| message.len())));
            }
        }
        assert!(answers.is_between_frames());
        read
    }

    #[test]
    fn answers_come_out_of_chunks_of_any_size() {
        let mut frames = Frames::default();
        for (which, len) in [(7, 0), (0, 20), (3, 600), (2, 1), (1, 400), (9, 10)] {
            let held = Some(entry(vec![b'x'; len]));
            let reply = Reply::Answered(Response::Entry(held.into()));
            frames.push_answer(which, &reply).unwrap();
        }
        let bytes = sent(frames);
        let whole = read(usize::MAX, [&bytes[..]].into_iter());
        let numbers: Vec<_> = whole.iter().map(|(which, _)| *which).collect();
        assert_eq!(numbers, [7, 0, 3, 2, 1, 9]);
        let some: Vec<_> = whole
            .iter()
            .map(|(which, len)| (*which, len.filter(|len| *len <= 200)))
            .collect();
        for size in 1..bytes.len() {
            assert_eq!(read(usize::MAX, bytes.chunks(size)), whole, "{size}");
            assert_eq!(read(200, bytes.chunks(size)), some, "{size}");
        }
    }

    #[test]
    fn what_is_announced_is_not_set_aside() {
        let mut answers = AnswerFrames::new(usize::MAX);
        answers.push(Bytes::from_static(b"\0\0\0\0\xff\xff\xff\xffabc"));
        assert!(answers.next().is_none());
        assert!(answers.begun.capacity() < 32 * 1024 * 1024);
        assert!(!answers.is_between_frames());
    }
}
