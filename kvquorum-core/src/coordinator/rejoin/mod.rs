//! Having a replica rejoin that lost its data: rules J-COPY, J-ERA and J-SILENT.
//!
//! `mod.rs` goes through the steps of the protocol, and `copy` brings the replica what
//! its peers hold. How a replica's marks change is in the rule book, `rules/marks.rs`.

mod copy;
mod error;

use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::watch;

use super::collect::SWEPT_AT_ONCE;
use super::eras::{Statuses, call_one_marks, told};
use super::one::call_one;
use super::{Coordinator, Inner};
use crate::entry::{Key, Timestamp};
use crate::marks::{Era, Marks};
use crate::outcome::ReplicaFailure;
use crate::range::KeyRange;
use crate::request::{Request, RequestKind};
use crate::telemetry::Stopwatch;
use crate::told::{Status, Told};
use crate::transport::Transport;
use copy::Copying;
pub use error::RejoinError;

/// How far a [rejoin](Coordinator::rejoin) is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejoinProgress {
    /// Up to where it is through: before this key. `None` before it begins, and at the
    /// end.
    pub reached: Option<Key>,
    /// How many keys were copied.
    pub copied: u64,
    /// How many keys had to be settled first, because an update of a
    /// [register](crate::Registers) had not come to its end.
    pub settled: u64,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// From how many peers a replica copies that rejoins: so many that each set of W, and
    /// each of R, that it was in has another member among them, and that any two
    /// rejoins have a peer in common.
    pub const REJOIN_PEERS: usize = {
        let least = if W < R { W } else { R };
        let others = N - least + 1;
        let most = N / 2 + 1;
        if others > most { others } else { most }
    };

    /// Has a replica rejoin that lost its data, or was opened empty: the one at this
    /// place, from 0, in the coordinator's order.
    ///
    /// - **J-SILENT.** Such a replica answers no read and acks no write, until it has
    ///   copied all that it could have acked before.
    /// - **J-COPY.** It copies the greatest entry of each key, and the greatest ballot
    ///   that was promised, from [`REJOIN_PEERS`](Self::REJOIN_PEERS) replicas that have
    ///   their data.
    /// - **J-ERA.** Before that, those enter an era that is greater than all before. What
    ///   was acked in an earlier one does not count together with what is acked in it.
    ///
    /// So where it is known that a replica lost its data, no promise of the map is
    /// broken by it. It is known where its store does not tell who the replica is: it is
    /// empty, or filled from a backup without that. A loss that nobody
    /// can see is none: a disk that is put back as it was a week ago.
    ///
    /// Of what its store is found with, it first drops what is stamped before the greatest
    /// [mark](Marks::collected) of those peers: deletes from before it may be forgotten, and
    /// the peers hold what counts (rule G-VOID).
    ///
    /// A rejoin is begun by whichever coordinator of the same replicas, beside the
    /// replica or elsewhere, and more than once without harm. If it fails, it can be begun
    /// again, and what was copied stays. This is a model of Michael et al., *Recovering
    /// Shared Objects Without Stable Storage*, 2017, with the eras of replicas in place
    /// of the crash counts of operations.
    ///
    /// If all N replicas are new, they open: the cluster is new.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let [a, b, c] = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let map = Coordinator::<3, 2, 2, _>::new([a.clone(), b.clone(), c]);
    /// map.put("tea", "green").await?;
    ///
    /// // The third process has ended, and with it what was in its memory.
    /// let c = Replica::new(MemStore::new());
    /// let map = Coordinator::<3, 2, 2, _>::new([a, b, c.clone()]);
    /// map.rejoin(2).run().await?;
    /// c.ready().await?;
    /// assert!(c.store().get(&"tea".into()).await?.is_some());
    /// # Ok(()) }
    /// # use kvquorum_core::Store;
    /// ```
    ///
    /// # Bounds
    ///
    /// It holds a [page](crate::CoordinatorBuilder::page) of each peer, and copies
    /// [`max_at_once`](crate::CoordinatorBuilder::max_at_once) keys at a time.
    pub fn rejoin(&self, place: usize) -> Rejoin<N, W, R, T> {
        self.rejoin_with(place, false)
    }

    /// As [`rejoin`](Self::rejoin), from as many peers as have their data and answer, be
    /// they too few, or none: for where W or more replicas have lost their data at once,
    /// and reads fail until somebody decides.
    ///
    /// What was acknowledged may be lost then, without an error: the entries that were on
    /// none of those peers.
    pub fn accept_loss(&self, place: usize) -> Rejoin<N, W, R, T> {
        self.rejoin_with(place, true)
    }

    fn rejoin_with(&self, place: usize, accepts_loss: bool) -> Rejoin<N, W, R, T> {
        Rejoin {
            coordinator: self.clone(),
            place,
            accepts_loss,
            progress: watch::Sender::default(),
        }
    }
}

/// A rejoin: what [`Coordinator::rejoin`] returns. Nothing is done before it is run.
pub struct Rejoin<const N: usize, const W: usize, const R: usize, T> {
    coordinator: Coordinator<N, W, R, T>,
    place: usize,
    accepts_loss: bool,
    progress: watch::Sender<RejoinProgress>,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Rejoin<N, W, R, T> {
    /// How far it is. It can be watched in another task.
    pub fn progress(&self) -> watch::Receiver<RejoinProgress> {
        self.progress.subscribe()
    }

    /// Tries it once. It is done at once where the replica is not joining.
    ///
    /// # Errors
    ///
    /// Where the replica does not answer, or too few of its peers have their data and
    /// answer, and where an era begins meanwhile. The replica then goes on joining.
    pub async fn run(self) -> Result<RejoinProgress, RejoinError> {
        let inner = &self.coordinator.inner;
        let place = self.place;
        let mut told = inner.statuses().await;
        let joiner = match told.get(place) {
            Some(Ok(joiner)) => joiner.clone(),
            Some(Err(_)) => {
                let source = told.swap_remove(place).err();
                let source = source.unwrap_or(ReplicaFailure::Mismatched);
                return Err(RejoinError::NotTaken { place, source });
            }
            None => return Err(RejoinError::NoReplica { place }),
        };
        if joiner.marks.is_joining && !inner.open_new(&told).await.contains(&place) {
            let waited = Stopwatch::started();
            let copied = self.copy(&told, &joiner).await;
            let progress = self.progress.borrow();
            let is_done = copied.is_ok();
            inner.telemetry.rejoin_ended(&progress, is_done, &waited);
            copied?;
        }
        let progress = self.progress.borrow();
        Ok(progress.clone())
    }

    async fn copy(&self, told: &Statuses, joiner: &Status) -> Result<(), RejoinError> {
        let boot = joiner.boot;
        let inner = &self.coordinator.inner;
        let own = inner.introductions.era();
        let known = told.iter().flatten().map(|told| &told.marks);
        let known = known.map(|marks| marks.era.max(marks.announced));
        let known = known.filter(|era| own.reaches(*era)).max();
        let era = known.map_or(own, |era| era.max(own)).next();
        let era = era.ok_or(RejoinError::NoMoreEras)?;

        let needed = self.needed(told);
        let peers: Vec<usize> = (0..N).filter(|replica| *replica != self.place).collect();
        let peers = announce(inner, &peers, era).await;
        are_enough(&peers, needed)?;
        let entered = enter(inner, &peers, era).await;
        inner.introductions.observe_era(era);
        let peers: Vec<usize> = entered.iter().map(|(peer, _)| *peer).collect();
        are_enough(&peers, needed)?;

        let greatest = |of: fn(&Marks) -> Timestamp| {
            let marks = entered.iter().map(|(_, marks)| of(marks));
            marks.max().unwrap_or(Timestamp::MIN)
        };
        let collected = greatest(|marks| marks.collected);
        let sealed = greatest(|marks| marks.sealed);
        let join = |collected| {
            let join = RequestKind::Join {
                boot,
                sealed,
                collected,
            };
            self.joins(Request::of(join).in_era(era))
        };
        if joiner.marks.collected < collected {
            // From here on no earlier rejoin opens it, whose copies it may drop.
            join(joiner.marks.collected).await?;
            self.forget(collected, era).await?;
        }
        join(collected).await?;
        if !peers.is_empty() {
            let copying = Copying {
                coordinator: &self.coordinator,
                joiner: self.place,
                peers,
                needed,
                settles: needed == Coordinator::<N, W, R, T>::REJOIN_PEERS,
                era,
                collected,
                progress: &self.progress,
            };
            copying.run().await?;
        }
        self.joins(Request::of(RequestKind::Open { boot }).in_era(era))
            .await
    }

    /// Has the replica drop what it was found with from before a mark of its peers.
    async fn forget(&self, before: Timestamp, era: Era) -> Result<(), RejoinError> {
        let mut left = Some(KeyRange::from(..));
        while let Some(range) = left {
            let mut forget = Request::of(RequestKind::Forget {
                range: range.clone(),
                max_keys: SWEPT_AT_ONCE,
                before,
            })
            .in_era(era);
            let answer = call_one(&self.coordinator.inner, self.place, &mut forget).await;
            let forgot = match answer.map(told) {
                Ok(Some(Told::Swept(forgot))) if forgot.is_of(&range) => forgot,
                Ok(_) => return Err(self.not_taken(ReplicaFailure::Mismatched)),
                Err(source) => return Err(self.not_taken(source)),
            };
            left = forgot.upto.map(|upto| range.starting_at(upto));
        }
        Ok(())
    }

    /// From how many peers it copies. Where a loss is accepted, it is what is lost, and
    /// not what one of these still has that was busy with another rejoin.
    fn needed(&self, told: &Statuses) -> usize {
        let needed = Coordinator::<N, W, R, T>::REJOIN_PEERS;
        let sound = told.iter().flatten().filter(|it| !it.marks.is_joining);
        match self.accepts_loss {
            true => needed.min(sound.count()),
            false => needed,
        }
    }

    async fn joins(&self, request: Request) -> Result<(), RejoinError> {
        let joined = call_one_marks(&self.coordinator.inner, self.place, request);
        joined.await.map(drop).map_err(|it| self.not_taken(it))
    }

    fn not_taken(&self, source: ReplicaFailure) -> RejoinError {
        let place = self.place;
        RejoinError::NotTaken { place, source }
    }
}

fn are_enough(peers: &[usize], needed: usize) -> Result<(), RejoinError> {
    match peers.len() {
        found if found < needed => Err(RejoinError::TooFewPeers { found, needed }),
        _ => Ok(()),
    }
}

/// Those who took note of an era, and knew of none as great.
async fn announce<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    peers: &[usize],
    era: Era,
) -> Vec<usize> {
    let announce = Request::of(RequestKind::Announce { era });
    let announcing = peers.iter().map(|peer| {
        let announcing = call_one_marks(inner, *peer, announce.clone());
        async move { announcing.await.map(|_| *peer).ok() }
    });
    join_all(announcing).await.into_iter().flatten().collect()
}

/// Those who have entered an era, and their marks.
async fn enter<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    peers: &[usize],
    era: Era,
) -> Vec<(usize, Marks)> {
    let entering = peers.iter().map(|peer| async move {
        let told = inner.status(*peer, Some(era)).await.ok()?;
        (told.marks.era == era && !told.marks.is_joining).then_some((*peer, told.marks))
    });
    join_all(entering).await.into_iter().flatten().collect()
}

impl<const N: usize, const W: usize, const R: usize, T> fmt::Debug for Rejoin<N, W, R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejoin")
            .field("place", &self.place)
            .field("progress", &self.progress.borrow())
            .finish_non_exhaustive()
    }
}
