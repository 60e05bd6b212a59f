//! Leaderless, quorum-replicated maps.
#![warn(missing_docs)]
mod clock;
pub mod conformance;
mod entry;
mod replica;
mod store;
mod transport;
pub use bytes::Bytes;
pub use clock::{Clock, ClockExhausted, DEFAULT_MAX_DRIFT, SystemClock, WallClock};
pub use entry::{Entry, Key, Timestamp, Version, WriterId};
pub use replica::{Limits, Replica};
pub use store::{Merged, Store, StoreError};
pub use transport::{Refusal, Request, Response, Transport, TransportError};
