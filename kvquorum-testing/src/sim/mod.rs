//! Simulations: a cluster that misbehaves as real ones do, in virtual time, for
//! tests of an application's own.
//!
//! [`run`] makes a [`World`] from a seed. In it a [`Cluster`] has nodes with
//! [disks](Disk) and [wall clocks](Clock), and links to them; and a [`Storm`]
//! does to them what a bad week does in a data centre. The application's own
//! code runs on top, over coordinators whose links, clocks and writer ids come
//! from the world. A seed is a whole history: a test that fails says which one
//! it was, and fails the same way again when it is given that seed.
//!
//! Here it is a counter that a client writes and reads back, while all that can
//! go wrong without loss of data does:
//!
//! ```
//! use std::time::Duration;
//!
//! use kvquorum_core::Coordinator;
//! use kvquorum_testing::sim::{self, Storm};
//!
//! for seed in 0..20 {
//!     sim::run(seed, |world| async move {
//!         let cluster = world.cluster::<3>();
//!         let map = Coordinator::<3, 2, 2, _>::builder(cluster.links())
//!             .writer(world.writer())
//!             .wall_clock(world.clock())
//!             .build();
//!
//!         let mut storm = Storm::default();
//!         storm.synced_survives = 0;
//!         storm.nothing_survives = 0;
//!         let raging = storm.rage(&cluster, world.random(), |_event| ());
//!         let counting = async {
//!             let mut acknowledged = 0_u64;
//!             for count in 1..=50_u64 {
//!                 if map.put("count", count.to_be_bytes().to_vec()).await.is_ok() {
//!                     acknowledged = count;
//!                 }
//!                 if let Ok(Some(read)) = map.get("count").await {
//!                     let read = u64::from_be_bytes(read[..].try_into().unwrap());
//!                     // A put that failed may be seen, or not; one that was
//!                     // acknowledged is.
//!                     assert!(read >= acknowledged, "seed {seed}: {read}");
//!                 }
//!                 tokio::time::sleep(Duration::from_millis(100)).await;
//!             }
//!         };
//!         tokio::select! {
//!             biased;
//!             () = counting => {}
//!             () = raging => {}
//!         }
//!
//!         // When all is well again, nothing that was acknowledged is lost.
//!         cluster.calm();
//!         map.drain().await;
//!         assert!(map.get("count").await.is_ok(), "seed {seed}");
//!     })?;
//! }
//! # std::io::Result::Ok(())
//! ```
//!
//! # What is simulated
//!
//! | | |
//! |---|---|
//! | time | Virtual: it goes on when there is nothing else to do, and then at once to the next timer. |
//! | links | Latency that spreads, so that messages overtake each other; loss of requests and of responses, where the effect is there and the answer is not; second deliveries, up to ten seconds late; partitions of one way, of both, and of a whole node; hangs that hold what they carry. |
//! | nodes | Crashes of one or of all at once, that leave all data, those of the last sync, or none; disks put back as they were in a backup; restarts. |
//! | wall clocks | Of nodes and of clients: skewed, stepped, standing still, twice as fast. |
//! | callers | Yours: drop a future half-way, and the coordinator and the link do as they would. |
//!
//! # What is not
//!
//! - **Threads.** All runs on one, so that a seed decides everything. Races
//!   within a store, a lock or an atomic are not met here.
//! - **Corruption.** Messages and entries are lost, late or doubled, never
//!   changed.
//! - **A half of a merge.** A disk holds an entry or does not. It never fails,
//!   and is never slow or full.
//! - **Sockets.** Connections, headers and bodies are `kvquorum-http`'s, with
//!   tests of its own.
//! - **Processor time.** Work takes no virtual time; only waiting does.
//!
//! # What breaks a seed
//!
//! The same seed gives the same history as long as the application draws its
//! randomness from [`World::random`], asks no clock but [`tokio::time`] and the
//! world's, and starts no threads. Two sources of chance are easy to overlook:
//! the order in which a `HashMap` is walked, and `tokio::select!`, which polls
//! its branches in a random order unless it is told `biased`.
//!
//! kvquorum's own promises are tested with this module, by the
//! program `simulate` beside this crate.

mod clock;
mod disk;
mod event;
mod random;
mod storm;

use std::array::from_fn;
use std::fmt;
use std::future::Future;
use std::io;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{Replica, ReplicaId, Store, WriterId};
use kvquorum_mem::{Link, Network, Node};
use tokio::time::Instant;

pub use clock::Clock;
pub use disk::{Backup, Disk, Survives};
pub use event::Event;
pub use random::Random;
pub use storm::Storm;

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
    /// How many replicas there are.
    replicas: u64,
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
                replicas: 0,
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
        self.cluster_of(|_, disk, clock| Replica::new(disk).of_new_cluster().with_wall_clock(clock))
    }

    /// N nodes with replicas of the application's making: with
    /// [`Limits`](kvquorum_core::Limits) of its own, say, or with a store
    /// around the disk. Each is given its number, its disk and its clock. By chance, all
    /// have ids that they keep when they lose their data, or all take a new one then.
    pub fn cluster_of<const N: usize, S: Store>(
        &self,
        mut replica: impl FnMut(usize, Arc<Disk>, Clock) -> Replica<S>,
    ) -> Cluster<N, S> {
        let are_named = self.drawn().random.percent(50);
        let machines = from_fn(|number| {
            let disk = Arc::new(Disk::new());
            let replica = replica(number, Arc::clone(&disk), self.clock());
            let mut replica = replica.with_name(format!("node {number}"));
            if are_named {
                replica = replica.with_id(self.replica_id());
            }
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

    /// An id for the next replica, which no other one in this world has.
    fn replica_id(&self) -> ReplicaId {
        let mut drawn = self.drawn();
        let id = NonZeroU64::MIN.saturating_add(drawn.replicas);
        drawn.replicas = id.get();
        ReplicaId::new(id)
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

    /// Crashes the node, and leaves its disk what survives.
    pub fn crash(&self, survives: Survives) {
        self.node.crash();
        self.disk.lose(survives);
    }

    /// Crashes the node, and gives its disk back what a backup holds.
    pub fn restore(&self, backup: &Backup) {
        self.node.crash();
        self.disk.restore(backup);
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
