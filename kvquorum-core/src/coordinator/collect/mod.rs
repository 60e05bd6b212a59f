//! Collecting deletes: rules G-SEAL, G-LEVEL, G-COLLECT and G-VOID.
//!
//! `mod.rs` goes through a round, and `report` says what it came to. What a replica does
//! is in the rule book, `rules.rs` and `rules/marks.rs`; how answers count together is in
//! the tallies.

mod report;

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

pub use report::{CollectError, Collected, CollectedReplica};

use super::eras::{call_one_marks, told};
use super::one::call_one;
use super::pass::{Pace, PassReport, PassSettings};
use super::{Bounds, Coordinator, Inner, Left};
use crate::clock::whole_millis;
use crate::entry::{Entry, Key, Timestamp};
use crate::marks::Era;
use crate::outcome::ReplicaFailure;
use crate::range::KeyRange;
use crate::request::{Request, RequestKind};
use crate::told::{Status, Swept, Told};
use crate::transport::Transport;

/// How many records are swept with one request at the most. A durable store commits what it
/// drops of them together, and other writes wait for that.
pub(super) const SWEPT_AT_ONCE: u64 = 1024;

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// A pass over the whole map that also collects deletes: after it, tombstones that
    /// were written longer ago than the [lag](PassSettings::collect_lag) are gone from all
    /// replicas. What it came to is in the report's
    /// [`collection`](PassReport::collection).
    ///
    /// 1. **G-SEAL.** All N replicas are sealed: from now on each refuses new entries, and
    ///    ballots of updates, that are stamped before a time, which is in the past. Who
    ///    has stamped one stamps again.
    /// 2. **G-LEVEL.** A [pass](Self::pass) brings each replica the greatest entry under
    ///    each key. Nothing older than the seal can come in behind it.
    /// 3. **G-COLLECT.** Each replica that has not started anew since it was sealed is
    ///    told that, and keeps it as its [mark](crate::Marks::collected). What is a
    ///    tombstone from before the mark counts no more there, and is dropped,
    ///    [lazily](RequestKind::Sweep). Repairs with older entries are refused.
    ///
    /// A collected delete is never undone. No timing is assumed for that: old messages may
    /// arrive whenever they like. Even a replica that was given back its data out of an
    /// old backup does not undo one, as long as one replica of each read quorum has kept
    /// its own:
    ///
    /// - **G-VOID.** Answers tell the mark. What is stamped before the greatest mark of the
    ///   answers to a read counts only from answers of that mark.
    ///
    /// Values that have [expired](Self::put_with_ttl) by the clocks of all replicas are
    /// deleted as well, and then collected as other deletes are.
    ///
    /// While a replica is away, or has yet to [rejoin](Self::rejoin), nothing is
    /// collected: [`CollectError::Waiting`] says for which one. A round that ends half-way
    /// does no harm, and the next one begins anew. One that was just deleting an expired
    /// value may leave a promise behind, as an update does that was cut: older entries are
    /// not brought past it, and where the replicas hold unlike ones, a get with blocking
    /// repair fails, until the next write or pass. Any number of coordinators may collect at
    /// the same time.
    ///
    /// With `R + W ≤ N` or `2 W ≤ N` no pass can settle what a replica was given back out of
    /// an old backup: from then on rounds end with [`CollectError::NotLevel`], until that
    /// replica has rejoined with an empty store.
    ///
    /// Writes whose clock is behind by more than the lag take a second round trip from then
    /// on. Clients that bring their own timestamps are refused where those are older than
    /// the seal.
    ///
    /// The idea is the garbage collection of Rystsov, *CASPaxos* (2018), section 3.1, with
    /// the replicas' seal in the place of the proposers' ages.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use kvquorum_core::{Coordinator, PassSettings, Replica, Store};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let map = Coordinator::<3, 2, 2, _>::new(replicas.clone());
    /// map.put("tea", "green").await?;
    /// map.delete("tea").await?;
    /// assert!(replicas[0].store().get(&"tea".into()).await?.is_some());
    ///
    /// // Without a lag, what was deleted until a moment ago is collected.
    /// # tokio::time::sleep(Duration::from_millis(2)).await;
    /// let settings = PassSettings::default().collect_lag(Duration::ZERO);
    /// let report = map.collect(settings).await;
    /// assert!(report.collection.is_some_and(|collected| collected.is_ok()));
    /// assert_eq!(replicas[0].store().get(&"tea".into()).await?, None);
    /// # Ok(()) }
    /// ```
    pub async fn collect(&self, settings: PassSettings) -> PassReport {
        let sealed = self.seal(&settings).await;
        let mut report = self.pass(.., settings).run().await;
        self.end_collection(sealed, &settings, &mut report).await;
        report
    }

    /// Seals all replicas, in one era.
    pub(super) async fn seal(&self, settings: &PassSettings) -> Result<Sealed<N>, CollectError> {
        let inner = &self.inner;
        let mut clocks = vec![inner.clock.wall_millis()];
        for (place, told) in inner.statuses().await.into_iter().enumerate() {
            let Status {
                now_millis, marks, ..
            } = self.waits_for(place, told)?;
            if marks.is_joining {
                return Err(self.waiting(place, ReplicaFailure::Refused(marks.refusal())));
            }
            inner.introductions.observe_era(marks.era);
            clocks.push(now_millis);
        }
        // No replica takes a seal past its clock.
        let least = clocks.into_iter().min().unwrap_or(0);
        let lag = whole_millis(settings.collect_lag);
        let upto = Timestamp::saturating_from_millis(least.saturating_sub(lag));
        let era = inner.introductions.era();
        let seal = Request::of(RequestKind::Seal { to: upto }).in_era(era);
        let sealing = (0..N).map(|replica| status_after(inner, replica, seal.clone()));
        let mut sealed = Sealed {
            era,
            upto,
            boots: [0; N],
            now_millis: u64::MAX,
        };
        let told = join_all(sealing).await.into_iter().enumerate();
        for ((place, told), boot) in told.zip(&mut sealed.boots) {
            let told = self.waits_for(place, told)?;
            *boot = told.boot;
            sealed.now_millis = sealed.now_millis.min(told.now_millis);
        }
        Ok(sealed)
    }

    /// Has replicas collect what a pass has brought to all of them, and drop what counts
    /// no more.
    pub(super) async fn end_collection(
        &self,
        sealed: Result<Sealed<N>, CollectError>,
        settings: &PassSettings,
        report: &mut PassReport,
    ) {
        let collected = match sealed {
            Err(error) => Err(error),
            Ok(_) if !report.is_complete() => Err(CollectError::NotLevel),
            // What was found before a replica lost its data may be there no more.
            Ok(sealed) if sealed.era != self.inner.introductions.era() => {
                Err(CollectError::Rejoined)
            }
            Ok(sealed) => Ok(self.collect_sealed(sealed, settings).await),
        };
        self.inner.telemetry.collection_ended(&collected);
        report.collection = Some(collected);
    }

    async fn collect_sealed(&self, sealed: Sealed<N>, settings: &PassSettings) -> Collected {
        let collecting = (0..N).map(|replica| self.collect_one(replica, &sealed));
        let mut replicas = join_all(collecting).await;
        self.sweep(&mut replicas, &sealed, settings).await;
        Collected {
            upto: sealed.upto,
            replicas: replicas.into_iter().map(|it| it.swept).collect(),
        }
    }

    /// Has a replica take note of what it was brought up to.
    async fn collect_one(&self, replica: usize, sealed: &Sealed<N>) -> Sweeping {
        let inner = &self.inner;
        let boot = sealed.boots.get(replica).copied().unwrap_or(0);
        let to = sealed.upto;
        let request = Request::of(RequestKind::Collect { to, boot }).in_era(sealed.era);
        let failure = call_one_marks(inner, replica, request).await.err();
        let left = failure.is_none().then(|| KeyRange::from(..));
        let swept = CollectedReplica::new(inner.name(replica), failure);
        Sweeping { swept, left }
    }

    /// Has replicas drop what counts no more, and deletes what one of them tells has
    /// expired; a little at a time, and all together, so that few others meet it.
    async fn sweep(&self, replicas: &mut [Sweeping], sealed: &Sealed<N>, settings: &PassSettings) {
        let inner = &self.inner;
        // All hold the same: one of them tells what has expired, another each time.
        let teller = sealed.upto.millis().checked_rem(N as u64).unwrap_or(0);
        let teller = usize::try_from(teller).unwrap_or(0);
        let mut pace = Pace::new(settings);
        while replicas.iter().any(|it| it.left.is_some()) {
            pace.rest().await;
            let (began, served) = (Instant::now(), inner.served());
            let sweeping = replicas.iter_mut().enumerate().map(|(place, replica)| {
                let expired_by = match place == teller && Self::UPDATES {
                    true => sealed.now_millis,
                    false => 0,
                };
                sweep_part(inner, place, replica, expired_by, settings)
            });
            let parts = join_all(sweeping).await;
            let keys = parts.iter().map(|part| part.keys).max().unwrap_or(0);
            pace.count(began, keys, 0);
            let is_beside_others = parts.iter().any(|part| part.is_beside_others);
            pace.give_way(began, is_beside_others || inner.served() != served);
            let expired = parts.into_iter().flat_map(|part| part.expired).collect();
            let expired = self.expire(expired, sealed.now_millis).await;
            if let Some(Sweeping { swept, .. }) = replicas.get_mut(teller) {
                swept.expired = swept.expired.saturating_add(expired);
            }
        }
    }

    /// X-SLOWEST. Deletes values that have expired by the least of all replicas' clocks,
    /// each where it is still there. How many were.
    async fn expire(&self, keys: Vec<Key>, now_millis: u64) -> u64 {
        let expiring = keys.into_iter().map(|key| {
            let delete = move |held: Option<&Entry>| {
                let held = held.filter(|held| held.has_expired(now_millis));
                (held.map(|_| Left::NOTHING), held.is_some())
            };
            self.update_within(key, Bounds::DEFAULT, delete)
        });
        let expired = self.do_all(expiring).await.into_iter();
        let deleted = expired.filter(|done| matches!(done, Ok((_, true))));
        deleted.count() as u64
    }

    fn waits_for<A>(
        &self,
        place: usize,
        told: Result<A, ReplicaFailure>,
    ) -> Result<A, CollectError> {
        told.map_err(|source| self.waiting(place, source))
    }

    fn waiting(&self, place: usize, source: ReplicaFailure) -> CollectError {
        let replica = self.inner.name(place);
        CollectError::Waiting { replica, source }
    }
}

/// All replicas take nothing new that is stamped before a time.
pub(super) struct Sealed<const N: usize> {
    era: Era,
    upto: Timestamp,
    /// The start of each one's process.
    boots: [u64; N],
    /// The least of their clocks.
    now_millis: u64,
}

/// A replica that drops what counts no more.
struct Sweeping {
    swept: CollectedReplica,
    /// Where it has yet to; `None` once it has, or does not answer.
    left: Option<KeyRange>,
}

async fn status_after<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    replica: usize,
    mut request: Request,
) -> Result<Status, ReplicaFailure> {
    match told(call_one(inner, replica, &mut request).await?) {
        Some(Told::Status(status)) => Ok(status),
        _ => Err(ReplicaFailure::Mismatched),
    }
}

/// Has a replica drop what counts no more in the beginning of what is left.
async fn sweep_part<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    place: usize,
    Sweeping { swept, left }: &mut Sweeping,
    expired_by: u64,
    settings: &PassSettings,
) -> Swept {
    let Some(range) = left.take() else {
        return Swept::default();
    };
    let sweep = RequestKind::Sweep {
        range: range.clone(),
        max_keys: settings.window.min(SWEPT_AT_ONCE),
        expired_by,
    };
    let part = match call_until_told(inner, place, sweep, settings.tries).await {
        Ok(part) if part.is_of(&range) => part,
        told => {
            swept.failure = Some(told.err().unwrap_or(ReplicaFailure::Mismatched));
            return Swept::default();
        }
    };
    swept.dropped = swept.dropped.saturating_add(part.dropped);
    swept.tombstones = swept.tombstones.saturating_add(part.tombstones);
    *left = part.upto.clone().map(|upto| range.starting_at(upto));
    part
}

/// Calls again where a replica does not answer in time.
async fn call_until_told<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    replica: usize,
    sweep: RequestKind,
    tries: u32,
) -> Result<Swept, ReplicaFailure> {
    let mut request = Request::of(sweep);
    let mut tries = 1..tries.max(1);
    loop {
        match call_one(inner, replica, &mut request).await {
            Ok(response) => match told(response) {
                Some(Told::Swept(swept)) => return Ok(swept),
                _ => return Err(ReplicaFailure::Mismatched),
            },
            Err(ReplicaFailure::TimedOut(_)) if tries.next().is_some() => {}
            Err(failure) => return Err(failure),
        }
    }
}
