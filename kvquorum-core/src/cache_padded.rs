//! Keeping what many threads write apart from what they only read.

/// Padded to two cache lines, to avoid false sharing: many processors fetch lines
/// in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct CachePadded<T>(pub(crate) T);
