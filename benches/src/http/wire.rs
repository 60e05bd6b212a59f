//! The replica face by hand: the bytes that `kvquorum_http::wire` describes.

use kvquorum_core::{Bytes, Request, Response};

/// The path that [`body`] goes to.
pub(super) use kvquorum_http::wire::CALL_PATH;

/// A request's body.
pub(super) fn body(request: &Request) -> Bytes {
    postcard::to_stdvec(request).unwrap().into()
}

/// The response in the answer's body.
pub(super) fn response(body: &[u8]) -> Response {
    postcard::from_bytes(body).unwrap()
}
