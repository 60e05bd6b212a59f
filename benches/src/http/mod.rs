//! Replicas in other processes, and what it takes to measure maps on them.

mod floor;
mod load;
pub(crate) mod server;
mod wire;

pub use floor::HttpFloor;
pub use load::{Client, Load};
pub use server::{Pace, ServerProcess, serve_if_told};
