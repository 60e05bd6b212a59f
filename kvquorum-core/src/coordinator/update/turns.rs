//! Updates of one key by one coordinator take turns: rule L-FAIR.
//!
//! Two updates that are under way at the same time are in each other's way: the later
//! ballot makes the earlier one's second phase fail, and what became of that can't
//! always be found out. Safety is the ballots' part and needs no turns. So they are a
//! courtesy, of the coordinator's own updates to each other, and whoever has waited
//! for too long goes ahead without.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};
use tokio::time::timeout;

use crate::entry::Key;
use crate::telemetry::Stopwatch;

/// The keys that are being updated: as many as there are updates under way, at most.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<Key, Arc<Queue<()>>>>);

/// The turn of one update, or its place in the queue.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    key: Key,
    queue: Arc<Queue<()>>,
    held: Option<OwnedMutexGuard<()>>,
    /// Runs if there was somebody to wait for.
    pub(super) waited: Stopwatch,
}

impl Turns {
    /// Waits for a key's turn, in the order of the calls, but for so long at most.
    pub(super) async fn wait(&self, key: &Key, most: Duration) -> Turn<'_> {
        let queue = Arc::clone(self.keys().entry(key.clone()).or_default());
        let mut turn = Turn {
            turns: self,
            key: key.clone(),
            queue,
            held: None,
            waited: Stopwatch::stopped(),
        };
        let queue = &turn.queue;
        turn.held = match Arc::clone(queue).try_lock_owned() {
            Ok(held) => Some(held),
            Err(_) => {
                turn.waited.start();
                timeout(most, Arc::clone(queue).lock_owned()).await.ok()
            }
        };
        turn
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<Key, Arc<Queue<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Whether it goes ahead without.
    pub(super) fn is_missed(&self) -> bool {
        self.held.is_none()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.held.take());
        let mut keys = self.turns.keys();
        // Others come to the queue with the keys locked only: if it is the map's and
        // this one's alone, it stays so.
        if Arc::strong_count(&self.queue) == 2 {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests;
