//! Nothing but the examples of the README, so that they are tested like the
//! others.

#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
