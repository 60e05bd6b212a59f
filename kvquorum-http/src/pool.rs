//! The connections of a transport that are not in use.

use std::future::poll_fn;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::connection::Connection;

/// Idle connections, the one used last on top: the others can then grow old
/// when fewer are needed.
pub(crate) struct Pool {
    idle: Mutex<Vec<Idle>>,
    idle_time_limit: Duration,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(idle_time_limit: Duration) -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            idle_time_limit,
        }
    }

    /// An idle connection that seems alive.
    pub(crate) async fn take(&self) -> Option<Connection> {
        loop {
            let Idle {
                mut connection,
                since,
            } = self.idle().pop()?;
            if since.elapsed() >= self.idle_time_limit {
                // Those below it have been idle for longer.
                self.clear();
            } else if poll_fn(|cx| Poll::Ready(connection.is_live(cx))).await {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose call is done.
    pub(crate) fn put(&self, connection: Connection) {
        let since = Instant::now();
        let mut idle = self.idle();
        let is_old = |idle: &Idle| since.duration_since(idle.since) >= self.idle_time_limit;
        // The oldest are at the bottom.
        let old = idle.iter().take_while(|idle| is_old(idle)).count();
        let old: Vec<Idle> = idle.drain(..old).collect();
        idle.push(Idle { connection, since });
        drop(idle);
        // Closing sockets is not for others to wait for.
        drop(old);
    }

    /// Closes all idle connections.
    pub(crate) fn clear(&self) {
        let closed = std::mem::take(&mut *self.idle());
        drop(closed);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // No panic can leave the list half changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
