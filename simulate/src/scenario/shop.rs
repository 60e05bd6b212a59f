//! The coordinators of a world.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvquorum_core::{
    Coordinator, CoordinatorBuilder, Key, KeyRange, Replica, ReplicaStats, ScanLimit, Transport,
    WriterId,
};
use kvquorum_mem::Link;
use kvquorum_testing::sim::{Clock, Cluster, Event, Random, Survives, World};

use super::profile::Profile;
use super::{MAX_DRIFT, Plan};
use crate::map::{
    Ask, Map, Operation, Paging, Put, Read, Real, Registers, Settling, Tending, Told, Written,
};
use crate::mutant::Mutant;
use crate::oracle::{End, Oracle, Quorums, Settings, Shared};
use crate::planted::{self, Bug, Marks, Place, PlantedStore};
use crate::spy::{Rates, Spy, StoreFaults, Watched};
use crate::trace::Trace;

pub(super) type Links<const N: usize> = [Arc<dyn Transport>; N];
type Building<const N: usize, const W: usize, const R: usize> =
    CoordinatorBuilder<N, W, R, Arc<dyn Transport>>;
pub(super) type Built<const N: usize, const W: usize, const R: usize> =
    Coordinator<N, W, R, Arc<dyn Transport>>;

/// What compiles with these quorums alone.
#[derive(Clone, Copy)]
pub(super) struct Compiles<const N: usize, const W: usize, const R: usize> {
    pub(super) block: Option<fn(Building<N, W, R>) -> Building<N, W, R>>,
    pub(super) registers: Option<fn(&Built<N, W, R>) -> Registers<N, W, R>>,
}

impl<const N: usize, const W: usize, const R: usize> Default for Compiles<N, W, R> {
    fn default() -> Self {
        Self {
            block: None,
            registers: None,
        }
    }
}

/// All that the clients of a world share.
pub(super) struct Shop<const N: usize> {
    pub(super) plan: Plan,
    /// All coordinators there were. Of those at one place, the last is in use.
    pub(super) clients: Mutex<Vec<Arc<Client<N>>>>,
    pub(super) oracle: Shared,
    pub(super) cluster: Cluster<N, Watched<Arc<PlantedStore>>>,
    pub(super) told: Quorums,
    pub(super) profile: Profile,
    /// How many replicas may lose their data at once.
    pub(super) most_losses: usize,
    /// How many may ever be given back old data.
    pub(super) most_restored: usize,
    pub(super) begun: AtomicU64,
    /// Whether the storm is over.
    pub(super) is_calm: AtomicBool,
    pub(super) store_rates: Arc<Rates>,
    pub(super) stores: Vec<Arc<PlantedStore>>,
    pub(super) marks: Marks,
}

/// A coordinator, with what a simulation knows about it.
pub(super) struct Client<const N: usize> {
    pub(super) number: usize,
    pub(super) place: usize,
    pub(super) settings: Settings,
    pub(super) map: Box<dyn Map>,
    pub(super) clock: Clock,
    pub(super) clock_index: usize,
    pub(super) links: [Link<Watched<Arc<PlantedStore>>>; N],
    pub(super) spied: Links<N>,
}

impl<const N: usize> Shop<N> {
    /// A world's replicas, and nobody yet to call them.
    pub(super) fn new(
        world: &World,
        plan: Plan,
        told: Quorums,
        profile: Profile,
        random: &mut Random,
    ) -> Self {
        let trace = Trace::new(plan.keep_trace);
        let oracle = Shared::new(Oracle::new(
            world.clone(),
            told,
            MAX_DRIFT,
            profile.roles.len(),
            trace,
        ));
        if plan.bug.is_some_and(Bug::is_promise) {
            oracle.lock().look_away();
        }
        let store_rates = Arc::new(Rates {
            errors: profile.store_errors.into(),
            panics: profile.store_panics.into(),
            waits: profile.store_waits.into(),
            dawdles: profile.store_dawdles.into(),
        });
        let marks = Marks::default();
        let mut stores = Vec::new();
        let cluster = world.cluster_of::<N, _>(|replica, disk, clock| {
            let is_conditional = profile.is_conditional(random);
            let watcher = (&oracle, replica);
            let fork = random.fork();
            let store = PlantedStore::new(plan.bug, disk, is_conditional, fork, &marks, watcher);
            stores.push(Arc::clone(&store));
            // Not itself: the store may have the oracle, and neither would ever be freed.
            let looked_at = Arc::downgrade(&store);
            let look = Box::new(move |key: &_| looked_at.upgrade()?.record(key));
            let tells_swaps = store.tells_swaps();
            oracle.lock().add_replica(look, clock.clone(), tells_swaps);
            let replica = Replica::new(Watched {
                store,
                oracle: oracle.clone(),
                replica,
                faults: StoreFaults {
                    random: Mutex::new(random.fork()),
                    rates: Arc::clone(&store_rates),
                },
            })
            .with_limits(Bug::limits(plan.bug, profile.limits(random)))
            .with_wall_clock(clock);
            if profile.is_told_new {
                replica.of_new_cluster()
            } else {
                replica
            }
        });
        Self {
            plan,
            clients: Mutex::default(),
            oracle,
            cluster,
            told,
            profile,
            most_losses: 0,
            most_restored: 0,
            begun: AtomicU64::new(0),
            is_calm: AtomicBool::new(false),
            store_rates,
            stores,
            marks,
        }
    }

    /// A coordinator, in the place of one before it or in a new one.
    pub(super) fn open<const W: usize, const R: usize>(
        &self,
        settings: Settings,
        compiles: Compiles<N, W, R>,
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
        let (spied, planted) = self.watch(&links, number, settings, W);
        let wall = clock.clone();
        let real = Bug::settings(self.plan.bug, settings);
        let build = move || build::<N, W, R>(planted.clone(), real, compiles, writer, wall.clone());
        let map: Box<dyn Map> = if self.plan.mutant {
            let (bug, links) = (self.plan.bug, spied.to_vec());
            let wall = clock.clone();
            Box::new(Mutant::new(bug, links, self.told, settings, writer, wall))
        } else if self.plan.bug == Some(Bug::NewClock) {
            Box::new(Renewed {
                kept: build(),
                build,
            })
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
        self.keep_hints(&client);
        client
    }

    /// Links that the oracle watches, and those with a bug, if there is one.
    fn watch(
        &self,
        links: &[Link<Watched<Arc<PlantedStore>>>; N],
        coordinator: usize,
        settings: Settings,
        w: usize,
    ) -> (Links<N>, Links<N>) {
        let end = |replica| End {
            coordinator,
            replica,
        };
        let place = |replica| Place {
            oracle: self.oracle.clone(),
            time_limit: settings.time_limit,
            end: end(replica),
            w,
            marks: Arc::clone(&self.marks),
        };
        // What is done for replicas goes by rules that the oracle is not to see broken, but
        // to find out by what it comes to.
        let (below, above) = match self.plan.bug {
            Some(bug) if bug.is_of_tending() && !bug.is_counted() => (Some(bug), None),
            bug => (None, bug),
        };
        let spied: Links<N> = std::array::from_fn(|replica| {
            let link = Arc::new(links[replica].clone());
            Arc::new(Spy {
                inner: planted::link(below, link, place(replica)),
                oracle: self.oracle.clone(),
                end: end(replica),
            }) as Arc<dyn Transport>
        });
        let planted = std::array::from_fn(|replica| {
            planted::link(above, Arc::clone(&spied[replica]), place(replica))
        });
        (spied, planted)
    }

    pub(super) fn clients(&self) -> MutexGuard<'_, Vec<Arc<Client<N>>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn client(&self, place: usize) -> Option<Arc<Client<N>>> {
        let clients = self.clients();
        let mut at_place = clients.iter().rev().filter(|client| client.place == place);
        at_place.next().cloned()
    }

    /// A coordinator's process ends and begins anew, and its clock may be set
    /// back meanwhile. What it has under way is on its way to the replicas.
    pub(super) fn restart<const W: usize, const R: usize>(
        &self,
        place: usize,
        compiles: Compiles<N, W, R>,
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
        self.open(before.settings, compiles, Some(&before));
    }

    /// Something happened to the cluster.
    pub(super) fn tell(&self, event: Event) {
        let survived = match event {
            Event::Crashed { node, survives } => Some((node..=node, survives)),
            Event::Blackout { survives } => Some((0..=N - 1, survives)),
            _ => None,
        };
        if let Some((nodes, Survives::All)) = survived {
            self.stores[nodes].iter().for_each(|store| store.crashed());
        }
        self.oracle.lock().event(event);
    }
}

/// A coordinator of kvquorum's own.
fn build<const N: usize, const W: usize, const R: usize>(
    links: Links<N>,
    settings: Settings,
    compiles: Compiles<N, W, R>,
    writer: WriterId,
    wall: Clock,
) -> Real<N, W, R> {
    let builder = Coordinator::<N, W, R, _>::builder(links)
        .time_limit(settings.time_limit)
        .max_attempts(settings.attempts)
        .max_background(settings.background)
        .max_drift(settings.max_drift)
        .page(ScanLimit::keys(settings.page))
        .writer(writer)
        .wall_clock(wall);
    let map = match compiles.block {
        _ if !settings.repairs => builder.repair_off(),
        Some(block) if settings.blocking => block(builder),
        _ => builder.repair_in_background(),
    }
    .build();
    let registers = compiles.registers.map(|registers| {
        registers(&map)
            .with_max_attempts(settings.ballots)
            .with_time_limit(settings.patience)
    });
    Real { map, registers }
}

/// A new coordinator for each operation that gives out versions, with a clock that
/// knows nothing.
struct Renewed<M, F> {
    kept: M,
    build: F,
}

impl<M: Map + 'static, F: Fn() -> M + Send + Sync> Map for Renewed<M, F> {
    fn write(&self, key: Key, put: Option<Put>) -> Operation<'_, (Written, Settling)> {
        let map = (self.build)();
        Box::pin(async move { map.write(key, put).await })
    }

    fn read(&self, key: Key) -> Operation<'_, Read> {
        let map = (self.build)();
        Box::pin(async move { map.read(key).await })
    }

    fn ask(&self, register: usize, ask: Ask, own: u64) -> Operation<'_, Told> {
        let map = (self.build)();
        Box::pin(async move { map.ask(register, ask, own).await })
    }

    fn scan(&self, range: KeyRange, by_entry: bool) -> Box<dyn Paging + '_> {
        self.kept.scan(range, by_entry)
    }

    fn stats(&self) -> Vec<ReplicaStats> {
        self.kept.stats()
    }

    fn tending(&self) -> Option<&dyn Tending> {
        self.kept.tending()
    }
}
