//! Replicas that lose their data, and what brings them what they lack: rejoins, passes
//! and hints.

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{HintSettings, KeyRange, PassCursor, PassSettings, Readiness};
use kvquorum_testing::sim::{Backup, Event, Random, Survives};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::MS;
use super::profile::Losses;
use super::shop::{Client, Shop};
use crate::oracle::{Kind, key};
use crate::planted::Bug;
use crate::spy::on_behalf;

/// No rejoin and no pass takes as long.
pub(super) const HOURS: Duration = Duration::from_secs(3600);

/// How many times it may take for a replica to rejoin when all is calm.
const FEW: usize = 5;

/// A pass that was cut, and where.
type Cut = Option<(usize, PassCursor)>;

impl<const N: usize> Shop<N> {
    /// Whether coordinators are kvquorum's own.
    fn is_tended(&self) -> bool {
        !self.plan.mutant
    }

    /// Tends replicas for ever, in tasks of its own.
    pub(super) fn tend(self: &Arc<Self>, random: &mut Random) -> Vec<JoinHandle<()>> {
        let mut tasks = Vec::new();
        if !self.is_tended() {
            return tasks;
        }
        let is_beside = self.profile.losses == Losses::Restored && self.profile.loses_beside;
        if self.profile.losses == Losses::Known || is_beside && self.most_losses > 0 {
            let (shop, random) = (Arc::clone(self), random.fork());
            tasks.push(tokio::spawn(async move { shop.lose(random).await }));
        }
        if self.profile.losses == Losses::Restored {
            let (shop, random) = (Arc::clone(self), random.fork());
            tasks.push(tokio::spawn(async move { shop.restore(random).await }));
        }
        // Two at once do no harm.
        for _ in 0..2 {
            let (shop, drawn) = (Arc::clone(self), random.fork());
            tasks.push(tokio::spawn(async move { shop.collect(drawn).await }));
            let (shop, drawn) = (Arc::clone(self), random.fork());
            tasks.push(tokio::spawn(async move { shop.rejoin(drawn).await }));
            let (shop, drawn) = (Arc::clone(self), random.fork());
            tasks.push(tokio::spawn(async move { shop.pass(drawn).await }));
        }
        tasks
    }

    /// Has replicas lose their data, and never more of them than others can make up for.
    async fn lose(&self, mut random: Random) {
        let fills = self.profile.fills;
        let mut backups: [Option<Backup>; N] = [const { None }; N];
        loop {
            sleep(random.between(&(Duration::ZERO..=self.profile.losing))).await;
            let node = random.below(N as u64) as usize;
            let others = {
                let oracle = self.oracle.lock();
                oracle.joining().filter(|other| *other != node).count()
            };
            let Some(machine) = self.cluster.machines().get(node) else {
                continue;
            };
            if others >= self.most_losses {
                continue;
            }
            if fills > 0 && random.percent(fills) {
                if !self.oracle.lock().is_joining(node) {
                    backups[node] = Some(machine.disk().backup().of_data());
                }
                continue;
            }
            machine.crash(Survives::Nothing);
            self.stores[node].lost();
            self.tell(Event::Crashed {
                node,
                survives: Survives::Nothing,
            });
            if let Some(backup) = &backups[node]
                && random.percent(fills)
            {
                machine.disk().restore(backup);
                self.oracle.lock().filled(node);
            }
            if random.percent(50) {
                sleep(random.between(&(Duration::ZERO..=MS * 100))).await;
            }
            if !machine.node().is_up() {
                machine.node().restart();
                self.tell(Event::Restarted { node });
            }
        }
    }

    /// Has replicas rejoin, by whichever coordinator, and gives up now and then half-way.
    async fn rejoin(&self, mut random: Random) {
        loop {
            sleep(random.between(&(Duration::ZERO..=self.profile.rejoining))).await;
            let joining: Vec<usize> = self.oracle.lock().joining().collect();
            let any = random.below(N as u64) as usize;
            let place = match random.pick(&joining) {
                Some(place) if random.percent(95) => *place,
                None if random.percent(90) => continue,
                _ => any,
            };
            let Some(client) = self.draw_client(&mut random) else {
                continue;
            };
            let accepts = self.profile.losses == Losses::Unknown && random.percent(50);
            let patience = if random.percent(30) {
                random.between(&(Duration::ZERO..=MS * 300))
            } else {
                HOURS
            };
            self.rejoin_once(&client, place, accepts, patience).await;
        }
    }

    pub(super) async fn rejoin_once(
        &self,
        client: &Client<N>,
        place: usize,
        accepts: bool,
        patience: Duration,
    ) -> bool {
        let Some(tending) = client.map.tending() else {
            return false;
        };
        let op = self.begin(client, Kind::Rejoin);
        let rejoining = on_behalf(Some(op), tending.rejoin(place, accepts));
        match timeout(patience, rejoining).await {
            Ok(told) => {
                let is_done = told.is_ok();
                self.oracle.lock().rejoined(op, place, told);
                is_done
            }
            Err(_) if patience == HOURS => {
                self.oracle.lock().never_ended(op);
                false
            }
            Err(_) => {
                self.oracle.lock().caller_left(op);
                false
            }
        }
    }

    pub(super) fn begin(&self, client: &Client<N>, kind: Kind) -> usize {
        let number = self.profile.clients;
        self.oracle.lock().begin(number, client.number, kind, 0)
    }

    pub(super) fn draw_client(&self, random: &mut Random) -> Option<Arc<Client<N>>> {
        let place = random.below(self.profile.coordinators as u64) as usize;
        self.client(place)
    }

    /// Passes over all keys, again and again; some are cut, and gone on with.
    async fn pass(&self, mut random: Random) {
        let Some(pause) = self.profile.passing else {
            return;
        };
        let mut cut: Cut = None;
        loop {
            sleep(random.between(&(Duration::ZERO..=pause))).await;
            let Some(client) = self.draw_client(&mut random) else {
                continue;
            };
            let steps = random.pick(&[1, 2, u64::MAX, u64::MAX]).copied();
            cut = self
                .pass_once(&client, cut.take(), steps.unwrap_or(1), &mut random)
                .await;
        }
    }

    /// So many steps of a pass; what is left of it, if it is cut.
    async fn pass_once(
        &self,
        client: &Client<N>,
        before: Cut,
        steps: u64,
        random: &mut Random,
    ) -> Cut {
        let tending = client.map.tending()?;
        let mut before = before;
        if let (Some(Bug::ResumeSkips), Some((_, cursor))) = (self.plan.bug, &mut before) {
            *cursor = skipping(cursor).unwrap_or_else(|| cursor.clone());
        }
        let op = self.begin(client, Kind::Pass);
        let begun_by = before.as_ref().map(|(op, _)| *op);
        self.oracle.lock().pass_begins(op, begun_by);
        let settings = PassSettings::default()
            .window(1 + random.below(4))
            .rests(0)
            .hash_key(random.bits().into());
        let mut pass = tending.pass(before.map(|(_, cursor)| cursor), settings);
        for _ in 0..steps {
            match timeout(HOURS, on_behalf(Some(op), pass.step())).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    self.oracle.lock().never_ended(op);
                    return None;
                }
            }
        }
        let cursor = pass.cursor();
        self.oracle.lock().passed(op, &pass.report());
        cursor.map(|cursor| (op, cursor))
    }

    /// Has a coordinator keep hints and deliver them, until the world ends.
    pub(super) fn keep_hints(&self, client: &Client<N>) {
        let Some(tending) = client.map.tending().filter(|_| self.profile.hints) else {
            return;
        };
        let op = self.begin(client, Kind::Handoff);
        let settings = HintSettings::default()
            .first_pause(MS * 50)
            .longest_pause(MS * 2_000);
        tokio::spawn(on_behalf(Some(op), tending.deliver(settings)));
    }

    /// All has been calm for a while: replicas that lost their data rejoin within a few
    /// attempts, and hints are delivered.
    pub(super) async fn recover(&self, reader: &Client<N>) {
        if !self.is_tended() {
            return;
        }
        for _ in 0..FEW {
            let joining = self.not_ready().await;
            // A new cluster that was opened in part: more have lost nothing than may lose
            // something.
            let accepts =
                self.profile.losses == Losses::Unknown || joining.len() > self.most_losses;
            for place in joining {
                self.rejoin_once(reader, place, accepts, HOURS).await;
            }
        }
        let joining = self.not_ready().await;
        if !joining.is_empty() {
            self.oracle
                .lock()
                .broken("a replica rejoins when all is calm", || {
                    format!("{joining:?} are still joining after {FEW} attempts")
                });
        }
        if !self.profile.hints {
            return;
        }
        sleep(Duration::from_secs(10)).await;
        if self.profile.losses.are_unknown() {
            return;
        }
        for client in self.clients().iter() {
            if let Some(tending) = client.map.tending() {
                let hints = tending.hints();
                self.oracle.lock().check_hints(client.number, &hints);
            }
        }
    }

    /// Which replicas do not answer requests, as they say themselves.
    async fn not_ready(&self) -> Vec<usize> {
        let mut places = Vec::new();
        for (place, machine) in self.cluster.machines().iter().enumerate() {
            let readiness = machine.node().replica().readiness().await;
            if !matches!(readiness, Ok(Readiness::Ready)) {
                places.push(place);
            }
        }
        places
    }

    /// One pass by which all replicas come to hold the same.
    pub(super) async fn pass_at_last(&self, reader: &Client<N>, random: &mut Random) {
        let before = self.oracle.lock().counts.clone();
        let _none_is_left = self.pass_once(reader, None, u64::MAX, random).await;
        // What settles a key goes to all replicas, and is done when enough have it.
        sleep(MS * 20).await;
        let after = self.oracle.lock().counts.clone();
        if after.passes == before.passes {
            self.oracle.lock().broken("P-HONEST", || {
                "a pass is not complete when all is calm".into()
            });
        }
        // And the next one finds nothing to do.
        let _none_is_left = self.pass_once(reader, None, u64::MAX, random).await;
        let mut oracle = self.oracle.lock();
        if oracle.counts.repaired > after.repaired || oracle.counts.passes == after.passes {
            oracle.broken("P-CONVERGE", || "one pass after the other repairs".into());
        }
    }
}

/// A cursor that begins after the first key that is left.
fn skipping(cursor: &PassCursor) -> Option<PassCursor> {
    let kept = postcard::to_allocvec(cursor).ok()?;
    let (rest, replicas) = postcard::take_from_bytes::<KeyRange>(&kept).ok()?;
    let first = (0..9).find(|index| rest.contains(&key(*index)))?;
    let end = KeyRange::from(key(first + 1)..);
    let mut skipping = postcard::to_allocvec(&end.intersection(&rest)).ok()?;
    skipping.extend_from_slice(replicas);
    postcard::from_bytes(&skipping).ok()
}
