//! With the feature `metrics`. The table in docs/OPERATING.md names all of it.

#[cfg(feature = "tls")]
mod certificates;

use std::sync::Arc;
use std::time::Instant;

#[cfg(feature = "tls")]
pub(crate) use certificates::{CertificateExpiry, Expiry};
use hyper::StatusCode;
use kvquorum_core::{Refusal, Response, is_sampled};
use metrics::{Counter, Gauge, Histogram, Unit};
use metrics::{counter, gauge, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram};

use super::RouteName;
use crate::wire::Reply;

const CLIENT_CONNECTIONS: &str = "kvquorum_http_client_connections_total";
const CLIENT_EXCHANGES: &str = "kvquorum_http_client_exchanges_total";
const CLIENT_CALLS: &str = "kvquorum_http_client_calls_total";
const CLIENT_SENT_AGAIN: &str = "kvquorum_http_client_retries_total";
const CLIENT_QUEUE: &str = "kvquorum_http_client_queued_calls";
const CLIENT_BREAKER: &str = "kvquorum_http_client_breaker_openings_total";
const CONNECTIONS: &str = "kvquorum_http_server_connections";
const ACCEPTED: &str = "kvquorum_http_server_connections_total";
const REQUEST_DURATION: &str = "kvquorum_http_server_request_duration_seconds";
const CALLS: &str = "kvquorum_http_server_calls_total";
const REFUSED: &str = "kvquorum_http_server_refused_total";
const STORE_FAILURES: &str = "kvquorum_http_server_store_failures_total";

/// Of one transport.
pub(crate) struct ClientCounts {
    connected: Counter,
    not_connected: Counter,
    answered: Counter,
    failed: Counter,
    calls: Counter,
    sent_again: Counter,
    queue: Gauge,
    breaker_opened: Counter,
}

impl ClientCounts {
    pub(crate) fn new(replica: &str) -> Self {
        describe_client();
        let by_name = |metric| counter!(metric, "replica" => replica.to_owned());
        let by = |metric, outcome| counter!(metric, "replica" => replica.to_owned(), "outcome" => outcome);
        Self {
            connected: by(CLIENT_CONNECTIONS, "opened"),
            not_connected: by(CLIENT_CONNECTIONS, "failed"),
            answered: by(CLIENT_EXCHANGES, "answered"),
            failed: by(CLIENT_EXCHANGES, "failed"),
            calls: by_name(CLIENT_CALLS),
            sent_again: by_name(CLIENT_SENT_AGAIN),
            queue: gauge!(CLIENT_QUEUE, "replica" => replica.to_owned()),
            breaker_opened: by_name(CLIENT_BREAKER),
        }
    }

    pub(crate) fn connected(&self, is_open: bool) {
        let outcome = match is_open {
            true => &self.connected,
            false => &self.not_connected,
        };
        outcome.increment(1);
    }

    pub(crate) fn exchange_begins(&self, calls: usize) {
        self.calls.increment(as_count(calls));
    }

    /// Whether an answer began.
    pub(crate) fn exchange_begun(&self, is_answered: bool) {
        let outcome = match is_answered {
            true => &self.answered,
            false => &self.failed,
        };
        outcome.increment(1);
    }

    pub(crate) fn sent_again(&self) {
        self.sent_again.increment(1);
    }

    pub(crate) fn queued(&self, calls: usize) {
        self.queue.increment(as_value(calls));
    }

    pub(crate) fn unqueued(&self, calls: usize) {
        self.queue.decrement(as_value(calls));
    }

    pub(crate) fn breaker_opened(&self) {
        self.breaker_opened.increment(1);
    }
}

fn as_count(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// It is exact far beyond any bound.
#[allow(clippy::cast_precision_loss)]
fn as_value(count: usize) -> f64 {
    count as f64
}

/// Of one replica's service, whatever servers it has.
#[derive(Clone)]
pub(crate) struct ServerCounts(Arc<Server>);

struct Server {
    connections: Gauge,
    accepted: Counter,
    not_accepted: Counter,
    durations: [Histogram; ROUTES.len()],
    calls: Counter,
    refused: [(StatusCode, Counter); STATUSES.len()],
    connection_refused: Counter,
    empty_key: Counter,
    key_too_long: Counter,
    value_too_large: Counter,
    too_far_ahead: Counter,
    other_replica: Counter,
    promised: Counter,
    superseded: Counter,
    stale: Counter,
    joining: Counter,
    not_joining: Counter,
    era_too_far_ahead: Counter,
    before: Counter,
    not_sealed: Counter,
    store_failures: Counter,
}

const ROUTES: [(RouteName, &str); 4] = [
    (RouteName::Call, "call"),
    (RouteName::Write, "write"),
    (RouteName::Read, "read"),
    (RouteName::Other, "other"),
];

/// Those that a server refuses a request with.
const STATUSES: [(StatusCode, &str); 12] = [
    (StatusCode::BAD_REQUEST, "bad_request"),
    (StatusCode::UNAUTHORIZED, "unauthorized"),
    (StatusCode::FORBIDDEN, "forbidden"),
    (StatusCode::NOT_FOUND, "no_route"),
    (StatusCode::METHOD_NOT_ALLOWED, "method"),
    (StatusCode::REQUEST_TIMEOUT, "too_slow"),
    (StatusCode::CONFLICT, "conflict"),
    (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
    (StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type"),
    (StatusCode::MISDIRECTED_REQUEST, "misdirected"),
    (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable"),
    (StatusCode::SERVICE_UNAVAILABLE, "no_memory"),
];

impl ServerCounts {
    pub(crate) fn new() -> Self {
        describe_server();
        let refused = |reason| counter!(REFUSED, "reason" => reason);
        Self(Arc::new(Server {
            connections: gauge!(CONNECTIONS),
            accepted: counter!(ACCEPTED, "outcome" => "accepted"),
            not_accepted: counter!(ACCEPTED, "outcome" => "failed"),
            durations: ROUTES.map(|(_, route)| histogram!(REQUEST_DURATION, "route" => route)),
            calls: counter!(CALLS),
            refused: STATUSES.map(|(status, reason)| (status, refused(reason))),
            connection_refused: refused("handshake"),
            empty_key: refused("empty_key"),
            key_too_long: refused("key_too_long"),
            value_too_large: refused("value_too_large"),
            too_far_ahead: refused("too_far_ahead"),
            other_replica: refused("other_replica"),
            promised: refused("promised"),
            superseded: refused("superseded"),
            stale: refused("stale"),
            joining: refused("joining"),
            not_joining: refused("not_joining"),
            era_too_far_ahead: refused("era_too_far_ahead"),
            before: refused("before"),
            not_sealed: refused("not_sealed"),
            store_failures: counter!(STORE_FAILURES),
        }))
    }

    /// A connection was accepted, and is open for as long as the count is held.
    pub(crate) fn accepted(&self) -> ConnectionCount {
        self.0.accepted.increment(1);
        self.0.connections.increment(1);
        ConnectionCount(self.0.connections.clone())
    }

    /// A connection that was accepted is not served.
    pub(crate) fn connection_refused(&self) {
        self.0.connection_refused.increment(1);
    }

    pub(crate) fn not_accepted(&self) {
        self.0.not_accepted.increment(1);
    }

    pub(crate) fn answered(&self, route: RouteName, began: Stopwatch) {
        if let Some(began) = began.0
            && let Some(duration) = self.0.durations.get(route as usize)
        {
            duration.record(began.elapsed());
        }
    }

    pub(crate) fn refused(&self, status: StatusCode) {
        if let Some((_, reason)) = self.0.refused.iter().find(|(it, _)| *it == status) {
            reason.increment(1);
        }
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            self.0.store_failures.increment(1);
        }
    }

    /// A request of the plain face came to a replica that is joining.
    pub(crate) fn joining(&self) {
        self.0.joining.increment(1);
    }

    pub(crate) fn batch(&self, calls: usize) {
        self.0.calls.increment(as_count(calls));
    }

    /// What a request of a batch came to.
    pub(crate) fn reply(&self, reply: &Reply) {
        match reply {
            Reply::Answered(Response::Refused(refusal)) => {
                let reason = match refusal {
                    Refusal::EmptyKey => &self.0.empty_key,
                    Refusal::KeyTooLong { .. } => &self.0.key_too_long,
                    Refusal::ValueTooLarge { .. } => &self.0.value_too_large,
                    Refusal::TooFarAhead { .. } => &self.0.too_far_ahead,
                    Refusal::OtherReplica { .. } => &self.0.other_replica,
                    Refusal::Promised { .. } => &self.0.promised,
                    Refusal::Superseded { .. } => &self.0.superseded,
                    Refusal::Stale { .. } => &self.0.stale,
                    Refusal::Joining { .. } => &self.0.joining,
                    Refusal::NotJoining => &self.0.not_joining,
                    Refusal::EraTooFarAhead { .. } => &self.0.era_too_far_ahead,
                    Refusal::Before { .. } => &self.0.before,
                    Refusal::NotSealed => &self.0.not_sealed,
                    _ => return,
                };
                reason.increment(1);
            }
            Reply::StoreFailed(_) => self.0.store_failures.increment(1),
            _ => {}
        }
    }
}

pub(crate) struct ConnectionCount(Gauge);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Option<Instant>);

impl Stopwatch {
    /// One that runs, where this is one of those that are timed.
    pub(crate) fn sampled() -> Self {
        Self(is_sampled().then(Instant::now))
    }
}

fn describe_client() {
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    count(
        CLIENT_CONNECTIONS,
        "Connections to a replica that were tried",
    );
    count(CLIENT_EXCHANGES, "Exchanges with a replica");
    count(CLIENT_CALLS, "Calls that were sent, each in an exchange");
    count(
        CLIENT_SENT_AGAIN,
        "Requests that were sent a second time, over a new connection",
    );
    describe_gauge!(CLIENT_QUEUE, Unit::Count, "Calls that wait to be sent");
    count(
        CLIENT_BREAKER,
        "Times that a replica was taken for one that does not answer",
    );
}

fn describe_server() {
    let count = |name, text| describe_counter!(name, Unit::Count, text);
    describe_gauge!(CONNECTIONS, Unit::Count, "Connections that are open");
    count(ACCEPTED, "Connections that were accepted, or could not be");
    describe_histogram!(
        REQUEST_DURATION,
        Unit::Seconds,
        "From where a request's head was read to where its answer began, of one in eight"
    );
    count(CALLS, "Calls that came, each in an exchange");
    count(REFUSED, "Requests and calls that were refused");
    count(
        STORE_FAILURES,
        "Requests and calls that the store failed at",
    );
}
