//! The threads that read.
//!
//! While many reads come, a reader goes from one to the next and is not woken
//! for each. There is more than one, so that a read which waits for the disk
//! does not hold up all others.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use kvquorum_core::{Entry, Key};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::engine::Engine;
use crate::error::RedbStoreError;

/// How many reads a reader takes at once, at the most. Larger groups save
/// little, and those behind a read that waits for the disk wait with it.
const GROUP: usize = 4;

/// A read that waits for a reader.
pub(crate) struct Read {
    pub(crate) key: Key,
    /// Closed where the caller has left. Such a read is not made.
    pub(crate) answer: oneshot::Sender<Result<Option<Entry>, RedbStoreError>>,
    /// Its place among the reads that wait.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// Ends the threads when it is dropped, and waits for them.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    readers: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Read>,
    /// Readers that sleep, or are about to wake.
    idle: usize,
    /// Whether one of them has been woken and has not come yet.
    woken: bool,
    closed: bool,
}

impl Readers {
    pub(crate) fn start(count: usize, engine: &Arc<Engine>) -> Result<Self, io::Error> {
        let count = count.max(1);
        let shared = Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            readers: count,
        };
        let mut readers = Self {
            shared: Arc::new(shared),
            threads: Vec::new(),
        };
        for _ in 0..count {
            let (shared, engine) = (Arc::clone(&readers.shared), Arc::clone(engine));
            let thread = thread::Builder::new()
                .name("kvquorum-redb-read".to_owned())
                .spawn(move || shared.run(&engine))?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    pub(crate) fn hand_over(&self, read: Read) {
        let mut state = self.shared.state();
        state.waiting.push_back(read);
        self.shared.wake_one(state);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // What a reader runs in the engine is guarded against panics.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One after the other: the first that comes takes what others would have
    /// been woken for.
    fn wake_one(&self, mut state: MutexGuard<'_, State>) {
        if state.waiting.is_empty() || state.idle == 0 || state.woken {
            return;
        }
        state.woken = true;
        drop(state);
        self.changed.notify_one();
    }

    fn run(&self, engine: &Engine) {
        let mut group = Vec::with_capacity(GROUP);
        while self.take(&mut group) {
            for Read { key, answer, .. } in group.drain(..) {
                // The caller may have left meanwhile.
                let _ = answer.send(engine.read(&key));
            }
        }
    }

    /// Waits for reads and takes its share of them; `false` where there will be
    /// no more.
    fn take(&self, group: &mut Vec<Read>) -> bool {
        let mut state = self.state();
        loop {
            let share = state.waiting.len().div_ceil(self.readers).min(GROUP);
            while group.len() < share {
                match state.waiting.pop_front() {
                    Some(read) if read.answer.is_closed() => {}
                    Some(read) => group.push(read),
                    None => break,
                }
            }
            if !group.is_empty() {
                self.wake_one(state);
                return true;
            }
            if state.closed {
                return false;
            }
            state.idle = state.idle.saturating_add(1);
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle = state.idle.saturating_sub(1);
            state.woken = false;
        }
    }
}
