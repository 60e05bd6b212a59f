//! What the clients of a world do, and how its day ends.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvquorum_core::{
    Bytes, Entry, Key, KeyRange, Request, Timestamp, Transport, Version, WallClock, WriterId,
};
use kvquorum_testing::sim::Random;
use tokio::time::{sleep, timeout};

use super::profile::Role;
use super::shop::{Client, Compiles, Shop};
use super::{MAX_DRIFT, MS};
use crate::map::{Ask, Put};
use crate::oracle::{Kind, Scanned, Settings, key};
use crate::planted::Bug;
use crate::spy::on_behalf;

/// No operation takes as long.
const HOURS: Duration = Duration::from_secs(3600);

/// How the coordinator is set that looks at what a storm has left.
pub(super) const CALM: Settings = Settings {
    time_limit: Duration::from_secs(2),
    attempts: 3,
    background: 256,
    repairs: true,
    blocking: false,
    max_drift: MAX_DRIFT,
    page: 100,
    ballots: 5,
    patience: Duration::from_secs(10),
};

/// A scan, and how much of it is read.
struct Reading {
    range: KeyRange,
    by_entry: bool,
    pages: u64,
}

impl<const N: usize> Shop<N> {
    pub(super) async fn work<const W: usize, const R: usize>(
        &self,
        number: usize,
        compiles: Compiles<N, W, R>,
        mut random: Random,
    ) {
        let profile = &self.profile;
        let place = number % profile.coordinators;
        let most = self.plan.operations.unwrap_or(u64::MAX);
        // What a scan has left, for the next one, by whichever coordinator.
        let mut left = None;
        loop {
            sleep(random.between(&(Duration::ZERO..=profile.pause))).await;
            if self.oracle.lock().is_over() {
                return;
            }
            let begun = self.begun.fetch_add(1, Ordering::Relaxed);
            if begun >= profile.operations.min(most) {
                return;
            }
            let index = random.below(profile.roles.len() as u64) as usize;
            let kind = self.choose(index, &mut random);
            // Of planted bugs it is to be seen that each is caught without this.
            if self.plan.bug.is_none() && random.percent(profile.restarts) {
                self.restart(place, compiles, &mut random);
            }
            let Some(client) = self.client(place) else {
                return;
            };
            let op = self.oracle.lock().begin(number, client.number, kind, index);
            match kind {
                Kind::Foreign => self.write_past(&client, op, index, &mut random).await,
                Kind::Scan => {
                    let reading = self.draw_scan(left.take(), &mut random);
                    let scanning = self.scan(&client, op, &reading);
                    let rest = self.with_patience(&client, op, scanning, &mut random);
                    left = rest.await.flatten();
                }
                _ => self.operate(&client, op, kind, index, &mut random).await,
            }
        }
    }

    /// What is done next, if it is done to this key.
    fn choose(&self, index: usize, random: &mut Random) -> Kind {
        let profile = &self.profile;
        if random.percent(profile.scans) {
            return Kind::Scan;
        }
        let (plain, register) = match profile.roles.get(index) {
            Some(Role::Register) => (0, 1),
            Some(Role::Mixed) => (1, 1),
            _ => (1, 0),
        };
        let expected = self.oracle.lock().seen(index);
        let kind = random.weigh(&[
            (plain * profile.foreign, Kind::Foreign),
            (plain * profile.deletes, Kind::Delete),
            (plain * profile.gets, Kind::Get),
            (plain * 40, Kind::Put),
            (register * profile.gets, Kind::Register(Ask::Get)),
            (register * 10, Kind::Register(Ask::Put)),
            (register * profile.deletes / 2, Kind::Register(Ask::Delete)),
            (register * 40, Kind::Register(Ask::Update)),
            (register * profile.deletes / 2, Kind::Register(Ask::Take)),
            (register * 10, Kind::Register(Ask::Keep)),
            (register * 15, Kind::Register(Ask::CompareAndSet(expected))),
            (register * 5, Kind::Register(Ask::Create)),
        ]);
        kind.unwrap_or(Kind::Get)
    }

    /// Waits for what an operation comes to, unless its caller leaves.
    async fn with_patience<A>(
        &self,
        client: &Client<N>,
        op: usize,
        operation: impl Future<Output = A>,
        random: &mut Random,
    ) -> Option<A> {
        // Not of the last operations, which begin when the storm is over.
        let leaves = !self.is_calm.load(Ordering::Relaxed) && random.percent(self.profile.leaving);
        let patience = if leaves {
            random.between(&(Duration::ZERO..=client.settings.time_limit))
        } else {
            HOURS
        };
        let ended = timeout(patience, on_behalf(Some(op), operation)).await;
        let mut oracle = self.oracle.lock();
        match ended {
            Ok(ended) => return Some(ended),
            Err(_) if leaves => oracle.caller_left(op),
            Err(_) => oracle.never_ended(op),
        }
        None
    }

    async fn operate(
        &self,
        client: &Client<N>,
        op: usize,
        kind: Kind,
        index: usize,
        random: &mut Random,
    ) {
        let (map, oracle) = (&client.map, &self.oracle);
        match kind {
            Kind::Get => {
                let reading = map.read(key(index));
                let read = self.with_patience(client, op, reading, random).await;
                if let Some(read) = read {
                    oracle.lock().read(op, &read);
                }
            }
            Kind::Register(ask) => {
                let asking = map.ask(index, ask, own(op));
                let told = self.with_patience(client, op, asking, random).await;
                if let Some(told) = told {
                    oracle.lock().told(op, told);
                }
            }
            _ => {
                let put = (kind == Kind::Put).then(|| Put {
                    value: value(op),
                    ttl: self.profile.draw_ttl(random),
                });
                let ttl = put.as_ref().and_then(|put| put.ttl);
                oracle.lock().expires(op, ttl);
                let writing = map.write(key(index), put);
                let written = self.with_patience(client, op, writing, random).await;
                let Some((written, settling)) = written else {
                    return;
                };
                oracle.lock().wrote(op, &written);
                if random.percent(self.profile.settling) {
                    match timeout(HOURS, settling).await {
                        Ok(written) => oracle.lock().settled(op, &written),
                        Err(_) => oracle.lock().never_ended(op),
                    }
                }
            }
        }
    }

    fn draw_scan(&self, left: Option<KeyRange>, random: &mut Random) -> Reading {
        let keys = self.profile.roles.len() as u64;
        let range = match random.below(4) {
            0 => KeyRange::from(key(random.below(keys) as usize)..),
            1 => KeyRange::from(..=key(random.below(keys) as usize)),
            2 => KeyRange::prefix("/"),
            _ => KeyRange::from(..),
        };
        Reading {
            range: left.unwrap_or(range),
            by_entry: random.percent(50),
            pages: random.pick(&[1, 3, 100]).copied().unwrap_or(1),
        }
    }

    /// Scans a range, and tells what is left of it.
    async fn scan(&self, client: &Client<N>, op: usize, reading: &Reading) -> Option<KeyRange> {
        let range = &reading.range;
        let mut scan = client.map.scan(range.clone(), reading.by_entry);
        let (mut found, mut failed): (Vec<(Key, Bytes)>, _) = (Vec::new(), None);
        for _ in 0..reading.pages {
            match scan.next().await {
                Some(Ok(page)) => found.extend(page),
                Some(Err(how)) => failed = Some(how),
                None => break,
            }
            if failed.is_some() || self.oracle.lock().is_over() {
                break;
            }
        }
        let rest = scan.rest();
        let (found, rest_now) = (&found, rest.clone());
        let scanned = Scanned {
            range,
            found,
            rest: rest_now,
            failed,
        };
        self.oracle.lock().scanned(op, &scanned);
        rest
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
            // Of two that meet, nothing is to come after both.
            _ if self.plan.bug == Some(Bug::ValuesLeftOut) => now / 1_000 * 1_000 + 20_000,
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
        let mut entry = Entry::new(version, value(op));
        // Of two entries of one version it would not be known which one a register hides.
        let is_plain = self.profile.roles.get(index) == Some(&Role::Plain);
        if let Some(ttl) = self.profile.draw_ttl(random).filter(|_| is_plain) {
            self.oracle.lock().expires(op, Some(ttl));
            let at = now.saturating_add(ttl.as_millis().try_into().unwrap_or(u64::MAX));
            entry = entry.expiring_at(at.try_into().unwrap_or(NonZeroU64::MIN));
        }
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
    pub(super) async fn heal<const W: usize, const R: usize>(
        &self,
        compiles: Compiles<N, W, R>,
        random: &mut Random,
    ) {
        // A page of a replica that does not go as far as those of the others is not
        // looked at beyond.
        let by_scan = !self.profile.has_small_pages() && random.percent(50);
        // What does not count any more at some is settled by passes alone.
        let is_void = self.profile.losses.are_unknown() && self.profile.collecting.is_some();
        let by_pass = !self.plan.mutant && random.percent(40) || is_void;
        self.cluster.calm();
        self.is_calm.store(true, Ordering::Relaxed);
        self.store_rates.errors.store(0, Ordering::Relaxed);
        self.store_rates.panics.store(0, Ordering::Relaxed);
        // What was delivered twice may be ten seconds late, and in the hands of
        // a link with three seconds of latency.
        sleep(Duration::from_secs(20)).await;
        let reader = self.open::<W, R>(CALM, compiles, None);
        // Where no answer is there at once, a read asks all replicas together.
        for link in &reader.links {
            link.set_latency(MS..=MS * 3);
        }
        {
            // No entry and no promise is from the future any more, and what is written
            // now is past them all.
            let mut oracle = self.oracle.lock();
            let latest = oracle.latest_millis() + 1;
            for (index, clock) in self.cluster.world().clocks().iter().enumerate() {
                clock.set(latest);
                oracle.clock_stepped(index);
            }
        }
        self.recover(&reader).await;
        for client in self.clients().iter() {
            let stats = client.map.stats();
            self.oracle.lock().check_quiet(client.number, &stats);
        }
        if self.oracle.lock().is_over() {
            return;
        }
        let registers = self.oracle.lock().registers();
        // So is what a promise keeps from being repaired beside registers: that of a round
        // of collection which was cut when it was about to delete what had expired.
        if by_pass || self.oracle.lock().has_promises_beside() {
            self.pass_at_last(&reader, random).await;
            self.oracle.lock().check_converged();
            return self.collect_at_last(&reader, random).await;
        }
        for index in registers {
            // A promise may keep a replica from being repaired, until something is
            // written past it.
            self.end_with(&reader, Kind::Register(Ask::Update), index, random)
                .await;
        }
        let keys = self.profile.roles.len();
        for index in (0..keys).chain(0..keys) {
            if !by_scan {
                self.end_with(&reader, Kind::Get, index, random).await;
            } else if index == 0 {
                self.end_with(&reader, Kind::Scan, index, random).await;
            }
        }
        self.oracle.lock().check_converged();
        self.collect_at_last(&reader, random).await;
    }

    /// One of the operations after the storm: none of them fails.
    async fn end_with(&self, reader: &Client<N>, kind: Kind, index: usize, random: &mut Random) {
        let before = self.oracle.lock().counts.failed;
        let number = self.profile.clients;
        let op = self.oracle.lock().begin(number, reader.number, kind, index);
        if kind == Kind::Scan {
            let all = Reading {
                range: KeyRange::from(..),
                by_entry: false,
                pages: u64::MAX,
            };
            let scanning = self.scan(reader, op, &all);
            let _rest = self.with_patience(reader, op, scanning, random).await;
        } else {
            self.operate(reader, op, kind, index, random).await;
        }
        sleep(MS * 20).await;
        let mut oracle = self.oracle.lock();
        if oracle.counts.failed > before {
            oracle.broken("all is well after a storm", || format!("#{op} has failed"));
        }
    }
}

/// A value of the operation's own. Bits are reversed, so that the order of
/// values is not that of operations.
fn own(op: usize) -> u64 {
    (op as u64).reverse_bits()
}

fn value(op: usize) -> Bytes {
    Bytes::copy_from_slice(&own(op).to_be_bytes())
}
