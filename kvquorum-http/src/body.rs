//! Reading a message's body whole, and never more of it than is wanted.

use std::pin::Pin;

use bytes::{Buf, Bytes};
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
///
/// Memory for it grows as it comes, whatever length was announced.
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
    let first = within(first, max)?;
    let mut next = next_chunk(body).await.map_err(BodyError::Failed)?;
    if next.is_none() {
        return Ok(first);
    }
    let mut whole = Vec::from(first);
    while let Some(chunk) = next {
        let chunk = within(chunk, max.saturating_sub(whole.len()))?;
        make_room(&mut whole, &chunk, body.size_hint().exact());
        whole.extend_from_slice(&chunk);
        next = next_chunk(body).await.map_err(BodyError::Failed)?;
    }
    Ok(whole.into())
}

/// At most doubles the memory, and takes no more than what is announced.
fn make_room(whole: &mut Vec<u8>, chunk: &Bytes, to_come: Option<u64>) {
    if whole.capacity().saturating_sub(whole.len()) < chunk.len() {
        let announced = to_come
            .and_then(|to_come| usize::try_from(to_come).ok())
            .map_or(usize::MAX, |to_come| chunk.len().saturating_add(to_come));
        whole.reserve_exact(announced.min(chunk.len().max(whole.len())));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches memory that is taken because a peer says that it will be needed.
    #[test]
    fn memory_grows_as_the_body_comes_and_not_as_it_is_announced() {
        let chunk = Bytes::from_static(&[0; 1000]);
        for (to_come, capacity) in [
            (Some(1 << 40), 6000),
            (None, 6000),
            // Exactly, where the end is near.
            (Some(500), 4500),
            (Some(0), 4000),
        ] {
            let mut whole = vec![0; 3000];
            make_room(&mut whole, &chunk, to_come);
            assert_eq!(whole.capacity(), capacity);
            let lies_there = whole.as_ptr();
            make_room(&mut whole, &chunk, to_come);
            assert_eq!(whole.as_ptr(), lies_there);
        }
    }
}
