//! How fast a pass goes.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::settings::PassSettings;

/// How many keys a step compares at the most beside others: some milliseconds of work, so
/// that it hardly ever owes a longer rest than the longest.
const KEYS_BESIDE_OTHERS: u64 = 1024;

/// A pass rests when it owes at least this: timers are no finer than a millisecond.
const LEAST_REST: Duration = Duration::from_millis(5);

/// It gives way for no longer than this: a step that took long may have waited for a
/// replica most of the time.
const LONGEST_REST: Duration = Duration::from_secs(5);

pub(in crate::coordinator) struct Pace {
    per_key: Duration,
    max_bytes_per_second: u64,
    rests: u32,
    window: u64,
    /// Whether others were served during the last step.
    is_beside_others: bool,
    /// When it may go on.
    due: Instant,
}

impl Pace {
    pub(in crate::coordinator) fn new(settings: &PassSettings) -> Self {
        Self {
            per_key: part_of_a_second(1, settings.max_keys_per_second),
            max_bytes_per_second: settings.max_bytes_per_second,
            rests: settings.rests,
            window: settings.window,
            is_beside_others: false,
            due: Instant::now(),
        }
    }

    /// How many keys the next step compares.
    pub(in crate::coordinator) fn window(&self) -> u64 {
        match self.is_beside_others {
            true => self.window.min(KEYS_BESIDE_OTHERS),
            false => self.window,
        }
    }

    /// Counts what was done since `began`.
    pub(in crate::coordinator) fn count(&mut self, began: Instant, keys: u64, bytes: u64) {
        let keys = u32::try_from(keys).unwrap_or(u32::MAX);
        let by_keys = self.per_key.saturating_mul(keys);
        let by_bytes = part_of_a_second(bytes, self.max_bytes_per_second);
        self.owe(began, by_keys.max(by_bytes));
    }

    /// Gives way if others were served during the step that began then.
    pub(in crate::coordinator) fn give_way(&mut self, began: Instant, were_served: bool) {
        self.is_beside_others = were_served;
        if were_served {
            let rest = began.elapsed().saturating_mul(self.rests);
            self.owe(Instant::now(), rest.min(LONGEST_REST));
        }
    }

    /// Waits until it may go on.
    pub(in crate::coordinator) async fn rest(&self) {
        if self.due.saturating_duration_since(Instant::now()) >= LEAST_REST {
            sleep_until(self.due).await;
        }
    }

    fn owe(&mut self, from: Instant, time: Duration) {
        let from = self.due.max(from);
        self.due = from.checked_add(time).unwrap_or(from);
    }
}

fn part_of_a_second(part: u64, of: u64) -> Duration {
    let nanos = u128::from(part).saturating_mul(1_000_000_000);
    let nanos = nanos.checked_div(of.max(1).into()).unwrap_or(0);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
