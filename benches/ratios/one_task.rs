//! One task on one thread: how long an operation takes.

use std::sync::Arc;

use kvquorum_benches::map::Map;
use kvquorum_benches::memory::{
    COORDINATOR, EachWay, FLOOR, JOIN_ALL, JOIN_SET, Memory, VALUE_LENS,
};
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Turn, in_turns};
use kvquorum_benches::work::{Operation, Work, nanos};
use kvquorum_benches::{for_each_quorum, id, runtime};
use tokio::runtime::Runtime;

use crate::{is_headline, ratio, whole};

const ROUNDS: usize = 25;

pub(crate) fn measure(table: &mut Table) {
    println!("One task: nanoseconds of the floor, and each way over the floor\n");
    println!("| id | floor, ns | join_all | join_set | coordinator |");
    println!("|---|---|---|---|---|");
    for_each_quorum!(one_task(table));
    for operation in Operation::ALL {
        growth(operation, table);
    }
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
