//! Nodes: replicas that can crash.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;

use kvquorum_core::{Replica, Request, Store, Transport, TransportError};

use super::{Answer, Link, Network};
use crate::store::MemStore;

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
    /// That of the first life.
    replica: Replica<S>,
    /// That of later ones, over the same store.
    restarted: RwLock<Option<Replica<S>>>,
    /// Counts crashes and restarts: even while up, odd while down. A message
    /// arrives only in the life that it was sent to.
    lives: AtomicU64,
}

impl<S: Store> Node<S> {
    pub(super) fn new(network: Network, replica: Replica<S>) -> Self {
        Self(Arc::new(NodeState {
            network,
            replica,
            restarted: RwLock::new(None),
            lives: AtomicU64::new(0),
        }))
    }

    /// A new link to this node, without faults. Make one for each coordinator:
    /// faults belong to the link, and a link's clones share them.
    pub fn link(&self) -> Link<S> {
        Link::new(self.clone())
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        Transport::name(&self.0.replica)
    }

    /// The replica, as it is beneath all faults. Each start of the node begins another,
    /// over the same store.
    pub fn replica(&self) -> Replica<S> {
        self.with_replica(Replica::clone)
    }

    /// A node that never crashed takes no lock.
    pub(super) fn with_replica<A>(&self, act: impl FnOnce(&Replica<S>) -> A) -> A {
        if self.0.lives.load(Ordering::Acquire) == 0 {
            return act(&self.0.replica);
        }
        let restarted = self.0.restarted.read();
        let restarted = restarted.unwrap_or_else(PoisonError::into_inner);
        act(restarted.as_ref().unwrap_or(&self.0.replica))
    }

    /// What the node's store holds, also while the node is down.
    pub fn store(&self) -> &S {
        self.0.replica.store()
    }

    pub(super) fn network(&self) -> &Network {
        &self.0.network
    }

    /// Crashes the node, as when its process is killed.
    ///
    /// - New calls fail with [`NotSent`](TransportError::NotSent): the
    ///   connection is refused.
    /// - A request under way never reaches the store, not after a restart
    ///   either. Its caller gets [`NoAnswer`](TransportError::NoAnswer) at the
    ///   time when the request would have arrived.
    /// - A request that the replica is at goes no further, and its caller gets the same.
    /// - An answer under way still arrives.
    ///
    /// Over a link that loses or holds the message, the caller gets no error:
    /// it cannot tell. On several threads, a merge that is in the store's
    /// hands at this moment may still come to its end.
    ///
    /// The store keeps its data, as a disk does. Where the disk is to be lost too,
    /// [clear](MemStore::clear) the [store](Self::store) then: the replica comes
    /// back empty, and a quorum may have lost what it acked. On a node that is
    /// down, this does nothing.
    pub fn crash(&self) {
        self.turn(true);
    }

    /// Starts the node again, with the data that its store has, and nothing else: as
    /// with a new process. Where the store is empty, the replica has lost its data, and
    /// answers nothing before it has [rejoined](kvquorum_core::Coordinator::rejoin). On a
    /// node that is up, it does nothing.
    pub fn restart(&self) {
        if self.is_up() {
            return;
        }
        let restarted = self.0.restarted.write();
        let mut restarted = restarted.unwrap_or_else(PoisonError::into_inner);
        *restarted = Some(self.0.replica.restarted());
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
    pub(super) fn connect(&self) -> Result<u64, TransportError> {
        let life = self.0.lives.load(Ordering::Acquire);
        if is_up(life) {
            Ok(life)
        } else {
            let name = self.name().to_owned();
            Err(TransportError::NotSent(NodeError::Down { name }.into()))
        }
    }

    /// A request arrives that was sent to this life of the node.
    pub(super) async fn arrive(&self, request: &Request, life: u64) -> Answer {
        self.still_lives(life)?;
        let call = self.with_replica(|replica| replica.call(request));
        self.go_on(call, life).await
    }

    /// Nothing of a life goes on once it has ended.
    pub(super) async fn go_on(
        &self,
        mut call: impl Future<Output = Answer> + Unpin,
        life: u64,
    ) -> Answer {
        poll_fn(|context| match self.still_lives(life) {
            Ok(()) => Pin::new(&mut call).poll(context),
            Err(crashed) => Poll::Ready(Err(crashed)),
        })
        .await
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
