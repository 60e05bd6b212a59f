//! Which replica a read begins with.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::cache_padded::CachePadded;

/// As many threads as there often are. More of them share.
const THREADS: usize = 16;

thread_local! {
    /// Which of the counts is this thread's.
    static THREAD: usize = {
        static THREADS_SO_FAR: AtomicUsize = AtomicUsize::new(0);
        THREADS_SO_FAR.fetch_add(1, Ordering::Relaxed) % THREADS
    };
}

/// How many reads there were on each thread: one count for all would be what
/// their reads wait for each other for.
#[derive(Debug, Default)]
pub(super) struct Rotation([CachePadded<AtomicU64>; THREADS]);

impl Rotation {
    /// All of N, not always beginning with the same, so that reads which need
    /// not ask all replicas come to each.
    pub(super) fn next<const N: usize>(&self) -> impl Iterator<Item = usize> + Clone + use<N> {
        // 2⁶⁴ by the golden ratio. Multiples of it are spread evenly, and in
        // step with no pattern of reads: a plain rotation would lead reads of N
        // keys round and round to the same replica for each key.
        const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
        let first = (self.count().wrapping_mul(GOLDEN) >> 32) as usize;
        let first = first.checked_rem(N).unwrap_or(0);
        let all = first..first.saturating_add(N);
        all.map(|replica| replica.checked_sub(N).unwrap_or(replica))
    }

    /// How many reads there were, or fewer.
    pub(super) fn total(&self) -> u64 {
        let counts = self.0.iter().map(|CachePadded(count)| count);
        counts.fold(0, |total, count| {
            total.wrapping_add(count.load(Ordering::Relaxed))
        })
    }

    fn count(&self) -> u64 {
        let Some(CachePadded(count)) = THREAD.with(|thread| self.0.get(*thread)) else {
            return 0;
        };
        // Not one atomic step: where threads share a count, two reads may have
        // the same place, and neither waits for the other.
        let before = count.load(Ordering::Relaxed);
        count.store(before.wrapping_add(1), Ordering::Relaxed);
        before
    }
}
