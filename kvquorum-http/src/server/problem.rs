//! Answers that are not what was asked for, and what they say.

use hyper::header::{ALLOW, CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::answer::AnswerBody;
use crate::wire::NOTHING_STORED;

/// The body of an error.
#[derive(Serialize)]
struct ErrorBody {
    error: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
}

/// Why a request is answered with something other than 200 OK.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    message: String,
    /// What the status needs beside its words.
    header: Option<(HeaderName, HeaderValue)>,
    /// From which time on a write would be taken, in milliseconds since the Unix epoch.
    from: Option<u64>,
    is_joining: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            header: None,
            from: None,
            is_joining: false,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Of a write that is stamped too early.
    pub(super) fn too_early(message: impl Into<String>, from: u64) -> Self {
        Self {
            from: Some(from),
            ..Self::new(StatusCode::CONFLICT, message)
        }
    }

    /// What is not allowed, and which method is.
    pub(super) fn not_allowed(message: impl Into<String>, allowed: &'static str) -> Self {
        Self {
            header: Some((ALLOW, HeaderValue::from_static(allowed))),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
        }
    }

    /// For want of a token.
    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self {
            header: Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            ..Self::new(StatusCode::UNAUTHORIZED, message)
        }
    }

    /// The replica is joining: not for long, as a rule.
    pub(super) fn joining(message: impl Into<String>) -> Self {
        Self {
            header: Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            is_joining: true,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
    }

    pub(super) fn is_joining(&self) -> bool {
        self.is_joining
    }

    pub(super) fn lacks_tls() -> Self {
        Self::bad_request("TLS is spoken on this port, and nothing else: the scheme is https")
    }

    /// Where the rest of the body is not waited for.
    fn ends_connection(&self) -> bool {
        let statuses = [StatusCode::REQUEST_TIMEOUT, StatusCode::SERVICE_UNAVAILABLE];
        statuses.contains(&self.status) && !self.is_joining
    }

    pub(super) fn into_response(self) -> Response<AnswerBody> {
        let close = self.ends_connection();
        let error = ErrorBody {
            error: self.message,
            from: self.from,
        };
        let mut body = serde_json::to_vec(&error).unwrap_or_default();
        body.push(b'\n');
        let mut response = AnswerBody::json(body, None);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        if self.status.is_client_error() && self.status != StatusCode::REQUEST_TIMEOUT
            || self.status == StatusCode::SERVICE_UNAVAILABLE
        {
            headers.insert(NOTHING_STORED, HeaderValue::from_static("1"));
        }
        if close {
            // No other request can follow.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
