//! The settings of a coordinator.

use std::sync::Arc;
use std::time::Duration;

use super::background::Background;
use super::hints::Hints;
use super::introductions::Introductions;
use super::many::DEFAULT_AT_ONCE;
use super::rotation::Rotation;
use super::scan::DEFAULT_PAGE;
use super::update::Turns;
use super::{Coordinator, Inner, Repair, Settings};
use crate::clock::{Clock, SystemClock, WallClock};
use crate::entry::WriterId;
use crate::telemetry::Telemetry;
use crate::transport::Transport;

/// Half of what replicas admit: see [`CoordinatorBuilder::max_drift`].
const DEFAULT_FOLLOWED_DRIFT: Duration = Duration::from_secs(30);

/// The settings of a [`Coordinator`].
#[must_use]
pub struct CoordinatorBuilder<const N: usize, const W: usize, const R: usize, T> {
    transports: [T; N],
    wall: Box<dyn WallClock>,
    max_drift: Duration,
    max_background: usize,
    cluster: Option<String>,
    pub(super) settings: Settings,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> CoordinatorBuilder<N, W, R, T> {
    pub(super) fn new(transports: [T; N]) -> Self {
        Self {
            transports,
            wall: Box::new(SystemClock),
            max_drift: DEFAULT_FOLLOWED_DRIFT,
            max_background: 256,
            cluster: None,
            settings: Settings {
                writer: WriterId::random(),
                time_limit: Duration::from_secs(2),
                max_attempts: 3,
                repair: Repair::Background,
                page: DEFAULT_PAGE,
                max_at_once: DEFAULT_AT_ONCE,
            },
        }
    }

    /// How long a call to one replica may take before it is dropped and counts
    /// as failed. 2 seconds by default; more than a year is taken for a year.
    pub fn time_limit(mut self, time_limit: Duration) -> Self {
        self.settings.time_limit = time_limit;
        self
    }

    /// How many times an entry is stamped at the most, the first included,
    /// when it finds itself superseded (rule W-SUPERSEDED), or a greater ballot
    /// promised (rule L-PROMISE), or when its clock was ahead and has stepped back
    /// (rule C-DRIFT). 3 by default.
    ///
    /// Where any two sets of W replicas meet, `2 W > N`, and no
    /// [register](crate::Registers) is at the same key, and clocks are right, no write
    /// needs more than 2: the acks of the first attempt tell of all that was
    /// acknowledged before, as the query phase of a multi-writer register does (Lynch and
    /// Shvartsman, *Robust emulation of shared memory using dynamic
    /// quorum-acknowledged broadcasts*, 1997, section 3). With 1, a write that
    /// is superseded fails. 0 is taken for 1.
    pub fn max_attempts(mut self, max: u32) -> Self {
        self.settings.max_attempts = max.max(1);
        self
    }

    /// The bound on background work: for each replica, how many calls may go
    /// on after their operation was decided; and besides, how many operations
    /// may go on whose callers left before they were decided. 256 by default.
    ///
    /// So there are never more than `(N + 1) × max_background` background tasks,
    /// each with at most N calls, and each call holds its key and value until
    /// it ends. The page of a scan is such a task as well: it holds what it has
    /// read until all its replicas have answered, and has up to 64 calls to each
    /// that is behind.
    ///
    /// A call beyond the bound is dropped when its operation is decided: it may or
    /// may not reach its replica, and is counted as
    /// [given up](crate::ReplicaStats::given_up). A repair for which there is no room
    /// is not sent, and counted as [not
    /// repaired](crate::ReplicaStats::not_repaired).
    pub fn max_background(mut self, max: usize) -> Self {
        self.max_background = max;
        self
    }

    /// Repairs replicas that a read finds behind in the background. The
    /// default.
    pub fn repair_in_background(mut self) -> Self {
        self.settings.repair = Repair::Background;
        self
    }

    /// A read returns only once W replicas are known to hold what it returns,
    /// so that such reads never go back: a `get` that starts after another
    /// blocking one has returned sees the same entry or a greater one. (The write-back of
    /// Attiya, Bar-Noy and Dolev, *Sharing Memory Robustly in Message-Passing
    /// Systems*, 1995, section 3, done only where it is needed.)
    ///
    /// Where an update of a [register](crate::Registers) has not come to its end,
    /// replicas that made it a promise may refuse the repair, and the read then fails:
    /// read such keys as registers.
    ///
    /// It needs overlapping quorums, and does not compile without
    /// `R + W > N`.
    pub fn repair_blocking(mut self) -> Self {
        let () = Coordinator::<N, W, R, T>::QUORUMS_OVERLAP;
        self.settings.repair = Repair::Blocking;
        self
    }

    /// Reads repair nothing.
    pub fn repair_off(mut self) -> Self {
        self.settings.repair = Repair::Off;
        self
    }

    /// The id that versions carry. Random by default. No two coordinators should
    /// write under the same id, not even one after the other: a process that starts
    /// again takes a new one. If they do, a version may be used
    /// twice; all replicas still agree on which of the two entries wins.
    pub fn writer(mut self, writer: WriterId) -> Self {
        self.settings.writer = writer;
        self
    }

    /// The cluster that all replicas have to [belong to](crate::Replica::with_cluster).
    /// One of another cluster, or of none, is not counted: it may be a node that was
    /// given the address of one that is gone. By default any cluster is accepted.
    pub fn cluster(mut self, name: impl Into<String>) -> Self {
        self.cluster = Some(name.into());
        self
    }

    /// The wall clock that timestamps are taken from. The system's by default.
    pub fn wall_clock(mut self, wall: impl WallClock) -> Self {
        self.wall = Box::new(wall);
        self
    }

    /// How far ahead of the wall clock a version that comes in an answer may
    /// be for this coordinator's clock to follow it. Half of
    /// [`DEFAULT_MAX_DRIFT`](crate::DEFAULT_MAX_DRIFT), 30 seconds, by default.
    ///
    /// Keep it well below what [replicas admit](crate::Limits::max_drift). Otherwise
    /// one entry can pull this clock to the limit, and every replica whose clock is
    /// slightly behind refuses its writes. With half of the limit, clocks may differ by
    /// the other half. A version further ahead costs the
    /// writes of its own key one more attempt each, and nothing else.
    pub fn max_drift(mut self, max_drift: Duration) -> Self {
        self.max_drift = max_drift;
        self
    }

    /// The coordinator.
    pub fn build(self) -> Coordinator<N, W, R, T> {
        let clock = Clock::new(self.wall, self.max_drift, self.settings.writer);
        let names = self.transports.each_ref().map(Transport::name);
        let telemetry = Arc::new(Telemetry::new(names));
        Coordinator {
            inner: Arc::new(Inner {
                transports: self.transports,
                clock,
                settings: self.settings,
                background: Background::new(self.max_background, Arc::clone(&telemetry)),
                rotation: Rotation::default(),
                introductions: Introductions::new(self.cluster, Coordinator::<N, W, R, T>::QUORUMS),
                hints: Hints::new(Arc::clone(&telemetry)),
                turns: Turns::default(),
                telemetry,
            }),
        }
    }
}

impl<const N: usize, const W: usize, const R: usize, T> std::fmt::Debug
    for CoordinatorBuilder<N, W, R, T>
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoordinatorBuilder")
            .field("n", &N)
            .field("w", &W)
            .field("r", &R)
            .finish_non_exhaustive()
    }
}
