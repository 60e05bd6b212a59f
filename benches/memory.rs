//! Puts and gets in memory, in each way, for criterion: see README.md.

use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use kvquorum_benches::map::Map;
use kvquorum_benches::memory::{EachWay, Memory, VALUE_LENS};
use kvquorum_benches::work::{Operation, Sharing, TASKS, Work};
use kvquorum_benches::{for_each_quorum, id, runtime};

/// Measures each way, in one task and in many on two threads.
struct Measure<'a, 'b> {
    group: &'a mut BenchmarkGroup<'b, WallTime>,
    work: &'a Work,
    id: &'a str,
}

impl EachWay for Measure<'_, '_> {
    fn way<M: Map>(&mut self, name: &'static str, map: &Arc<M>) {
        let Self { group, work, id } = self;
        let one_thread = runtime::of_this_thread();
        group.bench_function(BenchmarkId::new(name, *id), |bencher| {
            bencher.iter_custom(|operations| work.time(&one_thread, &**map, operations as usize));
        });
        let two_threads = runtime::of_threads(2);
        let id = format!("{id}/{TASKS}-tasks");
        group.bench_function(BenchmarkId::new(name, id), |bencher| {
            bencher.iter_custom(|operations| {
                work.time_of_many(&two_threads, map, Sharing::Disjoint, operations as usize)
            });
        });
    }
}

fn measure<const N: usize, const W: usize, const R: usize>(criterion: &mut Criterion) {
    for value_len in VALUE_LENS {
        let id = id::<N, W, R>(value_len);
        for operation in Operation::ALL {
            let work = Work::new(operation, value_len);
            let memory = Memory::<N, W, R>::new(&work);
            let mut group = criterion.benchmark_group(format!("memory/{operation}"));
            group.throughput(Throughput::Elements(1));
            memory.each_way(&mut Measure {
                group: &mut group,
                work: &work,
                id: &id,
            });
            group.finish();
        }
    }
}

fn memory(criterion: &mut Criterion) {
    for_each_quorum!(measure(criterion));
}

/// There are 128 of them, and a few minutes for all.
fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(20)
        .nresamples(10_000)
}

criterion_group! {
    name = benches;
    config = short();
    targets = memory
}
criterion_main!(benches);
