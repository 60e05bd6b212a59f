//! Replicas in memory, and the four ways of keeping a map on them.

mod floor;
mod join_all;
mod join_set;

use std::sync::Arc;

use kvquorum_core::{Coordinator, Replica, Response, TransportError};
use kvquorum_mem::MemStore;

pub use floor::Floor;
pub use join_all::JoinAll;
pub use join_set::JoinSet;

use crate::map::Map;
use crate::runtime;
use crate::work::{Walk, Work};

/// The lengths of the values that are measured, in bytes.
pub const VALUE_LENS: [usize; 2] = [100, 4096];

/// The names of the ways, as they stand in ids.
pub const WAYS: [&str; 4] = ["floor", "join_all", "join_set", "coordinator"];

/// The place of the floor among the [`WAYS`].
pub const FLOOR: usize = 0;
/// The place of `join_all` among the [`WAYS`].
pub const JOIN_ALL: usize = 1;
/// The place of `JoinSet` among the [`WAYS`].
pub const JOIN_SET: usize = 2;
/// The place of the coordinator among the [`WAYS`].
pub const COORDINATOR: usize = 3;

/// A replica in memory, which is a transport too.
pub type Node = Replica<MemStore>;

/// N replicas that hold every key already, and the ways of keeping a map on
/// them. All ways work on the same stores.
pub struct Memory<const N: usize, const W: usize, const R: usize> {
    /// Straight on the stores.
    pub floor: Arc<Floor<N, R>>,
    /// By hand, with `join_all`.
    pub join_all: Arc<JoinAll<N, W, R>>,
    /// By hand, with a task for each call.
    pub join_set: Arc<JoinSet<N, W, R>>,
    /// Through the coordinator.
    pub coordinator: Arc<Coordinator<N, W, R, Node>>,
}

/// What is done with each way. A trait, since a closure cannot be generic.
pub trait EachWay {
    /// Called with each way and its name in ids.
    fn way<M: Map>(&mut self, name: &'static str, map: &Arc<M>);
}

impl<const N: usize, const W: usize, const R: usize> Memory<N, W, R> {
    /// Replicas that hold the work's keys.
    pub fn new(work: &Work) -> Self {
        let replicas: [Node; N] =
            std::array::from_fn(|_| Replica::new(MemStore::new()).of_new_cluster());
        let memory = Self {
            floor: Arc::new(Floor::new(replicas.clone())),
            join_all: Arc::new(JoinAll::new(replicas.clone())),
            join_set: Arc::new(JoinSet::new(replicas.clone())),
            coordinator: Arc::new(Coordinator::new(replicas)),
        };
        let runtime = runtime::of_this_thread();
        let fill = work.putting();
        runtime.block_on(fill.on(&*memory.coordinator, Walk::over_all()));
        memory
    }

    /// Visits all four ways, in the order of [`WAYS`].
    pub fn each_way(&self, visitor: &mut impl EachWay) {
        let [floor, join_all, join_set, coordinator] = WAYS;
        visitor.way(floor, &self.floor);
        visitor.way(join_all, &self.join_all);
        visitor.way(join_set, &self.join_set);
        visitor.way(coordinator, &self.coordinator);
    }
}

fn is_ack(outcome: &Result<Response, TransportError>) -> bool {
    matches!(outcome, Ok(Response::Ack(_)))
}
