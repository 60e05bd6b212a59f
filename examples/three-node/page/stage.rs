//! Three nodes, their links, two coordinators with a clock each, and what is done
//! with them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvquorum_core::{Coordinator, PassSettings, SystemClock, Version, WallClock, WithCauses};
use serde::Serialize;
use tokio::sync::{Mutex as Lock, Notify, Semaphore};
use tokio::time::sleep;

use super::events::Events;
use super::link::{Link, Links, Side};
use super::nodes::{Nodes, ToNode};
use super::quorums::{
    Making, Operation, Outcomes, Quorum, Quorums, Verdict, complaint, coordinator, make,
};
use super::scenes::Scene;
use super::view::{self, State};
use crate::cluster::Cluster;
use crate::words::Held;

/// How long a coordinator waits for an answer, beside what messages take.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// How long it waits where messages go on step by step.
const BY_STEP_LIMIT: Duration = Duration::from_secs(3600);

/// How often nodes are asked what they hold; a tenth of it after something was done.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How many operations may be under way.
pub(super) const MAX_OPERATIONS: usize = 256;

/// Of how many keys it is known what was acknowledged last.
const MAX_KEYS: usize = 256;

/// How far apart clocks can be set: a day.
const MAX_AHEAD: i64 = 24 * 60 * 60 * 1000;

/// An operation that has ended, for the time line.
#[derive(Serialize)]
struct Line<'a> {
    id: u64,
    at_millis: u64,
    by: Side,
    what: &'a str,
    quorums: Option<Quorums>,
    verdict: Verdict,
    says: &'a str,
    /// What was not seen that had been acknowledged.
    unseen: Option<&'a str>,
    took_ms: u128,
}

/// The greatest write that was acknowledged under a key.
#[derive(Clone, Copy)]
struct Acked {
    version: Version,
    quorums: Quorums,
}

#[derive(Default)]
struct Coordinators {
    /// How many times they were made anew.
    times: u64,
    made: HashMap<(Side, Quorums), Arc<dyn Quorum>>,
}

pub(super) struct Stage {
    pub(super) events: Arc<Events>,
    pub(super) links: Arc<Links>,
    pub(super) nodes: Lock<Nodes>,
    clocks: [Arc<AtomicI64>; 2],
    coordinators: Mutex<Coordinators>,
    acked: Mutex<HashMap<String, Acked>>,
    pub(super) scene: Mutex<Option<Scene>>,
    pub(super) next: Notify,
    pub(super) load: AtomicU64,
    changed: Notify,
    pub(super) operations: Arc<Semaphore>,
    lines: AtomicU64,
}

impl Stage {
    pub(super) fn new(cluster: Cluster, links: Arc<Links>) -> Arc<Self> {
        Arc::new(Self {
            events: Arc::clone(&links.events),
            links,
            nodes: Lock::new(Nodes::new(cluster)),
            clocks: Default::default(),
            coordinators: Mutex::default(),
            acked: Mutex::default(),
            scene: Mutex::default(),
            next: Notify::new(),
            load: AtomicU64::new(0),
            changed: Notify::new(),
            operations: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            lines: AtomicU64::new(0),
        })
    }

    /// Looks at the nodes, and tells what has changed, for as long as it is polled.
    pub(super) async fn watch(self: Arc<Self>) {
        loop {
            let state: State = view::look(&self).await;
            self.events.tell_state(&state);
            sleep(LOOK_EVERY / 10).await;
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    pub(super) fn has_changed(&self) {
        self.changed.notify_one();
    }

    pub(super) fn ahead_ms(&self) -> [i64; 2] {
        let clocks = self.clocks.each_ref();
        clocks.map(|clock| clock.load(Ordering::Relaxed))
    }

    pub(super) fn per_second(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn set_clock(&self, side: Side, ahead_ms: i64) {
        let [a, b] = &self.clocks;
        let clock = match side {
            Side::A => a,
            Side::B => b,
        };
        clock.store(ahead_ms.clamp(-MAX_AHEAD, MAX_AHEAD), Ordering::Relaxed);
    }

    /// One operation, to its end.
    pub(super) async fn operate(
        &self,
        by: Side,
        quorums: Quorums,
        operation: &Operation,
    ) -> Outcomes {
        let began = Instant::now();
        let before = self.acked().get(operation.key()).copied();
        let outcomes = match complaint(quorums, operation) {
            Some(complaint) => Outcomes::not_compiled(complaint),
            None => match self.coordinator(by, quorums) {
                Some(coordinator) => coordinator.operate(operation).await,
                None => Outcomes::not_compiled("kvquorum: the page has nodes for N up to 3"),
            },
        };
        let mut unseen = None;
        if outcomes.verdict == Verdict::Done {
            match operation {
                Operation::Get { .. } => {
                    unseen = before.and_then(|it| it.unseen(&outcomes, quorums))
                }
                _ => self.acknowledged(operation.key(), outcomes.version, quorums),
            }
        }
        let line = (&*operation.in_words(), Some(quorums), unseen.as_deref());
        self.add_line(by, line, (outcomes.verdict, &outcomes.says), began);
        outcomes
    }

    fn add_line(
        &self,
        by: Side,
        (what, quorums, unseen): (&str, Option<Quorums>, Option<&str>),
        (verdict, says): (Verdict, &str),
        began: Instant,
    ) {
        self.events.add_line(&Line {
            id: self.lines.fetch_add(1, Ordering::Relaxed),
            at_millis: SystemClock.now_millis(),
            by,
            what,
            quorums,
            verdict,
            says,
            unseen,
            took_ms: began.elapsed().as_millis(),
        });
        self.has_changed();
    }

    fn acknowledged(&self, key: &str, version: Option<Version>, quorums: Quorums) {
        let Some(version) = version else { return };
        let mut acked = self.acked();
        if acked.len() >= MAX_KEYS && !acked.contains_key(key) {
            acked.clear();
        }
        let new = Acked { version, quorums };
        let known = acked.entry(key.to_owned()).or_insert(new);
        if known.version < version {
            *known = new;
        }
    }

    fn acked(&self) -> MutexGuard<'_, HashMap<String, Acked>> {
        self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A coordinator, which is kept.
    fn coordinator(&self, side: Side, quorums: Quorums) -> Option<Arc<dyn Quorum>> {
        let mut all = self
            .coordinators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = all.made.get(&(side, quorums)) {
            return Some(Arc::clone(made));
        }
        let making = self.making(side, quorums, all.times);
        let made = coordinator(&making, quorums)?;
        all.made.insert((side, quorums), Arc::clone(&made));
        Some(made)
    }

    fn making(&self, side: Side, Quorums { n, w, r }: Quorums, times: u64) -> Making {
        let [a, b] = &self.clocks;
        let (letter, ahead) = match side {
            Side::A => (0xa, a),
            Side::B => (0xb, b),
        };
        // In hexadecimal it reads as a322: coordinator A with 3/2/2.
        let [n, w, r] = [n, w, r].map(|number| number as u64);
        let writer = letter << 12 | n << 8 | w << 4 | r;
        let pace = self.links.pace();
        let travel = Duration::from_millis(pace.travel_ms.into());
        Making {
            links: Arc::clone(&self.links),
            side,
            ahead: Arc::clone(ahead),
            writer: times << 16 | writer,
            time_limit: match pace.by_step {
                true => BY_STEP_LIMIT,
                false => TIME_LIMIT.saturating_add(travel.saturating_mul(2)),
            },
        }
    }

    /// From now on there are other coordinators.
    pub(super) fn make_anew(&self) {
        let mut all = self
            .coordinators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.times = all.times.wrapping_add(1) & 0xffff_ffff;
        all.made.clear();
    }

    /// A coordinator that compares and copies, of 3/2/2.
    fn keeper(&self) -> Coordinator<3, 2, 2, Link> {
        let mut all = self
            .coordinators
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.times = all.times.wrapping_add(1) & 0xffff_ffff;
        make(&self.making(Side::A, Quorums { n: 3, w: 2, r: 2 }, all.times))
    }

    /// Compares all that the nodes hold. Returns how many entries each lacked.
    pub(super) async fn pass(&self) -> Option<[u64; 3]> {
        let began = Instant::now();
        let report = self.keeper().pass(.., PassSettings::default()).run().await;
        let mut says = format!(
            "{} keys compared, {} differed",
            report.progress.keys, report.progress.differing
        );
        for (node, replica) in (1..).zip(&report.replicas) {
            says.push_str(&match &replica.failure {
                Some(failure) => format!("\nnode {node}: {}", WithCauses(failure)),
                None => format!("\nnode {node}: {} repaired", replica.repaired),
            });
        }
        let verdict = match report.is_complete() {
            true => Verdict::Done,
            false => Verdict::Failed,
        };
        self.add_line(Side::A, ("pass(..)", None, None), (verdict, &says), began);
        let repaired: Vec<u64> = report.replicas.iter().map(|it| it.repaired).collect();
        repaired.try_into().ok().filter(|_| report.is_complete())
    }

    /// Has a node copy what the others hold. Returns how many keys it copied.
    pub(super) async fn rejoin(&self, node: usize) -> Result<u64, String> {
        let began = Instant::now();
        let done = self.keeper().rejoin(node).run().await;
        let (verdict, says) = match &done {
            Ok(done) => (Verdict::Done, format!("{} keys were copied", done.copied)),
            Err(error) => (Verdict::Failed, WithCauses(error).to_string()),
        };
        let what = format!("rejoin(node {})", node.saturating_add(1));
        self.add_line(Side::A, (&what, None, None), (verdict, &says), began);
        done.map(|done| done.copied).map_err(|_| says)
    }

    pub(super) async fn to_node(&self, node: usize, what: ToNode) -> Result<(), String> {
        let done = self.nodes.lock().await.change(node, what).await;
        self.has_changed();
        done
    }

    /// Three nodes with nothing in them, links that work, and clocks that are right.
    pub(super) async fn begin_anew(&self) -> Result<(), String> {
        self.links.heal();
        for side in [Side::A, Side::B] {
            self.set_clock(side, 0);
        }
        self.load.store(0, Ordering::Relaxed);
        let started = self.nodes.lock().await.begin_anew().await;
        self.make_anew();
        self.acked().clear();
        self.has_changed();
        started
    }

    /// What each node holds under a key, asked of it alone.
    pub(super) async fn held(&self, key: &str) -> [Held; 3] {
        self.nodes.lock().await.cluster.held(key).await
    }
}

impl Acked {
    /// What to say of a read that began after this was acknowledged, and does not see it.
    fn unseen(&self, read: &Outcomes, quorums: Quorums) -> Option<String> {
        if read.version >= Some(self.version) {
            return None;
        }
        let (w, r, n) = (self.quorums.w, quorums.r, self.quorums.n.max(quorums.n));
        let version = self.version;
        Some(match r.saturating_add(w) > n {
            true => format!("A promise is broken: {version} was acknowledged, and is not seen."),
            false => format!(
                "{version} was acknowledged, and is not seen. R + W = {r} + {w} is not more \
                 than N = {n}, and so it is not promised."
            ),
        })
    }
}
