//! Who is let in: holders of a secret, and no web page.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode};

use super::problem::Problem;
use super::route::Route;
use crate::token::Tokens;

/// By which a browser says for whom it sends a request.
const FETCH_SITE: &str = "sec-fetch-site";

/// Who may send what.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) read: Admission,
    pub(super) write: Admission,
    pub(super) call: Admission,
    /// The application's routes, but for those that are public.
    pub(super) further: Admission,
    /// Names of this server, beside its IP addresses.
    pub(super) hosts: Vec<String>,
    /// Web pages of other servers that may send what they like.
    pub(super) origins: Vec<String>,
}

/// Who may use a route.
#[derive(Clone, Debug)]
pub(super) enum Admission {
    Anyone,
    Holders(Tokens),
    /// The route is switched off.
    Nobody,
}

impl Access {
    pub(super) fn open() -> Self {
        Self {
            read: Admission::Anyone,
            write: Admission::Anyone,
            call: Admission::Anyone,
            further: Admission::Anyone,
            hosts: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// Refuses what must not come in. The body has not been looked at.
    pub(super) fn check<B>(&self, route: &Route<'_>, request: &Request<B>) -> Result<(), Problem> {
        let admission = match route {
            Route::Call => &self.call,
            Route::Write => &self.write,
            Route::Read => &self.read,
            Route::Further(route) if route.is_public => &Admission::Anyone,
            Route::Further(_) => &self.further,
        };
        self.check_page(request)?;
        match admission {
            // No page knows the secret, whatever name it was led here by.
            Admission::Holders(tokens) => check_token(tokens, request),
            Admission::Anyone => self.check_host(route, request),
            Admission::Nobody => Err(Problem::new(
                StatusCode::NOT_FOUND,
                "this route is switched off here",
            )),
        }
    }

    /// Refuses what a browser sends for a page of another server.
    fn check_page<B>(&self, request: &Request<B>) -> Result<(), Problem> {
        if !is_from_browser(request) {
            return Ok(());
        }
        let origins = || request.headers().get_all(ORIGIN).iter();
        let mut sites = request.headers().get_all(FETCH_SITE).iter();
        let is_own_page = sites.all(|site| site == "same-origin" || site == "none")
            && origins().all(|origin| is_own_origin(origin, request));
        let is_allowed = || {
            let known = |origin: &HeaderValue| {
                let mut allowed = self.origins.iter();
                allowed.any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin.as_bytes()))
            };
            origins().next().is_some() && origins().all(known)
        };
        if is_own_page || is_allowed() {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "a browser sends this for a page of another server, which is not allowed to",
        ))
    }

    /// Refuses what comes by a name that is none of this server's: somebody may
    /// have given it this server's address, to be taken for it by a browser.
    fn check_host<B>(&self, route: &Route<'_>, request: &Request<B>) -> Result<(), Problem> {
        // A page cannot send what coordinators do without an origin.
        if matches!(route, Route::Call) && !is_from_browser(request) {
            return Ok(());
        }
        if hosts(request).all(|host| host.is_some_and(|host| self.is_own_name(&host))) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            "this server does not know itself by the name in the Host header: use its IP address, \
             or have the name allowed",
        ))
    }

    fn is_own_name(&self, host: &Authority) -> bool {
        let name = host.host();
        let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let mut names = self.hosts.iter().map(String::as_str).chain(["localhost"]);
        address.unwrap_or(name).parse::<IpAddr>().is_ok()
            || names.any(|own| own.eq_ignore_ascii_case(name))
    }
}

impl Admission {
    /// Asks for one of these secrets, unless nobody is let in at all.
    pub(super) fn require(&mut self, tokens: &Tokens) {
        if !matches!(self, Self::Nobody) {
            *self = Self::Holders(tokens.clone());
        }
    }
}

fn check_token<B>(tokens: &Tokens, request: &Request<B>) -> Result<(), Problem> {
    match request.headers().get(AUTHORIZATION) {
        Some(header) if tokens.admit(header) => Ok(()),
        Some(_) => Err(Problem::unauthorized(
            "the token is not one that is valid here",
        )),
        None => Err(Problem::unauthorized(
            "a token is needed here: Authorization: Bearer, and the token",
        )),
    }
}

/// Whether a browser may send this. All of them send an origin with a `POST`.
fn is_from_browser<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    headers.contains_key(ORIGIN) || headers.contains_key(FETCH_SITE)
}

/// Whether a page comes from the server that is meant, by whatever scheme.
fn is_own_origin<B>(origin: &HeaderValue, request: &Request<B>) -> bool {
    let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
    origin.is_some_and(|(_, authority)| hosts(request).flatten().any(|host| host == authority))
}

/// The server that is meant, wherever the request says it. `None` for what
/// cannot be the name of any.
fn hosts<B>(request: &Request<B>) -> impl Iterator<Item = Option<Authority>> {
    let target = request.uri().authority().cloned().map(Some);
    let headers = request.headers().get_all(HOST).iter();
    target
        .into_iter()
        .chain(headers.map(|host| Authority::try_from(host.as_bytes()).ok()))
}
