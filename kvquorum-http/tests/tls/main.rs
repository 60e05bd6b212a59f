//! TLS: who is let in, who is not, and what both sides say of it.
#![cfg(feature = "tls")]
// In a test a panic is how a broken promise shows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod authority;
#[path = "../common/mod.rs"]
mod common;
mod curl;
mod files;
mod limits;
mod refusals;
mod served;
mod setting;
