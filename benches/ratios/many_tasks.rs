//! Many tasks on two threads: how much they do together.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use kvquorum_benches::map::Map;
use kvquorum_benches::memory::{
    COORDINATOR, EachWay, FLOOR, JOIN_ALL, JOIN_SET, Memory, VALUE_LENS,
};
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Turn, in_turns};
use kvquorum_benches::work::{Operation, Sharing, TASKS, Work, nanos};
use kvquorum_benches::{for_each_quorum, id, runtime};
use tokio::runtime::Runtime;

use crate::{is_headline, ratio, whole};

const ROUNDS: usize = 13;

pub(crate) fn measure(table: &mut Table) {
    println!("\n{TASKS} tasks on two threads: the same; and two threads' throughput over one's\n");
    println!(
        "| id | floor, ns | join_all | join_set | coordinator \
         | floor, 2 over 1 | coordinator, 2 over 1 |"
    );
    println!("|---|---|---|---|---|---|---|");
    for_each_quorum!(many_tasks(Sharing::Disjoint, table));
    many_tasks::<3, 2, 2>(Sharing::Shared, table);
    for operation in Operation::ALL {
        apart(operation, table);
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

/// What two threads do that share nothing, each with replicas of its own, over
/// what one does: no map can scale better on this machine.
fn apart(operation: Operation, table: &mut Table) {
    let work = Work::new(operation, 100);
    let maps = [(); 2].map(|()| Memory::<3, 2, 2>::new(&work).coordinator);
    let time = |threads: usize, operations: usize| {
        let start = Instant::now();
        thread::scope(|scope| {
            for map in &maps[..threads] {
                let runtime = runtime::of_this_thread();
                let (work, share) = (&work, operations / threads);
                scope.spawn(move || work.time(&runtime, &**map, share));
            }
        });
        start.elapsed()
    };
    let mut ways: [Turn<'_, f64>; 2] = [
        Box::new(nanos(|operations| time(1, operations))),
        Box::new(nanos(|operations| time(2, operations))),
    ];
    let turns = in_turns(ROUNDS, &mut ways);
    let what = format!(
        "memory/{operation} {}: throughput on two threads that share nothing / on one",
        id::<3, 2, 2>(100)
    );
    table.push(what, ratio(&turns[0], &turns[1]), None);
}
