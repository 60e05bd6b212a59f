//! Several keys at the same time. Time is paused.

mod support;

use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{
    Call, Coordinator, CoordinatorBuilder, Replica, Request, Transport, WriteError,
};
use support::{Line, Link, MapStore, NOON, Wall, links};
use tokio::time::Instant;

fn builder(links: &[Arc<Link>; 3]) -> CoordinatorBuilder<3, 2, 2, Arc<Link>> {
    Coordinator::builder(links.clone()).wall_clock(Wall::at(NOON))
}

/// Bugs: results in the order in which they come, or one too few; a failure that ends
/// all, or takes the place of another's result.
#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_result_in_order() {
    let links = links();
    let coordinator = builder(&links).build();
    let long = "k".repeat(2000);
    let entries = [("a", "1"), (&*long, "2"), ("b", "3"), ("", "4"), ("c", "5")];
    let written = coordinator.put_many(entries).await;
    let is_ok: Vec<bool> = written.iter().map(Result::is_ok).collect();
    assert_eq!(is_ok, [true, false, true, false, true]);
    assert!(matches!(written[1], Err(WriteError::NotApplied(_))));

    let got = coordinator.get_many(["c", &long, "x", "a", "c"]).await;
    let got: Vec<_> = got.into_iter().map(Result::ok).collect();
    let value = |value: &'static str| Some(Some(value.into()));
    assert_eq!(got, [value("5"), None, Some(None), value("1"), value("5")]);
    assert!(coordinator.get_many([""; 0]).await.is_empty());
}

/// Bugs: all keys at the same time, one after the other, or in turns that wait for the
/// slowest.
#[tokio::test(start_paused = true)]
async fn a_bounded_number_is_under_way_at_the_same_time() {
    for (at_once, rounds) in [(None, 3), (Some(100), 2), (Some(1), 130), (Some(0), 130)] {
        let links = links();
        links
            .iter()
            .for_each(|link| link.set(Line::Slow(Duration::from_millis(50))));
        let coordinator = match at_once {
            Some(max) => builder(&links).max_at_once(max).build(),
            None => builder(&links).build(),
        };
        let keys = || (0..130).map(|key| format!("{key}"));
        let start = Instant::now();
        let written = coordinator.put_many(keys().map(|key| (key, "v"))).await;
        assert!(written.iter().all(Result::is_ok) && written.len() == 130);
        assert_eq!(start.elapsed(), Duration::from_millis(100) * rounds);
        let start = Instant::now();
        let got = coordinator.get_many(keys()).await;
        assert!(got.iter().all(|got| matches!(got, Ok(Some(_)))));
        assert_eq!(start.elapsed(), Duration::from_millis(100) * rounds);
    }
}

/// Takes as many milliseconds as the key has bytes.
struct ByLength(Replica<MapStore>);

impl Transport for ByLength {
    fn call(&self, request: &Request) -> Call {
        let millis = request.key().map_or(0, |key| key.len() as u64);
        let (replica, request) = (self.0.clone(), request.clone());
        Call::new(async move {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            replica.call(&request).await
        })
    }

    fn name(&self) -> &str {
        "by length"
    }
}

/// Bug: results in the order in which they come.
#[tokio::test(start_paused = true)]
async fn results_are_in_order_however_long_each_takes() {
    let transport = ByLength(Replica::new(MapStore::default()).of_new_cluster());
    let coordinator = Coordinator::<1, 1, 1, _>::new([transport]);
    let keys = ["kkkkk", "k", "kkk", "kk", "kkkk"];
    let written = coordinator.put_many(keys.map(|key| (key, key))).await;
    assert!(written.iter().all(Result::is_ok));
    let got = coordinator.get_many(keys).await;
    let got: Vec<_> = got.into_iter().map(|got| got.unwrap().unwrap()).collect();
    assert_eq!(got, keys);
}
