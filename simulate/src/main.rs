//! Runs kvquorum through simulated storms, seed by seed, and checks every
//! promise of puts, gets, scans and registers, of rejoins, passes and hints, of deletes that
//! are collected and values that expire against what happened.
//!
//! ```sh
//! cargo run --release -p kvquorum-simulate -- --seeds 100000
//! ```
//!
//! `scenario` plays one seed on the simulated cluster of `kvquorum_testing::sim`;
//! `oracle` checks it, and `spy` tells the oracle what goes on at both ends of
//! each link. `planted` and `mutant` are bugs, to see that the oracle finds
//! them; `linearizable` shows what is not promised. `hunt` runs many seeds, and
//! shortens what it finds.

mod hunt;
mod linearizable;
mod map;
mod mutant;
mod oracle;
mod planted;
mod scenario;
mod spy;
#[cfg(test)]
mod tests;
mod trace;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use hunt::{Tally, hunt, run, shorten};
use indicatif::{ProgressBar, ProgressStyle};
use linearizable::Setting;
use planted::Bug;
use scenario::Plan;

/// Runs kvquorum through simulated storms, and checks every promise of puts, gets, scans
/// and registers.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds to run at once.
    #[arg(long, default_value_t = NonZeroUsize::MIN)]
    jobs: NonZeroUsize,
    /// Replays this seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// With --seed: prints what happened.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// With --seed: begins only so many operations.
    #[arg(long, requires = "seed")]
    operations: Option<u64>,
    /// Plants each bug in turn, and tells how many seeds it took to catch it.
    #[arg(long)]
    planted: bool,
    /// With --planted: how many seeds a bug may survive.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    budget: u64,
    /// Plants this bug, by the name that --planted lists.
    #[arg(long, conflicts_with = "planted")]
    bug: Option<String>,
    /// Runs the coordinator that bugs are planted in, without one.
    #[arg(long)]
    mutant: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bug = arguments.bug.as_deref().map(|name| {
        let all = Bug::ALL.iter().copied();
        let found = all.clone().find(|bug| bug.id() == name);
        found.ok_or_else(|| all.map(Bug::id).collect::<Vec<_>>().join(", "))
    });
    let bug = match bug.transpose() {
        Ok(bug) => bug,
        Err(names) => {
            eprintln!("There is no such bug. There are: {names}");
            return ExitCode::FAILURE;
        }
    };
    let plan = Plan {
        seed: arguments.seed.unwrap_or(arguments.from),
        operations: arguments.operations,
        keep_trace: arguments.trace,
        bug,
        mutant: arguments.mutant,
    };
    let kept = if arguments.planted {
        plant_all(plan, arguments.budget, arguments.jobs)
    } else if arguments.seed.is_some() {
        replay(plan)
    } else {
        storm(plan, arguments.seeds, arguments.jobs)
    };
    if kept {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn replay(plan: Plan) -> bool {
    let run = run(plan);
    if plan.keep_trace {
        print!("{}", run.timeline);
    }
    println!("trace hash {:016x}", run.hash);
    if let Some(violation) = &run.violation {
        println!("VIOLATION {}: {}", violation.promise, violation.what);
    }
    run.violation.is_none()
}

fn storm(plan: Plan, seeds: u64, jobs: NonZeroUsize) -> bool {
    let bar = ProgressBar::new(seeds);
    let template = "{bar:40} {human_pos} of {human_len} seeds, {per_sec}, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let start = Instant::now();
    let (tally, found) = hunt(plan, seeds, jobs, || bar.inc(1));
    bar.finish_and_clear();
    report(&tally, start.elapsed());
    let Some(seed) = found else {
        println!("No promise was broken.");
        return true;
    };
    tell_of(Plan { seed, ..plan });
    false
}

/// The shortest prefix that shows a violation, as a timeline.
fn tell_of(plan: Plan) {
    let seed = plan.seed;
    let Some((operations, run)) = shorten(plan) else {
        println!("Seed {seed} breaks a promise, but not when it is run again.");
        return;
    };
    print!("\n{}", run.timeline);
    if let Some(violation) = run.violation {
        println!("\nVIOLATION {}: {}", violation.promise, violation.what);
    }
    let planted = match plan.bug {
        Some(bug) => format!(" --bug {}", bug.id()),
        None if plan.mutant => " --mutant".into(),
        None => String::new(),
    };
    println!(
        "Seed {seed}, {operations} operations. To replay it:\n  \
         cargo run --release -p kvquorum-simulate -- --seed {seed} --operations {operations}{planted} --trace"
    );
}

fn report(tally: &Tally, took: Duration) {
    let counts = &tally.counts;
    let seconds = took.as_secs_f64().max(f64::EPSILON);
    let simulated = tally.simulated.as_secs_f64();
    println!(
        "{} seeds, {} operations: {} writes acknowledged, {} superseded, {} reads answered, \
         {} failed, {} callers left",
        tally.seeds,
        counts.operations,
        counts.acknowledged,
        counts.superseded,
        counts.read,
        counts.failed,
        counts.callers_left,
    );
    println!(
        "{} calls: {} answered at once, {} without an answer, {} refused; {} repairs, {} entries stamped again",
        counts.calls,
        counts.at_once,
        counts.without_answer,
        counts.refused,
        counts.repairs,
        counts.restamped,
    );
    println!(
        "{} operations on registers, {} ballots, {} in doubt; {} pages of scans, {} keys found",
        counts.registers, counts.ballots, counts.in_doubt, counts.pages, counts.scanned,
    );
    println!(
        "{} rejoins, {} records copied; {} passes complete, {} entries repaired; {} hints delivered",
        counts.rejoined, counts.copied, counts.passes, counts.repaired, counts.delivered,
    );
    println!(
        "{} rounds of collection, {} tombstones collected, {} records swept",
        counts.rounds, counts.collected, counts.swept,
    );
    println!(
        "{} puts of values that expire, {} hidden from readers, {} deleted",
        counts.expiring, counts.hidden, counts.expired,
    );
    let mut faults: Vec<_> = counts.faults.iter().collect();
    faults.sort();
    let faults = faults
        .iter()
        .map(|(kind, count)| format!("{count} × {kind}"));
    println!("faults: {}", faults.collect::<Vec<_>>().join(", "));
    println!(
        "{:.1} hours in {seconds:.1} s: {:.0} times real time, {:.0} operations a second",
        simulated / 3_600.0,
        simulated / seconds,
        counts.operations as f64 / seconds,
    );
}

/// Plants each bug in turn; then shows what is not promised.
fn plant_all(plan: Plan, budget: u64, jobs: NonZeroUsize) -> bool {
    let sound = Plan {
        bug: None,
        mutant: true,
        ..plan
    };
    let (_, found) = hunt(sound, budget, jobs, || ());
    let mut as_should = found.is_none();
    match found {
        None => println!(
            "the coordinator that bugs are planted in, without one: none in {budget} seeds"
        ),
        Some(seed) => {
            println!("the coordinator that bugs are planted in fails without one: seed {seed}")
        }
    }
    println!("\n| bug | seeds | caught by |\n|---|---:|---|");
    for &bug in Bug::ALL {
        let plan = Plan {
            bug: Some(bug),
            ..plan
        };
        // One after the other: the first seed is to be counted.
        let (_, found) = hunt(plan, budget, NonZeroUsize::MIN, || ());
        let caught = found.map(|seed| (seed - plan.seed + 1, run(Plan { seed, ..plan })));
        match caught {
            Some((seeds, run)) => {
                let promise = run.violation.map_or("", |violation| violation.promise);
                println!("| {} (`{}`) | {seeds} | {promise} |", bug.name(), bug.id());
            }
            None => {
                as_should = false;
                println!("| {} (`{}`) | SURVIVED {budget} | |", bug.name(), bug.id());
            }
        }
    }
    println!("\n| setting of 3/2/2 | first history that is not linearizable |\n|---|---|");
    for (name, setting) in Setting::ALL {
        match linearizable::counterexample(*setting, budget) {
            Ok(Some(seed)) => println!("| {name} | seed {seed} |"),
            Ok(None) => println!("| {name} | none in {budget} seeds |"),
            Err(error) => println!("| {name} | {error} |"),
        }
    }
    as_should
}
