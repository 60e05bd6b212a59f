//! Allocations for each operation in memory: see README.md.

use std::alloc::System;
use std::sync::Arc;

use kvquorum_benches::map::Map;
use kvquorum_benches::memory::{COORDINATOR, EachWay, Memory, Node};
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::Spread;
use kvquorum_benches::work::{KEYS, Operation, Walk, Work};
use kvquorum_benches::{for_each_quorum, id, runtime};
use kvquorum_core::Coordinator;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let mut table = Table::default();
    println!("Allocations and reallocations for one operation, 100 B\n");
    println!("| id | floor | join_all | join_set | coordinator | coordinator, key as `&str` |");
    println!("|---|---|---|---|---|---|");
    for_each_quorum!(count(&mut table));
    table.print_and_save(env!("CARGO_TARGET_TMPDIR"), "allocations");
}

/// Counts of each way.
struct Count<'a> {
    work: &'a Work,
    counts: Vec<f64>,
}

impl EachWay for Count<'_> {
    fn way<M: Map>(&mut self, _: &'static str, map: &Arc<M>) {
        let count = allocations(|| self.work.on(&**map, Walk::over_all()));
        self.counts.push(count);
    }
}

/// Allocations for each of as many operations as there are keys.
fn allocations<F: Future>(all_keys: impl Fn() -> F) -> f64 {
    let runtime = runtime::of_this_thread();
    // What is allocated once is no part of an operation.
    runtime.block_on(all_keys());
    let region = Region::new(ALLOCATOR);
    runtime.block_on(all_keys());
    let change = region.change();
    (change.allocations + change.reallocations) as f64 / KEYS as f64
}

fn count<const N: usize, const W: usize, const R: usize>(table: &mut Table) {
    for operation in Operation::ALL {
        let work = Work::new(operation, 100);
        let memory = Memory::<N, W, R>::new(&work);
        let mut visitor = Count {
            work: &work,
            counts: Vec::new(),
        };
        memory.each_way(&mut visitor);
        let by_str = allocations(|| by_str(&memory.coordinator, &work));
        let id = format!("memory/{operation} {}", id::<N, W, R>(100));
        print!("| {id} | ");
        for count in &visitor.counts {
            print!("{count:.2} | ");
        }
        println!("{by_str:.2} |");
        let bound = match operation {
            Operation::Put => N + 2,
            Operation::Get => R + 1,
        };
        let coordinator = Spread::exactly(visitor.counts[COORDINATOR]);
        let goal = Goal::AtMost(bound as f64);
        table.push(format!("{id}: allocations"), coordinator, Some(goal));
    }
}

/// The work with keys as applications often have them.
async fn by_str<const N: usize, const W: usize, const R: usize>(
    map: &Coordinator<N, W, R, Node>,
    work: &Work,
) {
    for (key, value) in &*work.pairs {
        let key = std::str::from_utf8(key.as_bytes()).unwrap();
        match work.operation {
            Operation::Put => drop(map.put(key, value.clone()).await.unwrap()),
            Operation::Get => drop(map.get(key).await.unwrap()),
        }
    }
}
