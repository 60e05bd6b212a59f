//! One call to one replica, for what is no operation of its own.

use std::sync::Arc;

use super::Inner;
use super::calls::Calls;
use crate::outcome::ReplicaFailure;
use crate::request::{Request, Response};
use crate::transport::Transport;

/// Calls a replica, within the time limit of a call.
pub(super) async fn call_one<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    replica: usize,
    request: &mut Request,
) -> Result<Response, ReplicaFailure> {
    let mut calls = Calls::new(Arc::clone(inner), [const { None }; N]);
    match calls.start(replica, request) {
        Some(result) => result,
        None => match calls.next().await {
            Some((_, result)) => result,
            None => Err(ReplicaFailure::GivenUp),
        },
    }
}
