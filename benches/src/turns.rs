//! Measuring by turns: a machine's speed changes while it is measured, so what
//! is compared is measured in the same moments, and each ratio is that of two
//! turns of one round.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One turn of one way.
pub type Turn<'a, T> = Box<dyn FnMut() -> T + 'a>;

/// Has each way measured once in every round, and returns each way's turns. The
/// first round, in which caches and pools fill, does not count. Every other
/// round goes backwards, so that no way always comes first.
pub fn in_turns<T>(rounds: usize, ways: &mut [Turn<'_, T>]) -> Vec<Vec<T>> {
    for way in &mut *ways {
        way();
    }
    let mut turns: Vec<Vec<T>> = ways.iter().map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        let mut pairs: Vec<_> = ways.iter_mut().zip(&mut turns).collect();
        if round % 2 == 1 {
            pairs.reverse();
        }
        for (way, turns) in pairs {
            turns.push(way());
        }
    }
    turns
}

/// The median of some numbers, and the bounds of their middle half.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// As many are below as above.
    pub median: f64,
    /// A quarter is below.
    pub low: f64,
    /// A quarter is above.
    pub high: f64,
}

impl Spread {
    /// Of these numbers.
    pub fn of(numbers: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = numbers.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Self {
            median: at(0.5),
            low: at(0.25),
            high: at(0.75),
        }
    }

    /// A number that is the same in each run.
    pub fn exactly(number: f64) -> Self {
        Self::of([number])
    }

    /// Of one figure over another, round by round.
    pub fn of_ratios<T>(ours: &[T], theirs: &[T], figure: impl Fn(&T) -> f64) -> Self {
        let pairs = ours.iter().zip(theirs);
        Self::of(pairs.map(|(ours, theirs)| figure(ours) / figure(theirs)))
    }

    /// All of it so many times as great.
    pub fn times(self, factor: f64) -> Self {
        Self {
            median: self.median * factor,
            low: self.low * factor,
            high: self.high * factor,
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        if low == high {
            write!(f, "{median:.2}")
        } else {
            write!(f, "{median:.2} ({low:.2}–{high:.2})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches a spread that is off by one, or of numbers that are not sorted.
    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::of([5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((spread.low, spread.median, spread.high), (2.0, 3.0, 4.0));
        assert_eq!(Spread::exactly(7.0).to_string(), "7.00");
    }

    /// Catches turns that are written down for another way.
    #[test]
    fn each_way_keeps_its_own_turns() {
        let way = |name: usize| -> Turn<'_, usize> { Box::new(move || name) };
        let turns = in_turns(3, &mut [way(1), way(2)]);
        assert_eq!(turns, [[1, 1, 1], [2, 2, 2]]);
    }
}
