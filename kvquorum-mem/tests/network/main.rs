//! Each fault of the network in memory does what it says, and no more. Time is
//! tokio's and paused, so that nothing here waits.

mod crashes;

use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kvquorum_core::{
    Ack, Call, Change, Entry, Key, Limits, Record, Replica, Request, Response, ScanLimit, Store,
    StoreError, Timestamp, Transport, TransportError, Version, WriterId,
};
use kvquorum_mem::{Link, MemStore, Network, Node};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(3600);

fn pair() -> (Node, Link) {
    let node = Network::new(7).node("a");
    let link = node.link();
    (node, link)
}

fn key() -> Key {
    Key::from("key")
}

fn entry(timestamp: u64) -> Entry {
    let version = Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(1),
    };
    Entry::new(version, "value")
}

fn write(timestamp: u64) -> Request {
    Request::write(key(), entry(timestamp))
}

fn is_applied(answer: &Result<Response, TransportError>) -> bool {
    matches!(answer, Ok(Response::Ack(Ack::Applied)))
}

/// The answer to a call that must have one: where it has none, the test fails
/// instead of waiting for ever.
async fn answer(
    call: impl Future<Output = Result<Response, TransportError>>,
) -> Result<Response, TransportError> {
    timeout(LONG, call)
        .await
        .expect("the call is never answered")
}

/// What the node's store holds under the key, by its timestamp.
async fn stored(node: &Node) -> Option<u64> {
    let record = node.store().get(&key()).await.unwrap();
    Some(record?.entry()?.version.timestamp.to_bits())
}

/// Sends a merge, and lets the caller leave this much later.
async fn send(link: &Link, timestamp: u64, patience: Duration) -> bool {
    timeout(patience, link.call(&write(timestamp)))
        .await
        .is_ok()
}

/// Whether a call is never answered, however patient its caller is.
async fn never_answered(link: &Link, timestamp: u64) -> bool {
    !send(link, timestamp, LONG).await
}

/// Whether a call is not over when it is made.
fn is_pending(link: &Link, timestamp: u64) -> bool {
    matches!(link.call(&write(timestamp)), Call::Pending(_))
}

/// Catches a result at once that is past a fault, or that comes of a request
/// which is then sent once more; and a sound link that has none.
#[tokio::test(start_paused = true)]
async fn only_a_sound_link_has_results_at_once() {
    let faults: [fn(&Link); 6] = [
        |link| link.set_latency(MS),
        |link| link.lose_requests(0.1),
        |link| link.lose_responses(0.1),
        |link| link.duplicate(0.1, MS),
        Link::cut,
        Link::hang,
    ];
    for set in faults {
        let (node, link) = pair();
        set(&link);
        assert!(is_pending(&link, 1));
        assert_eq!(stored(&node).await, None);

        link.heal();
        let Call::Ready(result) = link.call(&write(1)) else {
            panic!("a sound link is not as fast as its replica");
        };
        assert!(is_applied(&result), "{result:?}");
        assert_eq!(stored(&node).await, Some(1));

        node.crash();
        let call = link.call(&write(2));
        let Call::Ready(Err(TransportError::NotSent(_))) = call else {
            panic!("{call:?}");
        };
        set(&link);
        assert!(is_pending(&link, 2));
        assert_eq!(stored(&node).await, Some(1));
    }
}

/// Catches a timer, a task or a wait on the way of a call without faults.
#[test]
fn a_sound_call_completes_at_its_first_poll_and_needs_no_runtime() {
    let (_node, link) = pair();
    link.lose_requests(1.0);
    link.heal();
    let mut call = pin!(link.call(&write(1)));
    match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => assert!(is_applied(&answer)),
        Poll::Pending => panic!("a call over a sound link waits for something"),
    }
}

/// Catches a link that leads to another replica than its node's, and a node
/// that does not take the replica it was given.
#[tokio::test(start_paused = true)]
async fn a_node_hosts_the_replica_it_was_given() {
    let mut limits = Limits::default();
    limits.max_key_len = 2;
    let replica = Replica::new(MemStore::new())
        .of_new_cluster()
        .with_limits(limits)
        .with_name("b");
    let node = Network::new(7).host(replica);
    let link = node.link();
    assert_eq!((link.name(), node.name()), ("b", "b"));
    assert_eq!(node.replica().limits().max_key_len, 2);
    assert!(matches!(
        answer(link.call(&write(1))).await,
        Ok(Response::Refused(_))
    ));
}

/// Catches a latency that counts one way only, twice, or not at all.
#[tokio::test(start_paused = true)]
async fn latency_counts_once_each_way() {
    let (node, link) = pair();
    let start = Instant::now();
    link.set_request_latency(3 * MS);
    link.set_response_latency(40 * MS);
    assert!(is_applied(&answer(link.call(&write(1))).await));
    assert_eq!(start.elapsed(), 43 * MS);

    // The request has arrived while the response is under way.
    let mut call = pin!(link.call(&write(2)));
    assert!(timeout(2 * MS, &mut call).await.is_err());
    assert_eq!(stored(&node).await, Some(1), "arrived too early");
    assert!(timeout(2 * MS, &mut call).await.is_err());
    assert_eq!(stored(&node).await, Some(2), "arrived too late");
    assert!(is_applied(&answer(call).await));
    assert_eq!(start.elapsed(), 86 * MS);

    link.set_latency(5 * MS);
    answer(link.call(&write(3))).await.unwrap();
    assert_eq!(start.elapsed(), 96 * MS);
}

/// Catches a range of which only an end is used, or that is left.
#[tokio::test(start_paused = true)]
async fn latencies_are_spread_over_their_range() {
    let (_node, link) = pair();
    link.set_request_latency(10 * MS..=30 * MS);
    let mut seen = Vec::new();
    for timestamp in 1..200 {
        let start = Instant::now();
        answer(link.call(&write(timestamp))).await.unwrap();
        seen.push(start.elapsed());
    }
    seen.sort();
    // Timers round up to the next millisecond.
    assert!(
        seen.iter().all(|took| (10 * MS..=31 * MS).contains(took)),
        "{seen:?}"
    );
    assert!(
        seen.first() < Some(&(13 * MS)) && seen.last() > Some(&(28 * MS)),
        "{seen:?}"
    );
}

/// Catches a lost request that is stored, or answered in any way.
#[tokio::test(start_paused = true)]
async fn a_lost_request_is_never_answered_and_never_stored() {
    let (node, link) = pair();
    link.lose_requests(1.0);
    assert!(never_answered(&link, 1).await);
    assert_eq!(stored(&node).await, None);
}

/// Catches the answer lost together with the effect, and the other way round.
#[tokio::test(start_paused = true)]
async fn a_lost_response_is_never_answered_but_stored() {
    let (node, link) = pair();
    link.lose_responses(1.0);
    assert!(never_answered(&link, 1).await);
    assert_eq!(stored(&node).await, Some(1));
}

/// Catches probabilities taken for all or nothing, or for their complement.
#[tokio::test(start_paused = true)]
async fn messages_are_lost_with_the_probability_that_was_set() {
    let (_node, link) = pair();
    link.lose_requests(0.2);
    let mut lost = 0;
    for timestamp in 1..=1_000 {
        lost += u32::from(never_answered(&link, timestamp).await);
    }
    assert!((150..250).contains(&lost), "{lost} of 1000 requests lost");
    link.lose_requests(0.0);
    for timestamp in 1..=100 {
        assert!(send(&link, timestamp, LONG).await);
    }
}

/// Catches a second delivery that does not take place, comes too early, or
/// answers the caller.
#[tokio::test(start_paused = true)]
async fn a_duplicate_arrives_a_second_time_later() {
    let (node, link) = pair();
    link.duplicate(1.0, 10 * MS);
    let start = Instant::now();
    assert!(is_applied(&answer(link.call(&write(1))).await));
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Once more over nothing, so that the second delivery shows.
    node.store().clear();
    sleep(9 * MS).await;
    assert_eq!(stored(&node).await, None);
    sleep(2 * MS).await;
    assert_eq!(stored(&node).await, Some(1));
    // And it is two deliveries, not more.
    node.store().clear();
    sleep(LONG).await;
    assert_eq!(stored(&node).await, None);
}

/// Catches a cut in the wrong direction, and one that cannot be healed.
#[tokio::test(start_paused = true)]
async fn a_partition_cuts_each_direction_by_itself() {
    let (node, link) = pair();
    link.cut_requests();
    assert!(never_answered(&link, 1).await);
    assert_eq!(stored(&node).await, None, "the request got through");
    link.heal();
    link.cut_responses();
    assert!(never_answered(&link, 2).await);
    assert_eq!(stored(&node).await, Some(2), "the request was cut as well");
    link.heal();
    link.cut();
    assert!(never_answered(&link, 3).await);
    assert_eq!(stored(&node).await, Some(2));
    link.heal();
    assert!(is_applied(&answer(link.call(&write(4))).await));
}

/// Catches a partition that ends with all other faults, or only half.
#[tokio::test(start_paused = true)]
async fn a_partition_can_end_without_the_other_faults() {
    let (_node, link) = pair();
    link.set_latency(5 * MS);
    link.cut();
    link.hang();
    link.reconnect();
    let start = Instant::now();
    assert!(is_applied(&answer(link.call(&write(1))).await));
    assert_eq!(start.elapsed(), 10 * MS);
}

/// Catches faults that are looked up at the wrong end of a message's way: a
/// response meets the faults of when it is sent.
#[tokio::test(start_paused = true)]
async fn a_fault_counts_when_a_message_is_sent() {
    let (node, link) = pair();
    link.set_request_latency(10 * MS);
    let mut call = pin!(link.call(&write(1)));
    assert!(timeout(5 * MS, &mut call).await.is_err());
    // The request is past it; the response is not.
    link.cut();
    assert!(timeout(LONG, call).await.is_err());
    assert_eq!(stored(&node).await, Some(1));

    link.heal();
    link.set_request_latency(10 * MS);
    link.cut_responses();
    let mut call = pin!(link.call(&write(2)));
    assert!(timeout(5 * MS, &mut call).await.is_err());
    // Healed before the response was sent.
    link.heal();
    assert!(is_applied(&answer(call).await));
}

/// Catches faults shared by links, or not shared by a link's clones.
#[tokio::test(start_paused = true)]
async fn faults_belong_to_a_link() {
    let (node, link) = pair();
    let other = node.link();
    link.clone().cut();
    assert!(never_answered(&link, 1).await);
    assert!(is_applied(&answer(other.call(&write(2))).await));
}

/// Catches a hang that loses the call, or lets it through.
#[tokio::test(start_paused = true)]
async fn a_hung_call_completes_once_the_link_is_healed() {
    let (node, link) = pair();
    link.hang();
    let mut call = pin!(link.call(&write(1)));
    assert!(timeout(LONG, &mut call).await.is_err());
    assert_eq!(stored(&node).await, None);
    link.heal();
    assert!(is_applied(&answer(call).await));

    // The same for a response.
    link.set_request_latency(10 * MS);
    let mut call = pin!(link.call(&write(2)));
    assert!(timeout(5 * MS, &mut call).await.is_err());
    link.hang();
    assert!(timeout(LONG, &mut call).await.is_err());
    assert_eq!(stored(&node).await, Some(2));
    link.heal();
    assert!(is_applied(&answer(call).await));
}

/// Catches a held request that leaves with its caller: the late write that
/// comes out of a peer which stood still.
#[tokio::test(start_paused = true)]
async fn a_hung_request_arrives_after_its_caller_has_left() {
    let (node, link) = pair();
    link.hang();
    assert!(!send(&link, 1, MS).await);
    link.heal();
    sleep(MS).await;
    assert_eq!(stored(&node).await, Some(1));
}

/// Catches a dropped call that takes its request back.
#[tokio::test(start_paused = true)]
async fn a_request_that_was_sent_arrives_after_its_caller_has_left() {
    let (node, link) = pair();
    link.set_latency(10 * MS);
    assert!(!send(&link, 1, 5 * MS).await);
    sleep(4 * MS).await;
    assert_eq!(stored(&node).await, None, "arrived too early");
    sleep(2 * MS).await;
    assert_eq!(stored(&node).await, Some(1));
    // Never polled, never sent.
    drop(link.call(&write(2)));
    sleep(LONG).await;
    assert_eq!(stored(&node).await, Some(1));
}

/// Catches strays without a bound, and room that is not given back.
#[tokio::test(start_paused = true)]
async fn strays_are_bounded() {
    let node = Network::new(7).with_max_strays(3).node("a");
    let link = node.link();
    link.set_latency(50 * MS);
    // What it keeps of itself goes, too.
    node.replica().readiness().await.unwrap();
    for _ in 0..2 {
        node.store().clear();
        for number in 0..10 {
            let request = Request::write(format!("key {number}"), entry(1));
            assert!(timeout(MS, link.call(&request)).await.is_err());
        }
        sleep(LONG).await;
        assert_eq!(node.store().len(), 3);
    }
    // Callers that wait need no room.
    let calls: Vec<_> = (1..=10)
        .map(|timestamp| {
            let link = link.clone();
            tokio::spawn(async move { answer(link.call(&write(timestamp))).await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().is_ok());
    }
}

/// Catches a refused connection that comes through a partition.
#[tokio::test(start_paused = true)]
async fn a_refusal_to_connect_meets_the_links_faults() {
    let (node, link) = pair();
    node.crash();
    link.cut_requests();
    assert!(never_answered(&link, 1).await);
    link.heal();
    link.cut_responses();
    assert!(never_answered(&link, 1).await);
    link.heal();
    link.set_latency(5 * MS);
    let start = Instant::now();
    let answer = answer(link.call(&write(1))).await;
    assert!(matches!(answer, Err(TransportError::NotSent(_))));
    assert_eq!(start.elapsed(), 10 * MS);
}

/// Which of a link's first calls were answered, and when.
async fn history(link: &Link) -> Vec<(bool, Duration)> {
    let mut history = Vec::new();
    for timestamp in 1..=40 {
        let start = Instant::now();
        let answered = send(link, timestamp, LONG).await;
        history.push((answered, start.elapsed()));
    }
    history
}

fn lossy(link: &Link) {
    link.lose_requests(0.3);
    link.lose_responses(0.1);
    link.set_latency(Duration::ZERO..=20 * MS);
}

/// Catches faults that do not follow from the seed, and links or seeds that
/// meet the same ones.
#[tokio::test(start_paused = true)]
async fn the_seed_is_the_whole_history() {
    let run = async |seed: u64| {
        let node = Network::new(seed).node("a");
        let (first, second) = (node.link(), node.link());
        lossy(&first);
        lossy(&second);
        (history(&first).await, history(&second).await)
    };
    let (first, second) = run(1).await;
    assert_eq!(run(1).await, (first.clone(), second.clone()));
    assert_ne!(first, second, "two links draw the same");
    assert_ne!(run(2).await.0, first, "two seeds draw the same");
}

/// Catches links that draw from one stream: traffic on one would change the
/// faults of the other.
#[tokio::test(start_paused = true)]
async fn a_links_faults_do_not_depend_on_other_traffic() {
    let run = async |busy: bool| {
        let node = Network::new(1).node("a");
        let (other, link) = (node.link(), node.link());
        lossy(&other);
        lossy(&link);
        if busy {
            history(&other).await;
        }
        history(&link).await
    };
    assert_eq!(run(true).await, run(false).await);
}

/// Catches a healed link that goes on as one with faults: calls over a sound
/// link draw nothing, so that what came before a fault does not change it.
#[tokio::test(start_paused = true)]
async fn sound_calls_draw_nothing() {
    let run = async |sound_calls: u64| {
        let link = pair().1;
        lossy(&link);
        link.heal();
        // As sound as after healing: nothing of it is left.
        link.cut();
        link.reconnect();
        link.hang();
        link.reconnect();
        link.lose_requests(0.5);
        link.lose_requests(0.0);
        for timestamp in 1..=sound_calls {
            assert!(is_applied(&answer(link.call(&write(timestamp))).await));
        }
        lossy(&link);
        history(&link).await
    };
    assert_eq!(run(0).await, run(9).await);
}

/// Catches messages that are held back by one hang, and then by the next one
/// too, where nobody ran in between.
#[tokio::test(start_paused = true)]
async fn what_a_hang_holds_goes_on_when_it_ends() {
    let (node, link) = pair();
    link.hang();
    let held = tokio::spawn({
        let link = link.clone();
        async move { link.call(&write(1)).await }
    });
    // It is sent, and held.
    tokio::time::sleep(MS).await;
    assert!(!held.is_finished());
    link.heal();
    link.hang();
    tokio::time::sleep(MS).await;
    assert_eq!(stored(&node).await, Some(1));
    // The answer was sent during the second one.
    link.heal();
    assert!(is_applied(&answer(async { held.await.unwrap() }).await));
}

/// Catches draws that depend on which faults are set: setting one more would
/// change all that follows.
#[tokio::test(start_paused = true)]
async fn one_fault_more_leaves_the_others_as_they_were() {
    let lost = async |more: bool| {
        let link = pair().1;
        link.lose_requests(0.3);
        if more {
            link.set_latency(Duration::ZERO..=20 * MS);
            link.duplicate(0.5, Duration::ZERO);
        }
        let history = history(&link).await;
        history
            .into_iter()
            .map(|(answered, _)| answered)
            .collect::<Vec<_>>()
    };
    assert_eq!(lost(true).await, lost(false).await);
}

/// Catches a change of the streams: a seed that someone wrote down would no
/// longer lead to what they saw.
#[tokio::test(start_paused = true)]
async fn a_seed_means_the_same_in_every_version() {
    let node = Network::new(42).node("a");
    let mut seen = Vec::new();
    for link in [node.link(), node.link()] {
        link.lose_requests(0.5);
        let history = history(&link).await;
        let answered = history
            .iter()
            .map(|(answered, _)| if *answered { '+' } else { '-' });
        seen.push(answered.collect::<String>());
    }
    let expected = [
        "+-+++-+-++++++-+--+--++++++-++--+-++-+--",
        "+++-++-+-++---+--+-+----+++-+-++--+-++-+",
    ];
    assert_eq!(seen, expected);
}

/// Catches waiters that are woken in a random order: the order of arrival would
/// differ from run to run. Twelve calls could come in order by chance, but not
/// in each of twenty rounds.
#[tokio::test(start_paused = true)]
async fn what_a_link_held_back_arrives_in_the_order_it_was_sent() {
    for _ in 0..20 {
        let (node, link) = pair();
        link.hang();
        let arrived = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        for timestamp in 1..=12 {
            let (link, arrived) = (link.clone(), arrived.clone());
            tokio::spawn(async move {
                link.call(&write(timestamp)).await.unwrap();
                arrived.lock().unwrap().push(timestamp);
            });
        }
        sleep(MS).await;
        link.reconnect();
        sleep(MS).await;
        assert_eq!(*arrived.lock().unwrap(), (1..=12).collect::<Vec<_>>());
        assert_eq!(stored(&node).await, Some(12));
    }
}

struct Panicking;

impl Store for Panicking {
    async fn get(&self, _: &Key) -> Result<Option<Record>, StoreError> {
        panic!("planted")
    }

    async fn apply(&self, _: &Key, _: Change<'_>) -> Result<Response, StoreError> {
        panic!("planted")
    }

    async fn scan(
        &self,
        _: (Bound<&Key>, Bound<&Key>),
        _: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(Vec::new())
    }
}

/// Catches a message that is carried on, and panics once more, after the panic of a
/// store has ended its call.
#[tokio::test(start_paused = true)]
async fn a_message_that_has_panicked_goes_nowhere() {
    let replica = Replica::new(Panicking).of_new_cluster().with_name("a");
    let link = Network::new(7).host(replica).link();
    link.set_latency(MS);
    let mut call = link.call(&Request::read(key()));
    let mut poll = || Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    sleep(MS).await;
    assert!(catch_unwind(AssertUnwindSafe(poll)).is_err());
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
}
