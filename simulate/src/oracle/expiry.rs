//! Values that expire: rules X-HIDE and X-SLOWEST.
//!
//! What the oracle goes by are the entries that replicas hold, whether or not they have
//! expired: a reader who is told of nothing has found the value that was hidden from it.
//! So what is promised of entries holds of values that expire as well, and only then it
//! is asked whose clock had to show them, and whose had to hide them.

use std::num::NonZeroU64;

use super::collected::possible;
use super::*;

/// What a clock has read since an operation was called. In between it may have gone back.
#[derive(Clone, Copy)]
pub(super) struct Readings {
    least: u64,
    greatest: u64,
}

impl Readings {
    fn of(clock: &Clock) -> Self {
        let [before, now] = clock.readings();
        Self {
            least: before.min(now),
            greatest: before.max(now),
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            least: self.least.min(other.least),
            greatest: self.greatest.max(other.greatest),
        }
    }

    /// Whether who looks at it may take a value for one that has not expired.
    pub fn may_show(self, stamp: Stamp) -> bool {
        stamp.expires.is_none_or(|at| self.least < at.get())
    }

    /// And for one that has.
    pub fn may_hide(self, stamp: Stamp) -> bool {
        stamp.expires.is_some_and(|at| at.get() <= self.greatest)
    }

    /// Whether this may be found, or nothing, where an entry is held.
    pub fn may_find(self, held: Option<Stamp>, found: Option<u64>) -> bool {
        let value = held.and_then(Stamp::value);
        match (held, found) {
            (Some(held), Some(_)) => value == found && self.may_show(held),
            (Some(held), None) => value.is_none() || self.may_hide(held),
            (None, found) => found.is_none(),
        }
    }

    /// Whether a value expires so long after one of them.
    fn reach(self, ttl: Duration, expires: NonZeroU64) -> bool {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let [first, last] = [self.least, self.greatest].map(|it| it.saturating_add(ttl));
        (first..=last).contains(&expires.get())
    }
}

/// A value that was deleted because it had expired.
pub(super) struct Expiry {
    /// When the round was called that did it, in ticks.
    pub called: u64,
    pub value: Option<u64>,
}

impl KeyState {
    /// The entry under which somebody was told of a value, or of none, where what has
    /// expired is none.
    pub(super) fn told(&self, value: Option<u64>, version: Version) -> Stamp {
        let of_it = |stamp: &&Stamp| stamp.version == version;
        let same = |stamp: &&Stamp| stamp.value() == value;
        let stamps = || self.origins.keys().filter(of_it);
        let hidden = || stamps().filter(|stamp| value.is_none() && stamp.expires.is_some());
        let found = stamps().find(same).or_else(|| hidden().max());
        found
            .copied()
            .unwrap_or_else(|| Stamp::told(value, version))
    }

    /// Whether any value that was ever sent expires.
    pub(super) fn has_expiring(&self) -> bool {
        self.origins.keys().any(|stamp| stamp.expires.is_some())
    }
}

impl Oracle {
    /// What all clocks read when an operation is called.
    pub(super) fn all_readings(&self) -> Vec<Readings> {
        self.world.clocks().iter().map(Readings::of).collect()
    }

    /// A clock was touched, while operations are under way.
    pub(super) fn clock_touched(&mut self, clock: usize) {
        let clocks = self.world.clocks();
        let Some(read) = clocks.get(clock).map(Readings::of) else {
            return;
        };
        for op in self.ops.iter_mut().filter(|op| !op.ended) {
            if let Some(readings) = op.readings.get_mut(clock) {
                *readings = readings.and(read);
            }
        }
    }

    /// What the clock of an operation's coordinator has read since it was called.
    pub(super) fn readings(&self, index: usize) -> Readings {
        let op = &self.ops[index];
        let clock = self.coordinators[op.coordinator].stamps.clock_index();
        op.readings[clock].and(Readings::of(&self.world.clocks()[clock]))
    }

    /// What is put expires so long after its put was called.
    pub fn expires(&mut self, index: usize, ttl: Option<Duration>) {
        let Some(ttl) = ttl else { return };
        self.counts.expiring += 1;
        self.ops[index].ttl = Some(ttl);
        let numbers = [28, index as u64, ttl.as_millis() as u64];
        self.log(Who::Client(self.ops[index].client), &numbers, || {
            format!("  #{index} expires in {ttl:?}")
        });
    }

    /// A put keeps its time to live, in each of its attempts.
    pub(super) fn check_ttl(&mut self, index: usize, stamp: Stamp) {
        let readings = self.readings(index);
        let is_kept = match (self.ops[index].ttl, stamp.expires) {
            (Some(ttl), Some(expires)) => readings.reach(ttl, expires),
            (ttl, expires) => ttl.is_none() && expires.is_none(),
        };
        if !is_kept {
            self.broken("a put keeps its time to live", || {
                let read = show_readings(readings);
                format!("#{index} sends {stamp}, and its clock read {read}")
            });
        }
    }

    /// The entry that a get has found: what it was told, or the value that was hidden.
    pub(super) fn found_by_get(&mut self, index: usize, told: Option<Stamp>) -> Option<Stamp> {
        let found = told?;
        // Where it asked anew, what it was told before is not what it has found.
        let answers = &self.ops[index].reading.answers;
        let combined = possible(answers, self.quorums.r).into_iter();
        let mut stamps = combined
            .chain(answers.iter().copied())
            .filter_map(|it| it.stamp);
        let is_hidden = |it: &Stamp| it.version == found.version && it.expires.is_some();
        let stamp = match stamps.clone().any(|it| it == found) {
            true => found,
            false => stamps.find(is_hidden).unwrap_or(found),
        };
        self.check_shown(index, stamp, found.value());
        Some(stamp)
    }

    /// X-HIDE, of an entry that a client was told of with this value, or without one.
    pub(super) fn check_shown(&mut self, index: usize, stamp: Stamp, shown: Option<u64>) {
        let readings = self.readings(index);
        if stamp.value().is_some() && shown.is_none() {
            self.counts.hidden += 1;
        }
        if !readings.may_find(Some(stamp), shown) {
            self.broken("X-HIDE", || {
                let is = if shown.is_some() { "shown" } else { "hidden" };
                let read = show_readings(readings);
                format!("#{index}: {stamp} is {is}, and the clock read {read}")
            });
        }
    }

    /// X-HIDE, of a value that an update was told of, as what it has found.
    pub(super) fn check_compared(&mut self, index: usize, value: u64) {
        let readings = self.readings(index);
        let origins = &self.keys[self.ops[index].key].origins;
        let mut stamps = origins.keys().filter(|it| it.value() == Some(value));
        if !stamps.any(|it| readings.may_show(*it)) {
            self.broken("X-HIDE", || {
                let (value, read) = (value.reverse_bits(), show_readings(readings));
                format!("#{index} has found #{value}, and its clock read {read}")
            });
        }
    }

    /// What an update that was told of nothing may have found: nothing, or values that
    /// were hidden from it.
    pub(super) fn found_as_none(&self, index: usize) -> Vec<Option<u64>> {
        let (op, readings) = (&self.ops[index], self.readings(index));
        let bases = op.ballots.bases(self.quorums.r);
        let mut values: Vec<_> = bases
            .filter(|base| readings.may_find(*base, None))
            .map(|base| base.and_then(Stamp::value))
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// What the second phase of an update may leave, as far as it depends on what expires.
    pub(super) fn check_left(&mut self, index: usize, place: usize, key: usize, stamp: Stamp) {
        let (op, r) = (&self.ops[index], self.quorums.r);
        let bases: Vec<_> = op.ballots.bases_of(place, r).collect();
        let left = |of: Stamp| Some((of.value()?, of.expires));
        let same = |base: &Option<Stamp>| base.and_then(left) == left(stamp);
        // It settles what is there.
        if bases.iter().any(same) {
            return;
        }
        let bases = bases.into_iter();
        match op.kind {
            Kind::Register(ask) if stamp.value().is_some() => {
                let readings = self.readings(index);
                let mut times = bases.flat_map(|base| times_left(ask, base, readings));
                if !times.any(|time| time == stamp.expires) {
                    self.broken(
                        "an update keeps the time of what it is put in place of",
                        || format!("#{index} writes {stamp}"),
                    );
                }
            }
            kind if kind.is_driven() => {
                let expired = |base: Option<Stamp>| base.filter(|it| self.is_past(index, *it));
                let expired: Vec<_> = match kind {
                    Kind::Collect if stamp.tombstone => bases.filter_map(expired).collect(),
                    _ => Vec::new(),
                };
                self.expired(index, key, stamp, &expired);
            }
            _ => {}
        }
    }

    /// A round deletes what has expired.
    fn expired(&mut self, index: usize, key: usize, stamp: Stamp, expired: &[Stamp]) {
        if expired.is_empty() {
            return self.broken("X-SLOWEST", || {
                format!("#{index} writes {stamp} where nothing has expired by all clocks")
            });
        }
        self.counts.expired += 1;
        let called = self.ops[index].called;
        let expiries = expired.iter().map(|expired| Expiry {
            called,
            value: expired.value(),
        });
        self.keys[key].expiries.extend(expiries);
    }

    /// Whether each replica's clock was past a value's time since an operation was called.
    fn is_past(&self, index: usize, stamp: Stamp) -> bool {
        let replicas = self.replicas.iter().zip(&self.ops[index].readings);
        let mut readings = replicas.map(|(it, read)| read.and(Readings::of(&it.clock)));
        readings.all(|read| read.may_hide(stamp))
    }

    /// The least of the replicas' clocks.
    pub fn slowest_millis(&self) -> u64 {
        let clocks = self.replicas.iter().map(|it| it.clock.now_millis());
        clocks.min().unwrap_or(0)
    }

    /// X-SLOWEST, once all is calm, and a round has ended that began when all clocks were
    /// past this: nothing is left that had expired then, if there can be updates.
    pub fn check_expired(&mut self, millis: u64) {
        let Quorums { n, w, r } = self.quorums;
        if r + w <= n || 2 * w <= n {
            return;
        }
        for replica in 0..n {
            for key in 0..self.keys.len() {
                let held = self.replicas[replica].holds[key].entry;
                let is_left = |it: &Stamp| it.expires.is_some_and(|at| at.get() <= millis);
                if let Some(left) = held.filter(is_left) {
                    self.broken("X-SLOWEST", || {
                        format!("replica {replica} holds {left} under k{key} after a round")
                    });
                }
            }
        }
    }
}

/// When what an update puts may expire, if it is put in place of this.
fn times_left(ask: Ask, base: Option<Stamp>, readings: Readings) -> Vec<Option<NonZeroU64>> {
    let keeps = matches!(ask, Ask::Update | Ask::CompareAndSet(Some(_)));
    let Some(base) = base.filter(|_| keeps) else {
        return vec![None];
    };
    let hidden = (base.value().is_none() || readings.may_hide(base)).then_some(None);
    let shown = readings.may_show(base).then_some(base.expires);
    hidden.into_iter().chain(shown).collect()
}

/// From when to when, as times are shown.
fn show_readings(readings: Readings) -> String {
    let [least, greatest] = [readings.least, readings.greatest].map(entries::since_start);
    format!("{least} to {greatest}")
}
