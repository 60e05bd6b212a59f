//! One pass over what the nodes hold, run from the command line, and how far it is.

use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use kvquorum_core::{
    Coordinator, FingerprintRequest, KeyRange, PassProgress, PassReport, PassSettings, Request,
    RequestKind, Response, Timestamp, Told, WithCauses,
};
use kvquorum_http::HttpTransport;

use crate::client::{Links, Nodes};
use crate::layout::{say, table};
use crate::signals::interrupted;
use crate::status::ask;

/// What `pass` exits with where the pass is not complete. Errors have another code.
const NOT_COMPLETE: u8 = 1;

/// How long after the first line that tells how far it is the next comes, where stderr
/// is no terminal. Each pause is twice as long as the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    nodes: Nodes,

    /// How many keys to compare in a second at the most
    #[arg(long, value_name = "KEYS", default_value_t = PassSettings::default().max_keys_per_second)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    keys_per_second: u64,
}

/// Runs a pass, and prints what it came to. Returns the exit code: whether it is
/// complete. One that is interrupted is not.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let map = Coordinator::<3, 2, 2, _>::new(arguments.nodes.links()?);
    let settings = PassSettings::default().max_keys_per_second(arguments.keys_per_second);
    // So that it tells how far it is some times in a second, however slow.
    let window = settings.window.min(arguments.keys_per_second.div_ceil(4));
    let mut pass = map.pass(.., settings.window(window));
    // Those of the pass would make it wait for what is counted.
    let links = arguments.nodes.links()?;
    let shown = Shown::new();
    let passing = async {
        while pass.step().await {
            shown.progress(&pass.progress());
        }
    };
    tokio::select! {
        () = passing => {}
        never = counted(&links, &shown) => match never {},
        interrupted = interrupted() => interrupted?,
    }
    shown.end();
    let report = pass.report();
    print(&report);
    Ok(match report.is_complete() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(NOT_COMPLETE),
    })
}

/// Counts how many keys there are to compare, so that it can be shown.
pub(crate) async fn counted(links: &Links, shown: &Shown) -> Infallible {
    if let Some(entries) = most_entries(links).await {
        shown.all.set(Some(entries));
    }
    pending().await
}

/// How many entries the node holds that holds the most. A pass compares about as many
/// keys: more, where each node has some that the others lack.
async fn most_entries([a, b, c]: &Links) -> Option<u64> {
    let (a, b, c) = tokio::join!(entries(a), entries(b), entries(c));
    [a, b, c].into_iter().flatten().max()
}

/// How many entries a node holds, tombstones included. It reads them all, so many for
/// one request as its own limits say, and sends no more than their number.
async fn entries(link: &HttpTransport) -> Option<u64> {
    let mut entries = 0_u64;
    let mut range = KeyRange::from(..);
    loop {
        let request = Request::of(RequestKind::Fingerprint(Box::new(FingerprintRequest {
            range: range.clone(),
            hash_key: 0,
            cuts: Vec::new(),
            every: u64::MAX,
            max_keys: u64::MAX,
            max_bytes: u64::MAX,
            collected: Timestamp::MIN,
        })));
        let Response::Told(told) = ask(link, request).await? else {
            return None;
        };
        let Told::Windows(windows) = *told else {
            return None;
        };
        let ends = windows.ends(&range, &[])?;
        let counts = windows.windows.iter().map(|it| it.fingerprint.count);
        entries = counts.fold(entries, u64::saturating_add);
        match ends.into_iter().next_back()? {
            Some(end) => range = KeyRange::from(end..),
            None => return Some(entries),
        }
    }
}

/// How far the pass is, on stderr: a bar on a terminal, and lines elsewhere.
pub(crate) struct Shown {
    bar: Option<ProgressBar>,
    /// About how many keys it will compare, when that has been counted. A bar turns until
    /// then.
    all: Cell<Option<u64>>,
    began: Instant,
    next_line: Cell<Duration>,
}

impl Shown {
    pub(crate) fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let bar = is_terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style("{spinner} {wide_msg}"));
            bar.set_message("comparing");
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self {
            bar,
            all: Cell::new(None),
            began: Instant::now(),
            next_line: Cell::new(FIRST_PAUSE),
        }
    }

    pub(crate) fn progress(&self, progress: &PassProgress) {
        let all = self.all.get().map(|all| all.max(progress.keys));
        let took = self.began.elapsed();
        if let Some(bar) = &self.bar {
            if let (Some(all), None) = (all, bar.length()) {
                bar.set_style(style("{bar:20} {percent:>3} % {wide_msg}"));
                bar.set_length(all);
            }
            if let Some(all) = all {
                bar.set_length(all);
                bar.set_position(progress.keys);
            }
            bar.set_message(line(progress, all, took));
        } else if took >= self.next_line.get() {
            say(&line(progress, all, took));
            self.next_line.set(took + took.min(LONGEST_PAUSE));
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The templates are those here, and correct.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn line(progress: &PassProgress, all: Option<u64>, took: Duration) -> String {
    let keys = match all {
        Some(all) => format!("{} of about {all} keys", progress.keys),
        None => format!("{} keys", progress.keys),
    };
    let repaired: Vec<String> = progress.repaired.iter().map(u64::to_string).collect();
    let per_second = progress.bytes as f64 / took.as_secs_f64();
    format!(
        "{keys}, {} differ, repaired {}, {}/s",
        progress.differing,
        repaired.join(" + "),
        HumanBytes(per_second as u64)
    )
}

fn print(report: &PassReport) {
    let is = match report.is_complete() {
        true => "complete",
        false => "not complete",
    };
    let (progress, took) = (&report.progress, report.took.as_secs_f64());
    println!(
        "{is}: {} keys compared in {took:.1} s, {} of them differed",
        progress.keys, progress.differing
    );
    let [a, b, c] = report.replicas.as_slice() else {
        // There are three.
        return;
    };
    let replicas = [a, b, c];
    let is = replicas.map(|it| if it.is_done { "done" } else { "not done" }.to_owned());
    let failure = replicas.map(|it| {
        let failure = it.failure.as_ref();
        failure.map_or_else(String::new, |failure| WithCauses(failure).to_string())
    });
    let columns = [
        ("is", is),
        ("repaired", replicas.map(|it| it.repaired.to_string())),
        (
            "not repaired",
            replicas.map(|it| it.not_repaired.to_string()),
        ),
        ("", failure),
    ];
    for line in table("  ", replicas.map(|it| it.name.as_str()), &columns) {
        println!("{line}");
    }
}
