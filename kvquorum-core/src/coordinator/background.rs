//! The bound on background work, and the counts of what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::telemetry::{Telemetry, in_current_span};

/// What one replica's background work came to, since the coordinator was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplicaStats {
    /// Calls to this replica that go on in the background now, after their
    /// operations were decided. Never more than the
    /// [bound](crate::CoordinatorBuilder::max_background).
    pub in_background: usize,
    /// Calls to this replica that were dropped unfinished: because the bound on
    /// background work was reached, or because there was no runtime, or no
    /// longer one, to carry them on.
    pub given_up: u64,
    /// Entries that this replica lacked, sent to it by a read and acked.
    pub repaired: u64,
    /// Entries that this replica lacked and that a read could not bring it.
    pub not_repaired: u64,
    /// Calls to this replica that ended in a panic of its transport, or of a store
    /// in this process.
    pub panicked: u64,
}

/// Background work of one coordinator and its clones, bounded for each replica
/// apart, so that one replica that hangs does not use up the room of another.
#[derive(Debug)]
pub(super) struct Background<const N: usize> {
    bound: usize,
    replicas: [Counters; N],
    /// Operations whose caller left before they were decided.
    orphans: Arc<Semaphore>,
    tasks: TaskTracker,
    telemetry: Arc<Telemetry<N>>,
}

#[derive(Debug, Default)]
struct Counters {
    in_background: AtomicUsize,
    given_up: AtomicU64,
    repaired: AtomicU64,
    not_repaired: AtomicU64,
    panicked: AtomicU64,
}

impl<const N: usize> Background<N> {
    pub(super) fn new(bound: usize, telemetry: Arc<Telemetry<N>>) -> Self {
        let tasks = TaskTracker::new();
        // Closed, it still takes tasks, and can be waited for at any time.
        tasks.close();
        Self {
            bound,
            replicas: std::array::from_fn(|_| Counters::default()),
            orphans: Arc::new(Semaphore::new(bound.min(Semaphore::MAX_PERMITS))),
            tasks,
            telemetry,
        }
    }

    pub(super) fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(in_current_span(task), runtime);
    }

    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Waits until there is no task.
    pub(super) async fn drain(&self) {
        self.tasks.wait().await;
    }

    /// Takes room for one more call to this replica, if there is any. It is to be
    /// [released](Self::release).
    pub(super) fn reserve(&self, replica: usize, is_straggler: bool) -> bool {
        let is_reserved = self.replicas.get(replica).is_some_and(|counters| {
            let more = |taken: usize| (taken < self.bound).then(|| taken.saturating_add(1));
            let counter = &counters.in_background;
            counter
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
                .is_ok()
        });
        if is_reserved {
            self.telemetry.background_begins(replica, is_straggler);
        }
        is_reserved
    }

    /// Gives back the room of a call.
    pub(super) fn release(&self, replica: usize) {
        if let Some(counters) = self.replicas.get(replica) {
            counters.in_background.fetch_sub(1, Ordering::Relaxed);
            self.telemetry.background_ends(replica);
        }
    }

    /// Room for one more operation whose caller left, if there is any.
    pub(super) fn adopt(&self) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.orphans).try_acquire_owned().ok();
        self.telemetry.abandoned(room.is_some());
        room
    }

    pub(super) fn count_given_up(&self, replica: usize) {
        self.count(replica, |counters| &counters.given_up);
        self.telemetry.given_up(replica);
    }

    pub(super) fn count_repaired(&self, replica: usize) {
        self.count(replica, |counters| &counters.repaired);
        self.telemetry.repaired(replica, true);
    }

    pub(super) fn count_not_repaired(&self, replica: usize) {
        self.count(replica, |counters| &counters.not_repaired);
        self.telemetry.repaired(replica, false);
    }

    pub(super) fn count_panicked(&self, replica: usize) {
        self.count(replica, |counters| &counters.panicked);
    }

    fn count(&self, replica: usize, counter: impl Fn(&Counters) -> &AtomicU64) {
        if let Some(counters) = self.replicas.get(replica) {
            counter(counters).fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self) -> [ReplicaStats; N] {
        self.replicas.each_ref().map(|counters| ReplicaStats {
            in_background: counters.in_background.load(Ordering::Relaxed),
            given_up: counters.given_up.load(Ordering::Relaxed),
            repaired: counters.repaired.load(Ordering::Relaxed),
            not_repaired: counters.not_repaired.load(Ordering::Relaxed),
            panicked: counters.panicked.load(Ordering::Relaxed),
        })
    }
}
