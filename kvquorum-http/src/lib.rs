#![doc = include_str!("../README.md")]

mod answer;
mod body;
mod client;
mod error;
mod plain;
mod problem;
mod server;
mod service;
mod socket;
mod time;
pub mod wire;

use wire::frames;

pub use answer::AnswerBody;
pub use client::{AddressError, HttpTransport, HttpTransportBuilder};
pub use error::{HttpError, RemoteStoreError};
/// In [`HttpError::Status`].
pub use hyper::StatusCode;
pub use server::{Server, ServerBuilder};
pub use service::ReplicaService;
