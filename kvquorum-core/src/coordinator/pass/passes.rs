//! Passes at an interval.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::report::{PassProgress, PassReport};
use super::settings::PassSettings;
use super::{Coordinator, random_key};
use crate::clock::mix;
use crate::transport::Transport;

/// Passes over the whole map, one after the other: what [`Coordinator::passes`]
/// returns. They go on as long as [`next`](Self::next) is called and polled: in a task
/// of the application's, say.
///
/// The first begins after a part of the [jitter](PassSettings::jitter_percent), at
/// random, so that nodes which are started together do not all begin together.
///
/// ```no_run
/// # use kvquorum_core::{Coordinator, PassSettings, Transport};
/// # fn example<T: Transport>(map: Coordinator<3, 2, 2, T>) {
/// let mut passes = map.passes(PassSettings::default());
/// let mut progress = passes.progress();
/// tokio::spawn(async move {
///     loop {
///         let report = passes.next().await;
///         println!("{} keys, complete: {}", report.progress.keys, report.is_complete());
///     }
/// });
/// tokio::spawn(async move {
///     while progress.changed().await.is_ok() {
///         println!("{:?}", progress.borrow_and_update().reached);
///     }
/// });
/// # }
/// ```
pub struct Passes<const N: usize, const W: usize, const R: usize, T> {
    coordinator: Coordinator<N, W, R, T>,
    settings: PassSettings,
    progress: watch::Sender<PassProgress>,
    seed: u64,
    /// How many passes have ended.
    ended: u64,
    /// When the last one ended that collected.
    collected: Option<Instant>,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Passes<N, W, R, T> {
    pub(super) fn new(coordinator: Coordinator<N, W, R, T>, settings: PassSettings) -> Self {
        let seed = settings.hash_key.unwrap_or_else(random_key);
        Self {
            coordinator,
            settings,
            progress: watch::Sender::default(),
            // Which half of it does not matter.
            seed: (seed >> 64) as u64 ^ seed as u64,
            ended: 0,
            collected: None,
        }
    }

    /// How far the present pass is, and each one after it. It can be watched in another
    /// task.
    pub fn progress(&self) -> watch::Receiver<PassProgress> {
        self.progress.subscribe()
    }

    /// Waits until the next pass is due, or asked for by a
    /// [hint](Coordinator::handoff) (rule H-OVERFLOW), and does it. Dropped half-way, the next call
    /// waits anew, and begins another.
    pub async fn next(&mut self) -> PassReport {
        let pause = pin!(sleep(self.pause()));
        let asked = pin!(self.coordinator.inner.hints.pass_asked());
        select(pause, asked).await;
        let sealed = match self.is_to_collect() {
            true => Some(self.coordinator.seal(&self.settings).await),
            false => None,
        };
        let mut pass = self.coordinator.pass(.., self.settings);
        while pass.step().await {
            self.progress.send_replace(pass.progress());
        }
        self.progress.send_replace(pass.progress());
        let mut report = pass.report();
        if let Some(sealed) = sealed {
            let ending = self
                .coordinator
                .end_collection(sealed, &self.settings, &mut report);
            ending.await;
            if let Some(Ok(_)) = report.collection {
                self.collected = Some(Instant::now());
            }
        }
        self.ended = self.ended.saturating_add(1);
        report
    }

    /// Whether the next pass is to collect deletes: one that could not is followed by
    /// another that tries.
    fn is_to_collect(&self) -> bool {
        self.settings.collect_every.is_some_and(|every| {
            let collected = self.collected;
            collected.is_none_or(|collected| collected.elapsed() >= every)
        })
    }

    /// How long to wait for the next pass.
    fn pause(&self) -> Duration {
        let PassSettings {
            every,
            jitter_percent,
            ..
        } = self.settings;
        let jitter = every.saturating_mul(jitter_percent.min(100));
        let jitter = jitter.checked_div(100).unwrap_or_default();
        // Less than the jitter.
        let random = u128::from(mix(self.seed ^ mix(self.ended)));
        let random = jitter.as_nanos().saturating_mul(random) >> u64::BITS;
        let random = Duration::from_nanos(u64::try_from(random).unwrap_or(u64::MAX));
        match self.ended {
            0 => random,
            _ => every
                .saturating_sub(jitter)
                .saturating_add(random.saturating_mul(2)),
        }
    }
}

impl<const N: usize, const W: usize, const R: usize, T> fmt::Debug for Passes<N, W, R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passes")
            .field("settings", &self.settings)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
