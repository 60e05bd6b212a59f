//! What tests stores, transports and applications of
//! [kvquorum](https://docs.rs/kvquorum-core).
//!
//! - [`conformance`]: suites that hold a [`Store`](kvquorum_core::Store), a
//!   [`Transport`](kvquorum_core::Transport) or a [`Codec`](kvquorum_core::Codec) to
//!   its contract, sentence by sentence.
//!
//! It is a dev-dependency: no library needs it to run.

pub mod conformance;
