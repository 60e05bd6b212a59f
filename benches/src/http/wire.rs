//! The replica face by hand: the bytes that `kvquorum_http::wire` describes.

use kvquorum_core::{Bytes, Request, Response};

/// The path that [`body`] goes to, and what it is called there.
pub(super) use kvquorum_http::wire::{CALL_PATH, CONTENT_TYPE};

/// A number on the wire: four bytes, the least first.
type Number = [u8; 4];

/// The body of an exchange with one request: its length, and then itself.
pub(super) fn body(request: &Request) -> Bytes {
    let request = postcard::to_stdvec(request).unwrap();
    let len: Number = (request.len() as u32).to_le_bytes();
    [&len, request.as_slice()].concat().into()
}

/// The response in the answer to one request: which request it is of, its
/// length, that it is a response, and then itself.
pub(super) fn response(body: &[u8]) -> Response {
    const HEAD: usize = 2 * size_of::<Number>();
    let (_, outcome) = body.split_at(HEAD);
    let (answered, response) = outcome.split_first().unwrap();
    assert_eq!(*answered, 0, "{outcome:?}");
    postcard::from_bytes(response).unwrap()
}
