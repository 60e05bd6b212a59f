//! What an operator sees: counts and times through the `metrics` facade, events
//! through `tracing`.
//!
//! Here, and nowhere else, the features choose. Without them all of it is empty
//! types and empty functions.

#[cfg(feature = "metrics")]
mod counts;
#[cfg(not(feature = "metrics"))]
#[path = "no_counts.rs"]
mod counts;
#[cfg(feature = "tracing")]
mod events;
#[cfg(not(feature = "tracing"))]
#[path = "no_events.rs"]
mod events;

pub(crate) use counts::Counts as Telemetry;
pub(crate) use events::{compacted, not_opened, read_failed, reopened, write_failed};
