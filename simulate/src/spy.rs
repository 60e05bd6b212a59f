//! Where the oracle watches: at each end of each link.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Bound;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::panicking;
use std::time::Duration;

use kvquorum_core::{
    Call, Change, Key, Record, Request, Response, ScanLimit, Store, StoreError, Told, Transport,
    TransportError,
};
use kvquorum_testing::sim::Random;
use tokio::time::sleep;

use crate::oracle::{Admitted, Answered, End, Shared};

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
        let _current = Current(CURRENT.replace(op));
        future.as_mut().poll(cx)
    })
    .await
}

/// What was current before: a store may panic meanwhile.
struct Current(Option<usize>);

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Watches the client's end of a link.
pub struct Spy<T> {
    pub inner: T,
    pub oracle: Shared,
    pub end: End,
}

struct Watch {
    oracle: Shared,
    call: Option<usize>,
}

impl Watch {
    fn answered(mut self, result: &Result<Response, TransportError>, at_once: bool) {
        if let Some(call) = self.call.take() {
            let answered = match result {
                Ok(response) => Answered::Response(response),
                Err(error) => Answered::Error {
                    may_have_applied: error.may_have_applied(),
                },
            };
            self.oracle.lock().call_answered(call, answered, at_once);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(call) = self.call else { return };
        let mut oracle = self.oracle.lock();
        if panicking() {
            oracle.call_answered(call, Answered::Panic, false);
        } else {
            oracle.call_dropped(call);
        }
    }
}

impl<T: Transport> Transport for Spy<T> {
    fn call(&self, request: &Request) -> Call {
        let call = self
            .oracle
            .lock()
            .call_started(self.end, request, current());
        let watch = Watch {
            oracle: self.oracle.clone(),
            call: Some(call),
        };
        match self.inner.call(request) {
            Call::Ready(result) => {
                watch.answered(&result, true);
                Call::Ready(result)
            }
            Call::Pending(calling) => {
                self.oracle.lock().call_waits(call);
                Call::new(async move {
                    let result = calling.await;
                    watch.answered(&result, false);
                    result
                })
            }
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}

/// Watches what a store answers, and has it fail now and then.
pub struct Watched<S> {
    pub store: S,
    pub oracle: Shared,
    pub replica: usize,
    pub faults: StoreFaults,
}

/// What goes wrong in a store, some of it before it has done what it was asked,
/// and some of it after.
pub struct StoreFaults {
    pub random: Mutex<Random>,
    pub rates: Arc<Rates>,
}

/// Each in a hundred.
#[derive(Default)]
pub struct Rates {
    pub errors: AtomicU32,
    pub panics: AtomicU32,
    /// How often it has to be waited for, if not for long.
    pub waits: AtomicU32,
    /// How often that takes time, so that other things happen meanwhile.
    pub dawdles: AtomicU32,
}

#[derive(Clone, Copy)]
struct Fault {
    panics: bool,
    before: bool,
}

impl Fault {
    fn strike(self) -> StoreError {
        if self.panics {
            // Past the hook, which counts the panics that are nobody's intention.
            resume_unwind(Box::new("the store panics"));
        }
        StoreError::new(io::Error::other("the disk failed"))
    }
}

impl<S> Watched<S> {
    fn draws(&self, rate: &AtomicU32) -> bool {
        let percent = rate.load(Ordering::Relaxed);
        percent > 0 && self.random(|random| random.percent(percent))
    }

    fn random<A>(&self, draw: impl FnOnce(&mut Random) -> A) -> A {
        let random = self.faults.random.lock();
        draw(&mut random.unwrap_or_else(PoisonError::into_inner))
    }

    fn waits(&self) -> bool {
        self.draws(&self.faults.rates.waits)
    }

    /// Lets time go by. The process may end meanwhile: nothing of it goes on then.
    async fn dawdle(&self, life: usize) -> Result<(), StoreError> {
        if self.draws(&self.faults.rates.dawdles) {
            let millis = self.random(|random| random.below(5));
            sleep(Duration::from_millis(millis)).await;
        }
        if self.life() == life {
            Ok(())
        } else {
            Err(StoreError::new("the process has ended"))
        }
    }

    fn life(&self) -> usize {
        self.oracle.lock().lives(self.replica)
    }

    fn fault(&self) -> Option<Fault> {
        let rates = &self.faults.rates;
        let panics = self.draws(&rates.panics);
        if !panics && !self.draws(&rates.errors) {
            return None;
        }
        let before = self.random(|random| random.percent(50));
        self.oracle.lock().store_fails(self.replica, panics, before);
        Some(Fault { panics, before })
    }

    fn admitted(&self, key: &Key, change: &Change) -> Admitted {
        let asked = change.asked();
        self.oracle.lock().admitted(self.replica, key, asked)
    }

    /// The replica learns in this moment what its store keeps of it.
    fn learns(&self, record: Option<&Record>) {
        self.oracle.lock().learns(self.replica, record);
    }

    /// And so it does from what a change of that came to.
    fn changed(&self, key: &Key, result: &Result<Response, StoreError>) {
        if let Ok(Response::Told(told)) = result
            && let Told::Marks(marks) = &**told
            && key.is_empty()
        {
            self.oracle.lock().in_force(self.replica, *marks);
        }
    }

    fn got(&self, key: &Key, got: &Result<Option<Record>, StoreError>) {
        if let Ok(record) = got {
            let mut oracle = self.oracle.lock();
            oracle.store_got(self.replica, key, record.as_ref());
        }
    }

    fn scanned(&self, range: (Bound<&Key>, Bound<&Key>), records: &[(Key, Record)]) {
        let mut oracle = self.oracle.lock();
        oracle.store_scanned(self.replica, range, records);
    }

    fn applied(
        &self,
        key: &Key,
        admitted: &Admitted,
        fault: Option<Fault>,
        result: Result<Response, StoreError>,
    ) -> Result<Response, StoreError> {
        if let Ok(response) = &result {
            let mut oracle = self.oracle.lock();
            if let Response::Told(told) = response
                && let Told::Marks(marks) = &**told
            {
                oracle.marked(self.replica, *marks);
            }
            oracle.store_applied(self.replica, key, admitted, response);
        }
        match fault {
            Some(fault) => Err(fault.strike()),
            None => result,
        }
    }
}

impl<S: Store> Store for Watched<S> {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        if let Some(fault) = self.fault() {
            return Err(fault.strike());
        }
        let life = self.life();
        self.dawdle(life).await?;
        let got = self.store.get(key).await;
        self.got(key, &got);
        self.dawdle(life).await?;
        if let (true, Ok(record)) = (key.is_empty(), &got) {
            self.learns(record.as_ref());
        }
        got
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let fault = self.fault();
        if let Some(fault) = fault.filter(|fault| fault.before) {
            return Err(fault.strike());
        }
        let life = self.life();
        let admitted = self.admitted(key, &change);
        self.dawdle(life).await?;
        let result = self.store.apply(key, change).await;
        let result = self.applied(key, &admitted, fault, result);
        self.dawdle(life).await?;
        self.changed(key, &result);
        result
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        if let Some(fault) = self.fault() {
            return Err(fault.strike());
        }
        let life = self.life();
        self.dawdle(life).await?;
        let records = self.store.scan(range, limit).await?;
        self.scanned(range, &records);
        self.dawdle(life).await?;
        Ok(records)
    }

    fn try_get(&self, key: &Key) -> Option<Result<Option<Record>, StoreError>> {
        if self.waits() {
            return None;
        }
        let got = self.store.try_get(key)?;
        if let Some(fault) = self.fault() {
            return Some(Err(fault.strike()));
        }
        self.got(key, &got);
        if let (true, Ok(record)) = (key.is_empty(), &got) {
            self.learns(record.as_ref());
        }
        Some(got)
    }

    fn try_apply<'a>(
        &self,
        key: &Key,
        change: Change<'a>,
    ) -> Result<Result<Response, StoreError>, Change<'a>> {
        if self.waits() {
            return Err(change);
        }
        let fault = self.fault();
        if let Some(fault) = fault.filter(|fault| fault.before) {
            return Ok(Err(fault.strike()));
        }
        let admitted = self.admitted(key, &change);
        let result = self.store.try_apply(key, change)?;
        let result = self.applied(key, &admitted, fault, result);
        self.changed(key, &result);
        Ok(result)
    }
}
