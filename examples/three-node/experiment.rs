//! The experiment: steps, each of which checks what it says.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvquorum_core::{
    Coordinator, Edit, Entry, MapError, Outcome, PassSettings, ReadReceipt, Refusal, Request,
    Response, SystemClock, Transport, UpdateError, Version, WallClock, WriteError, WriterId,
};
use kvquorum_http::HttpTransport;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::signals::interrupted;
use crate::story::Story;
use crate::words::{self, Held};

/// How long the whole experiment may take.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How long a repair in the background may take.
const REPAIR_LIMIT: Duration = Duration::from_secs(2);

const KEY: &str = "drink";
const DISPUTED: &str = "lunch";
const MISSED: &str = "dinner";

/// The register of the counter, and how the map under it keeps it.
const COUNTER: &str = "cups";
const COUNTER_KEY: &str = "counters/\"cups\"";

/// How many times each of two writers increments it.
const INCREMENTS: u64 = 40;

/// A step did what it says, or this says what it did instead.
type Told = Result<(), Box<dyn Error>>;

/// Three replicas, `W` acks for a write, `R` answers for a read.
type Map<const W: usize, const R: usize> = Coordinator<3, W, R, HttpTransport>;

pub(crate) async fn run(base_port: u16, memory: bool) -> Told {
    let mut cluster = Cluster::new(base_port, memory)?;
    let mut story = Story::new();
    let began = Instant::now();
    let told = tokio::select! {
        // Ctrl-C in a terminal ends the nodes as well, and then it is not a
        // node that failed.
        biased;
        ended = interrupted() => Err(match ended {
            Ok(()) => "interrupted".into(),
            Err(error) => error.into(),
        }),
        told = timeout(TIME_LIMIT, tell(&mut cluster, &mut story)) => match told {
            Ok(told) => told,
            Err(_) => Err(format!("not done within {TIME_LIMIT:?}").into()),
        },
    };
    // Nothing is left behind, whatever has happened.
    cluster.end().await;
    told.map_err(|error| format!("step {}: {error}", story.step()))?;
    let took = began.elapsed().as_millis();
    story.say(&format!(
        "All {} steps did what they said, in {took} ms. The nodes are gone.",
        story.step()
    ))?;
    Ok(())
}

async fn tell(cluster: &mut Cluster, story: &mut Story) -> Told {
    story.say(
        "Three replicas of one map, each in a process of its own, reached over HTTP. \
         Beside what a coordinator reports of a replica, each table shows what that \
         replica really holds, asked of it directly: a value and its version. A version \
         is milliseconds.counter@writer, and the greater one wins.",
    )?;
    // Two coordinators over the same replicas, with writer ids that are easily
    // told apart. Left alone, they would be random.
    let three: Map<3, 2> = Coordinator::builder(cluster.links())
        .writer(WriterId::new(1))
        .build();
    let two: Map<2, 2> = Coordinator::builder(cluster.links())
        .writer(WriterId::new(2))
        .build();

    start(cluster, story).await?;
    let tea = write_and_read(cluster, story, &three).await?;
    kill(cluster, story, tea).await?;
    fail_to_write(cluster, story, &three, tea).await?;
    let juice = write_to_two(cluster, story, &two).await?;
    read_from_two(cluster, story, &two, juice).await?;
    if !cluster.in_memory() {
        restart(cluster, story, tea, juice).await?;
        repair(cluster, story, &two, juice).await?;
        converge(cluster, story, &two).await?;
    }
    rejoin(cluster, story, &two, juice).await?;
    let deleted = delete(cluster, story, &two).await?;
    collect(cluster, story, &two, juice, deleted).await?;
    disagree(cluster, story, &two).await?;
    count(cluster, story, &two).await
}

async fn start(cluster: &mut Cluster, story: &mut Story) -> Told {
    story.heading("Three nodes start, with nothing in them")?;
    for node in &mut cluster.nodes {
        node.start().await?;
    }
    let nodes = cluster.nodes.each_ref();
    let addresses = nodes.map(|node| node.address().to_owned());
    let processes = nodes.map(|node| node.process_id().unwrap_or_default().to_string());
    let held = cluster.held(KEY).await;
    let [values, versions] = holding(&held);
    story.table([
        ("address", addresses),
        ("process", processes),
        values,
        versions,
    ])?;
    check_held(&held, ["nothing"; 3])?;
    Ok(())
}

async fn write_and_read(
    cluster: &mut Cluster,
    story: &mut Story,
    map: &Map<3, 2>,
) -> Result<Version, Box<dyn Error>> {
    story.heading("A write that waits for three acks, and a read of two answers")?;
    let put = map.put(KEY, "tea").await?;
    let got = map.get_with_receipt(KEY).await?;
    let written = put.replicas().each_ref().map(words::of_write);
    let read = read_from(&got);
    story.say("put(\"drink\", \"tea\") with W=3, then get(\"drink\") with R=2:")?;
    let held = cluster.held(KEY).await;
    let [values, versions] = holding(&held);
    story.table([("put", written), ("get", read), values, versions])?;
    story.say(
        "The put returned when all three had acked, the get as soon as two had \
         answered. Where that left one under way, it goes on in the background.",
    )?;
    check("acks", put.acked(), 3)?;
    let answers = got.replicas().iter().filter_map(Outcome::answer);
    let alike = answers.filter(|held| **held == Some(put.version())).count();
    check("at least two answers", alike >= 2, true)?;
    check("value read", got.into_value().as_deref(), Some(&b"tea"[..]))?;
    let version = check_held(&held, ["\"tea\""; 3])?;
    check("version held", version, Some(put.version()))?;
    Ok(put.version())
}

async fn kill(cluster: &mut Cluster, story: &mut Story, tea: Version) -> Told {
    story.heading("Node 3 is killed")?;
    let [_, _, node] = &mut cluster.nodes;
    node.kill().await?;
    let has_acked = match cluster.in_memory() {
        true => "was in memory, and is gone",
        false => "is on its disk",
    };
    story.say(&format!(
        "With SIGKILL: it has no time to say good-bye, or to save anything. What it has \
         acked {has_acked}."
    ))?;
    let held = cluster.held(KEY).await;
    story.table(holding(&held))?;
    let version = check_held(&held, ["\"tea\"", "\"tea\"", "no answer"])?;
    check("version held", version, Some(tea))
}

async fn fail_to_write(
    cluster: &mut Cluster,
    story: &mut Story,
    map: &Map<3, 2>,
    tea: Version,
) -> Told {
    story.heading("A write that needs three acks fails, and is not undone")?;
    let Err(error) = map.put(KEY, "coffee").await else {
        return Err("the write succeeded, with one replica dead".into());
    };
    let at_once = of_failed(&error)?;
    let error = error.settled().await;
    let settled = of_failed(&error)?;
    story.say(
        "put(\"drink\", \"coffee\") with W=3 fails as soon as three acks are out of reach. \
         Replicas that had yet to answer then are still under way; once they have \
         settled, the error says:",
    )?;
    story.quote(&error.to_string())?;
    story.table([("when it failed", at_once), ("settled", settled.clone())])?;
    let held = cluster.held(KEY).await;
    story.table(holding(&held))?;
    let got = map.get_with_receipt(KEY).await?;
    story.say(
        "So it is applied on two replicas, and a failed write is never rolled back: \
         get(\"drink\") with R=2 returns \"coffee\".",
    )?;
    check(
        "replicas",
        settled,
        ["acked", "acked", "failed: not reached"],
    )?;
    let maybe_applied = matches!(error, WriteError::MaybeApplied(_));
    check("maybe applied", maybe_applied, true)?;
    let acked = error
        .report()
        .map(|report| (report.acked(), report.needed()));
    check("acks, and acks needed", acked, Some((2, 3)))?;
    let version = check_held(&held, ["\"coffee\"", "\"coffee\"", "no answer"])?;
    check(
        "a newer version than that of tea",
        version > Some(tea),
        true,
    )?;
    check(
        "version read",
        got.entry().map(|entry| entry.version),
        version,
    )?;
    check(
        "value read",
        got.into_value().as_deref(),
        Some(&b"coffee"[..]),
    )
}

async fn write_to_two(
    cluster: &mut Cluster,
    story: &mut Story,
    map: &Map<2, 2>,
) -> Result<Version, Box<dyn Error>> {
    story.heading("A write that needs two acks succeeds")?;
    let put = map.put(KEY, "juice").await?;
    let written = put.replicas().each_ref().map(words::of_write);
    story.say("put(\"drink\", \"juice\") with W=2:")?;
    let held = cluster.held(KEY).await;
    let [values, versions] = holding(&held);
    story.table([("put", written), values, versions])?;
    let [a, b, c] = put.replicas();
    check("node 1 acked", a.answer().is_some(), true)?;
    check("node 2 acked", b.answer().is_some(), true)?;
    check("node 3 acked", c.answer().is_some(), false)?;
    let version = check_held(&held, ["\"juice\"", "\"juice\"", "no answer"])?;
    check("version held", version, Some(put.version()))?;
    // Nothing of it may still be on its way when node 3 comes back.
    Ok(put.settled().await.version())
}

async fn read_from_two(
    cluster: &mut Cluster,
    story: &mut Story,
    map: &Map<2, 2>,
    juice: Version,
) -> Told {
    story.heading("A read that needs two answers succeeds")?;
    let got = map.get_with_receipt(KEY).await?;
    let read = read_from(&got);
    story.say("get(\"drink\") with R=2 returns \"juice\":")?;
    let [values, versions] = holding(&cluster.held(KEY).await);
    story.table([("get", read), values, versions])?;
    let version = got.entry().map(|entry| entry.version);
    check("version read", version, Some(juice))?;
    check(
        "value read",
        got.into_value().as_deref(),
        Some(&b"juice"[..]),
    )
}

async fn restart(cluster: &mut Cluster, story: &mut Story, tea: Version, juice: Version) -> Told {
    story.heading("Node 3 comes back, with its data")?;
    let [_, _, node] = &mut cluster.nodes;
    node.start().await?;
    story.say("What it had acked it still holds, and what it missed it does not know of:")?;
    let held = cluster.held(KEY).await;
    story.table(holding(&held))?;
    let values = held.each_ref().map(Held::value);
    check(
        "replicas hold",
        values,
        ["\"juice\"", "\"juice\"", "\"tea\""],
    )?;
    let versions = held.each_ref().map(Held::version);
    check("versions", versions, [Some(juice), Some(juice), Some(tea)])
}

async fn repair(cluster: &mut Cluster, story: &mut Story, map: &Map<2, 2>, juice: Version) -> Told {
    story.heading("A read repairs it")?;
    let got = map.get_with_receipt(KEY).await?;
    let read = read_from(&got);
    repaired(map, 1).await?;
    story.say(
        "get(\"drink\") with R=2 returns \"juice\", whichever two answer first. In the \
         background it sends the entry, under its version, to whoever is behind:",
    )?;
    let held = cluster.held(KEY).await;
    let [values, versions] = holding(&held);
    story.table([("get", read), values, versions])?;
    check(
        "value read",
        got.into_value().as_deref(),
        Some(&b"juice"[..]),
    )?;
    let version = check_held(&held, ["\"juice\""; 3])?;
    check("version held", version, Some(juice))
}

/// Waits until replica 3, and no other, has been repaired so many times.
async fn repaired(map: &Map<2, 2>, times: u64) -> Told {
    let began = Instant::now();
    loop {
        let [a, b, c] = map.stats().map(|replica| replica.repaired);
        if c >= times {
            return check("repairs", [a, b, c], [0, 0, times]);
        }
        if began.elapsed() > REPAIR_LIMIT {
            return Err(format!("nothing was repaired within {REPAIR_LIMIT:?}").into());
        }
        sleep(Duration::from_millis(1)).await;
    }
}

async fn rejoin(cluster: &mut Cluster, story: &mut Story, map: &Map<2, 2>, juice: Version) -> Told {
    let (heading, text) = match cluster.in_memory() {
        true => (
            "Node 3 comes back, with nothing, and rejoins",
            "Its replica was in memory. It knows neither what it had acked nor what it missed, \
             and so it answers nothing, neither a read nor a write:",
        ),
        false => (
            "Node 3 loses its data, and rejoins",
            "Killed once more, and its disk gone with it, it comes back empty. What it had \
             acked is what others count on, and so it answers nothing, neither a read nor a \
             write:",
        ),
    };
    story.heading(heading)?;
    let [_, _, node] = &mut cluster.nodes;
    node.kill().await?;
    node.lose_data()?;
    node.start_without_data().await?;
    let empty = cluster.held(KEY).await;
    let between = map.get_with_receipt(KEY).await?;
    story.say(text)?;
    let [values, versions] = holding(&empty);
    story.table([values, versions, ("get", read_from(&between))])?;
    let done = map.rejoin(2).run().await?;
    let got = map.get_with_receipt(KEY).await?;
    let held = cluster.held(KEY).await;
    let copied = match done.copied {
        1 => "1 key was".to_owned(),
        copied => format!("{copied} keys were"),
    };
    story.say(&format!(
        "The get between returned \"juice\": two others have it. A coordinator then had node 3 \
         rejoin: {copied} copied from those two, in a new era. A node that is given --peers \
         sees to that itself:"
    ))?;
    let [values, versions] = holding(&held);
    story.table([("get", read_from(&got)), values, versions])?;
    let before = empty.each_ref().map(Held::value);
    check("held before", before, ["\"juice\"", "\"juice\"", "joining"])?;
    for got in [between, got] {
        check(
            "value read",
            got.into_value().as_deref(),
            Some(&b"juice"[..]),
        )?;
    }
    let version = check_held(&held, ["\"juice\""; 3])?;
    check("version held", version, Some(juice))
}

async fn converge(cluster: &mut Cluster, story: &mut Story, map: &Map<2, 2>) -> Told {
    story.heading("Node 3 misses writes, and converges without a read")?;
    let [_, _, node] = &mut cluster.nodes;
    node.kill().await?;
    for value in ["soup", "salad", "cake"] {
        map.put(MISSED, value).await?.settled().await;
    }
    let [_, _, node] = &mut cluster.nodes;
    node.start().await?;
    let missed = cluster.held(MISSED).await;
    story.say("Killed again, it misses three puts of \"dinner\", and comes back:")?;
    story.table(holding(&missed))?;
    let report = map.pass(.., PassSettings::default()).run().await;
    let held = cluster.held(MISSED).await;
    story.say(
        "A pass compares what the replicas hold, by fingerprints of ranges, and sends \
         each what it lacks. A node that is given --peers runs one every ten seconds:",
    )?;
    let repaired = report.replicas.iter().map(|it| it.repaired.to_string());
    let repaired: Vec<String> = repaired.collect();
    let repaired = <[String; 3]>::try_from(repaired).map_err(|_| "there are three")?;
    let [values, versions] = holding(&held);
    story.table([("was repaired", repaired), values, versions])?;
    let before = missed.each_ref().map(Held::value);
    check("held before", before, ["\"cake\"", "\"cake\"", "nothing"])?;
    check("complete", report.is_complete(), true)?;
    check_held(&held, ["\"cake\""; 3])?;
    Ok(())
}

async fn disagree(cluster: &mut Cluster, story: &mut Story, reader: &Map<2, 2>) -> Told {
    story.heading("Two clocks ten seconds apart write the same key")?;
    let fast: Map<2, 2> = Coordinator::builder(cluster.links())
        .writer(WriterId::new(0xa))
        .wall_clock(|| SystemClock.now_millis().saturating_add(10_000))
        .build();
    let slow: Map<2, 2> = Coordinator::builder(cluster.links())
        .writer(WriterId::new(0xb))
        .build();

    // Settled, so that the tables do not depend on which two were faster.
    let soup = fast.put(DISPUTED, "soup").await?.settled().await;
    story.say("Writer a is ten seconds ahead: put(\"lunch\", \"soup\") with W=2:")?;
    let held = cluster.held(DISPUTED).await;
    let written = soup.replicas().each_ref().map(words::of_write);
    let [values, versions] = holding(&held);
    story.table([("put by a", written), values, versions])?;
    check("attempts of a", soup.attempts(), 1)?;
    let version = check_held(&held, ["\"soup\""; 3])?;
    check("version held", version, Some(soup.version()))?;

    let rice = slow.put(DISPUTED, "rice").await?.settled().await;
    story.say(
        "Then writer b, whose clock is right: put(\"lunch\", \"rice\") with W=2. By its \
         clock alone the rice would be ten seconds older than the soup: acked, and never \
         seen. The acks say so, and b stamps it again, past the soup:",
    )?;
    let held = cluster.held(DISPUTED).await;
    let written = rice.replicas().each_ref().map(words::of_write);
    let [values, versions] = holding(&held);
    story.table([("put by b", written), values, versions])?;
    let got = reader.get_with_receipt(DISPUTED).await?;
    story.say(&format!(
        "It took {} attempts, and get(\"lunch\") returns \"rice\": an acknowledged \
         write is what reads return, whatever the clocks say.",
        rice.attempts()
    ))?;
    check("attempts of b", rice.attempts(), 2)?;
    check("a newer version", rice.version() > soup.version(), true)?;
    let version = check_held(&held, ["\"rice\""; 3])?;
    check("version held", version, Some(rice.version()))?;
    check(
        "value read",
        got.into_value().as_deref(),
        Some(&b"rice"[..]),
    )
}

async fn delete(
    cluster: &mut Cluster,
    story: &mut Story,
    map: &Map<2, 2>,
) -> Result<Version, Box<dyn Error>> {
    story.heading("A delete")?;
    let deleted = map.delete(KEY).await?.settled().await;
    let got = map.get_with_receipt(KEY).await?;
    story.say(
        "delete(\"drink\") with W=2 writes a tombstone, which wins over older values \
         wherever they turn up. get(\"drink\") says that there is none:",
    )?;
    let held = cluster.held(KEY).await;
    let written = deleted.replicas().each_ref().map(words::of_write);
    let read = read_from(&got);
    let [values, versions] = holding(&held);
    story.table([("delete", written), ("get", read), values, versions])?;
    let version = got.entry().map(|entry| entry.version);
    check("version read", version, Some(deleted.version()))?;
    check("value read", got.into_value(), None)?;
    let version = check_held(&held, ["a tombstone"; 3])?;
    check("version held", version, Some(deleted.version()))?;
    Ok(deleted.version())
}

async fn collect(
    cluster: &mut Cluster,
    story: &mut Story,
    map: &Map<2, 2>,
    juice: Version,
    deleted: Version,
) -> Told {
    story.heading("The tombstones go away, and a late copy of the juice is refused")?;
    while SystemClock.now_millis() <= deleted.timestamp.millis() {
        sleep(Duration::from_millis(1)).await;
    }
    let settings = PassSettings::default().collect_lag(Duration::ZERO);
    let report = map.collect(settings).await;
    let collected = report.collection.ok_or("nothing was to be collected")??;
    let dropped = collected.replicas.iter().map(|it| it.dropped.to_string());
    let dropped: Vec<String> = dropped.collect();
    let dropped = <[String; 3]>::try_from(dropped).map_err(|_| "there are three")?;
    let held = cluster.held(KEY).await;
    story.say(
        "A collection seals all three replicas: what is stamped before a time, they take no \
         more. A pass then brings each what it lacks, and what is a tombstone from before \
         that time is dropped. Nodes that are given --peers do so once in a minute, of what \
         was deleted more than ten minutes ago:",
    )?;
    let [values, versions] = holding(&held);
    story.table([("dropped", dropped), values, versions])?;
    let juice = Entry::new(juice, "juice");
    let write = late(cluster, Request::write(KEY, juice.clone())).await?;
    let repair = late(cluster, Request::repair(KEY, juice)).await?;
    let got = map.get_with_receipt(KEY).await?;
    let held = cluster.held(KEY).await;
    story.say(
        "Nothing remembers the delete now. So old copies must not come in, however late: \
         the put of \"juice\" arrives once more, and then a repair with it, as some replica \
         could have sent it that was away for a year. get(\"drink\") says that there is none:",
    )?;
    let [values, _] = holding(&held);
    let read = read_from(&got);
    story.table([
        ("late put", write.clone()),
        ("late repair", repair.clone()),
        ("get", read),
        values,
    ])?;
    let all = ["nothing"; 3];
    check("late puts", write, ["refused"; 3])?;
    check("late repairs", repair, ["refused"; 3])?;
    check("value read", got.into_value(), None)?;
    check_held(&held, all).map(|_| ())
}

/// What each replica says to what comes to it late, whoever sends it.
async fn late(cluster: &Cluster, request: Request) -> Result<[String; 3], Box<dyn Error>> {
    let mut said = [const { String::new() }; 3];
    for (link, said) in cluster.links().iter().zip(&mut said) {
        *said = match link.call(&request).await? {
            Response::Refused(Refusal::Before { .. }) => "refused".to_owned(),
            other => format!("{other:?}"),
        };
    }
    Ok(said)
}

async fn count(cluster: &mut Cluster, story: &mut Story, two: &Map<2, 2>) -> Told {
    story.heading("Two writers increment one counter while a node dies")?;
    let other: Map<2, 2> = Coordinator::builder(cluster.links())
        .writer(WriterId::new(3))
        .build();
    let acked = AtomicU64::new(0);
    let [_, _, node] = &mut cluster.nodes;
    let killed = async {
        // In the midst of it.
        while acked.load(Ordering::SeqCst) < INCREMENTS {
            sleep(Duration::from_millis(1)).await;
        }
        node.kill().await?;
        Ok(acked.load(Ordering::SeqCst))
    };
    // Each at a pace of its own, so that they meet now and then.
    let one = increment(two, Duration::from_millis(1), &acked);
    let another = increment(&other, Duration::from_millis(2), &acked);
    let (one, another, when_killed) = tokio::try_join!(one, another, killed)?;
    let acked = acked.load(Ordering::SeqCst);
    let in_doubt = one.saturating_add(another);
    let sum = two.registers::<str, u64>("counters").get(COUNTER).await?;
    let sum = sum.unwrap_or_default();
    story.say(&format!(
        "A counter is a register: update(\"cups\", add one) reads what is there and writes \
         what follows, and nobody writes in between. Writers 2 and 3 each did so \
         {INCREMENTS} times. When {when_killed} of the updates were acknowledged, node 3 was \
         killed."
    ))?;
    let held = cluster.held(COUNTER_KEY).await;
    story.table(holding(&held))?;
    let in_words = match in_doubt {
        0 => String::new(),
        in_doubt => format!(
            ". Of another {in_doubt}, which the other writer overtook half-way, the error \
             said that they may have been applied"
        ),
    };
    story.say(&format!(
        "{acked} were acknowledged{in_words}. get(\"cups\") returns {sum}: none is lost, and \
         none counts twice."
    ))?;
    let all = acked.saturating_add(in_doubt);
    check("updates", all, INCREMENTS.saturating_mul(2))?;
    check("killed before the end", when_killed < acked, true)?;
    check(
        &format!("{sum} between {acked} and {all}"),
        (acked..=all).contains(&sum),
        true,
    )?;
    let text = format!("\"{sum}\"");
    check_held(&held, [&text, &text, "no answer"]).map(|_| ())
}

/// Increments the counter so many times, and counts what is acknowledged. Returns how
/// many may have been applied besides.
async fn increment(
    map: &Map<2, 2>,
    pace: Duration,
    acked: &AtomicU64,
) -> Result<u64, Box<dyn Error>> {
    let counters = map.registers::<str, u64>("counters");
    let add_one = |count: Option<&u64>| Edit::Put(count.map_or(1, |count| count + 1));
    let mut in_doubt = 0_u64;
    for _ in 0..INCREMENTS {
        match counters.update(COUNTER, add_one).await {
            Ok(_) => {
                acked.fetch_add(1, Ordering::SeqCst);
            }
            Err(MapError::Update(UpdateError::MaybeApplied(_))) => {
                in_doubt = in_doubt.saturating_add(1);
            }
            Err(error) => return Err(error.into()),
        }
        sleep(pace).await;
    }
    Ok(in_doubt)
}

/// The columns of what the replicas really hold.
fn holding(held: &[Held; 3]) -> [(&'static str, [String; 3]); 2] {
    let values = held.each_ref().map(Held::value);
    let versions = held.each_ref().map(|held| match held.version() {
        Some(version) => version.to_string(),
        None => String::new(),
    });
    [("holds now", values), ("its version", versions)]
}

/// Each replica's part in a read. What it holds now is in a column of its own.
fn read_from(receipt: &ReadReceipt<3>) -> [String; 3] {
    let replicas = receipt.replicas().each_ref();
    replicas.map(|replica| words::of_read(replica, None))
}

/// Each replica's part in a write that failed.
fn of_failed(error: &WriteError) -> Result<[String; 3], Box<dyn Error>> {
    let report = error.report().ok_or("the write was not sent")?;
    match report.replicas() {
        [a, b, c] => Ok([a, b, c].map(|replica| words::of_write(replica.outcome()))),
        others => Err(format!("the error reports {} replicas", others.len()).into()),
    }
}

/// Checks what each replica holds, and that those that hold an entry hold the
/// same version; returns it.
fn check_held(held: &[Held; 3], expected: [&str; 3]) -> Result<Option<Version>, Box<dyn Error>> {
    check("replicas hold", held.each_ref().map(Held::value), expected)?;
    let mut versions = held.iter().filter_map(Held::version);
    let first = versions.next();
    check(
        "one version",
        versions.all(|other| Some(other) == first),
        true,
    )?;
    Ok(first)
}

fn check<A, E>(what: &str, found: A, expected: E) -> Told
where
    A: PartialEq<E> + std::fmt::Debug,
    E: std::fmt::Debug,
{
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: found {found:?}, expected {expected:?}").into())
    }
}
