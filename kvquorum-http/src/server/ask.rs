//! Asking the replica, whatever its store does.

use std::error::Error;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use kvquorum_core::{Replica, Request, Response, Store, StoreError};

use crate::error::with_causes;
use crate::time::in_time;

/// What a replica's store came to, or what is said of its failure.
pub(super) type Asked = Result<Response, String>;

/// Asks, with a time limit. A store that panics has failed for this request
/// alone.
pub(super) async fn ask<S: Store>(
    replica: &Replica<S>,
    limit: Duration,
    request: Request,
) -> Asked {
    let mut answer = pin!(replica.handle(request));
    let answer = poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
            Ok(polled) => polled.map(said),
            Err(_) => Poll::Ready(Err(panicked())),
        },
    );
    let too_slow = |_| Err(format!("the store did not answer within {limit:?}"));
    in_time(limit, answer).await.unwrap_or_else(too_slow)
}

/// The answer, where the store need not wait for it.
pub(super) fn try_ask<S: Store>(replica: &Replica<S>, request: &Request) -> Option<Asked> {
    match catch_unwind(AssertUnwindSafe(|| replica.handle_now(request))) {
        Ok(answer) => answer.map(said),
        Err(_) => Some(Err(panicked())),
    }
}

fn said(answer: Result<Response, StoreError>) -> Asked {
    // Whoever reads it knows that it is the store that failed.
    answer.map_err(|error| {
        error
            .source()
            .map_or_else(|| error.to_string(), with_causes)
    })
}

fn panicked() -> String {
    "the store panicked".to_owned()
}
