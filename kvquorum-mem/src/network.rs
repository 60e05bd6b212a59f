//! A network in memory, whose every fault is chosen by the test.
//!
//! A [`Network`] is a seed and a bound; a [`Node`] hosts a replica, and can
//! crash; a [`Link`] leads to a node, and can fail in each direction. Without
//! faults, a call over a link is a function call.

use std::fmt;
use std::future::pending;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use kvquorum_core::{Call, Replica, Request, Response, Store, Transport, TransportError};
use rand_xoshiro::Xoshiro256PlusPlus as Random;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use crate::store::MemStore;

/// A network in memory, for tests of what an application does when replicas
/// and links fail.
///
/// All its randomness comes from the seed, and all its time from
/// [`tokio::time`]: a program that makes the same calls in the same order, on a
/// current-thread runtime with its clock paused, meets the same faults in each
/// run. Each link draws from its own stream of the seed, told apart by the
/// order in which links are made, so that traffic on one link does not change
/// the faults of another; and calls over a link without faults draw nothing. The streams are part of what this crate promises:
/// they change only with its major version (its minor one before 1.0).
///
/// Cheap to clone; clones are the same network.
#[derive(Clone)]
pub struct Network {
    /// What the next link draws from. Chosen for its promise that its numbers
    /// never change, and for its jumps, by which streams do not overlap.
    random: Arc<Mutex<Random>>,
    strays: Arc<Semaphore>,
}

impl Network {
    /// How many messages may be under way without a caller: 1024 by default.
    pub const DEFAULT_MAX_STRAYS: usize = 1024;

    /// A network whose faults are drawn from this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            random: Arc::new(Mutex::new(Random::seed_from_u64(seed))),
            strays: Arc::new(Semaphore::new(Self::DEFAULT_MAX_STRAYS)),
        }
    }

    /// Bounds how many messages may be under way without a caller that waits
    /// for them, over all links: requests whose caller has dropped the call,
    /// and second deliveries. What is beyond the bound is lost.
    #[must_use]
    pub fn with_max_strays(mut self, max: usize) -> Self {
        self.strays = Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// A node of this name, with an empty replica that has the default
    /// [`Limits`](kvquorum_core::Limits) and the system's clock.
    pub fn node(&self, name: impl Into<String>) -> Node {
        self.host(Replica::new(MemStore::new()).with_name(name))
    }

    /// A node that hosts this replica, and has its name. For a simulation, give
    /// it a clock that the simulation moves.
    pub fn host<S: Store>(&self, replica: Replica<S>) -> Node<S> {
        Node(Arc::new(NodeState {
            network: self.clone(),
            replica,
            lives: AtomicU64::new(0),
        }))
    }

    fn next_stream(&self) -> Random {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = random.clone();
        random.jump();
        stream
    }

    /// Lets a message go its way without a caller, where there is room.
    fn stray(&self, message: impl Future + Send + 'static) {
        // Where no runtime is left, the world has ended for the message too.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if let Ok(room) = Arc::clone(&self.strays).try_acquire_owned() {
            runtime.spawn(async move {
                message.await;
                drop(room);
            });
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network")
            .field("room_for_strays", &self.strays.available_permits())
            .finish_non_exhaustive()
    }
}

/// What is left of a node's data after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// All of it: the disk survived.
    Kept,
    /// None of it: the replica comes back empty. A quorum may then have lost
    /// what it acked.
    Lost,
}

/// A node of a [`Network`]: it hosts one replica, and can crash.
///
/// Cheap to clone; clones are the same node.
pub struct Node<S = MemStore>(Arc<NodeState<S>>);

impl<S> Clone for Node<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct NodeState<S> {
    network: Network,
    replica: Replica<S>,
    /// Counts crashes and restarts: even while up, odd while down. A message
    /// arrives only in the life that it was sent to.
    lives: AtomicU64,
}

impl<S: Store> Node<S> {
    /// A new link to this node, without faults. Make one for each coordinator:
    /// faults belong to the link, and a link's clones share them.
    pub fn link(&self) -> Link<S> {
        let random = self.0.network.next_stream();
        Link(Arc::new(LinkState {
            node: self.clone(),
            faulty: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                faults: Faults::default(),
                random,
            }),
            hangs: AtomicU64::new(0),
            released: Notify::new(),
        }))
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        Transport::name(&self.0.replica)
    }

    /// The replica, as it is beneath all faults.
    pub fn replica(&self) -> &Replica<S> {
        &self.0.replica
    }

    /// What the node's store holds, also while the node is down.
    pub fn store(&self) -> &S {
        self.0.replica.store()
    }

    /// Stops the node, as when its process is killed.
    ///
    /// - New calls fail with [`NotSent`](TransportError::NotSent): the
    ///   connection is refused.
    /// - A request under way never reaches the store, not after a restart
    ///   either. Its caller gets [`NoAnswer`](TransportError::NoAnswer) at the
    ///   time when the request would have arrived.
    /// - An answer under way still arrives.
    ///
    /// Over a link that loses or holds the message, the caller gets no error:
    /// it cannot tell. On several threads, a merge that is in the store's
    /// hands at this moment may still come to its end.
    ///
    /// The store keeps its data, as a disk does; on a node that is down, this
    /// does nothing.
    pub fn stop(&self) {
        self.turn(true);
    }

    /// Starts the node again, with the data that its store has. On a node that
    /// is up, it does nothing.
    pub fn restart(&self) {
        self.turn(false);
    }

    /// Whether the node is up.
    pub fn is_up(&self) -> bool {
        is_up(self.0.lives.load(Ordering::Acquire))
    }

    /// Goes on to the next life, unless this one is already as wanted.
    fn turn(&self, down: bool) {
        let next = |lives: u64| (is_up(lives) == down).then(|| lives.wrapping_add(1));
        // An error means that there was nothing to do.
        let _ = self
            .0
            .lives
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    /// The life that a request sent now goes to; an error where the node is
    /// down.
    fn connect(&self) -> Result<u64, TransportError> {
        let life = self.0.lives.load(Ordering::Acquire);
        if is_up(life) {
            Ok(life)
        } else {
            let name = self.name().to_owned();
            Err(TransportError::NotSent(NodeError::Down { name }.into()))
        }
    }

    /// A request arrives that was sent to this life of the node.
    async fn arrive(&self, request: &Request, life: u64) -> Answer {
        self.still_lives(life)?;
        self.0.replica.call(request).await
    }

    fn still_lives(&self, life: u64) -> Result<(), TransportError> {
        if self.0.lives.load(Ordering::Acquire) == life {
            Ok(())
        } else {
            let name = self.name().to_owned();
            Err(TransportError::NoAnswer(NodeError::Crashed { name }.into()))
        }
    }
}

fn is_up(lives: u64) -> bool {
    lives.is_multiple_of(2)
}

impl Node {
    /// [Stops](Self::stop) the node, and leaves its store the data that the
    /// crash has left. On a node that is down, it does nothing but take the
    /// data away where told.
    pub fn crash(&self, data: Data) {
        self.stop();
        if data == Data::Lost {
            self.store().clear();
        }
    }
}

impl<S: Store + fmt::Debug> fmt::Debug for Node<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("name", &self.name())
            .field("is_up", &self.is_up())
            .field("store", self.store())
            .finish()
    }
}

/// Why a node did not answer: the cause inside a [`TransportError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The node was down when the request was sent. It comes as
    /// [`NotSent`](TransportError::NotSent).
    #[error("node {name} is down")]
    Down {
        /// The node's name.
        name: String,
    },
    /// The node crashed while the request was under way. It comes as
    /// [`NoAnswer`](TransportError::NoAnswer), as a caller over a real network
    /// could not tell whether the request had arrived before.
    #[error("node {name} crashed while the call was under way")]
    Crashed {
        /// The node's name.
        name: String,
    },
}

/// How long a message is under way: the same each time, or drawn evenly from a
/// range for each message. Tokio's timers round it up to whole milliseconds.
///
/// ```
/// use kvquorum_mem::Latency;
/// use std::time::Duration;
///
/// let fixed = Latency::from(Duration::from_millis(3));
/// let drawn = Latency::from(Duration::from_millis(1)..=Duration::from_millis(9));
/// # let _ = (fixed, drawn);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    least: Duration,
    spread: Duration,
}

impl From<Duration> for Latency {
    fn from(fixed: Duration) -> Self {
        Self {
            least: fixed,
            spread: Duration::ZERO,
        }
    }
}

/// A range that ends before it starts is its start alone.
impl From<RangeInclusive<Duration>> for Latency {
    fn from(range: RangeInclusive<Duration>) -> Self {
        Self {
            least: *range.start(),
            spread: range.end().saturating_sub(*range.start()),
        }
    }
}

impl Latency {
    /// The latency this far into the range, from 0 to 1.
    fn at(&self, fraction: f64) -> Duration {
        let part = Duration::try_from_secs_f64(self.spread.as_secs_f64() * fraction);
        self.least.saturating_add(part.unwrap_or(self.spread))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Faults {
    request: Way,
    response: Way,
    /// How likely a request arrives twice.
    duplication: f64,
    /// How long after the first time.
    duplicate_after: Latency,
}

/// What happens to messages that go one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Way {
    latency: Latency,
    loss: f64,
    cut: bool,
}

impl Way {
    /// How long the message is under way; `None` where it is lost.
    fn fate(&self, draw: Draw) -> Option<Duration> {
        let lost = self.cut || draw.loss < self.loss;
        (!lost).then(|| self.latency.at(draw.latency))
    }
}

/// What chance has in store for a message, before any fault is looked at: each
/// number is drawn evenly from 0 to less than 1.
#[derive(Clone, Copy)]
struct Draw {
    loss: f64,
    latency: f64,
}

impl Draw {
    fn from(random: &mut Random) -> Self {
        let mut fraction = || {
            // As many bits as a float holds exactly.
            let bits = random.next_u64() >> (u64::BITS - f64::MANTISSA_DIGITS);
            bits as f64 / (1_u64 << f64::MANTISSA_DIGITS) as f64
        };
        Self {
            loss: fraction(),
            latency: fraction(),
        }
    }
}

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
/// - A node that is down: [`NotSent`](TransportError::NotSent), once the
///   refusal has come over the link: at once, where there is no latency.
/// - A node that crashes meanwhile: [`NoAnswer`](TransportError::NoAnswer).
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
            network: &self.node().0.network,
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
            self.node().0.network.stray(async move {
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

type Answer = Result<Response, TransportError>;

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
        match self.node().0.replica.call(request) {
            ready @ Call::Ready(_) => ready,
            // The replica has not begun, and never does so once its node has
            // crashed.
            Call::Pending(call) => {
                let node = self.node().clone();
                Call::new(async move {
                    node.still_lives(life)?;
                    call.await
                })
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
