//! Updates a second over HTTP, beside plain puts on the same servers by turns.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kvquorum_benches::http::{Pace, ServerProcess};
use kvquorum_benches::runtime;
use kvquorum_benches::table::{Goal, Table};
use kvquorum_benches::turns::{Spread, Turn, in_turns};
use kvquorum_core::{Coordinator, Edit, Map, MapError, Registers, UpdateError};
use kvquorum_http::HttpTransport;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) const ROUNDS: usize = 5;
pub(crate) const LENGTH: Duration = Duration::from_secs(1);

/// How many keys many are, and how many operations are under way on them.
pub(crate) const KEYS: usize = 10_000;
pub(crate) const AT_A_TIME: usize = 64;

/// How many write one key.
pub(crate) const WRITERS: [usize; 3] = [1, 4, 16];

/// Where the servers keep what they hold.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Memory,
    Disk,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        })
    }
}

/// A coordinator's typed map, and the registers of the same name.
#[derive(Clone)]
struct Client {
    map: Arc<Map<str, u64, 3, 2, 2, HttpTransport>>,
    registers: Arc<Registers<str, u64, 3, 2, 2, HttpTransport>>,
}

/// What is done.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Put,
    Update,
    Get,
    RegisterGet,
}

/// What one operation came to.
pub(crate) enum Came {
    Done { attempts: u32 },
    MaybeApplied,
    Contended,
}

/// What one turn came to.
#[derive(Default)]
pub(crate) struct Rate {
    /// Operations that succeeded, a second.
    pub(crate) rate: f64,
    /// Attempts for one that succeeded.
    attempts: f64,
    maybe_applied: usize,
    contended: usize,
    /// How long the longest took, and the 99th percentile.
    longest: Duration,
    p99: Duration,
}

impl Rate {
    fn of(all: Vec<(Came, Duration)>, length: Duration) -> Self {
        let mut rate = Self::default();
        let mut times: Vec<Duration> = all.iter().map(|(_, time)| *time).collect();
        times.sort_unstable();
        let (mut done, mut attempts) = (0_u32, 0_u32);
        for (came, _) in all {
            match came {
                Came::Done { attempts: of_it } => {
                    done += 1;
                    attempts += of_it;
                }
                Came::MaybeApplied => rate.maybe_applied += 1,
                Came::Contended => rate.contended += 1,
            }
        }
        rate.rate = f64::from(done) / length.as_secs_f64();
        rate.attempts = f64::from(attempts) / f64::from(done);
        rate.longest = times.last().copied().unwrap_or_default();
        rate.p99 = times[(times.len() - 1) * 99 / 100];
        rate
    }

    pub(crate) fn print(id: &str, turns: &[Self]) {
        let median = |figure: fn(&Self) -> f64| Spread::of(turns.iter().map(figure)).median;
        let sum = |figure: fn(&Self) -> usize| turns.iter().map(figure).sum::<usize>();
        println!(
            "| {id} | {:.0} | {:.2} | {:.1} | {:.1} | {} | {} |",
            median(|turn| turn.rate),
            median(|turn| turn.attempts),
            median(|turn| turn.p99.as_secs_f64() * 1e3),
            turns
                .iter()
                .map(|turn| turn.longest)
                .max()
                .unwrap_or_default()
                .as_secs_f64()
                * 1e3,
            sum(|turn| turn.maybe_applied),
            sum(|turn| turn.contended),
        );
    }

    pub(crate) fn print_head() {
        println!(
            "| id | operations/s | attempts | p99, ms | longest, ms | maybe applied | contended |"
        );
        println!("|---|---|---|---|---|---|---|");
    }
}

pub(crate) fn measure(place: Place, table: &mut Table) {
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let servers = [1, 2, 3].map(|number| match place {
        Place::Memory => ServerProcess::start(Pace::Healthy),
        Place::Disk => ServerProcess::start_on_disk(&directory.path().join(number.to_string())),
    });
    let addresses = servers.each_ref().map(|server| server.address.clone());
    let most = WRITERS[WRITERS.len() - 1];
    let bench = Bench {
        place,
        runtime: runtime::of_this_thread(),
        clients: (0..most).map(|_| client(&addresses)).collect(),
        key: RefCell::new(0),
    };
    println!("\nOver HTTP, in {place}\n");
    Rate::print_head();
    bench.many_keys(table);
    for writers in WRITERS {
        bench.one_key(writers, table);
    }
}

fn client(addresses: &[String; 3]) -> Client {
    let link = |address: &String| HttpTransport::new(address.clone()).unwrap();
    let coordinator = Coordinator::new(addresses.each_ref().map(link));
    Client {
        map: Arc::new(coordinator.map("bench")),
        registers: Arc::new(coordinator.registers("bench")),
    }
}

struct Bench {
    place: Place,
    runtime: Runtime,
    /// As many coordinators as there are writers, each with connections of its own.
    clients: Vec<Client>,
    /// So that each turn has a key of its own.
    key: RefCell<usize>,
}

impl Bench {
    /// Many keys, and one coordinator.
    fn many_keys(&self, table: &mut Table) {
        let client = &self.clients[0];
        let fill = |way| {
            let count = KEYS.div_ceil(AT_A_TIME);
            let key = |number| format!("key-{number:09}");
            drive(
                &self.runtime,
                AT_A_TIME,
                Until::Count(count),
                |writer, number| {
                    operate(
                        client.clone(),
                        way,
                        key((writer + number * AT_A_TIME) % KEYS),
                    )
                },
            );
        };
        fill(Way::Put);
        fill(Way::Update);
        let turn = |way| -> Turn<'_, Rate> {
            Box::new(move || {
                drive(
                    &self.runtime,
                    AT_A_TIME,
                    Until::Past(LENGTH),
                    |writer, number| {
                        let key = format!("key-{:09}", (writer + number * AT_A_TIME) % KEYS);
                        operate(client.clone(), way, key)
                    },
                )
            })
        };
        let ways = [
            (Way::Put, "plain put"),
            (Way::Update, "update"),
            (Way::Get, "plain get"),
            (Way::RegisterGet, "register's get"),
        ];
        let mut turns = ways.map(|(way, _)| turn(way));
        let turns = in_turns(ROUNDS, &mut turns);
        let place = self.place;
        for ((_, name), turns) in ways.iter().zip(&turns) {
            Rate::print(&format!("{place}/{KEYS} keys/{AT_A_TIME}/{name}"), turns);
        }
        let goal = |goal| Some(goal).filter(|_| place == Place::Memory);
        let what = format!("registers/{place}/{KEYS} keys, {AT_A_TIME} at a time: updates / puts");
        let ratio = Spread::of_ratios(&turns[1], &turns[0], |turn| turn.rate);
        table.push(what, ratio, goal(Goal::AtLeast(0.4)));
        let what = format!(
            "registers/{place}/{KEYS} keys, {AT_A_TIME} at a time: time of a register's get / get"
        );
        let ratio = Spread::of_ratios(&turns[2], &turns[3], |turn| turn.rate);
        table.push(what, ratio, goal(Goal::AtMost(1.1)));
    }

    /// One key, by one coordinator and by as many as there are writers.
    fn one_key(&self, writers: usize, table: &mut Table) {
        let turn = |way, coordinators: usize| -> Turn<'_, Rate> {
            Box::new(move || {
                let key = self.key.replace_with(|key| *key + 1);
                let key = format!("one-{key}");
                drive(&self.runtime, writers, Until::Past(LENGTH), |writer, _| {
                    let client = self.clients[writer % coordinators].clone();
                    operate(client, way, key.clone())
                })
            })
        };
        let mut ways = vec![
            ("plain put", turn(Way::Put, 1)),
            ("update", turn(Way::Update, 1)),
        ];
        if writers > 1 {
            ways.push(("update, a coordinator each", turn(Way::Update, writers)));
        }
        let (names, mut ways): (Vec<&str>, Vec<Turn<'_, Rate>>) = ways.into_iter().unzip();
        let turns = in_turns(ROUNDS, &mut ways);
        for (name, turns) in names.iter().zip(&turns) {
            let place = self.place;
            Rate::print(&format!("{place}/one key/{writers}/{name}"), turns);
            if *name != "plain put" && writers == WRITERS[WRITERS.len() - 1] {
                let rate = Spread::of(turns.iter().map(|turn| turn.rate));
                let goal = Some(Goal::AtLeast(300.0)).filter(|_| place == Place::Memory);
                let what =
                    format!("registers/{place}/one key, {writers} writers: {name}, a second");
                table.push(what, rate, goal);
            }
        }
    }
}

async fn operate(client: Client, way: Way, key: String) -> Came {
    let Client { map, registers } = client;
    match way {
        Way::Put => drop(map.put(&key, &1).await.unwrap()),
        Way::Get => drop(map.get(&key).await.unwrap()),
        Way::RegisterGet => drop(registers.get(&key).await.unwrap()),
        Way::Update => {
            let add_one = |held: Option<&u64>| Edit::Put(held.map_or(1, |held| held + 1));
            return match registers.update(&key, add_one).await {
                Ok(updated) => Came::Done {
                    attempts: updated.attempts(),
                },
                Err(MapError::Update(UpdateError::MaybeApplied(_))) => Came::MaybeApplied,
                Err(MapError::Update(UpdateError::Contended(_))) => Came::Contended,
                Err(error) => panic!("{error}"),
            };
        }
    }
    Came::Done { attempts: 1 }
}

/// When each of those who are at work ends.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Past(Duration),
    Count(usize),
}

/// So many at a time, each of whom does one operation after the other.
pub(crate) fn drive<F>(
    runtime: &Runtime,
    at_a_time: usize,
    until: Until,
    operation: impl Fn(usize, usize) -> F,
) -> Rate
where
    F: Future<Output = Came>,
{
    let start = Instant::now();
    let operation = &operation;
    let workers = (0..at_a_time).map(|worker| async move {
        let mut done = Vec::new();
        for number in 0.. {
            match until {
                Until::Past(length) if start.elapsed() >= length => break,
                Until::Count(count) if number >= count => break,
                Until::Past(_) | Until::Count(_) => {}
            }
            let begun = Instant::now();
            done.push((operation(worker, number).await, begun.elapsed()));
        }
        done
    });
    let done: Vec<_> = runtime.block_on(join_all(workers));
    Rate::of(done.into_iter().flatten().collect(), start.elapsed())
}
