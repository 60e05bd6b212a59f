#![doc = include_str!("../README.md")]
#![warn(missing_docs, unreachable_pub)]
// Whatever input, a peer or a clock can reach is an error value, never a panic.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod network;
mod store;

pub use network::{Latency, Link, Network, Node, NodeError};
pub use store::MemStore;
