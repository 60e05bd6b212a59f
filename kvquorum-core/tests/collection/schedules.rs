//! Rare orders of events around a collection, written down: rules G-SEAL, G-LEVEL,
//! G-COLLECT and G-VOID. In all of them a delete that was collected is never undone, and
//! what was acknowledged is found. Three replicas, 3/2/2: A, B and C are 0, 1 and 2.
//!
//! All clocks stand at the same time, which is what is sealed up to. A writer whose clock is
//! behind has stamped before that.

use std::time::Duration;

use kvquorum_core::{Bytes, Coordinator, Edit, PassReport, PassSettings, Refusal, Response};
use tokio::spawn;
use tokio::task::JoinHandle;

use super::stage::{Kind, Stage, Wire};

type Client = Coordinator<3, 2, 2, Wire<3>>;

/// A put, or a delete.
fn write(client: &Client, value: Option<&'static str>) -> JoinHandle<bool> {
    let client = client.clone();
    spawn(async move {
        match value {
            Some(value) => client.put("k", value).await.is_ok(),
            None => client.delete("k").await.is_ok(),
        }
    })
}

async fn written(stage: &Stage<3>, number: usize, client: &Client, value: Option<&'static str>) {
    let writing = write(client, value);
    assert!(stage.through(number, writing).await);
    stage.through_but(number, Kind::Status).await;
}

fn append(client: &Client, value: &'static str) -> JoinHandle<Option<Option<Bytes>>> {
    let client = client.clone();
    spawn(async move {
        let append = |held: Option<&Bytes>| {
            let mut appended = held.map_or(Vec::new(), |held| held.to_vec());
            appended.extend_from_slice(value.as_bytes());
            Edit::Put(appended.into())
        };
        let updated = client.update("k", append).await.ok()?;
        Some(updated.before().cloned())
    })
}

fn collect(client: &Client) -> JoinHandle<PassReport> {
    let client = client.clone();
    let settings = PassSettings::default().collect_lag(Duration::ZERO);
    spawn(async move { client.collect(settings).await })
}

/// A round whose last step reaches only some.
async fn collected_at(stage: &Stage<3>, number: usize, client: &Client, replicas: &[usize]) {
    let collecting = collect(client);
    stage.through_but(number, Kind::Collect).await;
    stage.tell(Kind::Collect, replicas).await;
    stage.lose_all(Kind::Collect);
    stage.settle().await;
    drop(collecting);
    for place in 0..3 {
        assert_eq!(is_collected(stage, place).await, replicas.contains(&place));
    }
}

async fn is_collected(stage: &Stage<3>, place: usize) -> bool {
    let status = stage.replica(place);
    let request = kvquorum_core::Request::status();
    match kvquorum_core::Transport::call(&status, &request).await {
        Ok(Response::Told(told)) => match *told {
            kvquorum_core::Told::Status(status) => status.marks.collected.millis() > 0,
            told => panic!("{told:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// Delivers a put to these, also where it is sent again in a later era, or stamped anew
/// once others have had the time to answer.
async fn written_at(stage: &Stage<3>, replicas: &[usize]) {
    for _ in 0..8 {
        stage.tell(Kind::Write, replicas).await;
    }
}

/// What a get finds that reads from these.
async fn get(stage: &Stage<3>, client: &Client, replicas: &[usize]) -> Option<Bytes> {
    let client = client.clone();
    let get = spawn(async move { client.get("k").await.unwrap() });
    while !get.is_finished() {
        stage.tell(Kind::Read, replicas).await;
    }
    stage.lose_all(Kind::Read);
    get.await.unwrap()
}

async fn reborn(stage: &Stage<3>, place: usize, number: usize, client: &Client) {
    stage.lose(place);
    let client = client.clone();
    let rejoin = spawn(async move { client.rejoin(place).run().await.map(drop) });
    stage.through(number, rejoin).await.unwrap();
}

/// The first is a writer whose clock is behind, the second collects, the third reads.
fn clients(stage: &Stage<3>) -> [Client; 3] {
    [-5, 0, 0].map(|ahead| stage.client(ahead))
}

/// A value, a backup of it at one replica, and its delete.
async fn deleted(
    stage: &Stage<3>,
    of: usize,
    writer: &Client,
) -> Vec<(kvquorum_core::Key, kvquorum_core::Record)> {
    written(stage, 0, writer, Some("v")).await;
    let backup = stage.backup(of).await;
    written(stage, 0, writer, None).await;
    backup
}

/// G-VOID. Bug: a get takes what is void.
#[tokio::test(start_paused = true)]
async fn g_void_a_get_meets_a_backup() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let backup = deleted(&stage, 2, &writer).await;
    collected_at(&stage, 1, &collector, &[0, 1]).await;
    stage.restore(2, &backup).await;
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None);
    assert_eq!(get(&stage, &reader, &[2, 1]).await, None);
}

/// G-VOID. Bug: an update sees what is void.
#[tokio::test(start_paused = true)]
async fn g_void_an_update_meets_a_backup() {
    let stage = Stage::new();
    let [writer, collector, updater] = clients(&stage);
    let backup = deleted(&stage, 2, &writer).await;
    collected_at(&stage, 1, &collector, &[0, 1]).await;
    stage.restore(2, &backup).await;
    let update = append(&updater, "u");
    stage.tell(Kind::Prepare, &[0, 2]).await;
    stage.lose_all(Kind::Prepare);
    assert_eq!(stage.through(2, update).await, Some(None));
}

/// G-VOID. Bugs: a pass takes what is void for what others lack; or has a replica drop
/// what others have not collected.
#[tokio::test(start_paused = true)]
async fn g_void_a_backup_of_the_only_one_to_collect() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let backup = deleted(&stage, 2, &writer).await;
    collected_at(&stage, 1, &collector, &[2]).await;
    let passing = reader.clone();
    let pass = spawn(async move { passing.pass(.., PassSettings::default()).run().await });
    let report = stage.through(2, pass).await;
    assert!(report.is_complete(), "{report:?}");
    stage.restore(2, &backup).await;
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None);
    assert_eq!(get(&stage, &reader, &[1, 2]).await, None);
}

/// G-COLLECT. Bug: a replica collects that has started anew since it was sealed.
#[tokio::test(start_paused = true)]
async fn g_collect_a_backup_is_restored_before_the_collect() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let backup = deleted(&stage, 2, &writer).await;
    let collecting = collect(&collector);
    stage.through_but(1, Kind::Collect).await;
    stage.restore(2, &backup).await;
    stage.tell(Kind::Collect, &[2]).await;
    assert!(!is_collected(&stage, 2).await);
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None);
    stage.tell(Kind::Collect, &[0, 1]).await;
    let report = stage.through(1, collecting).await;
    let collected = report.collection.unwrap().unwrap();
    let failed = collected.replicas.iter().map(|it| it.failure.is_some());
    assert_eq!(failed.collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None);
}

/// G-SEAL. Bug: a seal is forgotten when the process ends.
#[tokio::test(start_paused = true)]
async fn g_seal_replicas_start_anew_after_the_seal() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    collected_at(&stage, 1, &collector, &[2]).await;
    stage.restart(0);
    stage.restart(1);
    let putting = write(&writer, Some("v"));
    written_at(&stage, &[0, 1]).await;
    assert!(putting.await.unwrap());
    stage.lose_all(Kind::Write);
    assert_eq!(get(&stage, &reader, &[0, 2]).await, Some("v".into()));
}

/// G-SEAL. Bug: a round goes on, and collects, though a replica was not sealed.
#[tokio::test(start_paused = true)]
async fn g_seal_a_put_past_a_missing_seal() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let collecting = collect(&collector);
    stage.through_but(1, Kind::Seal).await;
    stage.tell(Kind::Seal, &[0, 1]).await;
    stage.lose_all(Kind::Seal);
    // Whatever the round does without, A collects, and the others don't.
    stage.through_but(1, Kind::Collect).await;
    stage.tell(Kind::Collect, &[0]).await;
    stage.lose_all(Kind::Collect);
    let putting = write(&writer, Some("v"));
    stage.tell(Kind::Write, &[2]).await;
    // A repair of it brings it to B, past the seal.
    assert_eq!(get(&stage, &reader, &[1, 2]).await, Some("v".into()));
    stage.tell(Kind::Repair, &[1]).await;
    stage.tell(Kind::Write, &[1]).await;
    assert!(putting.await.unwrap());
    stage.lose_all(Kind::Write);
    assert_eq!(get(&stage, &reader, &[0, 2]).await, Some("v".into()));
    drop(collecting);
}

/// G-SEAL. Bug: the second phase of an update is held to the mark, and not to the seal.
#[tokio::test(start_paused = true)]
async fn g_seal_an_accept_after_the_level() {
    let stage = Stage::new();
    let [updater, collector, reader] = clients(&stage);
    let update = append(&updater, "u");
    stage.tell(Kind::Prepare, &[0, 1]).await;
    stage.lose_all(Kind::Prepare);
    let accepts = stage.take(Kind::Write, &[0, 1]);
    assert_eq!(accepts.len(), 2);
    stage.lose_all(Kind::Write);
    collected_at(&stage, 1, &collector, &[2]).await;
    stage.give(accepts).await;
    assert!(!update.is_finished(), "it was stamped before the seal");
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None);
}

/// G-LEVEL. Bug: a round does not wait for the last of its repairs.
#[tokio::test(start_paused = true)]
async fn g_level_a_repair_is_lost() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    written(&stage, 0, &writer, Some("v")).await;
    let deleting = write(&writer, None);
    stage.tell(Kind::Write, &[0]).await;
    stage.lose_all(Kind::Write);
    let collecting = collect(&collector);
    stage.through_but(1, Kind::Repair).await;
    stage.tell(Kind::Repair, &[1]).await;
    stage.lose_all(Kind::Repair);
    stage.through_but(1, Kind::Repair).await;
    for place in 0..3 {
        assert!(!is_collected(&stage, place).await, "C has not acked");
    }
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None);
    drop((deleting, collecting));
}

/// G-COLLECT. Bug: a repair is taken that is older than the mark.
#[tokio::test(start_paused = true)]
async fn g_collect_a_stale_repair() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let putting = write(&writer, Some("v"));
    stage.tell(Kind::Write, &[0, 1]).await;
    assert!(putting.await.unwrap());
    stage.lose_all(Kind::Write);
    assert!(get(&stage, &reader, &[0, 2]).await.is_some());
    let stale = stage.take(Kind::Repair, &[2]);
    assert_eq!(stale.len(), 1);
    let again = stale[0].again();
    written(&stage, 0, &writer, None).await;
    collected_at(&stage, 1, &collector, &[0, 1, 2]).await;
    let refused = stage.give(vec![again]).await;
    let is_before = |it: &Response| matches!(it, Response::Refused(Refusal::Before { .. }));
    assert!(is_before(refused[0].as_ref().unwrap()), "{refused:?}");
    stage.give(stale).await;
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None);
}

/// G-COLLECT. Bug: a tombstone that is dropped takes a ballot with it that is greater.
#[tokio::test(start_paused = true)]
async fn g_collect_a_put_between_tombstone_and_ballot() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let updater: Client = stage.client(10);
    let late: Client = stage.client(2);
    written(&stage, 0, &writer, None).await;
    let update = append(&updater, "u");
    stage.tell(Kind::Prepare, &[0, 1]).await;
    stage.lose_all(Kind::Prepare);
    let accepts = stage.take(Kind::Write, &[0, 1, 2]);
    assert_eq!(accepts.len(), 3);
    collected_at(&stage, 1, &collector, &[0, 1, 2]).await;
    let putting = write(&late, Some("v"));
    stage.tell(Kind::Write, &[0, 1]).await;
    assert!(!putting.is_finished(), "both have promised more");
    stage.lose_all(Kind::Write);
    stage.give(accepts).await;
    assert_eq!(update.await.unwrap(), Some(None));
    assert_eq!(get(&stage, &reader, &[0, 1]).await, Some("u".into()));
}

/// G-SEAL. Bug: a replica that rejoins is not sealed up to where its peers are.
#[tokio::test(start_paused = true)]
async fn g_seal_a_write_below_the_seal_of_one_reborn() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let other: Client = stage.client(0);
    collected_at(&stage, 1, &collector, &[1]).await;
    reborn(&stage, 2, 3, &other).await;
    let putting = write(&writer, Some("v"));
    written_at(&stage, &[2]).await;
    assert_eq!(get(&stage, &reader, &[0, 2]).await, None, "C is sealed");
    drop(putting);
}

/// G-VOID. Bug: a replica that rejoins forgets what was collected.
#[tokio::test(start_paused = true)]
async fn g_void_a_backup_beside_one_reborn() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let other: Client = stage.client(0);
    let backup = deleted(&stage, 1, &writer).await;
    collected_at(&stage, 1, &collector, &[0, 1, 2]).await;
    reborn(&stage, 2, 3, &other).await;
    stage.restore(1, &backup).await;
    assert_eq!(get(&stage, &reader, &[1, 2]).await, None);
}

/// G-VOID. Bug: a replica that rejoins copies what is void.
#[tokio::test(start_paused = true)]
async fn g_void_a_rejoin_beside_a_backup() {
    let stage = Stage::new();
    let [writer, collector, _] = clients(&stage);
    let other: Client = stage.client(0);
    let backup = deleted(&stage, 1, &writer).await;
    collected_at(&stage, 1, &collector, &[0, 1, 2]).await;
    stage.restore(1, &backup).await;
    reborn(&stage, 2, 3, &other).await;
    let copied = stage.backup(2).await;
    assert!(copied.iter().all(|(key, _)| key.is_empty()), "{copied:?}");
}

/// G-COLLECT. Bug: deletes are collected while a replica copies, and what it copied before
/// counts as of the mark that it began with.
#[tokio::test(start_paused = true)]
async fn g_collect_while_a_replica_copies() {
    let stage = Stage::new();
    let [_, collector, _] = clients(&stage);
    let other: Client = stage.client(0);
    let collecting = collect(&collector);
    stage.through_but(1, Kind::Collect).await;
    stage.lose(2);
    let rejoin = spawn(async move { other.rejoin(2).run().await.map(drop) });
    stage.tell(Kind::Status, &[0, 1, 2]).await;
    stage.tell(Kind::Announce, &[0, 1]).await;
    // Before it enters the era, A collects.
    stage.tell(Kind::Enter, &[1]).await;
    stage.tell(Kind::Collect, &[0]).await;
    stage.tell(Kind::Enter, &[0]).await;
    assert!(stage.through(3, rejoin).await.is_ok());
    assert!(is_collected(&stage, 2).await, "it takes A's mark");
    // B is in the later era.
    stage.tell(Kind::Collect, &[1]).await;
    assert!(!is_collected(&stage, 1).await);
    drop(collecting);
}

/// G-LEVEL, J-ERA. Bug: a pass sends on, in a later era, what it read before its source lost
/// it: what is void by then is brought back to some, and acknowledged.
#[tokio::test(start_paused = true)]
async fn g_level_a_repair_of_a_pass_from_before_a_loss() {
    let stage = Stage::new();
    let [writer, collector, reader] = clients(&stage);
    let [other, passing]: [Client; 2] = [(); 2].map(|()| stage.client(0));
    let putting = write(&writer, Some("v"));
    stage.tell(Kind::Write, &[2]).await;
    let pass = spawn(async move { passing.pass(.., PassSettings::default()).run().await });
    stage.through_but(4, Kind::Repair).await;
    let stale = stage.take(Kind::Repair, &[0, 1]);
    assert_eq!(stale.len(), 2);
    // C alone had it.
    reborn(&stage, 2, 3, &other).await;
    collected_at(&stage, 1, &collector, &[2]).await;
    stage.give(stale).await;
    stage.tell(Kind::Repair, &[0, 1]).await;
    written_at(&stage, &[0, 1]).await;
    let is_acknowledged = putting.is_finished() && putting.await.unwrap();
    stage.lose_all(Kind::Write);
    let found = get(&stage, &reader, &[0, 2]).await;
    assert!(!is_acknowledged || found.is_some(), "it was acknowledged");
    let report = stage.through(4, pass).await;
    assert!(!report.is_complete());
}
