//! Values that expire: rules X-HIDE and X-SLOWEST.

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use kvquorum_core::{
    Call, Change, Collected, Coordinator, Edit, Entry, Key, PassSettings, ReadError, Replica,
    Request, RequestKind, Response, Swap, Timestamp, Told, Transport, TransportError, Version,
    WriterId,
};
use support::{MapStore, NOON, Wall};

const TTL: Duration = Duration::from_secs(30);
const EXPIRED: u64 = NOON + 30_000;

type Map = Coordinator<3, 2, 2, Replica<MapStore>>;

/// Three replicas, each with a clock of its own.
struct Stage {
    walls: [Wall; 3],
    replicas: [Replica<MapStore>; 3],
}

impl Stage {
    fn new() -> Self {
        let walls = [(); 3].map(|()| Wall::at(NOON));
        let replicas = walls.each_ref().map(|wall| {
            let replica = Replica::new(MapStore::default()).of_new_cluster();
            replica.with_wall_clock(wall.clone())
        });
        Self { walls, replicas }
    }

    fn map(&self, wall: &Wall) -> Map {
        let builder = Coordinator::builder(self.replicas.clone());
        builder.wall_clock(wall.clone()).build()
    }

    fn set(&self, millis: u64) {
        self.walls.iter().for_each(|wall| wall.set(millis));
    }

    fn held(&self) -> [Option<Entry>; 3] {
        self.replicas
            .each_ref()
            .map(|replica| replica.store().entry("k"))
    }
}

async fn value(map: &Map) -> Option<String> {
    let value = map.get("k").await.unwrap();
    value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

async fn collect(map: &Map) -> Collected {
    let settings = PassSettings::default().collect_lag(Duration::ZERO);
    map.collect(settings).await.collection.unwrap().unwrap()
}

fn expired(collected: &Collected) -> u64 {
    collected
        .replicas
        .iter()
        .map(|replica| replica.expired)
        .sum()
}

/// X-HIDE. Bugs: a value is seen when it has expired, or hidden before; by another clock
/// than the reader's; hidden by gets and not by scans, or registers; a reader that hides
/// it removes it, though other clocks are behind.
#[tokio::test(start_paused = true)]
async fn x_hide_each_reader_goes_by_its_own_clock() {
    let stage = Stage::new();
    let (right, fast) = (Wall::at(NOON), Wall::at(NOON));
    let (map, early) = (stage.map(&right), stage.map(&fast));
    let written = map.put_with_ttl("k", "tea", TTL).await.unwrap();
    fast.set(EXPIRED - 1);
    assert_eq!(value(&early).await.as_deref(), Some("tea"));
    fast.set(EXPIRED);
    assert_eq!(value(&early).await, None);

    let receipt = early.get_with_receipt("k").await.unwrap();
    let entry = receipt.entry().unwrap();
    assert_eq!((entry.version, &entry.value), (written.version(), &None));
    assert_eq!(receipt.into_value(), None);
    let found: Vec<_> = early.scan(..).collect().await;
    assert!(found.is_empty(), "{found:?}");
    let found: Vec<_> = map.scan(..).collect().await;
    assert_eq!(found.len(), 1);
    let seen = early.update("k", |held| {
        assert_eq!(held, None);
        Edit::Keep
    });
    assert_eq!(seen.await.unwrap().before(), None);
    // Whose clock is right still sees it.
    assert_eq!(value(&map).await.as_deref(), Some("tea"));
    let expires = stage.held().map(|held| held.unwrap().expires_millis);
    assert_eq!(expires, [EXPIRED.try_into().ok(); 3]);
}

/// Takes no repair.
struct Unrepaired(Replica<MapStore>);

impl Transport for Unrepaired {
    fn call(&self, request: &Request) -> Call {
        match &request.kind {
            RequestKind::Repair { .. } => {
                Call::Ready(Err(TransportError::NotSent("it takes no repair".into())))
            }
            _ => self.0.call(request),
        }
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

/// X-HIDE. Bug: a get that fails, as too few replicas hold what it has found, tells of a
/// value that has expired.
#[tokio::test(start_paused = true)]
async fn x_hide_an_error_shows_no_more_than_a_get_does() {
    let stage = Stage::new();
    let wall = Wall::at(NOON);
    let written = stage
        .map(&wall)
        .put_with_ttl("k", "tea", TTL)
        .await
        .unwrap();
    for replica in &stage.replicas[1..] {
        replica.store().change(&Key::from("k"), Change::remove());
    }
    let [first, second, _] = &stage.replicas;
    let links = [first, second].map(|replica| Unrepaired(replica.clone()));
    let builder = Coordinator::<2, 2, 2, _>::builder(links);
    let map = builder.repair_blocking().wall_clock(wall.clone()).build();
    for (millis, value) in [(EXPIRED - 1, Some("tea".into())), (EXPIRED, None)] {
        wall.set(millis);
        let ReadError::NotRepaired {
            entry: Some(entry), ..
        } = map.get("k").await.unwrap_err()
        else {
            panic!("it is not repaired");
        };
        assert_eq!((entry.version, entry.value), (written.version(), value));
    }
}

/// Bugs: a later put leaves the time of the value before it; an update loses it, or one
/// that keeps the value does; a value that has expired is what is compared with.
#[tokio::test(start_paused = true)]
async fn x_hide_a_put_replaces_the_time_and_an_update_keeps_it() {
    let stage = Stage::new();
    let wall = Wall::at(NOON);
    let map = stage.map(&wall);
    let expires = || stage.held().map(|held| held.unwrap().expires_millis);
    let at = [EXPIRED.try_into().ok(); 3];

    map.put_with_ttl("k", "1", TTL).await.unwrap();
    let count = |_: Option<&_>| Edit::Put("2".into());
    map.update("k", count).await.unwrap();
    assert_eq!(expires(), at);
    map.put("k", "3").await.unwrap();
    assert_eq!(expires(), [None; 3]);
    map.put_with_ttl("k", "4", TTL).await.unwrap();
    assert_eq!(expires(), at);
    map.put_with_ttl("k", "5", Duration::MAX).await.unwrap();
    assert_eq!(expires(), [u64::MAX.try_into().ok(); 3]);
    map.put_with_ttl("k", "6", Duration::ZERO).await.unwrap();
    assert_eq!(value(&map).await, None);

    let registers = map.registers::<str, u64>("r");
    let typed = map.map::<str, u64>("r");
    typed.put_with_ttl("k", &7, TTL).await.unwrap();
    let differs = registers.create("k", &8).await.unwrap();
    assert!(matches!(
        differs,
        Swap::Differs {
            current: Some(7),
            ..
        }
    ));
    assert_eq!(registers.get("k").await.unwrap(), Some(7));
    wall.set(EXPIRED);
    assert_eq!(registers.get("k").await.unwrap(), None);
    assert_eq!(typed.get_with_receipt("k").await.unwrap().0, None);
    assert!(registers.create("k", &8).await.unwrap().is_swapped());
    // It does not have the time of the one that it came after.
    assert_eq!(registers.get("k").await.unwrap(), Some(8));
}

/// X-SLOWEST. Bugs: a value is removed by a clock that is fast, a replica's or the
/// coordinator's; or never; or without a greater version, so that it comes back; the
/// delete that does it is not collected; one that does not expire is removed.
#[tokio::test(start_paused = true)]
async fn x_slowest_it_is_removed_when_all_clocks_are_past() {
    let stage = Stage::new();
    let wall = Wall::at(NOON);
    let map = stage.map(&wall);
    let written = map.put_with_ttl("k", "tea", TTL).await.unwrap();
    map.put("stays", "tea").await.unwrap();
    wall.set(EXPIRED + 5_000);
    stage.set(EXPIRED + 5_000);
    for slow in &stage.walls {
        slow.set(EXPIRED - 1);
        assert_eq!(expired(&collect(&map).await), 0);
        assert!(
            stage
                .held()
                .iter()
                .flatten()
                .all(|held| held.value.is_some())
        );
        slow.set(EXPIRED + 5_000);
    }
    assert_eq!(expired(&collect(&map).await), 1);
    map.drain().await;
    for held in stage.held() {
        let held = held.unwrap();
        assert!(held.value.is_none() && held.version > written.version());
    }
    let now = EXPIRED + 10_000;
    wall.set(now);
    stage.set(now);
    assert_eq!(expired(&collect(&map).await), 0);
    assert_eq!(stage.held(), [None, None, None]);
    let stays = map.get("stays").await.unwrap();
    assert_eq!(stays.as_deref(), Some(&b"tea"[..]));
    // A late copy of it.
    let late = Entry::new(written.version(), "tea").expiring_at(EXPIRED.try_into().unwrap());
    assert!(!takes(&stage, late).await);
    assert_eq!(value(&map).await, None);
}

async fn takes(stage: &Stage, entry: Entry) -> bool {
    let repair = Request::repair("k", entry);
    let answer = stage.replicas[0].call(&repair).await.unwrap();
    matches!(answer, Response::Ack(_))
}

/// Its value is replaced as soon as one replica has told that it has expired.
struct Replaced {
    replica: Replica<MapStore>,
    all: [Replica<MapStore>; 3],
}

impl Transport for Replaced {
    fn call(&self, request: &Request) -> Call {
        let call = self.replica.call(request);
        if !matches!(request.kind, RequestKind::Sweep { .. }) {
            return call;
        }
        let all = self.all.clone();
        Call::new(async move {
            let answer = call.await;
            let Ok(Response::Told(told)) = &answer else {
                return answer;
            };
            if !matches!(&**told, Told::Swept(swept) if !swept.expired.is_empty()) {
                return answer;
            }
            let version = Version {
                timestamp: Timestamp::new(EXPIRED, 99).unwrap(),
                writer: WriterId::new(7),
            };
            for replica in all {
                let write = Change::write(Entry::new(version, "new"));
                replica.store().change(&Key::from("k"), write);
            }
            answer
        })
    }

    fn name(&self) -> &str {
        self.replica.name()
    }
}

/// X-SLOWEST. Bug: a value is removed that took the place of the one that had expired
/// after that was found.
#[tokio::test(start_paused = true)]
async fn x_slowest_a_value_put_meanwhile_stays() {
    let stage = Stage::new();
    let wall = Wall::at(NOON);
    let map = stage.map(&wall);
    map.put_with_ttl("k", "old", TTL).await.unwrap();
    wall.set(EXPIRED);
    stage.set(EXPIRED);
    let all = &stage.replicas;
    let links = all.each_ref().map(|replica| Replaced {
        replica: replica.clone(),
        all: all.clone(),
    });
    let builder = Coordinator::<3, 2, 2, _>::builder(links);
    let replaced = builder.wall_clock(wall.clone()).build();
    let settings = PassSettings::default().collect_lag(Duration::ZERO);
    let report = replaced.collect(settings).await;
    assert_eq!(expired(&report.collection.unwrap().unwrap()), 0);
    assert_eq!(value(&map).await.as_deref(), Some("new"));
}

/// P-CONVERGE. Bugs: a repair loses the time, or a pass that settles a key does; two
/// entries that differ in it alone are taken for the same.
#[tokio::test(start_paused = true)]
async fn p_converge_the_time_goes_where_the_value_goes() {
    let stage = Stage::new();
    let map = stage.map(&Wall::at(NOON));
    map.put_with_ttl("k", "tea", TTL).await.unwrap();
    let [a, b, c] = &stage.replicas;
    let entry = a.store().entry("k").unwrap();
    c.store().change(&Key::from("k"), Change::remove());
    let report = map.pass(.., PassSettings::default()).run().await;
    assert!(report.is_complete());
    assert_eq!(c.store().entry("k"), Some(entry.clone()));

    // A promise that nobody came back for keeps repairs out: the key is settled.
    let ballot = Version {
        timestamp: Timestamp::from_bits(entry.version.timestamp.to_bits() + 99),
        ..entry.version
    };
    b.store().change(&Key::from("k"), Change::remove());
    b.store().change(&Key::from("k"), Change::prepare(ballot));
    let report = map.pass(.., PassSettings::default()).run().await;
    assert!(report.is_complete());
    for held in stage.held() {
        let held = held.unwrap();
        assert!(held.version > ballot);
        assert_eq!(
            (held.value, held.expires_millis),
            (entry.value.clone(), entry.expires_millis)
        );
    }
}
