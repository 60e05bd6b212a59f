//! Ways to run calls: together, on threads, up to some point, or left at rest.

use std::future::{Future, poll_fn};
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::{Clause, PATIENCE};

/// What a call that waits for another takes. Less than the patience of a check,
/// which would not know what the call waits for.
const FOREVER: Duration = Duration::from_secs(PATIENCE.as_secs() / 2);

/// What calls bring back that must not wait for others.
pub(super) async fn ended<F: Future>(clause: &Clause, what: &str, calls: F) -> F::Output {
    match timeout(FOREVER, calls).await {
        Ok(output) => output,
        Err(_) => clause.broken(format_args!("{what} have not ended after {FOREVER:?}")),
    }
}

/// The task's result; its panic goes on here.
pub(super) async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(error) => panic!("a task of the suite ended early: {error}"),
        },
    }
}

/// Awaits all of these as a task each.
pub(super) async fn as_tasks<F>(futures: impl IntoIterator<Item = F>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    for task in tasks {
        joined(task).await;
    }
}

/// Awaits all of these in one task, polling each in turn.
pub(super) async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs = Vec::new();
    poll_fn(|context| {
        running.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            Poll::Pending => true,
        });
        if running.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs
}

/// What comes back from futures that run on a thread each: a store that never
/// yields would otherwise see no concurrency on a current-thread runtime.
pub(super) async fn on_threads<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let runtime = Handle::current();
    let threads: Vec<_> = futures
        .into_iter()
        .map(|future| {
            let runtime = runtime.clone();
            spawn_blocking(move || runtime.block_on(future))
        })
        .collect();
    let mut results = Vec::new();
    for thread in threads {
        results.push(joined(thread).await);
    }
    results
}

/// Polls a future at most `polls` times, each time after it asked for it, and
/// not any more after that. Tells whether it ended.
pub(super) async fn polled(polls: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        let Some(fewer) = left.checked_sub(1) else {
            return Poll::Ready(false);
        };
        left = fewer;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A call to be left at rest.
pub(super) type Resting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How many calls are left at rest at once: more than most queues, pools and
/// semaphores hold.
pub(super) const RESTING: u64 = 320;

/// Calls that were polled so many times each, and then no more, as by a caller
/// who is busy with something else. Those that ended are not among them.
pub(super) async fn at_rest(
    polls: usize,
    calls: impl IntoIterator<Item = Resting>,
) -> Vec<Resting> {
    let mut calls: Vec<_> = calls.into_iter().collect();
    for _ in 0..polls {
        calls.retain_mut(is_pending);
        // What the calls asked for may come to them.
        sleep(Duration::from_millis(1)).await;
    }
    calls
}

/// As [`at_rest`], polled once each by a thread of their own, while other calls
/// are under way.
pub(super) fn at_rest_on_a_thread(
    calls: impl Iterator<Item = Resting> + Send + 'static,
) -> JoinHandle<Vec<Resting>> {
    spawn_blocking(move || {
        let mut resting = Vec::new();
        for mut call in calls {
            if is_pending(&mut call) {
                resting.push(call);
            }
            if resting.len() as u64 >= RESTING {
                break;
            }
        }
        resting
    })
}

fn is_pending(call: &mut Resting) -> bool {
    let mut nobody = Context::from_waker(Waker::noop());
    call.as_mut().poll(&mut nobody).is_pending()
}
