#![doc = include_str!("../README.md")]

mod address;
mod body;
mod call;
mod client;
mod connection;
mod error;
mod exchange;
mod failure;
mod frames;
mod gather;
mod gatherer;
mod link;
mod pool;
mod problem;
mod resolve;
mod server;
mod time;
pub mod wire;

pub use address::AddressError;
pub use client::{HttpTransport, HttpTransportBuilder};
pub use error::{HttpError, RemoteStoreError};
/// In [`HttpError::Status`].
pub use hyper::StatusCode;
pub use server::{AnswerBody, ReplicaService, ReplicaServiceBuilder, Server, ServerBuilder};
