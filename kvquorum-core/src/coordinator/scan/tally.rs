//! The deciding logic of a page: what replicas hold in a range, merged. A plain
//! value, which sends nothing and waits for nothing.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use bytes::Bytes;

use crate::entry::{Entry, Key, Timestamp};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::range::{KeyRange, Page};
use crate::request::Response;

/// Gathers what replicas hold in the beginning of a range.
#[derive(Debug)]
pub(super) struct PageTally<const N: usize> {
    range: KeyRange,
    needed: usize,
    parts: [Part; N],
    /// Up to where enough replicas have told what they hold: the least of the ends
    /// of their pages. Known once it is decided; `None` where it is the range's end.
    frontier: Option<Key>,
    /// What they told, as far as the frontier.
    found: BTreeMap<Key, Found>,
}

/// What is known of one replica's part.
#[derive(Debug)]
enum Part {
    NotAsked,
    Asked,
    Answered {
        entries: usize,
        upto: Option<Key>,
        collected: Timestamp,
    },
    /// Until it is reported.
    Failed(Option<ReplicaFailure>),
}

/// What was found under one key.
#[derive(Debug)]
struct Found {
    /// With the mark under which it was told.
    greatest: Entry,
    collected: Timestamp,
    /// Who is known to hold it.
    holders: Replicas,
    /// To whom it was sent.
    sent: Replicas,
}

/// A set of replicas, of which there are at most 64.
#[derive(Clone, Copy, Debug, Default)]
struct Replicas(u64);

impl Replicas {
    fn one(replica: usize) -> Self {
        let place = u32::try_from(replica).ok();
        Self(
            place
                .and_then(|place| 1_u64.checked_shl(place))
                .unwrap_or(0),
        )
    }

    fn add(&mut self, replica: usize) {
        self.0 |= Self::one(replica).0;
    }

    fn contains(self, replica: usize) -> bool {
        self.0 & Self::one(replica).0 != 0
    }

    fn len(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl<const N: usize> PageTally<N> {
    pub(super) fn new(range: KeyRange, needed: usize) -> Self {
        Self {
            range,
            needed,
            parts: [const { Part::NotAsked }; N],
            frontier: None,
            found: BTreeMap::new(),
        }
    }

    pub(super) fn range(&self) -> &KeyRange {
        &self.range
    }

    /// Notes that a replica is being asked.
    pub(super) fn asked(&mut self, replica: usize) {
        self.set(replica, Part::Asked);
    }

    /// Takes in a replica's answer.
    pub(super) fn add(&mut self, replica: usize, result: Result<Response, ReplicaFailure>) {
        let page = match result {
            Ok(Response::Page(page)) if page.is_of(&self.range) => *page,
            other => {
                let failure = other.err().unwrap_or(ReplicaFailure::Mismatched);
                return self.set(replica, Part::Failed(Some(failure)));
            }
        };
        // Whoever comes late has nothing to say about the frontier.
        let is_early = !self.is_answered();
        let Page {
            entries,
            upto,
            collected,
        } = page;
        let answered = Part::Answered {
            entries: entries.len(),
            upto: upto.clone(),
            collected,
        };
        self.set(replica, answered);
        if is_early {
            self.frontier = least(self.frontier.take(), upto);
            if let Some(frontier) = &self.frontier {
                self.found.split_off(frontier);
            }
        }
        for (key, entry) in entries {
            if !Page::covers(self.frontier.as_ref(), &key) {
                break;
            }
            self.merge(replica, key, Found::new(replica, entry, collected));
        }
    }

    fn merge(&mut self, replica: usize, key: Key, new: Found) {
        let mark = mark(&self.parts, &key);
        match self.found.entry(key) {
            Slot::Occupied(mut found) => {
                let found = found.get_mut();
                // What counts goes before what does not.
                let is_greater =
                    (new.counts(mark), &new.greatest) > (found.counts(mark), &found.greatest);
                if new.greatest == found.greatest {
                    found.holders.add(replica);
                    found.collected = found.collected.max(new.collected);
                } else if is_greater {
                    *found = new;
                }
            }
            Slot::Vacant(slot) => {
                slot.insert(new);
            }
        }
    }

    /// What was found that counts (rule G-VOID).
    fn counting(&self) -> impl Iterator<Item = (&Key, &Found)> {
        let found = self.found.iter();
        found.filter(|(key, found)| found.counts(mark(&self.parts, key)))
    }

    fn set(&mut self, replica: usize, part: Part) {
        if let Some(slot) = self.parts.get_mut(replica) {
            *slot = part;
        }
    }

    fn count(&self, is: impl Fn(&Part) -> bool) -> usize {
        self.parts.iter().filter(|part| is(part)).count()
    }

    /// Whether there are enough answers, or can no longer be.
    pub(super) fn is_decided(&self) -> bool {
        let failed = self.count(|part| matches!(part, Part::Failed(_)));
        let is_stale =
            |part: &Part| matches!(part, Part::Failed(Some(failure)) if failure.is_stale());
        self.is_answered()
            || self.parts.iter().any(is_stale)
            || failed > N.saturating_sub(self.needed)
    }

    /// Whether there are enough answers.
    pub(super) fn is_answered(&self) -> bool {
        self.count(|part| matches!(part, Part::Answered { .. })) >= self.needed
    }

    /// What a replica is to be sent, with its original version: what it is known to
    /// lack; and what it may lack, where fewer than `holders_needed` are known to
    /// hold it. Each once.
    pub(super) fn take_due(&mut self, replica: usize, holders_needed: usize) -> Vec<(Key, Entry)> {
        let Some(Part::Answered { upto, .. }) = self.parts.get(replica) else {
            return Vec::new();
        };
        let mut due = Vec::new();
        for (key, found) in &mut self.found {
            if !found.counts(mark(&self.parts, key)) {
                continue;
            }
            let is_known = Page::covers(upto.as_ref(), key);
            if !found.holders.contains(replica)
                && !found.sent.contains(replica)
                && (is_known || found.holders.len() < holders_needed)
            {
                found.sent.add(replica);
                due.push((key.clone(), found.greatest.clone()));
            }
        }
        due
    }

    /// Takes in that a replica acked what it was sent.
    pub(super) fn repaired(&mut self, replica: usize, key: &Key, entry: &Entry) {
        if let Some(found) = self.found.get_mut(key)
            && found.greatest == *entry
        {
            found.holders.add(replica);
        }
    }

    /// The first key whose entry fewer than `needed` replicas are known to hold, and
    /// how many do.
    pub(super) fn not_held(&self, needed: usize) -> Option<(&Key, usize)> {
        let mut found = self.counting();
        let (key, found) = found.find(|(_, found)| found.holders.len() < needed)?;
        Some((key, found.holders.len()))
    }

    /// The timestamps of all that was found.
    pub(super) fn timestamps(&self) -> impl Iterator<Item = Timestamp> {
        let found = self.found.values();
        found.map(|found| found.greatest.version.timestamp)
    }

    /// The keys that hold values, in order, but for those that have expired. Tombstones
    /// have done their part.
    pub(super) fn values(&self, has_expired: impl Fn(&Entry) -> bool) -> Vec<(Key, Bytes)> {
        let value = |(key, found): (&Key, &Found)| {
            if has_expired(&found.greatest) {
                return None;
            }
            let value = found.greatest.value.clone()?;
            Some((key.clone(), value))
        };
        self.counting().filter_map(value).collect()
    }

    /// What of the range is left.
    pub(super) fn rest(&self) -> Option<KeyRange> {
        let frontier = self.frontier.clone()?;
        Some(self.range.starting_at(frontier))
    }

    /// What each replica answered: how many entries its page had. Failures are
    /// moved out, so this is asked once.
    pub(super) fn report(&mut self) -> [Outcome<usize>; N] {
        self.parts.each_mut().map(|part| match part {
            Part::NotAsked => Outcome::NotAsked,
            Part::Asked => Outcome::Pending,
            Part::Answered { entries, .. } => Outcome::Answered(*entries),
            Part::Failed(failure) => failure.take().map_or(Outcome::NotAsked, Outcome::Failed),
        })
    }
}

impl Found {
    fn new(replica: usize, greatest: Entry, collected: Timestamp) -> Self {
        Self {
            greatest,
            collected,
            holders: Replicas::one(replica),
            sent: Replicas::default(),
        }
    }

    /// Whether it counts beside answers, the greatest mark of which is this.
    fn counts(&self, collected: Timestamp) -> bool {
        self.collected == collected || self.greatest.version.timestamp >= collected
    }
}

/// The greatest mark of those that told of a key: who comes late may have told of less
/// than the page goes to, and then its mark says nothing about the rest.
fn mark(parts: &[Part], key: &Key) -> Timestamp {
    let marks = parts.iter().map(|part| match part {
        Part::Answered {
            upto, collected, ..
        } if Page::covers(upto.as_ref(), key) => *collected,
        _ => Timestamp::MIN,
    });
    marks.max().unwrap_or(Timestamp::MIN)
}

/// The least of two ends of pages, of which none is the end of the range.
fn least(one: Option<Key>, other: Option<Key>) -> Option<Key> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests;
