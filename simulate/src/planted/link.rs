//! Links with bugs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvquorum_core::{
    Ack, Call, Request, RequestKind, Response, Timestamp, Transport, TransportError,
};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::collection::CollectionLink;
use super::eras::EraLink;
use super::expiry::ExpiryLink;
use super::{Bug, Kind, Marks};
use crate::oracle::{Author, End, Shared};
use crate::spy::{current, on_behalf};

/// What a link with a bug has to know.
pub struct Place {
    pub oracle: Shared,
    pub time_limit: Duration,
    pub end: End,
    pub w: usize,
    pub marks: Marks,
}

/// A link with a bug, or the link as it is.
pub fn link(bug: Option<Bug>, inner: Arc<dyn Transport>, place: Place) -> Arc<dyn Transport> {
    match bug {
        Some(bug) if bug.kind() == Kind::Link || bug.is_promise() => Arc::new(BuggyLink {
            bug,
            inner,
            place,
            last: Arc::default(),
        }),
        Some(bug) if bug.kind() == Kind::Collection => {
            Arc::new(CollectionLink { bug, inner, place })
        }
        Some(bug) if bug.kind() == Kind::Expiry => Arc::new(ExpiryLink { bug, inner, place }),
        Some(bug) if bug.is_of_tending() => Arc::new(EraLink::new(bug, inner, place)),
        _ => inner,
    }
}

/// The last answer to a read, and how many reads are under way.
type Last = Mutex<(Option<Response>, usize)>;
pub(super) type Answer = Result<Response, TransportError>;

struct BuggyLink {
    bug: Bug,
    inner: Arc<dyn Transport>,
    place: Place,
    last: Arc<Last>,
}

#[derive(Debug, thiserror::Error)]
#[error("planted")]
struct Planted;

pub(super) fn applied() -> Answer {
    Ok(Response::Ack(Ack::Applied))
}

/// Changes an answer, whenever it comes.
pub(super) fn changed(call: Call, change: impl FnOnce(Answer) -> Answer + Send + 'static) -> Call {
    match call {
        Call::Ready(answer) => Call::Ready(change(answer)),
        calling => Call::new(async move { change(calling.await) }),
    }
}

/// A refusal is as good as an ack.
pub(super) fn pretends(answer: Answer) -> Answer {
    match answer {
        Ok(Response::Refused(_)) => applied(),
        answer => answer,
    }
}

/// What is sent a little later, and acked before.
pub(super) fn sent_later(inner: &Arc<dyn Transport>, request: &Request, limit: Duration) -> Call {
    let (inner, request, op) = (Arc::clone(inner), request.clone(), current());
    tokio::spawn(on_behalf(op, async move {
        sleep(Duration::from_millis(1)).await;
        drop(timeout(limit, inner.call(&request)).await);
    }));
    Call::Ready(applied())
}

/// A repair as it is, but for its version, which is the next.
pub(super) fn restamped(request: &Request) -> Request {
    let mut request = request.clone();
    if let RequestKind::Repair { entry, .. } = &mut request.kind {
        let timestamp = &mut entry.version.timestamp;
        *timestamp = Timestamp::from_bits(timestamp.to_bits() + 1);
    }
    request
}

fn deleting(request: &Request) -> Request {
    let mut request = request.clone();
    if let RequestKind::Repair { entry, .. } = &mut request.kind {
        entry.value = None;
    }
    request
}

fn lock(last: &Last) -> MutexGuard<'_, (Option<Response>, usize)> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BuggyLink {
    /// What comes back within half the time limit, and else this. The call itself
    /// goes on.
    fn hasty(&self, request: &Request, instead: impl FnOnce() -> Answer + Send + 'static) -> Call {
        let is_introduced = self.place.oracle.lock().is_introduced(self.place.end);
        let calling = match self.inner.call(request) {
            Call::Pending(calling) if !is_introduced => calling,
            call => return call,
        };
        let (send, receive) = oneshot::channel();
        let (limit, op) = (self.place.time_limit, current());
        Call::new(async move {
            tokio::spawn(on_behalf(op, async move {
                if let Ok(result) = timeout(limit, calling).await {
                    let _ = send.send(result);
                }
            }));
            let answer = timeout(limit / 2, receive).await.map(Result::ok);
            answer.ok().flatten().unwrap_or_else(instead)
        })
    }

    /// Who sends an entry; `None` where none is sent.
    fn author(&self, request: &Request) -> Option<Author> {
        let oracle = self.place.oracle.lock();
        match &request.kind {
            RequestKind::Write { entry, .. } => {
                Some(oracle.author(self.place.end, current(), entry.version))
            }
            RequestKind::Repair { .. } => Some(oracle.repairer(self.place.end, current())),
            _ => None,
        }
    }

    fn is_repair(&self, request: &Request) -> bool {
        let author = self.author(request);
        matches!(author, Some(Author::Repair | Author::RepairOfScan))
    }

    /// Tells stores of an entry that they are to treat otherwise.
    fn mark(&self, request: &Request) {
        let marked = match self.bug {
            Bug::PutsIgnorePromises => self.author(request) == Some(Author::Put),
            Bug::RepairsIgnorePromises => self.is_repair(request),
            Bug::AcceptComparesNothing => self.author(request) == Some(Author::Update),
            _ => false,
        };
        if let (true, RequestKind::Write { entry, .. } | RequestKind::Repair { entry, .. }) =
            (marked, &request.kind)
        {
            let marks = self.place.marks.lock();
            let mut marks = marks.unwrap_or_else(PoisonError::into_inner);
            marks.insert(entry.version);
        }
    }

    fn swapped(&self, request: &Request) -> Call {
        lock(&self.last).1 += 1;
        let last = Arc::clone(&self.last);
        changed(self.inner.call(request), move |answer| {
            let mut last = lock(&last);
            last.1 = last.1.saturating_sub(1);
            match (answer, last.1) {
                (Ok(answer), 1..) => {
                    let other = last.0.replace(answer.clone());
                    Ok(other.unwrap_or(answer))
                }
                (answer, _) => answer,
            }
        })
    }

    fn comes_again(&self, request: &Request) -> Call {
        let (inner, request) = (Arc::clone(&self.inner), request.clone());
        let (limit, op) = (self.place.time_limit, current());
        changed(self.inner.call(&request), move |answer| {
            if let Ok(Response::Refused(_)) = answer {
                tokio::spawn(on_behalf(op, async move {
                    sleep(limit).await;
                    drop(timeout(limit, inner.call(&request)).await);
                }));
            }
            answer
        })
    }
}

impl Transport for BuggyLink {
    fn call(&self, request: &Request) -> Call {
        let bug = self.bug;
        self.mark(request);
        let is_write = matches!(
            request.kind,
            RequestKind::Write { .. } | RequestKind::Repair { .. }
        );
        match bug {
            Bug::HangIsAck if is_write => self.hasty(request, applied),
            Bug::LostIsNotSent if is_write => {
                self.hasty(request, || Err(TransportError::NotSent(Planted.into())))
            }
            Bug::SentToQuorum if is_write && self.place.end.replica >= self.place.w => {
                Call::Ready(Err(TransportError::NoAnswer(Planted.into())))
            }
            Bug::RepairRestamps if self.is_repair(request) => self.inner.call(&restamped(request)),
            Bug::RepairDeletes if self.is_repair(request) => self.inner.call(&deleting(request)),
            Bug::ScanRepairRestamps if self.author(request) == Some(Author::RepairOfScan) => {
                self.inner.call(&restamped(request))
            }
            Bug::RepairPretends if self.is_repair(request) => Call::Ready(applied()),
            Bug::AnswersSwapped if matches!(request.kind, RequestKind::Read { .. }) => {
                self.swapped(request)
            }
            Bug::RefusedComesAgain if is_write => self.comes_again(request),
            _ => changed(self.inner.call(request), move |answer| {
                match (bug, answer) {
                    (Bug::FailureIsRefusal, Err(TransportError::Store(error))) => {
                        Err(TransportError::Rejected(error.into()))
                    }
                    (Bug::AbsentIsError, Ok(Response::Entry(held))) if held.entry.is_none() => {
                        Err(TransportError::NoAnswer(Planted.into()))
                    }
                    (Bug::TombstonesFiltered, Ok(Response::Page(mut page))) => {
                        page.entries.retain(|(_, entry)| entry.value.is_some());
                        Ok(Response::Page(page))
                    }
                    (Bug::SupersededHidden, Ok(Response::Ack(_)))
                    | (Bug::RefusalIsAck, Ok(Response::Refused(_)))
                        if is_write =>
                    {
                        applied()
                    }
                    (_, answer) => answer,
                }
            }),
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
