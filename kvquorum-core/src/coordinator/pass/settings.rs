//! The settings of a pass.

use std::time::Duration;

/// How a [pass](crate::Coordinator::pass) goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct PassSettings {
    /// How many keys are compared with one request to each replica. 16,384 by default; 0 is
    /// taken for 1. No more than 1,024 are beside other operations (see
    /// [`rests`](Self::rests)), nor where keys are swept. A pass that is cut and goes on
    /// compares no more than these again. They are counted at the replica whose keys cut the
    /// range into windows, which is one that holds the most, as far as is known. Another that holds
    /// more there compares up to its [limit](crate::Limits::max_hashed_keys).
    pub window: u64,
    /// How many keys a pass compares in a second at the most. 250,000 by default; 0 is
    /// taken for 1.
    pub max_keys_per_second: u64,
    /// How many bytes a pass has a replica read, or sends and receives, in a second at
    /// the most, whichever are more. 32 MiB by default; 0 is taken for 1.
    pub max_bytes_per_second: u64,
    /// How many times as long as a step took a pass rests after it, where the
    /// coordinator served other operations meanwhile, or a replica
    /// [did](crate::Replica::count_served). 250 by default, so that the pass is at work for a
    /// 250th of the time, and less than one in a hundred operations meets it. It rests for 5 seconds at the most. 0 means that it gives way
    /// to nobody.
    pub rests: u32,
    /// How many times a call to a replica is made at the most, the first included,
    /// before the replica is left out of the rest of the pass. 3 by default; 0 is
    /// taken for 1.
    pub tries: u32,
    /// How long after one pass ended [the next](crate::Coordinator::passes) begins. 10
    /// minutes by default.
    pub every: Duration,
    /// How long after one pass of [`Passes`](crate::Passes) has collected deletes the next
    /// one [does](crate::Coordinator::collect). `None`, the default, means that none does.
    pub collect_every: Option<Duration>,
    /// How long a delete stays at the least before it is collected. 10 minutes by default.
    /// It is there for clocks that are behind, whose writes take a second round trip once
    /// it is less than that; nothing is lost or undone whatever it is.
    pub collect_lag: Duration,
    /// By how much the time until the next pass varies, at random, in percent of
    /// [`every`](Self::every): so much more or less. 20 by default; more than 100 is
    /// taken for 100.
    pub jitter_percent: u32,
    /// The key of the [hash](crate::Fingerprint). Drawn anew for each pass, from the
    /// operating system's randomness, by default. One that is set is that of all
    /// passes: it is there to repeat a test with.
    pub hash_key: Option<u128>,
}

impl Default for PassSettings {
    fn default() -> Self {
        Self {
            window: 16 * 1024,
            max_keys_per_second: 250_000,
            max_bytes_per_second: 32 * 1024 * 1024,
            rests: 250,
            tries: 3,
            every: Duration::from_secs(600),
            collect_every: None,
            collect_lag: Duration::from_secs(600),
            jitter_percent: 20,
            hash_key: None,
        }
    }
}

impl PassSettings {
    /// Sets how many keys are compared with one request.
    pub fn window(mut self, keys: u64) -> Self {
        self.window = keys;
        self
    }

    /// Sets the most keys in a second.
    pub fn max_keys_per_second(mut self, max: u64) -> Self {
        self.max_keys_per_second = max;
        self
    }

    /// Sets the most bytes in a second.
    pub fn max_bytes_per_second(mut self, max: u64) -> Self {
        self.max_bytes_per_second = max;
        self
    }

    /// Sets how much a pass gives way to other operations.
    pub fn rests(mut self, rests: u32) -> Self {
        self.rests = rests;
        self
    }

    /// Sets how many times a call is made at the most.
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Sets how long after one pass ended the next begins.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Sets how often deletes are collected.
    pub fn collect_every(mut self, every: Duration) -> Self {
        self.collect_every = Some(every);
        self
    }

    /// Sets how long a delete stays at the least.
    pub fn collect_lag(mut self, lag: Duration) -> Self {
        self.collect_lag = lag;
        self
    }

    /// Sets by how much that varies.
    pub fn jitter_percent(mut self, percent: u32) -> Self {
        self.jitter_percent = percent;
        self
    }

    /// Sets the key of the hash.
    pub fn hash_key(mut self, key: u128) -> Self {
        self.hash_key = Some(key);
        self
    }
}
