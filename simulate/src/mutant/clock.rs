//! The mutant's clock.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kvquorum_core::{Timestamp, Version, WallClock, WriterId};
use kvquorum_testing::sim::Clock;

use crate::planted::Bug;

pub struct MutantClock {
    bug: Option<Bug>,
    wall: Clock,
    max_drift_millis: u64,
    hand: Mutex<Hand>,
}

struct Hand {
    given: u64,
    followed: u64,
    writer: u64,
    next_writer: u64,
}

/// A version, and whether the clock stands there.
#[derive(Clone, Copy)]
pub struct Stamp {
    pub version: Version,
    pub is_own: bool,
}

impl MutantClock {
    pub fn new(bug: Option<Bug>, wall: Clock, max_drift_millis: u64, writer: WriterId) -> Self {
        let writer = writer.get();
        Self {
            bug,
            wall,
            max_drift_millis,
            hand: Mutex::new(Hand {
                given: 0,
                followed: 0,
                writer,
                next_writer: writer.rotate_left(32) >> 1,
            }),
        }
    }

    pub fn wall_millis(&self) -> u64 {
        self.wall.now_millis()
    }

    pub fn next(&self) -> Stamp {
        self.tick(&mut self.hand())
    }

    fn tick(&self, hand: &mut Hand) -> Stamp {
        let now = self.now();
        let last = hand.given.max(hand.followed);
        hand.given = match self.bug {
            Some(Bug::FollowsWall) => now,
            Some(Bug::EqualIgnored) => now.max(hand.given + 1).max(hand.followed),
            Some(Bug::CounterWraps) if now <= last => {
                last & !0xffff | u64::from((last as u16).wrapping_add(1))
            }
            _ => now.max(last + 1),
        };
        stamp(hand.given, hand.writer, true)
    }

    pub fn past(&self, seen: Timestamp) -> Stamp {
        let mut hand = self.hand();
        let next = seen.to_bits() + 1;
        let target = match self.bug {
            Some(Bug::FollowsSeen) => seen,
            _ => Timestamp::from_bits(next),
        };
        if self.follow(&mut hand, target) {
            return self.tick(&mut hand);
        }
        let writer = match self.bug {
            Some(Bug::LentOwnWriter) => hand.writer,
            _ => hand.another_writer(),
        };
        stamp(next, writer, false)
    }

    pub fn observe(&self, seen: Timestamp) {
        self.follow(&mut self.hand(), seen);
    }

    fn follow(&self, hand: &mut Hand, seen: Timestamp) -> bool {
        let follows = seen.to_bits() <= hand.given.max(hand.followed)
            || seen.millis() <= self.wall.now_millis() + self.max_drift_millis
            || self.bug == Some(Bug::FollowsAll);
        if follows {
            hand.followed = hand.followed.max(seen.to_bits());
        }
        follows
    }

    /// Whether the clock stands before a refused version now.
    pub fn step_back(&self, refused: Stamp) -> bool {
        let mut hand = self.hand();
        let Version { timestamp, writer } = refused.version;
        let now = self.now();
        let stays = self.bug == Some(Bug::NeverStepsBack);
        if !refused.is_own || timestamp.millis() <= self.wall.now_millis() || stays {
            return false;
        }
        if writer.get() == hand.writer {
            if self.bug != Some(Bug::StepsBackSameWriter) {
                hand.writer = hand.another_writer();
            }
            (hand.given, hand.followed) = (now, 0);
        }
        true
    }

    fn now(&self) -> u64 {
        self.wall.now_millis() << 16
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hand {
    fn another_writer(&mut self) -> u64 {
        self.next_writer += 1;
        self.next_writer
    }
}

fn stamp(bits: u64, writer: u64, is_own: bool) -> Stamp {
    let version = Version {
        timestamp: Timestamp::from_bits(bits),
        writer: WriterId::new(writer),
    };
    Stamp { version, is_own }
}
