//! The runtimes that work is measured on.

use tokio::runtime::{Builder, Runtime};

/// All on the thread that waits for it.
pub fn of_this_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// On so many threads, besides the one that waits.
pub fn of_threads(threads: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}

/// As [`of_this_thread`], in virtual time: it moves on when all wait for it.
pub fn paused() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}
