//! Instructions for each operation in memory, where valgrind is at hand: see
//! README.md.
//!
//! It runs itself under callgrind, twice for each way: what the longer run has
//! more is the operations.

use std::env;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kvquorum_benches::map::Map;
use kvquorum_benches::memory::{EachWay, Memory, WAYS};
use kvquorum_benches::table::Table;
use kvquorum_benches::turns::Spread;
use kvquorum_benches::work::{Operation, Walk, Work};
use kvquorum_benches::{id, runtime};

const FEW: usize = 1_000;
const MANY: usize = 3_000;

fn main() {
    let arguments: Vec<String> = env::args().collect();
    match &arguments[1..] {
        [run, operation, id, way, count] if run == "--run" => {
            run_one(operation, id, way, count.parse().unwrap());
        }
        _ => count_all(),
    }
}

/// The work of one process.
fn run_one(operation: &str, quorum: &str, way: &str, count: usize) {
    let mut operations = Operation::ALL.into_iter();
    let operation = operations.find(|known| known.to_string() == operation);
    let work = Work::new(operation.unwrap(), 100);
    let mut visitor = Run {
        work: &work,
        way,
        count,
    };
    if quorum == id::<3, 2, 2>(100) {
        Memory::<3, 2, 2>::new(&work).each_way(&mut visitor);
    } else {
        Memory::<7, 4, 4>::new(&work).each_way(&mut visitor);
    }
}

struct Run<'a> {
    work: &'a Work,
    way: &'a str,
    count: usize,
}

impl EachWay for Run<'_> {
    fn way<M: Map>(&mut self, name: &'static str, map: &Arc<M>) {
        if name == self.way {
            let walk = Walk::alone(self.count);
            runtime::of_this_thread().block_on(self.work.on(&**map, walk));
        }
    }
}

fn count_all() {
    let mut table = Table::default();
    let version = Command::new("valgrind").arg("--version").output();
    if version.is_err() {
        println!("valgrind is not at hand: no instructions counted");
    } else {
        println!("Instructions for one operation, and each way over the floor\n");
        println!("| id | floor | join_all | join_set | coordinator |");
        println!("|---|---|---|---|---|");
        for id in [id::<3, 2, 2>(100), id::<7, 4, 4>(100)] {
            for operation in Operation::ALL {
                let operation = operation.to_string();
                let counts = WAYS.map(|way| instructions(&operation, &id, way));
                let ratios = counts.map(|count| count / counts[0]);
                let [_, join_all, join_set, coordinator] = ratios;
                let floor = counts[0];
                let id = format!("memory/{operation} {id}");
                println!(
                    "| {id} | {floor:.0} | {join_all:.2} | {join_set:.2} | {coordinator:.2} |"
                );
                let what = format!("{id}: instructions / floor");
                table.push(what, Spread::exactly(coordinator), None);
            }
        }
    }
    table.print_and_save(env!("CARGO_TARGET_TMPDIR"), "instructions");
}

fn instructions(operation: &str, id: &str, way: &str) -> f64 {
    let [few, many] = [FEW, MANY].map(|count| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(env::current_exe().unwrap())
            .args(["--run", operation, id, way, &count.to_string()])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{report}");
        let collected = report
            .lines()
            .find_map(|line| line.split_once("Collected : "));
        collected.unwrap().1.trim().parse::<f64>().unwrap()
    });
    (many - few) / (MANY - FEW) as f64
}
