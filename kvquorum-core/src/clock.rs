//! Time: where timestamps come from.
//!
//! The wall clock is the caller's to replace. [`Clock`] turns it into
//! timestamps that only rise.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::alone::Alone;
use crate::entry::Timestamp;
use crate::lent::Lent;

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
    /// The bits of the least timestamp that is lent and that the clock has not
    /// come to; [`u64::MAX`] for none. Below it the clock need not look further.
    nearest: AtomicU64,
    /// Whether there is a floor: usually a look is enough.
    has_floor: AtomicBool,
    lent: Mutex<Lent>,
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
            nearest: AtomicU64::new(u64::MAX),
            has_floor: AtomicBool::new(false),
            lent: Mutex::default(),
        }
    }

    /// The next timestamp: the wall clock's, or the one after the last where
    /// the wall clock is not past it.
    pub fn tick(&self) -> Result<Timestamp, ClockExhausted> {
        loop {
            let before = self.nearest.load(Ordering::Acquire);
            let tick = self.step()?;
            // What was lent meanwhile counts as well.
            if tick < before.min(self.nearest.load(Ordering::Acquire)) {
                return Ok(Timestamp::from_bits(tick));
            }
            // The clock has come to what it lent, and steps over it.
            let mut lent = self.lent();
            let past = lent.come_to(tick);
            if let Some(past) = past {
                self.follow(past);
            }
            self.look_out(&lent);
            // Where there is none, another has stepped over it, perhaps past this
            // very tick.
            if past.is_some_and(|past| past < tick) {
                return Ok(Timestamp::from_bits(tick));
            }
        }
    }

    fn step(&self) -> Result<u64, ClockExhausted> {
        let now = Timestamp::saturating_from_millis(self.wall.now_millis());
        let now = now.to_bits().min(LAST);
        // One step and no look before it: this is all that the writes of many
        // threads have to wait for each other for. It acquires what a thread that
        // lends has made known before it looked here.
        let Alone(last) = &self.last;
        let step = || last.fetch_add(1, Ordering::Acquire).wrapping_add(1);
        let mut tick = step();
        if tick < now {
            // The wall clock is past it, and one of those who see that sets it.
            let before = last.fetch_max(now, Ordering::Acquire);
            tick = if before < now { now } else { step() };
        }
        if tick > LAST {
            // Back from where others may have stepped past it, too.
            last.store(LAST, Ordering::Relaxed);
            return Err(ClockExhausted);
        }
        Ok(tick)
    }

    /// A timestamp greater than `seen`, and than all that this clock gave out
    /// or observed before.
    ///
    /// Where `seen` is too far ahead to be [observed](Self::observe), a
    /// timestamp after `seen` is lent without moving the clock: should the
    /// replicas refuse it too, the clock still stands where it was.
    /// [`confirm`](Self::confirm) it once they have admitted it. No timestamp is
    /// lent twice, and the clock gives out none by itself that it has lent.
    pub fn tick_past(&self, seen: Timestamp) -> Result<Timestamp, ClockExhausted> {
        if self.observe(seen) {
            return self.tick();
        }
        let lent = self.lend_past(&mut self.lent(), seen.to_bits());
        match lent? {
            Some(timestamp) => Ok(timestamp),
            None => self.tick(),
        }
    }

    /// A timestamp past this one, and past those that were lent near it; `None`
    /// where the clock is past it by now.
    fn lend_past(&self, lent: &mut Lent, past: u64) -> Result<Option<Timestamp>, ClockExhausted> {
        let next = lent.next_past(past).ok_or(ClockExhausted)?;
        self.look_out(lent);
        // A step of the clock either comes before this look, or finds what was
        // just lent.
        let last = self.last.0.fetch_add(0, Ordering::AcqRel);
        Ok((last < next).then_some(Timestamp::from_bits(next)))
    }

    /// Has the clock look out for what it has lent.
    fn look_out(&self, lent: &Lent) {
        self.nearest.store(lent.nearest(), Ordering::Release);
    }

    /// Has all later [stamps](Self::stamp) come after a timestamp from before a
    /// restart.
    pub(crate) fn resume_after(&mut self, stored: Timestamp) {
        if !self.observe(stored) {
            self.lent().floor = Some(stored.to_bits());
            *self.has_floor.get_mut() = true;
        }
    }

    /// A timestamp past all before it and past the floor.
    ///
    /// As long as the floor is too far ahead to be [observed](Self::observe),
    /// the clock stands still and timestamps past the floor are lent, as
    /// [`tick_past`](Self::tick_past) does: [`confirm`](Self::confirm) one that
    /// replicas have admitted, or [`forget_floor`](Self::forget_floor).
    pub(crate) fn stamp(&self) -> Result<Stamp, ClockExhausted> {
        if self.has_floor.load(Ordering::Acquire)
            && let Some(timestamp) = self.stamp_past_floor()
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

    /// `None` where there is no floor any more.
    fn stamp_past_floor(&self) -> Option<Timestamp> {
        let mut lent = self.lent();
        let floor = lent.floor?;
        let plausible = self.is_plausible(Timestamp::from_bits(floor));
        if !plausible && let Ok(Some(timestamp)) = self.lend_past(&mut lent, floor) {
            return Some(timestamp);
        }
        if plausible {
            self.follow(floor);
        }
        self.end_floor(&mut lent);
        None
    }

    /// Takes the floor for the mistake of a clock that was once wrong.
    pub(crate) fn forget_floor(&self) {
        self.end_floor(&mut self.lent());
    }

    fn end_floor(&self, lent: &mut Lent) {
        lent.floor = None;
        self.has_floor.store(false, Ordering::Release);
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all later timestamps greater than `seen`, unless it is further
    /// ahead of the wall clock than the bound. Tells whether it was followed.
    pub fn observe(&self, seen: Timestamp) -> bool {
        // What is not ahead of this clock needs no look at the wall clock.
        if seen.to_bits() <= self.last.0.load(Ordering::Relaxed) {
            return true;
        }
        let plausible = self.is_plausible(seen);
        if plausible {
            self.confirm(seen);
        }
        plausible
    }

    fn is_plausible(&self, seen: Timestamp) -> bool {
        let latest = self.wall.now_millis().saturating_add(self.max_drift_millis);
        seen.millis() <= latest
    }

    /// Makes all later timestamps greater than one that a quorum of replicas
    /// admitted, however far ahead it is: it is this clock that is behind.
    pub fn confirm(&self, admitted: Timestamp) {
        let admitted = admitted.to_bits();
        // The usual case, in which it is this clock's own, is but a look.
        if admitted <= self.last.0.load(Ordering::Relaxed) {
            return;
        }
        if !self.has_floor.load(Ordering::Acquire) {
            return self.follow(admitted);
        }
        let mut lent = self.lent();
        self.follow(admitted);
        if lent.floor.is_some_and(|floor| floor <= admitted) {
            self.end_floor(&mut lent);
        }
    }

    fn follow(&self, to: u64) {
        self.last.0.fetch_max(to.min(LAST), Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = Timestamp::from_bits(self.last.0.load(Ordering::Relaxed));
        write!(f, "Clock(last {last})")
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test")]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// A clock set back to 1970, after what was stored this year.
    fn restarted() -> (Clock, Timestamp) {
        let stored = Timestamp::new(1_800_000_000_000, 0).unwrap();
        let mut clock = Clock::new(|| 0, DEFAULT_MAX_DRIFT);
        clock.resume_after(stored);
        (clock, stored)
    }

    /// C-MONOTONIC. Bugs: once one that was lent is confirmed, the clock gives out
    /// the others again; it follows the floor for an earlier time.
    #[test]
    fn c_monotonic_what_was_lent_is_not_given_out_again() {
        let (clock, stored) = restarted();
        let lent = [(); 3].map(|()| clock.stamp().unwrap());
        assert!(lent[0].timestamp > stored && lent.iter().all(|lent| lent.past_floor));
        clock.confirm(Timestamp::new(1_000, 0).unwrap());
        let before = Timestamp::new(2_000, 0).unwrap();
        assert!(clock.observe(before) && clock.tick().unwrap() < stored);
        assert!(clock.stamp().unwrap().past_floor);
        clock.confirm(lent[0].timestamp);
        let after = clock.tick_past(lent[1].timestamp).unwrap();
        assert!(after > lent[2].timestamp, "{after}");
        let next = clock.stamp().unwrap();
        assert!(next.timestamp > after && !next.past_floor);
    }

    /// Bug: a floor that is none any more holds the clock back.
    #[test]
    fn a_wall_clock_that_is_set_right_overtakes_the_floor() {
        let wall = Arc::new(AtomicU64::new(0));
        let stored = Timestamp::new(1_000_000, 0).unwrap();
        let read = Arc::clone(&wall);
        let wall_clock = move || read.load(Ordering::Relaxed);
        let mut clock = Clock::new(wall_clock, DEFAULT_MAX_DRIFT);
        clock.resume_after(stored);
        let lent = clock.stamp().unwrap();
        for millis in [stored.millis() - 1_000, stored.millis() + 1_000] {
            wall.store(millis, Ordering::Relaxed);
            let own = clock.stamp().unwrap();
            assert!(own.timestamp > lent.timestamp && !own.past_floor);
            assert_eq!(own.timestamp.millis(), millis.max(stored.millis()));
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Stamp,
        /// Past what was given out that many steps before, and so much more.
        TickPast(usize, u64),
        Observe(usize),
        Confirm(usize),
        ForgetFloor,
        SetWall(u64),
    }

    /// C-MONOTONIC, whatever comes. Bugs: two kinds of lent timestamps run into
    /// each other, or the clock's own into them; what was lent is forgotten with
    /// the floor, or with the clock's passing one of them.
    #[test]
    fn c_monotonic_no_timestamp_is_given_out_twice() {
        let back = 0..6_usize;
        let step = prop_oneof![
            4 => Just(Step::Stamp),
            4 => (back.clone(), prop_oneof![0..4_u64, Just(60_000_000), Just(1 << 40)])
                .prop_map(|(back, more)| Step::TickPast(back, more)),
            1 => back.clone().prop_map(Step::Observe),
            2 => back.prop_map(Step::Confirm),
            1 => Just(Step::ForgetFloor),
            1 => prop_oneof![Just(0), 999_000..1_002_000_u64].prop_map(Step::SetWall),
        ];
        proptest!(|(steps in prop::collection::vec(step, 1..60))| {
            let wall = Arc::new(AtomicU64::new(0));
            let read = Arc::clone(&wall);
            let mut clock = Clock::new(move || read.load(Ordering::Relaxed), DEFAULT_MAX_DRIFT);
            let stored = Timestamp::new(1_000_000, 0).unwrap();
            clock.resume_after(stored);
            let mut given = vec![];
            let mut must_exceed = stored;
            for step in steps {
                let before = |back: usize| {
                    let earlier: Option<&Timestamp> = given.iter().rev().nth(back);
                    earlier.copied().unwrap_or(stored)
                };
                match step {
                    Step::Stamp => {
                        let stamp = clock.stamp().unwrap();
                        prop_assert!(stamp.timestamp > must_exceed);
                        given.push(stamp.timestamp);
                    }
                    Step::TickPast(back, more) => {
                        let seen = Timestamp::from_bits(before(back).to_bits() + more);
                        let tick = clock.tick_past(seen).unwrap();
                        prop_assert!(tick > seen);
                        given.push(tick);
                    }
                    Step::Observe(back) => drop(clock.observe(before(back))),
                    Step::Confirm(back) => {
                        clock.confirm(before(back));
                        must_exceed = must_exceed.max(before(back));
                    }
                    Step::ForgetFloor => {
                        clock.forget_floor();
                        must_exceed = Timestamp::from_bits(clock.last.0.load(Ordering::Relaxed));
                    }
                    Step::SetWall(millis) => wall.store(millis, Ordering::Relaxed),
                }
            }
            let distinct: HashSet<_> = given.iter().collect();
            prop_assert_eq!(distinct.len(), given.len(), "{:?}", given);
        });
    }

    /// C-MONOTONIC. Bugs: the floor ends before the clock is past it, or past
    /// what was lent meanwhile.
    #[test]
    fn c_monotonic_stamps_that_race_a_confirmation_are_distinct() {
        const STAMPS: usize = 20;
        let clocks: Vec<_> = (0..20_000).map(|_| restarted()).collect();
        let arrived = AtomicUsize::new(0);
        let stamp = |confirms: bool| {
            let mut stamps = Vec::new();
            for (number, (clock, _)) in clocks.iter().enumerate() {
                // Both begin within nanoseconds; a barrier would let one end
                // before the other is awake.
                arrived.fetch_add(1, Ordering::AcqRel);
                while arrived.load(Ordering::Acquire) < 2 * (number + 1) {
                    thread::yield_now();
                }
                let mut confirmed = None;
                for count in 0..STAMPS {
                    let timestamp = match confirmed {
                        None => clock.stamp().unwrap().timestamp,
                        Some(confirmed) => clock.tick_past(confirmed).unwrap(),
                    };
                    if confirms && count == number % STAMPS {
                        clock.confirm(timestamp);
                        confirmed = Some(timestamp);
                    }
                    stamps.push(timestamp);
                }
            }
            stamps
        };
        let (one, other) = thread::scope(|scope| {
            let other = scope.spawn(|| stamp(false));
            (stamp(true), other.join().unwrap())
        });
        let stamps = one.chunks(STAMPS).zip(other.chunks(STAMPS));
        for ((one, other), (_, stored)) in stamps.zip(&clocks) {
            let stamps = one.iter().chain(other).filter(|stamp| *stamp > stored);
            assert_eq!(stamps.collect::<HashSet<_>>().len(), 2 * STAMPS);
        }
    }
}
