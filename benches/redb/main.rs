//! The durable store beside the engine it is built on: see kvquorum-redb's
//! README.md.
//!
//! `cargo bench -p kvquorum-benches --bench redb` prints ratios, each of two
//! ways measured by turns in one run, since a disk's speed changes by the
//! minute. With `-- reader` or `-- writer` it prints those rows only, with
//! `-- cold` what readers of a file that lies on disk do to everybody else, with
//! `-- million` what a million keys take, and with `-- compaction` what becomes of
//! the file when they are removed.

#[cfg(target_os = "linux")]
mod cold;
mod compaction;

use std::fs;
use std::hint::black_box;
use std::ops::Bound;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvquorum_core::{
    Ack, Change, Entry, Key, Response, ScanLimit, Store, StoreError, Timestamp, Version, WriterId,
};
use kvquorum_redb::{Durability, Reads, RedbStore};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::runtime::{Builder, Runtime};

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");
const KEYS: u64 = 100_000;
const VALUE_LEN: usize = 100;
const WRITERS: u64 = 64;
const READERS: u64 = 64;
/// Memory for all pages of the file, and for few.
const ALL: usize = 64 << 20;
const FEW: usize = 1 << 20;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);

fn main() {
    let wanted = |what: &str| std::env::args().any(|argument| argument == what);
    if wanted("million") {
        measure_million()
    } else if wanted("compaction") {
        compaction::measure()
    } else if wanted("cold") {
        #[cfg(target_os = "linux")]
        cold::measure()
    } else if let Some(path) = std::env::args().skip_while(|it| it != "opened").nth(1) {
        measure_opened(&path)
    } else {
        measure_ratios(!wanted("reader"), !wanted("writer"))
    }
}

/// Numbers that look random, and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Keys whose order is not that of their numbers.
fn key(number: u64) -> Key {
    Key::from(format!(
        "{:016x}",
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    ))
}

static TIME: AtomicU64 = AtomicU64::new(1);

fn entry() -> Entry {
    let version = Version {
        timestamp: Timestamp::from_bits(TIME.fetch_add(1, Ordering::Relaxed)),
        writer: WriterId::new(1),
    };
    Entry::new(version, vec![version.timestamp.to_bits() as u8; VALUE_LEN])
}

async fn write(store: &RedbStore, key: &Key, entry: Entry) -> Result<Ack, StoreError> {
    match store.apply(key, Change::write(entry)).await? {
        Response::Ack(ack) => Ok(ack),
        other => panic!("{other:?}"),
    }
}

/// The engine by hand: a value is the timestamp and the bytes, a merge compares
/// the timestamps, and a commit is flushed.
struct ByHand(Database);

impl ByHand {
    fn merge(&self, pairs: &[(Key, Entry)]) {
        let transaction = self.0.begin_write().unwrap();
        {
            let mut table = transaction.open_table(TABLE).unwrap();
            for (key, entry) in pairs {
                let mut bytes = entry.version.timestamp.to_bits().to_be_bytes().to_vec();
                bytes.extend_from_slice(entry.value.as_ref().unwrap());
                let stored = table.get(key.as_bytes()).unwrap();
                if stored.is_none_or(|stored| stored.value() < bytes.as_slice()) {
                    table.insert(key.as_bytes(), bytes.as_slice()).unwrap();
                }
            }
        }
        transaction.commit().unwrap();
    }

    /// Reads in one transaction.
    fn get(&self, keys: impl Iterator<Item = Key>) {
        let table = self.0.begin_read().unwrap().open_table(TABLE).unwrap();
        for key in keys {
            let value = table.get(key.as_bytes()).unwrap();
            assert!(black_box(value.map(|value| value.value().to_vec())).is_some());
        }
    }

    /// Merges a second in batches of this size.
    fn rate(&self, batch: u64, numbers: &mut Numbers) -> f64 {
        let start = Instant::now();
        let mut written = 0;
        while start.elapsed() < ROUND {
            let pairs: Vec<_> = (0..batch)
                .map(|_| (key(numbers.below(KEYS)), entry()))
                .collect();
            self.merge(&pairs);
            written += batch;
        }
        written as f64 / start.elapsed().as_secs_f64()
    }
}

/// Merges a second by this many tasks, each of which waits for its acks.
fn rate(runtime: &Runtime, store: &Arc<RedbStore>, writers: u64) -> f64 {
    let start = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = Arc::clone(store);
            runtime.spawn(async move {
                let mut numbers = Numbers(writer + 1);
                let mut written = 0_u64;
                while start.elapsed() < ROUND {
                    // Of two writers that met at a key, one is superseded.
                    let answer = write(&store, &key(numbers.below(KEYS)), entry()).await;
                    answer.unwrap();
                    written += 1;
                }
                written
            })
        })
        .collect();
    let written: u64 = tasks
        .into_iter()
        .map(|task| runtime.block_on(task).unwrap())
        .sum();
    written as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds for each of these reads, by this many tasks, each of which waits
/// for its answers.
fn micros(runtime: &Runtime, store: &Arc<RedbStore>, tasks: u64, reads: u64) -> f64 {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let read = || {
        let store = Arc::clone(store);
        let mut numbers = Numbers(SEED.fetch_add(1, Ordering::Relaxed));
        async move {
            for _ in 0..reads / tasks {
                let entry = store.get(&key(numbers.below(KEYS))).await.unwrap();
                assert!(black_box(entry).is_some());
            }
        }
    };
    let start = Instant::now();
    if tasks == 1 {
        runtime.block_on(read());
    } else {
        let tasks: Vec<_> = (0..tasks).map(|_| runtime.spawn(read())).collect();
        for task in tasks {
            runtime.block_on(task).unwrap();
        }
    }
    start.elapsed().as_secs_f64() * 1e6 / reads as f64
}

/// Microseconds for each read by hand, with this many in each transaction.
fn micros_by_hand(by_hand: &ByHand, batch: u64, reads: u64, numbers: &mut Numbers) -> f64 {
    let start = Instant::now();
    for _ in 0..reads / batch {
        by_hand.get((0..batch).map(|_| key(numbers.below(KEYS))));
    }
    start.elapsed().as_secs_f64() * 1e6 / reads as f64
}

/// Has the system forget what it holds of the files in a directory.
#[cfg(target_os = "linux")]
fn forget(directory: &Path) {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    for file in fs::read_dir(directory).unwrap() {
        let file = fs::File::open(file.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap()
}

/// A row of each way's median, and of their ratios to the last, round by round.
fn report<const WAYS: usize>(what: &str, unit: &str, rounds: &[[f64; WAYS]]) {
    let each = |of: fn(&[f64; WAYS], usize) -> f64| {
        let medians = (0..WAYS).map(|way| median(rounds.iter().map(|it| of(it, way)).collect()));
        medians.collect::<Vec<_>>()
    };
    let times = each(|round, way| round.get(way).copied().unwrap());
    let ratios = each(|round, way| round.get(way).unwrap() / round.last().unwrap());
    let times: Vec<_> = times.iter().map(|it| format!("{it:.2} {unit}")).collect();
    let ratios: Vec<_> = ratios.iter().map(|it| format!("{it:.2}")).collect();
    let ratios = ratios.get(..WAYS - 1).unwrap().join(" | ");
    println!("| {what} | {} | {ratios} |", times.join(" | "));
}

fn measure_ratios(writers: bool, readers: bool) {
    let directory = tempfile::tempdir_in(".").unwrap();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let by_hand = Database::builder()
        .set_cache_size(ALL)
        .create(directory.path().join("by-hand.redb"))
        .unwrap();
    let by_hand = ByHand(by_hand);
    let path = directory.path().join("store");
    let store = Arc::new(runtime.block_on(RedbStore::create_new(&path)).unwrap());
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(1_000) {
        let pairs: Vec<_> = chunk.iter().map(|number| (key(*number), entry())).collect();
        by_hand.merge(&pairs);
        runtime.block_on(async {
            let tasks: Vec<_> = pairs
                .into_iter()
                .map(|(key, entry)| {
                    let store = Arc::clone(&store);
                    tokio::spawn(async move { write(&store, &key, entry).await })
                })
                .collect();
            for task in tasks {
                task.await.unwrap().unwrap();
            }
        });
    }
    if writers {
        measure_writers(&runtime, &store, &by_hand);
    }
    drop((store, by_hand));
    if readers {
        measure_readers(&runtime, directory.path());
    }
}

fn measure_writers(runtime: &Runtime, store: &Arc<RedbStore>, by_hand: &ByHand) {
    let mut numbers = Numbers(42);
    println!("| {KEYS} keys, values of {VALUE_LEN} bytes | store | redb by hand | ratio |");
    println!("|---|---|---|---|");
    let mut rates = |what: &str, writers| {
        let rounds = (0..ROUNDS).map(|_| {
            let ours = rate(runtime, store, writers);
            [ours, by_hand.rate(writers, &mut numbers)]
        });
        report(what, "writes/s", &rounds.collect::<Vec<_>>());
    };
    rates("1 writer, flushed", 1);
    let before = store.stats();
    let what = format!("{WRITERS} writers, flushed; by hand, batches of {WRITERS}");
    rates(&what, WRITERS);
    let after = store.stats();
    let changes = (after.changes - before.changes) as f64;
    let in_each = changes / (after.commits - before.commits) as f64;
    println!();
    println!("{WRITERS} writers: {in_each:.1} changes in each commit");
    println!();
}

/// The two ways to read, each with a store of its own, and by hand.
fn measure_readers(runtime: &Runtime, directory: &Path) {
    let (path, other) = (directory.join("store"), directory.join("other"));
    fs::create_dir(&other).unwrap();
    for file in fs::read_dir(&path).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), other.join(file.file_name())).unwrap();
    }
    let open = |max_page_cache| {
        let stores = [
            (&path, Reads::OnCaller),
            (&other, Reads::OnBlockingThreads { max: 16 }),
        ];
        let stores = stores.map(|(path, reads)| {
            let settings = RedbStore::builder().max_page_cache(max_page_cache);
            let store = runtime.block_on(settings.reads(reads).open(path));
            Arc::new(store.unwrap())
        });
        let by_hand = Database::builder()
            .set_cache_size(max_page_cache)
            .open(directory.join("by-hand.redb"));
        (stores, ByHand(by_hand.unwrap()))
    };
    println!(
        "| {KEYS} keys, values of {VALUE_LEN} bytes | on the caller's thread | \
         on blocking threads | redb by hand | ratio | ratio |"
    );
    println!("|---|---|---|---|---|---|");
    let mut numbers = Numbers(42);
    let mut rows = |what: &str, page_cache, rounds: usize, reads, before: fn(&Path)| {
        for tasks in [1, READERS] {
            let (stores, by_hand) = open(page_cache);
            let rounds = (0..rounds + 1).map(|_| {
                let [on_caller, on_threads] =
                    [(&stores[0], &path), (&stores[1], &other)].map(|(store, path)| {
                        before(path);
                        micros(runtime, store, tasks, reads)
                    });
                before(directory);
                let by_hand = micros_by_hand(&by_hand, 1, reads, &mut numbers);
                [on_caller, on_threads, by_hand]
            });
            // The first round fills the caches.
            let rounds: Vec<_> = rounds.skip(1).collect();
            let readers = if tasks == 1 { "1 reader" } else { "64 readers" };
            let what = format!("{readers}, {what}");
            report(&what, "µs", &rounds);
        }
    };
    rows("warm", ALL, ROUNDS, 100_000, |_| ());
    rows("pages with the system", FEW, ROUNDS, 100_000, |_| ());
    // So few of so many that most are of a page that is still on disk.
    #[cfg(target_os = "linux")]
    rows("pages on disk", FEW, ROUNDS * 20, READERS * 2, forget);
}

fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    kib.and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(f64::NAN)
        / 1024.0
}

fn size(path: &Path) -> f64 {
    let files = fs::read_dir(path).unwrap();
    let bytes: u64 = files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    bytes as f64 / f64::from(1 << 20)
}

const MILLION: u64 = 1_000_000;

/// What it takes to open a million keys and to read them.
fn measure_opened(path: &str) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let start = Instant::now();
    let settings = RedbStore::builder().reads(Reads::OnCaller);
    let store = runtime.block_on(settings.open(path)).unwrap();
    println!(
        "opened after closing: {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    println!("memory when opened: {:.0} MiB", resident());
    runtime.block_on(async {
        for number in 0..MILLION {
            assert!(store.get(&key(number)).await.unwrap().is_some());
        }
    });
    println!("memory when all was read: {:.0} MiB", resident());
    runtime.block_on(store.close()).unwrap();
}

fn measure_million() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path().join("store");
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let open = |settings: kvquorum_redb::RedbStoreBuilder| {
        let start = Instant::now();
        let store = runtime.block_on(settings.open_or_create(&path)).unwrap();
        (Arc::new(store), start.elapsed().as_secs_f64() * 1e3)
    };
    println!("memory before: {:.0} MiB", resident());
    let (store, _) = open(RedbStore::builder());
    let start = Instant::now();
    let tasks: Vec<_> = (0..WRITERS * 16)
        .map(|writer| {
            let store = Arc::clone(&store);
            runtime.spawn(async move {
                for number in (writer..MILLION).step_by(WRITERS as usize * 16) {
                    write(&store, &key(number), entry()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    println!(
        "filled, each write flushed, in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    println!("memory: {:.0} MiB", resident());
    println!("on disk: {:.0} MiB", size(&path));
    // What a process that was killed leaves: a file that was not closed.
    let killed = directory.path().join("killed");
    fs::create_dir(&killed).unwrap();
    fs::copy(path.join("entries.redb"), killed.join("entries.redb")).unwrap();
    runtime.block_on(store.close()).unwrap();

    // A process of its own, whose memory holds nothing from before.
    let opened = Command::new(std::env::current_exe().unwrap())
        .arg("opened")
        .arg(&path)
        .status();
    assert!(opened.unwrap().success());
    let (store, unverified) = open(RedbStore::builder().verify(false));
    println!("opened after closing, unverified: {unverified:.0} ms");
    drop(store);
    let start = Instant::now();
    let store = runtime.block_on(RedbStore::open(&killed)).unwrap();
    println!(
        "opened after a kill: {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    let start = Instant::now();
    let walked = runtime.block_on(async {
        let mut walked = 0;
        let mut from = Bound::Unbounded;
        loop {
            let range = (from.as_ref(), Bound::Unbounded);
            let page = store.scan(range, ScanLimit::keys(1_000)).await.unwrap();
            walked += page.len();
            match page.last() {
                Some((last, _)) => from = Bound::Excluded(last.clone()),
                None => break walked,
            }
        }
    });
    println!(
        "walked {walked} in {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    drop(store);

    let path = directory.path().join("loose");
    let settings = RedbStore::builder().durability(Durability::Every(Duration::from_secs(1)));
    let store = Arc::new(runtime.block_on(settings.open_or_create(&path)).unwrap());
    println!(
        "{WRITERS} writers, flushed every second: {:.0} writes/s",
        rate(&runtime, &store, WRITERS)
    );
}
