//! Sends what has gathered, one exchange after the other.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::exchange::Exchange;
use crate::failure::Failure;
use crate::frames::Frames;
use crate::gather::{Batch, Waiters};
use crate::link::Link;

/// Sends calls until none has gathered. There is at most one to a link.
pub(crate) struct Gatherer {
    link: Arc<Link>,
    is_done: bool,
}

impl Gatherer {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        let is_done = false;
        Self { link, is_done }
    }

    pub(crate) async fn run(mut self) {
        let limit = self.link.gather_time_limit;
        self.link.gathering.leader_is_done(limit).await;
        loop {
            // First, so that calls gather while all connections are in use.
            let turn = Arc::clone(&self.link.turns).acquire_owned().await;
            let Some(batch) = self.link.gathering.next_batch() else {
                self.is_done = true;
                return;
            };
            let begin = BatchUnderWay::begin(Arc::clone(&self.link), turn.ok(), batch);
            let mut begin = Box::pin(begin);
            match timeout(limit, &mut begin).await {
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

impl Drop for Gatherer {
    fn drop(&mut self) {
        if !self.is_done {
            self.link.gathering.abandon();
        }
    }
}

/// A batch whose answer has begun.
struct BatchUnderWay {
    link: Arc<Link>,
    exchange: Exchange,
    frames: Vec<Frames>,
    waiters: Waiters,
    _turn: Option<OwnedSemaphorePermit>,
}

impl BatchUnderWay {
    /// Sends a batch, and returns when its answer begins. `None` where it has
    /// failed, or nobody waits for it any more.
    async fn begin(
        link: Arc<Link>,
        turn: Option<OwnedSemaphorePermit>,
        batch: Batch,
    ) -> Option<Self> {
        let Batch {
            frames,
            mut waiters,
        } = batch;
        let begun = tokio::select! {
            biased;
            begun = link.begin(|| Frames::joined(frames.iter())) => begun,
            () = waiters.gone() => return None,
        };
        match begun {
            Ok(exchange) => Some(Self {
                link,
                exchange,
                frames,
                waiters,
                _turn: turn,
            }),
            Err(failure) => {
                waiters.fail(&failure);
                None
            }
        }
    }

    /// Gives each call its answer as it comes.
    async fn finish(mut self) {
        if self.frames.len() > 1 && self.exchange.is_too_much() {
            return self.split();
        }
        // They are sent, and an answer may take its time.
        self.frames = Vec::new();
        while !self.waiters.are_done() {
            let next = tokio::select! {
                biased;
                next = self.exchange.next() => next,
                () = self.waiters.gone() => return,
            };
            match next {
                Ok(Some((which, called))) => {
                    if !self.waiters.answer(which, called) {
                        return self.waiters.fail(&Failure::Unframed);
                    }
                }
                Ok(None) => self.waiters.fail(&Failure::Unanswered),
                Err(failure) => self.waiters.fail(&failure),
            }
        }
        self.link.end(&mut self.exchange).await;
    }

    /// Sends each call again, on its own.
    fn split(self) {
        for (frame, waiters) in self.frames.into_iter().zip(self.waiters.split()) {
            let link = Arc::clone(&self.link);
            let frames = vec![frame];
            tokio::spawn(async move {
                let turn = Arc::clone(&link.turns).acquire_owned().await;
                let batch = Batch { frames, waiters };
                if let Some(begun) = Self::begin(link, turn.ok(), batch).await {
                    begun.finish().await;
                }
            });
        }
    }
}
