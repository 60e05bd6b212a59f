#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod network;
mod store;

pub use network::{Data, Latency, Link, Network, Node, NodeError};
pub use store::MemStore;
