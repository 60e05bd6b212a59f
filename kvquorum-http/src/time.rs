//! Time limits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use kvquorum_core::LONGEST_TIME_LIMIT;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

/// How long a server keeps a connection that is idle, by default. Clients close
/// what is idle before that.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A time limit, or a year where it is longer. Nobody waits for so long, and
/// adding the longest `Duration` to a time is a panic.
pub(crate) fn within_reason(limit: Duration) -> Duration {
    limit.min(LONGEST_TIME_LIMIT)
}

/// The time limit has passed.
#[derive(Debug)]
pub(crate) struct Elapsed;

/// The output of the future, if it comes within the limit. No timer is set for
/// a future that is ready.
///
/// The limit also holds for a future that always has something to do, and so
/// uses up the task's cooperative budget: the timer does not draw on that.
pub(crate) async fn in_time<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut timer = pin!(None);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if timer.is_none() {
            timer.set(Some(unconstrained(sleep(limit))));
        }
        match timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::coop::consume_budget;
    use tokio::time::Instant;

    use super::*;

    /// Catches a timer that is polled with what others have left of the task's
    /// cooperative budget: where that is nothing, it is pending for ever.
    #[tokio::test]
    async fn a_limit_holds_in_a_task_that_always_has_something_to_do() {
        let limit = Duration::from_millis(20);
        let began = Instant::now();
        let mut limited = pin!(in_time(limit, pending::<()>()));
        let elapsed = poll_fn(|cx| {
            while pin!(consume_budget()).poll(cx).is_ready() {}
            match limited.as_mut().poll(cx) {
                Poll::Pending if began.elapsed() < 50 * limit => Poll::Pending,
                polled => Poll::Ready(polled.is_ready()),
            }
        });
        assert!(elapsed.await);
    }
}
