//! What removals and compactions do to the file, and to who reads and writes
//! meanwhile.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvquorum_core::{Change, Key, Store};
use kvquorum_redb::RedbStore;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::{MILLION, VALUE_LEN, entry, size, write};

/// Changes that are made at once.
const AT_ONCE: u64 = 1_024;

/// Keys of 13 bytes, whose order is not that of their numbers.
fn key(number: u64) -> Key {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12;
    Key::from(format!("{number:013x}"))
}

pub(super) fn measure() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!(
        "{MILLION} keys of 13 bytes, values of {VALUE_LEN} bytes, {AT_ONCE} changes at once\n"
    );
    println!("| | seconds | MiB long | MiB on disk | longest read | longest write |");
    println!("|---|---:|---:|---:|---:|---:|");
    for kept in ["none", "a tenth", "half"] {
        let path = directory.path().join(kept);
        let keep = |number: u64| match kept {
            "none" => false,
            "half" => number.is_multiple_of(2),
            _ => number.is_multiple_of(10),
        };
        runtime.block_on(async {
            let store = Arc::new(RedbStore::create_new(&path).await.unwrap());
            step("empty", &path, &store, async {}).await;
            step("put", &path, &store, put_all(&store)).await;
            let what = format!("removed, {kept} kept");
            step(&what, &path, &store, remove(&store, keep)).await;
            step("compacted", &path, &store, compact(&store)).await;
            if kept == "none" {
                step("put again", &path, &store, put_all(&store)).await;
                step(&what, &path, &store, remove(&store, keep)).await;
                let what = "put again, without compaction";
                step(what, &path, &store, put_all(&store)).await;
            }
            store.close().await.unwrap();
        });
        std::fs::remove_dir_all(path).unwrap();
    }
}

async fn put_all(store: &Arc<RedbStore>) {
    apply(store, |_| true, || Change::write(entry())).await;
}

async fn remove(store: &Arc<RedbStore>, keep: impl Fn(u64) -> bool) {
    apply(store, |number| !keep(number), Change::remove).await;
}

async fn compact(store: &Arc<RedbStore>) {
    store.compact().await.unwrap();
}

async fn apply(
    store: &Arc<RedbStore>,
    wanted: impl Fn(u64) -> bool,
    change: impl Fn() -> Change<'static>,
) {
    let mut numbers = (0..MILLION).filter(|number| wanted(*number)).peekable();
    while numbers.peek().is_some() {
        let mut applying = JoinSet::new();
        for number in numbers.by_ref().take(AT_ONCE as usize) {
            let (store, change) = (Arc::clone(store), change());
            applying.spawn(async move { store.apply(&key(number), change).await.unwrap() });
        }
        applying.join_all().await;
    }
}

/// Does something beside a reader and a writer, and prints a row.
async fn step(what: &str, path: &Path, store: &Arc<RedbStore>, doing: impl Future<Output = ()>) {
    let ended = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn(longest(
        Arc::clone(&ended),
        Arc::clone(store),
        |store| async move {
            let _found = store.get(&Key::from("other")).await.unwrap();
        },
    ));
    let writer = tokio::spawn(longest(
        Arc::clone(&ended),
        Arc::clone(store),
        |store| async move {
            let _ack = write(&store, &Key::from("other"), entry()).await.unwrap();
        },
    ));
    let start = Instant::now();
    doing.await;
    let seconds = start.elapsed().as_secs_f64();
    ended.store(true, Ordering::Relaxed);
    let (read, written) = (reader.await.unwrap(), writer.await.unwrap());
    println!(
        "| {what} | {seconds:.2} | {:.1} | {:.1} | {:.1} ms | {:.1} ms |",
        size(path),
        on_disk(path),
        read.as_secs_f64() * 1e3,
        written.as_secs_f64() * 1e3,
    );
}

/// What the file takes: less than its length where it was never written.
fn on_disk(path: &Path) -> f64 {
    let file = std::fs::metadata(path.join("entries.redb")).unwrap();
    (file.blocks() * 512) as f64 / f64::from(1 << 20)
}

/// The longest that one of these took, one after the other.
async fn longest<F: Future<Output = ()>>(
    ended: Arc<AtomicBool>,
    store: Arc<RedbStore>,
    operation: impl Fn(Arc<RedbStore>) -> F,
) -> Duration {
    let mut longest = Duration::ZERO;
    while !ended.load(Ordering::Relaxed) {
        let start = Instant::now();
        operation(Arc::clone(&store)).await;
        longest = longest.max(start.elapsed());
    }
    longest
}
