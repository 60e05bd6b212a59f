#![doc = include_str!("../README.md")]

mod address;
mod body;
mod client;
mod connection;
mod error;
mod plain;
mod pool;
mod resolve;
mod server;
mod service;
mod socket;
mod time;
pub mod wire;

pub use address::AddressError;
pub use client::{HttpTransport, HttpTransportBuilder};
pub use error::{HttpError, RemoteStoreError};
/// In [`HttpError::Status`].
pub use hyper::StatusCode;
pub use server::{Server, ServerBuilder};
pub use service::ReplicaService;
