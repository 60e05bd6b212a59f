//! One HTTP exchange, from where its answer begins.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;

use super::connection::{Answer, Connection};
use super::failure::{Called, Failure, after};
use super::peer_text::{error_message, fit_to_print};
use crate::error::{HttpError, RemoteStoreError};
use crate::time::in_time;
use crate::wire::frames::{AnswerFrame, AnswerFrames};
use crate::wire::{self, Reply};

/// What the end of an answer may take after all that was waited for: then a
/// new connection is the better one.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// What the words may take that explain a status: the status alone says what
/// happened.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(100);

/// The longest of those words that are read, in bytes.
const MAX_MESSAGE_LEN: usize = 16 * 1024;

/// An exchange whose answer has begun.
pub(crate) struct Exchange {
    /// `None` once nothing more can come of it.
    answer: Option<Answer>,
    frames: AnswerFrames,
    max_response_len: usize,
    /// How a first try ended that may have reached the replica.
    first: Option<HttpError>,
}

impl Exchange {
    pub(crate) fn new(answer: Answer, max_response_len: usize, first: Option<HttpError>) -> Self {
        Self {
            answer: Some(answer),
            frames: AnswerFrames::new(max_response_len),
            max_response_len,
            first,
        }
    }

    /// Whether the calls were too much for whoever answers, who took none. They
    /// can be sent again, fewer at a time.
    pub(crate) fn is_too_much(&self) -> bool {
        let answer = self.answer.as_ref();
        answer.is_some_and(|answer| answer.status() == StatusCode::PAYLOAD_TOO_LARGE)
    }

    /// The next call that is answered, as its number among those that were
    /// sent, and what it comes to. `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<(u32, Called)>, Failure> {
        match self.read().await {
            Ok(None) => Ok(None),
            Ok(Some(frame)) => {
                let called = self.called(frame.message);
                let called = match &self.first {
                    Some(first) => after(called, first),
                    None => called,
                };
                Ok(Some((frame.which, called)))
            }
            Err(failure) => {
                if !self.is_complete() {
                    self.answer = None;
                }
                Err(failure.after(self.first.as_ref()))
            }
        }
    }

    async fn read(&mut self) -> Result<Option<AnswerFrame>, Failure> {
        let Some(answer) = &mut self.answer else {
            return Ok(None);
        };
        if answer.status() != StatusCode::OK {
            return Err(failed_with_status(answer).await);
        }
        loop {
            if let Some(frame) = self.frames.next() {
                return Ok(Some(frame));
            }
            match answer.next_chunk().await {
                Ok(Some(chunk)) => self.frames.push(chunk),
                Ok(None) if self.frames.is_between_frames() => return Ok(None),
                Ok(None) => return Err(Failure::unframed()),
                Err(error) => {
                    return Err(Failure::NoAnswer(HttpError::Connection(Arc::new(error))));
                }
            }
        }
    }

    fn called(&self, message: Option<Bytes>) -> Called {
        let Some(message) = message else {
            let max = self.max_response_len;
            return Err(Failure::NoAnswer(HttpError::ResponseTooLarge { max }));
        };
        match wire::decode(&message) {
            Ok(Reply::Answered(response)) => Ok(response),
            Ok(Reply::StoreFailed(message)) => {
                let error = RemoteStoreError::new(fit_to_print(&message));
                Err(Failure::Store(error))
            }
            Ok(Reply::NotUnderstood(message)) => {
                let message = fit_to_print(&message);
                Err(Failure::Rejected(HttpError::NotUnderstood { message }))
            }
            Err(error) => Err(Failure::NoAnswer(HttpError::Decode(Arc::new(error)))),
        }
    }

    /// Whether all of the answer is there, as far as is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.answer.as_ref().is_none_or(Answer::is_complete)
    }

    /// The connection, for another exchange, where this one comes to its end
    /// as it should. To be called when no more is expected.
    pub(crate) async fn end(mut self) -> Option<Connection> {
        let mut answer = self.answer.take()?;
        if !self.frames.is_between_frames() {
            return None;
        }
        if !answer.is_complete() {
            // In a box: it is rare.
            let more = Box::pin(answer.next_chunk());
            if !matches!(in_time(END_TIMEOUT, more).await, Ok(Ok(None))) {
                return None;
            }
        }
        Some(answer.into_connection())
    }
}

/// What a status other than 200 means: that nothing was stored only where the
/// replica's own server says so. All others may have said it after the request
/// was handed on.
async fn failed_with_status(answer: &mut Answer) -> Failure {
    let status = answer.status();
    let nothing_was_stored = answer.says_nothing_was_stored();
    let message = match in_time(MESSAGE_TIMEOUT, answer.rest(MAX_MESSAGE_LEN)).await {
        Ok(Ok(body)) => error_message(&body),
        _ => String::new(),
    };
    let error = HttpError::Status { status, message };
    if nothing_was_stored {
        Failure::Rejected(error)
    } else {
        Failure::NoAnswer(error)
    }
}
