//! One seed: a world, what its clients do, and what becomes of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{
    Bytes, Coordinator, CoordinatorBuilder, Entry, Key, Limits, Replica, ReplicaStats, Request,
    Timestamp, Transport, Version, WallClock, WriterId,
};
use kvquorum_mem::Link;
use kvquorum_mem::sim::{self, Clock, Cluster, Random, Storm, World};
use tokio::time::{sleep, timeout};

use crate::map::{Map, Operation, Read, Settling, Written};
use crate::mutant::Mutant;
use crate::oracle::{Counts, End, Kind, Oracle, Quorums, Settings, Shared, Violation, key};
use crate::planted::{self, Bug, Place, PlantedStore};
use crate::spy::{Rates, Spy, StoreFaults, Watched, on_behalf};
use crate::trace::Trace;

const MS: Duration = Duration::from_millis(1);
const MAX_DRIFT: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plan {
    pub seed: u64,
    /// Only so many operations begin.
    pub operations: Option<u64>,
    pub keep_trace: bool,
    pub bug: Option<Bug>,
    /// The coordinator of `mutant`, even without a bug.
    pub mutant: bool,
}

impl Plan {
    /// No seed has more operations than this, those at its end included.
    pub const MOST_OPERATIONS: u64 = 81;
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Run {
    pub violation: Option<Violation>,
    pub hash: u64,
    pub timeline: String,
    pub counts: Counts,
    pub simulated: Duration,
}

/// Runs one seed. Nothing but the plan decides what happens.
pub fn run(plan: Plan) -> std::io::Result<Run> {
    sim::run(plan.seed, |world| choose_quorums(world, plan))
}

type Links<const N: usize> = [Arc<dyn Transport>; N];
type Building<const N: usize, const W: usize, const R: usize> =
    CoordinatorBuilder<N, W, R, Arc<dyn Transport>>;
/// How blocking repair is turned on, where quorums meet.
type Block<const N: usize, const W: usize, const R: usize> =
    Option<fn(Building<N, W, R>) -> Building<N, W, R>>;

fn told(n: usize, w: usize, r: usize) -> Quorums {
    Quorums { n, w, r }
}

async fn choose_quorums(world: World, plan: Plan) -> Run {
    macro_rules! play {
        ($n:literal, $w:literal, $r:literal, blocking) => {
            play::<$n, $w, $r>(
                world,
                plan,
                told($n, $w, $r),
                Some(CoordinatorBuilder::repair_blocking),
            )
            .await
        };
        ($n:literal, $w:literal, $r:literal) => {
            play::<$n, $w, $r>(world, plan, told($n, $w, $r), None).await
        };
    }
    let mut random = world.random();
    match plan.bug {
        Some(Bug::WriteQuorum) => play::<3, 1, 2>(world, plan, told(3, 2, 2), None).await,
        Some(Bug::ReadQuorum) => play::<3, 2, 1>(world, plan, told(3, 2, 2), None).await,
        _ => match random.below(16) {
            0..=5 => play!(3, 2, 2, blocking),
            6 => play!(3, 1, 3, blocking),
            7 => play!(3, 3, 1, blocking),
            8 => play!(3, 1, 1),
            9 => play!(3, 2, 1),
            10 => play!(3, 1, 2),
            11 => play!(1, 1, 1, blocking),
            12 => play!(5, 4, 2, blocking),
            13 => play!(5, 2, 4, blocking),
            _ => play!(5, 3, 3, blocking),
        },
    }
}

/// Which faults a world has, and what its clients are like: each seed has its
/// own mix, so that rare combinations come up as well as the storm of all.
struct Profile {
    storm: Storm,
    /// Whether it is a conditional write that keeps the records.
    is_conditional: bool,
    keys: usize,
    coordinators: usize,
    clients: usize,
    operations: u64,
    pause: Duration,
    foreign: u32,
    deletes: u32,
    gets: u32,
    leaving: u32,
    settling: u32,
    restarts: u32,
    store_errors: u32,
    store_panics: u32,
    store_waits: u32,
    drift: Duration,
}

impl Profile {
    fn draw(random: &mut Random, bug: Option<Bug>) -> Self {
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
            drift: pick(random, &[1_000, 60_000, 60_000, 100_000_000]),
        }
    }
}

fn draw_settings(random: &mut Random, profile: &Profile, plan: Plan, blocking: bool) -> Settings {
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

/// All that the clients of a world share.
struct Shop<const N: usize> {
    plan: Plan,
    /// All coordinators there were. Of those at one place, the last is in use.
    clients: Mutex<Vec<Arc<Client<N>>>>,
    oracle: Shared,
    cluster: Cluster<N, Watched<Arc<PlantedStore>>>,
    told: Quorums,
    profile: Profile,
    begun: AtomicU64,
    store_rates: Arc<Rates>,
}

/// A coordinator, with what a simulation knows about it.
struct Client<const N: usize> {
    number: usize,
    place: usize,
    settings: Settings,
    map: Box<dyn Map>,
    clock: Clock,
    clock_index: usize,
    links: [Link<Watched<Arc<PlantedStore>>>; N],
    spied: Links<N>,
}

impl<const N: usize> Shop<N> {
    /// A coordinator, in the place of one before it or in a new one.
    fn open<const W: usize, const R: usize>(
        &self,
        settings: Settings,
        block: Block<N, W, R>,
        before: Option<&Client<N>>,
    ) -> Arc<Client<N>> {
        let world = self.cluster.world();
        let (clock, clock_index) = match before {
            Some(before) => (before.clock.clone(), before.clock_index),
            None => (world.clock(), world.clocks().len() - 1),
        };
        let writer = world.writer();
        let mut oracle = self.oracle.lock();
        let number = oracle.add_coordinator(settings, writer, clock.clone(), clock_index);
        let place = before.map_or(number, |before| before.place);
        if let Some(before) = before {
            oracle.resumed(number, before.number);
        }
        drop(oracle);
        let links = self.cluster.links();
        let mut replicas = 0..N;
        let mut end = || End {
            coordinator: number,
            replica: replicas.next().unwrap_or(N),
        };
        let spied: Links<N> = links.clone().map(|inner| {
            Arc::new(Spy {
                inner,
                oracle: self.oracle.clone(),
                end: end(),
            }) as Arc<dyn Transport>
        });
        let mut replicas = 0..N;
        let planted = spied.clone().map(|inner| {
            let place = Place {
                oracle: self.oracle.clone(),
                time_limit: settings.time_limit,
                end: End {
                    coordinator: number,
                    replica: replicas.next().unwrap_or(N),
                },
                w: W,
            };
            planted::link(self.plan.bug, inner, place)
        });
        let wall = clock.clone();
        let real = Bug::settings(self.plan.bug, settings);
        let build = move || {
            let builder = Coordinator::<N, W, R, _>::builder(planted.clone())
                .time_limit(real.time_limit)
                .max_attempts(real.attempts)
                .max_background(real.background)
                .max_drift(real.max_drift)
                .writer(writer)
                .wall_clock(wall.clone());
            match block {
                _ if !real.repairs => builder.repair_off(),
                Some(block) if real.blocking => block(builder),
                _ => builder.repair_in_background(),
            }
            .build()
        };
        let map: Box<dyn Map> = if self.plan.mutant {
            let (bug, links) = (self.plan.bug, spied.to_vec());
            let wall = clock.clone();
            Box::new(Mutant::new(bug, links, self.told, settings, writer, wall))
        } else if self.plan.bug == Some(Bug::NewClock) {
            Box::new(Renewed(build))
        } else {
            Box::new(build())
        };
        let client = Arc::new(Client {
            number,
            place,
            settings,
            map,
            clock,
            clock_index,
            links,
            spied,
        });
        self.clients().push(Arc::clone(&client));
        client
    }

    fn clients(&self) -> MutexGuard<'_, Vec<Arc<Client<N>>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self, place: usize) -> Option<Arc<Client<N>>> {
        let clients = self.clients();
        let mut at_place = clients.iter().rev().filter(|client| client.place == place);
        at_place.next().cloned()
    }

    /// A coordinator's process ends and begins anew, and its clock may be set
    /// back meanwhile. What it has under way is on its way to the replicas.
    fn restart<const W: usize, const R: usize>(
        &self,
        place: usize,
        block: Block<N, W, R>,
        random: &mut Random,
    ) {
        let Some(before) = self.client(place) else {
            return;
        };
        if self.profile.storm.clock_step > 0 && random.percent(70) {
            let most = random.pick(&[500, 70_000, 86_400_000]).copied();
            let back = random.below(most.unwrap_or(1)).cast_signed();
            before.clock.skew(before.clock.skew_millis() - back);
            self.oracle.lock().clock_stepped(before.clock_index);
        }
        self.open(before.settings, block, Some(&before));
    }
}

/// A new coordinator for each operation, with a clock that knows nothing.
struct Renewed<F>(F);

impl<M: Map + 'static, F: Fn() -> M + Send + Sync> Map for Renewed<F> {
    fn write(&self, key: Key, value: Option<Bytes>) -> Operation<'_, (Written, Settling)> {
        let map = (self.0)();
        Box::pin(async move { map.write(key, value).await })
    }

    fn read(&self, key: Key) -> Operation<'_, Read> {
        let map = (self.0)();
        Box::pin(async move { map.read(key).await })
    }

    fn stats(&self) -> Vec<ReplicaStats> {
        (self.0)().stats()
    }
}

async fn play<const N: usize, const W: usize, const R: usize>(
    world: World,
    mut plan: Plan,
    told: Quorums,
    block: Block<N, W, R>,
) -> Run {
    plan.mutant |= plan.bug.is_some_and(Bug::is_mutant);
    let mut random = world.random();
    let profile = Profile::draw(&mut random, plan.bug);
    let trace = Trace::new(plan.keep_trace);
    let oracle = Shared::new(Oracle::new(
        world.clone(),
        told,
        MAX_DRIFT,
        profile.keys,
        trace,
    ));
    let mut limits = Limits::default();
    limits.max_drift = MAX_DRIFT;
    let store_rates = Arc::new(Rates {
        errors: profile.store_errors.into(),
        panics: profile.store_panics.into(),
        waits: profile.store_waits.into(),
    });
    let cluster = world.cluster_of::<N, _>(|replica, disk, clock| {
        let store = PlantedStore::new(plan.bug, disk, profile.is_conditional, random.fork());
        let looked_at = Arc::clone(&store);
        let look = Box::new(move |key: &_| looked_at.entry(key));
        oracle.lock().add_replica(look, clock.clone());
        Replica::new(Watched {
            store,
            oracle: oracle.clone(),
            replica,
            faults: StoreFaults {
                random: Mutex::new(random.fork()),
                rates: Arc::clone(&store_rates),
            },
        })
        .with_limits(Bug::limits(plan.bug, limits))
        .with_wall_clock(clock)
    });
    let shop = Arc::new(Shop {
        plan,
        clients: Mutex::default(),
        oracle,
        cluster,
        told,
        profile,
        begun: AtomicU64::new(0),
        store_rates,
    });
    let (profile, cluster) = (&shop.profile, &shop.cluster);

    for _ in 0..profile.coordinators {
        let settings = draw_settings(&mut random, profile, plan, block.is_some());
        shop.open::<W, R>(settings, block, None);
    }

    // The weather when the day begins.
    let mut calm = profile.storm.clone();
    (calm.crash, calm.blackout) = (0, 0);
    (calm.hang, calm.cut, calm.isolation) = (0, 0, 0);
    for _ in 0..random.below(6 * N as u64) {
        if let Some(event) = calm.strike(cluster, &mut random) {
            shop.oracle.lock().event(event);
        }
    }

    let raging = tokio::spawn({
        let (shop, random) = (Arc::clone(&shop), random.fork());
        async move {
            let tell = |event| shop.oracle.lock().event(event);
            shop.profile.storm.rage(&shop.cluster, random, tell).await;
        }
    });
    let working: Vec<_> = (0..profile.clients)
        .map(|number| {
            let shop = Arc::clone(&shop);
            let random = random.fork();
            tokio::spawn(async move { shop.work(number, block, random).await })
        })
        .collect();
    for client in working {
        if let Err(panic) = client.await {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
    raging.abort();
    shop.heal::<W, R>(block).await;

    let mut oracle = shop.oracle.lock();
    oracle.end();
    Run {
        violation: oracle.violation().cloned(),
        hash: oracle.trace.hash(),
        timeline: oracle.trace.timeline(profile.clients + 1, N),
        counts: oracle.counts.clone(),
        simulated: world.elapsed(),
    }
}

impl<const N: usize> Shop<N> {
    async fn work<const W: usize, const R: usize>(
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
    async fn heal<const W: usize, const R: usize>(&self, block: Block<N, W, R>) {
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
