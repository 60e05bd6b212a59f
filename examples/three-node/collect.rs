//! One collection of deletes, run from the command line.

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvquorum_core::{
    Collected, CollectedReplica, Coordinator, PassReport, PassSettings, WithCauses,
};

use crate::client::Nodes;
use crate::layout::{say, table};
use crate::one_pass::{Shown, counted};
use crate::passes::parse_duration;
use crate::signals::interrupted;

/// What `collect` exits with where not all is collected. Errors have another code.
const NOT_COLLECTED: u8 = 1;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    nodes: Nodes,

    /// Leave what was deleted in so long
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    lag: Duration,

    /// How many keys to compare and to look at in a second at the most
    #[arg(long, value_name = "KEYS", default_value_t = PassSettings::default().max_keys_per_second)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    keys_per_second: u64,
}

/// Collects deletes once, and prints what it came to. Returns the exit code: whether all
/// nodes have collected.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let map = Coordinator::<3, 2, 2, _>::new(arguments.nodes.links()?);
    let settings = PassSettings::default()
        .max_keys_per_second(arguments.keys_per_second)
        .collect_lag(arguments.lag)
        // At once, and the one that it is polled for collects.
        .every(Duration::ZERO)
        .collect_every(Duration::ZERO);
    let mut passes = map.passes(settings);
    let mut progress = passes.progress();
    let links = arguments.nodes.links()?;
    let shown = Shown::new();
    let showing = async {
        while progress.changed().await.is_ok() {
            shown.progress(&progress.borrow_and_update());
        }
    };
    let collected = tokio::select! {
        report = passes.next() => Some(report),
        never = counted(&links, &shown) => match never {},
        () = showing => None,
        interrupted = interrupted() => {
            interrupted?;
            None
        }
    };
    shown.end();
    let Some(report) = collected else {
        say("interrupted: what was not collected by then stays, until the next time");
        return Ok(ExitCode::from(NOT_COLLECTED));
    };
    Ok(match print(&report) {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NOT_COLLECTED),
    })
}

/// Returns whether all nodes have collected.
fn print(report: &PassReport) -> bool {
    let took = report.took.as_secs_f64();
    let keys = report.progress.keys;
    let Collected { upto, replicas, .. } = match &report.collection {
        Some(Ok(collected)) => collected,
        Some(Err(error)) => {
            println!("nothing is collected: {}", WithCauses(error));
            return false;
        }
        // It was to be.
        None => return false,
    };
    let is_collected = replicas.iter().all(|it| it.failure.is_none());
    let is = match is_collected {
        true => "collected",
        false => "not all collected",
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis());
    let ago = now.saturating_sub(upto.millis().into()) / 1000;
    println!(
        "{is}: what was deleted more than {ago} s ago, before {} ms; \
         {keys} keys compared in {took:.1} s",
        upto.millis()
    );
    if let [a, b, c] = replicas.as_slice() {
        let replicas = [a, b, c];
        let column = |cell: fn(&CollectedReplica) -> String| replicas.map(cell);
        let failure = |it: &CollectedReplica| {
            let failure = it.failure.as_ref();
            failure.map_or_else(String::new, |failure| WithCauses(failure).to_string())
        };
        let columns = [
            ("dropped", column(|it| it.dropped.to_string())),
            ("tombstones left", column(|it| it.tombstones.to_string())),
            ("", column(failure)),
        ];
        for line in table("  ", replicas.map(|it| it.name.as_str()), &columns) {
            println!("{line}");
        }
    }
    is_collected
}
