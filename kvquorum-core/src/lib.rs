//! Leaderless, quorum-replicated maps.
//!
//! An application brings its own storage (a [`Store`]) and its own network (a
//! [`Transport`]); this crate brings the part that is hard to get right:
//! talking to N replicas, deciding at W or R of them, merging by last write
//! wins, and saying honestly what happened.
//!
//! An operation goes down these stairs, and the entry comes back up the same:
//!
//! ```text
//! put, get, scan, update  Coordinator   the client side; decides at a quorum
//!   fan-out over N        Transport     a link to one replica
//!     checks, decides     Replica       the node side; the one door to a store
//!       keeps             Store         one replica's local storage
//! ```
//!
//! The crate knows no adapter and opens no socket, and every source of time or
//! randomness in it can be replaced: the wall clock and the writer id by
//! settings, timers by Tokio's paused time.
//!
//! # Rules
//!
//! Each promise has a name, and is written where it is kept: W-ALL, W-QUORUM,
//! W-FINISH, W-CANCEL, W-FAIL and W-SUPERSEDED at [`Coordinator::put`];
//! R-QUORUM, R-REPAIR and R-FAIL at [`Coordinator::get`]; R-RANGE at
//! [`Coordinator::scan`]; P-CONVERGE, P-HONEST and P-RESUME at [`Coordinator::pass`];
//! H-KEY, H-OVERFLOW and H-ASIDE at [`Coordinator::handoff`]; J-SILENT, J-COPY and J-ERA at
//! [`Coordinator::rejoin`];
//! C-MONOTONIC at [`Coordinator::put`]; C-DRIFT and L-PROMISE at
//! [`Change::decide`]; M-EXACT at [`Map::put`]; L-REGISTER, L-VERSION, L-DOUBT, L-FAIR
//! and L-BESIDE at [`Registers`]. What quorums do and do not promise together is said
//! at [`Coordinator`].
//!
//! What a replica does with a request is decided in one place, the rule book
//! [`Change::decide`]: stores keep, core decides.
//!
//! # Features
//!
//! - `json`, on by default: the [`Json`] codec and [`Coordinator::map`].
//! - `metrics`: counts and times through the `metrics` facade. The recorder has to
//!   be installed before coordinators are made.
//! - `tracing`: events that an operator should know of, of each kind and replica at
//!   most one in ten seconds; and at the level `debug` a span for each
//!   operation, and in it one for each call that is not over at once. They name
//!   replicas, and no keys or values.

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

mod cache_padded;
mod clock;
mod conditional;
mod coordinator;
mod entry;
#[cfg(test)]
mod error_tests;
mod fingerprint;
mod identity;
mod map;
mod marks;
mod outcome;
mod random;
mod range;
mod record;
mod registers;
mod replica;
mod request;
mod rules;
mod store;
mod tally;
mod telemetry;
mod told;
mod transport;
pub use bytes::Bytes;
pub use clock::{ClockExhausted, DEFAULT_MAX_DRIFT, SystemClock, WallClock};
pub use conditional::{Conditional, ConditionalWrite, TooContended};
pub use coordinator::{
    CollectError, Collected, CollectedReplica, Coordinator, CoordinatorBuilder, Edit, Handoff,
    HintSettings, HintStats, IdentityError, LONGEST_TIME_LIMIT, MAX_REPLICAS, Pass, PassCursor,
    PassProgress, PassReport, PassSettings, Passes, ReadError, ReadReceipt, ReadReport, Rejoin,
    RejoinError, RejoinProgress, ReplicaPass, ReplicaReport, ReplicaStats, Scan, ScanError,
    ScanReport, UpdateError, UpdateReport, WriteError, WriteReceipt, WriteReport,
};
pub use entry::{Entry, Key, Timestamp, Version, WriterId};
pub use fingerprint::{
    Fingerprint, FingerprintRequest, Versioned, Versions, VersionsRequest, Window, WindowEnd,
    Windows,
};
pub use identity::{Identity, Quorums, ReplicaId};
pub use map::{Codec, CodecError, Entries, Json, KeepsOrder, Keys, Map, MapError, OrderedKeys};
pub use marks::{Era, Marks};
pub use outcome::{Outcome, ReplicaFailure, WithCauses};
pub use range::{KeyRange, Page};
pub use record::{Record, RecordError};
pub use registers::{Registers, Swap, Updated};
pub use replica::{Limits, Readiness, Replica};
pub use request::{Ack, Held, Refusal, Request, RequestKind, Response};
pub use rules::{Action, Asked, Change, Decision};
pub use store::{ScanLimit, Store, StoreError};
#[doc(hidden)]
pub use telemetry::{EventLimit, is_sampled};
pub use told::{LastCollection, LastPass, Records, Status, Swept, Told, Waits};
pub use transport::{Call, Transport, TransportError};
