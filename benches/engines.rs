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

use std::fmt::Write as _;
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

/// What a store asks of an engine.
trait Engine: Sized {
    const NAME: &'static str;

    fn open(directory: &Path) -> Result<Self, Error>;

    /// Keeps the greater of what is there and each of these, flushed.
    fn merge(&self, pairs: &[Pair]) -> Result<(), Error>;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;

    /// All values, in the order of the keys.
    fn walk(&self) -> Result<usize, Error>;
}

/// No engine: what the disk allows at all.
struct Append(File);

impl Engine for Append {
    const NAME: &'static str = "append";

    fn open(directory: &Path) -> Result<Self, Error> {
        let mut options = OpenOptions::new();
        let log = options.create(true).append(true);
        Ok(Self(log.open(directory.join("log"))?))
    }

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
    const NAME: &'static str = "fjall";

    fn open(directory: &Path) -> Result<Self, Error> {
        let database = fjall::Database::builder(directory)
            .cache_size(64 << 20)
            .open()?;
        let entries = database.keyspace("entries", fjall::KeyspaceCreateOptions::default)?;
        Ok(Self { database, entries })
    }

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

/// With the check of all pages that kvquorum-redb makes on opening, or without.
struct Redb<const CHECKED: bool>(Database);

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("entries");

impl<const CHECKED: bool> Engine for Redb<CHECKED> {
    const NAME: &'static str = if CHECKED { "redb, checked" } else { "redb" };

    fn open(directory: &Path) -> Result<Self, Error> {
        let database = Database::builder()
            .set_cache_size(64 << 20)
            .set_check_integrity_on_open(CHECKED)
            .create(directory.join("entries.redb"))?;
        Ok(Self(database))
    }

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
    fn rate(&mut self, engine: &impl Engine, batch: u64) -> f64 {
        let start = Instant::now();
        let mut merged = 0;
        while start.elapsed() < Duration::from_secs(3) {
            engine.merge(&self.pairs(batch, self.keys)).unwrap();
            merged += batch;
        }
        merged as f64 / start.elapsed().as_secs_f64()
    }
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

/// The cells of one column, named.
type Column = Vec<(String, String)>;

fn measure<E: Engine>(directory: &Path) -> Column {
    let mut column = Column::new();
    for (len, keys) in [(100, 200_000), (4_096, 20_000)] {
        let mut cell = |what: &str, number: String| {
            column.push((format!("{len} B: {what}"), number));
        };
        let path = directory.join(format!("{}-{len}", E::NAME));
        fs::create_dir(&path).unwrap();
        let mut work = Work {
            keys,
            len,
            round: 1,
            numbers: Numbers(42),
        };
        let engine = E::open(&path).unwrap();
        for chunk in (0..keys).collect::<Vec<_>>().chunks(1_000) {
            let pair = |number: &u64| (key(*number), value(1, len, &mut work.numbers));
            engine
                .merge(&chunk.iter().map(pair).collect::<Vec<_>>())
                .unwrap();
        }
        cell(
            "merges/s, one to a flush",
            format!("{:.0}", work.rate(&engine, 1)),
        );
        cell(
            "merges/s, 64 to a flush",
            format!("{:.0}", work.rate(&engine, 64)),
        );
        if engine.get(&key(0)).unwrap().is_some() {
            let start = Instant::now();
            for _ in 0..100_000 {
                assert!(
                    engine
                        .get(&key(work.numbers.below(keys)))
                        .unwrap()
                        .is_some()
                );
            }
            let read = start.elapsed().as_secs_f64() * 1e6 / 1e5;
            cell("µs for a read", format!("{read:.1}"));
            let start = Instant::now();
            assert_eq!(engine.walk().unwrap() as u64, keys);
            let walked = keys as f64 / start.elapsed().as_secs_f64();
            cell("entries/s in a walk", format!("{walked:.0}"));
        }
        let before = size(&path);
        let overwrites = if len == 100 { 1_000_000 } else { 100_000 };
        for _ in 0..overwrites / 250 {
            engine.merge(&work.pairs(250, 10_000)).unwrap();
        }
        let (before, after) = (before as f64 / 1e6, size(&path) as f64 / 1e6);
        cell("MB on disk", format!("{before:.0}"));
        cell(
            &format!("MB after {overwrites} overwrites"),
            format!("{after:.0}"),
        );
        drop(engine);
        cell(
            "ms to open after a kill",
            format!("{:.0}", kill_and_open::<E>(&path, &work)),
        );
        fs::remove_dir_all(path).unwrap();
    }
    column
}

/// Has another process write, kills it, and measures how long opening takes.
fn kill_and_open<E: Engine>(path: &Path, work: &Work) -> f64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([E::NAME, path.to_str().unwrap()])
        .args([work.len as u64, work.keys, work.round].map(|number| number.to_string()))
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(3));
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    E::open(path).unwrap();
    start.elapsed().as_secs_f64() * 1e3
}

fn write_until_killed<E: Engine>(path: &Path, mut work: Work) {
    let engine = E::open(path).unwrap();
    loop {
        engine.merge(&work.pairs(64, work.keys)).unwrap();
    }
}

/// One flipped bit in what a process that was killed has left.
fn damage<E: Engine>(directory: &Path) -> Column {
    const KEYS: u64 = 2_000;
    const CASES: u64 = 300;
    let path = directory.join(E::NAME);
    let copy = directory.join("copy");
    fs::create_dir(&path).unwrap();
    let mut numbers = Numbers(42);
    let engine = E::open(&path).unwrap();
    let written: Vec<Pair> = (0..KEYS)
        .map(|number| (key(number), value(1, 100, &mut numbers)))
        .collect();
    for pairs in written.chunks(10) {
        engine.merge(pairs).unwrap();
    }
    let (mut refused, mut intact, mut lost, mut changed, mut panicked) = (0, 0, 0, 0, 0);
    for _ in 0..CASES {
        let _ = fs::remove_dir_all(&copy);
        copy_all(&path, &copy);
        flip_a_bit(&copy, &mut numbers);
        let found = catch_unwind(AssertUnwindSafe(|| {
            let engine = E::open(&copy).ok()?;
            let found = written.iter().map(|(key, _)| engine.get(key));
            found.collect::<Result<Vec<_>, _>>().ok()
        }));
        match found {
            Err(_) => panicked += 1,
            Ok(None) => refused += 1,
            Ok(Some(found)) => {
                let pairs = || found.iter().zip(&written);
                if pairs()
                    .any(|(found, (_, value))| found.as_ref().is_some_and(|found| found != value))
                {
                    changed += 1;
                } else if found.iter().any(Option::is_none) {
                    lost += 1;
                } else {
                    intact += 1;
                }
            }
        }
    }
    fs::remove_dir_all(copy).unwrap();
    let cell =
        |what: &str, cases: u64| (format!("{CASES} flipped bits: {what}"), cases.to_string());
    vec![
        cell("refused with an error", refused),
        cell("all as written", intact),
        cell("flushed entries gone, no error", lost),
        cell("a changed value served", changed),
        cell("a panic", panicked),
    ]
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

fn print(names: &[&str], columns: &[Column]) {
    let mut table = format!(
        "| | {} |\n|---|{}\n",
        names.join(" | "),
        "---:|".repeat(names.len())
    );
    let longest = columns.iter().max_by_key(|column| column.len()).unwrap();
    for (what, _) in longest {
        let cell = |column: &Column| {
            let found = column.iter().find(|(name, _)| name == what);
            found.map_or("–".to_owned(), |(_, number)| number.clone())
        };
        let cells: Vec<_> = columns.iter().map(cell).collect();
        writeln!(table, "| {what} | {} |", cells.join(" | ")).unwrap();
    }
    println!("{table}");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, path, numbers @ ..] = arguments.as_slice() {
        let number = |at: usize| numbers[at].parse::<u64>().unwrap();
        let work = Work {
            len: number(0) as usize,
            keys: number(1),
            round: number(2),
            numbers: Numbers(7),
        };
        let path = Path::new(path);
        match name.as_str() {
            Fjall::NAME => write_until_killed::<Fjall>(path, work),
            Redb::<false>::NAME => write_until_killed::<Redb<false>>(path, work),
            Redb::<true>::NAME => write_until_killed::<Redb<true>>(path, work),
            _ => write_until_killed::<Append>(path, work),
        }
    }
    let directory = tempfile::tempdir_in(".").unwrap();
    let path = directory.path();
    let columns = [
        measure::<Append>(path),
        measure::<Fjall>(path),
        measure::<Redb<false>>(path),
        measure::<Redb<true>>(path),
    ];
    print(
        &[
            Append::NAME,
            Fjall::NAME,
            Redb::<false>::NAME,
            Redb::<true>::NAME,
        ],
        &columns,
    );
    set_hook(Box::new(|_| {}));
    let columns = [
        damage::<Fjall>(path),
        damage::<Redb<false>>(path),
        damage::<Redb<true>>(path),
    ];
    print(
        &[Fjall::NAME, Redb::<false>::NAME, Redb::<true>::NAME],
        &columns,
    );
}
