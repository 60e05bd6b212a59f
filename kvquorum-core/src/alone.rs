//! Keeping what many threads write away from what they only read.

/// Alone on its cache lines, so that writing it takes nothing beside it out of
/// other processors' caches. 128 bytes, as many processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Alone<T>(pub(crate) T);
