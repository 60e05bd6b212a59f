//! What a seed's world and its clients are like.

use std::time::Duration;

use kvquorum_core::Limits;
use kvquorum_testing::sim::{Random, Storm};

use super::{MAX_DRIFT, MS, Plan};
use crate::oracle::Settings;
use crate::planted::{self, Bug};

/// What a key is used as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Plain,
    Register,
    /// A register beside plain puts, gets and deletes.
    Mixed,
}

/// What the quorums of a seed allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    /// Registers compile.
    pub(super) registers: bool,
    /// So many replicas may lose their data at once.
    pub(super) losses: usize,
    /// So many replicas may be given back old data, ever.
    pub(super) restored: usize,
}

/// What becomes of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Losses {
    None,
    /// Replicas lose all they hold, know of it, and rejoin; and never more of them at a
    /// time than the promises allow.
    Known,
    /// Any number of replicas loses all, or the tail of it, which they do not know of.
    Unknown,
    /// Some are given back what a backup holds. Beside that, only what is promised of
    /// collected deletes is.
    Restored,
}

impl Losses {
    /// Whether replicas do not know of them.
    pub(super) fn are_unknown(self) -> bool {
        matches!(self, Self::Unknown | Self::Restored)
    }
}

/// Which faults a world has, and what its clients are like: each seed has its
/// own mix, so that rare combinations come up as well as the storm of all.
pub(super) struct Profile {
    pub(super) storm: Storm,
    pub(super) losses: Losses,
    /// How long it is between two losses, two rejoins and two passes, at the most.
    pub(super) losing: Duration,
    pub(super) rejoining: Duration,
    pub(super) passing: Option<Duration>,
    /// How long it is between two rounds of collection, and two things that are done
    /// with backups, at the most.
    pub(super) collecting: Option<Duration>,
    pub(super) restoring: Duration,
    /// Whether replicas that know of it lose their data beside those that are given back
    /// old ones.
    pub(super) loses_beside: bool,
    /// In percent: how often a backup is taken of a replica that would lose its data, and how
    /// often one that has lost them is filled from it.
    pub(super) fills: u32,
    /// Whether coordinators keep hints.
    pub(super) hints: bool,
    /// Whether replicas are told that the cluster is new, and need not find out.
    pub(super) is_told_new: bool,
    /// How many replicas in a hundred keep their records by a conditional write.
    conditional: u32,
    /// How many in a hundred admit smaller pages than they are asked for.
    small_pages: u32,
    /// What each key is used as.
    pub(super) roles: Vec<Role>,
    pub(super) scans: u32,
    pub(super) coordinators: usize,
    pub(super) clients: usize,
    pub(super) operations: u64,
    pub(super) pause: Duration,
    pub(super) foreign: u32,
    pub(super) deletes: u32,
    /// How many puts in a hundred are of values that expire, and in what time, mostly.
    expiring: u32,
    ttl: Duration,
    pub(super) gets: u32,
    pub(super) leaving: u32,
    pub(super) settling: u32,
    pub(super) restarts: u32,
    pub(super) store_errors: u32,
    pub(super) store_panics: u32,
    pub(super) store_waits: u32,
    pub(super) store_dawdles: u32,
    pub(super) drift: Duration,
}

impl Profile {
    /// The mix of a seed; with registers, where they compile.
    pub(super) fn draw(random: &mut Random, plan: Plan, with: Allowed) -> Self {
        let (bug, with_registers) = (plan.bug, with.registers);
        let mut storm = draw_storm(random);
        storm.pause = Duration::ZERO..=pick(random, &[20, 100, 500, 2_000]);
        storm.max_latency = pick(random, &[5, 50, 400, 3_000]);
        let conditional = random.pick(&[0, 0, 0, 0, 0, 0, 0, 0, 40, 100]).copied();
        let conditional = conditional.filter(|_| bug.is_none()).unwrap_or(0);
        let is_collected = Self::is_collected(random, plan);
        let losses = draw_losses(random, plan, with, is_collected, conditional > 0);
        if losses != Losses::Unknown {
            storm.synced_survives = 0;
            storm.nothing_survives = 0;
        }
        let of = |random: &mut Random, of: &[u32]| random.pick(of).copied().unwrap_or(0);
        let is_about_them = bug.is_some_and(Bug::is_of_registers);
        let uses_registers = with_registers && (is_about_them || random.percent(60));
        let mut profile = Self {
            storm,
            losses,
            losing: pick(random, &[100, 500, 2_000]),
            rejoining: pick(random, &[10, 50, 300]),
            passing: match of(random, &[0, 0, 50, 500]) {
                0 => None,
                most => Some(MS * most),
            },
            // What is void is settled by updates alone.
            collecting: match of(random, &[20, 100, 1_000]) {
                most if is_collected && (with.registers || !losses.are_unknown()) => {
                    Some(MS * most)
                }
                _ => None,
            },
            restoring: pick(random, &[50, 200, 1_000]),
            loses_beside: random.percent(40) || bug.is_some_and(Bug::is_of_rejoins),
            // Other bugs are to be caught without this.
            fills: match bug {
                Some(Bug::RejoinKeepsDead) => 50,
                Some(_) => 0,
                None => of(random, &[0, 0, 50]),
            },
            hints: random.percent(40),
            is_told_new: plan.mutant
                || bug.is_some_and(|bug| !bug.is_of_tending())
                || random.percent(60),
            conditional,
            small_pages: of(random, &[0, 0, 50]),
            roles: draw_roles(random, uses_registers),
            scans: of(random, &[0, 5, 15]),
            coordinators: 1 + random.below(3) as usize,
            clients: 1 + random.below(5) as usize,
            operations: 50 + random.below(31),
            pause: pick(random, &[0, 5, 50, 500]),
            foreign: of(random, &[0, 0, 5, 15]),
            deletes: of(random, &[0, 10, 25]),
            // Other bugs are to be caught without this.
            expiring: match bug {
                Some(bug) if bug.is_of_expiry() => 50,
                Some(_) => 0,
                None => of(random, &[0, 0, 30, 80]),
            },
            ttl: MS,
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
            store_dawdles: of(random, &[0, 0, 20]),
            drift: pick(random, &[1_000, 30_000, 30_000, 60_000, 100_000_000]),
        };
        profile.press(random, plan, with_registers);
        if let Some(bug) = bug {
            profile.suit(bug);
        }
        profile
    }

    /// Has what is rare be usual, in some worlds.
    fn press(&mut self, random: &mut Random, plan: Plan, with_registers: bool) {
        let is_about = |is: fn(Bug) -> bool| plan.bug.is_some_and(is);
        let is_about_registers = is_about(Bug::is_of_registers);
        if with_registers && (is_about_registers || random.percent(20)) {
            self.contend(random);
        }
        let is_about_expiry = is_about(Bug::is_of_expiry);
        let is_about_deletes = is_about_expiry || is_about(Bug::is_of_collection);
        if self.collecting.is_some() && (is_about_deletes || random.percent(30)) {
            self.delete_often(random, with_registers, is_about_registers);
        }
        if self.expiring > 0 {
            self.ttl = pick(random, &[20, 300, 3_000, 70_000]);
            if is_about_expiry || random.percent(30) {
                self.expire_often(random);
                if with_registers && !plan.mutant {
                    self.collecting.get_or_insert(MS * 20);
                }
            }
        }
    }

    /// What a planted bug takes to show.
    fn suit(&mut self, bug: Bug) {
        match bug.kind() {
            planted::Kind::Pass => {
                self.passing.get_or_insert(MS * 50);
            }
            planted::Kind::Hint => self.hints = true,
            _ => {}
        }
        match bug {
            // A crash between the two phases of an update.
            Bug::PromiseNotDurable => {
                (self.storm.crash, self.storm.restart) = (24, 48);
                self.pause = MS * 5;
                self.storm.max_latency = MS * 50;
            }
            // A delete that falls between what is levelled and the seal.
            Bug::LevelledFirst => {
                self.pause = MS * 5;
                self.hasten();
            }
            // Nothing else writes two entries of one version.
            Bug::ValuesLeftOut => self.foreign = 40,
            // A delete that falls into a round between its seal and its mark,
            Bug::PutsIgnoreSeal | Bug::AcceptsIgnoreSeal => {
                self.deletes = 150;
                self.pause = MS * 5;
                self.hasten();
            }
            // a delete between a backup and the loss of the disk that is filled from it,
            Bug::RejoinKeepsDead => {
                self.storm.crash = 0;
                self.losing = MS * 100;
                self.rejoining = MS * 10;
                self.deletes = 150;
                self.pause = MS * 50;
                self.hasten();
            }
            // or a backup that is put back there.
            Bug::CollectIgnoresBoot => {
                self.storm.crash = 0;
                self.pause = MS * 50;
                self.restoring = MS * 20;
                self.hasten();
            }
            _ => {}
        }
    }

    /// Has one round of collection follow the other at once, and clocks agree.
    fn hasten(&mut self) {
        self.collecting = Some(MS * 5);
        self.storm.max_skew = MS * 2;
        self.storm.max_latency = MS * 50;
    }

    /// Has few keys be written and deleted again and again, by clocks that differ a little,
    /// while one round of collection follows the other: so that what is written often
    /// falls between the seal, the pass and the mark of a round.
    fn delete_often(
        &mut self,
        random: &mut Random,
        with_registers: bool,
        is_about_registers: bool,
    ) {
        let roles = match is_about_registers {
            true => &[Role::Mixed, Role::Register][..],
            false => &[Role::Plain, Role::Plain, Role::Mixed, Role::Register],
        };
        let role = random.pick(roles).copied().filter(|_| with_registers);
        let role = role.unwrap_or(Role::Plain);
        self.roles = self.roles.iter().take(2).map(|_| role).collect();
        (self.coordinators, self.clients) = (3, 5);
        self.pause = pick(random, &[5, 20, 100]);
        self.collecting = Some(pick(random, &[5, 20, 100]));
        self.restoring = pick(random, &[5, 20, 50]);
        self.deletes = 40;
        self.drift = MAX_DRIFT;
        let storm = &mut self.storm;
        storm.pause = Duration::ZERO..=pick(random, &[5, 20]);
        storm.max_latency = pick(random, &[10, 50, 200]);
        (storm.latency, storm.duplication) = (12, 4);
        (storm.isolation, storm.hang, storm.blackout) = (0, 0, 0);
        (storm.clock_step, storm.max_skew) = (6, pick(random, &[2, 20, 200]));
        (storm.crash, storm.restart) = (random.pick(&[0, 2, 8]).copied().unwrap_or(0), 24);
    }

    /// Has values expire while they are read, repaired, brought to others and deleted; also
    /// those of registers.
    fn expire_often(&mut self, random: &mut Random) {
        self.ttl = pick(random, &[5, 50, 200]);
        (self.gets, self.deletes) = (20, 5);
        self.hints = true;
        self.passing = Some(MS * 50);
        let registers = self.roles.iter_mut().filter(|it| **it == Role::Register);
        registers.for_each(|role| *role = Role::Mixed);
        self.roles.truncate(2);
        if random.percent(50) {
            // Once a clock is far behind the others, nothing is deleted for long.
            self.storm.max_skew = MS * 200;
        }
    }

    /// Whether deletes are collected. Other bugs are to be caught without that, and the
    /// coordinator of `mutant` does not do it.
    fn is_collected(random: &mut Random, plan: Plan) -> bool {
        let drawn = random.percent(50);
        match plan.bug {
            Some(bug) => bug.is_of_collection() || bug.kind() == planted::Kind::Expiry,
            None => drawn && !plan.mutant,
        }
    }

    /// Has all be after one register at the same time, over links of which some are fast
    /// and some are slow, to nodes that come and go: so that an operation often falls
    /// between the two phases of another.
    fn contend(&mut self, random: &mut Random) {
        let role = [Role::Register, Role::Register, Role::Mixed];
        let role = random.pick(&role).copied().unwrap_or(Role::Register);
        self.roles = vec![role];
        (self.coordinators, self.clients) = (3, 5);
        self.pause = pick(random, &[0, 5, 20]);
        let storm = &mut self.storm;
        storm.pause = Duration::ZERO..=pick(random, &[5, 20]);
        storm.max_latency = pick(random, &[50, 400]);
        storm.latency = 12;
        (storm.isolation, storm.hang, storm.blackout) = (0, 0, 0);
        (storm.crash, storm.restart) = (random.pick(&[0, 4, 12]).copied().unwrap_or(0), 24);
        self.scans /= 4;
    }

    /// For how long what is put is there, unless that is for ever: mostly for less than a
    /// run takes, and for less than clocks differ.
    pub(super) fn draw_ttl(&self, random: &mut Random) -> Option<Duration> {
        if self.expiring == 0 || !random.percent(self.expiring) {
            return None;
        }
        Some(match random.below(16) {
            0 => Duration::ZERO,
            1 => Duration::from_secs(3_600),
            2 => Duration::MAX,
            _ => random.between(&(Duration::ZERO..=self.ttl)),
        })
    }

    /// Whether a replica keeps its records by a conditional write.
    pub(super) fn is_conditional(&self, random: &mut Random) -> bool {
        random.percent(self.conditional)
    }

    pub(super) fn has_small_pages(&self) -> bool {
        self.small_pages > 0
    }

    /// What a replica admits. They need not be alike.
    pub(super) fn limits(&self, random: &mut Random) -> Limits {
        let limits = Limits::default().max_drift(MAX_DRIFT);
        if random.percent(self.small_pages) {
            let keys = 1 + random.below(3) as usize;
            limits.max_scan_keys(keys).max_hashed_keys(keys)
        } else {
            limits
        }
    }
}

/// So many milliseconds of these.
fn pick(random: &mut Random, millis: &[u64]) -> Duration {
    random.pick(millis).map_or(MS, |millis| MS * *millis as u32)
}

/// What becomes of data, beside collections, and where some replicas keep their records by
/// a conditional write.
fn draw_losses(
    random: &mut Random,
    plan: Plan,
    with: Allowed,
    is_collected: bool,
    is_conditional: bool,
) -> Losses {
    let bug = plan.bug;
    let may_restore = is_collected && with.registers && with.restored > 0;
    match random.below(10) {
        // The coordinator of `mutant` has no replica rejoin.
        _ if plan.mutant => Losses::None,
        // A store that is not the disk does not lose what the disk does.
        _ if bug.is_some_and(|bug| bug.kind() == planted::Kind::Era) => Losses::Known,
        _ if bug == Some(Bug::RejoinKeepsDead) && with.losses > 0 => Losses::Known,
        _ if bug.is_some_and(Bug::is_store) || is_conditional => Losses::None,
        _ if may_restore && bug.is_some_and(Bug::is_of_backups) => Losses::Restored,
        0..=4 if with.losses > 0 => Losses::Known,
        7 | 8 if may_restore => Losses::Restored,
        5 | 6 => Losses::Unknown,
        _ => Losses::None,
    }
}

/// Which faults there are.
fn draw_storm(random: &mut Random) -> Storm {
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
    storm
}

/// What each of one to four keys is used as.
fn draw_roles(random: &mut Random, with_registers: bool) -> Vec<Role> {
    if !with_registers {
        return vec![Role::Plain; 1 + random.below(4) as usize];
    }
    let roles = [Role::Register, Role::Register, Role::Mixed, Role::Plain];
    let keys = random.pick(&[1, 1, 2, 4]).copied().unwrap_or(1);
    let role = |_| random.pick(&roles).copied().unwrap_or(Role::Register);
    (0..keys).map(role).collect()
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
        page: random.pick(&[1, 2, 3, 100]).copied().unwrap_or(1),
        ballots: random.pick(&[1, 3, 10, 100]).copied().unwrap_or(1),
        patience: MS * random.pick(&[200, 1_000, 10_000]).copied().unwrap_or(1),
    }
}
