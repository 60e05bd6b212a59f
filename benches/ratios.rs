//! Puts and gets in memory, each way beside the floor, by turns: see README.md.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a benchmark's numbers are its own"
)]

use std::sync::Arc;

use kvquorum_benches::map::Map;
use kvquorum_benches::memory::{
    COORDINATOR, EachWay, FLOOR, JOIN_ALL, JOIN_SET, Memory, VALUE_LENS,
};
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Spread, Turn, in_turns};
use kvquorum_benches::work::{Operation, Sharing, TASKS, Work, nanos};
use kvquorum_benches::{for_each_quorum, id, runtime};
use tokio::runtime::Runtime;

const ROUNDS: usize = 24;

fn main() {
    let mut table = Table::default();
    println!("One task: nanoseconds of the floor, and each way over the floor\n");
    println!("| id | floor, ns | join_all | join_set | coordinator |");
    println!("|---|---|---|---|---|");
    for_each_quorum!(one_task(&mut table));
    for operation in Operation::ALL {
        growth(operation, &mut table);
    }
    println!("\n{TASKS} tasks on two threads: the same; and two threads' throughput over one's\n");
    println!(
        "| id | floor, ns | join_all | join_set | coordinator \
         | floor, 2 over 1 | coordinator, 2 over 1 |"
    );
    println!("|---|---|---|---|---|---|---|");
    for_each_quorum!(many_tasks(Sharing::Disjoint, &mut table));
    many_tasks::<3, 2, 2>(Sharing::Shared, &mut table);
    table.print_and_save(env!("CARGO_TARGET_TMPDIR"), "ratios");
}

/// Turns of each way in one task.
struct OneTask<'a> {
    runtime: &'a Runtime,
    work: &'a Work,
    turns: Vec<Turn<'a, f64>>,
}

impl EachWay for OneTask<'_> {
    fn way<M: Map>(&mut self, _: &'static str, map: &Arc<M>) {
        let Self { runtime, work, .. } = *self;
        let map = Arc::clone(map);
        let time = move |operations| work.time(runtime, &*map, operations);
        self.turns.push(Box::new(nanos(time)));
    }
}

/// What this is of all that is measured the goals are about.
fn is_headline<const N: usize>(value_len: usize) -> bool {
    N == 3 && value_len == 100
}

fn one_task<const N: usize, const W: usize, const R: usize>(table: &mut Table) {
    for value_len in VALUE_LENS {
        for operation in Operation::ALL {
            let work = Work::new(operation, value_len);
            let memory = Memory::<N, W, R>::new(&work);
            let mut visitor = OneTask {
                runtime: &runtime::of_this_thread(),
                work: &work,
                turns: Vec::new(),
            };
            memory.each_way(&mut visitor);
            let turns = in_turns(ROUNDS, &mut visitor.turns);
            let id = format!("memory/{operation} {}", id::<N, W, R>(value_len));
            let over = |way: usize, other: usize| ratio(&turns[way], &turns[other]);
            let coordinator = over(COORDINATOR, FLOOR);
            println!(
                "| {id} | {} | {} | {} | {coordinator} |",
                whole(&turns[FLOOR]),
                over(JOIN_ALL, FLOOR),
                over(JOIN_SET, FLOOR),
            );
            let goal = is_headline::<N>(value_len).then_some(Goal::AtMost(2.0));
            table.push(format!("{id}: time / floor"), coordinator, goal);
            if is_headline::<N>(value_len) {
                let goal = Some(Goal::AtMost(1.0));
                let over_join_all = over(COORDINATOR, JOIN_ALL);
                table.push(format!("{id}: time / join_all"), over_join_all, goal);
            }
        }
    }
}

/// What a replica costs where there are seven, over what it costs where there
/// are three. A put comes to all of them, a get to a quorum.
fn growth(operation: Operation, table: &mut Table) {
    let work = Work::new(operation, 100);
    let three = Memory::<3, 2, 2>::new(&work);
    let seven = Memory::<7, 4, 4>::new(&work);
    let mut visitor = OneTask {
        runtime: &runtime::of_this_thread(),
        work: &work,
        turns: Vec::new(),
    };
    visitor.way("three", &three.coordinator);
    visitor.way("seven", &seven.coordinator);
    visitor.way("three", &three.floor);
    visitor.way("seven", &seven.floor);
    let turns = in_turns(ROUNDS, &mut visitor.turns);
    let replicas = match operation {
        Operation::Put => 3.0 / 7.0,
        Operation::Get => 2.0 / 4.0,
    };
    for (way, three, seven, goal) in [
        ("coordinator", 0, 1, Some(Goal::AtMost(1.2))),
        ("floor", 2, 3, None),
    ] {
        let growth = ratio(&turns[seven], &turns[three]).times(replicas);
        let what = format!("memory/{operation} 100B: {way}'s time for a replica, 7-4-4 / 3-2-2");
        table.push(what, growth, goal);
    }
}

/// Turns of each way in many tasks, on one thread and on two.
struct ManyTasks<'a> {
    runtimes: [&'a Runtime; 2],
    work: &'a Work,
    sharing: Sharing,
    turns: Vec<Turn<'a, f64>>,
}

impl EachWay for ManyTasks<'_> {
    fn way<M: Map>(&mut self, _: &'static str, map: &Arc<M>) {
        let (work, sharing) = (self.work, self.sharing);
        for runtime in self.runtimes {
            let map = Arc::clone(map);
            let time = move |operations| work.time_of_many(runtime, &map, sharing, operations);
            self.turns.push(Box::new(nanos(time)));
        }
    }
}

fn many_tasks<const N: usize, const W: usize, const R: usize>(sharing: Sharing, table: &mut Table) {
    let (one, two) = (runtime::of_threads(1), runtime::of_threads(2));
    for value_len in VALUE_LENS {
        for operation in Operation::ALL {
            let work = Work::new(operation, value_len);
            let memory = Memory::<N, W, R>::new(&work);
            let mut visitor = ManyTasks {
                runtimes: [&one, &two],
                work: &work,
                sharing,
                turns: Vec::new(),
            };
            memory.each_way(&mut visitor);
            let turns = in_turns(ROUNDS, &mut visitor.turns);
            let on_one = |way: usize| &turns[2 * way];
            let on_two = |way: usize| &turns[2 * way + 1];
            let over_floor = |way: usize| ratio(on_two(way), on_two(FLOOR));
            let scaling = |way: usize| ratio(on_one(way), on_two(way));
            let quorum = id::<N, W, R>(value_len);
            let id = match sharing {
                Sharing::Disjoint => format!("memory/{operation} {quorum}/{TASKS}-tasks"),
                Sharing::Shared => format!("memory/{operation} {quorum}/{TASKS}-tasks/shared-keys"),
            };
            println!(
                "| {id} | {} | {} | {} | {} | {} | {} |",
                whole(on_two(FLOOR)),
                over_floor(JOIN_ALL),
                over_floor(JOIN_SET),
                over_floor(COORDINATOR),
                scaling(FLOOR),
                scaling(COORDINATOR),
            );
            if is_headline::<N>(value_len) {
                let what = format!("{id}: time / floor");
                table.push(what, over_floor(COORDINATOR), None);
                for (way, name, goal) in [
                    (COORDINATOR, "coordinator", Some(Goal::AtLeast(1.7))),
                    (FLOOR, "floor", None),
                ] {
                    let what = format!("{id}: {name}'s throughput on two threads / on one");
                    let goal = goal.filter(|_| sharing == Sharing::Disjoint);
                    table.push(what, scaling(way), goal);
                }
            }
        }
    }
}

fn ratio(ours: &[f64], theirs: &[f64]) -> Spread {
    Spread::of_ratios(ours, theirs, |nanos| *nanos)
}

fn whole(nanos: &[f64]) -> String {
    format!("{:.0}", Spread::of(nanos.iter().copied()).median)
}
