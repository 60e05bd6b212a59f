//! What a replica admits, and how much it does for one request.

use std::time::Duration;

use crate::clock::DEFAULT_MAX_DRIFT;

/// What a replica admits. Whatever is beyond is refused with a typed
/// [`Refusal`](crate::Refusal), and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Limits {
    /// The longest key, in bytes. 1 KiB by default. The empty key is never
    /// admitted.
    pub max_key_len: usize,
    /// The largest value, in bytes. 1 MiB by default.
    pub max_value_len: usize,
    /// How far ahead of the replica's own clock an entry or a ballot may be stamped
    /// (rule C-DRIFT). [`DEFAULT_MAX_DRIFT`], one minute, by default.
    pub max_drift: Duration,
    /// The most entries in a page of a scan, whatever is asked for. 4,096 by
    /// default; 0 is taken for 1.
    pub max_scan_keys: usize,
    /// The most bytes of keys and records in a page of a scan, as
    /// [`ScanLimit::max_bytes`](crate::ScanLimit::max_bytes) counts them, whatever
    /// is asked for. 1 MiB by default. An entry that is larger has a page of its
    /// own.
    ///
    /// With the default limits, a page as HTTP carries it is less than 64 KiB
    /// larger than 1 MiB, and so no longer than what its client takes by default.
    pub max_scan_bytes: usize,
    /// The most records that are hashed, or [swept](crate::RequestKind::Sweep), for one
    /// request of a [pass](crate::Coordinator::pass), whatever is asked for. 32,768 by
    /// default; 0 is taken for 1.
    pub max_hashed_keys: usize,
    /// The most bytes of keys and records that are gone through for one such request, but
    /// for the first record. 16 MiB by default. They are read a page of a scan at a
    /// time.
    pub max_hashed_bytes: usize,
    /// The most windows in the answer to one such request. 256 by default; 0 is taken
    /// for 1.
    pub max_windows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_key_len: 1024,
            max_value_len: 1024 * 1024,
            max_drift: DEFAULT_MAX_DRIFT,
            max_scan_keys: 4096,
            max_scan_bytes: 1024 * 1024,
            max_hashed_keys: 32 * 1024,
            max_hashed_bytes: 16 * 1024 * 1024,
            max_windows: 256,
        }
    }
}

impl Limits {
    /// Sets the longest key, in bytes.
    pub fn max_key_len(mut self, max: usize) -> Self {
        self.max_key_len = max;
        self
    }

    /// Sets the largest value, in bytes.
    pub fn max_value_len(mut self, max: usize) -> Self {
        self.max_value_len = max;
        self
    }

    /// Sets how far ahead of the replica's own clock an entry may be stamped.
    pub fn max_drift(mut self, max: Duration) -> Self {
        self.max_drift = max;
        self
    }

    /// Sets the most entries in a page of a scan.
    pub fn max_scan_keys(mut self, max: usize) -> Self {
        self.max_scan_keys = max;
        self
    }

    /// Sets the most bytes of keys and records in a page of a scan.
    pub fn max_scan_bytes(mut self, max: usize) -> Self {
        self.max_scan_bytes = max;
        self
    }

    /// Sets the most records that are hashed for one request.
    pub fn max_hashed_keys(mut self, max: usize) -> Self {
        self.max_hashed_keys = max;
        self
    }

    /// Sets the most bytes of keys and records that are hashed for one request.
    pub fn max_hashed_bytes(mut self, max: usize) -> Self {
        self.max_hashed_bytes = max;
        self
    }

    /// Sets the most windows in an answer.
    pub fn max_windows(mut self, max: usize) -> Self {
        self.max_windows = max;
        self
    }
}
