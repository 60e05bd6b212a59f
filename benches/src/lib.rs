//! What the benchmarks share: the ways of keeping a map with N copies, and how
//! they are measured beside each other. README.md says what is measured.

#![forbid(unsafe_code)]

pub mod cpu;
pub mod http;
pub mod map;
pub mod memory;
#[cfg(feature = "operators")]
pub mod operators;
pub mod runtime;
pub mod table;
pub mod turns;
pub mod work;

mod stamps;

/// Calls a function that is generic over N, W and R for each of the quorums
/// that are measured.
#[macro_export]
macro_rules! for_each_quorum {
    ($function:ident($($argument:expr),* $(,)?)) => {{
        $function::<1, 1, 1>($($argument),*);
        $function::<3, 2, 2>($($argument),*);
        $function::<5, 3, 3>($($argument),*);
        $function::<7, 4, 4>($($argument),*);
    }};
}

/// `3-2-2/100B`, as it stands in ids.
pub fn id<const N: usize, const W: usize, const R: usize>(value_len: usize) -> String {
    format!("{N}-{W}-{R}/{value_len}B")
}
