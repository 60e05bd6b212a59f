//! Where a request goes.

use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode};

use super::further::{FurtherRoute, FurtherRoutes};
use super::problem::Problem;
use super::request_line::HadFragment;
use crate::telemetry::RouteName;
use crate::wire;

/// What the path of a read begins with.
pub(super) const READ: &str = "/read/";

/// Where a request goes.
pub(super) enum Route<'a> {
    Call,
    Write,
    Read,
    /// Of the application.
    Further(&'a FurtherRoute),
}

impl<'a> Route<'a> {
    pub(super) fn name(&self) -> RouteName {
        match self {
            Self::Call => RouteName::Call,
            Self::Write => RouteName::Write,
            Self::Read => RouteName::Read,
            Self::Further(_) => RouteName::Other,
        }
    }

    pub(super) fn of<B>(request: &Request<B>, further: &'a FurtherRoutes) -> Result<Self, Problem> {
        match request.uri().path() {
            wire::CALL_PATH => Ok(Self::Call),
            "/write" => Ok(Self::Write),
            path if path.starts_with(READ) => Ok(Self::Read),
            path => match further.find(path) {
                Some(route) => Ok(Self::Further(route)),
                None => Err(no_route(path)),
            },
        }
    }

    /// Refuses a request that this route does not take.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        let method = match self {
            Self::Call | Self::Write => "POST",
            Self::Read | Self::Further(_) => "GET",
        };
        allow(request, method)?;
        if matches!(self, Self::Further(_)) {
            return Ok(());
        }
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
        let content_type = request.headers().get(CONTENT_TYPE);
        if matches!(self, Self::Call) && content_type.is_none_or(|it| it != wire::CONTENT_TYPE) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                format!("the content type of a call is {}", wire::CONTENT_TYPE),
            ));
        }
        Ok(())
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
        Some("2") | None => format!(
            "no such route; there are POST /write, GET /read/{{key}} and POST {}",
            wire::CALL_PATH
        ),
        Some(version) => format!(
            "version {version} of the replica protocol is not spoken here, version 2 is: POST {}",
            wire::CALL_PATH
        ),
    };
    Problem::new(StatusCode::NOT_FOUND, message)
}
