//! Hints: which keys replicas missed, and bringing them what is there now.

mod missed;

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};

pub(super) use missed::Hints;

use super::one::call_one;
use super::{Coordinator, Repair};
use crate::clock::mix;
use crate::entry::Key;
use crate::outcome::ReplicaFailure;
use crate::request::{Request, Response};
use crate::transport::Transport;
use missed::{Due, is_missed};

/// How [hints](Coordinator::handoff) are kept and delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct HintSettings {
    /// The most keys that are kept for a replica. 65,536 by default.
    pub max_keys: usize,
    /// The most bytes of keys that are kept for a replica. 8 MiB by default.
    pub max_bytes: usize,
    /// How many hints a replica is delivered in a second at the most. 500 by default; 0
    /// is taken for 1.
    pub max_per_second: u32,
    /// How long to wait before a replica that did not answer is tried again: at first,
    /// and then twice as long each time. 1 second by default.
    pub first_pause: Duration,
    /// The longest that is waited. 60 seconds by default. Each pause is between half of
    /// its length and all of it, at random.
    pub longest_pause: Duration,
}

impl Default for HintSettings {
    fn default() -> Self {
        Self {
            max_keys: 65_536,
            max_bytes: 8 * 1024 * 1024,
            max_per_second: 500,
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
        }
    }
}

impl HintSettings {
    /// Sets the most keys that are kept for a replica.
    pub fn max_keys(mut self, max: usize) -> Self {
        self.max_keys = max;
        self
    }

    /// Sets the most bytes of keys that are kept for a replica.
    pub fn max_bytes(mut self, max: usize) -> Self {
        self.max_bytes = max;
        self
    }

    /// Sets how many hints a replica is delivered in a second at the most.
    pub fn max_per_second(mut self, max: u32) -> Self {
        self.max_per_second = max;
        self
    }

    /// Sets how long to wait before a replica that did not answer is tried again.
    pub fn first_pause(mut self, first: Duration) -> Self {
        self.first_pause = first;
        self
    }

    /// Sets the longest that is waited.
    pub fn longest_pause(mut self, longest: Duration) -> Self {
        self.longest_pause = longest;
        self
    }
}

/// What is known of the hints for one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HintStats {
    /// How many keys wait to be delivered.
    pub waiting: usize,
    /// How many were delivered.
    pub delivered: u64,
    /// How many were dropped, because there were too many.
    pub dropped: u64,
    /// Whether a pass will be asked for instead of those, when the replica answers.
    pub is_pass_due: bool,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    /// Has the coordinator remember which keys each replica misses, and brings them to
    /// it when it answers again: the hinted handoff of Dynamo, without its values.
    ///
    /// - **H-KEY.** A hint is a key. What is delivered is the greatest entry that R
    ///   replicas hold when it is, with its original version; so a key that was written
    ///   a hundred times meanwhile is delivered once. It is forgotten when the replica
    ///   has acked it, or refused it.
    /// - **H-OVERFLOW.** Where there are [too many](HintSettings::max_keys) for a
    ///   replica, they are dropped, and a pass is asked for when it answers:
    ///   [`Passes`](crate::Passes) of this coordinator and its clones then begins one at
    ///   once.
    /// - **H-ASIDE.** No write waits for hints, or fails for them. One that all replicas
    ///   ack at once has no part in them.
    ///
    /// A write that a replica did not answer, or was given up for it, leaves a hint,
    /// whether it was acknowledged or failed. Hints are in memory: those of a process
    /// that ends are left to a pass. They are kept from the first call of this on, under
    /// its settings, for all clones.
    ///
    /// ```no_run
    /// # use kvquorum_core::{Coordinator, HintSettings, Transport};
    /// # fn example<T: Transport>(map: Coordinator<3, 2, 2, T>) {
    /// let handoff = map.handoff(HintSettings::default());
    /// tokio::spawn(async move { handoff.run().await });
    /// # }
    /// ```
    pub fn handoff(&self, settings: HintSettings) -> Handoff<N, W, R, T> {
        let settings = self.inner.hints.keep(settings);
        Handoff {
            coordinator: self.clone(),
            settings,
        }
    }

    /// What is known of the hints for each replica, in order.
    pub fn hints(&self) -> [HintStats; N] {
        self.inner.hints.stats()
    }
}

/// Who delivers hints: what [`Coordinator::handoff`] returns. It does so for as long as
/// it is polled.
pub struct Handoff<const N: usize, const W: usize, const R: usize, T> {
    coordinator: Coordinator<N, W, R, T>,
    settings: HintSettings,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Handoff<N, W, R, T> {
    /// Delivers hints, for ever. Dropped, it loses none.
    pub async fn run(&self) -> Infallible {
        join_all((0..N).map(|replica| self.serve(replica))).await;
        std::future::pending().await
    }

    /// Delivers what one replica missed.
    async fn serve(&self, replica: usize) -> Infallible {
        let hints = &self.coordinator.inner.hints;
        let per_second = self.settings.max_per_second.max(1);
        let between = part(Duration::from_secs(1), 1, per_second);
        let mut pauses = 0;
        let mut next = Instant::now();
        loop {
            let due = hints.due(replica).await;
            let is_done = match &due {
                Due::Key(key, _) => self.deliver(replica, key).await,
                Due::Pass => self.answers(replica).await,
            };
            if !is_done {
                sleep(self.pause(replica, pauses)).await;
                pauses = pauses.saturating_add(1);
                continue;
            }
            pauses = 0;
            match due {
                Due::Key(key, number) => hints.delivered(replica, &key, number),
                Due::Pass => hints.ask_for_pass(replica),
            }
            let now = next.max(Instant::now());
            next = now.checked_add(between).unwrap_or(now);
            sleep_until(next).await;
        }
    }

    /// Brings a replica the greatest entry that is read under a key. Whether nothing is
    /// left to be done for it.
    async fn deliver(&self, replica: usize, key: &Key) -> bool {
        let era = self.coordinator.inner.introductions.era();
        let reading = self.coordinator.read(key.clone(), Repair::Off);
        let Ok(found) = reading.await else {
            return false;
        };
        let Some(entry) = found else {
            return true;
        };
        let mut request = Request::repair(key, entry).in_era(era);
        match call_one(&self.coordinator.inner, replica, &mut request).await {
            Ok(Response::Ack(_)) => true,
            // Else it will be refused again.
            Err(failure) => !is_missed(&failure),
            Ok(_) => false,
        }
    }

    async fn answers(&self, replica: usize) -> bool {
        let mut request = Request::status();
        let answer = call_one(&self.coordinator.inner, replica, &mut request).await;
        matches!(answer, Ok(_) | Err(ReplicaFailure::Refused(_)))
    }

    /// How long to wait after so many others.
    fn pause(&self, replica: usize, pauses: u32) -> Duration {
        let doubled = self
            .settings
            .first_pause
            .saturating_mul(1 << pauses.min(16));
        let longest = doubled.min(self.settings.longest_pause);
        let seed = self.coordinator.writer().get() ^ mix(replica as u64) ^ u64::from(pauses);
        // Between 128 and 255 of 256 parts.
        let part = u32::try_from(mix(seed) >> 57)
            .unwrap_or(0)
            .saturating_add(128);
        self::part(longest, part, 256)
    }
}

/// So many of so many parts of a time.
fn part(of: Duration, parts: u32, all: u32) -> Duration {
    of.saturating_mul(parts).checked_div(all).unwrap_or(of)
}

impl<const N: usize, const W: usize, const R: usize, T> fmt::Debug for Handoff<N, W, R, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handoff")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
