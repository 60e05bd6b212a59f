//! The connections of a transport that are not in use.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::unconstrained;

use super::connection::Connection;

/// Idle connections, the one used last on top: the others can then grow old
/// when fewer are needed.
pub(crate) struct Pool {
    idle: Mutex<Vec<Idle>>,
    idle_timeout: Duration,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(idle_timeout: Duration) -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            idle_timeout,
        }
    }

    /// An idle connection that seems alive.
    ///
    /// A task that has used its budget up would hear of no close.
    pub(crate) async fn take(&self) -> Option<Connection> {
        loop {
            let Idle {
                mut connection,
                since,
            } = self.idle().pop()?;
            if since.elapsed() >= self.idle_timeout {
                self.forget(since);
                continue;
            }
            let is_live = poll_fn(|cx| Poll::Ready(connection.is_live(cx)));
            if unconstrained(is_live).await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose exchange is done.
    pub(crate) fn put(&self, connection: Connection) {
        let mut idle = self.idle();
        // Now that it is locked, so that the list stays in order.
        let since = Instant::now();
        let old = since.checked_sub(self.idle_timeout);
        let old = old.map(|until| unused_since(until, &mut idle));
        idle.push(Idle { connection, since });
        drop(idle);
        // Closing sockets is not for others to wait for.
        drop(old);
    }

    /// Closes the connections that have not been used since then.
    pub(crate) fn forget(&self, until: Instant) {
        let forgotten = unused_since(until, &mut self.idle());
        drop(forgotten);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // No panic can leave the list half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the oldest out, which are at the bottom.
fn unused_since(until: Instant, idle: &mut Vec<Idle>) -> Vec<Idle> {
    let count = idle.iter().take_while(|idle| idle.since <= until).count();
    idle.drain(..count).collect()
}
