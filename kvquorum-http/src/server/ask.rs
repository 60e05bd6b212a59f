//! Asking the replica, whatever its store does.

use std::error::Error;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use kvquorum_core::{
    Call, Replica, Request, RequestKind, Response, Store, Transport, TransportError,
};

use crate::time::in_time;
use kvquorum_core::WithCauses;

/// What a replica's store came to, or what is said of its failure.
pub(super) type Asked = Result<Response, String>;

/// A request at the replica.
pub(super) enum Asking {
    Ready(Asked),
    Pending(Call),
}

/// Asks. A store that panics has failed for this request alone.
pub(super) fn ask<S: Store>(replica: &Replica<S>, request: &Request) -> Asking {
    if is_read_or_write(&request.kind) {
        replica.count_served();
    }
    match catch_unwind(AssertUnwindSafe(|| replica.call(request))) {
        Ok(Call::Ready(answer)) => Asking::Ready(said(answer)),
        Ok(pending) => Asking::Pending(pending),
        Err(_) => Asking::Ready(Err(panicked())),
    }
}

/// Whether passes and collections give way to it.
fn is_read_or_write(kind: &RequestKind) -> bool {
    matches!(
        kind,
        RequestKind::Read { .. }
            | RequestKind::Write { .. }
            | RequestKind::Prepare { .. }
            | RequestKind::Scan { .. }
    )
}

impl Asking {
    /// The answer, with a time limit.
    pub(super) async fn answer(self, limit: Duration) -> Asked {
        let mut call = match self {
            Self::Ready(asked) => return asked,
            Self::Pending(call) => pin!(call),
        };
        let answer =
            poll_fn(
                |cx| match catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx))) {
                    Ok(polled) => polled.map(said),
                    Err(_) => Poll::Ready(Err(panicked())),
                },
            );
        let too_slow = |_| Err(format!("the store did not answer within {limit:?}"));
        in_time(limit, answer).await.unwrap_or_else(too_slow)
    }
}

fn said(answer: Result<Response, TransportError>) -> Asked {
    // Whoever reads it knows that it is the store that failed.
    answer.map_err(|error| {
        error
            .source()
            .map_or_else(|| error.to_string(), |cause| WithCauses(cause).to_string())
    })
}

fn panicked() -> String {
    "the store panicked".to_owned()
}
