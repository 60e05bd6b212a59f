//! The time that a process has spent on a processor.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Seconds of this process so far, the kernel's work for it included.
pub fn own_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let spent = usage.user_time() + usage.system_time();
    spent.num_microseconds() as f64 / 1e6
}
