//! One seed: a world, what its clients do, and what becomes of it.

mod clients;
mod collecting;
mod profile;
mod shop;
mod tending;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvquorum_core::{Coordinator, CoordinatorBuilder};
use kvquorum_testing::sim::{self, World};
use profile::{Allowed, Losses, Profile, draw_settings};
use shop::{Built, Compiles, Shop};
use tokio::task::JoinHandle;

use crate::map::Raw;
use crate::oracle::{Counts, Quorums, Violation};
use crate::planted::Bug;

const MS: Duration = Duration::from_millis(1);
const MAX_DRIFT: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    pub seed: u64,
    /// Only so many operations begin.
    pub operations: Option<u64>,
    pub keep_trace: bool,
    pub bug: Option<Bug>,
    /// The coordinator of `mutant`, even without a bug.
    pub mutant: bool,
}

impl Plan {
    /// In no seed do clients begin more operations than this. The reads that it
    /// ends with come besides.
    pub const MOST_OPERATIONS: u64 = 80;
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Run {
    pub violation: Option<Violation>,
    pub hash: u64,
    pub timeline: String,
    pub counts: Counts,
    pub simulated: Duration,
}

/// Runs one seed. Nothing but the plan decides what happens.
pub fn run(plan: Plan) -> std::io::Result<Run> {
    sim::run(plan.seed, |world| choose_quorums(world, plan))
}

fn told(n: usize, w: usize, r: usize) -> Quorums {
    Quorums { n, w, r }
}

async fn choose_quorums(world: World, plan: Plan) -> Run {
    macro_rules! play {
        ($n:literal, $w:literal, $r:literal, $block:expr, $registers:expr) => {{
            let compiles = Compiles {
                block: $block,
                registers: $registers,
            };
            play::<$n, $w, $r>(world, plan, told($n, $w, $r), compiles).await
        }};
        ($n:literal, $w:literal, $r:literal) => {
            play!($n, $w, $r, None, None)
        };
        // Reads meet writes.
        (meets $n:literal, $w:literal, $r:literal) => {
            play!($n, $w, $r, Some(CoordinatorBuilder::repair_blocking), None)
        };
        // And writes meet each other.
        (registers $n:literal, $w:literal, $r:literal) => {
            play!(
                $n,
                $w,
                $r,
                Some(CoordinatorBuilder::repair_blocking),
                Some(|map: &Coordinator<$n, $w, $r, _>| map.registers_with("", Raw))
            )
        };
    }
    let mut random = world.random();
    match plan.bug {
        Some(Bug::WriteQuorum) => {
            play::<3, 1, 2>(world, plan, told(3, 2, 2), Compiles::default()).await
        }
        Some(Bug::ReadQuorum) => {
            play::<3, 2, 1>(world, plan, told(3, 2, 2), Compiles::default()).await
        }
        // Others are too many, or too few, to be in each other's way.
        Some(bug) if bug.is_of_registers() => play!(registers 3, 2, 2),
        Some(bug) if bug.is_of_tending() => match random.below(4) {
            0..=2 => play!(registers 3, 2, 2),
            _ => play!(registers 5, 3, 3),
        },
        _ => match random.below(16) {
            0..=5 => play!(registers 3, 2, 2),
            6 => play!(meets 3, 1, 3),
            7 => play!(registers 3, 3, 1),
            8 => play!(3, 1, 1),
            9 => play!(3, 2, 1),
            10 => play!(3, 1, 2),
            11 => play!(registers 1, 1, 1),
            12 => play!(registers 5, 4, 2),
            13 => play!(meets 5, 2, 4),
            _ => play!(registers 5, 3, 3),
        },
    }
}

async fn play<const N: usize, const W: usize, const R: usize>(
    world: World,
    mut plan: Plan,
    told: Quorums,
    compiles: Compiles<N, W, R>,
) -> Run {
    plan.mutant |= plan.bug.is_some_and(Bug::is_mutant);
    let mut random = world.random();
    let allowed = Allowed {
        registers: compiles.registers.is_some(),
        losses: N - Built::<N, W, R>::REJOIN_PEERS,
        restored: R - 1,
    };
    let profile = Profile::draw(&mut random, plan, allowed);
    let mut shop = Shop::new(&world, plan, told, profile, &mut random);
    shop.most_losses = allowed.losses;
    shop.most_restored = allowed.restored;
    if matches!(shop.profile.losses, Losses::Known | Losses::Restored) {
        shop.oracle.lock().know_losses();
    }
    let shop = Arc::new(shop);
    let (profile, cluster) = (&shop.profile, &shop.cluster);
    if plan.mutant {
        // Its coordinator has no replica rejoin that crashes before it has noted that the
        // cluster is new.
        let rates = [&shop.store_rates.errors, &shop.store_rates.panics];
        let before = rates.map(|rate| rate.swap(0, Ordering::Relaxed));
        for machine in cluster.machines() {
            let _noted = machine.node().replica().readiness().await;
        }
        for (rate, before) in rates.iter().zip(before) {
            rate.store(before, Ordering::Relaxed);
        }
    }

    for _ in 0..profile.coordinators {
        let settings = draw_settings(&mut random, profile, plan, compiles.block.is_some());
        shop.open::<W, R>(settings, compiles, None);
    }

    // The weather when the day begins.
    let mut calm = profile.storm.clone();
    (calm.crash, calm.blackout) = (0, 0);
    (calm.hang, calm.cut, calm.isolation) = (0, 0, 0);
    for _ in 0..random.below(6 * N as u64) {
        if let Some(event) = calm.strike(cluster, &mut random) {
            shop.tell(event);
        }
    }

    let raging = tokio::spawn({
        let (shop, random) = (Arc::clone(&shop), random.fork());
        async move {
            let tell = |event| shop.tell(event);
            shop.profile.storm.rage(&shop.cluster, random, tell).await;
        }
    });
    let tending = shop.tend(&mut random);
    let working: Vec<_> = (0..profile.clients)
        .map(|number| {
            let shop = Arc::clone(&shop);
            let random = random.fork();
            tokio::spawn(async move { shop.work(number, compiles, random).await })
        })
        .collect();
    for client in working {
        if let Err(panic) = client.await {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
    raging.abort();
    tending.iter().for_each(JoinHandle::abort);
    shop.heal::<W, R>(compiles, &mut random).await;

    let mut oracle = shop.oracle.lock();
    oracle.check_histories();
    oracle.end();
    Run {
        violation: oracle.violation().cloned(),
        hash: oracle.trace.hash(),
        timeline: oracle.trace.timeline(profile.clients + 1, N),
        counts: oracle.counts.clone(),
        simulated: world.elapsed(),
    }
}
