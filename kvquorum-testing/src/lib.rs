//! What tests stores, transports and applications of
//! kvquorum.
//!
//! - [`conformance`]: suites that hold a [`Store`](kvquorum_core::Store), a
//!   [`Transport`](kvquorum_core::Transport) or a [`Codec`](kvquorum_core::Codec) to
//!   its contract, sentence by sentence.
//! - [`linearizability`]: a checker for histories of registers, in which operations
//!   may have failed or not ended.
//! - `sim`, with the feature `sim`: a cluster that misbehaves as real ones do, in
//!   virtual time.
//! - `Recorded`, with the feature `metrics`: what was counted and measured.
//!
//! It is a dev-dependency: no library needs it to run.

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

pub mod conformance;
pub mod linearizability;
#[cfg(feature = "metrics")]
mod recorded;
#[cfg(feature = "sim")]
pub mod sim;

#[cfg(feature = "metrics")]
pub use recorded::Recorded;
