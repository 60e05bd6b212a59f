//! Calls that nobody polls any more.

use std::time::Duration;

use bytes::Bytes;
use kvquorum_core::{Ack, Key, Limits, Request, Response, Transport, TransportError};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::super::futures::{RESTING, Resting, at_rest, at_rest_on_a_thread, ended};
use super::super::samples::value;
use super::super::shown::Causes;
use super::{AT_REST, ITS_OWN_ANSWER, PAST, Subject, asked};

pub(super) async fn run<T: Transport>(link: T) {
    let small = Bytes::from("small");
    // Hundreds of these are more than links and servers keep room for.
    let large = Bytes::from(vec![b'v'; Limits::default().max_value_len / 8]);
    let mut others = Others {
        link: Subject::new(link),
        large: large.clone(),
        round: 0,
    };
    // A link that opens with its first call is open from here on.
    others.run().await;
    for (size, value) in [("large", &large), ("small", &small)] {
        // So that reads have something to bring back.
        for number in 0..KEYS {
            others.require_sent(write(number, value), |_| true).await;
        }
        for polls in [1, 2, 4] {
            writes_and_reads(&mut others, size, value, polls).await;
        }
    }

    // For links that make callers wait only while a thread is at work.
    let calls = {
        let link = others.link.clone();
        (0..20_000).map(move |number| call(&link, &write(number, &small)))
    };
    let what = "calls beside some that a thread polled once and no more";
    let resting = at_rest_on_a_thread(calls);
    while !resting.is_finished() {
        ended(&AT_REST, what, others.run()).await;
        yield_now().await;
    }
    let _calls = resting.await;
    ended(&AT_REST, what, others.run()).await;
}

/// Makes the request of this number, with this value.
type ToRequest = fn(u64, &Bytes) -> Request;

async fn writes_and_reads<T: Transport>(
    others: &mut Others<T>,
    size: &str,
    value: &Bytes,
    polls: usize,
) {
    let read: ToRequest = |number, _| Request::read(key(number));
    let requests: [(&str, ToRequest); 2] = [("writes", write), ("reads", read)];
    for (kind, request) in requests {
        let calls = (0..RESTING).map(|number| call(&others.link, &request(number, value)));
        let calls = at_rest(polls, calls).await;
        let what = format!("calls beside {size} {kind} polled {polls} times and no more");
        ended(&AT_REST, &what, others.run()).await;
        drop(calls);
        let what = format!("calls after {size} {kind} were polled {polls} times and dropped");
        ended(&AT_REST, &what, others.run()).await;
    }
}

/// Calls at rest have so many keys.
const KEYS: u64 = 5;

fn key(number: u64) -> Key {
    Key::from(format!("at rest {}", number % KEYS))
}

fn write(number: u64, bytes: &Bytes) -> Request {
    Request::write(key(number), value(PAST + number, 1, bytes.clone()))
}

fn call<T: Transport>(link: &Subject<T>, request: &Request) -> Resting {
    let call = link.0.call(request);
    Box::pin(async move { drop(call.await) })
}

/// Calls that must end.
struct Others<T> {
    link: Subject<T>,
    large: Bytes,
    round: u64,
}

impl<T: Transport> Others<T> {
    /// Small ones and large ones.
    async fn run(&mut self) {
        self.round += 1;
        for (key, bytes) in [
            ("small", Bytes::from("small")),
            ("large", self.large.clone()),
        ] {
            let (key, entry) = (Key::from(key), value(PAST + self.round, 1, bytes));
            let applied = Response::Ack(Ack::Applied);
            let write = Request::write(&key, entry.clone());
            self.require_sent(write, |ack| *ack == applied).await;
            let found = Response::Entry(Some(entry).into());
            let read = Request::read(&key);
            self.require_sent(read, |entry| *entry == found).await;
        }
    }

    /// A link may have no room for more calls, and say so. It must have room again
    /// soon.
    async fn require_sent(&self, request: Request, is_expected: impl Fn(&Response) -> bool) {
        loop {
            match self.link.0.call(&request).await {
                Ok(response) => {
                    return ITS_OWN_ANSWER.require(
                        is_expected(&response),
                        format_args!("{} was answered by {response:?}", asked(&request)),
                    );
                }
                Err(TransportError::NotSent(_)) => sleep(Duration::from_millis(5)).await,
                Err(error) => panic!("{} failed: {}", asked(&request), Causes(&error)),
            }
        }
    }
}
