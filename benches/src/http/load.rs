//! A client under load, and what it measures.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::ServerProcess;
use crate::cpu;
use crate::map::Map;
use crate::runtime;
use crate::turns::Spread;
use crate::work::{Walk, Work};

/// How long the calls that an operation has left behind are waited for.
const REST: Duration = Duration::from_millis(20);

/// What one turn of a way came to, or what its turns came to together.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Operations in a second.
    pub rate: f64,
    /// Half of the operations took less, in microseconds.
    pub p50: f64,
    /// All operations but one in a hundred took less, in microseconds.
    pub p99: f64,
    /// Seconds that the client and all servers spent on processors for 1000
    /// operations.
    pub cpu: f64,
}

impl Load {
    /// The medians of each figure.
    pub fn median(turns: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> f64| Spread::of(turns.iter().map(figure)).median;
        Self {
            rate: median(|load| load.rate),
            p50: median(|load| load.p50),
            p99: median(|load| load.p99),
            cpu: median(|load| load.cpu),
        }
    }
}

/// A client on one thread, and the servers whose processor time counts with its
/// own.
pub struct Client {
    runtime: Runtime,
    servers: RefCell<Vec<ServerProcess>>,
}

impl Client {
    /// A client of these servers.
    pub fn new(servers: Vec<ServerProcess>) -> Self {
        Self {
            runtime: runtime::of_threads(1),
            servers: RefCell::new(servers),
        }
    }

    /// Puts all keys once.
    pub fn fill(&self, map: &impl Map, work: &Work) {
        let fill = work.putting();
        self.runtime.block_on(fill.on(map, Walk::over_all()));
        thread::sleep(REST);
    }

    /// So many operations at a time, each begun when one has ended, for so
    /// long.
    pub fn closed_loop<M: Map>(
        &self,
        map: &Arc<M>,
        work: &Work,
        at_a_time: usize,
        length: Duration,
    ) -> Load {
        self.measure(|runtime| {
            let start = Instant::now();
            let spawn = |task| {
                let (work, map) = (work.clone(), Arc::clone(map));
                runtime.spawn(async move {
                    let mut times = Vec::new();
                    for number in (task..).step_by(at_a_time) {
                        let begun = Instant::now();
                        work.once(&*map, number).await;
                        times.push(begun.elapsed());
                        if start.elapsed() >= length {
                            break;
                        }
                    }
                    times
                })
            };
            let tasks: Vec<_> = (0..at_a_time).map(spawn).collect();
            let times = tasks
                .into_iter()
                .map(|task| runtime.block_on(task).unwrap());
            times.flatten().collect()
        })
    }

    /// So many operations a second, each begun when it is due and timed from
    /// then, whether or not those before it have ended.
    pub fn fixed_rate<M: Map>(
        &self,
        map: &Arc<M>,
        work: &Work,
        rate: u32,
        length: Duration,
    ) -> Load {
        self.measure(|runtime| {
            let start = Instant::now();
            let spawn = |number: u32| {
                let due = start + Duration::from_secs(1) * number / rate;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let (work, map) = (work.clone(), Arc::clone(map));
                runtime.spawn(async move {
                    work.once(&*map, number as usize).await;
                    due.elapsed()
                })
            };
            let count = (length.as_secs_f64() * f64::from(rate)) as u32;
            let tasks: Vec<_> = (0..count).map(spawn).collect();
            let times = tasks
                .into_iter()
                .map(|task| runtime.block_on(task).unwrap());
            times.collect()
        })
    }

    /// What a load, which tells how long each of its operations took, comes to.
    fn measure(&self, load: impl FnOnce(&Runtime) -> Vec<Duration>) -> Load {
        let cpu = self.cpu_seconds();
        let start = Instant::now();
        let mut times = load(&self.runtime);
        let seconds = start.elapsed().as_secs_f64();
        // What goes on in the background is part of what an operation costs.
        thread::sleep(REST);
        let cpu = self.cpu_seconds() - cpu;
        times.sort();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        Load {
            rate: times.len() as f64 / seconds,
            p50: at(0.5).as_secs_f64() * 1e6,
            p99: at(0.99).as_secs_f64() * 1e6,
            cpu: cpu / times.len() as f64 * 1e3,
        }
    }

    fn cpu_seconds(&self) -> f64 {
        let mut servers = self.servers.borrow_mut();
        let of_servers = servers.iter_mut().map(ServerProcess::cpu_seconds);
        of_servers.sum::<f64>() + cpu::own_seconds()
    }
}
