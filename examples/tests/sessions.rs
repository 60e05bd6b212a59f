//! A cache of sessions that expire, under a steady load: keys, memory and disk level off
//! (X-HIDE, X-SLOWEST, G-COLLECT).
//!
//! Bugs: what has expired stays; the deletes that removed it stay; the file of a durable
//! store grows with each session; memory stays behind.
//!
//! `KVQUORUM_SESSIONS_MINUTES=10` makes it long, with a time to live of 30 seconds, and
//! `-- --nocapture` prints what it measures.

// Processes are measured by what Linux tells of them.
#![cfg(target_os = "linux")]

mod support;

use std::env;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use kvquorum_core::{KeyRange, Request, RequestKind, Response, Told, Transport};
use kvquorum_http::HttpTransport;
use support::cluster::{Cluster, Map};
use tempfile::tempdir;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How many sessions begin in a second.
const PER_SECOND: u64 = 200;

/// What is there at a time: of each node, the most that any has.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    keys: usize,
    /// Resident, in KiB.
    memory: u64,
    /// Of the store's directory on disk, in KiB.
    disk: u64,
}

/// How long it goes on, and how long a session is there.
fn times() -> (Duration, Duration) {
    match env::var("KVQUORUM_SESSIONS_MINUTES") {
        Ok(minutes) => {
            let minutes: u64 = minutes.parse().unwrap();
            (Duration::from_secs(60 * minutes), Duration::from_secs(30))
        }
        Err(_) => (Duration::from_secs(30), Duration::from_secs(2)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_level_off_on_disk() {
    let data = tempdir().unwrap();
    level_off(Some(data.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_level_off_in_memory() {
    level_off(None).await;
}

async fn level_off(data: Option<&Path>) {
    let (lasts, ttl) = times();
    let when = [
        "--pass-every",
        "1s",
        "--collect-every",
        "1s",
        "--collect-lag",
        "1s",
        "--rests",
        "4",
    ];
    let cluster = Cluster::start_with(data, &when).await;
    let map = cluster.map();
    let putting = tokio::spawn(put_sessions(map.clone(), lasts, ttl));
    let (began, mut samples) = (Instant::now(), Vec::new());
    while began.elapsed() < lasts {
        sleep(lasts / 60).await;
        samples.push(measured(&cluster).await);
    }
    let put = putting.await.unwrap();
    // The first third is there to fill up. Of each third the least counts: a machine that
    // holds a round up for seconds raises the most, and what stays for ever raises both.
    let thirds: Vec<&[Sample]> = samples.chunks(samples.len().div_ceil(3)).collect();
    let least = |of: fn(&Sample) -> u64, third: usize| thirds[third].iter().map(of).min().unwrap();
    println!("{put} sessions of {ttl:?} in {lasts:?}, data: {data:?}");
    for (name, of) in [
        ("keys", (|it| it.keys as u64) as fn(&Sample) -> u64),
        ("KiB of memory", |it| it.memory),
        ("KiB of disk", |it| it.disk),
    ] {
        let [filling, middle, last] = [0, 1, 2].map(|third| least(of, third));
        println!("{name}, the least in each third: {filling}, {middle}, {last}");
        assert!(last <= middle + middle / 4 + 64, "{name}: {samples:?}");
    }
    let keys = least(|it| it.keys as u64, 2);
    assert!(keys < put / 2, "{keys} keys of {put}: {samples:?}");
    // And then all goes.
    let began = Instant::now();
    while measured(&cluster).await.keys > 0 {
        assert!(began.elapsed() < ttl + Duration::from_secs(120));
        sleep(Duration::from_millis(100)).await;
    }
}

/// Puts sessions at a steady pace, and reads each of them once.
async fn put_sessions(map: Map, lasts: Duration, ttl: Duration) -> u64 {
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(PER_SECOND).unwrap());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (began, mut put) = (Instant::now(), 0);
    while began.elapsed() < lasts {
        ticks.tick().await;
        let session = format!("session {put:08}");
        let user = format!("{{\"user\": {put}}}");
        map.put_with_ttl(session.as_str(), user.clone(), ttl)
            .await
            .unwrap();
        let found = map.get(session.as_str()).await.unwrap();
        assert_eq!(found.as_deref(), Some(user.as_bytes()), "{session}");
        put += 1;
    }
    put
}

async fn measured(cluster: &Cluster) -> Sample {
    let mut most = Sample::default();
    for number in 0..3 {
        let keys = records(&cluster.link(number)).await;
        let node = cluster.nodes[usize::from(number)].as_ref().unwrap();
        let disk = match cluster.is_on_disk() {
            true => size_on_disk(&cluster.directory(number)),
            false => 0,
        };
        most = Sample {
            keys: most.keys.max(keys),
            memory: most.memory.max(memory(node.process.id())),
            disk: most.disk.max(disk),
        };
    }
    most
}

/// How many records a node has at all, tombstones included.
async fn records(link: &HttpTransport) -> usize {
    let (mut count, mut range) = (0, Some(KeyRange::from(..)));
    while let Some(rest) = range {
        let request = Request::of(RequestKind::Records {
            range: rest.clone(),
            max_keys: u64::MAX,
            max_bytes: u64::MAX,
        });
        let records = match link.call(&request).await.unwrap() {
            Response::Told(told) => match *told {
                Told::Records(records) => records,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        count += records.records.len();
        range = records
            .upto
            .map(|upto| rest.intersection(&KeyRange::from(upto..)));
    }
    count
}

fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.unwrap().trim().strip_suffix(" kB").unwrap();
    resident.parse().unwrap()
}

/// In KiB, without holes.
fn size_on_disk(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = fs::read_dir(directory).unwrap();
    let blocks = files.map(|file| file.unwrap().metadata().unwrap().blocks());
    blocks.sum::<u64>() / 2
}
