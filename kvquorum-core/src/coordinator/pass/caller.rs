//! The calls of a pass: each to one replica, tried again where that can help.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::sleep;

use super::compare::Part;
use crate::coordinator::Bounds;
use crate::coordinator::one::call_one;
use crate::coordinator::{Coordinator, Left};
use crate::entry::{Entry, Key, Timestamp, Version};
use crate::fingerprint::{FingerprintRequest, Versions, VersionsRequest, WindowEnd};
use crate::identity::ReplicaId;
use crate::marks::Era;
use crate::outcome::ReplicaFailure;
use crate::range::{KeyRange, Page};
use crate::request::{Ack, Held, Refusal, Request, RequestKind, Response};
use crate::telemetry::Settling;
use crate::told::Told;
use crate::transport::Transport;

/// How long before a call is made for the second time; before the third it is twice as
/// long, and so on.
const PAUSE: Duration = Duration::from_millis(50);

/// What an update that settles a key goes on for.
const SETTLING: Bounds = Bounds {
    max_attempts: 10,
    time_limit: Duration::from_secs(10),
    past: None,
};

/// What a replica told of a range.
pub(super) struct ToldWindows {
    pub(super) parts: Vec<Part>,
    /// How many it has read for it.
    pub(super) bytes: u64,
    pub(super) collected: Timestamp,
}

pub(super) struct Caller<const N: usize, const W: usize, const R: usize, T> {
    pub(super) coordinator: Coordinator<N, W, R, T>,
    tries: u32,
    /// Which replicas are left out of the rest of the pass.
    out: [AtomicBool; N],
    /// Who answered at each place.
    ids: [OnceLock<ReplicaId>; N],
    requests: AtomicU64,
    bytes: AtomicU64,
    /// Whether a replica has told that others came.
    is_beside_others: AtomicBool,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Caller<N, W, R, T> {
    pub(super) fn new(coordinator: Coordinator<N, W, R, T>, tries: u32) -> Self {
        Self {
            coordinator,
            tries: tries.max(1),
            out: [const { AtomicBool::new(false) }; N],
            ids: [const { OnceLock::new() }; N],
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            is_beside_others: AtomicBool::new(false),
        }
    }

    /// Those that are not left out.
    pub(super) fn replicas(&self) -> Vec<usize> {
        (0..N).filter(|replica| !self.is_out(*replica)).collect()
    }

    pub(super) fn is_out(&self, replica: usize) -> bool {
        let out = self.out.get(replica);
        out.is_none_or(|out| out.load(Ordering::Relaxed))
    }

    fn leave_out(&self, replica: usize) {
        if let Some(out) = self.out.get(replica) {
            out.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn id(&self, replica: usize) -> Option<ReplicaId> {
        self.ids.get(replica)?.get().copied()
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a replica has told that others came, since this was asked last.
    pub(super) fn was_beside_others(&self) -> bool {
        self.is_beside_others.swap(false, Ordering::Relaxed)
    }

    fn note(&self, is_beside_others: bool) {
        let noted = &self.is_beside_others;
        noted.fetch_or(is_beside_others, Ordering::Relaxed);
    }

    pub(super) async fn windows(
        &self,
        replica: usize,
        asked: &FingerprintRequest,
    ) -> Result<ToldWindows, ReplicaFailure> {
        let kind = RequestKind::Fingerprint(Box::new(asked.clone()));
        if let Response::Told(told) = self.call(replica, kind).await?
            && let Told::Windows(windows) = *told
        {
            let (bytes, collected) = (windows.bytes, windows.collected);
            self.note(windows.is_beside_others);
            if let Some(parts) = Part::all(windows, &asked.range, &asked.cuts) {
                return Ok(ToldWindows {
                    parts,
                    bytes,
                    collected,
                });
            }
        }
        Err(self.mismatched(replica))
    }

    pub(super) async fn versions(
        &self,
        replica: usize,
        asked: VersionsRequest,
    ) -> Result<Versions, ReplicaFailure> {
        let range = asked.range.clone();
        let kind = RequestKind::Versions(Box::new(asked));
        if let Response::Told(told) = self.call(replica, kind).await?
            && let Told::Versions(versions) = *told
            && versions.are_of(&range)
        {
            self.note(versions.is_beside_others);
            return Ok(versions);
        }
        Err(self.mismatched(replica))
    }

    pub(super) async fn page(
        &self,
        replica: usize,
        range: KeyRange,
    ) -> Result<Page, ReplicaFailure> {
        let limit = self.coordinator.inner.settings.page;
        let Request { kind, .. } = Request::scan(range.clone(), limit);
        match self.call(replica, kind).await? {
            Response::Page(page) if page.is_of(&range) => Ok(*page),
            _ => Err(self.mismatched(replica)),
        }
    }

    pub(super) async fn read(&self, replica: usize, key: &Key) -> Result<Held, ReplicaFailure> {
        let Request { kind, .. } = Request::read(key);
        match self.call(replica, kind).await? {
            Response::Entry(held) => Ok(held),
            _ => Err(self.mismatched(replica)),
        }
    }

    /// The era that requests are of now.
    pub(super) fn era(&self) -> Era {
        self.coordinator.inner.introductions.era()
    }

    /// Sends a replica what it lacks, as it is, in the era before which it was not read:
    /// whoever held it may have lost it in a later one, and it may be void by now.
    ///
    /// A replica that holds something greater lacks nothing, unless that is void under this
    /// mark: it is not told of by the replica, and yet in the way of the repair.
    pub(super) async fn repair(
        &self,
        era: Era,
        mark: Timestamp,
        replica: usize,
        key: &Key,
        entry: Entry,
    ) -> Result<(), ReplicaFailure> {
        let refusal = match self.try_repair(era, replica, key, entry.clone()).await {
            Err(ReplicaFailure::Refused(
                refusal @ (Refusal::Promised { .. } | Refusal::Before { .. }),
            )) => refusal,
            Ok(Ack::Superseded { by }) if by.timestamp < mark => Refusal::Superseded { by },
            done => return done.map(drop),
        };
        // It is most likely an update under way, which is soon over, and would be left in
        // doubt if this overtook it.
        sleep(PAUSE).await;
        let Held {
            entry: held,
            collected,
        } = self.read(replica, key).await?;
        let counts = |held: &Entry| collected >= mark || held.version.timestamp >= mark;
        match held.filter(counts) {
            Some(held) if held >= entry => Ok(()),
            _ => {
                let settled = self.settle(key, refusal.by()).await;
                let settled = settled.ok_or(ReplicaFailure::Refused(refusal))?;
                // The update did not have to wait for this one of them.
                let repairing = self.try_repair(era, replica, key, settled);
                repairing.await.map(drop)
            }
        }
    }

    async fn try_repair(
        &self,
        era: Era,
        replica: usize,
        key: &Key,
        entry: Entry,
    ) -> Result<Ack, ReplicaFailure> {
        let request = Request::repair(key, entry).in_era(era);
        match self.call_in_era(replica, request).await? {
            Response::Ack(ack) => Ok(ack),
            _ => Err(self.mismatched(replica)),
        }
    }

    /// Gives a key a version that all can take, with the value that it has, and returns
    /// what is held then: past this version, where one is given. An update that has not
    /// come to its end has replicas refuse what is below its ballot, for ever; and what
    /// does not count any more (rule G-VOID) may be greater than what does.
    pub(super) async fn settle(&self, key: &Key, past: Option<Version>) -> Option<Entry> {
        // Without such quorums no register is at the key.
        if !Coordinator::<N, W, R, T>::UPDATES {
            return None;
        }
        let as_it_is = |held: Option<&Entry>| (Some(Left::same(held)), ());
        let bounds = Bounds { past, ..SETTLING };
        let settling = self
            .coordinator
            .update_within(key.clone(), bounds, as_it_is);
        let settled = settling.await.map(|(done, ())| done.entry);
        let telemetry = &self.coordinator.inner.telemetry;
        telemetry.settled(Settling::Pass, settled.is_ok());
        settled.ok().flatten()
    }

    /// An answer that makes no sense: the replica is left out.
    pub(super) fn mismatched(&self, replica: usize) -> ReplicaFailure {
        self.leave_out(replica);
        ReplicaFailure::Mismatched
    }

    /// Calls in whatever era it is.
    async fn call(&self, replica: usize, kind: RequestKind) -> Result<Response, ReplicaFailure> {
        loop {
            let era = self.era();
            let request = Request::of(kind.clone()).in_era(era);
            match self.call_in_era(replica, request).await {
                // J-ERA: it is asked again in the era that it told of.
                Err(failure) if failure.is_stale() && era < self.era() => {}
                done => return done,
            }
        }
    }

    /// A replica that can't be called is left out.
    async fn call_in_era(
        &self,
        replica: usize,
        mut request: Request,
    ) -> Result<Response, ReplicaFailure> {
        let mut pause = PAUSE;
        let mut tries = 1;
        loop {
            let failure = match self.call_once(replica, &mut request).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            match &failure {
                ReplicaFailure::Refused(Refusal::OtherReplica { .. }) => {}
                ReplicaFailure::Refused(Refusal::Joining { .. }) => {}
                // It is there, and others of its keys may be taken.
                ReplicaFailure::Refused(_) => return Err(failure),
                ReplicaFailure::Transport(_) | ReplicaFailure::TimedOut(_)
                    if tries < self.tries =>
                {
                    sleep(pause).await;
                    pause = pause.saturating_mul(2);
                    tries = tries.saturating_add(1);
                    continue;
                }
                _ => {}
            }
            self.leave_out(replica);
            return Err(failure);
        }
    }

    async fn call_once(
        &self,
        replica: usize,
        request: &mut Request,
    ) -> Result<Response, ReplicaFailure> {
        let inner = &self.coordinator.inner;
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(sent(request), Ordering::Relaxed);
        let response = call_one(inner, replica, request).await?;
        self.bytes.fetch_add(received(&response), Ordering::Relaxed);
        // Another one that has come to its place has not been compared so far.
        if let (Some(is), Some(place)) = (inner.introductions.id(replica), self.ids.get(replica))
            && *place.get_or_init(|| is) != is
        {
            return Err(ReplicaFailure::Refused(Refusal::OtherReplica { is }));
        }
        Ok(response)
    }
}

const NUMBER: usize = 8;
const VERSION: usize = 16;
const HASH: usize = 16;

fn sent(request: &Request) -> u64 {
    let len = match &request.kind {
        RequestKind::Repair { key, entry } => entry_len(key.len(), entry),
        RequestKind::Scan { range, .. } => range_len(range),
        RequestKind::Versions(asked) => range_len(&asked.range).saturating_add(HASH),
        RequestKind::Fingerprint(asked) => {
            let cuts = asked.cuts.iter().map(Key::len).sum::<usize>();
            range_len(&asked.range)
                .saturating_add(HASH)
                .saturating_add(cuts)
        }
        _ => request.key().map_or(0, Key::len),
    };
    len as u64
}

fn received(response: &Response) -> u64 {
    let len: usize = match response {
        Response::Entry(held) => held.entry.as_ref().map_or(1, |it| entry_len(0, it)),
        Response::Page(page) => page
            .entries
            .iter()
            .map(|(key, it)| entry_len(key.len(), it))
            .sum(),
        Response::Told(told) => told_len(told),
        _ => 1,
    };
    len as u64
}

fn told_len(told: &Told) -> usize {
    match told {
        Told::Versions(told) => {
            let lens = told.versions.iter().map(|it| it.key.len());
            lens.map(|len| len.saturating_add(VERSION).saturating_add(HASH))
                .sum()
        }
        Told::Windows(windows) => {
            let end = |end: &WindowEnd| match end {
                WindowEnd::Before(end) => end.len(),
                WindowEnd::Cut | WindowEnd::Range => 1,
            };
            let ends = windows.windows.iter().map(|it| end(&it.end));
            ends.map(|len| len.saturating_add(NUMBER).saturating_add(HASH))
                .sum()
        }
        _ => 1,
    }
}

fn range_len(range: &KeyRange) -> usize {
    let end = range.end().map_or(0, Key::len);
    range.start().len().saturating_add(end)
}

fn entry_len(key_len: usize, entry: &Entry) -> usize {
    let value = entry.value.as_ref().map_or(0, |value| value.len());
    key_len.saturating_add(VERSION).saturating_add(value)
}
