#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod map;
mod mutant;
mod oracle;
mod planted;
mod scenario;
mod spy;
mod trace;
use scenario::{Plan, run};
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap_or(0)).collect();
    let start = std::time::Instant::now();
    let mut counts = oracle::Counts::default();
    let mut simulated = std::time::Duration::ZERO;
    let mutant = args.get(2) == Some(&1);
    for seed in args[0]..args[0] + args[1] {
        let r = run(Plan { seed, mutant, ..Plan::default() }).unwrap();
        counts.add(&r.counts);
        simulated += r.simulated;
        if let Some(v) = r.violation {
            println!("{seed}: {v:?}");
            if args.len() > 3 {
            for ops in 1.. {
                let r = run(Plan { seed, mutant, operations: Some(ops), keep_trace: true, ..Plan::default() }).unwrap();
                if let Some(v) = r.violation { println!("{}{v:?}", r.timeline); break; }
            }
            break; }
        }
    }
    let s = start.elapsed().as_secs_f64();
    println!("{counts:#?} {} ops/s {} x", counts.operations as f64 / s, simulated.as_secs_f64() / s);
}
