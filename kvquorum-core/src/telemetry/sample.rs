//! Which of many alike is timed.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// Whether to time this one: about one in eight, and the first on each thread.
///
/// A look at the clock and a value in a histogram take longer than counting does,
/// and an operation makes a call to each replica. By chance, and not by turns: turns
/// may be in step with the replicas.
#[must_use]
pub fn is_sampled() -> bool {
    STATE.with(|state| {
        // Knuth's MMIX: the upper bits are random enough.
        let next = state.get().wrapping_mul(6_364_136_223_846_793_005);
        let next = next.wrapping_add(1_442_695_040_888_963_407);
        state.set(next);
        next >> 61 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::is_sampled;

    /// Bugs: none is timed, or all are; the first is not; of calls by turns to three
    /// replicas, those to one are never timed.
    #[test]
    fn one_in_eight_is_sampled_whatever_the_turns() {
        assert!(is_sampled());
        let mut sampled = [0_u32; 3];
        for turn in 0..24_000 {
            sampled[turn % 3] += u32::from(is_sampled());
        }
        for sampled in sampled {
            assert!((800..1200).contains(&sampled), "{sampled} of 8000");
        }
    }
}
