//! Randomness, all of it from the seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// A stream of random numbers that is the same on every run and machine.
#[derive(Clone, Debug)]
pub struct Random(Xoshiro256PlusPlus);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number from 0 to less than `bound`; 0 where `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product. It is uneven by less than one part in
        // 2⁶⁴ / bound, which no simulation is long enough to notice.
        (u128::from(self.bits()).saturating_mul(u128::from(bound)) >> u64::BITS) as u64
    }

    /// `true` this many times in a million.
    pub fn per_million(&mut self, times: u32) -> bool {
        self.below(1_000_000) < u64::from(times)
    }

    /// `true` this many times in a hundred.
    pub fn percent(&mut self, times: u32) -> bool {
        self.below(100) < u64::from(times)
    }

    /// A duration from a range, in whole microseconds.
    pub fn between(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let spread = range.end().saturating_sub(*range.start()).as_micros();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        let part = self.below(spread.saturating_add(1));
        range.start().saturating_add(Duration::from_micros(part))
    }

    /// One of these; `None` where there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        let index = self.below(of.len() as u64);
        of.get(usize::try_from(index).ok()?)
    }

    /// One of these, each as likely as its weight says; `None` where no weight
    /// is left.
    pub fn weigh<T: Copy>(&mut self, of: &[(u32, T)]) -> Option<T> {
        let total = of.iter().map(|(weight, _)| u64::from(*weight)).sum();
        let mut drawn = self.below(total);
        for (weight, choice) in of {
            match drawn.checked_sub(u64::from(*weight)) {
                Some(rest) => drawn = rest,
                None => return Some(*choice),
            }
        }
        None
    }

    /// A stream of its own, so that what one part of a simulation draws does
    /// not change what another part meets.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }
}
