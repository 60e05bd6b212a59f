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

mod backend;
mod backup;
mod builder;
mod compaction;
mod directory;
mod engine;
mod error;
mod format;
mod place;
mod queue;
mod store;
mod telemetry;
mod writer;

pub use backup::BackupError;
pub use builder::{Reads, RedbStoreBuilder};
pub use compaction::Compaction;
pub use error::{OpenError, RedbStoreError};
pub use redb::StorageBackend;
pub use store::{RedbStore, Stats};
pub use writer::Durability;
