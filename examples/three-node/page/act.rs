//! What is done on the page.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep_until};

use super::link::{Faults, Pace, Side};
use super::nodes::ToNode;
use super::quorums::{Operation, Quorums};
use super::scenes;
use super::stage::{MAX_OPERATIONS, Stage};

/// The greatest that can be asked for.
const MAX_MILLIS: u16 = 10_000;
const MAX_TEXT: usize = 200;
const MAX_PER_SECOND: u16 = 200;

/// What is done on the page.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Act {
    Operate {
        by: Side,
        quorums: Quorums,
        #[serde(flatten)]
        operation: Operation,
    },
    /// To a node, counted from 0.
    Node {
        node: usize,
        what: ToNode,
    },
    Link {
        node: usize,
        faults: Faults,
    },
    Heal,
    Clock {
        side: Side,
        ahead_ms: i64,
    },
    Pace(Pace),
    Step,
    Pass,
    Rejoin {
        node: usize,
    },
    Scene {
        name: String,
        plays_on: bool,
    },
    Next,
    Leave,
    /// Operations one after the other, so many a second; 0 ends it.
    Load {
        per_second: u16,
    },
}

impl Stage {
    /// Does it, or says why not. An operation goes on afterwards.
    pub(super) async fn act(self: &Arc<Self>, act: Act) -> Result<(), String> {
        let done = self.do_it(act).await;
        self.has_changed();
        done
    }

    async fn do_it(self: &Arc<Self>, act: Act) -> Result<(), String> {
        match act {
            Act::Operate {
                by,
                quorums,
                operation,
            } => self.begin(by, quorums, operation),
            Act::Node { node, what } => self.to_node(node, what).await,
            Act::Link { node, faults } if node < 3 => {
                let delay_ms = faults.delay_ms.min(MAX_MILLIS);
                let lose_percent = faults.lose_percent.min(100);
                self.links.set_faults(
                    node,
                    Faults {
                        delay_ms,
                        lose_percent,
                        ..faults
                    },
                );
                Ok(())
            }
            Act::Link { .. } => Err("there is no such node".to_owned()),
            Act::Heal => {
                self.links.heal();
                Ok(())
            }
            Act::Clock { side, ahead_ms } => {
                self.set_clock(side, ahead_ms);
                Ok(())
            }
            Act::Pace(pace) => {
                let travel_ms = pace.travel_ms.min(MAX_MILLIS);
                self.links.set_pace(Pace { travel_ms, ..pace });
                // They wait for as long as it takes.
                self.make_anew();
                Ok(())
            }
            Act::Step => {
                self.links.step();
                Ok(())
            }
            Act::Pass => self.in_background(|stage| async move {
                let _ = stage.pass().await;
            }),
            Act::Rejoin { node } if node < 3 => self.in_background(move |stage| async move {
                let _ = stage.rejoin(node).await;
            }),
            Act::Rejoin { .. } => Err("there is no such node".to_owned()),
            Act::Scene { name, plays_on } => scenes::begin(self, &name, plays_on),
            Act::Next => {
                self.next.notify_one();
                Ok(())
            }
            Act::Leave => {
                scenes::leave(self);
                Ok(())
            }
            Act::Load { per_second } => self.set_load(per_second.min(MAX_PER_SECOND)),
        }
    }

    fn in_background<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<(), String> {
        let place = Arc::clone(&self.operations).try_acquire_owned();
        let place = place.map_err(|_| format!("{MAX_OPERATIONS} operations are under way"))?;
        let work = work(Arc::clone(self));
        tokio::spawn(async move {
            work.await;
            drop(place);
        });
        Ok(())
    }

    fn begin(
        self: &Arc<Self>,
        by: Side,
        quorums: Quorums,
        mut operation: Operation,
    ) -> Result<(), String> {
        if operation.key().is_empty() {
            return Err("the key is empty".to_owned());
        }
        let texts = match &mut operation {
            Operation::Put { key, value } => vec![key, value],
            Operation::Get { key } | Operation::Delete { key } | Operation::Increment { key } => {
                vec![key]
            }
        };
        if texts.iter().any(|text| text.len() > MAX_TEXT) {
            return Err(format!("a key or value has more than {MAX_TEXT} bytes"));
        }
        self.in_background(move |stage| async move {
            stage.operate(by, quorums, &operation).await;
        })
    }

    fn set_load(self: &Arc<Self>, per_second: u16) -> Result<(), String> {
        let before = self.load.swap(per_second.into(), Ordering::Relaxed);
        if before > 0 || per_second == 0 {
            return Ok(());
        }
        let stage = Arc::clone(self);
        tokio::spawn(async move {
            let quorums = Quorums { n: 3, w: 2, r: 2 };
            let mut due = Instant::now();
            for turn in 0_u64.. {
                let Some(pause) = 1_000_000_u64.checked_div(stage.per_second()) else {
                    break;
                };
                let (key, value) = (format!("load {}", turn / 2 % 4), turn.to_string());
                let operation = match turn % 2 {
                    0 => Operation::Put { key, value },
                    _ => Operation::Get { key },
                };
                // Where there are too many under way, it is left out.
                let _ = stage.begin(Side::A, quorums, operation);
                // What is late is not made up for later than in a second.
                let least = Instant::now().checked_sub(Duration::from_secs(1));
                due = due.max(least.unwrap_or(due)) + Duration::from_micros(pause);
                sleep_until(due).await;
            }
        });
        Ok(())
    }
}
