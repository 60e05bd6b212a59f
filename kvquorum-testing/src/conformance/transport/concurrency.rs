//! Calls under way at the same time, dropped, and left at rest.

use std::time::Duration;

use bytes::Bytes;
use kvquorum_core::{Ack, Key, Limits, Request, Response, Transport, TransportError};
use tokio::time::sleep;

use super::super::futures::{
    RESTING, Resting, as_tasks, at_rest, at_rest_on_a_thread, ended, polled,
};
use super::super::samples::value;
use super::super::shown::{Causes, Named, Shown};
use super::{AT_REST, DROPPED, ITS_OWN_ANSWER, NOT_WAITING, PAST, Subject};

pub(super) async fn own_answers<T: Transport>(link: T) {
    const CALLS: u64 = 64;
    let link = Subject::new(link);
    let key = |number: u64| Key::from(format!("concurrent {number}"));
    let stored = |number: u64| value(PAST + number, number, format!("value {number}"));
    for number in (0..CALLS).step_by(2) {
        link.write(&key(number), &stored(number)).await;
    }
    // By fours: a key that is there, one that is not, a write that is
    // superseded by a version of its own, and one that is applied.
    let call = |number: u64| {
        let link = link.clone();
        async move {
            let (key, stored) = (key(number), stored(number));
            let older = value(PAST - 1, 0, "older");
            let superseded = Ack::Superseded { by: stored.version };
            let clause = &ITS_OWN_ANSWER;
            let when = "among concurrent calls";
            match number % 4 {
                0 => link.expect(clause, &key, Some(&stored), when).await,
                1 => link.expect(clause, &key, None, when).await,
                2 => link.write_as(clause, &key, &older, superseded).await,
                _ => link.write_as(clause, &key, &stored, Ack::Applied).await,
            }
        }
    };
    let what = format!("{CALLS} concurrent calls");
    ended(&NOT_WAITING, &what, as_tasks((0..CALLS).map(call))).await;
}

pub(super) async fn dropped<T: Transport>(link: T) {
    let link = Subject::new(link);
    let other = Key::from("other");
    let stored = value(PAST, 1, "other");
    link.write(&other, &stored).await;
    for polls in 0..16 {
        let key = Key::from(format!("dropped after {polls}"));
        let old = value(PAST, 1, "old");
        let new = value(PAST + 1, 1, "new");
        link.write(&key, &old).await;

        let write = Request::write(&key, new.clone());
        polled(polls, link.0.call(&write)).await;
        // An answer left behind on the link would come to the next call.
        let when = "after a write of another key was dropped";
        link.expect(&DROPPED, &other, Some(&stored), when).await;

        polled(polls, link.0.call(&Request::read(&key))).await;
        let when = "after a read of another key was dropped";
        link.expect(&DROPPED, &other, Some(&stored), when).await;

        let found = link.read(&key).await;
        DROPPED.require(
            found.as_ref() == Some(&old) || found.as_ref() == Some(&new),
            format_args!(
                "{} reads as {} after a write of {} over {} was dropped",
                Named(&key),
                Shown::entry(found.as_ref()),
                Shown::entry(Some(&new)),
                Shown::entry(Some(&old)),
            ),
        );
    }
}

/// Half of what a replica admits by default: hundreds of these are more than links
/// and servers keep room for.
fn large() -> Bytes {
    let len = Limits::default().max_value_len / 8;
    vec![b'v'; len].into()
}

pub(super) async fn resting<T: Transport>(link: T) {
    let link = Subject::new(link);
    let (small, large) = (Bytes::from("small"), large());
    // A link that opens with its first call is open from here on.
    beside(&link, 0, &large).await;
    let requests: [(usize, &str, fn(u64, &Bytes) -> Request); 3] = [
        (1, "writes", write),
        (2, "reads", |number, _| Request::read(key(number))),
        (4, "calls", |number, value| match number % 2 {
            0 => write(number, value),
            _ => Request::read(key(number)),
        }),
    ];
    let mut round = 1;
    for (polls, kind, request) in requests {
        for (size, value) in [("large", &large), ("small", &small)] {
            let calls = (0..RESTING).map(|number| call(&link, &request(number, value)));
            let calls = at_rest(polls, calls).await;
            let what = format!("calls beside {size} {kind} polled {polls} times and no more");
            ended(&AT_REST, &what, beside(&link, round, &large)).await;
            drop(calls);
            let what = format!("calls after {size} {kind} were polled {polls} times and dropped");
            ended(&AT_REST, &what, beside(&link, round + 1, &large)).await;
            round += 2;
        }
    }

    // For links that make callers wait only while a thread is at work.
    let calls = {
        let link = link.clone();
        (0..20_000).map(move |number| call(&link, &write(number, &small)))
    };
    let what = "calls beside some that a thread polled once and no more";
    let resting = at_rest_on_a_thread(calls);
    while !resting.is_finished() {
        ended(&AT_REST, what, beside(&link, round, &large)).await;
        round += 1;
    }
    let _calls = resting.await;
    ended(&AT_REST, what, beside(&link, round, &large)).await;
}

fn key(number: u64) -> Key {
    Key::from(format!("at rest {}", number % 5))
}

fn write(number: u64, bytes: &Bytes) -> Request {
    Request::write(key(number), value(PAST + number, 1, bytes.clone()))
}

fn call<T: Transport>(link: &Subject<T>, request: &Request) -> Resting {
    let call = link.0.call(request);
    Box::pin(async move { drop(call.await) })
}

/// Calls that must end: small ones and large ones.
async fn beside<T: Transport>(link: &Subject<T>, round: u64, large: &Bytes) {
    let calls = [("other", Bytes::from("other")), ("large", large.clone())];
    for (key, bytes) in calls {
        let (key, entry) = (Key::from(key), value(PAST + round, 1, bytes));
        require_sent(link, Request::write(&key, entry.clone()), |response| {
            *response == Response::Ack(Ack::Applied)
        })
        .await;
        require_sent(
            link,
            Request::read(&key),
            |response| matches!(response, Response::Entry(Some(found)) if *found == entry),
        )
        .await;
    }
}

/// A link may have no room for more calls, and say so. It must have room again soon.
async fn require_sent<T: Transport>(
    link: &Subject<T>,
    request: Request,
    is_expected: impl Fn(&Response) -> bool,
) {
    loop {
        match link.0.call(&request).await {
            Ok(response) => {
                return ITS_OWN_ANSWER.require(
                    is_expected(&response),
                    format_args!("{request:?} was answered by {response:?}"),
                );
            }
            Err(TransportError::NotSent(_)) => sleep(Duration::from_millis(5)).await,
            Err(error) => AT_REST.broken(format_args!("a call failed: {}", Causes(&error))),
        }
    }
}
