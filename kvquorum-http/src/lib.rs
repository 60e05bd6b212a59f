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

mod body;
mod client;
mod error;
#[cfg(test)]
mod error_tests;
mod reload;
mod server;
mod stream;
mod telemetry;
mod time;
#[cfg(feature = "tls")]
mod tls;
mod token;
pub mod wire;

pub use client::{AddressError, HttpTransport, HttpTransportBuilder};
pub use error::{HttpError, RemoteStoreError};
/// In [`HttpError::Status`].
pub use hyper::StatusCode;
pub use server::{
    AnswerBody, ConnectionRefused, ReplicaService, ReplicaServiceBuilder, Server, ServerBuilder,
};
#[cfg(feature = "tls")]
pub use tls::{ClientTls, ServerTls, TlsError};
pub use token::{TokenError, Tokens};

/// As configurations of TLS are made with it.
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
