//! The coordinators of a world.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvquorum_core::{Bytes, Coordinator, CoordinatorBuilder, Key, ReplicaStats, Transport};
use kvquorum_mem::Link;
use kvquorum_testing::sim::{Clock, Cluster, Random};

use super::Plan;
use super::profile::Profile;
use crate::map::{Map, Operation, Read, Settling, Written};
use crate::mutant::Mutant;
use crate::oracle::{End, Quorums, Settings, Shared};
use crate::planted::{self, Bug, Place, PlantedStore};
use crate::spy::{Rates, Spy, Watched};

pub(super) type Links<const N: usize> = [Arc<dyn Transport>; N];
type Building<const N: usize, const W: usize, const R: usize> =
    CoordinatorBuilder<N, W, R, Arc<dyn Transport>>;
/// How blocking repair is turned on, where quorums meet.
pub(super) type Block<const N: usize, const W: usize, const R: usize> =
    Option<fn(Building<N, W, R>) -> Building<N, W, R>>;

/// All that the clients of a world share.
pub(super) struct Shop<const N: usize> {
    pub(super) plan: Plan,
    /// All coordinators there were. Of those at one place, the last is in use.
    pub(super) clients: Mutex<Vec<Arc<Client<N>>>>,
    pub(super) oracle: Shared,
    pub(super) cluster: Cluster<N, Watched<Arc<PlantedStore>>>,
    pub(super) told: Quorums,
    pub(super) profile: Profile,
    pub(super) begun: AtomicU64,
    pub(super) store_rates: Arc<Rates>,
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
    /// A coordinator, in the place of one before it or in a new one.
    pub(super) fn open<const W: usize, const R: usize>(
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
