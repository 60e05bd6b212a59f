//! Time limits that can be added to any time.

use std::time::Duration;

/// A time limit, or a year where it is longer. Nobody waits for so long, and
/// adding the longest `Duration` to a time is a panic.
pub(crate) fn within_reason(limit: Duration) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    limit.min(YEAR)
}
