//! All benchmarks of the quorum's overhead, one after the other, and one table
//! of what they came to: see README.md.

use std::env;
use std::process::Command;
use std::time::Instant;

use kvquorum_benches::table::Table;

const DIRECTORY: &str = env!("CARGO_TARGET_TMPDIR");

/// The ones that need a quiet machine most come last, when all is compiled.
const BENCHMARKS: [&str; 6] = [
    "allocations",
    "instructions",
    "memory",
    "ratios",
    "http",
    "slow",
];

fn main() {
    let start = Instant::now();
    let mut table = Table::default();
    for benchmark in BENCHMARKS {
        println!("\n## {benchmark}\n");
        Table::clear(DIRECTORY, benchmark);
        run(benchmark);
        println!("{:.0} seconds so far", start.elapsed().as_secs_f64());
        table.append(Table::load(DIRECTORY, benchmark));
    }
    println!("\n## All ratios\n\n{}", table.goals_first());
}

fn run(benchmark: &str) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["bench", "--quiet", "--bench", benchmark])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.unwrap().success(), "{benchmark} failed");
}
