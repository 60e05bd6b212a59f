//! What a replica knows of itself: who it is, and who called it.

use std::sync::{Mutex, OnceLock, PoisonError};

use super::Replica;
use crate::entry::{Entry, Key, Timestamp, Version, WriterId};
use crate::identity::{Identity, Quorums, ReplicaId};
use crate::record::Record;
use crate::rules::Change;
use crate::store::{Store, StoreError};
use crate::told::{LastPass, Status};
use crate::transport::{Call, Request, Response, Transport, TransportError};

/// Shared by all clones of a replica.
#[derive(Default)]
pub(super) struct Known {
    /// As the store keeps it, once it was read.
    pub(super) id: OnceLock<ReplicaId>,
    /// What the store is to keep where it keeps none: the same, however many ask at
    /// the same time, so that nobody learns one that is replaced.
    new_id: OnceLock<ReplicaId>,
    /// Of the coordinators that called.
    quorums: Mutex<Vec<Quorums>>,
    status: Mutex<Status>,
}

impl<S: Store> Replica<S> {
    /// Says who the replica is.
    pub(super) fn identify(&self, quorums: Option<Quorums>) -> Call {
        if let Some(quorums) = quorums {
            self.known.remember(quorums);
        }
        match self.known.id.get().copied().or_else(|| self.try_learn_id()) {
            Some(id) => Call::Ready(Ok(Response::Identity(Box::new(self.identity(id))))),
            None => {
                let replica = self.clone();
                Call::new(async move {
                    let id = replica.learn_id().await.map_err(TransportError::Store)?;
                    Ok(Response::Identity(Box::new(replica.identity(id))))
                })
            }
        }
    }

    /// Calls again once the replica knows who it is.
    pub(super) fn call_once_known(&self, request: &Request) -> Call {
        if self.try_learn_id().is_some() {
            return self.call(request);
        }
        let (replica, request) = (self.clone(), request.clone());
        Call::new(async move {
            replica.learn_id().await.map_err(TransportError::Store)?;
            replica.call(&request).await
        })
    }

    fn identity(&self, id: ReplicaId) -> Identity {
        Identity {
            id,
            cluster: self.cluster.as_deref().map(str::to_owned),
            quorums: self.known.quorums(),
        }
    }

    /// The id that the store keeps, where it can tell at once.
    fn try_learn_id(&self) -> Option<ReplicaId> {
        let key = own_key();
        let mut held = self.store.try_get(&key)?.ok()?;
        if held.is_none() {
            self.store.try_apply(&key, self.take_id()).ok()?.ok()?;
            held = self.store.try_get(&key)?.ok()?;
        }
        self.known.learn(&held?)
    }

    async fn learn_id(&self) -> Result<ReplicaId, StoreError> {
        let key = own_key();
        let mut held = self.store.get(&key).await?;
        if held.is_none() {
            self.store.apply(&key, self.take_id()).await?;
            held = self.store.get(&key).await?;
        }
        let id = held.and_then(|held| self.known.learn(&held));
        id.ok_or_else(|| StoreError::new("the store does not keep who the replica is"))
    }

    fn take_id(&self) -> Change {
        let new_id = || self.new_id.unwrap_or_else(ReplicaId::random);
        let id = *self.known.new_id.get_or_init(new_id);
        Change::write(Entry::new(
            Version {
                timestamp: Timestamp::MIN,
                writer: WriterId::new(id.get()),
            },
            "",
        ))
    }
}

/// Under which a replica keeps who it is, and which no request can name.
pub(super) fn own_key() -> Key {
    Key::from("")
}

impl Known {
    fn learn(&self, held: &Record) -> Option<ReplicaId> {
        let id = held.version()?.writer.get();
        let id = ReplicaId::new(id.try_into().ok()?);
        Some(*self.id.get_or_init(|| id))
    }

    pub(super) fn status(&self) -> Status {
        let status = self.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tell_pass(&self, pass: LastPass) {
        let status = self.status.lock();
        let mut status = status.unwrap_or_else(PoisonError::into_inner);
        status.last_pass = Some(pass);
    }

    fn remember(&self, quorums: Quorums) {
        let seen = self.quorums.lock();
        let mut seen = seen.unwrap_or_else(PoisonError::into_inner);
        if seen.len() < Identity::MAX_QUORUMS && !seen.contains(&quorums) {
            seen.push(quorums);
        }
    }

    fn quorums(&self) -> Vec<Quorums> {
        let seen = self.quorums.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }
}
