//! Randomness, from the operating system's.

use std::hash::{BuildHasher, RandomState};

pub(crate) fn number() -> u64 {
    // Each `RandomState` hashes under fresh random keys, so that even the hash of
    // nothing is random.
    RandomState::new().hash_one(())
}
