//! Deletes that are collected, and disks that are put back as they were.

use std::time::Duration;

use kvquorum_core::{CollectError, PassReport, PassSettings, Refusal, ReplicaFailure, Timestamp};
use kvquorum_testing::sim::{Backup, Event, Random};
use tokio::time::{sleep, timeout};

use super::MS;
use super::clients::CALM;
use super::shop::{Client, Shop};
use super::tending::HOURS;
use crate::oracle::Kind;
use crate::spy::on_behalf;

/// How many backups are kept of one replica.
const KEPT: usize = 3;

/// What a round came to: up to when all replicas have collected, and swept.
fn outcome(report: &PassReport) -> Result<Timestamp, String> {
    match &report.collection {
        Some(Ok(collected)) => {
            let mut failures = collected
                .replicas
                .iter()
                .filter_map(|it| it.failure.as_ref());
            match failures.next() {
                None => Ok(collected.upto),
                Some(failure) => Err(failure.to_string()),
            }
        }
        Some(Err(error)) => Err(error.to_string()),
        None => Err("nothing was collected".into()),
    }
}

impl<const N: usize> Shop<N> {
    /// Collects deletes, again and again, by whichever coordinator; some rounds are cut.
    pub(super) async fn collect(&self, mut random: Random) {
        let Some(pause) = self.profile.collecting else {
            return;
        };
        loop {
            sleep(random.between(&(Duration::ZERO..=pause))).await;
            let Some(client) = self.draw_client(&mut random) else {
                continue;
            };
            let lag = random.weigh(&[(6, 0), (3, 1), (3, 50), (2, 2_000), (1, 3_600_000)]);
            let patience = match random.below(4) {
                0 => random.between(&(Duration::ZERO..=MS * 300)),
                _ => HOURS,
            };
            let lag = MS * lag.unwrap_or(0);
            let _told = self.collect_once(&client, lag, patience, &mut random).await;
        }
    }

    async fn collect_once(
        &self,
        client: &Client<N>,
        lag: Duration,
        patience: Duration,
        random: &mut Random,
    ) -> Option<PassReport> {
        let tending = client.map.tending()?;
        let op = self.begin(client, Kind::Collect);
        self.oracle.lock().pass_begins(op, None);
        let settings = PassSettings::default()
            .window(1 + random.below(4))
            .rests(0)
            .hash_key(random.bits().into())
            .collect_lag(lag);
        match timeout(patience, on_behalf(Some(op), tending.collect(settings))).await {
            Ok(report) => {
                let told = outcome(&report);
                let mut oracle = self.oracle.lock();
                oracle.passed(op, &report);
                oracle.collected(op, &told);
                Some(report)
            }
            Err(_) if patience == HOURS => {
                self.oracle.lock().never_ended(op);
                None
            }
            Err(_) => {
                self.oracle.lock().caller_left(op);
                None
            }
        }
    }

    /// All is calm, and all replicas are there: a round collects what was deleted, and
    /// nothing of it is left.
    pub(super) async fn collect_at_last(&self, reader: &Client<N>, random: &mut Random) {
        if self.profile.collecting.is_none() || self.oracle.lock().is_over() {
            return;
        }
        sleep(MS * 5).await;
        let mut millis = self.oracle.lock().slowest_millis();
        let mut told = self
            .collect_once(reader, Duration::ZERO, HOURS, random)
            .await;
        let is_stale = |failure: &ReplicaFailure| {
            matches!(failure, ReplicaFailure::Refused(Refusal::Stale { .. }))
        };
        let has_rejoined = |report: &PassReport| match &report.collection {
            Some(Err(error)) => matches!(error, CollectError::Rejoined),
            Some(Ok(collected)) => {
                let mut replicas = collected.replicas.iter();
                replicas.any(|it| it.failure.as_ref().is_some_and(is_stale))
            }
            None => false,
        };
        if told.as_ref().is_some_and(has_rejoined) {
            // A rejoin that was cut had announced an era, and the round was the first to
            // bring it to all.
            told = self
                .collect_once(reader, Duration::ZERO, HOURS, random)
                .await;
        }
        let has_expired = |report: &PassReport| {
            let collected = report.collection.as_ref().and_then(|it| it.as_ref().ok());
            collected.is_some_and(|it| it.replicas.iter().any(|replica| replica.expired > 0))
        };
        if told.as_ref().is_some_and(has_expired) {
            // What was deleted by this round goes away with the next.
            sleep(MS * 5).await;
            millis = self.oracle.lock().slowest_millis();
            told = self
                .collect_once(reader, Duration::ZERO, HOURS, random)
                .await;
        }
        // What was deleted may be under way to those that no quorum had to wait for.
        sleep(CALM.time_limit).await;
        let told = told.map(|report| outcome(&report));
        let mut oracle = self.oracle.lock();
        match told {
            Some(Ok(upto)) => {
                oracle.check_swept(upto);
                oracle.check_expired(millis);
            }
            told => oracle.broken("a round collects when all is calm", || {
                format!("nothing was collected, or not by all: {told:?}")
            }),
        }
        oracle.check_converged();
    }

    /// Takes backups of some replicas, and puts their disks back as they were then.
    pub(super) async fn restore(&self, mut random: Random) {
        let first = random.below(N as u64) as usize;
        let mut backups: Vec<(usize, Backup)> = Vec::new();
        loop {
            sleep(random.between(&(Duration::ZERO..=self.profile.restoring))).await;
            let node = (first + random.below(self.most_restored as u64) as usize) % N;
            let Some(machine) = self.cluster.machines().get(node) else {
                continue;
            };
            if random.percent(50) {
                // Of one that is joining it would be none.
                if self.oracle.lock().is_joining(node) {
                    continue;
                }
                let of_node = |(of, _): &(usize, Backup)| *of == node;
                if backups.iter().filter(|it| of_node(it)).count() >= KEPT
                    && let Some(place) = backups.iter().position(of_node)
                {
                    backups.remove(place);
                }
                backups.push((node, machine.disk().backup()));
                continue;
            }
            let of_node: Vec<&Backup> = backups
                .iter()
                .filter_map(|(of, backup)| (*of == node).then_some(backup))
                .collect();
            let Some(backup) = random.pick(&of_node) else {
                continue;
            };
            machine.restore(backup);
            self.tell(Event::Restored { node });
            if random.percent(50) {
                sleep(random.between(&(Duration::ZERO..=MS * 100))).await;
            }
            if !machine.node().is_up() {
                machine.node().restart();
                self.tell(Event::Restarted { node });
            }
        }
    }
}
