//! Sends what is queued, one exchange after the other, and sees each exchange
//! to its end.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::OwnedSemaphorePermit;

use super::batch_queue::{Batch, Callers};
use super::exchange::Exchange;
use super::failure::Failure;
use super::peer::{Attempt, Peer};
use crate::error::HttpError;
use crate::time::in_time;
use crate::wire::frames::Frames;

/// Sends calls until none is queued. There is at most one for a peer.
pub(crate) struct BatchSender {
    peer: Arc<Peer>,
    is_done: bool,
}

impl BatchSender {
    pub(crate) fn new(peer: Arc<Peer>) -> Self {
        let is_done = false;
        Self { peer, is_done }
    }

    pub(crate) async fn run(mut self) {
        let limit = self.peer.batch_wait;
        self.peer.queue.await_inline(limit).await;
        loop {
            // First, so that calls queue while all connections are in use.
            let Some(permit) = ConnectionPermit::acquire(&self.peer).await else {
                return;
            };
            let attempt = match Attempt::new(&self.peer).await {
                Ok(attempt) => attempt,
                Err(failure) => {
                    self.is_done = true;
                    return self.peer.queue.take_all().fail(&failure);
                }
            };
            let Some(batch) = self.peer.queue.next_batch() else {
                self.is_done = true;
                return;
            };
            let mut begin = Box::pin(BatchUnderWay::begin(permit, attempt, batch, None));
            match in_time(limit, begin.as_mut()).await {
                Ok(Some(begun)) => {
                    // Most answers are there as soon as they begin.
                    let mut finish = Box::pin(begun.finish());
                    let polled = poll_fn(|cx| Poll::Ready(finish.as_mut().poll(cx)));
                    if polled.await.is_pending() {
                        tokio::spawn(finish);
                    }
                }
                Ok(None) => {}
                Err(_) => drop(tokio::spawn(async {
                    if let Some(begun) = begin.await {
                        begun.finish().await;
                    }
                })),
            }
        }
    }
}

impl Drop for BatchSender {
    fn drop(&mut self) {
        // As where its runtime ends: the calls are not sent.
        if !self.is_done {
            drop(self.peer.queue.take_all());
        }
    }
}

/// Sends a batch at once, beside whatever the [`BatchSender`] does. To be run by
/// a task of its own.
pub(crate) async fn send_separately(peer: Arc<Peer>, mut batch: Batch, first: Option<HttpError>) {
    let begin = async {
        let permit = ConnectionPermit::acquire(&peer).await?;
        Some((permit, Attempt::new(&peer).await))
    };
    let begun = tokio::select! {
        biased;
        () = batch.callers.closed() => return,
        begun = begin => begun,
    };
    match begun {
        Some((permit, Ok(attempt))) => {
            if let Some(begun) = BatchUnderWay::begin(permit, attempt, batch, first).await {
                begun.finish().await;
            }
        }
        Some((_, Err(failure))) => batch.callers.fail(&failure.after(first.as_ref())),
        None => {}
    }
}

/// A permit for a connection in use. Only tasks of their own wait for it and
/// hold it, never a caller's future, which nobody may poll.
struct ConnectionPermit {
    peer: Arc<Peer>,
    _permit: OwnedSemaphorePermit,
}

impl ConnectionPermit {
    async fn acquire(peer: &Arc<Peer>) -> Option<Self> {
        let permit = Arc::clone(&peer.permits).acquire_owned().await.ok()?;
        Some(Self {
            peer: Arc::clone(peer),
            _permit: permit,
        })
    }
}

/// A batch whose answer has begun.
struct BatchUnderWay {
    permit: ConnectionPermit,
    exchange: Exchange,
    frames: Vec<Frames>,
    callers: Callers,
}

impl BatchUnderWay {
    /// Sends a batch, and returns when its answer begins. `None` where it has
    /// failed, or nobody waits for it any more.
    async fn begin(
        permit: ConnectionPermit,
        attempt: Attempt,
        batch: Batch,
        first: Option<HttpError>,
    ) -> Option<Self> {
        let Batch {
            frames,
            mut callers,
        } = batch;
        permit.peer.telemetry.counts.exchange_begins(frames.len());
        let requests = || Frames::joined(frames.iter());
        let begun = tokio::select! {
            biased;
            // First: where nobody waits, no connection is opened, and a peer
            // that keeps the exchange busy does not keep it alive.
            () = callers.closed() => return None,
            begun = permit.peer.begin(attempt, requests, first) => begun,
        };
        match begun {
            Ok(exchange) => Some(Self {
                permit,
                exchange,
                frames,
                callers,
            }),
            Err(failure) => {
                callers.fail(&failure);
                None
            }
        }
    }

    /// Gives each call its answer as it comes.
    async fn finish(mut self) {
        // Let go here: they are sent, and an answer may take its time.
        let frames = std::mem::take(&mut self.frames);
        if frames.len() > 1 && self.exchange.is_too_much() {
            let told = self.exchange.next().await;
            let callers = std::mem::take(&mut self.callers);
            resend_each(&self.permit.peer, Batch { frames, callers }, told.err());
        } else {
            drop(frames);
        }
        while !self.callers.are_done() {
            let next = tokio::select! {
                biased;
                () = self.callers.closed() => return,
                next = self.exchange.next() => next,
            };
            match next {
                Ok(Some((which, called))) => {
                    if !self.callers.answer(which, called) {
                        return self.callers.fail(&Failure::unframed());
                    }
                }
                Ok(None) => self.callers.fail(&Failure::NoAnswer(HttpError::Unanswered)),
                Err(failure) => self.callers.fail(&failure),
            }
        }
        self.permit.peer.end(self.exchange).await;
    }
}

/// Sends each call of a batch again, on its own. Where someone other than the
/// replica said that they are too much together, the replica may have them.
fn resend_each(peer: &Arc<Peer>, batch: Batch, told: Option<Failure>) {
    let first = match told {
        Some(Failure::NoAnswer(error)) => Some(error),
        _ => None,
    };
    for batch in batch.split() {
        tokio::spawn(send_separately(Arc::clone(peer), batch, first.clone()));
    }
}
