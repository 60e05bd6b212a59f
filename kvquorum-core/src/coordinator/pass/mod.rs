//! Comparing replicas over a range, and bringing each what it lacks: the repair pass.
//!
//! `walk` says what is compared next, `compare` and `listed` decide by what replicas
//! told, `mend` brings them what they lack, `caller` makes the calls, `pace` bounds
//! how fast, and `passes` does it again and again.

mod caller;
mod compare;
mod listed;
mod mend;
mod pace;
mod passes;
mod report;
mod settings;
mod walk;

use std::fmt;

use tokio::time::Instant;

pub use passes::Passes;
pub use report::{PassCursor, PassProgress, PassReport, ReplicaPass};
pub use settings::PassSettings;

use super::{Coordinator, Inner};
use crate::random;
use crate::range::KeyRange;
use crate::transport::Transport;
use caller::Caller;
pub(super) use pace::Pace;
use report::SoFar;
use walk::Walk;

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// A pass over a range: compares what all N replicas hold there, and sends each
    /// what it lacks. So they converge without being read: the anti-entropy of Dynamo,
    /// by ranges (Meyer, *Range-Based Set Reconciliation*, 2023).
    ///
    /// - **P-CONVERGE.** Where the [report](PassReport::is_complete) says so, every
    ///   replica holds at least whatever any of them held under each key of the range
    ///   when the pass began, tombstones included. Entries keep their versions.
    /// - **P-HONEST.** A replica that did not answer, or did not take what it lacked, is
    ///   not called [done](ReplicaPass::is_done). The pass goes on with the others.
    /// - **P-RESUME.** A pass that is cut goes on from its [cursor](Pass::cursor), and
    ///   compares no more than one [window](PassSettings::window) again.
    ///
    /// What it sends is in proportion to the difference, and not to the map: equal
    /// windows cost a [fingerprint](crate::Fingerprint) each. But every replica reads
    /// all of the range. It asks for a key's entry from one replica, and writes it to
    /// those that lack it, as a read repair does. Several passes at the same time, of
    /// one coordinator or of many, do no harm.
    ///
    /// A key whose repair is refused because an update of a
    /// [register](crate::Registers) has not come to its end is settled, as a read of the
    /// register would.
    ///
    /// Nothing is done before it is polled.
    ///
    /// ```
    /// # use kvquorum_core::{Coordinator, PassSettings, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let new = || Replica::new(MemStore::new()).of_new_cluster();
    /// # let [a, b, fresh, lost] = [new(), new(), new(), new()];
    /// let before = Coordinator::<3, 3, 1, _>::new([a.clone(), b.clone(), lost]);
    /// before.put("tea", "green").await?;
    ///
    /// let map = Coordinator::<3, 2, 2, _>::new([a, b, fresh]);
    /// let report = map.pass(.., PassSettings::default()).run().await;
    /// assert!(report.is_complete());
    /// assert_eq!(report.progress.repaired, [0, 0, 1]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Bounds
    ///
    /// It holds one window's fingerprints or at most 1,024 versions of each replica, and
    /// [`max_at_once`](crate::CoordinatorBuilder::max_at_once) entries beside one
    /// [page](crate::CoordinatorBuilder::page); each replica does no more for a request
    /// than its [limits](crate::Limits::max_hashed_keys) say. How fast it goes is set by
    /// [`PassSettings`].
    pub fn pass(&self, range: impl Into<KeyRange>, settings: PassSettings) -> Pass<N, W, R, T> {
        let nothing = SoFar {
            is_done: true,
            id: None,
        };
        Pass::new(self.clone(), settings, range.into(), [nothing; N])
    }

    /// Goes on with a pass that was cut (rule P-RESUME), whichever coordinator of the
    /// same replicas, in the same order, began it.
    pub fn resume_pass(&self, cursor: PassCursor, settings: PassSettings) -> Pass<N, W, R, T> {
        let unknown = SoFar {
            is_done: false,
            id: None,
        };
        let before = |replica| cursor.replicas.get(replica).copied().unwrap_or(unknown);
        let before = std::array::from_fn(before);
        Pass::new(self.clone(), settings, cursor.rest, before)
    }

    /// Passes over the whole map, one after the other, at an
    /// [interval](PassSettings::every) with jitter.
    pub fn passes(&self, settings: PassSettings) -> Passes<N, W, R, T> {
        Passes::new(self.clone(), settings)
    }
}

impl<T, const N: usize> Inner<T, N> {
    /// A number that changes when the coordinator serves puts, gets or updates.
    pub(super) fn served(&self) -> u64 {
        let reads = self.rotation.total();
        reads.wrapping_add(self.clock.latest().to_bits())
    }
}

/// A pass under way: what [`Coordinator::pass`] returns.
pub struct Pass<const N: usize, const W: usize, const R: usize, T: Transport> {
    walk: Walk<N, W, R, T>,
    /// `None` before it is begun, and once it has ended.
    began: Option<Instant>,
    /// What was known of each replica when it was cut.
    before: [SoFar; N],
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Pass<N, W, R, T> {
    fn new(
        coordinator: Coordinator<N, W, R, T>,
        settings: PassSettings,
        range: KeyRange,
        before: [SoFar; N],
    ) -> Self {
        let caller = Caller::new(coordinator, settings.tries);
        let hash_key = settings.hash_key.unwrap_or_else(random_key);
        Self {
            walk: Walk::new(caller, &settings, hash_key, range),
            began: None,
            before,
        }
    }

    /// Does the next step of the pass; `false` at its end, and where fewer than two
    /// replicas can be compared. A step is a few round trips. It can be dropped, and is
    /// then done again by the next call.
    pub async fn step(&mut self) -> bool {
        self.began.get_or_insert_with(Instant::now);
        self.walk.step().await
    }

    /// Does what is left of the pass.
    pub async fn run(mut self) -> PassReport {
        while self.step().await {}
        self.report()
    }

    /// How far it is.
    pub fn progress(&self) -> PassProgress {
        self.walk.progress()
    }

    /// Where to [go on](Coordinator::resume_pass) if it is cut now; `None` at the end.
    pub fn cursor(&self) -> Option<PassCursor> {
        let rest = self.walk.rest()?;
        let replicas = self.so_far().to_vec();
        Some(PassCursor { rest, replicas })
    }

    /// What it came to so far. A pass that was cut is not done for any replica.
    pub fn report(mut self) -> PassReport {
        self.end()
    }

    fn end(&mut self) -> PassReport {
        let is_over = self.walk.rest().is_none();
        let progress = self.progress();
        let is_done = self.so_far().map(|replica| is_over && replica.is_done);
        let names = self.walk.caller.coordinator.names();
        let parts = names.into_iter().zip(&mut self.walk.states).zip(is_done);
        let repaired = progress.repaired.iter().copied();
        let replicas = parts
            .zip(repaired)
            .map(|(((name, part), is_done), repaired)| ReplicaPass {
                name,
                is_done,
                repaired,
                not_repaired: part.not_repaired,
                failure: part.failure.take(),
            });
        let began = self.began.take();
        let report = PassReport {
            replicas: replicas.collect(),
            took: began.map_or_else(Default::default, |began| began.elapsed()),
            progress,
            collection: None,
        };
        if began.is_some() {
            let inner = &self.walk.caller.coordinator.inner;
            let now = inner.clock.wall_millis();
            inner.telemetry.pass_ended(&report, now);
        }
        report
    }

    /// What is known of each replica.
    fn so_far(&self) -> [SoFar; N] {
        let caller = &self.walk.caller;
        let mut replicas = self.before;
        let known = replicas.iter_mut().zip(&self.walk.states).enumerate();
        for (replica, (so_far, state)) in known {
            let id = caller.id(replica).or(so_far.id);
            let is_same = so_far.id.is_none() || id == so_far.id;
            so_far.is_done &= is_same && !state.is_behind && !caller.is_out(replica);
            so_far.id = id;
        }
        replicas
    }
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Drop for Pass<N, W, R, T> {
    /// What it did is counted, though nobody wants its report.
    fn drop(&mut self) {
        if self.began.is_some() {
            self.end();
        }
    }
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> fmt::Debug for Pass<N, W, R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}

fn random_key() -> u128 {
    u128::from(random::number()) << 64 | u128::from(random::number())
}
