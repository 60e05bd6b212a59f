//! A batch of requests at the replica, and its answer in the making.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use kvquorum_core::{Entry, Key, Request, Response, Store, Told, Versioned, Window, WindowEnd};
use tokio::task::JoinSet;

use super::answer::{AnswerBody, Made};
use super::ask::{Asked, Asking};
use super::budget::{Budget, Held, Lease, UNCOUNTED};
use super::service::Inner;
use crate::wire::Reply;
use crate::wire::frames::Requests;
use kvquorum_core::WithCauses;

/// How much of an answer is made before requests that have not begun wait for
/// it to be read: so much, and one answer frame.
const CHUNK: usize = 64 * 1024;

/// Room for a few answers without values.
const SMALL_ANSWERS: usize = 128;

/// What an entry of a page takes beside the bytes of its key and its value: its
/// place in the page, and what the allocation of its key adds.
const ENTRY: usize = size_of::<(Key, Entry)>() + 32;

/// What a version in a list, or a window, takes beside the bytes of its key, likewise.
const LISTED: usize = size_of::<Versioned>() + 32;

/// A batch at a replica, whose requests are all under way at once.
///
/// A request that is not answered at once becomes a task, and so runs on for as
/// long as the connection lasts, whether or not the answer is read: it may hold
/// what others wait for. No request begins while a chunk waits to be read.
pub(super) struct Batch<S> {
    service: Arc<Inner<S>>,
    /// Those that have not begun.
    requests: Requests,
    /// The memory of the batch's bytes, of which each request may have some.
    received: Option<Arc<Lease>>,
    /// Those that were not answered at once, if any.
    under_way: Option<JoinSet<Answer>>,
    made: Made,
}

/// An answer, and the memory that was leased for it.
struct Answer {
    which: u32,
    reply: Reply,
    lease: Option<Lease>,
}

impl<S: Store> Batch<S> {
    pub(super) fn new(service: Arc<Inner<S>>, requests: Requests, received: Option<Lease>) -> Self {
        Self {
            service,
            requests,
            received: received.map(Arc::new),
            under_way: None,
            made: Made::with_capacity(SMALL_ANSWERS),
        }
    }

    /// The memory of its bytes, if any was leased.
    pub(super) fn held(&self) -> Option<Held> {
        self.received.as_ref().map(Held::new)
    }

    /// Begins with the requests. Where all are answered at once, the body is
    /// whole.
    pub(super) async fn begin(mut self) -> AnswerBody {
        poll_fn(|cx| {
            self.make(cx);
            Poll::Ready(())
        })
        .await;
        if self.is_made() {
            AnswerBody::whole(self.made)
        } else {
            AnswerBody::streamed(self)
        }
    }

    /// Makes what can be made now.
    fn make(&mut self, cx: &mut Context<'_>) {
        self.begin_requests(cx);
        while self.made.len() < CHUNK
            && let Some(under_way) = &mut self.under_way
            && let Poll::Ready(Some(answer)) = under_way.poll_join_next(cx)
        {
            // A task fails only where the runtime is shut down.
            if let Ok(answer) = answer {
                self.push(answer);
            }
        }
    }

    fn begin_requests(&mut self, cx: &mut Context<'_>) {
        while self.made.len() < CHUNK {
            let Some((which, request)) = self.requests.next() else {
                self.received = None;
                return;
            };
            match request {
                Ok(request) => self.begin_request(cx, which, request),
                Err(error) => self.push(Answer {
                    which,
                    reply: Reply::NotUnderstood(WithCauses(&error).to_string()),
                    lease: None,
                }),
            }
        }
    }

    fn begin_request(&mut self, cx: &mut Context<'_>, which: u32, request: Request) {
        let asking = match self.service.ask(&request) {
            Asking::Ready(asked) => {
                return self.push(Answer::new(which, asked, &self.service.answers, UNCOUNTED));
            }
            pending => pending,
        };
        let service = Arc::clone(&self.service);
        let received = self.received.clone();
        let mut answer = Box::pin(async move {
            let asked = asking.answer(service.settings.store_timeout).await;
            drop(received);
            Answer::new(which, asked, &service.answers, 0)
        });
        match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => self.push(answer),
            Poll::Pending => {
                self.under_way.get_or_insert_default().spawn(answer);
            }
        }
    }

    fn push(&mut self, answer: Answer) {
        // One that cannot be put into bytes is left out: the coordinator then
        // knows that it had no answer.
        self.service.counts.reply(&answer.reply);
        let _ = self.made.push(answer.which, &answer.reply, answer.lease);
    }

    fn is_made(&self) -> bool {
        self.under_way.as_ref().is_none_or(JoinSet::is_empty) && self.requests.is_empty()
    }
}

impl Answer {
    /// The answer with what was asked, if there is memory for it. What takes up
    /// to `uncounted` bytes needs none of the budget.
    fn new(which: u32, asked: Asked, budget: &Budget, uncounted: usize) -> Self {
        let taken = match &asked {
            Ok(Response::Entry(held) | Response::Promise(held)) => {
                held.entry.as_ref().map_or(0, value_len)
            }
            Ok(Response::Page(page)) => {
                let lens = page.entries.iter();
                lens.flat_map(|(key, entry)| [ENTRY, key.len(), value_len(entry)])
                    .fold(0, usize::saturating_add)
            }
            Ok(Response::Told(told)) => told_len(told),
            _ => 0,
        };
        let lease = (taken > uncounted).then(|| budget.try_take(taken));
        let (reply, lease) = match (asked, lease) {
            (_, Some(None)) => (Reply::StoreFailed(no_memory(taken)), None),
            (Ok(response), lease) => (Reply::Answered(response), lease.flatten()),
            (Err(said), _) => (Reply::StoreFailed(said), None),
        };
        Self {
            which,
            reply,
            lease,
        }
    }
}

fn told_len(told: &Told) -> usize {
    let add = usize::saturating_add;
    match told {
        Told::Versions(told) => {
            let lens = told.versions.iter().map(|it| it.key.len());
            lens.flat_map(|len| [LISTED, len]).fold(0, add)
        }
        Told::Windows(windows) => {
            let len = |window: &Window| match &window.end {
                WindowEnd::Before(end) => end.len(),
                WindowEnd::Cut | WindowEnd::Range => 0,
            };
            let lens = windows.windows.iter().map(len);
            lens.flat_map(|len| [LISTED, len]).fold(0, add)
        }
        Told::Swept(told) => {
            let lens = told.expired.iter().map(Key::len);
            lens.flat_map(|len| [LISTED, len]).fold(0, add)
        }
        Told::Records(told) => {
            let lens = told.records.iter();
            let lens = lens.map(|(key, record)| key.len().saturating_add(record.encoded_len()));
            lens.flat_map(|len| [ENTRY, len]).fold(0, add)
        }
        _ => 0,
    }
}

fn value_len(entry: &Entry) -> usize {
    entry.value.as_ref().map_or(0, |value| value.len())
}

/// What is said where an answer cannot be kept until it is read.
pub(super) fn no_memory(len: usize) -> String {
    format!("the server has no memory for an answer of {len} bytes now: others are not being read")
}

impl<S: Store> Body for Batch<S> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.made.is_empty() {
            self.make(cx);
        }
        match self.made.pop() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.is_made() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.made.is_empty() && self.is_made()
    }
}

#[cfg(test)]
mod tests {
    use kvquorum_core::{
        Fingerprint, Page, Record, Records, Swept, Timestamp, Version, Versions, Windows, WriterId,
    };

    use super::*;

    /// Catches pages of small entries that take many times the memory that is
    /// leased for them.
    #[test]
    fn the_entries_of_a_page_are_counted_and_not_only_their_bytes() {
        let entry = Entry::tombstone(Version {
            timestamp: Timestamp::MIN,
            writer: WriterId::ANONYMOUS,
        });
        let key = |at: u16| Key::from(at.to_be_bytes().to_vec());
        let page = || Page {
            entries: (0..1000_u16).map(|at| (key(at), entry.clone())).collect(),
            upto: None,
            collected: Timestamp::MIN,
        };
        let takes = 1000 * size_of::<(Key, Entry)>();
        let budget = Budget::new(3 * takes);
        let answer = || Answer::new(0, Ok(Response::Page(Box::new(page()))), &budget, 0);
        let first = answer();
        assert!(first.lease.unwrap().num_permits() >= takes);
        let all: Vec<_> = (0..3).map(|_| answer()).collect();
        let is_refused = |answer: &Answer| matches!(answer.reply, Reply::StoreFailed(_));
        assert!(!is_refused(&all[0]) && is_refused(&all[2]));
    }

    /// Catches lists of versions, and windows, that take many times the memory that is
    /// leased for them.
    #[test]
    fn what_is_listed_is_counted() {
        let key = |at: u16| Key::from(at.to_be_bytes().to_vec());
        let version = Version {
            timestamp: Timestamp::MIN,
            writer: WriterId::ANONYMOUS,
        };
        let listed = |at| Versioned {
            key: key(at),
            version,
            hash: 0,
        };
        let window = |at| Window {
            end: WindowEnd::Before(key(at)),
            fingerprint: Fingerprint::default(),
        };
        let versions = Versions {
            versions: (0..1000).map(listed).collect(),
            upto: None,
            collected: Timestamp::MIN,
            is_beside_others: false,
        };
        let windows = Windows {
            bytes: 0,
            windows: (0..1000).map(window).collect(),
            collected: Timestamp::MIN,
            is_beside_others: false,
        };
        let swept = Swept {
            expired: (0..1000).map(key).collect(),
            ..Swept::default()
        };
        let record = Record::from(Entry::new(version, "a value"));
        let records = Records {
            records: (0..1000).map(|at| (key(at), record.clone())).collect(),
            ..Records::default()
        };
        for (response, takes) in [
            (Told::Swept(swept).into(), size_of::<Key>()),
            (
                Told::Records(records).into(),
                size_of::<(Key, Record)>() + "a value".len(),
            ),
            (Told::Versions(versions).into(), size_of::<Versioned>()),
            (Told::Windows(windows).into(), size_of::<Window>()),
        ] {
            let budget = Budget::new(1 << 20);
            let answer = Answer::new(0, Ok(response), &budget, 0);
            assert!(answer.lease.unwrap().num_permits() >= 1000 * takes);
        }
    }
}
