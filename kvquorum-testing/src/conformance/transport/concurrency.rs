//! Calls under way at the same time, and dropped ones.

use kvquorum_core::{Ack, Key, Request, Transport};

use super::super::futures::{as_tasks, ended, polled};
use super::super::samples::value;
use super::super::shown::{Named, Shown};
use super::{DROPPED, ITS_OWN_ANSWER, NOT_WAITING, PAST, Subject};

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
