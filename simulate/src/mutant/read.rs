//! How the mutant reads.

use std::sync::Arc;

use kvquorum_core::{Ack, Entry, Key, Request, Response};

use super::Mutant;
use super::calls::{Answer, Calls, Links};
use crate::map::{Found, Part, Read};
use crate::oracle::Quorums;
use crate::planted::Bug;
use crate::spy::current;

impl Mutant {
    pub(super) fn begin_reading(&self, key: Key) -> Reading {
        Reading {
            links: Arc::clone(&self.links),
            calls: Calls::new(self.is(Bug::DropCancels)),
            key,
            answers: Vec::new(),
            held: vec![Held::Unknown; self.quorums.n],
            failed: 0,
        }
    }

    pub(super) async fn read_from_all(&self, key: Key) -> Read {
        let Quorums { n, w, r } = self.quorums;
        let mut reading = self.begin_reading(key);
        for replica in 0..n {
            reading.ask(replica);
            if self.is(Bug::LeavesUnasked) {
                while let Some(answer) = reading.calls.next_ready() {
                    reading.take_in(answer);
                }
                if reading.answers.len() >= r {
                    break;
                }
            }
        }
        while reading.answers.len() < r && reading.failed <= n - r && reading.next().await {}
        let answered = reading.answers.len() >= r;
        let entry = self.choose(&reading.answers);
        if let Some(entry) = &entry {
            self.clock.observe(entry.version.timestamp);
        }
        let shown = entry.clone().map(|mut entry| {
            let is_hidden = match self.links.bug {
                Some(Bug::ExpiredShown) => false,
                Some(Bug::HiddenEarly) => entry.expires_millis.is_some(),
                _ => self.has_expired(&entry),
            };
            if is_hidden {
                entry.value = None;
            }
            entry
        });
        let mut found = if answered {
            Found::Entry(shown.clone())
        } else {
            Found::Failed
        };
        if self.settings.repairs {
            reading.repair(current());
        }
        if self.settings.blocking && answered && entry.is_some() {
            while !self.is(Bug::BlockingReturnsEarly)
                && reading.holders(&entry) < w
                && reading.next().await
            {
                reading.repair(current());
            }
            if reading.holders(&entry) < w && !self.is(Bug::BlockingReturnsEarly) {
                found = Found::NotRepaired(shown);
            }
        }
        let parts = reading.parts();
        if self.settings.repairs && !self.is(Bug::LateNotRepaired) {
            tokio::spawn(async move {
                while reading.next().await {
                    reading.repair(None);
                }
            });
        }
        Read { found, parts }
    }

    fn choose(&self, answers: &[Option<Entry>]) -> Option<Entry> {
        let answers = || answers.iter();
        let chosen = match self.links.bug {
            Some(Bug::FirstAnswer) => answers().next(),
            Some(Bug::Majority) => {
                let alike = |one: &&Option<Entry>| answers().filter(|other| other == one).count();
                answers().max_by_key(|one| (alike(one), (*one).clone()))
            }
            Some(Bug::TombstoneIsAbsent) => answers()
                .filter(|answer| answer.as_ref().is_some_and(|entry| entry.value.is_some()))
                .max(),
            Some(Bug::ExpiredPassedOver) => answers()
                .filter(|answer| !answer.as_ref().is_some_and(|entry| self.has_expired(entry)))
                .max(),
            _ => answers().max(),
        };
        chosen.cloned().flatten()
    }
}

#[derive(Clone)]
enum Held {
    Unknown,
    Entry(Option<Entry>),
    Repairing(Option<Entry>, Entry),
    /// It holds a greater one than this, of which it was told.
    Ahead(Entry),
}

pub(super) struct Reading {
    links: Arc<Links>,
    pub(super) calls: Calls,
    key: Key,
    pub(super) answers: Vec<Option<Entry>>,
    held: Vec<Held>,
    pub(super) failed: usize,
}

impl Reading {
    pub(super) fn ask(&mut self, replica: usize) {
        let request = Request::read(&self.key);
        self.calls.start(&self.links, current(), replica, request);
    }

    pub(super) async fn next(&mut self) -> bool {
        match self.calls.next().await {
            Some(answer) => self.take_in(answer),
            None => return false,
        }
        true
    }

    fn take_in(&mut self, (replica, answer): Answer) {
        let before = std::mem::replace(&mut self.held[replica], Held::Unknown);
        self.held[replica] = match (before, answer) {
            (Held::Unknown, Some(Ok(Response::Entry(held)))) => {
                // Nothing is ever collected beside it.
                let entry = held.entry;
                self.answers.push(entry.clone());
                Held::Entry(entry)
            }
            (Held::Repairing(_, entry), Some(Ok(Response::Ack(Ack::Applied)))) => {
                Held::Entry(Some(entry))
            }
            (Held::Repairing(_, entry), Some(Ok(Response::Ack(_)))) => Held::Ahead(entry),
            (Held::Repairing(..), _) => Held::Unknown,
            _ => {
                self.failed += 1;
                Held::Unknown
            }
        };
    }

    pub(super) fn repair(&mut self, op: Option<usize>) {
        let Some(greatest) = self.answers.iter().flatten().max().cloned() else {
            return;
        };
        for replica in 0..self.held.len() {
            if let Held::Entry(held) = &self.held[replica]
                && held.as_ref() < Some(&greatest)
            {
                self.held[replica] = Held::Repairing(held.clone(), greatest.clone());
                let request = Request::repair(&self.key, greatest.clone());
                self.calls.start(&self.links, op, replica, request);
            }
        }
    }

    pub(super) fn holders(&self, entry: &Option<Entry>) -> usize {
        let holds = |held: &&Held| match held {
            Held::Entry(held) | Held::Repairing(held, _) => held >= entry,
            Held::Ahead(of) => Some(of) >= entry.as_ref(),
            Held::Unknown => false,
        };
        self.held.iter().filter(holds).count()
    }

    fn parts(&self) -> Vec<Part> {
        let part = |held: &Held| match held {
            Held::Entry(held) | Held::Repairing(held, _) => {
                Part::Holds(held.as_ref().map(|entry| entry.version))
            }
            _ => Part::Pending,
        };
        self.held.iter().map(part).collect()
    }
}
