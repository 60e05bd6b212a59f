//! What is not promised: that puts and gets are linearizable.
//!
//! Here a checker by Wing and Gong's method looks for an order of the
//! operations in which one register would answer the same. It is given small
//! histories of one key, in a world without faults, in which messages only take
//! their time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kvquorum_core::{Bytes, Coordinator};
use kvquorum_mem::sim::{self, World};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::register::{RegisterOperation, RegisterSpecification};
use tokio::time::sleep;

const MS: Duration = Duration::from_millis(1);

type Operation = RegisterOperation<u64>;

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
    let actions = sim::run(seed, |world| history(world, setting))?;
    let history = History::from_actions(actions);
    Ok(WGLChecker::<RegisterSpecification<u64>>::is_linearizable(
        history,
    ))
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

async fn history(world: World, setting: Setting) -> Vec<(usize, Action<Operation>)> {
    let cluster = world.cluster::<3>();
    let actions = Arc::new(Mutex::new(Vec::new()));
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
            let actions = Arc::clone(&actions);
            tokio::spawn(async move {
                let note = |action| {
                    let mut actions = actions.lock().unwrap_or_else(PoisonError::into_inner);
                    actions.push((client, action));
                };
                for number in 1..=8 {
                    sleep(random.between(&(Duration::ZERO..=MS * 10))).await;
                    if client < setting.writers {
                        let value = client as u64 * 100 + number;
                        note(Action::Call(Operation::Write(value)));
                        let value_bytes = Bytes::copy_from_slice(&value.to_be_bytes());
                        // Nothing fails here; a put that did would have to be
                        // taken for one that takes effect at any later time.
                        let result = map.put("key", value_bytes).await;
                        assert!(result.is_ok(), "{result:?}");
                        note(Action::Response(Operation::Write(value)));
                    } else {
                        note(Action::Call(Operation::Read(None)));
                        let result = map.get("key").await;
                        assert!(result.is_ok(), "{result:?}");
                        let found = result.ok().flatten();
                        let found = found.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
                        let value = found.map_or(0, u64::from_be_bytes);
                        note(Action::Response(Operation::Read(Some(value))));
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
    let mut actions = actions.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *actions)
}
