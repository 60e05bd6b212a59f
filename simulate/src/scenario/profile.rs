//! What a seed's world and its clients are like.

use std::time::Duration;

use kvquorum_testing::sim::{Random, Storm};

use super::{MS, Plan};
use crate::oracle::Settings;
use crate::planted::Bug;

/// Which faults a world has, and what its clients are like: each seed has its
/// own mix, so that rare combinations come up as well as the storm of all.
pub(super) struct Profile {
    pub(super) storm: Storm,
    /// Whether it is a conditional write that keeps the records.
    pub(super) is_conditional: bool,
    pub(super) keys: usize,
    pub(super) coordinators: usize,
    pub(super) clients: usize,
    pub(super) operations: u64,
    pub(super) pause: Duration,
    pub(super) foreign: u32,
    pub(super) deletes: u32,
    pub(super) gets: u32,
    pub(super) leaving: u32,
    pub(super) settling: u32,
    pub(super) restarts: u32,
    pub(super) store_errors: u32,
    pub(super) store_panics: u32,
    pub(super) store_waits: u32,
    pub(super) drift: Duration,
}

impl Profile {
    pub(super) fn draw(random: &mut Random, bug: Option<Bug>) -> Self {
        let mut storm = Storm::default();
        for weight in [
            &mut storm.latency,
            &mut storm.loss,
            &mut storm.duplication,
            &mut storm.cut,
            &mut storm.isolation,
            &mut storm.hang,
            &mut storm.crash,
            &mut storm.blackout,
            &mut storm.clock_step,
            &mut storm.clock_rate,
        ] {
            if random.percent(35) {
                *weight = 0;
            }
        }
        match random.below(4) {
            0 => {
                // It is nodes that fail, and often.
                (storm.loss, storm.cut, storm.isolation, storm.hang) = (0, 0, 0, 0);
                for weight in [&mut storm.crash, &mut storm.blackout, &mut storm.restart] {
                    *weight *= 5;
                }
            }
            1 => (storm.crash, storm.blackout) = (0, 0),
            _ => {}
        }
        let pick = |random: &mut Random, millis: &[u64]| {
            random.pick(millis).map_or(MS, |millis| MS * *millis as u32)
        };
        storm.pause = Duration::ZERO..=pick(random, &[20, 100, 500, 2_000]);
        storm.max_latency = pick(random, &[5, 50, 400, 3_000]);
        let is_conditional = bug.is_none() && random.percent(10);
        // A store that is not the disk does not lose what the disk does.
        if random.percent(60) || bug.is_some_and(Bug::is_store) || is_conditional {
            storm.synced_survives = 0;
            storm.nothing_survives = 0;
        }
        let of = |random: &mut Random, of: &[u32]| random.pick(of).copied().unwrap_or(0);
        Self {
            storm,
            is_conditional,
            keys: 1 + random.below(4) as usize,
            coordinators: 1 + random.below(3) as usize,
            clients: 1 + random.below(5) as usize,
            operations: 50 + random.below(31),
            pause: pick(random, &[0, 5, 50, 500]),
            foreign: of(random, &[0, 0, 5, 15]),
            deletes: of(random, &[0, 10, 25]),
            gets: of(random, &[20, 40, 60]),
            leaving: of(random, &[0, 0, 10, 40]),
            settling: of(random, &[0, 25, 60]),
            restarts: of(random, &[0, 0, 3, 10]),
            // What else is planted is to be caught without this.
            store_errors: match bug {
                None | Some(Bug::FailureIsRefusal) => of(random, &[0, 0, 2, 15]),
                Some(_) => 0,
            },
            store_panics: match bug {
                None | Some(Bug::PanicsPass | Bug::PanicsUncounted) => of(random, &[0, 0, 1, 5]),
                Some(_) => 0,
            },
            store_waits: of(random, &[0, 0, 20]),
            drift: pick(random, &[1_000, 30_000, 30_000, 60_000, 100_000_000]),
        }
    }
}

pub(super) fn draw_settings(
    random: &mut Random,
    profile: &Profile,
    plan: Plan,
    blocking: bool,
) -> Settings {
    let limits = [50, 200, 2_000].map(|millis| MS * millis);
    let mode = random.below(if blocking { 5 } else { 3 });
    let background = random.pick(&[256, 256, 256, 0, 1, 4]).copied();
    let repairs_always = plan.bug == Some(Bug::NoRepair);
    Settings {
        time_limit: random.pick(&limits).copied().unwrap_or(MS),
        attempts: 1 + random.below(4) as u32,
        // What is planted, or mutated, is to be told from what is given up.
        background: match background {
            Some(bound) if plan.bug.is_none() && !plan.mutant => bound,
            _ if plan.bug == Some(Bug::NoBound) => 1,
            _ => 256,
        },
        repairs: mode > 0 || repairs_always,
        blocking: mode > 2,
        max_drift: profile.drift,
    }
}
