//! Memory that all connections share.

use std::future::pending;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use super::eviction::Eviction;
use crate::time::in_time;

/// What each connection may take beside the budget: counting it would cost more
/// than it is worth.
pub(super) const UNCOUNTED: usize = 64 * 1024;

/// How long somebody may wait for a peer before others who need the memory come
/// first.
const STALLED: Duration = Duration::from_secs(1);

/// A number of bytes that all connections share.
pub(super) struct Budget {
    /// A permit for each byte. Never closed.
    bytes: Arc<Semaphore>,
    max: u32,
    /// Those who hold some, and have waited for their peer for a while.
    stalled: Eviction,
}

/// Some bytes of a [`Budget`], given back when dropped.
pub(super) type Lease = OwnedSemaphorePermit;

/// Tells whether a lease that several share is still held by one of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Weak<Lease>);

impl Held {
    pub(super) fn new(lease: &Arc<Lease>) -> Self {
        Self(Arc::downgrade(lease))
    }

    pub(super) fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Budget {
    pub(super) fn new(max: usize) -> Self {
        // No more than a semaphore has: on 32 bits that is less than a `u32`, and who
        // waited for more would wait for ever.
        let permits = max.clamp(1, Semaphore::MAX_PERMITS);
        let max = u32::try_from(permits).unwrap_or(u32::MAX);
        Self {
            bytes: Arc::new(Semaphore::new(max as usize)),
            max,
            stalled: Eviction::new(),
        }
    }

    /// So many bytes, or the whole budget where that is less. `None` where they
    /// are not free now; then a stalled holder is asked to give up its bytes.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Lease> {
        let lease = Arc::clone(&self.bytes).try_acquire_many_owned(self.clamp(bytes));
        match lease {
            Ok(_) => self.stalled.withdraw(),
            Err(_) => self.stalled.ask_one(),
        }
        lease.ok()
    }

    /// So many bytes, or the whole budget where that is less, once they are
    /// free. Stalled holders are asked to give up theirs.
    pub(super) async fn take(&self, bytes: usize) -> Lease {
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(self.clamp(bytes));
        let mut bytes = pin!(bytes);
        loop {
            match in_time(STALLED, bytes.as_mut()).await {
                Ok(Ok(lease)) => {
                    self.stalled.withdraw();
                    return lease;
                }
                Ok(Err(_closed)) => return pending().await,
                Err(_) => self.stalled.ask_one(),
            }
        }
    }

    /// Returns when the caller, who waits for a peer, must give up what it
    /// holds: others need it, and nobody has waited for longer. The caller may
    /// have waited before, for `waited`.
    pub(super) async fn evicted(&self, waited: Duration) {
        // A peer that always has something to send may use up the task's
        // cooperative budget before it comes to this.
        unconstrained(async {
            sleep(STALLED.saturating_sub(waited)).await;
            self.stalled.asked().await;
        })
        .await;
    }

    fn clamp(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.max)
    }
}

/// These bytes, which hold their share of the lease until they are dropped.
pub(super) fn leased(bytes: Bytes, lease: &mut Option<Lease>) -> Bytes {
    struct Leased {
        bytes: Bytes,
        _lease: Lease,
    }

    impl AsRef<[u8]> for Leased {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    let share = lease.as_mut().and_then(|lease| {
        let share = bytes.len().min(lease.num_permits());
        lease.split(share)
    });
    match share {
        Some(_lease) if _lease.num_permits() > 0 => Bytes::from_owner(Leased { bytes, _lease }),
        _ => bytes,
    }
}
