//! Calls that nobody polls any more.

use std::sync::Arc;

use kvquorum_core::{Change, Key, ScanLimit, Store};
use tokio::task::yield_now;

use super::super::futures::{RESTING, Resting, at_rest, at_rest_on_a_thread, ended};
use super::super::samples::value;
use super::{ALL, AT_REST, Model, Subject};

pub(super) async fn run<S: Store>(store: S) {
    let store = Subject::new(store);
    let mut model = Model::default();
    for polls in [1, 2, 4] {
        let calls = (0..RESTING).map(|number| call(&store, number));
        let calls = at_rest(polls, calls).await;
        let what = format!("calls beside some that were polled {polls} times and then no more");
        ended(&AT_REST, &what, beside(&store, &mut model)).await;
        drop(calls);
        let what = format!("calls after some that were polled {polls} times and dropped");
        ended(&AT_REST, &what, beside(&store, &mut model)).await;
    }

    // For stores that make callers wait only while a thread is at work.
    let calls = (0..20_000).filter(|number| number % 3 < 2);
    let calls = {
        let store = store.clone();
        calls.map(move |number| call(&store, number))
    };
    let what = "calls beside some that a thread polled once and then no more";
    let resting = at_rest_on_a_thread(calls);
    while !resting.is_finished() {
        ended(&AT_REST, what, beside(&store, &mut model)).await;
        yield_now().await;
    }
    let _calls = resting.await;
    ended(&AT_REST, what, beside(&store, &mut model)).await;
}

fn key(number: u64) -> Key {
    Key::from(format!("at rest {}", number % 5))
}

/// One of many calls, of all kinds.
fn call<S: Store>(store: &Subject<S>, number: u64) -> Resting {
    let (store, key) = (Arc::clone(&store.store), key(number));
    match number % 3 {
        0 => {
            let change = Change::write(value(number, 1, vec![b'v'; 10_000]));
            Box::pin(async move { drop(store.apply(&key, change).await) })
        }
        1 => Box::pin(async move { drop(store.get(&key).await) }),
        _ => Box::pin(async move { drop(store.scan(ALL, ScanLimit::NONE).await) }),
    }
}

/// Calls of all kinds that must end.
async fn beside<S: Store>(store: &Subject<S>, model: &mut Model) {
    let other = Key::from("other");
    for at in [1, 2] {
        let change = Change::write(value(at, 1, "other"));
        store.step(model, &other, change).await;
    }
    store.step(model, &other, Change::remove()).await;
    // Under the keys of the calls at rest too, whatever became of these.
    for number in 0..5 {
        let key = key(number);
        store.write(&key, &value(u64::MAX, number, "late")).await;
        store.get(&key).await;
    }
    store.scan(ALL, ScanLimit::keys(3)).await;
}
