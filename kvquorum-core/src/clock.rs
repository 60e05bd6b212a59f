//! Time: where versions come from.
//!
//! The wall clock is the caller's to replace. [`Clock`] turns it into versions,
//! none of which it gives out twice.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::cache_padded::CachePadded;
use crate::entry::{Timestamp, Version, WriterId};
use crate::telemetry::ClockTelemetry;

/// How far ahead of its own clock a replica admits an entry by default: one
/// minute. A coordinator's clock follows half of it.
pub const DEFAULT_MAX_DRIFT: Duration = Duration::from_secs(60);

/// A wall clock. It may be wrong, step in either direction, and stand still.
///
/// Any `Fn() -> u64` is one, so that a test or a simulation brings its own:
///
/// ```
/// use kvquorum_core::WallClock;
///
/// let stopped = || 1_000;
/// assert_eq!(stopped.now_millis(), 1_000);
/// ```
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_millis(&self) -> u64;

    /// The time, possibly some milliseconds stale, where that is cheaper to read.
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
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn now_millis(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .map_or(0, whole_millis)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn now_millis(&self) -> u64 {
        kernel_millis(rustix::time::ClockId::Realtime)
    }

    /// As of the kernel's last tick, which is read in a tenth of the time.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn lately_millis(&self) -> u64 {
        kernel_millis(rustix::time::ClockId::RealtimeCoarse)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn kernel_millis(clock: rustix::time::ClockId) -> u64 {
    let time = rustix::time::clock_gettime(clock);
    let millis = time.tv_sec.saturating_mul(1000);
    u64::try_from(millis.saturating_add(time.tv_nsec / 1_000_000)).unwrap_or(0)
}

/// A duration in milliseconds, as far as a `u64` goes.
pub(crate) fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A hybrid logical clock (Kulkarni et al., *Logical Physical Clocks*, 2014,
/// algorithm of section 3) that gives out versions.
///
/// **C-MONOTONIC.** No version is given out twice. The clock's own timestamps
/// rise, whatever the wall clock does, until replicas refuse one as too far ahead;
/// then the clock [steps back](Self::step_back).
///
/// What it follows has a bound, which the paper does not have: a timestamp
/// further ahead of the wall clock than `max_drift` does not move it. Without the
/// bound one entry from the future, held by a single replica whose clock was once
/// wrong, would carry every clock that reads it into the future, and the other
/// replicas would then refuse all that those clocks stamp.
///
/// Nothing has to be remembered for it. Versions of the clock's own differ in
/// their timestamps. A version [past](Self::past) a timestamp that the clock does
/// not follow has a writer id of its own, and so have the versions after each step
/// back: writer ids are counted up from a number that is random for each writer.
pub(crate) struct Clock {
    wall: Box<dyn WallClock>,
    max_drift_millis: u64,
    /// The bits of the greatest timestamp given out or followed.
    last: CachePadded<AtomicU64>,
    /// Of the clock's own versions.
    writer: AtomicU64,
    /// The next writer id for all others.
    next_writer: AtomicU64,
    stepping_back: Mutex<()>,
    telemetry: ClockTelemetry,
}

/// The last timestamp that a clock gives out by itself: a minute before the
/// greatest. In between is room for as many threads as there may be to step past
/// it together, and to be told that the clock is exhausted.
const LAST: u64 = u64::MAX - (1 << 32);

/// A clock has no timestamps left: its wall clock stands a minute before the
/// greatest there is, or an entry is to be passed that is as late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock has no timestamps left")]
pub struct ClockExhausted;

/// A version for a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) version: Version,
    /// Whether the clock stands there, so that its next versions come after it.
    pub(crate) is_own: bool,
}

impl Clock {
    pub(crate) fn new(wall: Box<dyn WallClock>, max_drift: Duration, writer: WriterId) -> Self {
        Self {
            wall,
            max_drift_millis: whole_millis(max_drift),
            last: CachePadded::default(),
            writer: AtomicU64::new(writer.get()),
            // Half of all numbers are left to count up to.
            next_writer: AtomicU64::new(mix(writer.get()) >> 1),
            stepping_back: Mutex::default(),
            telemetry: ClockTelemetry::new(),
        }
    }

    /// The next version: the wall clock's, or the one after the last where the
    /// wall clock is not past it.
    pub(crate) fn next(&self) -> Result<Stamp, ClockExhausted> {
        loop {
            // Acquires what is before a later writer: that no step gets on.
            let writer = self.writer.load(Ordering::Acquire);
            match self.step() {
                // A step after a step back has seen the later writer.
                Some(bits) if self.writer.load(Ordering::Relaxed) == writer => {
                    return Ok(Stamp {
                        version: Version {
                            timestamp: Timestamp::from_bits(bits),
                            writer: WriterId::new(writer),
                        },
                        is_own: true,
                    });
                }
                // A wall clock that was once at the end of time may be right again,
                // or another thread is just stepping back: this waits for it.
                None if !self.leave(LAST, writer) => return Err(ClockExhausted),
                _ => {}
            }
        }
    }

    fn step(&self) -> Option<u64> {
        let now = self.now();
        // One step and no look before it: this is all that the writes of many
        // threads have to wait for each other for. It acquires what a thread that
        // stepped back has made known.
        let CachePadded(last) = &self.last;
        let step = || last.fetch_add(1, Ordering::Acquire).wrapping_add(1);
        let mut tick = step();
        if tick < now {
            // The wall clock is past it, and one of those who see that sets it.
            let before = last.fetch_max(now, Ordering::Acquire);
            tick = if before < now { now } else { step() };
        }
        if tick > LAST {
            // Back from where others may have stepped past it, too.
            last.fetch_min(LAST, Ordering::Relaxed);
            return None;
        }
        Some(tick)
    }

    /// What the wall clock shows, in milliseconds since 1970.
    pub(crate) fn wall_millis(&self) -> u64 {
        self.wall.now_millis()
    }

    /// The wall clock's timestamp, as bits.
    fn now(&self) -> u64 {
        let now = Timestamp::saturating_from_millis(self.wall.now_millis());
        now.to_bits().min(LAST)
    }

    /// A version past a timestamp: the clock's own where it may follow so far, and
    /// else the very next one, which does not move the clock.
    pub(crate) fn past(&self, seen: Timestamp) -> Result<Stamp, ClockExhausted> {
        let timestamp = seen.next().ok_or(ClockExhausted)?;
        // The next, and not what was seen: so that the clock comes past all that it
        // gave out past it, too.
        self.next_after(seen, timestamp)
            .map_or_else(|| self.right_after(seen), Ok)
    }

    /// The very next version after a timestamp, which does not move the clock.
    pub(crate) fn right_after(&self, seen: Timestamp) -> Result<Stamp, ClockExhausted> {
        let timestamp = seen.next().ok_or(ClockExhausted)?;
        let writer = self.another_writer();
        Ok(Stamp {
            version: Version { timestamp, writer },
            is_own: false,
        })
    }

    /// A version so many milliseconds past a timestamp, where the clock may follow
    /// that far; else just past it.
    pub(crate) fn ahead(&self, seen: Timestamp, millis: u64) -> Result<Stamp, ClockExhausted> {
        let later = Timestamp::saturating_from_millis(seen.millis().saturating_add(millis));
        self.next_after(seen, later)
            .map_or_else(|| self.past(seen), Ok)
    }

    /// The clock's own next version, where it follows a timestamp and comes past what
    /// was seen. It does not where another thread has it step back in between, or where
    /// time ends.
    fn next_after(&self, seen: Timestamp, follow: Timestamp) -> Option<Stamp> {
        let stamp = self.observe(follow).then(|| self.next().ok())??;
        (stamp.version.timestamp > seen).then_some(stamp)
    }

    /// Makes all later versions of the clock's own greater than a timestamp, unless
    /// it is further ahead of the wall clock than the bound. Tells whether they
    /// are.
    #[inline]
    pub(crate) fn observe(&self, seen: Timestamp) -> bool {
        // What is not ahead of this clock needs no look at the wall clock.
        seen <= self.latest() || self.follow(seen)
    }

    // Cold, so that who observes saves no registers for it.
    #[cold]
    fn follow(&self, seen: Timestamp) -> bool {
        let CachePadded(last) = &self.last;
        let now = self.wall.now_millis();
        let is_plausible = seen.millis() <= now.saturating_add(self.max_drift_millis);
        if let Some(ahead @ 1..) = seen.millis().checked_sub(now) {
            self.telemetry.drift_seen(ahead, is_plausible);
        }
        if is_plausible {
            last.fetch_max(seen.to_bits().min(LAST), Ordering::Relaxed);
        }
        is_plausible
    }

    /// The greatest timestamp given out or followed.
    #[inline]
    pub(crate) fn latest(&self) -> Timestamp {
        Timestamp::from_bits(self.last.0.load(Ordering::Relaxed))
    }

    /// After replicas have refused a version as too far ahead: has the clock step
    /// back to its wall clock, under another writer id, where it was ahead of that.
    /// Tells whether the next version is before the refused one.
    pub(crate) fn step_back(&self, refused: Stamp) -> bool {
        let Version { timestamp, writer } = refused.version;
        refused.is_own && self.leave(timestamp.to_bits(), writer.get())
    }

    /// Leaves a timestamp, given out under this writer id, for the wall clock's
    /// where that is before it.
    fn leave(&self, bits: u64, writer: u64) -> bool {
        // One at a time: two would give out the same timestamps under the later
        // writer id.
        let lock = self.stepping_back.lock();
        let _lock = lock.unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let millis = |bits| Timestamp::from_bits(bits).millis();
        if millis(now) >= millis(bits) {
            return false;
        }
        // Else another has left it meanwhile.
        let is_there = self.last.0.load(Ordering::Relaxed) >= bits;
        if is_there && self.writer.load(Ordering::Relaxed) == writer {
            // Meanwhile the clock stands at its end, where no thread gets a version:
            // else one could join the later writer id to a timestamp of before, to
            // which the clock comes again, or the earlier one to one of after.
            self.last.0.store(LAST, Ordering::Release);
            let later = self.another_writer();
            self.writer.store(later.get(), Ordering::Release);
            self.last.0.store(now, Ordering::Release);
            self.telemetry.stepped_back();
        }
        true
    }

    fn another_writer(&self) -> WriterId {
        WriterId::new(self.next_writer.fetch_add(1, Ordering::Relaxed))
    }
}

/// The output function of SplitMix64 (Steele, Lea and Flood, *Fast Splittable
/// Pseudorandom Number Generators*, 2014): another number for each number, as if
/// at random.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Clock(last {})", self.latest())
    }
}

#[cfg(test)]
mod tests;
