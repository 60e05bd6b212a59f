//! TLS: who is let in, who is not, and what both sides say of it.
#![cfg(feature = "tls")]
// In a test a panic is how a broken promise shows.

mod authority;
#[path = "../common/mod.rs"]
mod common;
mod curl;
#[cfg(feature = "metrics")]
mod expiry;
mod files;
mod limits;
mod refusals;
mod served;
mod setting;
