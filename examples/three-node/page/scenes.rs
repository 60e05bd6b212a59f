//! Scenes: what a reader should see, step by step. Each checks what it came to on the
//! nodes.

use std::fmt::Debug;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvquorum_core::Entry;
use serde::Serialize;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::link::Side;
use super::plays;
use super::quorums::{Operation, Outcomes, Quorums, Verdict, shown};
use super::stage::Stage;
use crate::words::Held;

/// How long it may take until nodes hold what they should, beside what messages take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The names of scenes and their titles, in the order to see them.
pub(super) const SCENES: [(&str, &str); 8] = [
    ("experiment", "Write to three, read from two, kill one"),
    ("failed-write", "A write that fails with W = 3"),
    ("repair", "Repair by a read"),
    ("pass", "Convergence without a read"),
    ("rejoin", "A lost disk, and the rejoin"),
    ("clocks", "Clocks ten seconds apart"),
    ("no-overlap", "What R + W ≤ N does not promise"),
    ("race", "An update that races"),
];

/// A scene that is played, or has been.
#[derive(Clone, Serialize)]
pub(super) struct Scene {
    name: &'static str,
    title: &'static str,
    /// What was told until now.
    told: Vec<String>,
    /// Whether it waits for somebody to go on.
    waits: bool,
    plays_on: bool,
    /// What it came to.
    end: Option<End>,
    #[serde(skip)]
    playing: Option<AbortHandle>,
}

#[derive(Clone, Serialize)]
struct End {
    is_as_told: bool,
    says: String,
}

/// What was seen in the end; or what was otherwise than told.
pub(super) type Played = Result<&'static str, String>;

/// Whoever plays a scene.
pub(super) struct Teller(pub(super) Arc<Stage>);

/// In JSON.
pub(super) fn list() -> String {
    serde_json::to_string(&SCENES).unwrap_or_default()
}

/// Begins a scene, in the place of the one that is played.
pub(super) fn begin(stage: &Arc<Stage>, name: &str, plays_on: bool) -> Result<(), String> {
    let found = SCENES.iter().find(|(known, _)| *known == name);
    let (name, title) = *found.ok_or_else(|| format!("there is no scene {name}"))?;
    leave(stage);
    *stage.locked() = Some(Scene {
        name,
        title,
        told: Vec::new(),
        waits: false,
        plays_on,
        end: None,
        playing: None,
    });
    let teller = Teller(Arc::clone(stage));
    let playing = tokio::spawn(async move {
        let played = match teller.0.begin_anew().await {
            Ok(()) => plays::play(&teller, name).await,
            Err(error) => Err(error),
        };
        let is_as_told = played.is_ok();
        let says = played.map_or_else(|error| error, str::to_owned);
        teller.change(|scene| scene.end = Some(End { is_as_told, says }));
    });
    if let Some(scene) = &mut *stage.locked() {
        scene.playing = Some(playing.abort_handle());
    }
    Ok(())
}

/// Ends the scene that is played.
pub(super) fn leave(stage: &Stage) {
    if let Some(playing) = stage.locked().take().and_then(|scene| scene.playing) {
        playing.abort();
    }
}

impl Stage {
    pub(super) fn scene(&self) -> Option<Scene> {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, Option<Scene>> {
        self.scene.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Teller {
    /// Tells what comes next, once what was told before has been read.
    pub(super) async fn say(&self, text: &str) {
        let scene = self.0.scene();
        let plays_on = scene.as_ref().is_some_and(|scene| scene.plays_on);
        if scene.is_some_and(|scene| !scene.told.is_empty()) {
            let travel = Duration::from_millis(self.0.links.pace().travel_ms.into());
            match plays_on {
                true => sleep(travel.saturating_mul(5)).await,
                false => {
                    self.change(|scene| scene.waits = true);
                    self.0.next.notified().await;
                }
            }
        }
        self.change(|scene| {
            scene.waits = false;
            scene.told.push(text.to_owned());
        });
    }

    fn change(&self, change: impl FnOnce(&mut Scene)) {
        if let Some(scene) = &mut *self.0.locked() {
            change(scene);
        }
        self.0.has_changed();
    }

    pub(super) async fn put(&self, by: Side, nwr: [usize; 3], key: &str, value: &str) -> Outcomes {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.operate(by, nwr, Operation::Put { key, value }).await
    }

    pub(super) async fn get(&self, by: Side, nwr: [usize; 3], key: &str) -> Outcomes {
        let key = key.to_owned();
        self.operate(by, nwr, Operation::Get { key }).await
    }

    pub(super) async fn operate(
        &self,
        by: Side,
        [n, w, r]: [usize; 3],
        operation: Operation,
    ) -> Outcomes {
        self.0.operate(by, Quorums { n, w, r }, &operation).await
    }

    /// Waits until the nodes hold this under a key.
    pub(super) async fn holds(&self, key: &str, expected: [&str; 3]) -> Result<(), String> {
        let (began, pace) = (Instant::now(), self.0.links.pace());
        let travel = Duration::from_millis(pace.travel_ms.into());
        let patience = PATIENCE.saturating_add(travel.saturating_mul(6));
        loop {
            let held = self.0.held(key).await.each_ref().map(in_words);
            if held.each_ref().map(String::as_str) == expected {
                return Ok(());
            }
            // Step by step it takes as long as it takes.
            if began.elapsed() > patience && !self.0.links.pace().by_step {
                let [a, b, c] = held;
                return Err(format!("the nodes hold {a}, {b}, {c}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn in_words(held: &Held) -> String {
    match held {
        Held::Entry(Entry {
            value: Some(value), ..
        }) => format!("\"{}\"", shown(value)),
        held => held.value(),
    }
}

impl Outcomes {
    pub(super) fn is(&self, verdict: Verdict) -> Result<(), String> {
        check(&self.says, self.verdict, verdict)
    }

    pub(super) fn reads(&self, value: Option<&str>) -> Result<(), String> {
        self.is(Verdict::Done)?;
        check("the read", self.value.as_deref(), value)
    }
}

pub(super) fn check<A: PartialEq + Debug>(what: &str, found: A, expected: A) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}, and not {expected:?}")),
    }
}
