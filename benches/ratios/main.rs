//! Puts and gets in memory, each way beside the floor, by turns: see README.md.

mod many_tasks;
mod one_task;

use kvquorum_benches::table::Table;
use kvquorum_benches::turns::Spread;

fn main() {
    let mut table = Table::default();
    one_task::measure(&mut table);
    many_tasks::measure(&mut table);
    table.print_and_save(env!("CARGO_TARGET_TMPDIR"), "ratios");
}

/// What this is of all that is measured the goals are about.
fn is_headline<const N: usize>(value_len: usize) -> bool {
    N == 3 && value_len == 100
}

fn ratio(ours: &[f64], theirs: &[f64]) -> Spread {
    Spread::of_ratios(ours, theirs, |nanos| *nanos)
}

fn whole(nanos: &[f64]) -> String {
    format!("{:.0}", Spread::of(nanos.iter().copied()).median)
}
