//! One HTTP exchange, from where its answer begins.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use kvquorum_core::TransportError;
use tokio::time::timeout;

use crate::connection::{Connection, Incomplete};
use crate::error::HttpError;
use crate::failure::{Called, Failure, after_lost_try, judge};
use crate::frames::{Answer, Answers};
use crate::problem::error_message;
use crate::wire;

/// What the end of an answer may take after all that was waited for: then a
/// new connection is the better one.
const END_TIME_LIMIT: Duration = Duration::from_secs(1);

/// An exchange whose answer has begun.
pub(crate) struct Exchange {
    /// `None` once nothing more can come of it.
    incomplete: Option<Incomplete>,
    answers: Answers,
    max_answer_len: usize,
    /// How a first try ended that may have reached the replica.
    lost: Option<Arc<hyper::Error>>,
}

impl Exchange {
    pub(crate) fn new(
        incomplete: Incomplete,
        max_answer_len: usize,
        lost: Option<Arc<hyper::Error>>,
    ) -> Self {
        Self {
            incomplete: Some(incomplete),
            answers: Answers::new(max_answer_len),
            max_answer_len,
            lost,
        }
    }

    /// Whether the calls can be sent again, fewer at a time: none was taken.
    pub(crate) fn is_too_much(&self) -> bool {
        let incomplete = self.incomplete.as_ref();
        self.lost.is_none()
            && incomplete.is_some_and(|it| it.status() == StatusCode::PAYLOAD_TOO_LARGE)
    }

    /// The next call that is answered, as its number among those that were
    /// sent, and what it comes to. `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(u32, Called)>, Failure> {
        match self.read().await {
            Ok(None) => Ok(None),
            Ok(Some(answer)) => {
                let called = self.called(answer.message);
                let called = match &self.lost {
                    Some(lost) => after_lost_try(Arc::clone(lost), called),
                    None => called,
                };
                Ok(Some((answer.which, called)))
            }
            Err(failure) => {
                if !matches!(failure, Failure::Status { .. }) {
                    self.incomplete = None;
                }
                Err(failure.after(self.lost.take()))
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Answer>, Failure> {
        let Some(incomplete) = &mut self.incomplete else {
            return Ok(None);
        };
        let status = incomplete.status();
        if status != StatusCode::OK {
            // The status alone says what happened, should its explanation be
            // lost.
            let message = match incomplete.rest(self.max_answer_len).await {
                Ok(body) => error_message(&body),
                Err(_) => {
                    self.incomplete = None;
                    String::new()
                }
            };
            return Err(Failure::Status { status, message });
        }
        loop {
            if let Some(answer) = self.answers.next() {
                return Ok(Some(answer));
            }
            match incomplete.next_chunk().await {
                Ok(Some(chunk)) => self.answers.push(chunk),
                Ok(None) if self.answers.is_between_frames() => return Ok(None),
                Ok(None) => return Err(Failure::Unframed),
                Err(error) => {
                    return Err(Failure::Lost {
                        error: Arc::new(error),
                        maybe_sent: true,
                    });
                }
            }
        }
    }

    fn called(&self, message: Option<Bytes>) -> Called {
        match message {
            Some(message) => judge(wire::decode(&message)),
            None => {
                let max = self.max_answer_len;
                let error = HttpError::ResponseTooLarge { max };
                Err(TransportError::NoAnswer(error.into()))
            }
        }
    }

    /// The connection, for another exchange, where this one comes to its end
    /// as it should. To be called when no more is expected.
    pub(crate) async fn end(&mut self) -> Option<Connection> {
        let mut incomplete = self.incomplete.take()?;
        if !self.answers.is_between_frames() {
            return None;
        }
        if !incomplete.is_complete() {
            // In a box: it is rare.
            let more = Box::pin(incomplete.next_chunk());
            if !matches!(timeout(END_TIME_LIMIT, more).await, Ok(Ok(None))) {
                return None;
            }
        }
        Some(incomplete.into_connection())
    }
}
