//! The mutant's calls.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use kvquorum_core::{Request, Response, Transport};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::oracle::Settings;
use crate::planted::Bug;
use crate::spy::on_behalf;

/// What a call needs, also when its operation has ended.
pub(super) struct Links {
    pub(super) bug: Option<Bug>,
    pub(super) settings: Settings,
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) panicked: Vec<AtomicU64>,
}

pub(super) type Answer = (usize, Option<Result<Response, bool>>);
type Panic = Box<dyn Any + Send>;

/// Calls of one operation, each in a task of its own.
pub(super) struct Calls {
    send: UnboundedSender<Answer>,
    receive: UnboundedReceiver<Answer>,
    pending: usize,
    tasks: Vec<AbortHandle>,
    pub(super) cancels: bool,
}

/// An answer; and `Err` where the transport panicked.
async fn caught<T>(mut future: Pin<Box<impl Future<Output = T>>>) -> Result<T, Panic> {
    poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

impl Calls {
    pub(super) fn new(cancels: bool) -> Self {
        let (send, receive) = unbounded_channel();
        Self {
            send,
            receive,
            pending: 0,
            tasks: Vec::new(),
            cancels,
        }
    }

    pub(super) fn start(
        &mut self,
        links: &Arc<Links>,
        op: Option<usize>,
        replica: usize,
        request: Request,
    ) {
        let (links, send) = (Arc::clone(links), self.send.clone());
        let unbounded = links.bug == Some(Bug::NoTimeLimit);
        let limit = links.settings.time_limit * if unbounded { 1_000 } else { 1 };
        let mut call = Box::pin(on_behalf(op, async move {
            let calling = async { links.transports[replica].call(&request).await };
            let answer = match timeout(limit, caught(Box::pin(calling))).await {
                Ok(Ok(answer)) => Some(answer.map_err(|error| error.may_have_applied())),
                Ok(Err(panic)) if links.bug == Some(Bug::PanicsPass) => resume_unwind(panic),
                Ok(Err(_)) => {
                    let is_counted = links.bug != Some(Bug::PanicsUncounted);
                    links.panicked[replica].fetch_add(u64::from(is_counted), Ordering::Relaxed);
                    Some(Err(true))
                }
                Err(_) => None,
            };
            let _ = send.send((replica, answer));
        }));
        self.pending += 1;
        // It sets out now, and not when its task has its turn.
        let mut context = Context::from_waker(Waker::noop());
        if call.as_mut().poll(&mut context).is_pending() {
            self.tasks.push(tokio::spawn(call).abort_handle());
        }
    }

    pub(super) async fn next(&mut self) -> Option<Answer> {
        if self.pending == 0 {
            return None;
        }
        let answer = self.receive.recv().await;
        self.pending -= 1;
        answer
    }

    /// The next answer that is there.
    pub(super) fn next_ready(&mut self) -> Option<Answer> {
        let answer = self.receive.try_recv().ok()?;
        self.pending -= 1;
        Some(answer)
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if self.cancels {
            self.tasks.iter().for_each(AbortHandle::abort);
        }
    }
}
