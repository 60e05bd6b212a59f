//! Who a replica is: none is counted twice, or taken for another.

mod support;

use std::error::Error;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use kvquorum_core::{
    Call, Change, Coordinator, Identity, IdentityError, Key, Quorums, Record, Refusal, Replica,
    ReplicaFailure, ReplicaId, Request, RequestKind, Response, ScanLimit, Store, StoreError,
    Transport, TransportError, WriteError,
};
use support::MapStore;
use tokio::sync::{Semaphore, mpsc};

type Hosted = Replica<Arc<MapStore>>;

fn replica() -> Hosted {
    Replica::new(Arc::new(MapStore::default())).of_new_cluster()
}

async fn identity(replica: &impl Transport) -> Identity {
    match replica.call(&Request::identify()).await.unwrap() {
        Response::Identity(identity) => *identity,
        other => panic!("{other:?}"),
    }
}

/// Why a call was not counted.
fn not_counted(failure: Option<&ReplicaFailure>) -> &IdentityError {
    let Some(ReplicaFailure::Transport(TransportError::Rejected(cause))) = failure else {
        panic!("{failure:?}");
    };
    cause.downcast_ref().unwrap()
}

/// A place where replicas come and go.
struct Place(Mutex<Hosted>);

impl Place {
    fn of(replica: &Hosted) -> Arc<Self> {
        Arc::new(Self(Mutex::new(replica.clone())))
    }

    fn now(&self, replica: &Hosted) {
        *self.0.lock().unwrap() = replica.clone();
    }
}

impl Transport for Place {
    fn call(&self, request: &Request) -> Call {
        self.0.lock().unwrap().call(request)
    }

    fn name(&self) -> &str {
        "place"
    }
}

/// Bugs: an id that is drawn anew at each start; two stores with one id; an id that
/// is not kept where a replica is asked for nothing else.
#[tokio::test]
async fn a_replica_keeps_who_it_is_in_its_store() {
    let store = Arc::new(MapStore::default());
    let first = identity(&Replica::new(Arc::clone(&store)).of_new_cluster()).await;
    let again = identity(&Replica::new(Arc::clone(&store)).of_new_cluster()).await;
    assert_eq!(first.id, again.id);
    assert_ne!(first.id, identity(&replica()).await.id);
    store.wipe();
    assert_ne!(
        first.id,
        identity(&Replica::new(store).of_new_cluster()).await.id
    );

    let given = ReplicaId::new(NonZeroU64::new(7).unwrap());
    let named = replica().with_id(given).with_cluster("teas");
    let said = identity(&named).await;
    assert_eq!((said.id, said.cluster.as_deref()), (given, Some("teas")));
}

/// Bug: a store that has to be waited for does not keep it, or keeps another one.
#[tokio::test]
async fn a_store_that_has_to_be_waited_for_keeps_it_too() {
    struct Waits(MapStore);
    impl Store for Waits {
        async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
            tokio::task::yield_now().await;
            self.0.get(key).await
        }
        async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
            tokio::task::yield_now().await;
            self.0.apply(key, change).await
        }
        async fn scan(
            &self,
            range: (std::ops::Bound<&Key>, std::ops::Bound<&Key>),
            limit: ScanLimit,
        ) -> Result<Vec<(Key, Record)>, StoreError> {
            self.0.scan(range, limit).await
        }
    }
    let store = Arc::new(Waits(MapStore::default()));
    // Two at the same time agree.
    let (one, other) = (
        Replica::new(Arc::clone(&store)).of_new_cluster(),
        Replica::new(Arc::clone(&store)).of_new_cluster(),
    );
    let (said, also) = tokio::join!(identity(&one), identity(&other));
    assert_eq!(said.id, also.id);
    // One that has not been asked yet knows who is meant.
    let restarted = Replica::new(store).of_new_cluster();
    let mut request = Request::read("k");
    request.to = Some(said.id);
    let answer = restarted.call(&request).await.unwrap();
    assert_eq!(answer, Response::Entry(None.into()));
}

/// Bug: of two that ask a new replica at the same time, one is told an id that the
/// other's takes the place of. After a restart it is another replica.
#[tokio::test]
async fn nobody_learns_an_id_that_is_replaced() {
    /// A store in which all but the first change come late.
    struct Late(MapStore, Semaphore, Semaphore);
    impl Store for Late {
        async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
            let held = self.0.get(key).await;
            tokio::task::yield_now().await;
            held
        }
        async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
            if self.1.try_acquire().map(|permit| permit.forget()).is_err() {
                self.2.acquire().await.unwrap().forget();
            }
            self.0.apply(key, change).await
        }
        async fn scan(
            &self,
            range: (std::ops::Bound<&Key>, std::ops::Bound<&Key>),
            limit: ScanLimit,
        ) -> Result<Vec<(Key, Record)>, StoreError> {
            self.0.scan(range, limit).await
        }
    }
    // Whichever of two random ids is the greater, in one of these it comes last.
    for _ in 0..32 {
        let store = Late(MapStore::default(), Semaphore::new(1), Semaphore::new(0));
        let store = Arc::new(store);
        let replica = Replica::new(Arc::clone(&store)).of_new_cluster();
        let (tell, mut told) = mpsc::unbounded_channel();
        for _ in 0..2 {
            let (replica, tell) = (replica.clone(), tell.clone());
            tokio::spawn(async move { tell.send(identity(&replica).await.id) });
        }
        let said = told.recv().await.unwrap();
        store.2.add_permits(1);
        assert_eq!(told.recv().await.unwrap(), said);
        let restarted = identity(&Replica::new(store).of_new_cluster()).await.id;
        assert_eq!(restarted, said);
    }
}

/// Bugs: a replica answers what is meant for another; it stores it.
#[tokio::test]
async fn a_replica_refuses_what_is_meant_for_another() {
    let (one, other) = (replica(), replica());
    let (one_id, is) = (identity(&one).await.id, identity(&other).await.id);
    let refused = Response::Refused(Refusal::OtherReplica { is });
    for mut request in [
        Request::read("k"),
        Request::write("k", support::entry(1, "v")),
    ] {
        request.to = Some(one_id);
        assert_eq!(other.call(&request).await.unwrap(), refused);
        assert_ne!(one.call(&request).await.unwrap(), refused);
    }
    assert_eq!(other.store().entry("k"), None);
}

/// Bug: two names of one node make two acks of one copy.
#[tokio::test]
async fn one_replica_at_two_places_is_counted_once() {
    let (one, other) = (replica(), replica());
    let twice = [one.clone(), one.clone(), other.clone()];
    let coordinator = Coordinator::<3, 2, 2, _>::new(twice.clone());
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.acked(), 2);
    let failure = receipt.replicas()[1].failure();
    let id = identity(&one).await.id;
    assert_eq!(
        *not_counted(failure),
        IdentityError::SameReplica { id, other: 0 }
    );
    let error = Coordinator::<3, 3, 1, _>::new(twice)
        .put("k", "v")
        .await
        .unwrap_err();
    assert!(matches!(error, WriteError::MaybeApplied(_)), "{error}");
    assert!(error.to_string().contains("the same replica"), "{error}");

    let error = Coordinator::<3, 1, 3, _>::new([one.clone(), other, one])
        .get("k")
        .await
        .unwrap_err();
    assert_eq!(error.report().answered(), 2);
}

/// Bug: a node of another cluster, at an address that was one's own, is written to
/// and read.
#[tokio::test]
async fn a_replica_of_another_cluster_is_not_counted() {
    let replicas = [Some("teas"), Some("coffees"), None].map(|cluster| match cluster {
        Some(name) => replica().with_cluster(name),
        None => replica(),
    });
    let coordinator = Coordinator::<3, 1, 3, _>::builder(replicas.clone())
        .cluster("teas")
        .build();
    let receipt = coordinator.put("k", "v").await.unwrap();
    assert_eq!(receipt.acked(), 1);
    for (replica, found) in [(1, Some("coffees")), (2, None)] {
        let expected = IdentityError::OtherCluster {
            expected: "teas".into(),
            found: found.map(str::to_owned),
        };
        let error = not_counted(receipt.replicas()[replica].failure());
        assert_eq!(*error, expected);
        assert!(error.to_string().contains("teas"), "{error}");
        assert_eq!(replicas[replica].store().entry("k"), None);
    }
    // To one that was given no name, all are of its cluster.
    let any = Coordinator::<3, 3, 3, _>::new(replicas);
    assert_eq!(any.put("k", "v").await.unwrap().acked(), 3);
}

/// Bugs: a node that came to the place of another is written to as if it were that
/// one; it is never counted again.
#[tokio::test]
async fn another_replica_at_a_place_introduces_itself() {
    let replicas = [(); 4].map(|()| replica());
    let [place, ..] = &replicas;
    let place = Place::of(place);
    let transports: [Arc<dyn Transport>; 3] = [
        Arc::clone(&place) as _,
        Arc::new(replicas[1].clone()),
        Arc::new(replicas[2].clone()),
    ];
    let coordinator = Coordinator::<3, 2, 2, _>::new(transports);
    assert!(coordinator.identities().iter().all(Option::is_none));
    assert_eq!(coordinator.put("k", "a").await.unwrap().acked(), 3);

    place.now(&replicas[3]);
    let receipt = coordinator.put("k", "b").await.unwrap();
    let failure = receipt.replicas()[0].failure();
    assert!(
        matches!(
            failure,
            Some(ReplicaFailure::Refused(Refusal::OtherReplica { .. }))
        ),
        "{failure:?}"
    );
    assert_eq!(replicas[3].store().entry("k"), None);
    assert_eq!(coordinator.put("k", "c").await.unwrap().acked(), 3);
    let ids = coordinator.identities().map(|it| it.unwrap().id);
    assert_eq!(ids[0], identity(&replicas[3]).await.id);

    // And where it is one that is counted already, it stays one.
    place.now(&replicas[1]);
    coordinator.put("k", "d").await.unwrap();
    let receipt = coordinator.put("k", "e").await.unwrap();
    let error = not_counted(receipt.replicas()[0].failure());
    assert!(
        matches!(error, IdentityError::SameReplica { other: 1, .. }),
        "{error}"
    );
}

/// Bug: a write, or a read, that meets another replica at a place leaves that
/// replica out, so that one which lost its data is brought back only by the next.
#[tokio::test]
async fn a_call_that_meets_another_replica_is_made_again() {
    /// A place whose calls have to be waited for.
    struct Far(Arc<Place>);
    impl Transport for Far {
        fn call(&self, request: &Request) -> Call {
            let call = self.0.call(request);
            Call::new(async move {
                tokio::task::yield_now().await;
                call.await
            })
        }
        fn name(&self) -> &str {
            "far"
        }
    }
    let replicas = [(); 4].map(|()| replica());
    let places = [0, 1, 2].map(|place| Place::of(&replicas[place]));
    let transports = places.clone().map(Far);
    let coordinator = Coordinator::<3, 2, 2, _>::new(transports);
    coordinator.put("k", "a").await.unwrap().settled().await;

    places[0].now(&replicas[3]);
    let receipt = coordinator.put("k", "b").await.unwrap().settled().await;
    assert_eq!(receipt.acked(), 3);
    assert_eq!(replicas[3].store().value("k").unwrap(), "b");

    replicas[0].store().wipe();
    let returned = Replica::new(Arc::clone(replicas[0].store())).of_new_cluster();
    places[0].now(&returned);
    coordinator.get("k").await.unwrap();
    coordinator.drain().await;
    assert_eq!(returned.store().value("k").unwrap(), "b");
}

/// Bug: a replica that has acked a write, and moves to another place while that goes
/// on, acks it there again: two votes of one copy.
#[tokio::test(start_paused = true)]
async fn a_replica_that_moves_meanwhile_is_counted_once() {
    /// A place that takes writes of "x" when it is let to.
    struct Gated(Arc<Place>, Arc<Semaphore>);
    impl Transport for Gated {
        fn call(&self, request: &Request) -> Call {
            let (place, gate) = (Arc::clone(&self.0), Arc::clone(&self.1));
            let request = request.clone();
            let is_x =
                matches!(&request.kind, RequestKind::Write { key, .. } if *key == "x".into());
            Call::new(async move {
                if is_x {
                    gate.acquire().await.unwrap().forget();
                }
                place.call(&request).await
            })
        }
        fn name(&self) -> &str {
            "gated"
        }
    }
    let replicas = [(); 4].map(|()| replica());
    let places = [0, 1, 2].map(|place| Place::of(&replicas[place]));
    let gates = [(); 3].map(|()| Arc::new(Semaphore::new(0)));
    let transports = [0, 1, 2].map(|at| Gated(Arc::clone(&places[at]), Arc::clone(&gates[at])));
    let coordinator = Coordinator::<3, 2, 2, _>::new(transports);
    coordinator.put("k", "a").await.unwrap().settled().await;

    gates[0].add_permits(1);
    let writing = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.put("x", "v").await }
    });
    while replicas[0].store().entry("x").is_none() {
        tokio::task::yield_now().await;
    }
    places[0].now(&replicas[3]);
    coordinator.put("k", "b").await.unwrap().settled().await;
    places[1].now(&replicas[0]);
    gates[1].add_permits(2);
    let error = writing.await.unwrap().unwrap_err();
    let WriteError::MaybeApplied(report) = &error else {
        panic!("{error}");
    };
    assert!(
        report.replicas()[0].outcome().failure().is_none(),
        "{error}"
    );
    let Some(ReplicaFailure::Transport(TransportError::NoAnswer(cause))) =
        report.replicas()[1].outcome().failure()
    else {
        panic!("{error}");
    };
    let cause: &IdentityError = cause.downcast_ref().unwrap();
    assert!(
        matches!(cause, IdentityError::SameReplica { other: 0, .. }),
        "{cause}"
    );
    // What begins now finds it where it is.
    coordinator.put("k", "c").await.unwrap();
    let ids = coordinator.identities().map(|it| it.unwrap().id);
    assert_eq!(ids[1], identity(&replicas[0]).await.id);
}

/// Bugs: coordinators with other numbers over the same replicas go unnoticed; a
/// replica remembers all that ever called.
#[tokio::test]
async fn other_quorums_over_the_same_replicas_can_be_noticed() {
    let replicas = [(); 3].map(|()| replica());
    let first = Coordinator::<3, 2, 2, _>::new(replicas.clone());
    first.put("k", "v").await.unwrap();
    let other = Coordinator::<3, 1, 1, _>::new(replicas.clone());
    other.put("k", "v").await.unwrap();
    let seen = other.identities().map(|identity| identity.unwrap().quorums);
    let expected = [Quorums { n: 3, w: 2, r: 2 }, Quorums { n: 3, w: 1, r: 1 }];
    assert!(seen.iter().all(|seen| *seen == expected), "{seen:?}");

    for n in 0..100 {
        let quorums = Some(Quorums { n, w: 1, r: 1 });
        let mut request = Request::identify();
        request.kind = kvquorum_core::RequestKind::Identify { quorums };
        replicas[0].call(&request).await.unwrap();
    }
    let seen = identity(&replicas[0]).await.quorums;
    assert_eq!(seen.len(), Identity::MAX_QUORUMS);
}

/// Bug: a replica that could not say who it is passes for one that may have stored
/// the entry.
#[tokio::test]
async fn what_was_lost_before_the_introduction_was_not_sent() {
    struct Loses;
    impl Transport for Loses {
        fn call(&self, _: &Request) -> Call {
            Call::new(async { Err(TransportError::NoAnswer("it is gone".into())) })
        }
        fn name(&self) -> &str {
            "loses"
        }
    }
    let coordinator = Coordinator::<1, 1, 1, _>::new([Loses]);
    let error = coordinator.put("k", "v").await.unwrap_err();
    let WriteError::NotApplied(report) = error else {
        panic!("{error}");
    };
    let failure = report.replicas()[0].outcome().failure().unwrap();
    let cause = failure.source().unwrap();
    assert!(report.to_string().contains("it is gone"), "{cause}");
}
