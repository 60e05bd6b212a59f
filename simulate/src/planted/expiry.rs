//! Links that break X-HIDE or X-SLOWEST.

use std::num::NonZeroU64;
use std::sync::Arc;

use kvquorum_core::{Call, Entry, Record, Request, RequestKind, Response, Told, Transport};

use super::Bug;
use super::link::{Answer, Place, changed};
use crate::oracle::{Author, Kind};
use crate::spy::current;

pub(super) struct ExpiryLink {
    pub(super) bug: Bug,
    pub(super) inner: Arc<dyn Transport>,
    pub(super) place: Place,
}

/// A request, without the time at which what it brings expires.
fn lasting(request: &Request) -> Request {
    let mut request = request.clone();
    match &mut request.kind {
        RequestKind::Write { entry, .. } | RequestKind::Repair { entry, .. } => {
            entry.expires_millis = None;
        }
        RequestKind::Copy { record, .. } if record.anchor().is_none() => {
            if let Some(mut entry) = record.entry() {
                entry.expires_millis = None;
                *record = Record::from(entry);
            }
        }
        _ => {}
    }
    request
}

/// A clock that is never the slowest.
fn ahead(answer: Answer) -> Answer {
    let Ok(Response::Told(mut told)) = answer else {
        return answer;
    };
    if let Told::Status(status) = &mut *told {
        status.now_millis = u64::MAX;
    }
    Ok(Response::Told(told))
}

/// Nothing has expired.
fn silent(answer: Answer) -> Answer {
    let Ok(Response::Told(mut told)) = answer else {
        return answer;
    };
    if let Told::Swept(swept) = &mut *told {
        swept.expired.clear();
    }
    Ok(Response::Told(told))
}

/// Whatever is there has expired.
fn expired(answer: Answer) -> Answer {
    let Ok(Response::Promise(mut held)) = answer else {
        return answer;
    };
    held.entry = held.entry.map(|entry| entry.expiring_at(NonZeroU64::MIN));
    Ok(Response::Promise(held))
}

impl ExpiryLink {
    fn is_of(&self, kind: Kind) -> bool {
        self.place.oracle.lock().is_of(current(), kind)
    }

    fn author(&self, entry: &Entry) -> Author {
        let oracle = self.place.oracle.lock();
        oracle.author(self.place.end, current(), entry.version)
    }

    /// Whether it brings a value, and forgets when that expires.
    fn forgets(&self, request: &Request) -> bool {
        match (self.bug, &request.kind) {
            (Bug::PutForgetsTtl, RequestKind::Write { entry, .. }) => {
                self.author(entry) == Author::Put
            }
            (Bug::RepairForgetsTtl, RequestKind::Repair { .. }) => {
                let driven = [Kind::Pass, Kind::Collect, Kind::Handoff];
                !driven.into_iter().any(|kind| self.is_of(kind))
            }
            (Bug::PassForgetsTtl, RequestKind::Repair { .. }) => self.is_of(Kind::Pass),
            (Bug::HintForgetsTtl, RequestKind::Repair { .. }) => self.is_of(Kind::Handoff),
            (Bug::CopyForgetsTtl, RequestKind::Copy { .. }) => true,
            _ => false,
        }
    }
}

impl Transport for ExpiryLink {
    fn call(&self, request: &Request) -> Call {
        if self.forgets(request) {
            return self.inner.call(&lasting(request));
        }
        let calling = self.inner.call(request);
        match (self.bug, &request.kind) {
            (Bug::ExpiresByOneClock, RequestKind::Seal { .. }) if self.place.end.replica > 0 => {
                changed(calling, ahead)
            }
            (Bug::ExpiredStays, RequestKind::Sweep { .. }) => changed(calling, silent),
            (Bug::ExpiryComparesNothing, RequestKind::Prepare { .. })
                if self.place.oracle.lock().sweeps(current()) =>
            {
                changed(calling, expired)
            }
            _ => calling,
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}
