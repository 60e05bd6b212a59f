//! A replica that hangs for ever, under load: alone in its process, because it
//! looks at the memory of all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvquorum_core::{Coordinator, ReplicaFailure};
use kvquorum_mem::{Link, Network};
use tokio::runtime::Handle;

const PUTS: u64 = 100_000;
const WRITERS: u64 = 8;
const BOUND: usize = 256;

/// The resident memory of this process in KiB; `None` where there is no /proc.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// W-FINISH. Bugs: a task for each straggler, without a bound; stragglers that
/// are given up without being counted, or told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_for_ever_costs_no_more_than_the_bound() {
    // Without messages of the network's own that outlive their callers.
    let network = Network::new(1).with_max_strays(0);
    let links: [Link; 3] = ["a", "b", "c"].map(|name| network.node(name).link());
    links[2].hang();
    let coordinator: Coordinator<3, 2, 2, Link> =
        Coordinator::builder(links).max_background(BOUND).build();

    let given_up = Arc::new(AtomicU64::new(0));
    let most_tasks = Arc::new(AtomicU64::new(0));
    let before = resident();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let coordinator = coordinator.clone();
            let (given_up, most_tasks) = (Arc::clone(&given_up), Arc::clone(&most_tasks));
            tokio::spawn(async move {
                for index in 0..PUTS / WRITERS {
                    let key = format!("{writer}/{}", index % 100);
                    let receipt = coordinator.put(key, vec![0; 1000]).await.unwrap();
                    if let Some(ReplicaFailure::GivenUp) = receipt.replicas()[2].failure() {
                        given_up.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(coordinator.stats()[2].in_background <= BOUND);
                    let tasks = Handle::current().metrics().num_alive_tasks() as u64;
                    most_tasks.fetch_max(tasks, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }

    let stats = coordinator.stats();
    assert_eq!(stats[2].given_up, given_up.load(Ordering::Relaxed));
    // At this pace, hardly any of them is ended by its time limit first.
    assert!(stats[2].given_up > PUTS / 2, "{stats:?}");
    assert_eq!(stats[0].given_up + stats[1].given_up, 0, "{stats:?}");
    let most_tasks = most_tasks.load(Ordering::Relaxed);
    // A call gives back its place a moment before its task ends.
    assert!(
        most_tasks <= BOUND as u64 + 2 * WRITERS,
        "{most_tasks} tasks"
    );
    if let (Some(before), Some(after)) = (before, resident()) {
        let grown = after.saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB more than before");
    }
}
