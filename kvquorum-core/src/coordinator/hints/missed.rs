//! The keys that replicas missed: bounded, and each once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

use super::{HintSettings, HintStats};
use crate::entry::Key;
use crate::outcome::{Outcome, ReplicaFailure};
use crate::request::{Ack, Refusal};
use crate::telemetry::Telemetry;

/// What all replicas missed.
#[derive(Debug)]
pub(in crate::coordinator) struct Hints<const N: usize> {
    /// Set when somebody is there to deliver them. Nothing is kept before.
    settings: OnceLock<HintSettings>,
    replicas: [Replica; N],
    pass_asked: Notify,
    telemetry: Arc<Telemetry<N>>,
}

#[derive(Debug, Default)]
struct Replica {
    missed: Mutex<Missed>,
    added: Notify,
}

/// What one replica missed.
#[derive(Debug, Default)]
struct Missed {
    /// Each with a number that changes when it is missed again.
    keys: BTreeMap<Key, u64>,
    /// How long they are together.
    bytes: usize,
    next: u64,
    /// Whether there were too many to be kept.
    is_pass_due: bool,
    delivered: u64,
    dropped: u64,
}

/// What is to be done for a replica.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// It missed this key, for the time of this number.
    Key(Key, u64),
    /// It missed more than was kept.
    Pass,
}

impl<const N: usize> Hints<N> {
    pub(in crate::coordinator) fn new(telemetry: Arc<Telemetry<N>>) -> Self {
        Self {
            settings: OnceLock::new(),
            replicas: std::array::from_fn(|_| Replica::default()),
            pass_asked: Notify::new(),
            telemetry,
        }
    }

    /// Keeps hints from now on. The first settings stay.
    pub(super) fn keep(&self, settings: HintSettings) -> HintSettings {
        *self.settings.get_or_init(|| settings)
    }

    /// Notes who missed a write: failed, or was given up. Who refused it has missed
    /// nothing.
    #[cold]
    pub(in crate::coordinator) fn note(&self, key: &Key, outcomes: &[Outcome<Ack>; N]) {
        let Some(settings) = self.settings.get() else {
            return;
        };
        for (replica, (it, outcome)) in self.replicas.iter().zip(outcomes).enumerate() {
            if outcome.failure().is_some_and(is_missed) {
                self.change(replica, |missed| missed.add(key, settings));
                it.added.notify_one();
            }
        }
    }

    /// Changes what a replica missed, and has that counted.
    fn change(&self, replica: usize, change: impl FnOnce(&mut Missed)) {
        if let Some(it) = self.replicas.get(replica) {
            let mut missed = it.lock();
            let before = missed.stats();
            change(&mut missed);
            self.telemetry
                .hints_changed(replica, before, missed.stats());
        }
    }

    /// Waits for what is to be done for a replica. It stays to be done until it is
    /// [removed](Self::delivered).
    pub(super) async fn due(&self, replica: usize) -> Due {
        let Some(replica) = self.replicas.get(replica) else {
            return std::future::pending().await;
        };
        loop {
            let due = replica.lock().due();
            match due {
                Some(due) => return due,
                None => replica.added.notified().await,
            }
        }
    }

    /// The replica holds what was read under the key since it was missed for the time of
    /// this number: unless it was missed again, that is all.
    pub(super) fn delivered(&self, replica: usize, key: &Key, number: u64) {
        self.change(replica, |missed| missed.delivered(key, number));
    }

    /// Asks for a pass, instead of what was not kept.
    pub(super) fn ask_for_pass(&self, replica: usize) {
        self.change(replica, |missed| missed.is_pass_due = false);
        self.pass_asked.notify_one();
    }

    /// Waits until a pass is asked for.
    pub(in crate::coordinator) async fn pass_asked(&self) {
        self.pass_asked.notified().await;
    }

    pub(super) fn stats(&self) -> [HintStats; N] {
        let replicas = self.replicas.each_ref();
        replicas.map(|replica| replica.lock().stats())
    }
}

impl<const N: usize> Drop for Hints<N> {
    /// They are in memory, and wait no more.
    fn drop(&mut self) {
        for replica in 0..N {
            self.change(replica, Missed::clear);
        }
    }
}

/// A replica that refused a write has missed nothing, unless it lost its data or is of
/// another era: it takes the write once it is ready.
pub(super) fn is_missed(failure: &ReplicaFailure) -> bool {
    match failure {
        ReplicaFailure::Refused(refusal) => matches!(
            refusal,
            Refusal::Joining { .. } | Refusal::Stale { .. } | Refusal::OtherReplica { .. }
        ),
        _ => true,
    }
}

impl Replica {
    fn lock(&self) -> MutexGuard<'_, Missed> {
        // No panic can leave it half changed.
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Missed {
    fn stats(&self) -> HintStats {
        HintStats {
            waiting: self.keys.len(),
            delivered: self.delivered,
            dropped: self.dropped,
            is_pass_due: self.is_pass_due,
        }
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.bytes = 0;
        self.is_pass_due = false;
    }

    fn add(&mut self, key: &Key, settings: &HintSettings) {
        if self.is_pass_due {
            // It brings this one, too.
            return;
        }
        self.next = self.next.wrapping_add(1);
        if let Some(number) = self.keys.get_mut(key) {
            *number = self.next;
            return;
        }
        let bytes = self.bytes.saturating_add(key.len());
        if self.keys.len() >= settings.max_keys || bytes > settings.max_bytes {
            let dropped = (self.keys.len() as u64).saturating_add(1);
            self.dropped = self.dropped.saturating_add(dropped);
            self.clear();
            self.is_pass_due = true;
            return;
        }
        self.bytes = bytes;
        // A key of its own: this one may be a part of something large.
        self.keys.insert(Key::from(key.as_bytes()), self.next);
    }

    fn due(&self) -> Option<Due> {
        if self.is_pass_due {
            return Some(Due::Pass);
        }
        let (key, number) = self.keys.first_key_value()?;
        Some(Due::Key(key.clone(), *number))
    }

    fn delivered(&mut self, key: &Key, number: u64) {
        if self.keys.get(key) == Some(&number) {
            self.keys.remove(key);
            self.bytes = self.bytes.saturating_sub(key.len());
            self.delivered = self.delivered.saturating_add(1);
        }
    }
}
