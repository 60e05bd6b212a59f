//! Replicas that a test can take away, start anew, and give a backup back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvquorum_core::{
    Call, Collected, Coordinator, Entry, Key, PassReport, PassSettings, Record, Replica, Request,
    RequestKind, Response, Status, Timestamp, Told, Transport, TransportError,
};

use super::support::{MapStore, NOON, TestSaysSo, Wall};

type Hook = Box<dyn Fn(&RequestKind) -> Next + Send>;

/// What becomes of a request.
pub enum Next {
    GoesOn,
    IsLost,
}

pub struct Place {
    name: String,
    replica: Mutex<Replica<MapStore>>,
    is_up: AtomicBool,
    hook: Mutex<Option<Hook>>,
    seen: Mutex<Vec<RequestKind>>,
}

pub type Map<T = Arc<Place>> = Coordinator<3, 2, 2, T>;

/// Three replicas of a new cluster, and the wall clock of all.
pub struct Cluster {
    pub places: [Arc<Place>; 3],
    pub wall: Wall,
}

impl Cluster {
    pub fn new() -> Self {
        let wall = Wall::at(NOON);
        let places = std::array::from_fn(|index| Place::new(index, &wall));
        Self { places, wall }
    }

    /// A coordinator whose clock is so many milliseconds behind.
    pub fn behind(&self, millis: u64) -> Map {
        Coordinator::builder(self.places.clone())
            .wall_clock(Wall::at(NOON - millis))
            .build()
    }

    /// A coordinator by the wall clock.
    pub fn map(&self) -> Map {
        Coordinator::builder(self.places.clone())
            .wall_clock(self.wall.clone())
            .build()
    }

    /// All that was stamped so far is stamped before what is sealed next.
    pub fn later(&self) {
        self.wall
            .set(kvquorum_core::WallClock::now_millis(&self.wall) + 1_000);
    }

    /// A round that collects all that was deleted so far; it has to succeed everywhere.
    pub async fn collect(&self) -> Collected {
        self.later();
        let collected = succeeded(self.map().collect(now()).await);
        for replica in &collected.replicas {
            assert!(replica.failure.is_none(), "{replica:?}");
        }
        for place in &self.places {
            let marks = place.status().await.marks;
            assert_eq!(
                (marks.collected, marks.sealed),
                (collected.upto, collected.upto)
            );
        }
        collected
    }

    /// A round whose last step reaches only these.
    pub async fn collect_at(&self, places: &[usize]) -> Collected {
        for (index, place) in self.places.iter().enumerate() {
            if !places.contains(&index) {
                place.hook(|kind| match kind {
                    RequestKind::Collect { .. } => Next::IsLost,
                    _ => Next::GoesOn,
                });
            }
        }
        self.later();
        let collected = succeeded(self.map().collect(now()).await);
        for (index, place) in self.places.iter().enumerate() {
            let is_collected = place.status().await.marks.collected == collected.upto;
            assert_eq!(is_collected, places.contains(&index));
            place.no_hook();
        }
        collected
    }

    /// What each holds under a key, records without an entry included.
    pub fn records(&self, key: &str) -> [Option<Record>; 3] {
        self.places.each_ref().map(|place| place.record(key))
    }
}

/// Deletes are collected as soon as they are made.
pub fn now() -> PassSettings {
    PassSettings::default().collect_lag(Duration::ZERO)
}

pub fn succeeded(report: PassReport) -> Collected {
    assert!(report.is_complete(), "{report:?}");
    report.collection.unwrap().unwrap()
}

impl Place {
    pub fn new(index: usize, wall: &Wall) -> Arc<Self> {
        let replica = Replica::new(MapStore::default()).of_new_cluster();
        Arc::new(Self {
            name: format!("place-{index}"),
            replica: Mutex::new(replica.with_wall_clock(wall.clone())),
            is_up: AtomicBool::new(true),
            hook: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    pub fn replica(&self) -> Replica<MapStore> {
        self.replica.lock().unwrap().clone()
    }

    pub fn record(&self, key: &str) -> Option<Record> {
        self.replica().store().record(key)
    }

    pub fn entry(&self, key: &str) -> Option<Entry> {
        self.record(key)?.entry()
    }

    /// Its process ends, and begins again with what its store keeps.
    pub fn restart(&self) {
        let mut replica = self.replica.lock().unwrap();
        *replica = replica.restarted();
    }

    pub fn backup(&self) -> std::collections::BTreeMap<Key, Record> {
        self.replica().store().contents()
    }

    /// Its process ends, and begins again with what was kept once.
    pub fn restore(&self, backup: std::collections::BTreeMap<Key, Record>) {
        self.replica().store().set_contents(backup);
        self.restart();
    }

    /// Its process ends, and begins again with nothing.
    pub fn lose(&self) {
        self.restore(std::collections::BTreeMap::new());
    }

    pub fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::SeqCst);
    }

    /// Is called before each request is served.
    pub fn hook(&self, hook: impl Fn(&RequestKind) -> Next + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    pub fn no_hook(&self) {
        *self.hook.lock().unwrap() = None;
    }

    /// How many requests came of some kind.
    pub fn count(&self, is: impl Fn(&RequestKind) -> bool) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|kind| is(kind)).count()
    }

    pub async fn ask(&self, kind: RequestKind) -> Response {
        let mut request = Request::status();
        request.kind = kind;
        self.replica().call(&request).await.unwrap()
    }

    pub async fn status(&self) -> Status {
        match self.ask(RequestKind::Status).await {
            Response::Told(told) => match *told {
                Told::Status(status) => status,
                told => panic!("{told:?}"),
            },
            response => panic!("{response:?}"),
        }
    }
}

impl Transport for Place {
    fn call(&self, request: &Request) -> Call {
        let is_lost = |hook: &Hook| matches!(hook(&request.kind), Next::IsLost);
        self.seen.lock().unwrap().push(request.kind.clone());
        let is_up = self.is_up.load(Ordering::SeqCst);
        if !is_up || self.hook.lock().unwrap().as_ref().is_some_and(is_lost) {
            return Call::Ready(Err(TransportError::NotSent(Box::new(TestSaysSo))));
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

pub fn at(millis: u64) -> Timestamp {
    Timestamp::new(millis, 0).unwrap()
}
