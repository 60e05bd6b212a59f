//! Who drives an operation: its caller until it is decided, and from then on,
//! or when the caller leaves, a task of its own.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use futures_core::Stream;
use tokio::runtime::Handle;

use super::background::Background;

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
pub(super) async fn decide<D, S, const N: usize>(background: &Background<N>, operation: S) -> D
where
    S: Stream<Item = Decided<D>> + Send + 'static,
{
    let mut driver = Driver {
        background,
        operation: Some(Box::pin(operation)),
        runtime: None,
    };
    let decided = poll_fn(|cx| {
        // Out of the driver while it is polled: should a transport panic, the
        // operation is not driven on.
        let Some(mut operation) = driver.operation.take() else {
            return Poll::Ready(None);
        };
        match operation.as_mut().poll_next(cx) {
            Poll::Ready(decided) => Poll::Ready(decided.map(|decided| (decided, operation))),
            Poll::Pending => {
                driver.operation = Some(operation);
                if driver.runtime.is_none() {
                    // The caller may drop this future outside of the runtime.
                    driver.runtime = Handle::try_current().ok();
                }
                Poll::Pending
            }
        }
    })
    .await;
    let Some((decided, operation)) = decided else {
        unreachable!("an operation yields its decision before it ends");
    };
    let Decided {
        decision,
        unfinished,
    } = decided;
    if unfinished
        && let Some(runtime) = driver.runtime.take().or_else(|| Handle::try_current().ok())
    {
        background.spawn(&runtime, finish(operation));
    }
    decision
}

async fn finish<S: Stream>(mut operation: Pin<Box<S>>) {
    while poll_fn(|cx| operation.as_mut().poll_next(cx))
        .await
        .is_some()
    {}
}

struct Driver<'a, S, const N: usize>
where
    S: Stream + Send + 'static,
{
    background: &'a Background<N>,
    /// Until it is decided.
    operation: Option<Pin<Box<S>>>,
    /// Known once the operation had to wait.
    runtime: Option<Handle>,
}

impl<S, const N: usize> Drop for Driver<'_, S, N>
where
    S: Stream + Send + 'static,
{
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take()
            && let Some(runtime) = self.runtime.take()
            && let Some(room) = self.background.adopt()
        {
            let adopted = async move {
                finish(operation).await;
                drop(room);
            };
            self.background.spawn(&runtime, adopted);
        }
    }
}
