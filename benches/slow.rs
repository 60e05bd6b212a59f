//! Puts and gets over HTTP with one of three replicas late or hanging, beside a
//! healthy three: see README.md.

use std::sync::Arc;
use std::time::Duration;

use kvquorum_benches::http::{Client, Load, Pace, ServerProcess, serve_if_told};
use kvquorum_benches::id;
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Spread, Turn, in_turns};
use kvquorum_benches::work::{Operation, Work};
use kvquorum_core::Coordinator;
use kvquorum_http::HttpTransport;

const ROUNDS: usize = 7;

/// Longer than the coordinator's time limit, so that calls to the hanging
/// replica come to their end in every turn.
const LENGTH: Duration = Duration::from_millis(2400);

/// Operations in a second: some, but not all that the machine could do.
const RATE: u32 = 1000;

fn main() {
    serve_if_told();
    // Replicas of its own for each case: what one has left undone, no other
    // repairs, and no server has more connections than one client makes.
    let servers =
        Pace::ALL.map(|third| [Pace::Healthy, Pace::Healthy, third].map(ServerProcess::start));
    let maps = servers.each_ref().map(|servers| {
        let transport = |server: &ServerProcess| HttpTransport::new(&server.address).unwrap();
        let transports = servers.each_ref().map(transport);
        Arc::new(Coordinator::<3, 2, 2, _>::new(transports))
    });
    let client = Client::new(servers.into_iter().flatten().collect());
    let mut table = Table::default();
    println!("{RATE} operations a second\n");
    println!("| id | p50, µs | p99, µs | CPU seconds for 1000 operations |");
    println!("|---|---|---|---|");
    for operation in Operation::ALL {
        let work = Work::new(operation, 100);
        let mut ways = Vec::<Turn<'_, Load>>::new();
        for map in &maps {
            client.fill(&**map, &work);
            ways.push(Box::new(|| client.fixed_rate(map, &work, RATE, LENGTH)));
        }
        let turns = in_turns(ROUNDS, &mut ways);
        for (pace, of_pace) in Pace::ALL.into_iter().zip(&turns) {
            let quorum = id::<3, 2, 2>(100);
            let id = format!("http/{operation}/coordinator/{quorum}/{}", pace.name());
            let all = Load::median(of_pace);
            println!(
                "| {id} | {:.0} | {:.0} | {:.3} |",
                all.p50, all.p99, all.cpu
            );
            if pace != Pace::Healthy {
                let p99 = Spread::of_ratios(of_pace, &turns[0], |load| load.p99);
                let what = format!("{id}: p99 / healthy");
                table.push(what, p99, Some(Goal::AtMost(1.2)));
            }
        }
    }
    table.print_and_save(env!("CARGO_TARGET_TMPDIR"), "slow");
}
