//! Puts and gets in memory, and the floor beside them: see README.md.

#![allow(clippy::unwrap_used, reason = "a benchmark that fails should stop")]
#![allow(
    missing_docs,
    reason = "criterion's macros write functions of their own"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use kvquorum_core::{
    Bytes, Clock, Coordinator, DEFAULT_MAX_DRIFT, Entry, Key, Merged, Replica, Store, SystemClock,
    Version, WriterId,
};
use kvquorum_mem::MemStore;
use tokio::runtime::{Builder, Runtime};

const N: usize = 3;
const W: usize = 2;
const R: usize = 2;
const KEYS: usize = 1_000;

type Replicas = [Arc<Replica<MemStore>>; N];

struct Setting {
    runtime: Runtime,
    keys: Vec<Key>,
    value: Bytes,
    replicas: Replicas,
    coordinator: Coordinator<N, W, R, Arc<Replica<MemStore>>>,
    clock: Clock,
    writer: WriterId,
}

impl Setting {
    /// Replicas that hold every key already.
    fn new(value_len: usize) -> Self {
        let replicas: Replicas = std::array::from_fn(|_| Arc::new(Replica::new(MemStore::new())));
        let setting = Self {
            runtime: Builder::new_current_thread().enable_time().build().unwrap(),
            keys: (0..KEYS)
                .map(|index| format!("key-{index:09}").into())
                .collect(),
            value: Bytes::from(vec![b'v'; value_len]),
            coordinator: Coordinator::new(replicas.clone()),
            clock: Clock::new(SystemClock, DEFAULT_MAX_DRIFT),
            writer: WriterId::random(),
            replicas,
        };
        setting.runtime.block_on(async {
            for key in &setting.keys {
                setting
                    .coordinator
                    .put(key, setting.value.clone())
                    .await
                    .unwrap();
            }
        });
        setting
    }

    /// Stamped once, and merged into each store.
    async fn put_directly(&self, key: &Key) {
        let version = Version {
            timestamp: self.clock.tick().unwrap(),
            writer: self.writer,
        };
        let entry = Entry::new(version, self.value.clone());
        for replica in &self.replicas {
            let merged = replica.store().merge(key, entry.clone()).await.unwrap();
            assert_eq!(merged, Merged::Applied);
        }
    }

    /// Read from as many stores as a quorum needs, and the greatest taken.
    async fn get_directly(&self, key: &Key) -> Option<Bytes> {
        let mut greatest: Option<Entry> = None;
        for replica in self.replicas.iter().take(R) {
            greatest = greatest.max(replica.store().get(key).await.unwrap());
        }
        greatest?.value
    }
}

/// Measures an operation on each key in turn.
fn measure<'a, F: Future>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    setting: &'a Setting,
    operation: impl Fn(&'a Setting, &'a Key) -> F,
) {
    let mut keys = setting.keys.iter().cycle();
    group.bench_function(id, |bencher| {
        bencher
            .to_async(&setting.runtime)
            .iter(|| operation(setting, keys.next().unwrap()));
    });
}

fn memory(criterion: &mut Criterion) {
    for value_len in [100, 4096] {
        let setting = Setting::new(value_len);
        let id = |way: &str| BenchmarkId::new(way, format!("{N}-{W}-{R}/{value_len}B"));

        let mut put = criterion.benchmark_group("memory/put");
        measure(&mut put, id("floor"), &setting, Setting::put_directly);
        measure(
            &mut put,
            id("coordinator"),
            &setting,
            |setting, key| async move {
                let put = setting.coordinator.put(key, setting.value.clone());
                black_box(put.await.unwrap());
            },
        );
        put.finish();

        let mut get = criterion.benchmark_group("memory/get");
        measure(&mut get, id("floor"), &setting, |setting, key| async move {
            assert!(black_box(setting.get_directly(key).await).is_some());
        });
        measure(
            &mut get,
            id("coordinator"),
            &setting,
            |setting, key| async move {
                let got = setting.coordinator.get(key).await.unwrap();
                assert!(black_box(got).is_some());
            },
        );
        get.finish();
    }
}

criterion_group!(benches, memory);
criterion_main!(benches);
