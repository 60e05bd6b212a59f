//! In-memory store and network.
