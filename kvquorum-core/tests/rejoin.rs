//! Replicas that lost their data: rules J-SILENT, J-COPY and J-ERA, where each can be
//! seen alone.

mod support;

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use kvquorum_core::{
    Call, Change, Coordinator, Edit, Era, Key, KeyRange, Marks, ReadError, Readiness, Record,
    Refusal, RejoinError, Replica, Request, RequestKind, Response, ScanLimit, Status, Store,
    StoreError, Told, Transport, TransportError, WriteError,
};
use support::{MapStore, TestSaysSo, entry};
use tokio::sync::oneshot;

type Kinds = fn(&RequestKind) -> bool;

/// A link to a replica that a test can take away, wipe, and keep waiting.
struct Place {
    name: String,
    replica: Mutex<Replica<MapStore>>,
    is_up: AtomicBool,
    /// Requests of these kinds wait until the test lets them go on.
    holds: Mutex<Option<Kinds>>,
    held: Mutex<Vec<(Request, oneshot::Sender<Response>)>>,
}

impl Place {
    fn replica(&self) -> Replica<MapStore> {
        self.replica.lock().unwrap().clone()
    }

    /// The process ends, and begins again without its data.
    fn lose(&self) {
        *self.replica.lock().unwrap() = Replica::new(MapStore::default());
    }

    fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::SeqCst);
    }

    fn hold(&self, kinds: fn(&RequestKind) -> bool) {
        *self.holds.lock().unwrap() = Some(kinds);
    }

    /// Lets all go on that wait, and what comes.
    async fn let_go(&self) {
        *self.holds.lock().unwrap() = None;
        self.deliver().await;
    }

    /// Lets all go on that wait.
    async fn deliver(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap());
        for (request, answer) in held {
            let response = self.replica().call(&request).await.unwrap();
            let _ = answer.send(response);
        }
    }

    async fn ask(&self, kind: RequestKind) -> Response {
        let mut request = Request::status();
        request.kind = kind;
        self.replica().call(&request).await.unwrap()
    }

    async fn status(&self) -> Status {
        match self.ask(RequestKind::Status).await {
            Response::Told(told) => match *told {
                Told::Status(status) => status,
                told => panic!("{told:?}"),
            },
            response => panic!("{response:?}"),
        }
    }

    fn value(&self, key: &str) -> Option<String> {
        let value = self.replica().store().value(key)?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }
}

impl Transport for Place {
    fn call(&self, request: &Request) -> Call {
        if !self.is_up.load(Ordering::SeqCst) {
            return Call::Ready(Err(TransportError::NotSent(Box::new(TestSaysSo))));
        }
        if self
            .holds
            .lock()
            .unwrap()
            .is_some_and(|is_held| is_held(&request.kind))
        {
            let (answer, answered) = oneshot::channel();
            self.held.lock().unwrap().push((request.clone(), answer));
            return Call::new(async move {
                answered
                    .await
                    .map_err(|lost| TransportError::NoAnswer(lost.into()))
            });
        }
        let (replica, request) = (self.replica(), request.clone());
        Call::new(async move {
            // Others come in between.
            tokio::time::sleep(Duration::from_millis(1)).await;
            replica.call(&request).await
        })
    }

    fn name(&self) -> &str {
        &self.name
    }
}

type Places<const N: usize> = [Arc<Place>; N];

/// Replicas that are joining.
fn new_places<const N: usize>() -> Places<N> {
    std::array::from_fn(|index| {
        Arc::new(Place {
            name: format!("place-{index}"),
            replica: Mutex::new(Replica::new(MapStore::default())),
            is_up: AtomicBool::new(true),
            holds: Mutex::default(),
            held: Mutex::default(),
        })
    })
}

fn map(places: &Places<3>) -> Coordinator<3, 2, 2, Arc<Place>> {
    Coordinator::new(places.clone())
}

/// Replicas of a cluster that has begun.
async fn open_places() -> Places<3> {
    let places = new_places();
    map(&places).put("first", "one").await.unwrap();
    map(&places).pass(.., Default::default()).run().await;
    places
}

fn is_write(kind: &RequestKind) -> bool {
    matches!(kind, RequestKind::Write { .. } | RequestKind::Repair { .. })
}

/// Bugs: a replica that lost its data answers a read, acks a write, or promises a
/// ballot, of a coordinator's or of anybody's.
#[tokio::test(start_paused = true)]
async fn j_silent_a_replica_that_is_joining_answers_nothing() {
    let [place] = new_places();
    let key = || Key::from("a");
    let version = entry(1, "").version;
    let marks = place.status().await.marks;
    assert!(marks.is_joining);
    let asked = [
        RequestKind::Read { key: key() },
        RequestKind::Write {
            key: key(),
            entry: entry(1, "a"),
        },
        RequestKind::Prepare {
            key: key(),
            ballot: version,
        },
        Request::scan(.., ScanLimit::NONE).kind,
        RequestKind::Announce {
            era: next(Era::FIRST),
        },
        RequestKind::Records {
            range: KeyRange::from(..),
            max_keys: 9,
            max_bytes: 999,
        },
    ];
    for kind in asked {
        for era in [None, Some(Era::FIRST), Some(next(Era::FIRST))] {
            let mut request = Request::read("a");
            (request.kind, request.era) = (kind.clone(), era);
            let refused = place.replica().call(&request).await.unwrap();
            let expected = Response::Refused(Refusal::Joining { has_begun: false });
            assert_eq!(refused, expected, "{request:?}");
        }
    }
    assert_eq!(place.replica().store().entries().len(), 0);
    assert_eq!(place.status().await.marks, marks);
    assert_eq!(
        place.replica().readiness().await.unwrap(),
        Readiness::Waiting
    );
}

fn next(era: Era) -> Era {
    Era::new(era.get().checked_add(1).unwrap().try_into().unwrap())
}

/// Bugs: a new cluster never begins to work; of many first operations some fail
/// because others have opened the replicas, or are at it.
#[tokio::test(start_paused = true)]
async fn all_new_replicas_open() {
    let places = new_places();
    let maps = [map(&places), map(&places)];
    let puts = (0..64_usize).map(|index| {
        let map = &maps[index % 2];
        async move { map.put(format!("key-{index}"), "v").await }
    });
    for put in join_all(puts).await {
        put.unwrap();
    }
    let get = Coordinator::<3, 2, 2, _>::new(new_places()).get("a").await;
    assert_eq!(get.unwrap(), None);
    let map = Coordinator::<3, 2, 2, _>::new(new_places());
    assert!(map.scan(..).next().await.is_none());
    let map = Coordinator::<3, 2, 2, _>::new(new_places());
    map.registers::<str, u64>("r").put("a", &1).await.unwrap();
}

/// Bug: replicas open as new though one of the N, which may have data, does not say so.
#[tokio::test(start_paused = true)]
async fn some_new_replicas_do_not_open() {
    let places = new_places();
    places[2].set_up(false);
    let error = map(&places).put("a", "1").await.unwrap_err();
    assert!(matches!(error, WriteError::NotApplied(_)), "{error}");
    let error = map(&places).rejoin(0).run().await.unwrap_err();
    assert!(
        matches!(
            error,
            RejoinError::TooFewPeers {
                found: 0,
                needed: 2
            }
        ),
        "{error}"
    );
    // Two of three have lost their data: what both had acked alone would be read as
    // absent.
    let places = open_places().await;
    places[2].set_up(false);
    map(&places).put("a", "1").await.unwrap();
    places[2].set_up(true);
    places[0].lose();
    places[1].lose();
    for _ in 0..3 {
        let error = map(&places).get("a").await.unwrap_err();
        assert!(matches!(error, ReadError::Failed(_)), "{error}");
        let error = map(&places).rejoin(0).run().await.unwrap_err();
        assert!(
            matches!(
                error,
                RejoinError::TooFewPeers {
                    found: 1,
                    needed: 2
                }
            ),
            "{error}"
        );
    }
}

/// Bug: replicas open as new by what they told one after the other, while an
/// acknowledged write came and went in between.
#[tokio::test(start_paused = true)]
async fn new_replicas_open_only_if_all_were_new_at_one_time() {
    let places = new_places();
    places[1].hold(|kind| matches!(kind, RequestKind::Status));
    // It is told that the first is new, and waits for the second.
    let slow = map(&places);
    let slow = tokio::spawn(async move { slow.get("a").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits = std::mem::take(&mut *places[1].held.lock().unwrap());
    assert_eq!(waits.len(), 1);
    places[1].let_go().await;
    // Another one opens the first two, and the third does not hear of it.
    places[2].hold(|kind| matches!(kind, RequestKind::Open { .. }));
    let quick = map(&places);
    let opening = quick.put("a", "1");
    let _ = tokio::time::timeout(Duration::from_secs(1), opening).await;
    quick.put("a", "1").await.unwrap();
    assert_eq!(
        places[0].value("a").zip(places[1].value("a")),
        Some(("1".into(), "1".into()))
    );
    // The second loses its data, and is new again.
    places[1].lose();
    for (request, answer) in waits {
        let response = places[1].replica().call(&request).await.unwrap();
        let _ = answer.send(response);
    }
    let got = slow.await.unwrap();
    assert!(got.as_ref().is_err(), "{got:?}");
    assert!(places[1].status().await.marks.is_joining);
    assert!(places[2].status().await.marks.is_joining);
}

/// Bugs: a copy from one peer only; a tombstone is not copied, or a later page.
#[tokio::test(start_paused = true)]
async fn j_copy_a_replica_copies_all_that_it_could_have_acked() {
    let places = open_places().await;
    let map = Coordinator::<3, 2, 2, _>::builder(places.clone())
        .page(ScanLimit::keys(7))
        .build();
    for index in 0..50 {
        // Each key is on two of three.
        let down = &places[index % 3];
        down.set_up(false);
        map.put(format!("key-{index}"), "old").await.unwrap();
        map.put(format!("key-{index}"), "v").await.unwrap();
        map.put(format!("gone-{index}"), "v").await.unwrap();
        map.delete(format!("gone-{index}")).await.unwrap();
        map.drain().await;
        down.set_up(true);
    }
    for lost in [2, 0, 1] {
        places[lost].lose();
        let rejoin = map.rejoin(lost);
        let progress = rejoin.progress();
        rejoin.run().await.unwrap();
        assert_eq!(progress.borrow().reached, None);
        assert_eq!(progress.borrow().copied, 101);
        let replica = places[lost].replica();
        replica.ready().await.unwrap();
        assert_eq!(replica.readiness().await.unwrap(), Readiness::Ready);
        for index in 0..50 {
            assert_eq!(
                places[lost].value(&format!("key-{index}")).as_deref(),
                Some("v")
            );
            let gone = replica.store().entry(&format!("gone-{index}")).unwrap();
            assert_eq!(gone.value, None);
        }
    }
    assert_eq!(map.identities().map(|it| it.unwrap().era.get()), [1, 1, 1]);
    let Marks { era, announced, .. } = places[0].status().await.marks;
    assert_eq!((era.get(), announced), (4, era));
    // Done already.
    map.rejoin(1).run().await.unwrap();
    assert_eq!(places[0].status().await.marks.era.get(), 4);
}

/// Bug: operations of coordinators that know an earlier era fail, or count acks of both.
#[tokio::test(start_paused = true)]
async fn j_era_operations_go_on_in_the_era_that_has_begun() {
    let places = open_places().await;
    let old = map(&places);
    old.get("first").await.unwrap();
    for lost in [1, 2] {
        places[lost].lose();
        map(&places).rejoin(lost).run().await.unwrap();
        let receipt = old.put("a", "1").await.unwrap().settled().await;
        assert_eq!((receipt.attempts(), receipt.acked()), (1, 3));
        places[lost].lose();
        map(&places).rejoin(lost).run().await.unwrap();
        assert_eq!(old.get("a").await.unwrap().as_deref(), Some(&b"1"[..]));
        places[lost].lose();
        map(&places).rejoin(lost).run().await.unwrap();
        let (key, value) = old.scan("a"..="a").next().await.unwrap().unwrap();
        assert_eq!((key, &value[..]), ("a".into(), &b"1"[..]));
        places[lost].lose();
        map(&places).rejoin(lost).run().await.unwrap();
        let registers = old.registers::<str, u64>("r");
        registers
            .update("n", |n| Edit::Put(n.unwrap_or(&0) + 1))
            .await
            .unwrap();
        places[lost].lose();
        map(&places).rejoin(lost).run().await.unwrap();
        let report = old.pass(.., Default::default()).run().await;
        assert!(report.is_complete(), "{report:?}");
    }
    assert_eq!(
        old.registers::<str, u64>("r").get("n").await.unwrap(),
        Some(2)
    );
}

/// Bug: operations wait for a replica that hangs, though another has told that the era
/// is over.
#[tokio::test(start_paused = true)]
async fn j_era_all_are_asked_again_at_once() {
    let places = open_places().await;
    let old = map(&places);
    old.get("first").await.unwrap();
    places[2].lose();
    map(&places).rejoin(2).run().await.unwrap();
    let began = tokio::time::Instant::now();
    for request in 0..4 {
        let old = map(&places);
        old.get("first").await.unwrap();
        places[1].lose();
        map(&places).rejoin(1).run().await.unwrap();
        // Of what is asked in the era that is over, one answer comes, and another does not.
        let era = places[0].status().await.marks.era;
        let hangs = |kind: &RequestKind| !matches!(kind, RequestKind::Identify { .. });
        places[2].hold(hangs);
        match request {
            0 => drop(old.put("a", "1").await.unwrap()),
            1 => drop(old.get("first").await.unwrap()),
            2 => drop(old.scan(..).next().await.unwrap().unwrap()),
            _ => {
                let registers = old.registers::<str, u64>("r");
                registers.put("n", &1).await.unwrap();
            }
        }
        assert_eq!(places[0].status().await.marks.era, era);
        places[2].let_go().await;
        old.drain().await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

/// A store that takes its time to tell, or to be told.
#[derive(Default)]
struct Slow(MapStore);

impl Store for Slow {
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let held = self.0.get(key).await;
        if !key.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        held
    }

    async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
        let response = self.0.apply(key, change).await;
        if !key.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        response
    }

    async fn scan(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        limit: ScanLimit,
    ) -> Result<Vec<(Key, Record)>, StoreError> {
        let records = self.0.scan(range, limit).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        records
    }
}

/// Bug: a replica that has entered an era answers requests of an earlier one that it had
/// begun with.
#[tokio::test(start_paused = true)]
async fn j_era_what_was_under_way_is_answered_no_more() {
    let replica = Replica::new(Slow::default()).of_new_cluster();
    let version = entry(1, "").version;
    let mut era = Era::FIRST;
    for request in [
        Request::read("a"),
        Request::write("a", entry(1, "a")),
        Request::prepare("a", version),
        Request::scan(.., ScanLimit::NONE),
    ] {
        let asked = |era, kind| {
            let mut request = Request::status();
            (request.era, request.kind) = (Some(era), kind);
            request
        };
        let began = replica.call(&asked(era, request.kind.clone()));
        let entering = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let entered = replica.call(&asked(next(era), RequestKind::Status)).await;
            assert!(matches!(entered.unwrap(), Response::Told(_)));
        };
        let (answer, ()) = tokio::join!(began, entering);
        era = next(era);
        assert_eq!(answer.unwrap(), Response::Refused(Refusal::Stale { era }));
        // It may have been done, and the refusal says so.
        assert!(Refusal::Stale { era }.may_have_applied());
        // A request of whichever era counts for itself alone.
        let began = replica.call(&Request::of(request.kind.clone()));
        let entering = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let entered = replica.call(&asked(next(era), RequestKind::Status)).await;
            assert!(matches!(entered.unwrap(), Response::Told(_)));
        };
        let (answer, ()) = tokio::join!(began, entering);
        era = next(era);
        let answer = answer.unwrap();
        assert!(!matches!(answer, Response::Refused(_)), "{answer:?}");
        let again = replica.call(&asked(era, request.kind)).await.unwrap();
        assert!(!matches!(again, Response::Refused(_)), "{again:?}");
    }
}

/// Bugs: acks of a put count across eras; a write of an older era is acked.
#[tokio::test(start_paused = true)]
async fn j_era_acks_of_a_put_count_within_one_era() {
    let places = open_places().await;
    let writer = map(&places);
    writer.get("first").await.unwrap();
    places.iter().for_each(|place| place.hold(is_write));
    let put = tokio::spawn(async move { writer.put("a", "1").await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    // The third acks it, loses it, and rejoins before the others are told of it.
    places[2].deliver().await;
    places[2].lose();
    map(&places).rejoin(2).run().await.unwrap();
    // The second alone is told.
    places[1].deliver().await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(
        !put.is_finished(),
        "it counts an ack of the era that is over"
    );
    // It is sent to all again.
    for place in &places {
        place.let_go().await;
    }
    put.await.unwrap().unwrap();
    places[1].set_up(false);
    assert_eq!(
        map(&places).get("a").await.unwrap().as_deref(),
        Some(&b"1"[..])
    );
}

/// Bugs: the greatest ballot is not copied, so that a put gets in below it; a key is
/// copied while an update is under way that the replica may have promised.
#[tokio::test(start_paused = true)]
async fn j_copy_a_replica_copies_promises() {
    let places = open_places().await;
    let map = map(&places);
    let ballot = entry(u64::from(u32::MAX), "").version;
    for place in &places {
        let promised = place
            .ask(RequestKind::Prepare {
                key: "a".into(),
                ballot,
            })
            .await;
        assert_eq!(promised, Response::Promise(None.into()));
    }
    places[2].lose();
    let rejoin = map.rejoin(2);
    let progress = rejoin.progress();
    rejoin.run().await.unwrap();
    assert_eq!(progress.borrow().settled, 1);
    let below = RequestKind::Write {
        key: "a".into(),
        entry: entry(5, "below"),
    };
    let refused = places[2].ask(below).await;
    assert!(
        matches!(refused, Response::Refused(Refusal::Promised { .. })),
        "{refused:?}"
    );
    // The update that was under way is too late.
    for place in &places {
        let mut late = entry(0, "late");
        late.version = ballot;
        let refused = place
            .ask(RequestKind::Write {
                key: "a".into(),
                entry: late,
            })
            .await;
        assert!(
            matches!(refused, Response::Refused(Refusal::Promised { .. })),
            "{refused:?}"
        );
    }
}

/// Bugs: what was meant for an earlier start of the process, or for an earlier attempt,
/// is obeyed.
#[tokio::test(start_paused = true)]
async fn j_era_an_old_rejoin_does_not_open_a_new_loss() {
    let places = open_places().await;
    places[2].lose();
    let boot = places[2].status().await.boot;
    let opening = |kind: &RequestKind| matches!(kind, RequestKind::Open { .. });
    places[2].hold(opening);
    let old = map(&places);
    let old = tokio::spawn(async move { old.rejoin(2).run().await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let late = std::mem::take(&mut *places[2].held.lock().unwrap());
    assert_eq!(late.len(), 1);
    assert!(matches!(
        places[2].replica().readiness().await.unwrap(),
        Readiness::Copying { copied: 1 }
    ));
    places[2].lose();
    places[2].let_go().await;
    assert_ne!(places[2].status().await.boot, boot);
    for (request, answer) in late {
        let refused = places[2].replica().call(&request).await.unwrap();
        // It has another id, too.
        assert!(matches!(
            refused,
            Response::Refused(Refusal::OtherReplica { .. })
        ));
        let mut to_any = request.clone();
        to_any.to = None;
        let refused = places[2].replica().call(&to_any).await.unwrap();
        assert_eq!(refused, Response::Refused(Refusal::NotJoining));
        let _ = answer.send(refused);
    }
    old.await.unwrap().unwrap_err();
    // Nor does what opens a new cluster.
    let new = new_places();
    new[2].hold(|kind| matches!(kind, RequestKind::Open { .. }));
    let opening = map(&new);
    let opening = tokio::time::timeout(Duration::from_secs(1), opening.get("a"));
    let _ = opening.await;
    let late = std::mem::take(&mut *new[2].held.lock().unwrap());
    assert!(!late.is_empty());
    new[2].lose();
    for (mut request, _) in late {
        request.to = None;
        let refused = new[2].replica().call(&request).await.unwrap();
        assert_eq!(refused, Response::Refused(Refusal::NotJoining));
    }
    // Nor in the era of another attempt.
    let status = places[2].status().await;
    let mut open = Request::status();
    open.kind = RequestKind::Open { boot: status.boot };
    for era in [None, Some(next(Era::FIRST)), Some(next(next(Era::FIRST)))] {
        open.era = era;
        let refused = places[2].replica().call(&open).await.unwrap();
        assert_eq!(refused, Response::Refused(Refusal::NotJoining));
    }
    map(&places).rejoin(2).run().await.unwrap();
    places[2].replica().ready().await.unwrap();
}

/// Bug: two rejoins at once have one era.
#[tokio::test(start_paused = true)]
async fn j_era_no_two_rejoins_have_the_same() {
    let places = open_places().await;
    let era = next(Era::FIRST);
    let announce = || RequestKind::Announce { era };
    let announced = Marks {
        era: Era::FIRST,
        announced: era,
        ..Marks::new(false)
    };
    assert_eq!(
        places[0].ask(announce()).await,
        Told::Marks(announced).into()
    );
    let refused = places[0].ask(announce()).await;
    assert_eq!(refused, Response::Refused(Refusal::Stale { era }));
    // One that finds it taken goes past it.
    places[2].lose();
    map(&places).rejoin(2).run().await.unwrap();
    assert_eq!(places[0].status().await.marks.era, next(era));
}

/// Bugs: an era, or that a replica is joining, is forgotten when its process ends.
#[tokio::test(start_paused = true)]
async fn marks_survive_a_restart() {
    let places = open_places().await;
    places[2].lose();
    places[2].hold(|kind| matches!(kind, RequestKind::Open { .. }));
    let map = map(&places);
    let _ = tokio::time::timeout(Duration::from_millis(500), map.rejoin(2).run()).await;
    let store = Arc::new(MapStore::default());
    for (place, is_joining) in [(0, false), (2, true)] {
        let before = places[place].status().await;
        let own = places[place]
            .replica()
            .store()
            .get(&"".into())
            .await
            .unwrap();
        let own = own.and_then(|own| own.into_entry()).unwrap();
        store.change(&"".into(), Change::remove());
        store.change(&"".into(), Change::write(own));
        let mut request = Request::status();
        let again = Replica::new(Arc::clone(&store)).of_new_cluster();
        let Response::Told(told) = again.call(&request).await.unwrap() else {
            panic!("no status");
        };
        let Told::Status(status) = *told else {
            panic!("{told:?}")
        };
        assert_eq!(status.marks, before.marks);
        assert_eq!(status.marks.is_joining, is_joining);
        assert_ne!(status.boot, before.boot);
        request.era = Some(Era::FIRST);
        request.kind = Request::read("a").kind;
        let refused = again.call(&request).await.unwrap();
        assert!(matches!(refused, Response::Refused(_)), "{refused:?}");
    }
}

/// Bugs: an operator cannot get on after too many losses; or what is left is not copied.
#[tokio::test(start_paused = true)]
async fn a_loss_of_too_many_can_be_accepted() {
    let places = open_places().await;
    let map = map(&places);
    places[0].set_up(false);
    places[1].lose();
    places[2].set_up(false);
    map.rejoin(1).run().await.unwrap_err();
    // None is left.
    map.accept_loss(1).run().await.unwrap();
    places[1].replica().ready().await.unwrap();
    assert_eq!(places[1].value("first"), None);
    // One is left.
    places[0].set_up(true);
    places[1].lose();
    map.rejoin(1).run().await.unwrap_err();
    map.accept_loss(1).run().await.unwrap();
    assert_eq!(places[1].value("first").as_deref(), Some("one"));
    places[2].lose();
    places[2].set_up(true);
    map.rejoin(2).run().await.unwrap();
    assert_eq!(
        map.get("first").await.unwrap().as_deref(),
        Some(&b"one"[..])
    );
}

/// Bug: quorums that a lost replica leaves no witnesses of let it rejoin.
#[tokio::test(start_paused = true)]
async fn as_many_peers_are_needed_as_quorums_say() {
    type To<const N: usize, const W: usize, const R: usize> = Coordinator<N, W, R, Arc<Place>>;
    assert_eq!(To::<3, 2, 2>::REJOIN_PEERS, 2);
    assert_eq!(To::<5, 3, 3>::REJOIN_PEERS, 3);
    assert_eq!(To::<5, 4, 2>::REJOIN_PEERS, 4);
    assert_eq!(To::<4, 3, 2>::REJOIN_PEERS, 3);
    assert_eq!(To::<3, 3, 1>::REJOIN_PEERS, 3);
    let places = open_places().await;
    places[2].lose();
    let error = To::<3, 3, 1>::new(places.clone())
        .rejoin(2)
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            RejoinError::TooFewPeers {
                found: 2,
                needed: 3
            }
        ),
        "{error}"
    );
    let error = map(&places).rejoin(3).run().await.unwrap_err();
    assert!(
        matches!(error, RejoinError::NoReplica { place: 3 }),
        "{error}"
    );
}
