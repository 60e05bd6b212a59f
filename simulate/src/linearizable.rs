//! What is not promised: that puts and gets are linearizable.
//!
//! The checker of `kvquorum_testing` looks for an order of the operations in which
//! one register would answer the same. It is given small histories of one key, in
//! a world without faults, in which messages only take their time.

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{Bytes, Coordinator};
use kvquorum_testing::linearizability::{History, Step};
use kvquorum_testing::sim::{self, World};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);
const KEY: &str = "key";

/// What a history is made by.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Whether reads repair before they return.
    pub blocking: bool,
    /// How many of the three clients put; the others get.
    pub writers: usize,
    /// Whether one writer's clock is behind.
    pub skewed: bool,
}

impl Setting {
    pub const ALL: &[(&str, Self)] = &[
        (
            "repair in the background",
            Self {
                blocking: false,
                writers: 1,
                skewed: false,
            },
        ),
        (
            "blocking repair, two writers, one of whose clocks is behind",
            Self {
                blocking: true,
                writers: 2,
                skewed: true,
            },
        ),
        (
            "blocking repair, one writer",
            Self {
                blocking: true,
                writers: 1,
                skewed: false,
            },
        ),
    ];
}

/// Whether the history of this seed is linearizable.
pub fn is_linearizable(seed: u64, setting: Setting) -> std::io::Result<bool> {
    let history = sim::run(seed, |world| history(world, setting))?;
    Ok(history.check().is_ok())
}

/// The first seed whose history is not linearizable.
pub fn counterexample(setting: Setting, seeds: u64) -> std::io::Result<Option<u64>> {
    for seed in 0..seeds {
        if !is_linearizable(seed, setting)? {
            return Ok(Some(seed));
        }
    }
    Ok(None)
}

async fn history(world: World, setting: Setting) -> Arc<History<&'static str, u64>> {
    let cluster = world.cluster::<3>();
    let history = Arc::new(History::new());
    let clients: Vec<_> = (0..3)
        .map(|client| {
            let links = cluster.links();
            let mut random = world.random();
            for link in &links {
                // Some links are fast and some are slow.
                let longest = if random.percent(50) { MS * 5 } else { MS * 100 };
                link.set_latency(MS..=longest);
            }
            let clock = world.clock();
            if setting.skewed && client == 0 {
                clock.skew(-1_000);
            }
            let builder = Coordinator::<3, 2, 2, _>::builder(links)
                .writer(world.writer())
                .wall_clock(clock);
            let map = if setting.blocking {
                builder.repair_blocking().build()
            } else {
                builder.build()
            };
            let history = Arc::clone(&history);
            tokio::spawn(async move {
                for number in 1..=8 {
                    sleep(random.between(&(Duration::ZERO..=MS * 10))).await;
                    if client < setting.writers {
                        let value = client as u64 * 100 + number;
                        let step = Step::Write(Some(value));
                        let call = history.call(KEY, step.clone());
                        let value = Bytes::copy_from_slice(&value.to_be_bytes());
                        let result = map.put(KEY, value).await;
                        // Nothing fails here.
                        assert!(result.is_ok(), "{result:?}");
                        history.returned(call, step);
                    } else {
                        let call = history.call(KEY, Step::Read(None));
                        let result = map.get(KEY).await;
                        assert!(result.is_ok(), "{result:?}");
                        let found = result.ok().flatten();
                        let found = found.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
                        let value = found.map(u64::from_be_bytes);
                        history.returned(call, Step::Read(value));
                    }
                }
            })
        })
        .collect();
    for client in clients {
        if let Err(panic) = client.await {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
    history
}
