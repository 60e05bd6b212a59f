//! The suite for transports.

mod answers;
mod at_rest;
mod collections;
mod comparisons;
mod concurrency;
mod identity;
mod pages;
mod promises;
mod refusals;
mod rejoins;

use std::future::Future;
use std::sync::Arc;

use kvquorum_core::{
    Ack, Entry, Identity, Key, Refusal, Request, RequestKind, Response, Transport,
};

use super::shown::{Causes, Named, Shown};
use super::{Clause, check};

const SAME_REPLICA: Clause = Clause {
    of: "Transport::call",
    says: "All calls lead to the same replica.",
};
const ITS_OWN_ANSWER: Clause = Clause {
    of: "Transport::call",
    says: "The response is the replica's answer to exactly this request, \
           whatever else is under way.",
};
const UNCHANGED: Clause = Clause {
    of: "Transport::call",
    says: "Request and response arrive unchanged, bit for bit.",
};
const REFUSAL: Clause = Clause {
    of: "Transport::call",
    says: "A refusal is a response, not an error; unless an earlier try of the \
           same call may have been stored.",
};
const NOT_WAITING: Clause = Clause {
    of: "Transport::call",
    says: "Calls do not wait for each other beyond what the link needs.",
};
const AT_REST: Clause = Clause {
    of: "Transport::call",
    says: "A call that is not polled holds up no other.",
};
const DROPPED: Clause = Clause {
    of: "Transport::call",
    says: "Dropping the call is safe at any time. Whether the request still \
           reaches the replica is then unknown.",
};
const NAMED: Clause = Clause {
    of: "Transport::name",
    says: "It is not empty.",
};

#[cfg(test)]
pub(super) const CLAUSES: &[&Clause] = &[
    &SAME_REPLICA,
    &ITS_OWN_ANSWER,
    &UNCHANGED,
    &REFUSAL,
    &NOT_WAITING,
    &AT_REST,
    &DROPPED,
    &NAMED,
];

#[cfg(test)]
pub(super) const UNCHECKED: &[&str] = &[
    "The error tells whether the replica can have acted: `NotSent` and `Rejected` only \
     where it surely has not, in no try.",
    "`call` itself does not block.",
];

/// Checks a [`Transport`] against its contract.
///
/// For each check, the builder gives a link to a fresh
/// [`Replica`](kvquorum_core::Replica) over an empty store, with the default
/// [`Limits`](kvquorum_core::Limits) and the system's clock, and a guard that is kept
/// until the check is over: see the [module](super). The replica is not
/// [said](kvquorum_core::Replica::of_new_cluster) to be of a new cluster: the suite opens
/// it, over the link.
///
/// The link must carry two calls at once. One that takes a single call at a
/// time, and needs it to be polled to its end, fails here: give a pool of
/// connections more than one.
///
/// # Panics
///
/// Where the transport breaks its contract, brings back an error, or does not
/// answer.
pub async fn transport<B, F, T, G>(build: B)
where
    B: Fn() -> F,
    F: Future<Output = (T, G)>,
    T: Transport,
{
    let open = || async {
        let (link, guard) = build().await;
        let link = Subject::new(link);
        rejoins::open(&link).await;
        (link.0, guard)
    };
    check("the replica has a name", &build, answers::named).await;
    check("the replica is always the same", &open, identity::run).await;
    check("acks arrive unchanged", &open, answers::acks).await;
    check("refusals arrive typed", &open, refusals::run).await;
    check(
        "concurrent calls get their own answers",
        &open,
        concurrency::own_answers,
    )
    .await;
    check(
        "a dropped call leaves the link usable",
        &open,
        concurrency::dropped,
    )
    .await;
    check("a call at rest holds up no other", &open, at_rest::run).await;
    // Last: its calls are concurrent, and by now each gets its own answer.
    check("entries arrive unchanged", &open, answers::round_trip).await;
    check("pages arrive unchanged", &open, pages::run).await;
    check("comparisons arrive unchanged", &open, comparisons::run).await;
    check("promises arrive unchanged", &open, promises::run).await;
    check("collections arrive unchanged", &open, collections::run).await;
    check(
        "what a rejoin brings arrives unchanged",
        &build,
        rejoins::run,
    )
    .await;
}

/// A moment that the replica admits, whatever its clock reads.
const PAST: u64 = 1 << 40;

/// A link whose errors are failures of the suite: nothing here may fail.
struct Subject<T>(Arc<T>);

impl<T> Clone for Subject<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Transport> Subject<T> {
    fn new(link: T) -> Self {
        Self(Arc::new(link))
    }

    async fn ask(&self, request: Request) -> Response {
        match self.0.call(&request).await {
            Ok(response) => response,
            Err(error) => panic!(
                "{} over a sound link failed: {}",
                asked(&request),
                Causes(&error)
            ),
        }
    }

    async fn read(&self, key: &Key) -> Option<Entry> {
        let request = Request::read(key);
        match self.ask(request.clone()).await {
            Response::Entry(held) => held.entry,
            other => mistaken(&request, &other),
        }
    }

    async fn write(&self, key: &Key, entry: &Entry) -> Ack {
        let request = Request::write(key, entry.clone());
        match self.ask(request.clone()).await {
            Response::Ack(ack) => ack,
            other => mistaken(&request, &other),
        }
    }

    async fn identify(&self, request: Request) -> Identity {
        match self.ask(request.clone()).await {
            Response::Identity(identity) => *identity,
            other => mistaken(&request, &other),
        }
    }

    async fn expect(&self, clause: &Clause, key: &Key, expected: Option<&Entry>, when: &str) {
        let found = self.read(key).await;
        clause.require(
            found.as_ref() == expected,
            format_args!(
                "{} reads as {} {when}; expected {}",
                Named(key),
                Shown::entry(found.as_ref()),
                Shown::entry(expected),
            ),
        );
    }

    /// Writes, and requires this ack.
    async fn write_as(&self, clause: &Clause, key: &Key, entry: &Entry, expected: Ack) {
        let ack = self.write(key, entry).await;
        clause.require(
            ack == expected,
            format_args!(
                "writing {} under {} was answered {ack:?}; expected {expected:?}",
                Shown::entry(Some(entry)),
                Named(key),
            ),
        );
    }

    /// Requires that a request is refused, and for exactly this reason.
    async fn refused(&self, request: Request, expected: impl Fn(&Refusal) -> bool) {
        let what = asked(&request);
        match self.0.call(&request).await {
            Ok(Response::Refused(refusal)) => UNCHANGED.require(
                expected(&refusal),
                format_args!("{what} was refused for another reason: {refusal:?}"),
            ),
            Ok(other) => REFUSAL.broken(format_args!(
                "{what} was answered by {other:?}; the replica refuses it"
            )),
            Err(error) => REFUSAL.broken(format_args!("{what} failed: {}", Causes(&error))),
        }
    }
}

fn asked(request: &Request) -> String {
    match &request.kind {
        RequestKind::Read { key } => format!("reading {}", Named(key)),
        RequestKind::Write { key, entry } => {
            format!("writing {} under {}", Shown::entry(Some(entry)), Named(key))
        }
        RequestKind::Repair { key, entry } => {
            format!(
                "repairing {} with {}",
                Named(key),
                Shown::entry(Some(entry))
            )
        }
        RequestKind::Prepare { key, ballot } => {
            format!("promising {ballot} for {}", Named(key))
        }
        other => format!("{other:?}"),
    }
}

fn mistaken(request: &Request, response: &Response) -> ! {
    ITS_OWN_ANSWER.broken(format_args!(
        "{} was answered by {response:?}",
        asked(request)
    ))
}
