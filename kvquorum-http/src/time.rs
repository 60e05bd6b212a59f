//! Time limits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::task::unconstrained;
use tokio::time::sleep;

/// The time limit passed before the future was done.
#[derive(Debug)]
pub(crate) struct Elapsed;

/// A time limit, or a year where it is longer. Nobody waits for so long, and
/// adding the longest `Duration` to a time is a panic.
pub(crate) fn within_reason(limit: Duration) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    limit.min(YEAR)
}

/// What the future comes to, if within the limit. No timer is set for one that
/// is ready.
///
/// The timer does not draw on the task's budget: a future that always has more
/// to do, and uses the budget up, does not outlast its limit.
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
    use std::time::Instant;

    use tokio::task::consume_budget;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    /// tokio's own timers say that they are not due where the budget of the
    /// task is used up, however late it is.
    #[tokio::test]
    async fn a_limit_holds_where_the_budget_is_used_up() {
        let begun = Instant::now();
        let end = LIMIT * 100;
        let busy = async {
            while begun.elapsed() < end {
                consume_budget().await;
            }
        };
        // Used up before the wait begins, and at each poll.
        let both = async {
            let late = in_time(LIMIT, busy).await;
            assert!(late.is_err());
        };
        both.await;
        assert!(begun.elapsed() < end);
    }

    #[tokio::test]
    async fn what_is_ready_is_in_time() {
        assert!(in_time(Duration::ZERO, async {}).await.is_ok());
        let never = std::future::pending::<()>();
        assert!(in_time(Duration::ZERO, never).await.is_err());
    }
}
