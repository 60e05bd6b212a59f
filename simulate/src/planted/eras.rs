//! Links that break J-ERA, J-SILENT or J-COPY, P-CONVERGE or H-KEY.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kvquorum_core::{
    Ack, Bytes, Call, Entry, Era, Fingerprint, Held, Key, KeyRange, Marks, Record, Records,
    Refusal, Request, RequestKind, Response, Told, Transport, Version,
};

use super::Bug;
use super::link::{Answer, Place, changed, pretends, restamped, sent_later};
use crate::oracle::{Author, Kind};
use crate::spy::current;

/// What a link with such a bug remembers.
#[derive(Default)]
struct Memory {
    /// By the entry's version.
    acks: HashMap<Version, Ack>,
    /// By the operation, and the key.
    reads: HashMap<(usize, Key), Held>,
    /// What puts sent that the replica has not answered.
    missed: HashMap<Key, Entry>,
}

pub(super) struct EraLink {
    pub(super) bug: Bug,
    pub(super) inner: Arc<dyn Transport>,
    pub(super) place: Place,
    memory: Arc<Mutex<Memory>>,
}

fn with<A>(memory: &Mutex<Memory>, act: impl FnOnce(&mut Memory) -> A) -> A {
    act(&mut memory.lock().unwrap_or_else(PoisonError::into_inner))
}

fn ready(response: impl Into<Response>) -> Call {
    Call::Ready(Ok(response.into()))
}

fn earlier(era: Era) -> Option<Era> {
    Some(Era::new((era.get() - 1).try_into().ok()?))
}

impl EraLink {
    pub(super) fn new(bug: Bug, inner: Arc<dyn Transport>, place: Place) -> Self {
        Self {
            bug,
            inner,
            place,
            memory: Arc::default(),
        }
    }

    fn author(&self, entry: &Entry) -> Author {
        let oracle = self.place.oracle.lock();
        oracle.author(self.place.end, current(), entry.version)
    }

    fn is_of(&self, kind: Kind) -> bool {
        self.place.oracle.lock().is_of(current(), kind)
    }

    /// All that a rejoin asks, in the era before.
    fn in_era_before(&self, request: &Request, era: Era) -> Call {
        let Some(before) = earlier(era) else {
            return self.inner.call(request);
        };
        let mut request = request.clone();
        request.era = Some(before);
        changed(self.inner.call(&request), move |answer| {
            let Ok(Response::Told(mut told)) = answer else {
                return answer;
            };
            if let Told::Status(status) = &mut *told {
                status.marks.era = status.marks.era.max(era);
            }
            Ok(Response::Told(told))
        })
    }

    fn announced(era: Era) -> Call {
        ready(Told::Marks(Marks {
            era,
            announced: era,
            ..Marks::new(false)
        }))
    }

    /// An ack, be it of an earlier era.
    fn acked_before(&self, request: &Request, version: Version) -> Call {
        if let Some(ack) = with(&self.memory, |memory| memory.acks.get(&version).copied()) {
            return ready(Response::Ack(ack));
        }
        let memory = Arc::clone(&self.memory);
        changed(self.inner.call(request), move |answer| {
            if let Ok(Response::Ack(ack)) = &answer {
                with(&memory, |memory| memory.acks.insert(version, *ack));
            }
            answer
        })
    }

    /// What was answered to the same operation, be it in an earlier era.
    fn read_before(&self, request: &Request, op: usize, key: &Key) -> Call {
        let op = (op, key.clone());
        if let Some(held) = with(&self.memory, |memory| memory.reads.get(&op).cloned()) {
            return ready(Response::Entry(held));
        }
        let memory = Arc::clone(&self.memory);
        changed(self.inner.call(request), move |answer| {
            if let Ok(Response::Entry(held)) = &answer {
                with(&memory, |memory| memory.reads.insert(op, held.clone()));
            }
            answer
        })
    }

    /// A read that is answered also by who is joining.
    fn read_of_joiner(&self, request: &Request, key: &Key) -> Call {
        let (oracle, replica) = (self.place.oracle.clone(), self.place.end.replica);
        let key = key.clone();
        changed(self.inner.call(request), move |answer| match answer {
            Ok(Response::Refused(Refusal::Joining { .. })) => {
                let held = oracle.lock().look(replica, &key);
                Ok(Response::Entry(held.and_then(Record::into_entry).into()))
            }
            answer => answer,
        })
    }

    /// A write that is taken also by who is joining, in the era in which it is copied to.
    fn write_to_joiner(&self, request: &Request, key: &Key, entry: &Entry) -> Call {
        let inner = Arc::clone(&self.inner);
        let mut copy = request.clone();
        copy.kind = RequestKind::Copy {
            key: key.clone(),
            record: entry.clone().into(),
        };
        let calling = self.inner.call(request);
        Call::new(async move {
            let answer = calling.await;
            let Ok(Response::Refused(Refusal::Joining { .. })) = answer else {
                return answer;
            };
            match inner.call(&copy).await {
                Ok(Response::Refused(_)) => answer,
                copied => copied,
            }
        })
    }

    /// Who is not the first has nothing.
    fn records(&self, request: &Request) -> Call {
        if self.place.oracle.lock().first_ready() == Some(self.place.end.replica) {
            return self.inner.call(request);
        }
        ready(Told::Records(Records::default()))
    }

    /// Windows whose fingerprints leave something out.
    fn windows(&self, request: &Request, hash_key: u128) -> Call {
        let (oracle, replica, bug) = (self.place.oracle.clone(), self.place.end.replica, self.bug);
        let RequestKind::Fingerprint(asked) = &request.kind else {
            return self.inner.call(request);
        };
        let asked = asked.clone();
        changed(self.inner.call(request), move |answer| {
            let Ok(Response::Told(mut told)) = answer else {
                return answer;
            };
            if let Told::Windows(windows) = &mut *told
                && let Some(ends) = windows.ends(&asked.range, &asked.cuts)
            {
                let last = windows.windows.len() - 1;
                let mut range = asked.range.clone();
                let oracle = oracle.lock();
                for (place, (window, end)) in windows.windows.iter_mut().zip(ends).enumerate() {
                    let (bug, is_last) = (bug, place == last && end.is_none());
                    if bug == Bug::LastWindowLeftOut && is_last {
                        window.fingerprint = Fingerprint::default();
                    }
                    let in_window =
                        |key: &Key| range.contains(key) && end.as_ref().is_none_or(|end| key < end);
                    if bug != Bug::LastWindowLeftOut {
                        let held = oracle.all_held(replica).filter(|(key, _)| in_window(key));
                        let prints = held.filter_map(|(key, entry)| {
                            Some(Fingerprint::of(hash_key, &key, &hashed(bug, entry)?))
                        });
                        window.fingerprint = prints.fold(Fingerprint::default(), Fingerprint::and);
                    }
                    if let Some(end) = end {
                        range = KeyRange::from(end..).intersection(&asked.range);
                    }
                }
            }
            Ok(Response::Told(told))
        })
    }

    /// What is missed, if it is, is remembered.
    fn put(&self, request: &Request, key: &Key, entry: &Entry) -> Call {
        with(&self.memory, |memory| {
            memory.missed.insert(key.clone(), entry.clone())
        });
        let (memory, key, version) = (Arc::clone(&self.memory), key.clone(), entry.version);
        changed(self.inner.call(request), move |answer| {
            with(&memory, |memory| {
                let is_last = |missed: &Entry| missed.version == version;
                if answer.is_ok() && memory.missed.get(&key).is_some_and(is_last) {
                    memory.missed.remove(&key);
                }
            });
            answer
        })
    }

    /// A hint that brings what was missed.
    fn delivered(&self, request: &Request, key: &Key) -> Call {
        let mut request = request.clone();
        if let RequestKind::Repair { entry, .. } = &mut request.kind
            && let Some(missed) = with(&self.memory, |memory| memory.missed.remove(key))
        {
            *entry = missed;
        }
        self.inner.call(&request)
    }
}

/// What a fingerprint covers of an entry, if it does.
fn hashed(bug: Bug, mut entry: Entry) -> Option<Entry> {
    match bug {
        Bug::TombstonesLeftOut if entry.value.is_none() => return None,
        Bug::ValuesLeftOut => entry.value = entry.value.map(|_| Bytes::new()),
        _ => {}
    }
    Some(entry)
}

/// Versions alone tell entries apart.
fn without_hashes(answer: Answer) -> Answer {
    let Ok(Response::Told(mut told)) = answer else {
        return answer;
    };
    if let Told::Versions(told) = &mut *told {
        told.versions.iter_mut().for_each(|it| it.hash = 0);
    }
    Ok(Response::Told(told))
}

impl Transport for EraLink {
    fn call(&self, request: &Request) -> Call {
        match (self.bug, &request.kind, request.era) {
            (Bug::PutsAcrossEras, RequestKind::Write { entry, .. }, _)
                if self.author(entry) == Author::Put =>
            {
                self.acked_before(request, entry.version)
            }
            (Bug::ReadsAcrossEras, RequestKind::Read { key }, _) => match current() {
                Some(op) if !self.is_of(Kind::Handoff) => self.read_before(request, op, key),
                _ => self.inner.call(request),
            },
            (Bug::RejoinInOldEra, RequestKind::Announce { era }, _) => Self::announced(*era),
            (
                Bug::RejoinInOldEra,
                RequestKind::Status
                | RequestKind::Join { .. }
                | RequestKind::Records { .. }
                | RequestKind::Copy { .. }
                | RequestKind::Open { .. },
                Some(era),
            ) if era > Era::FIRST => self.in_era_before(request, era),
            (Bug::CopyFromOnePeer, RequestKind::Records { .. }, _) => self.records(request),
            (Bug::JoinerAnswersReads, RequestKind::Read { key }, _) => {
                self.read_of_joiner(request, key)
            }
            (Bug::JoinerAcksWrites, RequestKind::Write { key, entry }, _) => {
                self.write_to_joiner(request, key, entry)
            }
            (Bug::RefusedIsRepaired, RequestKind::Repair { .. }, _) if self.is_of(Kind::Pass) => {
                changed(self.inner.call(request), pretends)
            }
            (
                Bug::TombstonesLeftOut | Bug::ValuesLeftOut | Bug::LastWindowLeftOut,
                RequestKind::Fingerprint(asked),
                _,
            ) => self.windows(request, asked.hash_key),
            (Bug::ValuesLeftOut, RequestKind::Versions(_), _) => {
                changed(self.inner.call(request), without_hashes)
            }
            (Bug::PassRestamps, RequestKind::Repair { entry, .. }, _)
                if self.is_of(Kind::Pass) && self.author(entry) == Author::Repair =>
            {
                self.inner.call(&restamped(request))
            }
            (Bug::HintCarriesValue, RequestKind::Repair { key, .. }, _)
                if self.is_of(Kind::Handoff) =>
            {
                self.delivered(request, key)
            }
            (Bug::HintCarriesValue, RequestKind::Write { key, entry }, _)
                if self.author(entry) == Author::Put =>
            {
                self.put(request, key, entry)
            }
            (Bug::HintClearedFirst, RequestKind::Repair { .. }, _) if self.is_of(Kind::Handoff) => {
                sent_later(&self.inner, request, self.place.time_limit)
            }
            _ => self.inner.call(request),
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
