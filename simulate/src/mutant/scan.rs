//! How the mutant scans.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use kvquorum_core::{Ack, Bytes, Entry, Key, KeyRange, Page, Request, Response, ScanLimit};

use super::Mutant;
use super::calls::{Calls, Links};
use crate::map::{Operation, PageFailed, Paging};
use crate::oracle::Quorums;
use crate::planted::Bug;
use crate::spy::current;

pub(super) struct Pages<'a> {
    mutant: &'a Mutant,
    rest: Option<KeyRange>,
    failed: bool,
}

type Values = Vec<(Key, Bytes)>;

/// What was found under a key, and who holds it, as a set of bits.
struct Found {
    entry: Entry,
    holders: u32,
}

impl<'a> Pages<'a> {
    pub fn new(mutant: &'a Mutant, range: KeyRange) -> Self {
        Self {
            mutant,
            rest: (!range.is_empty()).then_some(range),
            failed: false,
        }
    }
}

impl Paging for Pages<'_> {
    fn next(&mut self) -> Operation<'_, Option<Result<Values, PageFailed>>> {
        Box::pin(async move {
            let range = self.rest.clone().filter(|_| !self.failed)?;
            let read = self.mutant.read_page(&range).await;
            self.failed = read.is_err();
            Some(read.map(|(values, rest)| {
                self.rest = rest;
                values
            }))
        })
    }

    fn rest(&self) -> Option<KeyRange> {
        self.rest.clone()
    }
}

/// What is left of a range from this key on.
fn from(key: Key, range: &KeyRange) -> KeyRange {
    KeyRange::from((Bound::Included(key), range.end_bound().cloned()))
}

/// Once all have answered, sends those that are behind what they lack.
async fn repair_all(
    links: Arc<Links>,
    mut late: Calls,
    mut answers: Vec<(usize, Page)>,
    upto: Option<Key>,
) {
    while let Some((replica, answer)) = late.next().await {
        if let Some(Ok(Response::Page(page))) = answer {
            answers.push((replica, *page));
        }
    }
    let mut greatest: BTreeMap<&Key, &Entry> = BTreeMap::new();
    for (key, entry) in answers.iter().flat_map(|(_, page)| &page.entries) {
        let here = greatest.entry(key).or_insert(entry);
        *here = (*here).max(entry);
    }
    let mut calls = Calls::new(false);
    for (replica, page) in &answers {
        for (key, entry) in &greatest {
            let ends = [&upto, &page.upto].into_iter().flatten();
            let is_known = ends.clone().all(|end| *key < end);
            let mut held = page.entries.iter();
            if is_known && !held.any(|(it, held)| it == *key && held >= *entry) {
                let request = Request::repair(*key, (*entry).clone());
                calls.start(&links, None, *replica, request);
            }
        }
    }
}

impl Mutant {
    async fn read_page(&self, range: &KeyRange) -> Result<(Values, Option<KeyRange>), PageFailed> {
        let (answers, late) = self.ask_for_page(range).await?;
        let ends = answers.iter().map(|(_, page)| page.upto.clone());
        let upto = match self.links.bug {
            // No end is the farthest.
            Some(Bug::GreatestFrontier) => ends.max_by_key(|end| (end.is_none(), end.clone())),
            _ => ends.min_by_key(|end| (end.is_none(), end.clone())),
        };
        let upto = upto.flatten();
        let is_within = |key: &Key| upto.as_ref().is_none_or(|upto| key < upto);
        let mut found: BTreeMap<Key, Found> = BTreeMap::new();
        for (replica, page) in &answers {
            let entries = page.entries.iter().filter(|(key, _)| is_within(key));
            for (key, entry) in entries {
                let here = found.entry(key.clone()).or_insert_with(|| Found {
                    entry: entry.clone(),
                    holders: 0,
                });
                if *entry > here.entry {
                    (here.entry, here.holders) = (entry.clone(), 0);
                }
                here.holders |= u32::from(*entry == here.entry) << replica;
            }
        }
        for found in found.values() {
            self.clock.observe(found.entry.version.timestamp);
        }
        if self.settings.repairs {
            for (key, found) in &mut found {
                self.repair(key, found, &answers).await?;
            }
            let links = Arc::clone(&self.links);
            tokio::spawn(repair_all(links, late, answers, upto.clone()));
        }
        let shows = |entry: &Entry| !self.has_expired(entry) || self.is(Bug::ExpiredScanned);
        let value = |(key, found): (Key, Found)| {
            Some((key, Some(found.entry).filter(|entry| shows(entry))?.value?))
        };
        let values: Values = found.into_iter().filter_map(value).collect();
        let rest = upto.map(|upto| match self.links.bug {
            Some(Bug::StuckOnTombstones) if values.is_empty() => range.clone(),
            Some(Bug::SkipsAtBorders) => {
                KeyRange::from((Bound::Excluded(upto), range.end_bound().cloned()))
            }
            _ => from(upto, range),
        });
        Ok((values, rest))
    }

    /// The answers that decide, and the calls that are still under way.
    async fn ask_for_page(
        &self,
        range: &KeyRange,
    ) -> Result<(Vec<(usize, Page)>, Calls), PageFailed> {
        let Quorums { n, r, .. } = self.quorums;
        let needed = match self.links.bug {
            Some(Bug::FewerAnswers) => (r - 1).max(1),
            _ => r,
        };
        let mut calls = Calls::new(false);
        for replica in 0..n {
            let request = Request::scan(range.clone(), ScanLimit::keys(self.settings.page));
            calls.start(&self.links, current(), replica, request);
        }
        let (mut answers, mut failed) = (Vec::new(), 0);
        while answers.len() < needed && failed <= n - r {
            match calls.next().await {
                Some((replica, Some(Ok(Response::Page(page))))) => answers.push((replica, *page)),
                Some(_) => failed += 1,
                None => break,
            }
        }
        if answers.len() < needed {
            return Err(PageFailed::TooFewAnswers);
        }
        Ok((answers, calls))
    }

    /// Sends an entry to those that have answered and are behind; and where repair is
    /// blocking, to all others, until W replicas hold it.
    async fn repair(
        &self,
        key: &Key,
        found: &mut Found,
        answers: &[(usize, Page)],
    ) -> Result<(), PageFailed> {
        let Quorums { n, w, .. } = self.quorums;
        let is_held = |found: &Found| found.holders.count_ones() as usize >= w;
        let waits = self.settings.blocking && !is_held(found);
        let mut calls = Calls::new(false);
        for replica in 0..n {
            let has_answered = answers.iter().any(|(it, _)| *it == replica);
            if found.holders & (1 << replica) == 0 && (has_answered || waits) {
                let request = Request::repair(key, found.entry.clone());
                calls.start(&self.links, current(), replica, request);
            }
        }
        while waits && !is_held(found) {
            match calls.next().await {
                Some((replica, Some(Ok(Response::Ack(Ack::Applied | Ack::Superseded { .. }))))) => {
                    found.holders |= 1 << replica;
                }
                Some(_) => {}
                None => return Err(PageFailed::NotRepaired),
            }
        }
        Ok(())
    }
}
