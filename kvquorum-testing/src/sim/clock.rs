//! Wall clocks that are wrong.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::WallClock;
use tokio::time::Instant;

/// Where the wall clocks of a simulation start, unless they are skewed.
const START_MILLIS: u64 = 1_800_000_000_000;

/// The rate of a clock that is right, in parts per million.
const RIGHT: u32 = 1_000_000;

/// A wall clock over virtual time, that can be skewed, stepped, slowed, hurried
/// and stopped.
///
/// Cheap to clone; clones are the same clock.
#[derive(Clone)]
pub struct Clock(Arc<State>);

struct State {
    start: Instant,
    hand: Mutex<Hand>,
}

/// What the clock read when it was last touched, before and after, and how it goes on.
#[derive(Clone, Copy)]
struct Hand {
    touched: Duration,
    before: u64,
    read: u64,
    per_million: u32,
}

impl Hand {
    fn reads(&self, elapsed: Duration) -> u64 {
        let since = elapsed.saturating_sub(self.touched).as_micros();
        let ran = since
            .saturating_mul(u128::from(self.per_million))
            .checked_div(u128::from(RIGHT).saturating_mul(1_000));
        let ran = ran.and_then(|millis| u64::try_from(millis).ok());
        self.read.saturating_add(ran.unwrap_or(u64::MAX))
    }
}

impl Clock {
    /// A clock that is right, in a world that started then.
    pub(super) fn new(start: Instant) -> Self {
        let hand = Hand {
            touched: Duration::ZERO,
            before: START_MILLIS,
            read: START_MILLIS,
            per_million: RIGHT,
        };
        Self(Arc::new(State {
            start,
            hand: Mutex::new(hand),
        }))
    }

    /// What a clock that is right would read.
    pub fn true_millis(&self) -> u64 {
        let elapsed = u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX);
        START_MILLIS.saturating_add(elapsed)
    }

    /// How far this clock is ahead of the true time, in milliseconds.
    pub fn skew_millis(&self) -> i64 {
        self.now_millis()
            .wrapping_sub(self.true_millis())
            .cast_signed()
    }

    /// Sets the clock.
    pub fn set(&self, millis: u64) {
        self.touch(|hand| hand.read = millis);
    }

    /// Sets the clock so far ahead of the true time, or behind it.
    pub fn skew(&self, millis: i64) {
        self.set(self.true_millis().saturating_add_signed(millis));
    }

    /// Steps the clock, in either direction.
    pub fn step(&self, millis: i64) {
        self.touch(|hand| hand.read = hand.read.saturating_add_signed(millis));
    }

    /// Lets the clock run at another rate from now on: a million is right, and
    /// with 0 it stands still.
    pub fn set_rate(&self, per_million: u32) {
        self.touch(|hand| hand.per_million = per_million);
    }

    /// What the clock reads, and what it read in the same moment of virtual time before it
    /// was stepped, if it was: for whoever cannot tell which of them another has seen.
    pub fn readings(&self) -> [u64; 2] {
        let elapsed = self.elapsed();
        let hand = self.hand();
        let now = hand.reads(elapsed);
        let is_touched = hand.touched == elapsed;
        [if is_touched { hand.before } else { now }, now]
    }

    fn touch(&self, change: impl FnOnce(&mut Hand)) {
        let elapsed = self.elapsed();
        let mut hand = self.hand();
        hand.read = hand.reads(elapsed);
        if hand.touched != elapsed {
            hand.before = hand.read;
        }
        hand.touched = elapsed;
        change(&mut hand);
    }

    fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// The hand is whole between any two statements.
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.0.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WallClock for Clock {
    fn now_millis(&self) -> u64 {
        self.hand().reads(self.elapsed())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Clock({} ms, {:+} ms ahead)",
            self.now_millis(),
            self.skew_millis()
        )
    }
}
