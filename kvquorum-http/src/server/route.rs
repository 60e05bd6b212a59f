//! Where a request goes.

use hyper::{Request, StatusCode};

use super::problem::Problem;
use super::request_line::HadFragment;
use crate::wire;

/// What the path of a read begins with.
pub(super) const READ: &str = "/read/";

/// Where a request goes.
pub(super) enum Route {
    Call,
    Write,
    Read,
}

impl Route {
    pub(super) fn of<B>(request: &Request<B>) -> Result<Self, Problem> {
        let (route, method) = match request.uri().path() {
            wire::CALL_PATH => (Self::Call, "POST"),
            "/write" => (Self::Write, "POST"),
            path if path.starts_with(READ) => (Self::Read, "GET"),
            path => return Err(no_route(path)),
        };
        allow(request, method)?;
        // Ignoring either would do something other than what was meant.
        if request.uri().query().is_some() {
            return Err(Problem::bad_request(
                "there is no query on any route; a question mark in a key is written %3F",
            ));
        }
        if request.extensions().get::<HadFragment>().is_some() {
            return Err(Problem::bad_request(
                "a request has no fragment; a hash sign in a key is written %23",
            ));
        }
        Ok(route)
    }
}

fn allow<B>(request: &Request<B>, allowed: &'static str) -> Result<(), Problem> {
    if request.method().as_str() == allowed {
        return Ok(());
    }
    let (method, path) = (request.method(), request.uri().path());
    Err(Problem::not_allowed(
        format!("{method} is not for {path}, {allowed} is"),
        allowed,
    ))
}

fn no_route(path: &str) -> Problem {
    let version = path
        .strip_prefix("/v")
        .and_then(|rest| rest.split('/').next())
        .filter(|version| !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()));
    let message = match version {
        Some("1") | None => format!(
            "no such route; there are POST /write, GET /read/{{key}} and POST {}",
            wire::CALL_PATH
        ),
        Some(version) => format!(
            "version {version} of the replica protocol is not spoken here, version 1 is: POST {}",
            wire::CALL_PATH
        ),
    };
    Problem::new(StatusCode::NOT_FOUND, message)
}
