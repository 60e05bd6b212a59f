//! Puts and gets over HTTP, the coordinator beside the floor: see README.md.

use std::sync::Arc;
use std::time::Duration;

use kvquorum_benches::http::{Client, HttpFloor, Load, Pace, ServerProcess, serve_if_told};
use kvquorum_benches::id;
use kvquorum_benches::map::Map;
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Spread, Turn, in_turns};
use kvquorum_benches::work::{Operation, Work};
use kvquorum_core::Coordinator;
use kvquorum_http::HttpTransport;

const ROUNDS: usize = 9;
const LENGTH: Duration = Duration::from_millis(600);

/// The way that the goals are about.
const COORDINATOR: &str = "coordinator";
const WAYS: [&str; 3] = ["floor", COORDINATOR, "coordinator-unbatched"];

fn main() {
    serve_if_told();
    // Replicas of its own for each way: no server has more connections than one
    // client makes.
    let servers = WAYS.map(|_| [(); 3].map(|()| ServerProcess::start(Pace::Healthy)));
    let [floor, coordinator, unbatched] = servers
        .each_ref()
        .map(|servers| servers.each_ref().map(|server| server.address.clone()));
    let bench = Bench {
        floor: Arc::new(HttpFloor::new(&floor)),
        coordinator: Arc::new(Coordinator::new(
            coordinator.map(|address| HttpTransport::new(address).unwrap()),
        )),
        unbatched: Arc::new(Coordinator::new(unbatched.map(|address| {
            let alone = HttpTransport::builder(address).max_batch(1);
            alone.build().unwrap()
        }))),
        client: Client::new(servers.into_iter().flatten().collect()),
    };
    let mut table = Table::default();
    println!("| id | operations/s | p50, µs | p99, µs | CPU seconds for 1000 operations |");
    println!("|---|---|---|---|---|");
    for at_a_time in [1, 64] {
        for operation in Operation::ALL {
            bench.measure(operation, at_a_time, &mut table);
        }
    }
    table.print_and_save(env!("CARGO_TARGET_TMPDIR"), "http");
}

struct Bench {
    floor: Arc<HttpFloor<3, 2, 2>>,
    coordinator: Arc<Coordinator<3, 2, 2, HttpTransport>>,
    /// The same with a call to an exchange.
    unbatched: Arc<Coordinator<3, 2, 2, HttpTransport>>,
    client: Client,
}

impl Bench {
    fn measure(&self, operation: Operation, at_a_time: usize, table: &mut Table) {
        let work = Work::new(operation, 100);
        self.client.fill(&*self.floor, &work);
        self.client.fill(&*self.coordinator, &work);
        self.client.fill(&*self.unbatched, &work);
        let turns = in_turns(
            ROUNDS,
            &mut [
                self.turn(&self.floor, &work, at_a_time),
                self.turn(&self.coordinator, &work, at_a_time),
                self.turn(&self.unbatched, &work, at_a_time),
            ],
        );
        let quorum = id::<3, 2, 2>(100);
        for (way, turns) in WAYS.iter().zip(&turns) {
            let all = Load::median(turns);
            println!(
                "| http/{operation}/{way}/{quorum}/{at_a_time} | {:.0} | {:.0} | {:.0} | {:.3} |",
                all.rate, all.p50, all.p99, all.cpu
            );
        }
        let [floor, coordinators @ ..] = &turns[..] else {
            return;
        };
        for (way, turns) in WAYS[1..].iter().zip(coordinators) {
            let over_floor = |figure: fn(&Load) -> f64| Spread::of_ratios(turns, floor, figure);
            let mut push = |figure: &str, spread, goal| {
                let what = format!("http/{operation}/{way}/{quorum}/{at_a_time}: {figure} / floor");
                table.push(what, spread, Some(goal).filter(|_| *way == COORDINATOR));
            };
            if at_a_time == 1 {
                push("p50", over_floor(|load| load.p50), Goal::AtMost(1.1));
                push("CPU time", over_floor(|load| load.cpu), Goal::AtMost(1.1));
            } else {
                let for_cpu = over_floor(|load| load.cpu.recip());
                push("operations for CPU time", for_cpu, Goal::AtLeast(4.0));
                push("p99", over_floor(|load| load.p99), Goal::AtMost(1.0));
            }
        }
    }

    fn turn<'a, M: Map>(
        &'a self,
        map: &'a Arc<M>,
        work: &'a Work,
        at_a_time: usize,
    ) -> Turn<'a, Load> {
        Box::new(move || self.client.closed_loop(map, work, at_a_time, LENGTH))
    }
}
