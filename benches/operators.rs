//! What operators ask for costs: metrics recorded, and TLS. See README.md.

use std::env;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kvquorum_benches::http::{Client, Load};
use kvquorum_benches::operators::{
    Way, make_certificate, serve_if_told, take_in, take_in_regularly,
};
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Spread, Turn, in_turns};
use kvquorum_benches::work::{Operation, Walk, Work};
use kvquorum_benches::{id, runtime};
use kvquorum_core::{Coordinator, Replica};
use kvquorum_http::HttpTransport;
use kvquorum_mem::MemStore;
use tokio::runtime::Runtime;

const ROUNDS: usize = 15;
const LENGTH: Duration = Duration::from_millis(600);

/// How many are counted.
const OPERATIONS: usize = 3_200;

fn main() {
    serve_if_told();
    let arguments: Vec<String> = env::args().collect();
    if let [_, run, place, operation, at_a_time, way] = &arguments[..]
        && run == "--run"
    {
        return run_one(
            place,
            operation,
            at_a_time.parse().unwrap(),
            Way::named(way),
        );
    }
    make_certificate();
    let mut table = Table::default();
    count_instructions(&mut table);
    take_in_regularly();
    measure_time(&mut table);
    table.print_and_save(env!("CARGO_TARGET_TMPDIR"), "operators");
}

/// Processor time over HTTP.
fn measure_time(table: &mut Table) {
    let servers = Way::ALL.map(|way| [(); 3].map(|()| way.start()));
    let maps: [Arc<Coordinator<3, 2, 2, HttpTransport>>; 3] = Way::ALL.map(|way| {
        let addresses = servers[way as usize].each_ref();
        Arc::new(way.coordinator(addresses.map(|server| server.address.clone())))
    });
    let client = Client::new(servers.into_iter().flatten().collect());
    for at_a_time in [1, 64] {
        for operation in Operation::ALL {
            let work = &Work::new(operation, 100);
            let mut turns = Vec::new();
            for map in &maps {
                client.fill(&**map, work);
                let client = &client;
                let turn: Turn<'_, Load> =
                    Box::new(move || client.closed_loop(map, work, at_a_time, LENGTH));
                turns.push(turn);
            }
            let turns = in_turns(ROUNDS, &mut turns);
            let quorum = id::<3, 2, 2>(100);
            for (way, goal) in [(Way::Recorded, 1.03), (Way::Tls, 1.3)] {
                let plain = &turns[Way::Plain as usize];
                let ratio = Spread::of_ratios(&turns[way as usize], plain, |load| load.cpu);
                let way = way.name();
                let what =
                    format!("http/{operation}/{quorum}/{at_a_time}: CPU time, {way} / plain");
                let has_goal = way != Way::Tls.name() || at_a_time == 64;
                table.push(what, ratio, has_goal.then_some(Goal::AtMost(goal)));
            }
        }
    }
}

/// Instructions, which are the same in each run: all in memory, and over HTTP those
/// outside of the kernel.
fn count_instructions(table: &mut Table) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind is not at hand: no instructions counted");
        return;
    }
    for (place, at_a_time) in [("memory", 1), ("http", 1), ("http", 64)] {
        for operation in Operation::ALL {
            let of = |way| instructions(place, operation, at_a_time, way);
            let (plain, recorded) = (of(Way::Plain), of(Way::Recorded));
            let quorum = id::<3, 2, 2>(100);
            let id = format!("{place}/{operation}/{quorum}/{at_a_time}");
            println!("{id}: {plain:.0} instructions, recorded {recorded:.0}");
            let goal = if place == "memory" { 1.1 } else { 1.03 };
            let what = format!("{id}: instructions, recorded / plain");
            table.push(
                what,
                Spread::exactly(recorded / plain),
                Some(Goal::AtMost(goal)),
            );
        }
    }
}

fn instructions(place: &str, operation: Operation, at_a_time: usize, way: Way) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=*measured_part*"])
        .arg(env::current_exe().unwrap())
        .args(["--run", place, &operation.to_string()])
        .args([&at_a_time.to_string(), way.name()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let mut lines = report.lines();
    let collected = lines.find_map(|line| line.split_once("Collected : "));
    collected.unwrap().1.trim().parse::<f64>().unwrap() / OPERATIONS as f64
}

/// The work of one process, client and servers, on one thread.
fn run_one(place: &str, operation: &str, at_a_time: usize, way: Way) {
    let mut operations = Operation::ALL.into_iter();
    let operation = operations.find(|known| known.to_string() == operation);
    let work = Work::new(operation.unwrap(), 100);
    let fill = Work::new(Operation::Put, 100);
    let runtime = runtime::of_this_thread();
    if place == "memory" {
        let replicas = [(); 3].map(|()| Replica::new(MemStore::new()).of_new_cluster());
        let map = way.make(|| Coordinator::<3, 2, 2, _>::new(replicas));
        runtime.block_on(fill.on(&map, Walk::over_all()));
        return measured_part(&runtime, work.on(&map, Walk::alone(OPERATIONS)));
    }
    let servers = runtime.block_on(async {
        let mut servers = Vec::new();
        for _ in 0..3 {
            let (server, service) = way.server();
            servers.push(server.bind("127.0.0.1:0", service).await.unwrap());
        }
        servers
    });
    let address = |at: usize| servers[at].local_addr().to_string();
    let map = Arc::new(way.coordinator([address(0), address(1), address(2)]));
    runtime.block_on(fill.on(&*map, Walk::over_all()));
    measured_part(&runtime, async {
        let spawn = |_| {
            let (work, map) = (work.clone(), Arc::clone(&map));
            let walk = Walk::alone(OPERATIONS / at_a_time);
            tokio::spawn(async move { work.on(&*map, walk).await })
        };
        let tasks: Vec<_> = (0..at_a_time).map(spawn).collect();
        for task in tasks {
            task.await.unwrap();
        }
        map.drain().await;
    });
}

/// What is counted: by this name callgrind finds it.
#[inline(never)]
fn measured_part(runtime: &Runtime, work: impl Future<Output = ()>) {
    runtime.block_on(work);
    take_in();
}
