//! Deletes that are collected: rules G-SEAL, G-LEVEL, G-COLLECT and G-VOID.
//!
//! When a replica's mark rises, each tombstone that it holds from before the mark is
//! dead: it counts no more there, and may be gone. From then on nobody may find what it
//! has deleted, and whoever finds nothing, under a mark past it, has found it.

use kvquorum_core::{Marks, Timestamp};

use super::entries::Moment;
use super::*;

/// What a replica takes no more, and what counts no more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Floors {
    pub sealed: Timestamp,
    pub collected: Timestamp,
}

impl Floors {
    pub(super) fn of(marks: &Marks) -> Self {
        let Marks {
            sealed, collected, ..
        } = *marks;
        Self { sealed, collected }
    }

    /// What a store keeps of them: see `Marks`.
    pub fn kept(record: Option<&Record>) -> Self {
        let value = record.and_then(Record::entry);
        let value = value.and_then(|entry| entry.value);
        let number = |at| number(value.as_deref()?, at).map(Timestamp::from_bits);
        Self {
            sealed: number(18).unwrap_or_default(),
            collected: number(26).unwrap_or_default(),
        }
    }

    fn have_fallen(self, before: Self) -> bool {
        self.sealed < before.sealed || self.collected < before.collected
    }
}

/// One of the numbers that a store keeps of its replica.
fn number(kept: &[u8], at: usize) -> Option<u64> {
    let bytes = kept.get(at..at + 8)?;
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// What one replica answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) collected: Timestamp,
    pub(super) stamp: Option<Stamp>,
}

impl Answer {
    pub(super) fn of(held: &kvquorum_core::Held) -> Self {
        Self {
            collected: held.collected,
            stamp: held.entry.as_ref().map(Stamp::of),
        }
    }

    /// What it would answer.
    pub(super) fn held(state: &ReplicaState, key: usize) -> Self {
        let collected = state.floors.collected;
        let stamp = state.holds[key].counting(collected).entry;
        Self { collected, stamp }
    }
}

/// What answers say together: the greatest entry that counts, and the greatest mark.
/// What is from before that mark counts only from answers of it (G-VOID).
pub(super) fn combined(answers: &[Answer]) -> Answer {
    let collected = answers.iter().map(|answer| answer.collected).max();
    let collected = collected.unwrap_or_default();
    let counts = |answer: &&Answer| {
        let timestamp = answer.stamp.map(|stamp| stamp.version.timestamp);
        answer.collected == collected || timestamp >= Some(collected)
    };
    let counting = answers.iter().filter(counts);
    Answer {
        collected,
        stamp: counting.filter_map(|answer| answer.stamp).max(),
    }
}

/// What answers say together, as of each of those that may have decided.
pub(super) fn possible(answers: &[Answer], least: usize) -> Vec<Answer> {
    let ends = least.min(answers.len())..=answers.len();
    ends.map(|end| combined(&answers[..end])).collect()
}

impl KeyState {
    /// The greatest of the first so many tombstones that died.
    pub(super) fn dead_before(&self, first: usize) -> Option<Stamp> {
        self.dead.iter().take(first).copied().max()
    }

    /// Whether this, or what took its place, is a tombstone that counts no more under a
    /// mark: nothing is what is to be found then.
    pub(super) fn is_dead(&self, stamp: Stamp, collected: Timestamp) -> bool {
        let mut dead = self.dead.iter();
        dead.any(|dead| *dead >= stamp && dead.version.timestamp < collected)
    }

    /// Whether what was found is no less than what there was.
    pub(super) fn reaches(&self, found: Answer, floor: Option<Stamp>) -> bool {
        let is_dead = |floor| self.is_dead(floor, found.collected);
        found.stamp >= floor || found.stamp.is_none() && floor.is_some_and(is_dead)
    }
}

impl Oracle {
    /// A replica has changed its marks, and goes by them from now on.
    pub fn in_force(&mut self, replica: usize, marks: Marks) {
        self.take_force(replica, Floors::of(&marks));
    }

    /// A replica goes by what it has read of itself.
    pub fn learns(&mut self, replica: usize, record: Option<&Record>) {
        self.take_force(replica, Floors::kept(record));
    }

    /// A replica's store is read for what the replica keeps of itself.
    pub(super) fn store_got_own(&mut self, replica: usize, record: Option<&Record>) {
        let kept = Floors::kept(record);
        let floors = self.replicas[replica].floors;
        if kept.have_fallen(floors) && !self.looks_away {
            self.broken("G-SEAL, G-COLLECT", || {
                format!("replica {replica} had {floors:?}, and has {kept:?}")
            });
        }
    }

    /// A replica's store changes what it keeps of the replica.
    pub(super) fn own_swapped(&mut self, replica: usize, record: Option<&Record>) {
        self.store_got_own(replica, record);
        // The process may end before it can tell of that.
        let value = record.and_then(Record::entry).and_then(|own| own.value);
        let is_joining = value.as_deref().and_then(|kept| kept.get(1)) != Some(&0);
        self.floors_marked(replica, Floors::kept(record), is_joining);
        let era = value.and_then(|kept| number(&kept, 2)).unwrap_or(0);
        let before = self.replicas[replica].era;
        if era < before && !self.looks_away {
            self.broken("J-ERA", || {
                format!("replica {replica} goes back from era {before} to {era}")
            });
        }
    }

    /// What a replica takes no more, and what counts no more.
    pub fn floors(&self, replica: usize) -> Floors {
        self.replicas[replica].floors
    }

    fn take_force(&mut self, replica: usize, floors: Floors) {
        let Floors { sealed, collected } = &mut self.replicas[replica].in_force;
        *sealed = floors.sealed.max(*sealed);
        *collected = floors.collected.max(*collected);
    }

    /// Its marks have risen; or should have.
    pub(super) fn floors_marked(&mut self, replica: usize, mut floors: Floors, is_joining: bool) {
        let state = &mut self.replicas[replica];
        let before = state.floors;
        if state.swaps.is_some() {
            // The answer may come after that to a later change. Whether they have fallen was
            // seen when they were changed.
            floors.sealed = floors.sealed.max(before.sealed);
            floors.collected = floors.collected.max(before.collected);
        }
        state.floors = floors;
        if floors.have_fallen(before) || floors.collected > floors.sealed {
            self.broken("G-SEAL, G-COLLECT", || {
                format!("replica {replica} goes from {before:?} to {floors:?}")
            });
        }
        if floors.sealed > before.sealed && !is_joining {
            self.check_sealed(replica, floors.sealed);
        }
        if floors.collected > before.collected {
            let is_seeded = !is_joining;
            self.has_collected |= true;
            for key in 0..self.keys.len() {
                if is_seeded {
                    self.buried(replica, key, floors.collected);
                }
            }
        }
    }

    /// G-SEAL: a replica is sealed up to a time that its clock has read. One that rejoined
    /// has taken over what it is sealed up to.
    fn check_sealed(&mut self, replica: usize, sealed: Timestamp) {
        let state = &mut self.replicas[replica];
        state.read_clock();
        let latest = state.latest;
        if sealed.millis() > latest && state.losses == 0 && !self.looks_away {
            self.broken("G-SEAL", || {
                format!(
                    "replica {replica} is sealed up to {sealed}, and its clock read {latest} ms"
                )
            });
        }
    }

    /// G-LEVEL: where a delete is collected, every replica holds at least that. Those
    /// that lost their data may have yet to copy it.
    fn buried(&mut self, replica: usize, key: usize, collected: Timestamp) {
        let Some(dead) = self.replicas[replica].holds[key].entry else {
            return;
        };
        if !dead.tombstone || dead.version.timestamp >= collected {
            return;
        }
        self.counts.collected += 1;
        let state = &mut self.keys[key];
        if !state.dead.contains(&dead) {
            state.dead.push(dead);
        }
        let is_behind =
            |other: &usize| self.replicas[*other].losses == 0 && !self.covers(*other, key, dead);
        if let Some(other) = (0..self.quorums.n).find(is_behind)
            && !self.looks_away
        {
            let held = self.replicas[other].holds[key];
            self.broken("G-LEVEL", || {
                format!(
                    "replica {replica} collects {dead} of k{key}, and replica {other} holds {held}"
                )
            });
        }
    }

    /// A replica was asked to be sealed.
    pub(super) fn seal_asked(&mut self, to: Timestamp) {
        self.greatest_seal = self.greatest_seal.max(to);
    }

    /// Whether a replica holds at least this: the entry or a greater one, or nothing,
    /// where that has been deleted and collected.
    pub(super) fn covers(&self, replica: usize, key: usize, stamp: Stamp) -> bool {
        let state = &self.replicas[replica];
        state.holds[key].entry >= Some(stamp)
            || self.keys[key].is_dead(stamp, state.floors.collected)
    }

    /// Whether any replica has collected what is at least this.
    pub(super) fn is_collected(&self, key: usize, stamp: Stamp) -> bool {
        let marks = self.replicas.iter().map(|it| it.floors.collected);
        self.keys[key].is_dead(stamp, marks.max().unwrap_or_default())
    }

    /// What a sweep leaves of a record is what counts of it.
    pub(super) fn store_swept(&mut self, replica: usize, index: usize) {
        let state = &mut self.replicas[replica];
        if state.swaps.is_some() {
            return;
        }
        let held = state.holds[index];
        let left = held.counting(state.in_force.collected);
        if left == held {
            return;
        }
        state.holds[index] = left;
        self.counts.swept += 1;
        self.log(Who::Replica(replica), &[26, index as u64], || {
            format!("sweeps k{index}: {held}")
        });
    }

    /// Whether what was acknowledged is still to be found: one that does not know that
    /// it lost its data may have forgotten what it is sealed up to, and what is taken
    /// below that does not count. And after a backup was restored nothing else is promised.
    pub(super) fn keeps_promises(&self) -> bool {
        !self.has_restored && (!self.has_collected || self.unsound == 0)
    }

    /// Whether each set of R replicas has one that never lost data without knowing it.
    fn has_sound_readers(&self) -> bool {
        (self.unsound.count_ones() as usize) < self.quorums.r
    }

    /// What was deleted and collected when an operation began is not found by it.
    pub(super) fn check_dead(&mut self, index: usize, key: usize, found: Option<Stamp>) {
        let dead = self.ops[index].dead[key];
        let dead = self.keys[key].dead_before(dead);
        if let (Some(found), Some(dead)) = (found, dead)
            && found < dead
            && self.has_sound_readers()
        {
            self.broken("a collected delete is never undone", || {
                format!("#{index} finds {found} under k{key}, and {dead} was collected")
            });
        }
    }

    /// The same, of a value without its version.
    pub(super) fn check_dead_value(&mut self, index: usize, key: usize, value: u64) {
        let origins = self.keys[key].origins.keys();
        let found = origins.filter(|stamp| stamp.value() == Some(value)).max();
        self.check_dead(index, key, found.copied());
    }

    /// All has been calm for long, and a round has ended.
    pub fn collected(&mut self, index: usize, told: &Result<Timestamp, String>) {
        let bits = told.as_ref().map_or(0, |upto| upto.to_bits());
        let numbers = [25, index as u64, bits];
        self.log(Who::Client(self.ops[index].client), &numbers, || {
            format!("#{index} collects: {told:?}")
        });
        if told.is_ok() {
            self.counts.rounds += 1;
        }
    }

    /// After a round in which all replicas were there, nothing is left from before its
    /// mark.
    pub fn check_swept(&mut self, upto: Timestamp) {
        for replica in 0..self.quorums.n {
            for key in 0..self.keys.len() {
                let held = self.replicas[replica].holds[key];
                if held.counting(upto) != held {
                    self.broken("what is collected goes away", || {
                        let version = held.entry.map(|entry| entry.version).max(held.anchor);
                        let version = version.map(|version| Moment(version).to_string());
                        format!("replica {replica} holds {version:?} of k{key} after a round")
                    });
                }
            }
        }
    }
}
