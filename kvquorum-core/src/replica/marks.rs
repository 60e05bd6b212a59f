//! Who a replica is, in which era, and whether it answers: rules J-ERA and J-SILENT.

use super::known::{State, own_key};
use super::records::Work;
use super::{Replica, refused};
use crate::entry::Timestamp;
use crate::identity::{Identity, Quorums, ReplicaId};
use crate::marks::Marks;
use crate::record::Record;
use crate::request::{Refusal, Request, RequestKind, Response};
use crate::rules::{Ahead, Change, MarksChange};
use crate::store::{Store, StoreError};
use crate::told::Told;
use crate::transport::{Call, Transport, TransportError};

/// Whether a replica answers requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// It does.
    Ready,
    /// It is new or lost its data, and waits for one that has it
    /// [rejoin](crate::Coordinator::rejoin), or for all replicas of a new cluster.
    Waiting,
    /// It copies what its peers hold.
    Copying {
        /// How many keys it was sent so far, since its process began.
        copied: u64,
    },
}

impl<S: Store> Replica<S> {
    /// Whether the replica answers requests.
    ///
    /// # Errors
    ///
    /// Where the store can't tell.
    pub async fn readiness(&self) -> Result<Readiness, StoreError> {
        let marks = self.marks().await?;
        Ok(match marks {
            _ if !marks.is_joining => Readiness::Ready,
            _ if marks.has_begun() => Readiness::Copying {
                copied: self.known.copied(),
            },
            _ => Readiness::Waiting,
        })
    }

    /// Waits until the replica answers requests.
    ///
    /// # Errors
    ///
    /// Where the store can't tell.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.marks().await?;
        // The sender is the replica's own.
        let _ = self.known.readiness().wait_for(|is_ready| *is_ready).await;
        Ok(())
    }

    async fn marks(&self) -> Result<Marks, StoreError> {
        loop {
            if let Some(marks) = self.known.marks() {
                return Ok(marks);
            }
            self.learn().await?;
        }
    }

    /// A request to another replica, or of another era, or to one that does not know yet
    /// who it is, or that is joining.
    #[cold]
    pub(super) fn call_otherwise(&self, request: &Request) -> Call {
        let (Some(marks), Some(is)) = (self.known.marks(), self.known.id()) else {
            return self.call_once_known(request);
        };
        if request.to.is_some_and(|to| to != is) {
            return refused(Refusal::OtherReplica { is });
        }
        match (&request.kind, request.era) {
            (
                RequestKind::Forget { .. }
                | RequestKind::Join { .. }
                | RequestKind::Copy { .. }
                | RequestKind::Open { .. },
                _,
            )
            | (RequestKind::Identify { .. }, None) => self.serve(request, self.known.state()),
            (RequestKind::Status, _) if marks.is_joining => self.status_anew(),
            _ if marks.is_joining => refused(marks.refusal()),
            (_, Some(era)) if era < marks.era => refused(marks.refusal()),
            (_, Some(era)) if era > marks.era => {
                self.then(MarksChange::Enter(era), request.clone())
            }
            // It has entered that era just now.
            _ => self.call(request),
        }
    }

    /// Calls again once the marks have changed.
    fn then(&self, change: MarksChange, request: Request) -> Call {
        let replica = self.clone();
        Call::new(async move {
            match replica.change_marks(change).await? {
                Response::Told(_) => replica.call(&request).await,
                refused => Ok(refused),
            }
        })
    }

    /// Changes the marks, as safely as the store makes a change.
    pub(super) fn change_marks(&self, change: MarksChange) -> Call {
        let (replica, change) = (self.clone(), Change::marks(change));
        Call::new(async move {
            let own = own_key();
            let changing = replica.store.apply(&own, change);
            let response = changing.await.map_err(TransportError::Store)?;
            if let Response::Told(told) = &response
                && let Told::Marks(marks) = &**told
            {
                replica.known.take_in(marks);
            }
            Ok(response)
        })
    }

    /// What only a replica takes that is joining, at this start of its process.
    pub(super) fn join(&self, request: &Request, state: State) -> Call {
        let Some(marks) = self.known.marks().filter(|marks| marks.is_joining) else {
            return refused(Refusal::NotJoining);
        };
        match (&request.kind, request.era) {
            (
                RequestKind::Forget {
                    range,
                    max_keys,
                    before,
                },
                Some(era),
            ) if era == marks.era => match self.ahead_of(*before) {
                Some(ahead) => refused(ahead.refusal()),
                None => {
                    let work = Work::new(&self.limits, *max_keys, u64::MAX);
                    self.forget(range.clone(), work, *before, era, state)
                }
            },
            (
                RequestKind::Join {
                    boot,
                    sealed,
                    collected,
                },
                Some(era),
            ) if *boot == self.known.boot => match self.ahead_of(*sealed.max(collected)) {
                Some(ahead) => refused(ahead.refusal()),
                None => self.change_marks(MarksChange::Join(era, *sealed, *collected)),
            },
            (RequestKind::Open { boot }, Some(era)) if *boot == self.known.boot => {
                self.change_marks(MarksChange::Open(era))
            }
            (RequestKind::Copy { key, record }, Some(era)) if era == marks.era => {
                self.known.count_copied();
                self.copy(key, record, era, state)
            }
            _ => refused(Refusal::NotJoining),
        }
    }

    /// Takes no more what is stamped before `to`.
    ///
    /// What was taken until now is to be seen by whoever reads once this has been answered:
    /// a change that is decided later is refused, and one that was decided earlier is
    /// done, by the contract of [`Store::apply`], when the replica's own record has
    /// changed.
    pub(super) fn seal(&self, to: Timestamp) -> Call {
        let now_millis = self.wall.now_millis();
        if to.millis() > now_millis {
            let ahead = Ahead {
                timestamp: to,
                now_millis,
                max_drift_millis: 0,
            };
            return refused(ahead.refusal());
        }
        self.floors.seal(to);
        let replica = self.clone();
        Call::new(async move {
            match replica.change_marks(MarksChange::Seal(to)).await? {
                Response::Told(_) => replica.status().await,
                refused => Ok(refused),
            }
        })
    }

    /// Takes note that what is stamped before `to` is at every replica.
    pub(super) fn collect(&self, to: Timestamp, boot: u64) -> Call {
        if boot != self.known.boot {
            return refused(Refusal::NotSealed);
        }
        self.change_marks(MarksChange::Collect(to))
    }

    /// Says who the replica is.
    pub(super) fn identify(&self, quorums: Option<Quorums>) -> Call {
        if let Some(quorums) = quorums {
            self.known.remember(quorums);
        }
        self.once_known(|replica, id, marks| {
            Response::Identity(Box::new(Identity {
                id,
                era: marks.era,
                cluster: replica.cluster.as_deref().map(str::to_owned),
                quorums: replica.known.quorums(),
            }))
        })
    }

    /// Says how a replica is that is joining, as far as it knows: its store may have been
    /// told otherwise by a call that then failed or was dropped.
    fn status_anew(&self) -> Call {
        let replica = self.clone();
        Call::new(async move {
            replica.learn().await.map_err(TransportError::Store)?;
            replica.status().await
        })
    }

    /// Says how the replica is.
    pub(super) fn status(&self) -> Call {
        self.once_known(|replica, _, marks| {
            let now_millis = replica.wall.now_millis();
            Told::Status(replica.known.status(marks, now_millis)).into()
        })
    }

    fn once_known(&self, tell: impl FnOnce(&Self, ReplicaId, Marks) -> Response) -> Call {
        Call::Ready(match (self.known.id(), self.known.marks()) {
            (Some(id), Some(marks)) => Ok(tell(self, id, marks)),
            _ => Err(TransportError::Rejected(
                "it does not know who it is".into(),
            )),
        })
    }

    /// Calls again once the replica knows who it is.
    fn call_once_known(&self, request: &Request) -> Call {
        if let Some(Ok(())) = self.try_learn() {
            return self.call(request);
        }
        let (replica, request) = (self.clone(), request.clone());
        Call::new(async move {
            replica.learn().await.map_err(TransportError::Store)?;
            replica.call(&request).await
        })
    }

    /// What the store keeps of the replica, where it can tell at once.
    fn try_learn(&self) -> Option<Result<(), StoreError>> {
        let key = own_key();
        let mut held = self.store.try_get(&key)?.ok()?;
        if held.is_none() {
            self.store.try_apply(&key, self.begin()).ok()?.ok()?;
            held = self.store.try_get(&key)?.ok()?;
        }
        Some(self.learned(held))
    }

    async fn learn(&self) -> Result<(), StoreError> {
        let key = own_key();
        let mut held = self.store.get(&key).await?;
        if held.is_none() {
            self.store.apply(&key, self.begin()).await?;
            held = self.store.get(&key).await?;
        }
        self.learned(held)
    }

    fn begin(&self) -> Change<'static> {
        let id = self.known.new_id(self.new_id);
        Change::marks(MarksChange::begin(id, !self.is_new_cluster))
    }

    fn learned(&self, held: Option<Record>) -> Result<(), StoreError> {
        let held =
            held.ok_or_else(|| StoreError::new("the store does not keep who the replica is"));
        self.known.learn(&held?)
    }

    /// The answer where the replica has entered a later era while it was at a request. The
    /// store may have done it, but nobody may count it: who has begun that era reads what
    /// is here once it was entered, and may have read it before.
    #[cold]
    pub(super) fn too_late(&self) -> Call {
        let marks = self.known.marks();
        // It has served a request, and so it knows them.
        refused(marks.unwrap_or(Marks::new(true)).refusal())
    }

    /// What a request came to that began in this state, unless it comes
    /// [too late](Self::too_late).
    pub(super) fn later(
        &self,
        state: State,
        doing: impl Future<Output = Result<Response, TransportError>> + Send + 'static,
    ) -> Call {
        let replica = self.clone();
        Call::new(async move {
            let result = doing.await;
            match replica.known.is_still(state) {
                true => result,
                false => replica.too_late().await,
            }
        })
    }
}
