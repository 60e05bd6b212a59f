//! Making those who wait for their peer give up what others need.

use tokio::sync::Semaphore;

/// A queue of those who hold something that others may need, and only wait for
/// their peer. The one that has waited for longest is asked first.
pub(super) struct Eviction {
    /// A permit for each that is asked. The semaphore hands them out in the
    /// order in which they are waited for. It is never closed.
    asked: Semaphore,
}

impl Eviction {
    pub(super) fn new() -> Self {
        Self {
            asked: Semaphore::new(0),
        }
    }

    /// Asks the first of the queue, or whoever is the next to come.
    pub(super) fn ask_one(&self) {
        if self.asked.available_permits() == 0 {
            self.asked.add_permits(1);
        }
    }

    /// Asks nobody any more.
    pub(super) fn withdraw(&self) {
        if self.asked.available_permits() > 0 {
            self.asked.forget_permits(usize::MAX);
        }
    }

    /// Queues until asked to give up.
    pub(super) async fn asked(&self) {
        if let Ok(asked) = self.asked.acquire().await {
            asked.forget();
        }
    }

    /// Whether the caller is asked to give up, with nobody in the queue.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.try_acquire().map(|asked| asked.forget()).is_ok()
    }
}
