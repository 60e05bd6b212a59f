//! Who drives an operation: its caller until it is decided, and from then on,
//! or when the caller leaves, a task of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::runtime::Handle;

use super::background::Background;
use crate::telemetry::OperationSpan;

/// What comes of an operation before it has to wait.
pub(super) enum Start<D, F> {
    /// It is over.
    Settled(D),
    /// The rest of the way.
    Unsettled(F),
}

/// What an operation yields when it is decided.
pub(super) struct Decided<D> {
    pub(super) decision: D,
    /// Whether calls are still under way, so that the operation has to be
    /// driven on.
    pub(super) unfinished: bool,
}

/// Drives an operation until it is decided.
///
/// An operation is a stream that yields once, at its decision, and ends when
/// its last call has. If it is unfinished when decided, or undecided when this
/// future is dropped, a background task drives it on: rules W-FINISH and
/// W-CANCEL.
pub(super) fn decide<D, S, const N: usize>(
    background: &Background<N>,
    span: OperationSpan,
    operation: S,
) -> Deciding<'_, S, N>
where
    S: Stream<Item = Decided<D>> + Send + 'static,
{
    Deciding {
        background,
        span,
        operation: Some(Box::pin(operation)),
        runtime: None,
    }
}

/// As [`decide`], but for an operation that nobody wants any more when this future
/// is dropped.
pub(super) async fn decide_while_wanted<D, S, const N: usize>(
    background: &Background<N>,
    span: OperationSpan,
    operation: S,
) -> D
where
    S: Stream<Item = Decided<D>> + Send + 'static,
{
    let mut operation = Box::pin(operation);
    let decided = poll_fn(|cx| {
        let _entered = span.enter();
        operation.as_mut().poll_next(cx)
    });
    let Some(Decided {
        decision,
        unfinished,
    }) = decided.await
    else {
        unreachable!("an operation yields its decision before it ends");
    };
    if unfinished && let Ok(runtime) = Handle::try_current() {
        let _entered = span.enter();
        background.spawn(&runtime, finish(operation));
    }
    decision
}

pub(super) struct Deciding<'a, S, const N: usize>
where
    S: Stream + Send + 'static,
{
    background: &'a Background<N>,
    span: OperationSpan,
    /// Until it is decided.
    operation: Option<Pin<Box<S>>>,
    /// Known once the operation had to wait.
    runtime: Option<Handle>,
}

impl<D, S, const N: usize> Future for Deciding<'_, S, N>
where
    S: Stream<Item = Decided<D>> + Send + 'static,
{
    type Output = D;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<D> {
        let this = self.get_mut();
        let _entered = this.span.enter();
        // Out of its place while it is polled: should a transport panic, the
        // operation is not driven on.
        let Some(mut operation) = this.operation.take() else {
            unreachable!("an operation is decided once");
        };
        let Poll::Ready(decided) = operation.as_mut().poll_next(cx) else {
            this.operation = Some(operation);
            if this.runtime.is_none() {
                // The caller may drop this future outside of the runtime.
                this.runtime = Handle::try_current().ok();
            }
            return Poll::Pending;
        };
        let Some(Decided {
            decision,
            unfinished,
        }) = decided
        else {
            unreachable!("an operation yields its decision before it ends");
        };
        if unfinished
            && let Some(runtime) = this.runtime.take().or_else(|| Handle::try_current().ok())
        {
            this.background.spawn(&runtime, finish(operation));
        }
        Poll::Ready(decision)
    }
}

impl<S, const N: usize> Drop for Deciding<'_, S, N>
where
    S: Stream + Send + 'static,
{
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take()
            && let Some(runtime) = self.runtime.take()
            && let Some(room) = self.background.adopt()
        {
            let _entered = self.span.enter();
            let adopted = async move {
                finish(operation).await;
                drop(room);
            };
            self.background.spawn(&runtime, adopted);
        }
    }
}

async fn finish<S: Stream>(mut operation: Pin<Box<S>>) {
    while poll_fn(|cx| operation.as_mut().poll_next(cx))
        .await
        .is_some()
    {}
}
