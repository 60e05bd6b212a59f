//! A network in memory, whose every fault is chosen by the test.
//!
//! A [`Network`] is a seed and a bound; a [`Node`] hosts a replica, and can
//! crash; a [`Link`] leads to a node, and can fail in each direction. Without
//! faults, a call over a link is a function call.

mod faults;
mod link;
mod node;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kvquorum_core::{Replica, Response, Store, TransportError};
use rand_xoshiro::Xoshiro256PlusPlus as Random;
use rand_xoshiro::rand_core::SeedableRng;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use faults::Latency;
pub use link::Link;
pub use node::{Node, NodeError};

use crate::store::MemStore;

type Answer = Result<Response, TransportError>;

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

    /// A node of this name, with an empty replica [of a new
    /// cluster](Replica::of_new_cluster) that has the default
    /// [`Limits`](kvquorum_core::Limits) and the system's clock.
    pub fn node(&self, name: impl Into<String>) -> Node {
        let replica = Replica::new(MemStore::new()).of_new_cluster();
        self.host(replica.with_name(name))
    }

    /// A node that hosts this replica, and has its name. For a simulation, give
    /// it a clock that the simulation moves.
    pub fn host<S: Store>(&self, replica: Replica<S>) -> Node<S> {
        Node::new(self.clone(), replica)
    }

    /// What the next link draws from.
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
