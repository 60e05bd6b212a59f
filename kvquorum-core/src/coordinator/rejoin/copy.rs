//! Bringing a replica that is joining what its peers hold.

use std::collections::BTreeMap;

use futures_util::stream::{FuturesUnordered, StreamExt, TryStreamExt, iter};
use tokio::sync::watch;

use super::error::RejoinError;
use super::{Coordinator, RejoinProgress};
use crate::coordinator::one::call_one;
use crate::coordinator::{Bounds, Left};
use crate::entry::{Entry, Key, Timestamp, Version};
use crate::marks::Era;
use crate::outcome::ReplicaFailure;
use crate::range::{KeyRange, Page};
use crate::record::Record;
use crate::request::{Request, RequestKind, Response};
use crate::rules::merged;
use crate::told::{Records, Told};
use crate::transport::Transport;

pub(super) struct Copying<'a, const N: usize, const W: usize, const R: usize, T> {
    pub(super) coordinator: &'a Coordinator<N, W, R, T>,
    pub(super) joiner: usize,
    /// Who have entered the era.
    pub(super) peers: Vec<usize>,
    /// How many of them have to answer.
    pub(super) needed: usize,
    /// Whether updates that are under way are brought to their end. Not where what others
    /// hold is given up: too few may be there to come to an end with.
    pub(super) settles: bool,
    pub(super) era: Era,
    /// The greatest mark of the peers.
    pub(super) collected: Timestamp,
    pub(super) progress: &'a watch::Sender<RejoinProgress>,
}

/// What peers hold together, and up to where all of them told.
type Merged = (BTreeMap<Key, Record>, Option<Key>);

impl<const N: usize, const W: usize, const R: usize, T: Transport> Copying<'_, N, W, R, T> {
    pub(super) async fn run(self) -> Result<(), RejoinError> {
        let mut left = Some(KeyRange::from(..));
        while let Some(range) = left {
            let (records, upto) = self.read(&range).await?;
            let at_once = self.coordinator.inner.settings.max_at_once.max(1);
            iter(records.into_iter().map(Ok))
                .try_for_each_concurrent(at_once, |(key, record)| self.copy(key, record))
                .await?;
            self.progress
                .send_modify(|progress| progress.reached.clone_from(&upto));
            left = upto.map(|upto| range.starting_at(upto));
        }
        Ok(())
    }

    /// What as many peers as are needed hold in the beginning of a range, merged.
    async fn read(&self, range: &KeyRange) -> Result<Merged, RejoinError> {
        let reading = self.peers.iter().map(|peer| self.records(*peer, range));
        let mut reading: FuturesUnordered<_> = reading.collect();
        let mut answered = Vec::with_capacity(self.needed);
        let mark = |answered: &[Records]| answered.iter().map(|told| told.collected).max();
        // Who told of the greatest mark is among them: what is held below that counts from
        // there alone.
        while answered.len() < self.needed || mark(&answered) < Some(self.collected) {
            match reading.next().await {
                Some(records) => answered.extend(records),
                None if answered.len() >= self.needed => break,
                None => {
                    return Err(RejoinError::TooFewPeers {
                        found: answered.len(),
                        needed: self.needed,
                    });
                }
            }
        }
        // `None` is the end of the range, and so the greatest.
        let ends = answered.iter().filter_map(|told| told.upto.as_ref());
        let upto = ends.min().cloned();
        if mark(&answered) != Some(self.collected) {
            return Err(RejoinError::Collected);
        }
        let mut records = BTreeMap::new();
        let told = answered.into_iter().flat_map(|told| self.counting(told));
        for (key, record) in told.filter(|(key, _)| Page::covers(upto.as_ref(), key)) {
            match records.remove(&key) {
                Some(other) => records.insert(key, merged(&record, Some(&other))),
                None => records.insert(key, record),
            };
        }
        Ok((records, upto))
    }

    /// What counts of it (rule G-VOID). A promise always does: it does no harm.
    fn counting(&self, told: Records) -> impl Iterator<Item = (Key, Record)> {
        let (collected, mark) = (told.collected, self.collected);
        told.records.into_iter().filter_map(move |(key, record)| {
            let counts = |version: Version| collected == mark || version.timestamp >= mark;
            if record.version().is_none_or(counts) {
                return Some((key, record));
            }
            Some((key, Record::new(None, record.anchor())?))
        })
    }

    async fn records(&self, peer: usize, range: &KeyRange) -> Option<Records> {
        let limit = self.coordinator.inner.settings.page;
        let mut request = Request::of(RequestKind::Records {
            range: range.clone(),
            max_keys: limit.max_keys as u64,
            max_bytes: limit.max_bytes as u64,
        })
        .in_era(self.era);
        let response = call_one(&self.coordinator.inner, peer, &mut request).await;
        let Ok(Response::Told(told)) = response else {
            return None;
        };
        match *told {
            Told::Records(records) if records.are_of(range) => Some(records),
            _ => None,
        }
    }

    /// Has the replica keep what its peers hold under a key.
    async fn copy(&self, key: Key, mut record: Record) -> Result<(), RejoinError> {
        if let Some(anchor) = record.anchor()
            && self.settles
            && record.version() < Some(anchor)
        {
            record = self.settled(&key, anchor).await?;
        }
        let copy = RequestKind::Copy {
            key: key.clone(),
            record,
        };
        let mut request = Request::of(copy).in_era(self.era);
        let inner = &self.coordinator.inner;
        let source = match call_one(inner, self.joiner, &mut request).await {
            Ok(Response::Ack(_)) => {
                self.progress.send_modify(|progress| {
                    progress.copied = progress.copied.saturating_add(1);
                });
                return Ok(());
            }
            Ok(_) => ReplicaFailure::Mismatched,
            Err(failure) => failure,
        };
        Err(RejoinError::NotCopied { key, source })
    }

    /// What peers hold under a key once the update that is under way there has come to
    /// its end. The replica may have promised its ballot before it lost its data, and
    /// may not have seen what would be copied now: so the key gets a version that is
    /// greater than this ballot.
    async fn settled(&self, key: &Key, ballot: Version) -> Result<Record, RejoinError> {
        let as_it_is = |held: Option<&Entry>| (Some(Left::same(held)), ());
        let not_settled = || RejoinError::NotSettled { key: key.clone() };
        let coordinator = self.coordinator;
        let bounds = Bounds {
            past: Some(ballot),
            ..Bounds::DEFAULT
        };
        let settling = coordinator.update_within(key.clone(), bounds, as_it_is);
        settling.await.map_err(|_| not_settled())?;
        self.progress.send_modify(|progress| {
            progress.settled = progress.settled.saturating_add(1);
        });
        let (records, _) = self
            .read(&KeyRange::from(key.clone()..=key.clone()))
            .await?;
        records.into_values().next().ok_or_else(not_settled)
    }
}
