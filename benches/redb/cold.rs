//! What readers of a file that lies on disk do to everybody else on a node of two
//! threads, by where the reads are made.
//!
//! Everybody else are operations in memory, one begun each millisecond, whether or
//! not those before it have ended, and timed from when it was due. The readers
//! read keys of a file that neither the engine nor the system has in memory:
//! some as fast as they can, or some reads each second, whether or not those
//! before them have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kvquorum_core::{Coordinator, Entry, Replica, Store};
use kvquorum_mem::MemStore;
use kvquorum_redb::{Durability, Reads, RedbStore};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::{FEW, Numbers, entry, forget, key, median, write};

/// Their pages are 1 GiB about: more than is read in a turn.
const KEYS: u64 = 800_000;
const VALUE_LEN: usize = 1_000;
const TURN: Duration = Duration::from_secs(2);
const TURNS: usize = 5;

/// What reads the cold file.
#[derive(Clone, Copy)]
enum Readers {
    /// So many, each as fast as it can.
    Tasks(u64),
    /// So many reads a second.
    PerSecond(u64),
}

/// Numbers that have nothing in common with those of another seed.
fn numbers(seed: u64) -> Numbers {
    let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    numbers.below(1);
    numbers
}

type Times = Vec<Duration>;

fn percentile(times: &mut Times, percent: usize) -> f64 {
    times.sort();
    let at = times.len() * percent / 100;
    times
        .get(at)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// Begins an operation at each of its times, on the runtime, and tells how long
/// each took from then.
fn begin_when_due<F: Future<Output = ()> + Send + 'static>(
    runtime: &Runtime,
    every: Duration,
    operation: impl Fn(u64) -> F,
) -> Times {
    let start = Instant::now();
    let mut begun: Vec<JoinHandle<Duration>> = Vec::new();
    for number in 0.. {
        let due = start + every * number;
        if due.duration_since(start) > TURN {
            break;
        }
        sleep(due.saturating_duration_since(Instant::now()));
        let operation = operation(u64::from(number));
        begun.push(runtime.spawn(async move {
            operation.await;
            due.elapsed()
        }));
    }
    let times = begun.into_iter().map(|it| runtime.block_on(it).unwrap());
    times.collect()
}

/// Reads until it is told to stop.
fn read_on(
    runtime: &Runtime,
    store: &Arc<RedbStore>,
    tasks: u64,
    stop: &Arc<AtomicBool>,
) -> Vec<JoinHandle<Times>> {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let reader = |_| {
        let (store, stop) = (Arc::clone(store), Arc::clone(stop));
        let mut numbers = numbers(SEED.fetch_add(1, Ordering::Relaxed));
        runtime.spawn(async move {
            let mut times = Times::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                let found = store.get(&key(numbers.below(KEYS))).await.unwrap();
                assert!(found.is_some());
                times.push(start.elapsed());
                // As those do whose requests come over a network.
                tokio::task::yield_now().await;
            }
            times
        })
    };
    (0..tasks).map(reader).collect()
}

/// The times of everybody else's operations, and those of the reads.
fn turn(runtime: &Runtime, store: &Arc<RedbStore>, readers: Option<Readers>) -> (Times, Times) {
    let map =
        Coordinator::<1, 1, 1, _>::new([Arc::new(Replica::new(MemStore::new()).of_new_cluster())]);
    runtime.block_on(async { map.put("warm", "value").await.unwrap() });
    let others = || {
        begin_when_due(runtime, Duration::from_millis(1), |_| {
            let map = map.clone();
            async move { assert!(map.get("warm").await.unwrap().is_some()) }
        })
    };
    match readers {
        None => (others(), Times::new()),
        Some(Readers::Tasks(tasks)) => {
            let stop = Arc::new(AtomicBool::new(false));
            let reading = read_on(runtime, store, tasks, &stop);
            let others = others();
            stop.store(true, Ordering::Relaxed);
            let times = reading.into_iter();
            let times = times.flat_map(|it| runtime.block_on(it).unwrap());
            (others, times.collect())
        }
        Some(Readers::PerSecond(rate)) => std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                begin_when_due(runtime, Duration::from_secs(1) / rate as u32, |number| {
                    let store = Arc::clone(store);
                    let mut numbers = numbers(number + 1);
                    async move {
                        let found = store.get(&key(numbers.below(KEYS))).await.unwrap();
                        assert!(found.is_some());
                    }
                })
            });
            (others(), reading.join().unwrap())
        }),
    }
}

pub(crate) fn measure() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path().join("store");
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let settings = RedbStore::builder().durability(Durability::Every(Duration::from_secs(60)));
    let store = Arc::new(runtime.block_on(settings.create_new(&path)).unwrap());
    let filling: Vec<_> = (0..1_000)
        .map(|task| {
            let store = Arc::clone(&store);
            runtime.spawn(async move {
                for number in (task..KEYS).step_by(1_000) {
                    let entry = Entry::new(entry().version, vec![1; VALUE_LEN]);
                    write(&store, &key(number), entry).await.unwrap();
                }
            })
        })
        .collect();
    for task in filling {
        runtime.block_on(task).unwrap();
    }
    runtime.block_on(store.close()).unwrap();
    println!("{KEYS} keys, values of {VALUE_LEN} bytes, two threads; medians of {TURNS} turns");
    println!(
        "| readers of the cold file | reads are made | others, median | others, 99 % | reads/s | reads, median | reads, 99 % |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    let loads = [
        ("none", None),
        ("500 reads/s", Some(Readers::PerSecond(500))),
        ("2000 reads/s", Some(Readers::PerSecond(2000))),
        ("4000 reads/s", Some(Readers::PerSecond(4000))),
        ("1 task", Some(Readers::Tasks(1))),
        ("8 tasks", Some(Readers::Tasks(8))),
        ("64 tasks", Some(Readers::Tasks(64))),
    ];
    let ways = [
        ("on the caller's thread", Reads::OnCaller),
        ("on blocking threads", Reads::OnBlockingThreads { max: 16 }),
    ];
    for (load, readers) in loads {
        let mut figures = ways.map(|_| Vec::new());
        for _ in 0..TURNS {
            for ((_, reads), figures) in ways.iter().zip(&mut figures) {
                let settings = RedbStore::builder().max_page_cache(FEW).verify(false);
                let store = runtime
                    .block_on(settings.reads(*reads).open(&path))
                    .unwrap();
                forget(&path);
                let (mut others, mut times) = turn(&runtime, &Arc::new(store), readers);
                figures.push([
                    percentile(&mut others, 50),
                    percentile(&mut others, 99),
                    times.len() as f64 / TURN.as_secs_f64(),
                    percentile(&mut times, 50),
                    percentile(&mut times, 99),
                ]);
            }
        }
        for ((way, _), turns) in ways.iter().zip(figures) {
            let column = |at: usize| {
                let column = turns.iter().map(|turn| turn.get(at).copied().unwrap());
                median(column.collect())
            };
            println!(
                "| {load} | {way} | {:.0} µs | {:.0} µs | {:.0} | {:.0} µs | {:.0} µs |",
                column(0),
                column(1),
                column(2),
                column(3),
                column(4)
            );
        }
    }
}
