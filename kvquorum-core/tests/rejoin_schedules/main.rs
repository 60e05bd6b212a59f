//! Rare orders of events around a rejoin, written down: rules J-COPY, J-ERA and
//! J-SILENT. Storms of a simulation come to some of them once in many thousand seeds.
//! In all of them, an acknowledged write is found by whoever reads next, and no update is
//! lost. Three replicas, 3/2/2, unless it says otherwise: A, B and C are 0, 1 and 2.

mod stage;

use kvquorum_core::{Bytes, Coordinator, Edit, Readiness, Refusal, RejoinError, Response};
use stage::{Kind, Stage, Wire};
use tokio::spawn;
use tokio::task::JoinHandle;

type Client<const N: usize = 3, const W: usize = 2, const R: usize = 2> =
    Coordinator<N, W, R, Wire<N>>;

fn put(client: &Client, value: &'static str) -> JoinHandle<bool> {
    let client = client.clone();
    spawn(async move { client.put("k", value).await.is_ok() })
}

/// Appends to what is there; what was there.
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

/// A replica has lost its data and rejoins, by the client of this number.
async fn reborn(stage: &Stage<3>, place: usize, number: usize, client: &Client) {
    stage.lose(place);
    let client = client.clone();
    let rejoin = spawn(async move { client.rejoin(place).run().await.map(drop) });
    stage.through(number, rejoin).await.unwrap();
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

/// Bug: acks of two eras count together; or a write of an older era is taken; or a rejoin
/// copies in the era that was.
#[tokio::test(start_paused = true)]
async fn a_put_across_a_loss() {
    let stage = Stage::new();
    let [writer, other, reader]: [Client; 3] = [(); 3].map(|()| stage.client(0));
    let putting = put(&writer, "v");
    stage.tell(Kind::Write, &[2]).await;
    reborn(&stage, 2, 1, &other).await;
    // In the old era, and then in the new one.
    stage.tell(Kind::Write, &[1]).await;
    stage.tell(Kind::Write, &[1]).await;
    assert!(!putting.is_finished(), "C has lost it, and B alone has it");
    stage.tell(Kind::Write, &[0]).await;
    stage.tell(Kind::Write, &[0]).await;
    assert!(putting.await.unwrap());
    assert!(get(&stage, &reader, &[0, 2]).await.is_some());
}

/// Bug: promises of two eras count together; or a ballot of an older era is promised.
#[tokio::test(start_paused = true)]
async fn promises_across_a_loss() {
    let stage = Stage::new();
    let [writer, other]: [Client; 2] = [(); 2].map(|()| stage.client(0));
    let updater: Client = stage.client(10);
    let update = append(&updater, "u");
    stage.tell(Kind::Prepare, &[2]).await;
    reborn(&stage, 2, 1, &other).await;
    stage.tell(Kind::Prepare, &[1]).await;
    stage.tell(Kind::Prepare, &[1]).await;
    let accepts = stage.take(Kind::Write, &[0, 1, 2]);
    assert!(
        accepts.is_empty(),
        "C has forgotten its promise, and B alone keeps it"
    );
    let putting = put(&writer, "v");
    stage.tell(Kind::Write, &[0, 2]).await;
    stage.tell(Kind::Write, &[0, 2]).await;
    assert!(putting.await.unwrap());
    stage.lose_all(Kind::Write);
    assert_eq!(stage.through(2, update).await, Some(Some("v".into())));
}

/// Bug: answers to a get count together that are of two eras; or a read of an older era is
/// answered.
#[tokio::test(start_paused = true)]
async fn a_get_across_a_loss() {
    let stage = Stage::new();
    let [writer, other, reader]: [Client; 3] = [(); 3].map(|()| stage.client(0));
    let getter: Client = stage.builder(0).repair_blocking().build();
    let putting = put(&writer, "v");
    stage.tell(Kind::Write, &[2]).await;
    let getting = spawn(async move { getter.get("k").await.unwrap() });
    stage.tell(Kind::Read, &[2]).await;
    reborn(&stage, 2, 1, &other).await;
    stage.tell(Kind::Write, &[1]).await;
    stage.tell(Kind::Write, &[1]).await;
    stage.tell(Kind::Read, &[1]).await;
    assert!(!getting.is_finished(), "C has lost it, and B alone has it");
    putting.abort();
    stage.lose_all(Kind::Write);
    assert_eq!(stage.through(3, getting).await, Some("v".into()));
    assert!(get(&stage, &reader, &[0, 2]).await.is_some());
}

/// Bug: a repair of an older era is acked.
#[tokio::test(start_paused = true)]
async fn a_repair_from_before_a_loss() {
    let stage = Stage::new();
    let [writer, other]: [Client; 2] = [(); 2].map(|()| stage.client(0));
    let getter: Client = stage.builder(0).repair_blocking().build();
    let putting = put(&writer, "v");
    stage.tell(Kind::Write, &[2]).await;
    putting.abort();
    stage.lose_all(Kind::Write);
    let getting = spawn(async move { getter.get("k").await.unwrap() });
    stage.tell(Kind::Read, &[0, 2]).await;
    stage.lose_all(Kind::Read);
    let repair = stage.take(Kind::Repair, &[0]);
    assert_eq!(repair.len(), 1);
    reborn(&stage, 2, 1, &other).await;
    stage.give(repair).await;
    assert!(!getting.is_finished(), "C has lost it, and A alone has it");
}

/// Bug: a Join or an Open is obeyed that was meant for an earlier start of the process.
#[tokio::test(start_paused = true)]
async fn an_old_rejoin_after_a_new_loss() {
    let stage = Stage::new();
    let [writer, other, reader]: [Client; 3] = [(); 3].map(|()| stage.client(0));
    stage.lose(2);
    let rejoin = spawn(async move { other.rejoin(2).run().await.map(drop) });
    stage.tell(Kind::Status, &[0, 1, 2]).await;
    stage.tell(Kind::Announce, &[0, 1]).await;
    stage.tell(Kind::Enter, &[0, 1]).await;
    let join = stage.take(Kind::Join, &[2]);
    let mut old = vec![join[0].again()];
    stage.give(join).await;
    stage.tell(Kind::Records, &[0, 1]).await;
    let open = stage.take(Kind::Open, &[2]);
    old.push(open[0].again());
    stage.give(open).await;
    rejoin.await.unwrap().unwrap();

    let putting = put(&writer, "v");
    for _ in 0..2 {
        stage.tell(Kind::Write, &[1, 2]).await;
    }
    assert!(putting.await.unwrap());
    stage.lose(2);
    for answer in stage.give(old).await {
        let refused = Response::Refused(Refusal::NotJoining);
        assert_eq!(answer.unwrap(), refused, "it has lost its data since");
    }
    assert_eq!(
        stage.replica(2).readiness().await.unwrap(),
        Readiness::Waiting
    );
    stage.lose_all(Kind::Write);
    let getting = spawn(async move { reader.get("k").await.unwrap() });
    stage.tell(Kind::Read, &[0, 2]).await;
    stage.tell(Kind::Read, &[0, 2]).await;
    assert!(!getting.is_finished());
    stage.tell(Kind::Read, &[1]).await;
    stage.tell(Kind::Read, &[1]).await;
}

/// Bug: an Open of an earlier attempt is obeyed, before the later one has copied anything.
#[tokio::test(start_paused = true)]
async fn an_open_of_an_earlier_attempt() {
    let stage = Stage::new();
    let [one, two]: [Client; 2] = [(); 2].map(|()| stage.client(0));
    stage.lose(2);
    let first = spawn(async move { one.rejoin(2).run().await.map(drop) });
    stage.tell(Kind::Status, &[0, 1, 2]).await;
    stage.tell(Kind::Announce, &[0, 1]).await;
    stage.tell(Kind::Enter, &[0, 1]).await;
    stage.tell(Kind::Join, &[2]).await;
    stage.tell(Kind::Records, &[0, 1]).await;
    let open = stage.take(Kind::Open, &[2]);
    assert_eq!(open.len(), 1);

    let second = spawn(async move { two.rejoin(2).run().await.map(drop) });
    stage.tell(Kind::Status, &[0, 1, 2]).await;
    stage.tell(Kind::Announce, &[0, 1]).await;
    stage.tell(Kind::Enter, &[0, 1]).await;
    stage.tell(Kind::Join, &[2]).await;
    stage.give(open).await;
    assert!(
        first.await.unwrap().is_err(),
        "C copies for another attempt"
    );
    let readiness = stage.replica(2).readiness().await.unwrap();
    assert_eq!(readiness, Readiness::Copying { copied: 0 });
    assert!(stage.through(1, second).await.is_ok());
}

/// Bug: an era begins that was not announced, so that two rejoins have the same one.
#[tokio::test(start_paused = true)]
async fn two_rejoins_at_once() {
    let stage = Stage::<5>::new();
    let [one, other]: [Client<5, 3, 3>; 2] = [(); 2].map(|()| stage.client(0));
    stage.lose(4);
    let first = spawn(async move { one.rejoin(4).run().await.map(drop) });
    let second = spawn(async move { other.rejoin(4).run().await.map(drop) });
    // Both find the same eras, and so choose the same one.
    for _ in 0..2 {
        stage.tell(Kind::Status, &[0, 1, 2, 3, 4]).await;
    }
    stage.tell(Kind::Announce, &[1, 2, 3]).await;
    stage.lose_all(Kind::Status);
    // What is left of the first's announcements is late, and the second's come.
    for _ in 0..2 {
        stage.tell(Kind::Announce, &[0, 1, 2, 3]).await;
    }
    let told = stage.through(1, second).await;
    let too_few = matches!(told, Err(RejoinError::TooFewPeers { .. }));
    assert!(
        too_few,
        "1, 2 and 3 were told of that era by another: {told:?}"
    );
    assert!(stage.through(0, first).await.is_ok());
}

/// Bug: a replica that is joining acks writes.
#[tokio::test(start_paused = true)]
async fn a_put_to_a_joiner_beside_a_ballot() {
    let stage = Stage::new();
    let [writer, other]: [Client; 2] = [(); 2].map(|()| stage.client(0));
    let updater: Client = stage.client(10);
    let update = append(&updater, "u");
    stage.tell(Kind::Prepare, &[1, 2]).await;
    stage.lose_all(Kind::Prepare);
    let accepts = stage.take(Kind::Write, &[0, 1]);
    stage.lose_all(Kind::Write);
    stage.lose(2);
    let rejoin = spawn(async move { other.rejoin(2).run().await.map(drop) });
    stage.tell(Kind::Status, &[0, 1, 2]).await;
    stage.tell(Kind::Announce, &[0, 1]).await;
    stage.tell(Kind::Enter, &[0, 1]).await;
    stage.tell(Kind::Join, &[2]).await;
    let putting = put(&writer, "v");
    for _ in 0..2 {
        stage.tell(Kind::Write, &[0, 2]).await;
    }
    assert!(!putting.is_finished(), "C has forgotten what it promised");
    putting.abort();
    stage.lose_all(Kind::Write);
    stage.give(accepts).await;
    assert!(stage.through(2, update).await.is_some());
    assert!(stage.through(1, rejoin).await.is_ok());
}

/// Bug: a rejoin copies no promises.
#[tokio::test(start_paused = true)]
async fn a_put_over_a_forgotten_promise() {
    let stage = Stage::new();
    let [first, other]: [Client; 2] = [(); 2].map(|()| stage.client(0));
    let [updater, late]: [Client; 2] = [10, -5].map(|ahead| stage.client(ahead));
    let putting = put(&first, "x");
    stage.tell(Kind::Write, &[0, 1, 2]).await;
    assert!(putting.await.unwrap());
    let putting = put(&late, "v");
    // Superseded by x, it is stamped past that.
    stage.tell(Kind::Write, &[0, 2]).await;
    let puts = stage.take(Kind::Write, &[0, 2]);
    stage.lose_all(Kind::Write);
    assert_eq!(puts.len(), 2);
    let update = append(&updater, "u");
    stage.tell(Kind::Prepare, &[1, 2]).await;
    stage.lose_all(Kind::Prepare);
    stage.tell(Kind::Write, &[1]).await;
    stage.lose_all(Kind::Write);
    reborn(&stage, 2, 1, &other).await;
    stage.give(puts).await;
    for _ in 0..3 {
        stage.tell(Kind::Write, &[0, 2]).await;
    }
    assert!(
        !putting.is_finished(),
        "the update has not seen it, and C had promised"
    );
    drop(update);
}

/// Bug: a rejoin copies a key while an update of it is under way.
#[tokio::test(start_paused = true)]
async fn a_copy_below_a_lost_promise() {
    let stage = Stage::new();
    let [one, other, reader]: [Client; 3] = [(); 3].map(|()| stage.client(0));
    let two: Client = stage.client(10);
    // A and B promise the first, and B and C the second, which finds nothing.
    let first = append(&one, "1");
    stage.tell(Kind::Prepare, &[0]).await;
    let of_b = stage.hold(Kind::Prepare, &[1]).await;
    stage.lose_all(Kind::Prepare);
    let second = append(&two, "2");
    stage.tell(Kind::Prepare, &[1]).await;
    let of_c = stage.hold(Kind::Prepare, &[2]).await;
    stage.lose_all(Kind::Prepare);
    // B loses its promises, and an era begins, in which the others go on.
    stage.lose(1);
    let rejoin = spawn(async move { other.rejoin(1).run().await.map(drop) });
    stage.tell(Kind::Status, &[0, 1, 2]).await;
    stage.tell(Kind::Announce, &[0, 2]).await;
    stage.tell(Kind::Enter, &[0, 2]).await;
    for client in [&one, &two] {
        assert_eq!(get(&stage, client, &[0, 2]).await, None);
    }
    stage.release(of_b).await;
    stage.tell(Kind::Write, &[0]).await;
    let accept = stage.take(Kind::Write, &[1]);
    assert_eq!(accept.len(), 1);
    stage.lose_all(Kind::Write);
    // B copies what A and C hold.
    assert!(stage.through(1, rejoin).await.is_ok());
    stage.give(accept).await;
    stage.release(of_c).await;
    stage.tell(Kind::Write, &[0, 2]).await;
    // Each that is acknowledged is in what is there.
    let done = [(first, "1"), (second, "2")];
    let mut acknowledged = Vec::new();
    for (update, value) in done {
        if update.is_finished() && update.await.unwrap().is_some() {
            acknowledged.push(value);
        }
    }
    stage.lose_all(Kind::Write);
    stage.lose_all(Kind::Prepare);
    let there = get(&stage, &reader, &[0, 1]).await.unwrap_or_default();
    let there = std::str::from_utf8(&there).unwrap();
    let mut lost = acknowledged.iter().filter(|value| !there.contains(**value));
    assert_eq!(
        lost.next(),
        None,
        "{acknowledged:?} were acknowledged, and {there:?} is there"
    );
}

/// Bug: a new cluster is opened by what each replica said once.
#[tokio::test(start_paused = true)]
async fn replicas_that_were_new_one_after_the_other() {
    let stage = Stage::not_opened();
    let [opener, other, writer, reader]: [Client; 4] = [(); 4].map(|()| stage.client(0));
    let opening = spawn(async move { opener.rejoin(0).run().await.map(drop) });
    // A is new.
    stage.tell(Kind::Status, &[0]).await;
    let rejoin = other.clone();
    let rejoin = spawn(async move { rejoin.rejoin(0).run().await.map(drop) });
    assert!(stage.through(1, rejoin).await.is_ok());
    // B has lost its data.
    stage.lose(1);
    stage.tell(Kind::Status, &[1]).await;
    let rejoin = other.clone();
    let rejoin = spawn(async move { rejoin.rejoin(1).run().await.map(drop) });
    stage.through(1, rejoin).await.unwrap();
    let putting = put(&writer, "v");
    for _ in 0..2 {
        stage.tell(Kind::Write, &[0, 2]).await;
    }
    assert!(putting.await.unwrap());
    stage.lose_all(Kind::Write);
    // And now C has.
    stage.lose(2);
    stage.tell(Kind::Status, &[2]).await;
    stage.through(0, opening).await.ok();
    // If C is open, it holds what was acknowledged.
    if stage.replica(2).readiness().await.unwrap() == Readiness::Ready {
        assert!(get(&stage, &reader, &[1, 2]).await.is_some());
    }
}
