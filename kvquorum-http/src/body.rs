//! Reading a message's body whole, and never more of it than is wanted.

use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// Why a body was not read whole.
#[derive(Debug)]
pub(crate) enum BodyError<E> {
    /// It is, or says that it will be, longer than the bound.
    TooLarge,
    /// The sender broke off, or broke the rules.
    Failed(E),
}

/// The whole body, if it has at most `max` bytes.
pub(crate) async fn read_whole<B: Body + Unpin>(
    body: &mut B,
    max: usize,
) -> Result<Bytes, BodyError<B::Error>> {
    if body.size_hint().lower() > max as u64 {
        return Err(BodyError::TooLarge);
    }
    let Some(first) = next_chunk(body).await.map_err(BodyError::Failed)? else {
        return Ok(Bytes::new());
    };
    let Some(mut chunk) = next_chunk(body).await.map_err(BodyError::Failed)? else {
        return within(first, max);
    };
    // Taken at its word up to here: a word costs nothing.
    const ROOM: usize = 16 * 1024 * 1024;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(ROOM);
    let mut whole = BytesMut::with_capacity(
        first
            .len()
            .saturating_add(chunk.len())
            .saturating_add(announced.min(ROOM))
            .min(max),
    );
    whole.put(within(first, max)?);
    loop {
        whole.put(within(chunk, max.saturating_sub(whole.len()))?);
        match next_chunk(body).await.map_err(BodyError::Failed)? {
            Some(next) => chunk = next,
            None => return Ok(whole.freeze()),
        }
    }
}

/// Reads a body to its end and keeps nothing.
pub(crate) async fn discard<B: Body + Unpin>(mut body: B) {
    while let Ok(Some(_)) = next_chunk(&mut body).await {}
}

fn within<E>(chunk: Bytes, room: usize) -> Result<Bytes, BodyError<E>> {
    if chunk.len() <= room {
        Ok(chunk)
    } else {
        Err(BodyError::TooLarge)
    }
}

/// The next bytes that are not trailers; `None` at the end.
pub(crate) async fn next_chunk<B: Body + Unpin>(body: &mut B) -> Result<Option<Bytes>, B::Error> {
    // Known without asking, where a length was announced: one wait less.
    while !body.is_end_stream() {
        match Pin::new(&mut *body).frame().await {
            Some(Ok(frame)) => {
                if let Ok(mut data) = frame.into_data() {
                    return Ok(Some(data.copy_to_bytes(data.remaining())));
                }
            }
            Some(Err(error)) => return Err(error),
            None => return Ok(None),
        }
    }
    Ok(None)
}
