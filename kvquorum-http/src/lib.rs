#![doc = include_str!("../README.md")]

mod body;
mod client;
mod error;
mod server;
mod time;
pub mod wire;

pub use client::{AddressError, HttpTransport, HttpTransportBuilder};
pub use error::{HttpError, RemoteStoreError};
/// In [`HttpError::Status`].
pub use hyper::StatusCode;
pub use server::{AnswerBody, ReplicaService, ReplicaServiceBuilder, Server, ServerBuilder};
