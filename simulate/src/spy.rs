//! Where the oracle watches: at each end of each link.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Bound;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kvquorum_core::{
    Entry, Key, Merged, Request, Response, Store, StoreError, Transport, TransportError,
};
use kvquorum_mem::sim::Random;

use crate::oracle::Shared;

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The operation whose caller is being polled, if it is a caller.
pub fn current() -> Option<usize> {
    CURRENT.get()
}

/// Marks all that a future does, when it is polled, as done for an operation:
/// so that the entry a put sends is told from one that repairs.
pub async fn on_behalf<F: Future>(op: Option<usize>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let before = CURRENT.replace(op);
        let polled = future.as_mut().poll(cx);
        CURRENT.set(before);
        polled
    })
    .await
}

/// Watches the client's end of a link.
pub struct Spy<T> {
    pub inner: T,
    pub oracle: Shared,
    pub coordinator: usize,
    pub replica: usize,
}

struct Watch<'a> {
    oracle: &'a Shared,
    call: Option<usize>,
}

impl Watch<'_> {
    fn answered(mut self, response: Option<&Response>) {
        if let Some(call) = self.call.take() {
            self.oracle.lock().call_answered(call, response);
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if let Some(call) = self.call {
            self.oracle.lock().call_dropped(call);
        }
    }
}

type Calling<'a> = Pin<Box<dyn Future<Output = Result<Response, TransportError>> + Send + 'a>>;

#[async_trait]
impl<T: Transport> Transport for Spy<T> {
    // Not an `async fn`: the call begins here, even if it is never polled.
    fn call<'life0, 'async_trait>(&'life0 self, request: Request) -> Calling<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let watch = Watch {
            oracle: &self.oracle,
            call: Some(self.started(&request)),
        };
        let calling = self.inner.call(request);
        Box::pin(async move {
            let result = calling.await;
            watch.answered(result.as_ref().ok());
            result
        })
    }

    fn call_now(&self, request: &Request) -> Option<Result<Response, TransportError>> {
        let call = self.started(request);
        let result = self.inner.call_now(request);
        let mut oracle = self.oracle.lock();
        match &result {
            Some(result) => oracle.call_answered_at_once(call, result.as_ref().ok()),
            None => oracle.call_not_made(call),
        }
        result
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}

impl<T> Spy<T> {
    fn started(&self, request: &Request) -> usize {
        let mut oracle = self.oracle.lock();
        oracle.call_started(self.coordinator, self.replica, request, current())
    }
}

/// Watches what a store answers, and has it fail now and then.
pub struct Watched<S> {
    pub store: S,
    pub oracle: Shared,
    pub replica: usize,
    pub failures: Failures,
}

/// A store's failures: some come before it has done what it was asked, and some
/// after.
pub struct Failures {
    pub random: Mutex<Random>,
    pub percent: Arc<AtomicU32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    Before,
    After,
}

impl<S: Store> Watched<S> {
    fn failure(&self) -> Option<Failure> {
        let percent = self.failures.percent.load(Ordering::Relaxed);
        let random = self.failures.random.lock();
        let mut random = random.unwrap_or_else(PoisonError::into_inner);
        if !random.percent(percent) {
            return None;
        }
        let before = random.percent(50);
        self.oracle.lock().store_failed(self.replica, before);
        Some(if before {
            Failure::Before
        } else {
            Failure::After
        })
    }

    fn got(&self, key: &Key, entry: Option<&Entry>) {
        self.oracle.lock().store_got(self.replica, key, entry);
    }

    fn merged(&self, key: &Key, entry: &Entry, merged: Merged) {
        let mut oracle = self.oracle.lock();
        oracle.store_merged(self.replica, key, entry, merged);
    }
}

fn broken() -> StoreError {
    StoreError::new(io::Error::other("the disk failed"))
}

impl<S: Store> Store for Watched<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        if self.failure().is_some() {
            return Err(broken());
        }
        let entry = self.store.get(key).await?;
        self.got(key, entry.as_ref());
        Ok(entry)
    }

    async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
        let failure = self.failure();
        if failure == Some(Failure::Before) {
            return Err(broken());
        }
        let merged = self.store.merge(key, entry.clone()).await?;
        self.merged(key, &entry, merged);
        match failure {
            Some(_) => Err(broken()),
            None => Ok(merged),
        }
    }

    fn get_now(&self, key: &Key) -> Option<Result<Option<Entry>, StoreError>> {
        let result = self.store.get_now(key)?;
        if self.failure().is_some() {
            return Some(Err(broken()));
        }
        if let Ok(entry) = &result {
            self.got(key, entry.as_ref());
        }
        Some(result)
    }

    fn merge_now(&self, key: &Key, entry: &Entry) -> Option<Result<Merged, StoreError>> {
        let failure = self.failure();
        if failure == Some(Failure::Before) {
            return Some(Err(broken()));
        }
        let result = self.store.merge_now(key, entry)?;
        if let Ok(merged) = &result {
            self.merged(key, entry, *merged);
        }
        match failure {
            Some(_) => Some(Err(broken())),
            None => Some(result),
        }
    }

    async fn scan(&self, from: Bound<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
        self.store.scan(from, limit).await
    }
}
