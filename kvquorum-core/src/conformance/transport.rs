//! The suite for transports.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Clause, Named, PATIENCE, Shown, Turns, awkward_keys, check, joined, polled, together,
    tombstone, value, version,
};
use crate::clock::{DEFAULT_MAX_DRIFT, whole_millis};
use crate::entry::{Entry, Key, Timestamp};
use crate::replica::Limits;
use crate::store::Merged;
use crate::transport::{Refusal, Request, Response, Transport, TransportError};

const ITS_OWN_ANSWER: Clause = Clause {
    of: "Transport::call",
    says: "The response is the replica's answer to exactly this request, \
           whatever else is under way.",
};
const UNCHANGED: Clause = Clause {
    of: "Transport::call",
    says: "Key, entry and response arrive unchanged, bit for bit.",
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
const DROPPED: Clause = Clause {
    of: "Transport::call",
    says: "Dropping the future is safe at any time. Whether the request still reaches \
           the replica is then unknown.",
};
const NOW_NOTHING: Clause = Clause {
    of: "Transport::call_now",
    says: "`None` means that the replica has not seen the request, and never will from this.",
};
const NOW_ANSWERS: Clause = Clause {
    of: "Transport::call_now",
    says: "A result is what `call` would have brought back.",
};
const NAMED: Clause = Clause {
    of: "Transport::name",
    says: "What reports and errors call this replica: an address, for one.",
};

#[cfg(test)]
pub(super) const CLAUSES: &[&Clause] = &[
    &ITS_OWN_ANSWER,
    &UNCHANGED,
    &REFUSAL,
    &NOT_WAITING,
    &DROPPED,
    &NOW_NOTHING,
    &NOW_ANSWERS,
    &NAMED,
];

#[cfg(test)]
pub(super) const UNCHECKED: &[&str] = &[
    "The error tells whether the replica can have acted: `NotSent` and `Rejected` only \
     where it surely has not, in no try.",
    "It returns at once: it waits for no I/O, and for no lock that is held for long.",
];

/// Checks a [`Transport`] against its contract.
///
/// For each check, the builder gives a link to a fresh
/// [`Replica`](crate::Replica) over an empty store, with the default
/// [`Limits`] and the system's clock, and a guard that is kept until the check
/// is over: see the [module](super).
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
    check("the replica has a name", &build, named).await;
    check("verdicts arrive unchanged", &build, verdicts).await;
    check("refusals arrive typed", &build, refusals).await;
    check("concurrent calls get their own answers", &build, concurrent).await;
    check("a dropped call leaves the link usable", &build, dropped).await;
    check("results at once are true", &build, at_once).await;
    check(
        "a call at rest does not hold up others",
        &build,
        independent,
    )
    .await;
    // Last: its calls are concurrent, and by now each gets its own answer.
    check("entries arrive unchanged", &build, round_trip).await;
}

/// A link whose errors are failures of the suite: nothing here may fail.
///
/// Where the link has results at once, half of the calls take them: the two
/// ways to ask have to agree in every check.
struct Subject<T> {
    link: Arc<T>,
    turns: Arc<Turns>,
}

impl<T> Clone for Subject<T> {
    fn clone(&self) -> Self {
        Self {
            link: Arc::clone(&self.link),
            turns: Arc::clone(&self.turns),
        }
    }
}

impl<T: Transport> Subject<T> {
    fn new(link: T) -> Self {
        Self {
            link: Arc::new(link),
            turns: Arc::default(),
        }
    }

    async fn ask(&self, request: Request) -> Result<Response, TransportError> {
        match self.turns.take(|| self.link.call_now(&request)) {
            Some(result) => result,
            None => self.link.call(request).await,
        }
    }

    async fn get(&self, key: &Key) -> Option<Entry> {
        match self.ask(Request::Get { key: key.clone() }).await {
            Ok(Response::Entry(entry)) => entry,
            Ok(other) => ITS_OWN_ANSWER.broken(format_args!(
                "reading {} was answered by {other:?}",
                Named(key)
            )),
            Err(error) => panic!("reading {} over a sound link failed: {error}", Named(key)),
        }
    }

    async fn merge(&self, key: &Key, entry: &Entry) -> Merged {
        let request = Request::Merge {
            key: key.clone(),
            entry: entry.clone(),
        };
        match self.ask(request).await {
            Ok(Response::Merged(merged)) => merged,
            Ok(other) => ITS_OWN_ANSWER.broken(format_args!(
                "merging {} under {} was answered by {other:?}",
                Shown(Some(entry)),
                Named(key),
            )),
            Err(error) => panic!("merging {} over a sound link failed: {error}", Named(key)),
        }
    }

    async fn expect(&self, clause: &Clause, key: &Key, expected: Option<&Entry>, when: &str) {
        let found = self.get(key).await;
        clause.require(
            found.as_ref() == expected,
            format_args!(
                "{} reads as {} {when}; expected {}",
                Named(key),
                Shown(found.as_ref()),
                Shown(expected),
            ),
        );
    }

    /// Merges, and requires this verdict.
    async fn merge_as(&self, clause: &Clause, key: &Key, entry: &Entry, expected: Merged) {
        let merged = self.merge(key, entry).await;
        clause.require(
            merged == expected,
            format_args!(
                "merging {} under {} was answered {merged:?}; expected {expected:?}",
                Shown(Some(entry)),
                Named(key),
            ),
        );
    }

    /// Requires that a request is refused, and for exactly this reason.
    async fn refused(&self, request: Request, expected: impl Fn(&Refusal) -> bool) {
        let what = match &request {
            Request::Get { key } => format!("reading {}", Named(key)),
            Request::Merge { key, entry } => format!("merging {entry:?} under {}", Named(key)),
        };
        match self.ask(request).await {
            Ok(Response::Refused(refusal)) => UNCHANGED.require(
                expected(&refusal),
                format_args!("{what} was refused for another reason: {refusal:?}"),
            ),
            Ok(other) => REFUSAL.broken(format_args!(
                "{what} was answered by {other:?}; the replica refuses it"
            )),
            Err(error) => REFUSAL.broken(format_args!("{what} failed: {error:?}")),
        }
    }
}

async fn named<T: Transport>(link: T) {
    NAMED.require(!link.name().is_empty(), "the name is empty");
}

/// What a call that waits for another takes. Less than the patience of a check,
/// which would not know what the call waits for.
const FOREVER: Duration = Duration::from_secs(PATIENCE.as_secs() / 2);

/// A moment that the replica admits, whatever its clock reads.
const PAST: u64 = 1 << 40;

async fn round_trip<T: Transport>(link: T) {
    let link = Subject::new(link);
    let limits = Limits::default();
    let all_bytes: Vec<u8> = (0..=u8::MAX).collect();
    let largest: Vec<u8> = (0..=250).cycle().take(limits.max_value_len).collect();
    let entries = [
        value(0, 0, ""),
        value(PAST, u64::MAX, all_bytes),
        tombstone(PAST + 1, 1 << 63),
        value(PAST + 0xffff, (1 << 53) + 1, "null"),
        value(0, u64::MAX, "\u{feff}\r\n\0"),
        tombstone(0, 0),
    ];
    let keys = awkward_keys();
    let when = "in a fresh replica";
    link.expect(&UNCHANGED, &Key::from("absent"), None, when)
        .await;
    let merged: Vec<_> = keys.iter().zip(entries.iter().cycle()).collect();
    let when = "after it was merged";
    // A few at a time, so that a slow link takes the patience of a check for
    // some dozens of calls and not for some hundreds.
    for few in merged.chunks(16) {
        let merge = |(key, entry)| link.merge_as(&UNCHANGED, key, entry, Merged::Applied);
        together(few.iter().copied().map(merge)).await;
    }
    for few in merged.chunks(16) {
        let read = |(key, entry)| link.expect(&UNCHANGED, key, Some(entry), when);
        together(few.iter().copied().map(read)).await;
    }
    let key = Key::from("the largest value");
    let entry = value(PAST, 1, largest);
    link.merge_as(&UNCHANGED, &key, &entry, Merged::Applied)
        .await;
    link.expect(&UNCHANGED, &key, Some(&entry), when).await;
}

async fn verdicts<T: Transport>(link: T) {
    let link = Subject::new(link);
    let key = Key::from("key");
    let stored = value(PAST, u64::MAX, "stored");
    let superseded = Merged::Superseded { by: stored.version };
    link.merge_as(&UNCHANGED, &key, &stored, Merged::Applied)
        .await;
    // An equal entry, as where a call is tried again.
    link.merge_as(&UNCHANGED, &key, &stored, Merged::Applied)
        .await;
    for older in [
        value(PAST - 1, u64::MAX, "zzz"),
        tombstone(PAST, u64::MAX - 1),
        // The same version, lesser bytes.
        value(PAST, u64::MAX, "stor"),
    ] {
        link.merge_as(&UNCHANGED, &key, &older, superseded).await;
        let when = "after a merge that was superseded";
        link.expect(&UNCHANGED, &key, Some(&stored), when).await;
    }
}

async fn refusals<T: Transport>(link: T) {
    let link = Subject::new(link);
    let limits = Limits::default();
    let key = Key::from("key");
    let stored = value(PAST, 1, "stored");
    link.merge(&key, &stored).await;
    let merge = |key: &Key, entry: Entry| Request::Merge {
        key: key.clone(),
        entry,
    };

    let empty = Key::from("");
    let is_empty = |refusal: &Refusal| *refusal == Refusal::EmptyKey;
    let request = Request::Get { key: empty.clone() };
    link.refused(request, is_empty).await;
    link.refused(merge(&empty, stored.clone()), is_empty).await;

    let long = Key::from(vec![b'k'; limits.max_key_len + 1]);
    let is_long = |refusal: &Refusal| {
        *refusal
            == Refusal::KeyTooLong {
                len: long.len() as u64,
                max: limits.max_key_len as u64,
            }
    };
    let request = Request::Get { key: long.clone() };
    link.refused(request, is_long).await;
    link.refused(merge(&long, stored.clone()), is_long).await;

    let large = value(PAST + 1, 1, vec![b'v'; limits.max_value_len + 1]);
    let is_large = |refusal: &Refusal| {
        *refusal
            == Refusal::ValueTooLarge {
                len: limits.max_value_len as u64 + 1,
                max: limits.max_value_len as u64,
            }
    };
    link.refused(merge(&key, large.clone()), is_large).await;
    let fresh = Key::from("fresh");
    link.refused(merge(&fresh, large), is_large).await;

    let far = Timestamp::MAX;
    let is_far = |refusal: &Refusal| match refusal {
        Refusal::TooFarAhead {
            timestamp,
            now_millis,
            max_drift_millis,
        } => {
            *timestamp == far
                && *max_drift_millis == whole_millis(DEFAULT_MAX_DRIFT)
                && *now_millis > 0
        }
        _ => false,
    };
    let ahead = Entry::tombstone(version(far.to_bits(), 1));
    link.refused(merge(&key, ahead.clone()), is_far).await;
    link.refused(merge(&fresh, ahead), is_far).await;

    let when = "after merges that were refused";
    link.expect(&REFUSAL, &key, Some(&stored), when).await;
    link.expect(&REFUSAL, &fresh, None, when).await;
}

async fn concurrent<T: Transport>(link: T) {
    const CALLS: u64 = 64;
    let link = Subject::new(link);
    let key = |number: u64| Key::from(format!("concurrent {number}"));
    let stored = |number: u64| value(PAST + number, number, format!("value {number}"));
    for number in (0..CALLS).step_by(2) {
        link.merge(&key(number), &stored(number)).await;
    }
    // By fours: a key that is there, one that is not, a merge that is
    // superseded by a version of its own, and one that is applied.
    let call = |number: u64| {
        let link = link.clone();
        async move {
            let (key, stored) = (key(number), stored(number));
            let older = value(PAST - 1, 0, "older");
            let superseded = Merged::Superseded { by: stored.version };
            let clause = &ITS_OWN_ANSWER;
            let when = "among concurrent calls";
            match number % 4 {
                0 => link.expect(clause, &key, Some(&stored), when).await,
                1 => link.expect(clause, &key, None, when).await,
                2 => link.merge_as(clause, &key, &older, superseded).await,
                _ => link.merge_as(clause, &key, &stored, Merged::Applied).await,
            }
        }
    };
    let calls = async {
        let tasks: Vec<_> = (0..CALLS)
            .map(|number| tokio::spawn(call(number)))
            .collect();
        for task in tasks {
            joined(task).await;
        }
    };
    if tokio::time::timeout(FOREVER, calls).await.is_err() {
        NOT_WAITING.broken(format_args!(
            "{CALLS} concurrent calls have not ended after {FOREVER:?}"
        ));
    }
}

async fn independent<T: Transport>(link: T) {
    let link = Subject::new(link);
    let (key, other) = (Key::from("at rest"), Key::from("other"));
    let stored = value(PAST, 1, "other");
    // A link that opens with its first call is open from here on.
    link.merge(&other, &stored).await;
    for polls in 1..=4 {
        let merge = Request::Merge {
            key: key.clone(),
            entry: value(PAST, 1, "at rest"),
        };
        for request in [merge, Request::Get { key: key.clone() }] {
            let mut at_rest = link.link.call(request);
            polled(polls, &mut at_rest).await;
            let when = "while another call is at rest";
            let read = link.expect(&ITS_OWN_ANSWER, &other, Some(&stored), when);
            if tokio::time::timeout(FOREVER, read).await.is_err() {
                NOT_WAITING.broken(format_args!(
                    "a call has not ended after {FOREVER:?} beside one that was polled \
                     {polls} times and then no more"
                ));
            }
        }
    }
}

async fn dropped<T: Transport>(link: T) {
    let link = Subject::new(link);
    let other = Key::from("other");
    let stored = value(PAST, 1, "other");
    link.merge(&other, &stored).await;
    for polls in 0..16 {
        let key = Key::from(format!("dropped after {polls}"));
        let old = value(PAST, 1, "old");
        let new = value(PAST + 1, 1, "new");
        link.merge(&key, &old).await;

        let merge = Request::Merge {
            key: key.clone(),
            entry: new.clone(),
        };
        polled(polls, link.link.call(merge)).await;
        // An answer left behind on the link would come to the next call.
        let when = "after a merge of another key was dropped";
        link.expect(&DROPPED, &other, Some(&stored), when).await;

        let get = Request::Get { key: key.clone() };
        polled(polls, link.link.call(get)).await;
        let when = "after a read of another key was dropped";
        link.expect(&DROPPED, &other, Some(&stored), when).await;

        let found = link.get(&key).await;
        DROPPED.require(
            found.as_ref() == Some(&old) || found.as_ref() == Some(&new),
            format_args!(
                "{} reads as {} after a merge of {} over {} was dropped",
                Named(&key),
                Shown(found.as_ref()),
                Shown(Some(&new)),
                Shown(Some(&old)),
            ),
        );
    }
}

async fn at_once<T: Transport>(link: T) {
    let key = Key::from("key");
    let read = Request::Get { key: key.clone() };
    let mut held: Option<Entry> = None;
    for (at, expected) in [(1, None), (3, None), (2, Some(3))] {
        let entry = value(PAST + at, 1, "value");
        let merge = Request::Merge {
            key: key.clone(),
            entry: entry.clone(),
        };
        let expected = expected.map_or(Merged::Applied, |at| Merged::Superseded {
            by: value(PAST + at, 1, "value").version,
        });
        match link.call_now(&merge) {
            None => {
                require_held(&NOW_NOTHING, link.call(read.clone()).await, held.as_ref());
                require_merged(&ITS_OWN_ANSWER, link.call(merge).await, expected);
            }
            Some(result) => require_merged(&NOW_ANSWERS, result, expected),
        }
        held = held.max(Some(entry));
        require_held(&NOW_ANSWERS, link.call(read.clone()).await, held.as_ref());
        if let Some(result) = link.call_now(&read) {
            require_held(&NOW_ANSWERS, result, held.as_ref());
        }
    }
}

fn require_held(
    clause: &Clause,
    result: Result<Response, TransportError>,
    expected: Option<&Entry>,
) {
    clause.require(
        matches!(&result, Ok(Response::Entry(held)) if held.as_ref() == expected),
        format_args!(
            "a read brought back {result:?}; expected {}",
            Shown(expected)
        ),
    );
}

fn require_merged(clause: &Clause, result: Result<Response, TransportError>, expected: Merged) {
    clause.require(
        matches!(&result, Ok(Response::Merged(merged)) if *merged == expected),
        format_args!("a merge brought back {result:?}; expected {expected:?}"),
    );
}
