//! Answers that are not what was asked for, and what they say.

use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::answer::AnswerBody;
use crate::wire::NOTHING_STORED;

/// Why a request is answered with something other than 200 OK.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    message: String,
    allow: Option<HeaderValue>,
}

/// The body of an error.
#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            allow: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// What is not allowed, and which method is.
    pub(crate) fn not_allowed(message: impl Into<String>, allowed: &'static str) -> Self {
        Self {
            allow: Some(HeaderValue::from_static(allowed)),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
        }
    }

    pub(crate) fn into_response(self) -> Response<AnswerBody> {
        let error = ErrorBody {
            error: self.message,
        };
        let mut body = serde_json::to_vec(&error).unwrap_or_default();
        body.push(b'\n');
        let mut response = AnswerBody::json(body);
        *response.status_mut() = self.status;
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, allow);
        }
        if self.status.is_client_error() && self.status != StatusCode::REQUEST_TIMEOUT {
            let yes = HeaderValue::from_static("1");
            response.headers_mut().insert(NOTHING_STORED, yes);
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            // The rest of the body is not waited for, so no other request can
            // follow it.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }
}
