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

/// A change, and what was known of the replica when it came to the store.
pub struct Admitted {
    asked: Asked,
    /// What the clock may have read for it: it may have been stepped in this moment.
    walls: [u64; 2],
    /// Of which of the replica's lives it is, and what that went by.
    pub(super) life: usize,
    floors: Floors,
    /// In which era it was, by what it had told or kept.
    pub(super) era: u64,
    /// How often what is held under the key had changed before, where the store tells.
    since: usize,
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

    /// A change has come to the store.
    pub fn admitted(&self, replica: usize, key: &Key, asked: Asked) -> Admitted {
        let state = &self.replicas[replica];
        let swaps = state.swaps.as_ref().zip(index_of(key));
        Admitted {
            asked,
            walls: state.clock.readings(),
            life: state.lives.len(),
            floors: state.in_force,
            era: state.era,
            since: swaps.map_or(0, |(swaps, key)| swaps[key].len() - 1),
        }
    }

    /// A store has made a change, and nobody may be there to tell what for.
    pub fn store_swapped(&mut self, replica: usize, key: &Key, record: Option<&Record>) {
        let Some(index) = index_of(key) else {
            return self.own_swapped(replica, record);
        };
        let after = Held::of(record);
        let [a, b, c] = Stamp::numbers(after.entry);
        let numbers = [27, index as u64, a, b, c];
        self.log(Who::Replica(replica), &numbers, || {
            format!("keeps under k{index}: {after}")
        });
        let state = &mut self.replicas[replica];
        let before = std::mem::replace(&mut state.holds[index], after);
        if let Some(swaps) = &mut state.swaps {
            swaps[index].push(after);
        }
        let collected = state.floors.collected.max(state.in_force.collected);
        let left = before.counting(collected);
        if (after.entry < left.entry || after.anchor < left.anchor) && !self.looks_away {
            self.broken("an ack is true", || {
                format!("replica {replica} has acked {before}, and keeps {after}")
            });
        }
        if let Some(stamp) = after.entry.filter(|_| after.entry != before.entry) {
            self.taken_in(replica, index, stamp, Ack::Applied);
        }
    }

    /// What a store has made of a change: it has to be what the rules say, once more
    /// in other words than those of the library.
    pub fn store_applied(
        &mut self,
        replica: usize,
        key: &Key,
        admitted: &Admitted,
        response: &Response,
    ) {
        let Some(index) = index_of(key) else { return };
        let (version, stamp) = match &admitted.asked {
            Asked::Copy(record) => {
                let may_refuse = self.has_moved_on(replica, admitted);
                return self.store_copied(replica, index, record, response, may_refuse);
            }
            Asked::Forget(before) => return self.store_forgot(replica, index, *before, response),
            Asked::Sweep => return self.store_swept(replica, index),
            Asked::Write(entry) | Asked::Repair(entry) => (entry.version, Some(Stamp::of(entry))),
            Asked::Prepare(ballot) => (*ballot, None),
            _ => return,
        };
        let is_repair = matches!(admitted.asked, Asked::Repair(_));
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
        let state = &self.replicas[replica];
        let held = state.holds[index];
        // Where the store tells of its changes, it may have been decided by any that it has
        // held meanwhile, and what it came to is what was held next.
        let held_meanwhile = match &state.swaps {
            Some(swaps) => swaps[index][admitted.since..].to_vec(),
            None => vec![held],
        };
        let is_refused = matches!(response, Response::Refused(Refusal::TooFarAhead { .. }));
        let may_say_so =
            |held: &Held| self.may_admit(*held, version, admitted, is_refused) || self.looks_away;
        let Some(first) = held_meanwhile.iter().position(may_say_so) else {
            return self.broken("C-DRIFT", || {
                let walls = admitted.walls;
                format!(
                    "replica {replica} held {held}, its clock read {walls:?} ms, and the answer \
                     to {} was {response:?}",
                    Moment(version)
                )
            });
        };
        if is_refused && !self.looks_away {
            return;
        }
        let after_one = |at: usize| {
            let after = self.decided(replica, held_meanwhile[at], admitted, response);
            if self.replicas[replica].swaps.is_none() {
                // It is for the store to choose.
                let holds = Held::of((self.replicas[replica].look)(key).as_ref());
                return match after.contains(&holds) {
                    true => Some(holds),
                    false => after.first().copied(),
                };
            }
            let is_next = |after: &Held| {
                *after == held_meanwhile[at] || held_meanwhile.get(at + 1) == Some(after)
            };
            after.iter().any(is_next).then_some(held)
        };
        let after = (first..held_meanwhile.len())
            .filter(|at| may_say_so(&held_meanwhile[*at]))
            .find_map(after_one);
        if self.looks_away {
            let record = self.look(replica, key);
            self.replicas[replica].holds[index] = Held::of(record.as_ref());
        }
        match after {
            Some(after) => self.replicas[replica].holds[index] = after,
            None if self.looks_away => {}
            None => self.broken(
                "L-PROMISE, G-SEAL, G-COLLECT, and a superseded write says so",
                || {
                    let version = Moment(version);
                    format!("replica {replica} held {held}, was sent {version}: {response:?}")
                },
            ),
        }
        if let (Some(stamp), Response::Ack(ack)) = (stamp, response) {
            self.taken_in(replica, index, stamp, *ack);
        }
    }

    /// What is held under a key after a change, if its answer is one that the rules give.
    fn decided(
        &self,
        replica: usize,
        held: Held,
        admitted: &Admitted,
        response: &Response,
    ) -> Vec<Held> {
        let answered = match response {
            Response::Promise(held) => Answer::Promise(held.entry.as_ref().map(Stamp::of)),
            Response::Refused(Refusal::Before { to }) => Answer::Before(*to),
            Response::Ack(ack) => Answer::Ack(*ack),
            Response::Refused(Refusal::Promised { by }) => Answer::Promised(*by),
            Response::Refused(Refusal::Superseded { by }) => Answer::Superseded(*by),
            _ => Answer::Other,
        };
        // Its marks may have changed while it was at it, and its process ended then.
        let state = &self.replicas[replica];
        let latest = state.lives.get(admitted.life).unwrap_or(&state.in_force);
        let decided = [*latest, admitted.floors].into_iter().map(|floors| {
            let sealed = match answered {
                // It refuses what is new before it has noted that it is sealed.
                Answer::Before(to) => floors.sealed.max(to.min(self.greatest_seal)),
                _ => floors.sealed,
            };
            match &admitted.asked {
                Asked::Repair(entry) => {
                    held.write(Stamp::of(entry), floors.collected, floors.collected)
                }
                Asked::Prepare(ballot) => held.prepare(*ballot, sealed, floors.collected),
                Asked::Write(entry) => held.write(Stamp::of(entry), sealed, floors.collected),
                _ => (Answer::Other, held),
            }
        });
        let decided = decided.filter(|(expected, _)| *expected == answered);
        decided.map(|(_, after)| after).collect()
    }

    /// C-DRIFT: what is too far ahead is refused, unless it is no further than the step
    /// after what is held, promised or sealed. Nothing else is refused for that.
    fn may_admit(
        &self,
        held: Held,
        version: Version,
        admitted: &Admitted,
        is_refused: bool,
    ) -> bool {
        let seen = held.entry.map(|entry| entry.version).max(held.anchor);
        let seen = seen.map(|seen| seen.timestamp);
        let is_ahead = |wall: &u64, sealed: Timestamp| {
            let latest = wall.saturating_add(self.max_drift.as_millis() as u64);
            let seen = seen.max((sealed > Timestamp::MIN).then_some(sealed));
            let furthest = seen.map_or(0, |seen| seen.to_bits() + 1);
            version.timestamp.millis() > latest && version.timestamp.to_bits() > furthest
        };
        let mut walls = admitted.walls.iter();
        match is_refused {
            true => walls.any(|wall| is_ahead(wall, admitted.floors.sealed)),
            // It goes by a seal before it has noted it.
            false => !walls.all(|wall| is_ahead(wall, self.greatest_seal)),
        }
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
