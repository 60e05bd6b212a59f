//! The node side: the one door to a store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::clock::{DEFAULT_MAX_DRIFT, SystemClock, WallClock, whole_millis};
use crate::entry::{Entry, Key, Timestamp};
use crate::store::{Store, StoreError};
use crate::transport::{Refusal, Request, Response, Transport, TransportError};

/// What a replica admits. Whatever is beyond is refused with a typed
/// [`Refusal`], and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest key, in bytes. 1 KiB by default. The empty key is never
    /// admitted.
    pub max_key_len: usize,
    /// The largest value, in bytes. 1 MiB by default.
    pub max_value_len: usize,
    /// How far ahead of the replica's own clock an entry may be stamped (rule
    /// C-DRIFT). [`DEFAULT_MAX_DRIFT`], one minute, by default.
    pub max_drift: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_key_len: 1024,
            max_value_len: 1024 * 1024,
            max_drift: DEFAULT_MAX_DRIFT,
        }
    }
}

impl Limits {
    /// Sets the longest key, in bytes.
    #[must_use]
    pub fn with_max_key_len(mut self, max: usize) -> Self {
        self.max_key_len = max;
        self
    }

    /// Sets the largest value, in bytes.
    #[must_use]
    pub fn with_max_value_len(mut self, max: usize) -> Self {
        self.max_value_len = max;
        self
    }

    /// Sets how far ahead of the replica's own clock an entry may be stamped.
    #[must_use]
    pub fn with_max_drift(mut self, max: Duration) -> Self {
        self.max_drift = max;
        self
    }
}

/// The node side of the map: admits requests and merges them into its store.
///
/// It is itself a [`Transport`], so that an application which hosts its own
/// copy hands `Arc<Replica<_>>` to a coordinator beside links to remote
/// replicas: the call is then just a function call.
pub struct Replica<S> {
    store: S,
    limits: Limits,
    wall: Arc<dyn WallClock>,
    name: String,
}

impl<S: Store> Replica<S> {
    /// A replica over a store, with the default [`Limits`] and the system's
    /// clock, named `"local"`. Where one process has several, give them
    /// [names](Self::with_name) to be told apart by.
    pub fn new(store: S) -> Self {
        Self {
            store,
            limits: Limits::default(),
            wall: Arc::new(SystemClock),
            name: "local".to_owned(),
        }
    }

    /// Sets what the replica admits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the clock that entries are held against (rule C-DRIFT).
    #[must_use]
    pub fn with_wall_clock(mut self, wall: impl WallClock) -> Self {
        self.wall = Arc::new(wall);
        self
    }

    /// Sets the name that a coordinator in this process reports it by.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The store behind the door. What is merged there directly passes no
    /// check.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// What this replica admits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Answers a request.
    ///
    /// # Errors
    ///
    /// Where the store failed. A refusal is a response, not an error.
    pub async fn handle(&self, request: Request) -> Result<Response, StoreError> {
        if let Err(refusal) = self.admit(&request) {
            return Ok(Response::Refused(refusal));
        }
        match request {
            Request::Get { key } => self.store.get(&key).await.map(Response::Entry),
            Request::Merge { key, entry } => {
                self.store.merge(&key, entry).await.map(Response::Merged)
            }
        }
    }

    /// Answers a request that need not wait, or returns `None` and has done
    /// nothing: see [`Transport::call_now`].
    ///
    /// # Errors
    ///
    /// As [`handle`](Self::handle).
    pub fn handle_now(&self, request: &Request) -> Option<Result<Response, StoreError>> {
        if let Err(refusal) = self.admit(request) {
            return Some(Ok(Response::Refused(refusal)));
        }
        Some(match request {
            Request::Get { key } => self.store.get_now(key)?.map(Response::Entry),
            Request::Merge { key, entry } => {
                self.store.merge_now(key, entry)?.map(Response::Merged)
            }
        })
    }

    fn admit(&self, request: &Request) -> Result<(), Refusal> {
        match request {
            Request::Get { key } => self.admit_key(key),
            Request::Merge { key, entry } => {
                self.admit_key(key)?;
                self.admit_value(entry)?;
                self.admit_timestamp(entry.version.timestamp)
            }
        }
    }

    fn admit_key(&self, key: &Key) -> Result<(), Refusal> {
        if key.is_empty() {
            return Err(Refusal::EmptyKey);
        }
        if key.len() > self.limits.max_key_len {
            return Err(Refusal::KeyTooLong {
                len: key.len() as u64,
                max: self.limits.max_key_len as u64,
            });
        }
        Ok(())
    }

    fn admit_value(&self, entry: &Entry) -> Result<(), Refusal> {
        let len = entry.value.as_ref().map_or(0, |value| value.len());
        if len > self.limits.max_value_len {
            return Err(Refusal::ValueTooLarge {
                len: len as u64,
                max: self.limits.max_value_len as u64,
            });
        }
        Ok(())
    }

    fn admit_timestamp(&self, timestamp: Timestamp) -> Result<(), Refusal> {
        let max_drift_millis = whole_millis(self.limits.max_drift);
        let is_admitted_at = |now: u64| timestamp.millis() <= now.saturating_add(max_drift_millis);
        // What was admitted a moment ago is admitted now.
        if is_admitted_at(self.wall.lately_millis()) {
            return Ok(());
        }
        let now_millis = self.wall.now_millis();
        if is_admitted_at(now_millis) {
            return Ok(());
        }
        Err(Refusal::TooFarAhead {
            timestamp,
            now_millis,
            max_drift_millis,
        })
    }
}

#[async_trait]
impl<S: Store> Transport for Replica<S> {
    async fn call(&self, request: Request) -> Result<Response, TransportError> {
        self.handle(request).await.map_err(TransportError::Store)
    }

    fn call_now(&self, request: &Request) -> Option<Result<Response, TransportError>> {
        let result = self.handle_now(request)?;
        Some(result.map_err(TransportError::Store))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl<S> std::fmt::Debug for Replica<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("name", &self.name)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
