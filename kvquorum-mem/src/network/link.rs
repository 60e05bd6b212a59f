//! Links: transports with faults.

use std::fmt;
use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use kvquorum_core::{Call, Request, Response, Store, Transport};
use rand_xoshiro::Xoshiro256PlusPlus as Random;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::faults::{Draw, Faults, Latency};
use super::{Answer, Network, Node};
use crate::store::MemStore;

struct Inner {
    faults: Faults,
    random: Random,
}

/// A link to a [`Node`]: a [`Transport`] with faults, each set and healed at
/// any time.
///
/// A fault counts for messages that are sent while it is set, be it a request
/// or, later, its response; a message under way is past it. Faults add up.
/// While none is set, a call is a function call: it takes no lock and no timer.
///
/// # What the caller sees
///
/// - A lost message, either way: nothing, for ever, as over a real network.
///   The call ends when the caller's time limit drops it.
/// - A node that is down: [`NotSent`](kvquorum_core::TransportError::NotSent), once the
///   refusal has come over the link: at once, where there is no latency.
/// - A node that crashes meanwhile: [`NoAnswer`](kvquorum_core::TransportError::NoAnswer).
///
/// # Dropped calls
///
/// A request is sent when the call is first polled; over a sound link to a
/// replica that answers at once, when the call is made. One that was sent still
/// arrives after its caller has dropped the call, on time, carried by a task
/// of the runtime; see [`Network::with_max_strays`]. While its caller is there,
/// a message moves only when the call is polled.
///
/// Cheap to clone; clones are the same link, with the same faults.
pub struct Link<S = MemStore>(Arc<LinkState<S>>);

impl<S> Clone for Link<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct LinkState<S> {
    node: Node<S>,
    /// Whether any fault is set: all that a call over a sound link looks at.
    faulty: AtomicBool,
    inner: Mutex<Inner>,
    /// Counts how often the link began to hang and ceased to: odd while it
    /// hangs.
    hangs: AtomicU64,
    /// Wakes those that are held up in the order in which they came: tokio's
    /// `watch` wakes them in a random one.
    released: Notify,
}

impl<S: Store> Link<S> {
    pub(super) fn new(node: Node<S>) -> Self {
        let random = node.network().next_stream();
        Self(Arc::new(LinkState {
            node,
            faulty: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                faults: Faults::default(),
                random,
            }),
            hangs: AtomicU64::new(0),
            released: Notify::new(),
        }))
    }

    /// The node that this link leads to.
    pub fn node(&self) -> &Node<S> {
        &self.0.node
    }

    /// Delays each message, request and response alike.
    pub fn set_latency(&self, latency: impl Into<Latency>) {
        let latency = latency.into();
        self.set(|faults| {
            faults.request.latency = latency;
            faults.response.latency = latency;
        });
    }

    /// Delays each request, and leaves responses as they are.
    pub fn set_request_latency(&self, latency: impl Into<Latency>) {
        let latency = latency.into();
        self.set(|faults| faults.request.latency = latency);
    }

    /// Delays each response, and leaves requests as they are.
    pub fn set_response_latency(&self, latency: impl Into<Latency>) {
        let latency = latency.into();
        self.set(|faults| faults.response.latency = latency);
    }

    /// Loses requests with this probability, from 0 to 1: the replica never
    /// sees them.
    pub fn lose_requests(&self, probability: f64) {
        self.set(|faults| faults.request.loss = probability);
    }

    /// Loses responses with this probability, from 0 to 1: the replica has
    /// acted, and the caller never hears of it.
    pub fn lose_responses(&self, probability: f64) {
        self.set(|faults| faults.response.loss = probability);
    }

    /// Delivers requests twice with this probability, from 0 to 1; the second
    /// time so long after the first. The caller gets the first answer; what was
    /// refused is not delivered again.
    ///
    /// This is how an old entry comes back to a replica that has seen newer
    /// ones.
    pub fn duplicate(&self, probability: f64, after: impl Into<Latency>) {
        let after = after.into();
        self.set(|faults| {
            faults.duplication = probability;
            faults.duplicate_after = after;
        });
    }

    /// Cuts the way there: all requests are lost.
    pub fn cut_requests(&self) {
        self.set(|faults| faults.request.cut = true);
    }

    /// Cuts the way back: all responses are lost.
    pub fn cut_responses(&self) {
        self.set(|faults| faults.response.cut = true);
    }

    /// Cuts both ways: a partition.
    pub fn cut(&self) {
        self.cut_requests();
        self.cut_responses();
    }

    /// Holds messages back, both ways, until [`heal`](Self::heal) or
    /// [`reconnect`](Self::reconnect): calls do not complete until then. Nothing held is lost, as with a peer that stands
    /// still for a while: a request whose caller has left meanwhile arrives
    /// when the link is healed.
    pub fn hang(&self) {
        let inner = self.inner();
        if !self.is_hung() {
            self.0.hangs.fetch_add(1, Ordering::AcqRel);
        }
        self.look_at(&inner);
    }

    /// Undoes [`cut`](Self::cut) and [`hang`](Self::hang), and leaves latency,
    /// loss and duplication as they are: a partition ends on a network that is
    /// never perfect.
    pub fn reconnect(&self) {
        let mut inner = self.inner();
        inner.faults.request.cut = false;
        inner.faults.response.cut = false;
        self.release();
        self.look_at(&inner);
    }

    /// Takes all faults away. What was held back goes on; what was lost stays
    /// lost, and what is under way keeps the latency it was given.
    pub fn heal(&self) {
        let mut inner = self.inner();
        inner.faults = Faults::default();
        self.release();
        self.look_at(&inner);
    }

    fn set(&self, change: impl FnOnce(&mut Faults)) {
        let mut inner = self.inner();
        change(&mut inner.faults);
        self.look_at(&inner);
    }

    /// Notes whether any fault is set: a link that was reconnected, or whose
    /// loss was set to nothing, is as sound as a new one.
    fn look_at(&self, inner: &Inner) {
        let faulty = inner.faults != Faults::default() || self.is_hung();
        self.0.faulty.store(faulty, Ordering::Release);
    }

    /// Faults and randomness are whole between any two statements, so that
    /// another's panic does them no harm.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_hung(&self) -> bool {
        !self.0.hangs.load(Ordering::Acquire).is_multiple_of(2)
    }

    /// Lets all that is held back go on. Callers hold the lock.
    fn release(&self) {
        if self.is_hung() {
            self.0.hangs.fetch_add(1, Ordering::AcqRel);
            self.0.released.notify_waiters();
        }
    }

    /// Lets a message through: at once, unless the link hangs. What is held back
    /// by one hang goes on when that one ends, whatever comes next.
    async fn released(&self) {
        let came = self.0.hangs.load(Ordering::Acquire);
        while !came.is_multiple_of(2) {
            // Before the look at the count, so that no wake is missed.
            let released = self.0.released.notified();
            if self.0.hangs.load(Ordering::Acquire) != came {
                return;
            }
            released.await;
        }
    }

    /// A call over a link with faults.
    async fn call_faulty(&self, request: Request) -> Answer {
        let (there, back, again, faults) = {
            let Inner { faults, random } = &mut *self.inner();
            // Every call draws as much, whatever the faults: changing one
            // leaves the rest of a run as it was.
            let [there, back, again] = [(); 3].map(|()| Draw::from(random));
            (there, back, again, *faults)
        };
        let Some(latency) = faults.request.fate(there) else {
            return pending().await;
        };
        let again =
            (again.loss < faults.duplication).then(|| faults.duplicate_after.at(again.latency));
        let link = self.clone();
        let answer = Sent {
            message: Some(Box::pin(async move {
                link.deliver(request, latency, again).await
            })),
            network: self.node().network(),
        }
        .await;

        // The answer is sent: it meets the faults of now.
        let Some(latency) = self.inner().faults.response.fate(back) else {
            return pending().await;
        };
        self.released().await;
        wait(latency).await;
        answer
    }

    /// Carries a request to the node, and once more a while later where told.
    async fn deliver(self, request: Request, latency: Duration, again: Option<Duration>) -> Answer {
        let connected = self.node().connect();
        self.released().await;
        wait(latency).await;
        let life = connected?;
        let Some(after) = again else {
            return self.node().arrive(&request, life).await;
        };
        let answer = self.node().arrive(&request, life).await;
        // To report a refusal is to promise that nothing is stored, later
        // neither: a transport that may deliver twice would have to keep back
        // either the refusal or the second delivery.
        if !matches!(answer, Ok(Response::Refused(_))) {
            let node = self.node().clone();
            self.node().network().stray(async move {
                wait(after).await;
                // Whoever asked has got the first answer.
                drop(node.arrive(&request, life).await);
            });
        }
        answer
    }
}

/// Waits, without a timer for no time at all.
async fn wait(latency: Duration) {
    if !latency.is_zero() {
        sleep(latency).await;
    }
}

/// A request that was sent: it goes on when its caller is gone.
struct Sent<'a> {
    network: &'a Network,
    message: Option<Pin<Box<dyn Future<Output = Answer> + Send>>>,
}

impl Future for Sent<'_> {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        // Out of its place while it is polled: a message that panics goes nowhere.
        let Some(mut message) = self.message.take() else {
            return Poll::Pending;
        };
        let polled = message.as_mut().poll(context);
        if polled.is_pending() {
            self.message = Some(message);
        }
        polled
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.network.stray(message);
        }
    }
}

impl<S: Store> Transport for Link<S> {
    fn call(&self, request: &Request) -> Call {
        if self.0.faulty.load(Ordering::Acquire) {
            let (link, request) = (self.clone(), request.clone());
            return Call::new(async move { link.call_faulty(request).await });
        }
        let life = match self.node().connect() {
            Ok(life) => life,
            Err(down) => return Call::Ready(Err(down)),
        };
        match self.node().with_replica(|replica| replica.call(request)) {
            ready @ Call::Ready(_) => ready,
            Call::Pending(call) => {
                let node = self.node().clone();
                Call::new(async move { node.go_on(call, life).await })
            }
        }
    }

    fn name(&self) -> &str {
        self.node().name()
    }
}

impl<S: Store> fmt::Debug for Link<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("node", &self.name())
            .field("faults", &self.inner().faults)
            .field("hung", &self.is_hung())
            .finish()
    }
}
