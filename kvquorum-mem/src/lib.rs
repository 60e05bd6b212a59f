#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod network;
#[cfg(feature = "sim")]
pub mod sim;
mod store;

pub use network::{Data, Latency, Link, Network, Node, NodeError};
pub use store::MemStore;
