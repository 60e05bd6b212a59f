//! How the mutant updates registers, and gets them.

use std::time::Duration;

use kvquorum_core::{Bytes, Edit, Entry, Key, Refusal, Request, Response, Version};
use tokio::time::{Instant, sleep};

use super::calls::Calls;
use super::{Mutant, may_be_seen, refused_past};
use crate::map::{Ask, Part, Told};
use crate::oracle::Quorums;
use crate::planted::Bug;
use crate::spy::current;

/// What R replicas hold that have promised a ballot.
struct Base {
    entry: Option<Entry>,
    holders: usize,
}

/// What was in the way of an attempt.
#[derive(Default)]
struct Failure {
    by: Option<Version>,
    is_too_far_ahead: bool,
}

/// What became of earlier attempts.
enum Became {
    Applied(Told),
    NotApplied,
    Unknown,
}

fn number(value: &Bytes) -> u64 {
    <[u8; 8]>::try_from(&value[..]).map_or(u64::MAX, u64::from_be_bytes)
}

/// As it is told once the ballot is written.
fn under(told: Told, ballot: Version) -> Told {
    match told {
        Told::Found(value, _) => Told::Found(value, Some(ballot)),
        Told::Left { found, left, .. } => Told::Left {
            found,
            left,
            version: ballot,
        },
        told => told,
    }
}

impl Mutant {
    /// An entry, unless it has expired.
    fn live<'a>(&self, entry: Option<&'a Entry>) -> Option<&'a Entry> {
        entry.filter(|entry| !self.has_expired(entry) || self.is(Bug::ExpiredCompared))
    }

    fn found(&self, entry: Option<&Entry>) -> Told {
        let value = self.live(entry).and_then(|entry| entry.value.as_ref());
        Told::Found(value.map(number), entry.map(|entry| entry.version))
    }

    pub(super) async fn update(&self, key: &Key, ask: Ask, own: u64) -> Told {
        let began = Instant::now();
        let mut doubts = Vec::new();
        let mut stamp = self.clock.next();
        let mut attempts = 1;
        loop {
            let attempt = self.attempt(key, stamp.version, ask, own, &mut doubts);
            let failure = match attempt.await {
                Ok(told) => return told,
                Err(failure) => failure,
            };
            let helps = failure.by.is_some()
                || !doubts.is_empty()
                || failure.is_too_far_ahead && self.clock.step_back(stamp);
            let is_over =
                attempts >= self.settings.ballots || began.elapsed() >= self.settings.patience;
            if !helps || is_over {
                return if doubts.is_empty() {
                    Told::NotApplied
                } else {
                    Told::MaybeApplied
                };
            }
            // Writers differ, and so whoever is in each other's way does not stay there.
            let millis = (stamp.version.writer.get() >> attempts.min(32)) % 16;
            sleep(Duration::from_millis(millis)).await;
            stamp = match failure.by {
                Some(by) => self.clock.past(by.timestamp),
                None => self.clock.next(),
            };
            attempts += 1;
        }
    }

    async fn attempt(
        &self,
        key: &Key,
        ballot: Version,
        ask: Ask,
        own: u64,
        doubts: &mut Vec<(Version, Told)>,
    ) -> Result<Told, Failure> {
        let base = self.prepare(key, ballot).await?;
        let entry = base.entry.as_ref();
        let live = self.live(entry);
        let value = live.and_then(|entry| entry.value.as_ref()).map(number);
        let same = || Entry {
            version: ballot,
            ..entry.cloned().unwrap_or(Entry::tombstone(ballot))
        };
        let is_settled = entry.is_none() || base.holders >= self.quorums.w;
        let (left, told) = match self.became(doubts, entry.map(|entry| entry.version)) {
            Became::Unknown => return Ok(Told::MaybeApplied),
            Became::Applied(told) => (same(), told),
            Became::NotApplied => match ask.edit(value, own) {
                Edit::Keep if is_settled && doubts.is_empty() || self.is(Bug::KeepNotSettled) => {
                    return Ok(self.found(entry));
                }
                Edit::Keep => (same(), self.found(entry)),
                edit => {
                    let left = match edit {
                        Edit::Put(left) => Some(left),
                        _ => None,
                    };
                    let told = Told::Left {
                        found: Some(value),
                        left,
                        version: ballot,
                    };
                    (self.edited(ask, live, left, ballot), told)
                }
            },
        };
        let sent = self.send(key, &left).await;
        if sent.count(|part| part.is_ack()) >= self.quorums.w {
            return Ok(under(told, ballot));
        }
        if sent.count(|part| may_be_seen(None, part)) > 0 {
            if self.is(Bug::LastBallotOnly) {
                doubts.clear();
            }
            doubts.push((ballot, told));
        }
        let superseded = sent.parts.iter().filter_map(|part| match part {
            Part::Superseded(by) => Some(*by),
            _ => None,
        });
        Err(Failure {
            by: superseded
                .max()
                .filter(|_| sent.refused_past.is_some())
                .max(sent.refused_past),
            is_too_far_ahead: sent.too_far_ahead,
        })
    }

    /// What an update leaves: it expires when what it is put in place of would have, unless
    /// it is put whatever there is.
    fn edited(&self, ask: Ask, live: Option<&Entry>, left: Option<u64>, version: Version) -> Entry {
        let keeps = |live: &Entry| {
            let is_in_place = ask != Ask::Put && left.is_some() && !self.has_expired(live);
            is_in_place && !self.is(Bug::UpdateForgetsTtl)
        };
        Entry {
            expires_millis: live.and_then(|live| live.expires_millis.filter(|_| keeps(live))),
            version,
            value: left.map(|left| Bytes::copy_from_slice(&left.to_be_bytes())),
        }
    }

    async fn prepare(&self, key: &Key, ballot: Version) -> Result<Base, Failure> {
        let Quorums { n, r, .. } = self.quorums;
        let mut calls = Calls::new(false);
        for replica in 0..n {
            let request = Request::prepare(key, ballot);
            calls.start(&self.links, current(), replica, request);
        }
        let (mut promises, mut failed) = (Vec::new(), 0);
        let mut failure = Failure::default();
        while promises.len() < r && failed <= n - r {
            let Some((_, answer)) = calls.next().await else {
                break;
            };
            failure.by = failure.by.max(refused_past(&answer));
            match answer {
                Some(Ok(Response::Promise(held))) => promises.push(held.entry),
                answer => {
                    failed += 1;
                    failure.is_too_far_ahead |= matches!(
                        answer,
                        Some(Ok(Response::Refused(Refusal::TooFarAhead { .. })))
                    );
                }
            }
        }
        if promises.len() < r {
            return Err(failure);
        }
        let entry = promises.iter().max().cloned().flatten();
        if let Some(entry) = &entry {
            self.clock.observe(entry.version.timestamp);
        }
        let holders = promises.iter().filter(|held| **held == entry).count();
        Ok(Base { entry, holders })
    }

    fn became(&self, doubts: &[(Version, Told)], base: Option<Version>) -> Became {
        if self.is(Bug::BlindRetry) {
            return Became::NotApplied;
        }
        let mut found = doubts.iter().filter(|(ballot, _)| Some(*ballot) == base);
        let first = doubts.iter().map(|(ballot, _)| *ballot).min();
        match (found.next(), first) {
            (Some((_, told)), _) => Became::Applied(*told),
            (None, Some(first)) if base > Some(first) => Became::Unknown,
            _ => Became::NotApplied,
        }
    }

    /// A get: what W replicas hold, or can be brought to hold, or settled.
    pub(super) async fn get_settled(&self, key: &Key) -> Told {
        let Quorums { n, w, r } = self.quorums;
        let mut reading = self.begin_reading(key.clone());
        for replica in 0..n {
            reading.ask(replica);
        }
        while reading.answers.len() < r && reading.failed <= n - r && reading.next().await {}
        if reading.answers.len() < r {
            return Told::NotRead;
        }
        loop {
            let entry = reading.answers.iter().max().cloned().flatten();
            if let Some(entry) = &entry {
                self.clock.observe(entry.version.timestamp);
            }
            let is_held = entry.is_none() || reading.holders(&entry) >= w;
            if is_held || self.is(Bug::NoWriteBack) {
                return self.found(entry.as_ref());
            }
            reading.repair(current());
            if !reading.next().await {
                return match self.update(key, Ask::Keep, 0).await {
                    told @ Told::Found(..) => told,
                    _ => Told::NotRead,
                };
            }
        }
    }
}
