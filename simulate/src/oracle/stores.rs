//! What stores answer: the contract of a store, and rules C-DRIFT and L-PROMISE.

use std::ops::{Bound, RangeBounds};

use super::entries::Moment;
use super::*;

/// What a store answers to a change that is not too far ahead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Ack(Ack),
    Promise(Option<Stamp>),
    Promised(Version),
    Superseded(Version),
    Before(Timestamp),
    Other,
}

impl Held {
    /// A replica keeps the greater entry, and takes nothing below what it has
    /// promised, unless it has it already; and nothing new from before a floor.
    fn write(self, stamp: Stamp, floor: Timestamp, collected: Timestamp) -> (Answer, Self) {
        let counting = self.counting(collected);
        let Self { entry, anchor } = counting;
        match entry {
            Some(entry) if entry == stamp => (Answer::Ack(Ack::Applied), self),
            _ if Some(stamp.version) < anchor => (counting.promised(), self),
            _ if stamp.version.timestamp < floor => (counting.before(floor), self),
            Some(Stamp { version: by, .. }) if entry > Some(stamp) => {
                (Answer::Ack(Ack::Superseded { by }), self)
            }
            _ => {
                let entry = Some(stamp);
                (Answer::Ack(Ack::Applied), Self { entry, anchor })
            }
        }
    }

    fn prepare(self, ballot: Version, floor: Timestamp, collected: Timestamp) -> (Answer, Self) {
        let counting = self.counting(collected);
        let Self { entry, anchor } = counting;
        match entry {
            _ if Some(ballot) < anchor => (counting.promised(), self),
            Some(Stamp { version: by, .. }) if ballot < by => (Answer::Superseded(by), self),
            _ if ballot.timestamp < floor => (counting.before(floor), self),
            // It is promised already.
            _ if Some(ballot) == anchor => (Answer::Promise(entry), self),
            _ => {
                let anchor = Some(ballot);
                (Answer::Promise(entry), Self { entry, anchor })
            }
        }
    }

    /// As where a greater ballot is promised, it is told what to go past.
    fn before(self, floor: Timestamp) -> Answer {
        let held = self.entry.map(|entry| entry.version.timestamp);
        Answer::Before(held.map_or(floor, |held| floor.max(held)))
    }

    /// What is refused has to go past all that is here.
    fn promised(self) -> Answer {
        let by = self.entry.map(|entry| entry.version).max(self.anchor);
        by.map_or(Answer::Other, Answer::Promised)
    }
}

impl Oracle {
    pub fn store_fails(&mut self, replica: usize, panics: bool, before: bool) {
        let kind = if panics {
            "store panic"
        } else {
            "store failure"
        };
        *self.counts.faults.entry(kind).or_default() += 1;
        let numbers = [14, u64::from(panics), u64::from(before)];
        self.log(Who::Replica(replica), &numbers, || {
            let when = if before { "before" } else { "after" };
            format!("{kind} {when} its work")
        });
    }

    pub fn store_got(&mut self, replica: usize, key: &Key, record: Option<&Record>) {
        let Some(key) = index_of(key) else {
            return self.store_got_own(replica, record);
        };
        let got = Held::of(record);
        let [a, b, c] = Stamp::numbers(got.entry);
        self.log(Who::Replica(replica), &[2, key as u64, a, b, c], || {
            format!("get k{key} → {got}")
        });
        self.check_held(replica, key, got);
    }

    fn check_held(&mut self, replica: usize, key: usize, got: Held) {
        let held = self.replicas[replica].holds[key];
        if self.looks_away {
            self.replicas[replica].holds[key] = got;
        } else if got != held {
            self.broken("an ack is true", || {
                format!("replica {replica} has acked {held} and answers {got}")
            });
        }
    }

    /// What a store has found in a range, in order.
    pub fn store_scanned(
        &mut self,
        replica: usize,
        range: (Bound<&Key>, Bound<&Key>),
        records: &[(Key, Record)],
    ) {
        let mut left: Vec<usize> = (0..self.keys.len())
            .filter(|index| range.contains(&key(*index)))
            .filter(|index| self.replicas[replica].holds[*index] != Held::default())
            .rev()
            .collect();
        self.log(Who::Replica(replica), &[15, records.len() as u64], || {
            format!("scan → {} records", records.len())
        });
        for (key, record) in records {
            let Some(index) = index_of(key) else { continue };
            self.check_held(replica, index, Held::of(Some(record)));
            if left.pop() != Some(index) && !self.looks_away {
                self.broken("R-RANGE", || {
                    format!("the store of replica {replica} passes over a key before k{index}")
                });
            }
        }
    }

    /// What a replica's clock reads.
    pub fn wall_of(&self, replica: usize) -> u64 {
        self.replicas[replica].clock.now_millis()
    }

    /// What a store has made of a change: it has to be what the rules say, once more
    /// in other words than those of the library.
    pub fn store_applied(
        &mut self,
        replica: usize,
        key: &Key,
        asked: &Asked,
        (wall, before): (u64, Floors),
        response: &Response,
    ) {
        let Some(index) = index_of(key) else { return };
        let (version, stamp) = match asked {
            Asked::Copy(record) => return self.store_copied(replica, index, record, response),
            Asked::Sweep => return self.store_swept(replica, index),
            Asked::Write(entry) | Asked::Repair(entry) => (entry.version, Some(Stamp::of(entry))),
            Asked::Prepare(ballot) => (*ballot, None),
            _ => return,
        };
        let is_repair = matches!(asked, Asked::Repair(_));
        let [a, b, c] = match stamp {
            None => [version.timestamp.to_bits(), version.writer.get(), u64::MAX],
            stamp => Stamp::numbers(stamp),
        };
        let code = match response {
            Response::Ack(Ack::Applied) => 1,
            Response::Ack(_) => 0,
            Response::Refused(_) => 2,
            Response::Promise(_) => 4,
            _ => 3,
        };
        let said = ["superseded", "applied", "refused", "nonsense", "promised"][code as usize];
        let numbers = [3, index as u64, a, b, c, code];
        self.log(Who::Replica(replica), &numbers, || match stamp {
            Some(stamp) if is_repair => format!("repair k{index} {stamp}: {said}"),
            Some(stamp) => format!("write k{index} {stamp}: {said}"),
            None => format!("prepare k{index} {}: {said}", Moment(version)),
        });
        let held = self.replicas[replica].holds[index];
        if self.looks_away {
            let record = (self.replicas[replica].look)(key);
            self.replicas[replica].holds[index] = Held::of(record.as_ref());
        } else if !self.check_drift(replica, held, version, wall, response) {
            return;
        }
        let answered = match response {
            Response::Promise(held) => Answer::Promise(held.entry.as_ref().map(Stamp::of)),
            Response::Refused(Refusal::Before { to }) => Answer::Before(*to),
            Response::Ack(ack) => Answer::Ack(*ack),
            Response::Refused(Refusal::Promised { by }) => Answer::Promised(*by),
            Response::Refused(Refusal::Superseded { by }) => Answer::Superseded(*by),
            _ => Answer::Other,
        };
        // Its marks may have changed while it was at it.
        let now = self.replicas[replica].in_force;
        let decided = [now, before].into_iter().map(|floors| {
            let floor = match answered {
                _ if is_repair => floors.collected,
                // It refuses what is new before it has noted that it is sealed.
                Answer::Before(to) => floors.sealed.max(to.min(self.greatest_seal)),
                _ => floors.sealed,
            };
            match stamp {
                Some(stamp) => held.write(stamp, floor, floors.collected),
                None => held.prepare(version, floor, floors.collected),
            }
        });
        let decided = decided.filter(|(expected, _)| *expected == answered);
        let after: Vec<_> = decided.map(|(_, after)| after).collect();
        if let [first, ..] = after[..] {
            let holds = Held::of(self.look(replica, key).as_ref());
            let after = if after.contains(&holds) { holds } else { first };
            self.replicas[replica].holds[index] = after;
        } else if !self.looks_away {
            self.broken(
                "L-PROMISE, G-SEAL, G-COLLECT, and a superseded write says so",
                || {
                    let version = Moment(version);
                    format!("replica {replica} held {held}, was sent {version}: {response:?}")
                },
            );
        }
        if let (Some(stamp), Answer::Ack(ack)) = (stamp, answered) {
            self.taken_in(replica, index, stamp, ack);
        }
    }

    /// C-DRIFT: what is too far ahead is refused, unless it is no further than the step
    /// after what is held or promised. Tells whether it is for the other rules to decide.
    fn check_drift(
        &mut self,
        replica: usize,
        held: Held,
        version: Version,
        wall: u64,
        response: &Response,
    ) -> bool {
        let latest = wall.saturating_add(self.max_drift.as_millis() as u64);
        let seen = held.entry.map(|entry| entry.version).max(held.anchor);
        let furthest = seen.map_or(0, |seen| seen.timestamp.to_bits() + 1);
        let is_ahead =
            version.timestamp.millis() > latest && version.timestamp.to_bits() > furthest;
        let is_refused = matches!(response, Response::Refused(Refusal::TooFarAhead { .. }));
        if is_ahead != is_refused {
            self.broken("C-DRIFT", || {
                format!(
                    "replica {replica} held {held}, its clock read {wall} ms, and the answer to {} \
                     was {response:?}",
                    Moment(version)
                )
            });
        }
        !is_ahead && !is_refused
    }

    pub(super) fn taken_in(&mut self, replica: usize, key: usize, stamp: Stamp, ack: Ack) {
        let bit = 1 << replica;
        let Some(origin) = self.keys[key].origins.get(&stamp) else {
            self.broken("nothing that nobody wrote", || {
                format!("replica {replica} took in {stamp}")
            });
            return;
        };
        for (op, attempt) in &origin.makers {
            // Those of updates are not looked at.
            let Some(attempt) = self.ops[*op].attempts.get_mut(*attempt) else {
                continue;
            };
            match ack {
                Ack::Applied => attempt.applied |= bit,
                Ack::Superseded { .. } => attempt.superseded |= bit,
            }
        }
        if origin.is_forbidden() && ack == Ack::Applied {
            self.broken("a write that was not applied is never seen", || {
                format!("replica {replica} took in {stamp} afterwards")
            });
        }
    }
}
