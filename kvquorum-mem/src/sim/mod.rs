//! Simulations: a quorum that misbehaves, for tests of an application's own.
//!
//! PLACEHOLDER

mod clock;
mod disk;
mod random;
mod storm;

use std::array::from_fn;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{Replica, Store, WriterId};
use tokio::time::Instant;

pub use clock::Clock;
pub use disk::{Disk, Survives};
pub use random::Random;
pub use storm::{Event, Storm};

use crate::network::{Link, Network, Node};

/// Runs a scenario in a world of its own, in virtual time, on this thread.
///
/// Time goes on only when there is nothing else to do, and then at once to the
/// next timer: a scenario of hours takes as long as its work does. All that is
/// drawn in the world is drawn from the seed; a scenario that draws nothing
/// from elsewhere, and asks no other clock than [`tokio::time`] and the world's,
/// goes the same way each time it is run with the same seed. What is still
/// under way when the scenario returns is dropped.
///
/// # Errors
///
/// Where tokio cannot make a runtime.
pub fn run<F, S>(seed: u64, scenario: S) -> io::Result<F::Output>
where
    S: FnOnce(World) -> F,
    F: Future,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(async { scenario(World::new(seed)).await }))
}

/// A simulated world: its time, its randomness, its network and its clocks.
///
/// Cheap to clone; clones are the same world.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    seed: u64,
    start: Instant,
    network: Network,
    drawn: Mutex<Drawn>,
}

struct Drawn {
    random: Random,
    clocks: Vec<Clock>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self(Arc::new(Inner {
            seed,
            start: Instant::now(),
            network: Network::new(random.bits()),
            drawn: Mutex::new(Drawn {
                random,
                clocks: Vec::new(),
            }),
        }))
    }

    /// The seed that the world was made from.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// How much virtual time has gone by.
    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// The network that the world's nodes are on.
    pub fn network(&self) -> &Network {
        &self.0.network
    }

    /// A stream of random numbers, another each time.
    pub fn random(&self) -> Random {
        self.drawn().random.fork()
    }

    /// A writer id for a coordinator, so that not even that comes from
    /// elsewhere.
    pub fn writer(&self) -> WriterId {
        WriterId::new(self.drawn().random.bits())
    }

    /// A wall clock that is right until a storm turns it. Give each coordinator
    /// one of its own.
    pub fn clock(&self) -> Clock {
        let clock = Clock::new(self.0.start);
        self.drawn().clocks.push(clock.clone());
        clock
    }

    /// All clocks of the world, in the order in which they were made.
    pub fn clocks(&self) -> Vec<Clock> {
        self.drawn().clocks.clone()
    }

    /// N nodes, each with a [`Disk`] and a wall clock of its own.
    pub fn cluster<const N: usize>(&self) -> Cluster<N> {
        self.cluster_of(|_, disk, clock| Replica::new(disk).with_wall_clock(clock))
    }

    /// N nodes with replicas of the application's making: with
    /// [`Limits`](kvquorum_core::Limits) of its own, say, or with a store
    /// around the disk. Each is given its number, its disk and its clock.
    pub fn cluster_of<const N: usize, S: Store>(
        &self,
        mut replica: impl FnMut(usize, Arc<Disk>, Clock) -> Replica<S>,
    ) -> Cluster<N, S> {
        let machines = from_fn(|number| {
            let disk = Arc::new(Disk::new());
            let replica = replica(number, Arc::clone(&disk), self.clock());
            let replica = replica.with_name(format!("node {number}"));
            Machine {
                node: self.network().host(replica),
                disk,
            }
        });
        Cluster {
            world: self.clone(),
            machines,
            links: Mutex::default(),
        }
    }

    fn drawn(&self) -> MutexGuard<'_, Drawn> {
        self.0.drawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed())
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}

/// A node, and the disk that is left when it crashes.
pub struct Machine<S = Arc<Disk>> {
    node: Node<S>,
    disk: Arc<Disk>,
}

impl<S: Store> Machine<S> {
    /// The node.
    pub fn node(&self) -> &Node<S> {
        &self.node
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Stops the node, and leaves its disk what survives.
    pub fn crash(&self, survives: Survives) {
        self.node.stop();
        self.disk.lose(survives);
    }
}

impl<S: Store> fmt::Debug for Machine<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("node", &self.node.name())
            .field("is_up", &self.node.is_up())
            .finish_non_exhaustive()
    }
}

/// N nodes, and the links that lead to them.
pub struct Cluster<const N: usize, S = Arc<Disk>> {
    world: World,
    machines: [Machine<S>; N],
    links: Mutex<Vec<[Link<S>; N]>>,
}

impl<const N: usize, S: Store> Cluster<N, S> {
    /// The world that it is in.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The nodes with their disks, in order.
    pub fn machines(&self) -> &[Machine<S>; N] {
        &self.machines
    }

    /// Links to all nodes, in order: what a coordinator takes. Each call makes
    /// links of their own, so that each coordinator meets faults of its own.
    pub fn links(&self) -> [Link<S>; N] {
        let links = self.machines.each_ref().map(|machine| machine.node.link());
        self.all_links().push(links.clone());
        links
    }

    /// Ends all faults: links deliver at once, nodes are up, clocks are right.
    /// Data that are lost stay lost.
    pub fn calm(&self) {
        for machine in &self.machines {
            machine.node.restart();
        }
        for link in self.all_links().iter().flatten() {
            link.heal();
        }
        for clock in self.world.clocks() {
            clock.set_rate(1_000_000);
            clock.skew(0);
        }
    }

    /// How many times [`links`](Self::links) were made.
    fn clients(&self) -> usize {
        self.all_links().len()
    }

    fn link(&self, client: usize, node: usize) -> Option<Link<S>> {
        self.all_links().get(client)?.get(node).cloned()
    }

    fn links_to(&self, node: usize, act: impl Fn(&Link<S>)) {
        for links in self.all_links().iter() {
            if let Some(link) = links.get(node) {
                act(link);
            }
        }
    }

    fn all_links(&self) -> MutexGuard<'_, Vec<[Link<S>; N]>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<const N: usize, S: Store> fmt::Debug for Cluster<N, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("machines", &self.machines)
            .finish_non_exhaustive()
    }
}
