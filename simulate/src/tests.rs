//! The simulation in small: every promise over some seeds, every bug caught,
//! and the same history for the same seed.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroUsize;
use std::process::Command;
use std::thread::available_parallelism;

use clap::Parser;

use crate::Arguments;
use crate::hunt::{hunt, run, shorten};
use crate::linearizable::{Setting, counterexample};
use crate::planted::Bug;
use crate::scenario::Plan;

const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// Fails with the seed, and with what happened in it.
fn all_is_kept(plan: Plan, seeds: u64) {
    let (tally, found) = hunt(plan, seeds, ONE, || ());
    if let Some(seed) = found {
        let run = shorten(Plan { seed, ..plan }).map(|(_, run)| run);
        let (violation, timeline) = run.map(|run| (run.violation, run.timeline)).unzip();
        panic!(
            "seed {seed}: {violation:?}\n{}",
            timeline.unwrap_or_default()
        );
    }
    let counts = &tally.counts;
    assert!(counts.operations >= 50 * seeds);
    // Storms in which registers always succeed, or never, show little, and so do scans
    // that find nothing.
    assert!(counts.registers >= 5 * seeds, "{}", counts.registers);
    assert!(counts.ballots >= counts.registers, "{}", counts.ballots);
    assert!(counts.in_doubt >= seeds / 10, "{}", counts.in_doubt);
    assert!(
        counts.pages >= seeds && counts.scanned >= seeds,
        "{counts:?}"
    );
    assert!(
        counts.expiring >= seeds && counts.hidden >= seeds / 10,
        "{counts:?}"
    );
    if !plan.mutant {
        // And so do those in which nothing is lost, or lacks anything.
        let tended = [
            counts.rejoined,
            counts.copied,
            counts.passes,
            counts.delivered,
        ];
        // How much there is of each varies widely from seed to seed.
        let enough = |count: &u64| *count >= seeds / 5;
        assert!(tended.iter().all(enough), "{counts:?}");
        // Reads, hints and rejoins leave little to passes.
        assert!(counts.repaired >= seeds / 20, "{counts:?}");
        // Of few seeds it may be none.
        assert!(seeds < 500 || counts.expired >= seeds / 20, "{counts:?}");
        // Coordinators go both ways: over links without a fault, and the others.
        let share = tally.counts.at_once * 100 / tally.counts.calls;
        assert!((20..80).contains(&share), "{share} % answered at once");
    }
}

#[test]
fn every_promise_is_kept_in_the_storms_of_fixed_seeds() {
    all_is_kept(Plan::default(), 500);
}

#[test]
fn every_promise_is_kept_in_the_storms_of_fresh_seeds() {
    let seed = RandomState::new().hash_one(()) >> 1;
    println!("fresh seeds from {seed}");
    let plan = Plan {
        seed,
        ..Plan::default()
    };
    all_is_kept(plan, 100);
}

/// What the planted bugs show counts only if it is they that are caught.
#[test]
fn the_coordinator_to_plant_bugs_in_keeps_every_promise() {
    let plan = Plan {
        mutant: true,
        ..Plan::default()
    };
    all_is_kept(plan, 200);
}

#[test]
fn every_planted_bug_is_caught() {
    let jobs = available_parallelism().unwrap_or(ONE);
    let survivors: Vec<_> = Bug::ALL
        .iter()
        .filter(|bug| {
            let plan = Plan {
                bug: Some(**bug),
                ..Plan::default()
            };
            hunt(plan, 5_000, jobs, || ()).1.is_none()
        })
        .collect();
    assert!(Bug::ALL.len() >= 90);
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

/// A violation is told by as few operations as show it, and their timeline.
#[test]
fn a_violation_is_shortened_and_told() {
    let plan = Plan {
        bug: Some(Bug::AcksWithoutStoring),
        ..Plan::default()
    };
    let (_, found) = hunt(plan, 100, ONE, || ());
    let plan = Plan {
        seed: found.expect("it is caught"),
        ..plan
    };
    let (operations, shortest) = shorten(plan).expect("it is caught again");
    let violation = shortest.violation.expect("it is caught again");
    assert!(
        shortest.timeline.contains("VIOLATION"),
        "{}",
        violation.what
    );
    let fewer = Plan {
        operations: Some(operations - 1),
        ..plan
    };
    assert!(run(fewer).violation.is_none());
}

/// Bugs: a run of no seed, or of no thread, finds nothing and says that no promise
/// was broken; the control of the planted bugs has one planted.
#[test]
fn a_run_that_would_show_nothing_is_refused() {
    let is_taken = |arguments: &str| {
        let words = ["simulate"].into_iter().chain(arguments.split(' '));
        Arguments::try_parse_from(words).is_ok()
    };
    for arguments in [
        "--seeds 0",
        "--jobs 0",
        "--planted --budget 0",
        "--planted --bug acks-without-storing",
    ] {
        assert!(!is_taken(arguments), "{arguments}");
    }
    for arguments in [
        "--seeds 1 --jobs 1",
        "--planted --budget 1",
        "--bug acks-without-storing --seed 7 --trace",
    ] {
        assert!(is_taken(arguments), "{arguments}");
    }
}

const SEED: u64 = 4_711;

#[test]
fn the_same_seed_gives_the_same_trace_in_two_processes() {
    let this = std::env::current_exe().expect("a test has a path");
    let [first, second] = [(); 2].map(|()| {
        let arguments = [
            "--exact",
            "tests::prints_a_hash",
            "--ignored",
            "--nocapture",
        ];
        let output = Command::new(&this).args(arguments).output();
        let output = output.expect("a test can be run").stdout;
        let text = String::from_utf8_lossy(&output).into_owned();
        let hash = text.split("hash ").nth(1).map(|rest| rest[..16].to_owned());
        hash.unwrap_or_else(|| panic!("no hash in {text}"))
    });
    assert_eq!(first, second);
    // Reading the trace changes nothing; another seed changes everything.
    let hash_of = |seed, keep_trace| {
        let plan = Plan {
            seed,
            keep_trace,
            ..Plan::default()
        };
        format!("{:016x}", run(plan).hash)
    };
    assert_eq!(hash_of(SEED, true), first);
    assert_ne!(hash_of(SEED + 1, false), first);
}

#[test]
#[ignore = "it is run as a process of its own by another test"]
fn prints_a_hash() {
    let plan = Plan {
        seed: SEED,
        ..Plan::default()
    };
    println!("hash {:016x}", run(plan).hash);
}

/// What the table of promises says is not promised does happen; and with one
/// writer and blocking repair, of which nothing of the kind is said, it does
/// not.
#[test]
fn puts_and_gets_are_not_linearizable() {
    for (name, setting) in Setting::ALL {
        let found = counterexample(*setting, 100).expect("a runtime can be made");
        let expected = setting.writers > 1 || !setting.blocking;
        assert_eq!(found.is_some(), expected, "{name}: {found:?}");
    }
}
