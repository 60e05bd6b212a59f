//! The engines that a durable store could be built on, on a store's work: see
//! kvquorum-redb's README.md.
//!
//! `cargo run --release -p kvquorum-benches --example engines` prints the
//! table. It takes some minutes, and up to a gigabyte in the current directory.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails should stop")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a benchmark's numbers are its own"
)]

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

type Pair = (Vec<u8>, Vec<u8>);
type Error = Box<dyn std::error::Error>;

/// An engine, and how to open it.
struct Candidate {
    name: &'static str,
    open: fn(&Path) -> Result<Box<dyn Engine>, Error>,
}

const APPEND: Candidate = Candidate {
    name: "append",
    open: |directory| {
        let mut options = OpenOptions::new();
        let log = options.create(true).append(true);
        Ok(Box::new(Append(log.open(directory.join("log"))?)))
    },
};

const FJALL: Candidate = Candidate {
    name: "fjall",
    open: |directory| {
        let database = fjall::Database::builder(directory)
            .cache_size(64 << 20)
            .open()?;
        let entries = database.keyspace("entries", fjall::KeyspaceCreateOptions::default)?;
        Ok(Box::new(Fjall { database, entries }))
    },
};

const REDB: Candidate = Candidate {
    name: "redb",
    open: |directory| {
        let database = Database::builder()
            .set_cache_size(64 << 20)
            .create(directory.join("entries.redb"))?;
        Ok(Box::new(Redb(database)))
    },
};

/// What a store asks of an engine.
trait Engine {
    /// Keeps the greater of what is there and each of these, flushed.
    fn merge(&self, pairs: &[Pair]) -> Result<(), Error>;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// All values, in the order of the keys.
    fn walk(&self) -> Result<usize, Error>;
}

/// No engine: what the disk allows at all.
struct Append(File);

impl Engine for Append {
    fn merge(&self, pairs: &[Pair]) -> Result<(), Error> {
        let bytes: Vec<u8> = pairs
            .iter()
            .flat_map(|(key, value)| [&key[..], &value[..]].concat())
            .collect();
        (&self.0).write_all(&bytes)?;
        Ok(self.0.sync_data()?)
    }

    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn walk(&self) -> Result<usize, Error> {
        Ok(0)
    }
}

struct Fjall {
    database: fjall::Database,
    entries: fjall::Keyspace,
}

impl Engine for Fjall {
    fn merge(&self, pairs: &[Pair]) -> Result<(), Error> {
        let mut batch = self
            .database
            .batch()
            .durability(Some(fjall::PersistMode::SyncData));
        for (key, value) in pairs {
            if self
                .entries
                .get(key)?
                .is_none_or(|stored| *stored < value[..])
            {
                batch.insert(&self.entries, key.as_slice(), value.as_slice());
            }
        }
        Ok(batch.commit()?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.entries.get(key)?.map(|value| value.to_vec()))
    }

    fn walk(&self) -> Result<usize, Error> {
        let mut walked = 0;
        for pair in self.entries.iter() {
            walked += usize::from(!pair.into_inner()?.1.is_empty());
        }
        Ok(walked)
    }
}

struct Redb(Database);

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");

impl Engine for Redb {
    fn merge(&self, pairs: &[Pair]) -> Result<(), Error> {
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for (key, value) in pairs {
                let (key, value) = (key.as_slice(), value.as_slice());
                if table.get(key)?.is_none_or(|stored| stored.value() < value) {
                    table.insert(key, value)?;
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| value.value().to_vec()))
    }

    fn walk(&self) -> Result<usize, Error> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let mut walked = 0;
        for pair in table.iter()? {
            walked += usize::from(!pair?.1.value().is_empty());
        }
        Ok(walked)
    }
}

/// Numbers that look random, and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Keys whose order is not that of their numbers.
fn key(number: u64) -> Vec<u8> {
    format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()
}

/// Greater than the values of all rounds before; beyond that it does not
/// compress.
fn value(round: u64, len: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut value = round.to_be_bytes().to_vec();
    while value.len() < len {
        value.extend_from_slice(&numbers.next().to_le_bytes());
    }
    value.truncate(len);
    value
}

/// The work on one engine with values of one length.
struct Work {
    keys: u64,
    len: usize,
    round: u64,
    numbers: Numbers,
}

impl Work {
    fn pairs(&mut self, count: u64, keys: u64) -> Vec<Pair> {
        self.round += 1;
        let mut pair = || {
            let key = key(self.numbers.below(keys));
            (key, value(self.round, self.len, &mut self.numbers))
        };
        (0..count).map(|_| pair()).collect()
    }

    /// Merges a second, in batches.
    fn rate(&mut self, engine: &dyn Engine, batch: u64) -> f64 {
        let start = Instant::now();
        let mut merged = 0;
        while start.elapsed() < Duration::from_millis(700) {
            engine.merge(&self.pairs(batch, self.keys)).unwrap();
            merged += batch;
        }
        merged as f64 / start.elapsed().as_secs_f64()
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).unwrap();
    if metadata.is_dir() {
        let files = fs::read_dir(path).unwrap();
        files.map(|file| size(&file.unwrap().path())).sum()
    } else {
        // What it takes, which is less than its length where it has holes.
        metadata.blocks() * 512
    }
}

/// An engine with its work under way.
struct Running {
    engine: Box<dyn Engine>,
    path: PathBuf,
    work: Work,
}

fn fill(candidate: &Candidate, directory: &Path, len: usize, keys: u64) -> Running {
    let path = directory.join(format!("{}-{len}", candidate.name));
    fs::create_dir(&path).unwrap();
    let numbers = Numbers(42);
    let mut work = Work {
        keys,
        len,
        round: 1,
        numbers,
    };
    let engine = (candidate.open)(&path).unwrap();
    for chunk in (0..keys).collect::<Vec<_>>().chunks(1_000) {
        let pair = |number: &u64| (key(*number), value(1, len, &mut work.numbers));
        let pairs: Vec<_> = chunk.iter().map(pair).collect();
        engine.merge(&pairs).unwrap();
    }
    Running { engine, path, work }
}

fn measure(candidates: &[Candidate], directory: &Path, len: usize, keys: u64) {
    let row = |what: &str, numbers: Vec<String>| {
        println!("| {len} B: {what} | {} |", numbers.join(" | "));
    };
    let fill = |candidate| fill(candidate, directory, len, keys);
    let mut running: Vec<Running> = candidates.iter().map(fill).collect();
    for batch in [1, 64] {
        // By turns: a disk's speed changes by the minute.
        let mut rates = vec![Vec::new(); running.len()];
        for _ in 0..7 {
            for (running, rates) in running.iter_mut().zip(&mut rates) {
                rates.push(running.work.rate(&*running.engine, batch));
            }
        }
        let cell = |rates| format!("{:.0}", median(rates));
        let what = format!("merges/s, {batch} to a flush");
        row(&what, rates.into_iter().map(cell).collect());
    }
    row("µs for a read", running.iter_mut().map(read).collect());
    row("entries/s in a walk", running.iter().map(walk).collect());
    let megabytes = |running: &Running| format!("{:.0}", size(&running.path) as f64 / 1e6);
    row("MB on disk", running.iter().map(megabytes).collect());
    let overwrites = if len == 100 { 1_000_000 } else { 100_000 };
    for running in &mut running {
        for _ in 0..overwrites / 250 {
            let pairs = running.work.pairs(250, 10_000);
            running.engine.merge(&pairs).unwrap();
        }
    }
    let what = format!("MB after {overwrites} overwrites");
    row(&what, running.iter().map(megabytes).collect());
    let killed = running.into_iter().zip(candidates);
    let killed = killed.map(|(running, candidate)| kill_and_open(running, candidate));
    row("ms to open after a kill", killed.collect());
}

const NONE: &str = "–";

fn read(running: &mut Running) -> String {
    let Running { engine, work, .. } = running;
    if engine.get(&key(0)).unwrap().is_none() {
        return NONE.to_owned();
    }
    let start = Instant::now();
    for _ in 0..100_000 {
        let key = key(work.numbers.below(work.keys));
        assert!(engine.get(&key).unwrap().is_some());
    }
    format!("{:.1}", start.elapsed().as_secs_f64() * 1e6 / 1e5)
}

fn walk(running: &Running) -> String {
    let start = Instant::now();
    match running.engine.walk().unwrap() {
        0 => NONE.to_owned(),
        walked => format!("{:.0}", walked as f64 / start.elapsed().as_secs_f64()),
    }
}

/// Has another process write, kills it, and measures how long opening takes.
fn kill_and_open(running: Running, candidate: &Candidate) -> String {
    let Running { engine, path, work } = running;
    drop(engine);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([candidate.name, path.to_str().unwrap()])
        .args([work.len as u64, work.keys, work.round].map(|number| number.to_string()))
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    (candidate.open)(&path).unwrap();
    let opened = start.elapsed().as_secs_f64() * 1e3;
    fs::remove_dir_all(path).unwrap();
    format!("{opened:.0}")
}

fn write_until_killed(candidate: &Candidate, path: &Path, mut work: Work) {
    let engine = (candidate.open)(path).unwrap();
    loop {
        engine.merge(&work.pairs(64, work.keys)).unwrap();
    }
}

/// One flipped bit in what a process that was killed has left.
fn damage(candidate: &Candidate, directory: &Path) {
    const KEYS: u64 = 2_000;
    const CASES: u64 = 200;
    let path = directory.join(candidate.name);
    let copy = directory.join("copy");
    fs::create_dir(&path).unwrap();
    let mut numbers = Numbers(42);
    let engine = (candidate.open)(&path).unwrap();
    let pair = |number| (key(number), value(1, 100, &mut numbers));
    let written: Vec<Pair> = (0..KEYS).map(pair).collect();
    for pairs in written.chunks(10) {
        engine.merge(pairs).unwrap();
    }
    let (mut refused, mut intact, mut panicked, mut changed) = (0, 0, 0, 0);
    let mut lost = Vec::new();
    for _ in 0..CASES {
        let _ = fs::remove_dir_all(&copy);
        copy_all(&path, &copy);
        flip_a_bit(&copy, &mut numbers);
        let found = catch_unwind(AssertUnwindSafe(|| {
            let engine = (candidate.open)(&copy).ok()?;
            let found = written.iter().map(|(key, _)| engine.get(key));
            found.collect::<Result<Vec<_>, _>>().ok()
        }));
        match found {
            Err(_) => panicked += 1,
            Ok(None) => refused += 1,
            Ok(Some(found)) => {
                let is_changed = |(found, (_, value)): (&Option<Vec<u8>>, &Pair)| {
                    found.as_ref().is_some_and(|found| found != value)
                };
                let gone = found.iter().filter(|found| found.is_none()).count();
                if found.iter().zip(&written).any(is_changed) {
                    changed += 1;
                } else if gone > 0 {
                    lost.push(gone as f64);
                } else {
                    intact += 1;
                }
            }
        }
    }
    let gone = if lost.is_empty() {
        0.0
    } else {
        median(lost.clone())
    };
    println!(
        "| {} | {refused} | {intact} | {}, of {gone:.0} | {changed} | {panicked} |",
        candidate.name,
        lost.len(),
    );
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.file_type().unwrap().is_dir() {
            copy_all(&file.path(), &to);
        } else {
            fs::copy(file.path(), to).unwrap();
        }
    }
}

/// In the part of the largest file that is not zero.
fn flip_a_bit(directory: &Path, numbers: &mut Numbers) {
    let files = fs::read_dir(directory).unwrap();
    let files = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.is_file());
    let largest: PathBuf = files
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let at = written[numbers.below(written.len() as u64) as usize];
    bytes[at] ^= 1 << numbers.below(8);
    fs::write(largest, bytes).unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let candidates = [APPEND, FJALL, REDB];
    if let [name, path, numbers @ ..] = arguments.as_slice() {
        let number = |at: usize| numbers[at].parse::<u64>().unwrap();
        let work = Work {
            len: number(0) as usize,
            keys: number(1),
            round: number(2),
            numbers: Numbers(7),
        };
        let mut candidates = candidates.iter();
        let candidate = candidates.find(|candidate| candidate.name == name).unwrap();
        write_until_killed(candidate, Path::new(path), work);
    }
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path();
    let [a, b, c] = candidates.each_ref().map(|candidate| candidate.name);
    println!("| | {a} | {b} | {c} |\n|---|---:|---:|---:|");
    measure(&candidates, path, 100, 200_000);
    measure(&candidates, path, 4_096, 20_000);
    // The engines' own panics are counted.
    set_hook(Box::new(|_| {}));
    println!("\n| 200 flipped bits | refused | all as written | entries gone | changed | panics |");
    println!("|---|---:|---:|---:|---:|---:|");
    damage(&FJALL, path);
    damage(&REDB, path);
}
