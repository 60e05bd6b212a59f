#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod builder;
mod directory;
mod engine;
mod error;
mod format;
mod place;
mod queue;
mod store;
mod writer;

pub use builder::{Builder, Reads};
pub use error::{OpenError, RedbStoreError};
pub use redb::StorageBackend;
pub use store::{RedbStore, Stats};
pub use writer::Durability;
