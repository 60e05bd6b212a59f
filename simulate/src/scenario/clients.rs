//! What the clients of a world do, and how its day ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kvquorum_core::{Bytes, Entry, Request, Timestamp, Transport, Version, WallClock, WriterId};
use kvquorum_testing::sim::Random;
use tokio::time::{sleep, timeout};

use super::shop::{Block, Client, Shop};
use super::{MAX_DRIFT, MS};
use crate::oracle::{Kind, Settings, Shared, key};
use crate::planted::Bug;
use crate::spy::on_behalf;

impl<const N: usize> Shop<N> {
    pub(super) async fn work<const W: usize, const R: usize>(
        &self,
        number: usize,
        block: Block<N, W, R>,
        mut random: Random,
    ) {
        let profile = &self.profile;
        let place = number % profile.coordinators;
        let most = self.plan.operations.unwrap_or(u64::MAX);
        loop {
            sleep(random.between(&(Duration::ZERO..=profile.pause))).await;
            if self.oracle.lock().is_over() {
                return;
            }
            let begun = self.begun.fetch_add(1, Ordering::Relaxed);
            if begun >= profile.operations.min(most) {
                return;
            }
            let kind = random.weigh(&[
                (profile.foreign, Kind::Foreign),
                (profile.deletes, Kind::Delete),
                (profile.gets, Kind::Get),
                (40, Kind::Put),
            ]);
            let key = random.below(profile.keys as u64) as usize;
            let kind = kind.unwrap_or(Kind::Get);
            // Of planted bugs it is to be seen that each is caught without this.
            if self.plan.bug.is_none() && random.percent(profile.restarts) {
                self.restart(place, block, &mut random);
            }
            let Some(client) = self.client(place) else {
                return;
            };
            let op = self.oracle.lock().begin(number, client.number, kind, key);
            if kind == Kind::Foreign {
                self.write_past(&client, op, key, &mut random).await;
            } else {
                self.operate(&client, op, kind, key, &mut random).await;
            }
        }
    }

    async fn operate(
        &self,
        client: &Client<N>,
        op: usize,
        kind: Kind,
        index: usize,
        random: &mut Random,
    ) {
        let leaves = random.percent(self.profile.leaving);
        let limit = client.settings.time_limit;
        let hours = Duration::from_secs(3600);
        let patience = if leaves {
            random.between(&(Duration::ZERO..=limit))
        } else {
            hours
        };
        let map = &client.map;
        let left = |oracle: &Shared| {
            let mut oracle = oracle.lock();
            if leaves {
                oracle.caller_left(op);
            } else {
                oracle.never_ended(op);
            }
        };
        if kind == Kind::Get {
            let reading = on_behalf(Some(op), map.read(key(index)));
            match timeout(patience, reading).await {
                Ok(read) => self.oracle.lock().read(op, &read),
                Err(_) => left(&self.oracle),
            }
            return;
        }
        let value = (kind == Kind::Put).then(|| value(op));
        let writing = on_behalf(Some(op), map.write(key(index), value));
        match timeout(patience, writing).await {
            Ok((written, settling)) => {
                self.oracle.lock().wrote(op, &written);
                if random.percent(self.profile.settling) {
                    match timeout(hours, settling).await {
                        Ok(written) => self.oracle.lock().settled(op, &written),
                        Err(_) => self.oracle.lock().never_ended(op),
                    }
                }
            }
            Err(_) => left(&self.oracle),
        }
    }

    /// A write that brings its own timestamp, as those of the plain HTTP face
    /// do: coarse enough for two to meet, at the end of a millisecond, or at
    /// the bound on drift.
    async fn write_past(&self, client: &Client<N>, op: usize, index: usize, random: &mut Random) {
        let now = client.clock.now_millis();
        let millis = match random.below(6) {
            // Little else shows it.
            _ if self.plan.bug == Some(Bug::EarlierForgotten) => now + 60_000,
            _ if self.plan.bug == Some(Bug::FollowsSeen) => {
                let drift = client.settings.max_drift.as_millis() as u64;
                now + drift + random.below(30)
            }
            0 | 1 => now / 1_000 * 1_000,
            2 | 3 => now,
            4 => now + 59_990 + random.below(20),
            _ => now.saturating_sub(random.below(100)),
        };
        let counter = random.pick(&[0, 0, u16::MAX, 1]).copied().unwrap_or(0);
        let timestamp = Timestamp::new(millis, counter).unwrap_or(Timestamp::MIN);
        let version = Version {
            timestamp,
            writer: WriterId::ANONYMOUS,
        };
        let entry = Entry::new(version, value(op));
        let limit = client.settings.time_limit;
        let sending = client.spied.clone().map(|link| {
            let (key, entry) = (key(index), entry.clone());
            tokio::spawn(on_behalf(Some(op), async move {
                // Nobody is promised anything.
                drop(timeout(limit, link.call(&Request::write(key, entry))).await);
            }))
        });
        for sent in sending {
            drop(sent.await);
        }
        self.oracle.lock().foreign_ended(op);
    }

    /// All faults end; and after a read of each key all replicas agree.
    pub(super) async fn heal<const W: usize, const R: usize>(&self, block: Block<N, W, R>) {
        self.cluster.calm();
        self.store_rates.errors.store(0, Ordering::Relaxed);
        self.store_rates.panics.store(0, Ordering::Relaxed);
        // What was delivered twice may be ten seconds late, and in the hands of
        // a link with three seconds of latency.
        sleep(Duration::from_secs(20)).await;
        for client in self.clients().iter() {
            let stats = client.map.stats();
            self.oracle.lock().check_quiet(client.number, &stats);
        }
        if self.oracle.lock().is_over() {
            return;
        }
        let settings = Settings {
            time_limit: MS * 2_000,
            attempts: 3,
            background: 256,
            repairs: true,
            blocking: false,
            max_drift: MAX_DRIFT,
        };
        let reader = self.open::<W, R>(settings, block, None);
        {
            // No entry is from the future any more.
            let mut oracle = self.oracle.lock();
            let latest = oracle.latest_millis();
            for (index, clock) in self.cluster.world().clocks().iter().enumerate() {
                clock.set(latest);
                oracle.clock_stepped(index);
            }
        }
        // Where no answer is there at once, a read asks all replicas together.
        for link in &reader.links {
            link.set_latency(MS..=MS * 3);
        }
        for index in (0..self.profile.keys).chain(0..self.profile.keys) {
            let number = self.profile.clients;
            let op = self
                .oracle
                .lock()
                .begin(number, reader.number, Kind::Get, index);
            let reading = on_behalf(Some(op), reader.map.read(key(index)));
            match timeout(MS * 60_000, reading).await {
                Ok(read) => self.oracle.lock().read(op, &read),
                Err(_) => self.oracle.lock().never_ended(op),
            }
            sleep(MS * 20).await;
        }
        self.oracle.lock().check_converged();
    }
}

/// A value of the operation's own. Bits are reversed, so that the order of
/// values is not that of operations.
fn value(op: usize) -> Bytes {
    Bytes::copy_from_slice(&(op as u64).reverse_bits().to_be_bytes())
}
