//! Which replica each transport leads to, so that none is counted twice or taken
//! for another.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Inner;
use super::calls::Calling;
use crate::identity::{Identity, Quorums, ReplicaId};
use crate::marks::Era;
use crate::outcome::ReplicaFailure;
use crate::request::{Refusal, Request, RequestKind, Response};
use crate::telemetry::Telemetry;
use crate::transport::{Call, Transport, TransportError};

/// Why a coordinator does not count a replica. The request was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Another transport of the coordinator leads to the same replica. It has one
    /// copy, and so one vote.
    #[error("it is the same replica as that of transport {other}: {id}")]
    SameReplica {
        /// The replica.
        id: ReplicaId,
        /// The other transport's place, from 0.
        other: usize,
    },
    /// The replica belongs to another cluster, or to none.
    #[error("it belongs to {}, and not to the cluster {expected:?}", named(found.as_deref()))]
    OtherCluster {
        /// The cluster's name that the coordinator was given.
        expected: String,
        /// The name that the replica was given.
        found: Option<String>,
    },
}

fn named(cluster: Option<&str>) -> String {
    cluster.map_or("no cluster".to_owned(), |name| {
        format!("the cluster {name:?}")
    })
}

#[derive(Debug)]
pub(super) struct Introductions<const N: usize> {
    cluster: Option<String>,
    quorums: Quorums,
    /// The ids as numbers; 0 where a replica has yet to introduce itself.
    ids: [AtomicU64; N],
    /// The greatest that replicas told of.
    era: AtomicU64,
    /// The start of each one's process when all were found to be new.
    new: Mutex<Vec<u64>>,
    identities: Mutex<[Option<Identity>; N]>,
}

impl<const N: usize> Introductions<N> {
    pub(super) fn new(cluster: Option<String>, quorums: Quorums) -> Self {
        Self {
            cluster,
            quorums,
            ids: [const { AtomicU64::new(0) }; N],
            era: AtomicU64::new(Era::FIRST.get()),
            new: Mutex::default(),
            identities: Mutex::new([const { None }; N]),
        }
    }

    pub(super) fn id(&self, replica: usize) -> Option<ReplicaId> {
        let id = self.ids.get(replica)?.load(Ordering::Relaxed);
        Some(ReplicaId::new(id.try_into().ok()?))
    }

    /// The greatest era that is known of.
    #[inline]
    pub(super) fn era(&self) -> Era {
        let era = self.era.load(Ordering::Relaxed);
        era.try_into().map_or(Era::FIRST, Era::new)
    }

    /// Takes in an era that a replica told of. Whether it can be true: in one that is too
    /// far ahead all others would refuse what is asked.
    pub(super) fn observe_era(&self, era: Era) -> bool {
        let is_near = self.era().reaches(era);
        if is_near {
            self.era.fetch_max(era.get(), Ordering::Relaxed);
        }
        is_near
    }

    pub(super) fn found_new(&self, boots: Vec<u64>) {
        *self.new.lock().unwrap_or_else(PoisonError::into_inner) = boots;
    }

    pub(super) fn new_boots(&self) -> Vec<u64> {
        let new = self.new.lock();
        new.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn identities(&self) -> [Option<Identity>; N] {
        self.lock().clone()
    }

    /// Has a replica introduce itself again: the one that was meant is not at its place
    /// now. Where none was named, that is whichever is known there.
    pub(super) fn forget(&self, replica: usize, meant: Option<ReplicaId>) {
        let mut identities = self.lock();
        if let (Some(id), Some(identity)) = (self.ids.get(replica), identities.get_mut(replica))
            // Else it has introduced itself since.
            && meant.is_none_or(|meant| meant.get() == id.load(Ordering::Relaxed))
        {
            id.store(0, Ordering::Relaxed);
            *identity = None;
        }
    }

    fn request(&self) -> Request {
        let quorums = Some(self.quorums);
        Request::of(RequestKind::Identify { quorums })
    }

    fn take_in(
        &self,
        replica: usize,
        result: Result<Response, TransportError>,
        telemetry: &Telemetry<N>,
    ) -> Result<ReplicaId, TransportError> {
        let identity = match result {
            Ok(Response::Identity(identity)) => *identity,
            Ok(Response::Refused(refusal)) => return Err(TransportError::Rejected(refusal.into())),
            Ok(_) => return Err(TransportError::Rejected("it does not say who it is".into())),
            // The request itself was not sent.
            Err(error) if error.may_have_applied() => {
                return Err(TransportError::NotSent(error.into()));
            }
            Err(error) => return Err(error),
        };
        let (id, era) = (identity.id, identity.era);
        self.admit(replica, identity).map_err(|error| {
            telemetry.misidentified(replica, &error);
            TransportError::Rejected(error.into())
        })?;
        self.observe_era(era);
        Ok(id)
    }

    fn admit(&self, replica: usize, identity: Identity) -> Result<(), IdentityError> {
        if let Some(expected) = &self.cluster
            && Some(expected) != identity.cluster.as_ref()
        {
            return Err(IdentityError::OtherCluster {
                expected: expected.clone(),
                found: identity.cluster,
            });
        }
        let mut identities = self.lock();
        let mut others = identities.iter().enumerate();
        let id = identity.id;
        let is_same = |it: &Option<Identity>| it.as_ref().is_some_and(|it| it.id == id);
        if let Some((other, _)) = others.find(|(other, it)| *other != replica && is_same(it)) {
            return Err(IdentityError::SameReplica { id, other });
        }
        if let (Some(place), Some(known)) = (identities.get_mut(replica), self.ids.get(replica)) {
            *place = Some(identity);
            known.store(id.get(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Identity>; N]> {
        // No panic can leave it half changed.
        let identities = self.identities.lock();
        identities.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T, const N: usize> Inner<T, N> {
    fn take_in_introduction(
        &self,
        replica: usize,
        result: Result<Response, TransportError>,
    ) -> Result<ReplicaId, TransportError> {
        self.introductions.take_in(replica, result, &self.telemetry)
    }
}

/// What a call came to, and which replica it was for, where that is known.
pub(super) type CallResult = (Result<Response, TransportError>, Option<ReplicaId>);

/// What came of asking a replica who it is.
pub(super) enum Introduced {
    Known(ReplicaId),
    /// The request is sent once it has said so.
    Pending(Calling),
    /// The request is not sent.
    Failed(TransportError),
}

/// Asks a replica who it is, before this request is sent to it.
#[cold]
pub(super) fn introduce<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    replica: usize,
    transport: &T,
    request: &Request,
) -> Introduced {
    match transport.call(&inner.introductions.request()) {
        Call::Ready(result) => match inner.take_in_introduction(replica, result) {
            Ok(id) => Introduced::Known(id),
            Err(error) => Introduced::Failed(error),
        },
        introducing => {
            let (inner, request) = (Arc::clone(inner), request.clone());
            Introduced::Pending(Box::pin(async move {
                call_when_known(&inner, replica, &request, introducing).await
            }))
        }
    }
}

/// Calls a replica once it has said who it is.
async fn call_when_known<T: Transport, const N: usize>(
    inner: &Inner<T, N>,
    replica: usize,
    request: &Request,
    introducing: Call,
) -> CallResult {
    let known = inner.take_in_introduction(replica, introducing.await);
    match (known, inner.transports.get(replica)) {
        (Ok(id), Some(transport)) => {
            let result = transport.call(&addressed(request, id)).await;
            (result, Some(id))
        }
        (Err(error), _) => (Err(error), None),
        (Ok(_), None) => {
            let error = TransportError::NotSent("there is no such transport".into());
            (Err(error), None)
        }
    }
}

/// Goes on with a call, and calls again where another replica has come to that
/// place: it has changed nothing, and may be one that lost its data.
pub(super) async fn call_again<T: Transport, const N: usize>(
    inner: Arc<Inner<T, N>>,
    replica: usize,
    request: Request,
    calling: impl Future<Output = Result<Response, TransportError>>,
) -> CallResult {
    let result = calling.await;
    match (result, inner.transports.get(replica)) {
        (Ok(Response::Refused(refusal @ Refusal::OtherReplica { .. })), Some(transport)) => {
            inner.introductions.forget(replica, request.to);
            let refused = ReplicaFailure::Refused(refusal);
            inner.telemetry.failed(replica, &refused);
            let introducing = transport.call(&inner.introductions.request());
            call_when_known(&inner, replica, &request, introducing).await
        }
        (result, _) => (result, request.to),
    }
}

fn addressed(request: &Request, id: ReplicaId) -> Request {
    Request {
        to: Some(id),
        era: request.era,
        kind: request.kind.clone(),
    }
}
