//! The settings of a service.

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{Limits, Replica, Store};

use super::{Inner, ReplicaService, Settings};
use crate::server::access::{Access, Admission};
use crate::server::budget::Budget;
use crate::server::further::FurtherRoutes;
use crate::telemetry::ServerCounts;
use crate::time::within_reason;
use crate::token::Tokens;

/// Settings of a [`ReplicaService`].
#[must_use]
pub struct ReplicaServiceBuilder<S> {
    replica: Replica<S>,
    settings: Settings,
    pub(in crate::server) further: FurtherRoutes,
}

impl<S: Store> ReplicaServiceBuilder<S> {
    pub(super) fn new(replica: Replica<S>) -> Self {
        Self {
            settings: Settings {
                access: Access::open(),
                max_body_len: longest_body(replica.limits()),
                max_total_body_len: None,
                max_total_answer_len: None,
                max_batch: 1024,
                body_timeout: Duration::from_secs(10),
                store_timeout: Duration::from_secs(30),
            },
            replica,
            further: FurtherRoutes::default(),
        }
    }

    /// The secrets of which every request must have one. By default none is
    /// asked for. What has none, or a wrong one, is answered with 401, before
    /// its body is read; only an unknown route, one that is switched off, and a page
    /// of another server are refused before that.
    ///
    /// It stands for all that follow. Of settings for the same route the last holds.
    pub fn tokens(self, tokens: &Tokens) -> Self {
        self.read_tokens(tokens)
            .write_tokens(tokens)
            .replica_tokens(tokens)
    }

    /// The secrets for reading on the plain face, and for [routes](Self::route) of
    /// the application.
    pub fn read_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.read.require(tokens);
        self.route_tokens(tokens)
    }

    /// The secrets for [routes](Self::route) of the application alone, as for a
    /// Prometheus server that is to read no value. It is called after
    /// [`read_tokens`](Self::read_tokens) and [`tokens`](Self::tokens), which set them
    /// too.
    pub fn route_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.further.require(tokens);
        self
    }

    /// The secrets for writing on the plain face.
    pub fn write_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.write.require(tokens);
        self
    }

    /// The secrets for the replica face, and so for coordinators, which
    /// [send](crate::HttpTransportBuilder::tokens) the first of theirs.
    pub fn replica_tokens(mut self, tokens: &Tokens) -> Self {
        self.settings.access.call.require(tokens);
        self
    }

    /// Switches the plain face off: its routes are answered with 404.
    pub fn without_plain_face(mut self) -> Self {
        self.settings.access.read = Admission::Nobody;
        self.settings.access.write = Admission::Nobody;
        self
    }

    /// Switches the replica face off: its route is answered with 404.
    pub fn without_replica_face(mut self) -> Self {
        self.settings.access.call = Admission::Nobody;
        self
    }

    /// A name, without a port, by which the plain face and the application's routes may
    /// be asked where they need no token, at any port. With a port it allows nothing. By default that
    /// is an IP address or `localhost`; what comes by another `Host` is answered
    /// with 421. May be called again, for further names.
    ///
    /// This is for browsers. A web page can have its own server's name lead
    /// here, and then a browser takes the two for one (DNS rebinding). Coordinators
    /// may use any name: what they send is not what a browser sends, unless it
    /// names its page's server as well.
    pub fn allow_host(mut self, name: impl Into<String>) -> Self {
        self.settings.access.hosts.push(name.into());
        self
    }

    /// A server, such as `https://tea.example`, whose pages' requests are taken.
    /// Those of others are answered with 403: where a browser names another
    /// `Origin` than the `Host`, or a `Sec-Fetch-Site` other than `same-origin`
    /// and `none`. May be called again, for further servers.
    ///
    /// It is compared with what a browser sends: the scheme, the name, and the port
    /// unless that is the scheme's own, without a slash at the end. Written otherwise
    /// it allows nothing.
    ///
    /// It is for a proxy that sends what it gets under another `Host`. For
    /// browsers to let a page of another server read answers, the application has
    /// to add the headers of CORS, around this service.
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.settings.access.origins.push(origin.into());
        self
    }

    /// The longest body that is read, in bytes; a longer one is answered with
    /// 413. By default it follows from the replica's limits: the largest value
    /// it admits, its longest key with every byte written as `\u0000`, and
    /// 4 KiB for the rest; and it is at least 1 MiB, for
    /// [batches](crate::HttpTransportBuilder::max_batch_bytes).
    pub fn max_body_len(mut self, max: usize) -> Self {
        self.settings.max_body_len = max;
        self
    }

    /// How many bytes the bodies under way may have together, from when they
    /// are begun to be read until their requests are done. 64 MiB by default,
    /// or sixteen of the [longest](Self::max_body_len) where that is more, and
    /// at most 4 GiB. Where it is less than the longest body, one such body has
    /// all of it.
    ///
    /// A body that is longer than 64 KiB, or of unknown length, waits until
    /// there is room for it. Where there is none within the
    /// [time limit](Self::body_timeout), it is answered with 503. So is a body
    /// that has been arriving for longer than a second while others wait, the
    /// oldest first. A batch whose answers a client of a
    /// [`Server`](crate::Server) has left unread for as long, so that the rest of
    /// its requests cannot begin, has its connection closed. Shorter bodies are
    /// not counted: each connection has at most one.
    pub fn max_total_body_len(mut self, max: usize) -> Self {
        self.settings.max_total_body_len = Some(max);
        self
    }

    /// How many bytes of answers may wait together for their clients to read
    /// them. 64 MiB by default, or sixteen of the [longest](Self::max_body_len)
    /// bodies where that is more, and at most 4 GiB.
    ///
    /// A value that does not fit is not sent: its read is answered as a failure
    /// of the store, or with 503 on the plain face. Then the client that has
    /// kept a [`Server`](crate::Server) waiting for longest, and for longer
    /// than a second, has its connection closed. Up to 128 KiB for each
    /// connection are not counted.
    pub fn max_total_answer_len(mut self, max: usize) -> Self {
        self.settings.max_total_answer_len = Some(max);
        self
    }

    /// How many requests of a coordinator are taken in one exchange; more are
    /// answered with 413. 1024 by default, and at least 1.
    pub fn max_batch(mut self, max: usize) -> Self {
        self.settings.max_batch = max.max(1);
        self
    }

    /// How long a body may take to arrive; a slower one is answered with 408.
    /// 10 seconds by default. A body waits as long at most for
    /// [memory](Self::max_total_body_len) before it is read.
    pub fn body_timeout(mut self, timeout: Duration) -> Self {
        self.settings.body_timeout = within_reason(timeout);
        self
    }

    /// How long the store may take for each request; a slower one is answered
    /// for, with 500 on the plain face, and its future dropped. 30 seconds by
    /// default. It keeps a store that hangs from holding connections forever;
    /// the coordinator's time limit is shorter.
    pub fn store_timeout(mut self, timeout: Duration) -> Self {
        self.settings.store_timeout = within_reason(timeout);
        self
    }

    /// The service.
    pub fn build(self) -> ReplicaService<S> {
        const TOTAL: usize = 64 * 1024 * 1024;
        let Self {
            replica,
            settings,
            further,
        } = self;
        let total = settings.max_body_len.saturating_mul(16).max(TOTAL);
        ReplicaService(Arc::new(Inner {
            replica,
            bodies: Arc::new(Budget::new(settings.max_total_body_len.unwrap_or(total))),
            answers: Arc::new(Budget::new(settings.max_total_answer_len.unwrap_or(total))),
            counts: ServerCounts::new(),
            further,
            settings,
        }))
    }
}

/// What a body needs at most to carry what the replica admits, on either face,
/// or a batch.
fn longest_body(limits: &Limits) -> usize {
    const ESCAPED: usize = r"\u0000".len();
    const FRAMING: usize = 4 * 1024;
    const BATCH: usize = 1024 * 1024;
    limits
        .max_value_len
        .saturating_add(limits.max_key_len.saturating_mul(ESCAPED))
        .saturating_add(FRAMING)
        .max(BATCH)
}

impl<S> std::fmt::Debug for ReplicaServiceBuilder<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaServiceBuilder")
            .field("replica", &self.replica)
            .field("settings", &self.settings)
            .finish()
    }
}
