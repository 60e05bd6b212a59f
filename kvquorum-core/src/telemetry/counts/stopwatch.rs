//! How long something had to be waited for.

use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::is_sampled;

/// Runs from when something had to be waited for.
pub(crate) struct Stopwatch(Option<Instant>);

impl Stopwatch {
    pub(crate) fn started() -> Self {
        Self(Some(Instant::now()))
    }

    #[inline]
    pub(crate) fn stopped() -> Self {
        Self(None)
    }

    /// One that runs, where this is one of those that are timed.
    pub(crate) fn sampled() -> Self {
        Self(is_sampled().then(Instant::now))
    }

    /// Unless it runs.
    pub(crate) fn start(&mut self) {
        self.0.get_or_insert_with(Instant::now);
    }

    #[inline]
    pub(super) fn is_running(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn elapsed(&self) -> Option<Duration> {
        self.0.map(|started| started.elapsed())
    }
}
