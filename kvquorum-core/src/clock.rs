//! Time: where timestamps come from.
//!
//! The wall clock is the caller's to replace. [`Clock`] turns it into
//! timestamps that only rise.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::alone::Alone;
use crate::entry::Timestamp;

/// How far ahead of one's own clock a timestamp is taken for a possible one:
/// one minute, for replicas and coordinators alike.
pub const DEFAULT_MAX_DRIFT: Duration = Duration::from_secs(60);

/// A wall clock. It may be wrong, step in either direction, and stand still.
///
/// Any `Fn() -> u64` is one, so that a test or a simulation brings its own:
///
/// ```
/// use kvquorum_core::{Clock, DEFAULT_MAX_DRIFT};
///
/// let stopped = Clock::new(|| 1_000, DEFAULT_MAX_DRIFT);
/// let first = stopped.tick().unwrap();
/// let second = stopped.tick().unwrap();
/// assert!(second > first);
/// assert_eq!(second.millis(), 1_000);
/// ```
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_millis(&self) -> u64;

    /// A reading of lately: that of now, or of some milliseconds before where
    /// that is quicker to have.
    fn lately_millis(&self) -> u64 {
        self.now_millis()
    }
}

impl<F: Fn() -> u64 + Send + Sync + 'static> WallClock for F {
    fn now_millis(&self) -> u64 {
        self()
    }
}

/// The operating system's wall clock. Before 1970 it reads 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now_millis(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, whole_millis)
    }

    /// As of the kernel's last tick, which is read in a tenth of the time.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn lately_millis(&self) -> u64 {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::RealtimeCoarse)).map_or(0, whole_millis)
    }
}

/// A duration in milliseconds, as far as a `u64` goes.
pub(crate) fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A hybrid logical clock (Kulkarni et al., *Logical Physical Clocks*, 2014,
/// algorithm of section 3): as close to the wall clock as it can be, and
/// always rising.
///
/// **C-MONOTONIC.** Every timestamp of [`tick`](Self::tick) is greater than
/// all before it and than all that were observed, whatever the wall clock
/// does.
///
/// What it observes has a bound, which the paper does not have: a timestamp
/// further ahead of the wall clock than `max_drift` is not followed. Without
/// the bound one entry from the future, held by a single replica whose clock
/// was once wrong, would carry every clock that reads it into the future, and
/// the other replicas would then refuse all that those clocks stamp.
/// [`tick_past`](Self::tick_past) and [`confirm`](Self::confirm) let a clock
/// that is itself behind catch up even so, once replicas have vouched for the
/// later time.
///
/// A wall clock that steps far into the future takes the clock with it for good,
/// as timestamps only rise: once it is set right, replicas refuse all that the
/// clock stamps, until they have caught up. The way out is a new clock, and so a
/// new coordinator.
pub struct Clock {
    wall: Box<dyn WallClock>,
    max_drift_millis: u64,
    /// The bits of the greatest timestamp given out or observed.
    last: Alone<AtomicU64>,
    /// How many timestamps were lent.
    lent: AtomicU64,
    /// The bits of a greatest timestamp from before a restart that was too far
    /// ahead to be observed, raised by those lent past it since; 0 for none.
    floor: AtomicU64,
}

/// The last timestamp that a clock gives out by itself: a minute before the
/// greatest. In between is room for as many threads as there may be to step past
/// it together, and to be told that the clock is exhausted.
const LAST: u64 = u64::MAX - (1 << 32);

/// A timestamp for a new entry.
pub(crate) struct Stamp {
    pub(crate) timestamp: Timestamp,
    /// Whether it is past a floor that no replica has vouched for yet.
    pub(crate) past_floor: bool,
}

/// A clock has no timestamps left: it stands a minute before the greatest there
/// is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock has no timestamps left")]
pub struct ClockExhausted;

impl Clock {
    /// A clock over a wall clock. `max_drift` bounds what
    /// [`observe`](Self::observe) follows.
    pub fn new(wall: impl WallClock, max_drift: Duration) -> Self {
        Self::over(Box::new(wall), max_drift)
    }

    pub(crate) fn over(wall: Box<dyn WallClock>, max_drift: Duration) -> Self {
        Self {
            wall,
            max_drift_millis: whole_millis(max_drift),
            last: Alone::default(),
            lent: AtomicU64::new(0),
            floor: AtomicU64::new(0),
        }
    }

    /// The next timestamp: the wall clock's, or the one after the last where
    /// the wall clock is not past it.
    pub fn tick(&self) -> Result<Timestamp, ClockExhausted> {
        let now = Timestamp::saturating_from_millis(self.wall.now_millis());
        let now = now.to_bits().min(LAST);
        // One step and no look before it: this is all that the writes of many
        // threads have to wait for each other for. Relaxed is enough, as one
        // atomic variable has one order of changes, and nothing else is
        // published by it.
        let Alone(last) = &self.last;
        let step = || last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut tick = step();
        if tick < now {
            // The wall clock is past it, and one of those who see that sets it.
            let before = last.fetch_max(now, Ordering::Relaxed);
            tick = if before < now { now } else { step() };
        }
        if tick > LAST {
            // Back from where others may have stepped past it, too.
            last.store(LAST, Ordering::Relaxed);
            return Err(ClockExhausted);
        }
        Ok(Timestamp::from_bits(tick))
    }

    /// A timestamp greater than `seen`, and than all that this clock gave out
    /// or observed before.
    ///
    /// Where `seen` is too far ahead to be [observed](Self::observe), a
    /// timestamp after `seen` is lent without moving the clock: should the
    /// replicas refuse it too, the clock still stands where it was.
    /// [`confirm`](Self::confirm) it once they have admitted it. No timestamp
    /// after the same `seen` is lent twice, and each is greater than the one
    /// before.
    pub fn tick_past(&self, seen: Timestamp) -> Result<Timestamp, ClockExhausted> {
        if self.observe(seen) {
            self.tick()
        } else {
            self.lend_past(seen)
        }
    }

    /// A timestamp past `seen`, and past all that were lent so before.
    fn lend_past(&self, seen: Timestamp) -> Result<Timestamp, ClockExhausted> {
        // Counted with a floor, too: once that is forgotten, none is lent again.
        let earlier = self.lent.fetch_add(1, Ordering::Relaxed);
        // Only while the clock has not reached it, and not for one key's future
        // beyond it, which is none of another's.
        let last = self.last.0.load(Ordering::Relaxed);
        let past_floor = |floor: u64| match floor {
            floor if floor <= last || floor < seen.to_bits() => None,
            floor => floor.checked_add(1),
        };
        let lent = match self
            .floor
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, past_floor)
        {
            Ok(floor) => past_floor(floor),
            Err(_) => {
                let next = seen.to_bits().checked_add(1);
                next.and_then(|next| next.checked_add(earlier))
            }
        };
        lent.map(Timestamp::from_bits).ok_or(ClockExhausted)
    }

    /// Has all later [stamps](Self::stamp) come after a timestamp from before a
    /// restart.
    pub(crate) fn resume_after(&self, stored: Timestamp) {
        if !self.observe(stored) {
            self.floor.fetch_max(stored.to_bits(), Ordering::Relaxed);
        }
    }

    /// A timestamp past all before it and past the floor.
    ///
    /// As long as the floor is too far ahead to be [observed](Self::observe),
    /// the clock stands still and timestamps past the floor are lent, as
    /// [`tick_past`](Self::tick_past) does: [`confirm`](Self::confirm) one that
    /// replicas have admitted, or [`forget_floor`](Self::forget_floor).
    pub(crate) fn stamp(&self) -> Result<Stamp, ClockExhausted> {
        let floor = Timestamp::from_bits(self.floor.load(Ordering::Relaxed));
        if floor > Timestamp::MIN
            && !self.observe(floor)
            && let Ok(timestamp) = self.lend_past(floor)
        {
            return Ok(Stamp {
                timestamp,
                past_floor: true,
            });
        }
        Ok(Stamp {
            timestamp: self.tick()?,
            past_floor: false,
        })
    }

    /// Takes the floor for the mistake of a clock that was once wrong.
    pub(crate) fn forget_floor(&self) {
        self.floor.store(0, Ordering::Relaxed);
    }

    /// Makes all later timestamps greater than `seen`, unless it is further
    /// ahead of the wall clock than the bound. Tells whether it was followed.
    pub fn observe(&self, seen: Timestamp) -> bool {
        // What is not ahead of this clock needs no look at the wall clock.
        if seen.to_bits() <= self.last.0.load(Ordering::Relaxed) {
            return true;
        }
        let latest = self.wall.now_millis().saturating_add(self.max_drift_millis);
        let plausible = seen.millis() <= latest;
        if plausible {
            self.confirm(seen);
        }
        plausible
    }

    /// Makes all later timestamps greater than one that a quorum of replicas
    /// admitted, however far ahead it is: it is this clock that is behind.
    pub fn confirm(&self, admitted: Timestamp) {
        // The usual case, in which it is this clock's own, is but a look.
        if admitted.to_bits() > self.last.0.load(Ordering::Relaxed) {
            let admitted = admitted.to_bits().min(LAST);
            self.last.0.fetch_max(admitted, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = Timestamp::from_bits(self.last.0.load(Ordering::Relaxed));
        write!(f, "Clock(last {last})")
    }
}
