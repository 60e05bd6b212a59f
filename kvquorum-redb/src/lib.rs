#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod backend;
mod builder;
mod engine;
mod error;
mod files;
mod format;
mod store;
mod writer;

pub use builder::Builder;
pub use error::{OpenError, RedbStoreError};
pub use redb::StorageBackend;
pub use store::{RedbStore, Stats};
pub use writer::Durability;
