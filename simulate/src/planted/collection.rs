//! Links that break G-SEAL, G-LEVEL, G-COLLECT or G-VOID.

use std::sync::Arc;

use kvquorum_core::{
    Call, Fingerprint, Held, Key, Marks, Request, RequestKind, Response, Swept, Timestamp, Told,
    Transport, Versioned,
};

use super::Bug;
use super::link::{Answer, Place, applied, changed, pretends, sent_later};
use crate::oracle::{Author, Kind};
use crate::spy::current;

pub(super) struct CollectionLink {
    pub(super) bug: Bug,
    pub(super) inner: Arc<dyn Transport>,
    pub(super) place: Place,
}

fn without_mark(held: Held) -> Held {
    let collected = Timestamp::MIN;
    Held { collected, ..held }
}

/// An answer, without the mark that it carries.
fn unmarked(bug: Bug, answer: Answer) -> Answer {
    let answer = match (bug, answer?) {
        (Bug::NoVoidInGets, Response::Entry(held)) => Response::Entry(without_mark(held)),
        (Bug::NoVoidInPrepares, Response::Promise(held)) => Response::Promise(without_mark(held)),
        (Bug::NoVoidInScans, Response::Page(mut page)) => {
            page.collected = Timestamp::MIN;
            Response::Page(page)
        }
        (Bug::NoVoidInRejoins, Response::Told(mut told)) => {
            if let Told::Records(told) = &mut *told {
                told.collected = Timestamp::MIN;
            }
            Response::Told(told)
        }
        (_, answer) => answer,
    };
    Ok(answer)
}

impl CollectionLink {
    fn is_by(&self, request: &Request, author: Author) -> bool {
        let RequestKind::Write { entry, .. } = &request.kind else {
            return false;
        };
        let oracle = self.place.oracle.lock();
        oracle.author(self.place.end, current(), entry.version) == author
    }

    fn is_of(&self, kind: Kind) -> bool {
        self.place.oracle.lock().is_of(current(), kind)
    }

    fn is_past_w(&self) -> bool {
        self.place.end.replica >= self.place.w
    }

    /// What a replica is sealed up to.
    fn sealed(&self) -> Timestamp {
        let oracle = self.place.oracle.lock();
        oracle.floors(self.place.end.replica).sealed
    }

    /// The replica is sealed, and collects at once.
    fn sealed_and_collected(&self, request: &Request, to: Timestamp) -> Call {
        let (inner, asked) = (Arc::clone(&self.inner), request.clone());
        Call::new(async move {
            let of = |kind| Request {
                kind,
                ..asked.clone()
            };
            let sealed = inner.call(&of(RequestKind::Seal { to })).await?;
            let Response::Told(told) = &sealed else {
                return Ok(sealed);
            };
            let Told::Status(status) = &**told else {
                return Ok(sealed);
            };
            let boot = status.boot;
            let collected = inner.call(&of(RequestKind::Collect { to, boot })).await?;
            match asked.kind {
                RequestKind::Seal { .. } => Ok(sealed),
                _ => Ok(collected),
            }
        })
    }

    fn collected_up_to_seal(&self, request: &Request, to: Timestamp, boot: u64) -> Call {
        let to = to.max(self.sealed());
        let kind = RequestKind::Collect { to, boot };
        let request = Request {
            kind,
            ..request.clone()
        };
        self.inner.call(&request)
    }

    /// A replica that rejoins is not told all that its peers keep of themselves.
    fn joined(&self, request: &Request) -> Call {
        let mut request = request.clone();
        if let RequestKind::Join {
            sealed, collected, ..
        } = &mut request.kind
        {
            match self.bug {
                Bug::RejoinForgetsSeal => *sealed = Timestamp::MIN,
                _ => *collected = Timestamp::MIN,
            }
        }
        self.inner.call(&request)
    }

    /// An answer, with what the replica is sealed up to for its mark.
    fn marked_sealed(&self, request: &Request) -> Call {
        let (oracle, replica) = (self.place.oracle.clone(), self.place.end.replica);
        changed(self.inner.call(request), move |answer| {
            let mut answer = answer?;
            let sealed = oracle.lock().floors(replica).sealed;
            match &mut answer {
                Response::Entry(held) | Response::Promise(held) => held.collected = sealed,
                Response::Page(page) => page.collected = sealed,
                _ => {}
            }
            Ok(answer)
        })
    }

    /// A write that is taken also from before the seal.
    fn as_repair(&self, request: &Request) -> Call {
        let mut request = request.clone();
        if let RequestKind::Write { key, entry } = request.kind {
            request.kind = RequestKind::Repair { key, entry };
        }
        self.inner.call(&request)
    }

    fn as_status(&self, request: &Request) -> Call {
        let kind = RequestKind::Status;
        let request = Request {
            kind,
            ..request.clone()
        };
        self.inner.call(&request)
    }

    /// What is collected is told of, and counted, as long as it is there.
    fn counted(&self, request: &Request, hash_key: u128) -> Call {
        let (oracle, replica) = (self.place.oracle.clone(), self.place.end.replica);
        let ranges = match &request.kind {
            RequestKind::Fingerprint(asked) => Some((asked.range.clone(), asked.cuts.clone())),
            _ => None,
        };
        let versions = match &request.kind {
            RequestKind::Versions(asked) => Some(asked.range.clone()),
            _ => None,
        };
        changed(self.inner.call(request), move |answer| {
            let Ok(Response::Told(mut told)) = answer else {
                return answer;
            };
            let oracle = oracle.lock();
            if let (Told::Windows(told), Some((range, cuts))) = (&mut *told, ranges)
                && let Some(ends) = told.ends(&range, &cuts)
            {
                let mut start: Option<Key> = None;
                for (window, end) in told.windows.iter_mut().zip(ends) {
                    let here = |key: &Key| {
                        start.as_ref().is_none_or(|start| key >= start)
                            && range.contains(key)
                            && end.as_ref().is_none_or(|end| key < end)
                    };
                    let held = oracle.all_held(replica).filter(|(key, _)| here(key));
                    let prints = held.map(|(key, entry)| Fingerprint::of(hash_key, &key, &entry));
                    window.fingerprint = prints.fold(Fingerprint::default(), Fingerprint::and);
                    start = end;
                }
            }
            if let (Told::Versions(told), Some(range)) = (&mut *told, versions) {
                let upto = told.upto.clone();
                let here =
                    |key: &Key| range.contains(key) && upto.as_ref().is_none_or(|upto| key < upto);
                let held = oracle.all_held(replica).filter(|(key, _)| here(key));
                let versioned = held.map(|(key, entry)| Versioned {
                    hash: Fingerprint::of(hash_key, &key, &entry).sum,
                    version: entry.version,
                    key,
                });
                told.versions = versioned.collect();
            }
            drop(oracle);
            Ok(Response::Told(told))
        })
    }
}

impl Transport for CollectionLink {
    fn call(&self, request: &Request) -> Call {
        match (self.bug, &request.kind) {
            (Bug::PutsIgnoreSeal, _) if self.is_by(request, Author::Put) => self.as_repair(request),
            (Bug::SealedAtW, RequestKind::Seal { .. }) if self.is_past_w() => {
                self.as_status(request)
            }
            (Bug::SealedAtW, RequestKind::Collect { .. }) if self.is_past_w() => {
                Call::Ready(Ok(Told::Marks(Marks::new(false)).into()))
            }
            (Bug::LevelledAtW, RequestKind::Repair { .. })
                if self.is_past_w() && self.is_of(Kind::Collect) =>
            {
                Call::Ready(applied())
            }
            (Bug::LevelledFirst, RequestKind::Seal { .. }) => self.as_status(request),
            (Bug::LevelledFirst | Bug::CollectIgnoresBoot, RequestKind::Collect { to, .. })
            | (Bug::OneMarkForBoth, RequestKind::Seal { to }) => {
                self.sealed_and_collected(request, *to)
            }
            (Bug::CollectsLatestSeal, RequestKind::Collect { to, boot }) => {
                self.collected_up_to_seal(request, *to, *boot)
            }
            (Bug::LevelMissesAcks, RequestKind::Repair { .. }) if self.is_of(Kind::Collect) => {
                sent_later(&self.inner, request, self.place.time_limit)
            }
            (Bug::LevelSkipsRefused, RequestKind::Repair { .. }) if self.is_of(Kind::Collect) => {
                changed(self.inner.call(request), pretends)
            }
            (Bug::NothingSwept, RequestKind::Sweep { .. })
            | (Bug::RejoinKeepsDead, RequestKind::Forget { .. }) => {
                Call::Ready(Ok(Told::Swept(Swept::default()).into()))
            }
            (Bug::RejoinForgetsSeal | Bug::RejoinForgetsMark, RequestKind::Join { .. }) => {
                self.joined(request)
            }
            (Bug::AnswersTellSealed, _) => self.marked_sealed(request),
            (Bug::AcceptsIgnoreSeal, _) if self.is_by(request, Author::Update) => {
                self.as_repair(request)
            }
            (Bug::CountsCollected, RequestKind::Fingerprint(asked)) => {
                self.counted(request, asked.hash_key)
            }
            (Bug::CountsCollected, RequestKind::Versions(asked)) => {
                self.counted(request, asked.hash_key)
            }
            (bug, _) => changed(self.inner.call(request), move |answer| {
                unmarked(bug, answer)
            }),
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
