//! What goes wrong, and when.

use std::ops::RangeInclusive;
use std::time::Duration;

use kvquorum_core::Store;
use tokio::time::sleep;

use super::{Cluster, Event, Random, Survives};

const MS: Duration = Duration::from_millis(1);

/// What a storm does to a [`Cluster`], and how often.
///
/// The weights say how likely each kind of fault is beside the others; with
/// weight 0 it never happens. Start from the default and change what your test
/// is about:
///
/// ```
/// use kvquorum_testing::sim::Storm;
///
/// let mut no_data_lost = Storm::default();
/// no_data_lost.synced_survives = 0;
/// no_data_lost.nothing_survives = 0;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Storm {
    /// How long it is quiet between two events.
    pub pause: RangeInclusive<Duration>,

    /// Weight: a link gets another latency, up to `max_latency` each way.
    pub latency: u32,
    /// The longest latency. Most are much shorter; messages overtake each
    /// other where a link's latency spreads.
    pub max_latency: Duration,
    /// Weight: a link starts to lose requests and responses, or stops.
    pub loss: u32,
    /// How many messages in a hundred a lossy link loses at the most, each way.
    pub max_loss_percent: u32,
    /// Weight: a link starts to deliver requests twice, or stops.
    pub duplication: u32,
    /// Weight: one way of a link is cut, or both.
    pub cut: u32,
    /// Weight: a node is cut off from all of its clients.
    pub isolation: u32,
    /// Weight: a link hangs, and holds what it carries.
    pub hang: u32,
    /// Weight: cuts and hangs end, on one link or on all links of a node.
    pub reconnect: u32,

    /// Weight: a node crashes.
    pub crash: u32,
    /// Weight: all nodes crash at once, as when the power fails.
    pub blackout: u32,
    /// Weight: a node that is down is started again.
    pub restart: u32,
    /// Weight: a node's disk is synced.
    pub sync: u32,
    /// Weight: a crash leaves all data.
    pub all_survives: u32,
    /// Weight: a crash leaves the data that were synced.
    pub synced_survives: u32,
    /// Weight: a crash leaves nothing.
    pub nothing_survives: u32,

    /// Weight: a wall clock, of a node or of a client, is set wrong or right.
    pub clock_step: u32,
    /// How far a wall clock may be set wrong, in either direction.
    pub max_skew: Duration,
    /// Weight: a wall clock runs at another rate, from none to the double.
    pub clock_rate: u32,
}

impl Default for Storm {
    fn default() -> Self {
        Self {
            pause: Duration::ZERO..=MS.saturating_mul(500),
            latency: 4,
            max_latency: MS.saturating_mul(400),
            loss: 2,
            max_loss_percent: 40,
            duplication: 2,
            cut: 3,
            isolation: 1,
            hang: 2,
            reconnect: 6,
            crash: 2,
            blackout: 1,
            restart: 6,
            sync: 3,
            all_survives: 6,
            synced_survives: 2,
            nothing_survives: 1,
            clock_step: 3,
            max_skew: Duration::from_secs(24 * 60 * 60),
            clock_rate: 1,
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Latency,
    Loss,
    Duplication,
    Cut,
    Isolation,
    Hang,
    Reconnect,
    Crash,
    Blackout,
    Restart,
    Sync,
    ClockStep,
    ClockRate,
}

impl Storm {
    /// Rages for ever, and tells of each event right after it. Run it beside
    /// the test's own work, and drop it when that is done.
    pub async fn rage<const N: usize, S: Store>(
        &self,
        cluster: &Cluster<N, S>,
        mut random: Random,
        mut tell: impl FnMut(Event),
    ) {
        loop {
            sleep(random.between(&self.pause)).await;
            if let Some(event) = self.strike(cluster, &mut random) {
                tell(event);
            }
        }
    }

    /// One event; `None` where what was drawn has nothing to happen to.
    pub fn strike<const N: usize, S: Store>(
        &self,
        cluster: &Cluster<N, S>,
        random: &mut Random,
    ) -> Option<Event> {
        let kind = random.weigh(&[
            (self.latency, Kind::Latency),
            (self.loss, Kind::Loss),
            (self.duplication, Kind::Duplication),
            (self.cut, Kind::Cut),
            (self.isolation, Kind::Isolation),
            (self.hang, Kind::Hang),
            (self.reconnect, Kind::Reconnect),
            (self.crash, Kind::Crash),
            (self.blackout, Kind::Blackout),
            (self.restart, Kind::Restart),
            (self.sync, Kind::Sync),
            (self.clock_step, Kind::ClockStep),
            (self.clock_rate, Kind::ClockRate),
        ])?;
        match kind {
            Kind::Crash | Kind::Restart | Kind::Sync => self.strike_node(kind, cluster, random),
            Kind::Blackout => {
                let survives = self.draw_survival(random)?;
                for machine in cluster.machines() {
                    machine.crash(survives);
                }
                Some(Event::Blackout { survives })
            }
            Kind::Isolation => {
                let node = pick_index(N, random)?;
                cluster.links_to(node, |link| link.cut());
                Some(Event::Isolated { node })
            }
            Kind::Reconnect if random.percent(50) => {
                let node = pick_index(N, random)?;
                cluster.links_to(node, |link| link.reconnect());
                Some(Event::Rejoined { node })
            }
            Kind::ClockStep | Kind::ClockRate => self.strike_clock(kind, cluster, random),
            _ => self.strike_link(kind, cluster, random),
        }
    }

    fn strike_link<const N: usize, S: Store>(
        &self,
        kind: Kind,
        cluster: &Cluster<N, S>,
        random: &mut Random,
    ) -> Option<Event> {
        let client = pick_index(cluster.clients(), random)?;
        let node = pick_index(N, random)?;
        let at = (client, node);
        let link = cluster.link(client, node)?;
        let event = match kind {
            Kind::Latency => {
                let range = self.draw_latency(random);
                link.set_latency(range.0..=range.1);
                Event::Latency { link: at, range }
            }
            Kind::Loss => {
                let (requests, responses) = (self.draw_loss(random), self.draw_loss(random));
                link.lose_requests(f64::from(requests) / 100.0);
                link.lose_responses(f64::from(responses) / 100.0);
                Event::Loss {
                    link: at,
                    requests,
                    responses,
                }
            }
            Kind::Duplication => {
                let (percent, most) = draw_duplication(random);
                link.duplicate(f64::from(percent) / 100.0, Duration::ZERO..=most);
                Event::Duplication { link: at, percent }
            }
            Kind::Cut => {
                let (requests, responses) = draw_cut(random);
                if requests {
                    link.cut_requests();
                }
                if responses {
                    link.cut_responses();
                }
                Event::Cut {
                    link: at,
                    requests,
                    responses,
                }
            }
            Kind::Hang => {
                link.hang();
                Event::Hung { link: at }
            }
            _ => {
                link.reconnect();
                Event::Reconnected { link: at }
            }
        };
        Some(event)
    }

    /// In per cent.
    fn draw_loss(&self, random: &mut Random) -> u32 {
        if random.percent(40) {
            return 0;
        }
        let bound = u64::from(self.max_loss_percent).saturating_add(1);
        u32::try_from(random.below(bound)).unwrap_or(self.max_loss_percent)
    }

    /// Most latencies are short, a few take as long as a time limit; one in
    /// four links answers at once.
    fn draw_latency(&self, random: &mut Random) -> (Duration, Duration) {
        let percent = match random.below(8) {
            0 | 1 => 0,
            2..=4 => 1,
            5 | 6 => 10,
            _ => 100,
        };
        let longest = self.max_latency.saturating_mul(percent).checked_div(100);
        let longest = longest.unwrap_or_default();
        let least = random.between(&(Duration::ZERO..=longest));
        (least, random.between(&(least..=longest)))
    }

    fn strike_node<const N: usize, S: Store>(
        &self,
        kind: Kind,
        cluster: &Cluster<N, S>,
        random: &mut Random,
    ) -> Option<Event> {
        let index = pick_index(N, random)?;
        let machine = cluster.machines().get(index)?;
        let up = machine.node().is_up();
        match kind {
            Kind::Crash if up => {
                let survives = self.draw_survival(random)?;
                machine.crash(survives);
                Some(Event::Crashed {
                    node: index,
                    survives,
                })
            }
            Kind::Restart if !up => {
                machine.node().restart();
                Some(Event::Restarted { node: index })
            }
            Kind::Sync if up => {
                machine.disk().sync();
                Some(Event::Synced { node: index })
            }
            _ => None,
        }
    }

    fn draw_survival(&self, random: &mut Random) -> Option<Survives> {
        random.weigh(&[
            (self.all_survives, Survives::All),
            (self.synced_survives, Survives::Synced),
            (self.nothing_survives, Survives::Nothing),
        ])
    }

    fn strike_clock<const N: usize, S: Store>(
        &self,
        kind: Kind,
        cluster: &Cluster<N, S>,
        random: &mut Random,
    ) -> Option<Event> {
        let clocks = cluster.world().clocks();
        let index = pick_index(clocks.len(), random)?;
        let clock = clocks.get(index)?;
        if let Kind::ClockRate = kind {
            let per_million =
                random.weigh(&[(2, 1_000_000), (1, 0), (1, 500_000), (1, 2_000_000)])?;
            clock.set_rate(per_million);
            return Some(Event::ClockRate {
                clock: index,
                per_million,
            });
        }
        clock.skew(self.draw_skew(random));
        Some(Event::ClockSet {
            clock: index,
            skew_millis: clock.skew_millis(),
        })
    }

    /// Right, a little off, a minute off (where bounds on drift lie), or by as
    /// much as there is.
    fn draw_skew(&self, random: &mut Random) -> i64 {
        let most = u64::try_from(self.max_skew.as_millis()).unwrap_or(u64::MAX);
        let most = match random.below(8) {
            0..=2 => 0,
            3 | 4 => most.min(500),
            5 | 6 => most.min(70_000),
            _ => most,
        };
        let size = random.below(most.saturating_add(1)).cast_signed();
        if random.percent(50) {
            size
        } else {
            size.saturating_neg()
        }
    }
}

/// How many of a hundred messages come twice, and how late at the most.
fn draw_duplication(random: &mut Random) -> (u32, Duration) {
    let percent = if random.percent(50) { 50 } else { 0 };
    let most = if random.percent(70) {
        MS.saturating_mul(100)
    } else {
        Duration::from_secs(10)
    };
    (percent, most)
}

/// Whether requests are cut, and whether responses are.
fn draw_cut(random: &mut Random) -> (bool, bool) {
    match random.below(3) {
        0 => (true, true),
        1 => (true, false),
        _ => (false, true),
    }
}

fn pick_index(of: usize, random: &mut Random) -> Option<usize> {
    let index = usize::try_from(random.below(of as u64)).ok()?;
    (index < of).then_some(index)
}
