//! What one operation takes, which is the same in each run: round trips, calls,
//! flushes; and instructions, where valgrind is at hand.

use std::env;
use std::ops::Bound;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kvquorum_benches::runtime;
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::Spread;
use kvquorum_core::{
    Call, Change, Coordinator, Edit, Key, Map, Record, Registers, Replica, Request, RequestKind,
    Response, ScanLimit, Store, StoreError, Transport,
};
use kvquorum_mem::MemStore;
use tokio::time::{Instant, sleep};

/// How long a call takes, in virtual time.
const ROUND_TRIP: Duration = Duration::from_millis(10);

const FEW: usize = 1_000;
const MANY: usize = 3_000;

/// What is done. Each is done to a key that exists.
#[derive(Clone, Copy, PartialEq)]
enum What {
    PlainPut,
    PlainGet,
    Put,
    Delete,
    Update,
    CompareAndSet,
    Differs,
    Get,
    GetBehind,
}

const ALL: [(What, &str); 9] = [
    (What::PlainPut, "plain put"),
    (What::PlainGet, "plain get"),
    (What::Put, "put"),
    (What::Delete, "delete"),
    (What::Update, "update"),
    (What::CompareAndSet, "compare and set"),
    (What::Differs, "compare and set that differs"),
    (What::Get, "get at an agreed quorum"),
    (What::GetBehind, "get of what one of three holds"),
];

/// Those of which instructions are counted. Where a replica is behind, only the first
/// get finds it so.
const COUNTED: usize = ALL.len() - 1;

struct Cluster<T> {
    map: Map<str, u64, 3, 2, 2, T>,
    registers: Registers<str, u64, 3, 2, 2, T>,
}

impl<T: Transport> Cluster<T> {
    fn new(transports: [T; 3]) -> Self {
        let coordinator = Coordinator::new(transports);
        Self {
            map: coordinator.map("bench"),
            registers: coordinator.registers("bench"),
        }
    }

    /// `number` rises by one each time.
    async fn once(&self, what: What, number: u64) {
        let Self { map, registers } = self;
        match what {
            What::PlainPut => drop(map.put("k", &number).await.unwrap()),
            What::PlainGet => assert!(map.get("k").await.unwrap().is_some()),
            What::Put => drop(registers.put("k", &number).await.unwrap()),
            What::Delete => drop(registers.delete("k").await.unwrap()),
            What::Update => {
                let add_one = |held: Option<&u64>| Edit::Put(held.map_or(1, |held| held + 1));
                registers.update("k", add_one).await.unwrap();
            }
            What::CompareAndSet => {
                let new = number + 1;
                let swap = registers.compare_and_set("k", Some(&number), &new);
                assert!(swap.await.unwrap().is_swapped());
            }
            What::Differs => {
                let swap = registers.compare_and_set("k", Some(&u64::MAX), &0);
                assert!(!swap.await.unwrap().is_swapped());
            }
            What::Get | What::GetBehind => assert!(registers.get("k").await.unwrap().is_some()),
        }
    }
}

pub(crate) fn count(table: &mut Table) {
    println!("Of one operation, with N = 3, W = 2 and R = 2\n");
    println!("| operation | round trips | calls | flushes of each replica |");
    println!("|---|---|---|---|");
    for (what, name) in ALL {
        let [trips, calls, flushes] = runtime::paused().block_on(steps(what));
        println!("| {name} | {trips} | {calls} | {flushes} |");
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("\nvalgrind is not at hand: no instructions counted");
        return;
    }
    println!("\nInstructions, in memory\n\n| operation | instructions | over its plain one |");
    println!("|---|---|---|");
    let counts = ALL[..COUNTED].iter().map(|(what, _)| instructions(*what));
    let counts: Vec<f64> = counts.collect();
    for ((what, name), count) in ALL.iter().zip(&counts) {
        let plain = match what {
            What::PlainGet | What::Get | What::Differs => counts[1],
            _ => counts[0],
        };
        println!("| {name} | {count:.0} | {:.2} |", count / plain);
        if *what == What::Get {
            let ratio = Spread::exactly(count / plain);
            let figure = "registers: instructions of a register's get / plain get, in memory";
            table.push(figure, ratio, Some(Goal::AtMost(1.1)));
        }
    }
}

/// Round trips, calls, and changes that each replica has to flush.
async fn steps(what: What) -> [String; 3] {
    let stores = [(); 3].map(|()| Arc::new(Counted::default()));
    let links = stores.each_ref().map(|store| Slow {
        replica: Replica::new(Arc::clone(store)).of_new_cluster(),
        calls: Arc::default(),
        is_cut: Arc::default(),
    });
    let calls = links.each_ref().map(|link| Arc::clone(&link.calls));
    let cuts = links.each_ref().map(|link| Arc::clone(&link.is_cut));
    let cluster = Cluster::new(links);
    cluster.once(What::PlainPut, 1).await;
    cluster.map.coordinator().drain().await;
    if what == What::GetBehind {
        // A put that reaches the first alone, and so fails.
        cuts[1].store(1, Ordering::Relaxed);
        cuts[2].store(1, Ordering::Relaxed);
        cluster.map.put("k", &2).await.unwrap_err();
        // Of those who answer, one holds it.
        cuts[1].store(0, Ordering::Relaxed);
    }
    let sum = || {
        calls
            .iter()
            .map(|calls| calls.load(Ordering::Relaxed))
            .sum::<usize>()
    };
    let changed = || {
        stores
            .each_ref()
            .map(|store| store.changed.load(Ordering::Relaxed))
    };
    let (calls_before, changed_before) = (sum(), changed());
    let start = Instant::now();
    cluster.once(what, 1).await;
    let trips = start.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64();
    cluster.map.coordinator().drain().await;
    let flushes: Vec<String> = changed()
        .iter()
        .zip(changed_before)
        .map(|(after, before)| (after - before).to_string())
        .collect();
    [
        trips.round().to_string(),
        (sum() - calls_before).to_string(),
        flushes.join(", "),
    ]
}

/// A link that takes a while, and counts.
struct Slow {
    replica: Replica<Arc<Counted>>,
    calls: Arc<AtomicUsize>,
    is_cut: Arc<AtomicUsize>,
}

impl Transport for Slow {
    fn call(&self, request: &Request) -> Call {
        if let RequestKind::Identify { .. } = request.kind {
            return self.replica.call(request);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let (replica, request) = (self.replica.clone(), request.clone());
        let is_cut = self.is_cut.load(Ordering::Relaxed) == 1;
        Call::new(async move {
            sleep(ROUND_TRIP).await;
            if is_cut {
                let cut = std::io::Error::other("the link is cut");
                return Err(kvquorum_core::TransportError::NotSent(cut.into()));
            }
            replica.call(&request).await
        })
    }

    fn name(&self) -> &str {
        "slow"
    }
}

/// A store in memory that counts changes that it keeps: a durable one flushes each,
/// though many at the same time share a flush.
#[derive(Default)]
struct Counted {
    store: MemStore,
    changed: AtomicUsize,
}

impl Store for Counted {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.store.get(key).await
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let before = self.store.get(key).await?;
        let response = self.store.apply(key, change).await?;
        if self.store.get(key).await? != before {
            self.changed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(response)
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        self.store.scan(range, limit).await
    }
}

/// What tells a process that it is one of those whose instructions are counted.
const RUN: &str = "--run";

fn instructions(what: What) -> f64 {
    let place = ALL.iter().position(|(other, _)| *other == what).unwrap();
    let [few, many] = [FEW, MANY].map(|count| {
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(env::current_exe().unwrap())
            .args([RUN, &place.to_string(), &count.to_string()])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{report}");
        let mut lines = report.lines();
        let collected = lines.find_map(|line| line.split_once("Collected : "));
        collected.unwrap().1.trim().parse::<f64>().unwrap()
    });
    (many - few) / (MANY - FEW) as f64
}

/// Does the work of a process whose instructions are counted, if this is one.
pub(crate) fn run_if_told() -> bool {
    let arguments: Vec<String> = env::args().collect();
    let [_, run, place, count] = &arguments[..] else {
        return false;
    };
    if run != RUN {
        return false;
    }
    let (what, _) = ALL[place.parse::<usize>().unwrap()];
    let count: u64 = count.parse().unwrap();
    runtime::of_this_thread().block_on(async {
        let cluster =
            Cluster::new([(); 3].map(|()| Replica::new(MemStore::new()).of_new_cluster()));
        cluster.once(What::PlainPut, 1).await;
        for number in 1..=count {
            cluster.once(what, number).await;
        }
    });
    true
}
