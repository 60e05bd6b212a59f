//! Puts and gets over HTTP with one of three replicas late or hanging, beside a
//! healthy three: see README.md.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails should stop")]
#![allow(clippy::indexing_slicing, reason = "a benchmark's numbers are its own")]

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
    let both = [(); 2].map(|()| ServerProcess::start(Pace::Healthy));
    let thirds = Pace::ALL.map(ServerProcess::start);
    let maps = thirds.each_ref().map(|third| {
        let [first, second] = &both;
        let transport = |server: &ServerProcess| HttpTransport::new(&server.address).unwrap();
        let transports = [first, second, third].map(transport);
        Arc::new(Coordinator::<3, 2, 2, _>::new(transports))
    });
    let client = Client::new(both.into_iter().chain(thirds).collect());
    let mut table = Table::default();
    println!("{RATE} operations a second\n");
    println!("| id | p50, µs | p99, µs | CPU seconds for 1000 operations |");
    println!("|---|---|---|---|");
    for operation in Operation::ALL {
        // On keys of their own, so that none repairs what another has left.
        let work = |pace: Pace| Work::on_keys_of(pace.name(), operation, 100);
        let works = Pace::ALL.map(work);
        let mut ways = Vec::<Turn<'_, Load>>::new();
        for (map, work) in maps.iter().zip(&works) {
            client.fill(&**map, work);
            ways.push(Box::new(|| client.fixed_rate(map, work, RATE, LENGTH)));
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
