//! What can happen to a message.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand_xoshiro::Xoshiro256PlusPlus as Random;
use rand_xoshiro::rand_core::Rng;

/// How long a message is under way: the same each time, or drawn evenly from a
/// range for each message. Tokio's timers round it up to whole milliseconds.
///
/// ```
/// use kvquorum_mem::Latency;
/// use std::time::Duration;
///
/// let fixed = Latency::from(Duration::from_millis(3));
/// let drawn = Latency::from(Duration::from_millis(1)..=Duration::from_millis(9));
/// # let _ = (fixed, drawn);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    least: Duration,
    spread: Duration,
}

impl From<Duration> for Latency {
    fn from(fixed: Duration) -> Self {
        Self {
            least: fixed,
            spread: Duration::ZERO,
        }
    }
}

/// A range that ends before it starts is its start alone.
impl From<RangeInclusive<Duration>> for Latency {
    fn from(range: RangeInclusive<Duration>) -> Self {
        Self {
            least: *range.start(),
            spread: range.end().saturating_sub(*range.start()),
        }
    }
}

impl Latency {
    /// The latency this far into the range, from 0 to 1.
    pub(super) fn at(&self, fraction: f64) -> Duration {
        let part = Duration::try_from_secs_f64(self.spread.as_secs_f64() * fraction);
        self.least.saturating_add(part.unwrap_or(self.spread))
    }
}

/// The faults of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Faults {
    pub(super) request: Way,
    pub(super) response: Way,
    /// How likely a request arrives twice.
    pub(super) duplication: f64,
    /// How long after the first time.
    pub(super) duplicate_after: Latency,
}

/// What happens to messages that go one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Way {
    pub(super) latency: Latency,
    pub(super) loss: f64,
    pub(super) cut: bool,
}

impl Way {
    /// How long the message is under way; `None` where it is lost.
    pub(super) fn fate(&self, draw: Draw) -> Option<Duration> {
        let lost = self.cut || draw.loss < self.loss;
        (!lost).then(|| self.latency.at(draw.latency))
    }
}

/// What chance has in store for a message, before any fault is looked at: each
/// number is drawn evenly from 0 to less than 1.
#[derive(Clone, Copy)]
pub(super) struct Draw {
    pub(super) loss: f64,
    pub(super) latency: f64,
}

impl Draw {
    pub(super) fn from(random: &mut Random) -> Self {
        let mut fraction = || {
            // As many bits as a float holds exactly.
            let bits = random.next_u64() >> (u64::BITS - f64::MANTISSA_DIGITS);
            bits as f64 / (1_u64 << f64::MANTISSA_DIGITS) as f64
        };
        Self {
            loss: fraction(),
            latency: fraction(),
        }
    }
}
