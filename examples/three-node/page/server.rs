//! The page's server: one page, its events, and what is done on it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::Sender;
use http_body_util::{BodyExt, Channel, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep, timeout};

use super::act::Act;
use super::events::event;
use super::scenes;
use super::stage::Stage;

const MAX_CONNECTIONS: usize = 64;
const MAX_BODY: usize = 64 * 1024;

/// How long a request's head may take, or its body.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a page is sent something at least, so that one that is gone is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The page has no asset from elsewhere, and nobody has it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

type Body = Either<Full<Bytes>, Channel<Bytes>>;

/// Serves for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, stage: Arc<Stage>) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let stage = Arc::clone(&stage);
                tokio::spawn(async move {
                    connection(stream, stage).await;
                    drop(place);
                });
            }
            // No descriptor is left, say.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, stage: Arc<Stage>) {
    let Ok(port) = stream.local_addr().map(|addr| addr.port()) else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let stage = Arc::clone(&stage);
        async move { Ok::<_, Infallible>(answer(request, port, &stage).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // A browser goes away as it likes.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, port: u16, stage: &Arc<Stage>) -> Response<Body> {
    if let Err(complaint) = check_origin(&request, port) {
        return text(StatusCode::FORBIDDEN, "text/plain", complaint);
    }
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => asset("text/html; charset=utf-8", include_str!("assets/page.html")),
        (&Method::GET, "/page.css") => {
            asset("text/css; charset=utf-8", include_str!("assets/page.css"))
        }
        (&Method::GET, "/page.js") => asset(
            "text/javascript; charset=utf-8",
            include_str!("assets/page.js"),
        ),
        (&Method::GET, "/state") => {
            let (all, _) = stage.events.subscribe();
            text(StatusCode::OK, "application/json", all)
        }
        (&Method::GET, "/events") => events(Arc::clone(stage)),
        (&Method::POST, "/act") => act(request, stage).await,
        _ => text(StatusCode::NOT_FOUND, "text/plain", "there is nothing here"),
    }
}

/// Only the page itself, and who is no browser, gets an answer: a page of another site
/// that is open in the same browser reaches this port too.
fn check_origin(request: &Request<Incoming>, port: u16) -> Result<(), &'static str> {
    let header = |name| request.headers().get(name).map(|value| value.as_bytes());
    let names = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{port}"));
    let host = header(HOST).unwrap_or_default();
    if !names.iter().any(|name| name.as_bytes() == host) {
        return Err("the Host header names another server");
    }
    if header(ORIGIN).is_some_and(|origin| origin != [b"http://", host].concat()) {
        return Err("the Origin header is that of another page");
    }
    match header(SITE) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err("the request comes from another site"),
    }
}

async fn act(request: Request<Incoming>, stage: &Arc<Stage>) -> Response<Body> {
    // No form of another page can send this.
    let is_json = |value: &HeaderValue| value == "application/json";
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        let complaint = "the body has to be application/json";
        return text(StatusCode::UNSUPPORTED_MEDIA_TYPE, "text/plain", complaint);
    }
    let body = Limited::new(request.into_body(), MAX_BODY).collect();
    let body = match timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        _ => {
            return text(
                StatusCode::BAD_REQUEST,
                "text/plain",
                "the body did not come",
            );
        }
    };
    let act: Act = match serde_json::from_slice(&body) {
        Ok(act) => act,
        Err(error) => return text(StatusCode::BAD_REQUEST, "text/plain", error.to_string()),
    };
    match stage.act(act).await {
        Ok(()) => text(StatusCode::OK, "application/json", "{\"status\":\"ok\"}"),
        Err(error) => text(StatusCode::CONFLICT, "text/plain", error),
    }
}

/// What there is, and then what comes, for as long as the page is there.
fn events(stage: Arc<Stage>) -> Response<Body> {
    let (sender, channel) = Channel::new(8);
    tokio::spawn(tell(sender, stage));
    let mut response = response("text/event-stream", Either::Right(channel));
    let value = HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, value);
    response
}

async fn tell(mut page: Sender<Bytes>, stage: Arc<Stage>) {
    loop {
        let (all, mut further) = stage.events.subscribe();
        let hello = format!("{{\"all\":{all},\"scenes\":{}}}", scenes::list());
        let mut text = event("hello", &hello).to_string();
        loop {
            if page.send_data(text.into()).await.is_err() {
                return;
            }
            text = match timeout(HEARTBEAT, further.recv()).await {
                Ok(Ok(event)) => event.to_string(),
                // It is too far behind, and begins anew.
                Ok(Err(RecvError::Lagged(_))) => break,
                Ok(Err(RecvError::Closed)) => return,
                Err(_) => ": still there\n\n".to_owned(),
            };
            // What has come meanwhile goes along.
            while text.len() < MAX_BODY
                && let Ok(event) = further.try_recv()
            {
                text.push_str(&event);
            }
        }
    }
}

fn asset(content_type: &'static str, text: &'static str) -> Response<Body> {
    self::text(StatusCode::OK, content_type, text)
}

fn text(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = response(content_type, Either::Left(Full::new(text.into())));
    *response.status_mut() = status;
    response
}

fn response(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}
