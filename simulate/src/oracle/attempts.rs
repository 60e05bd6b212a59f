//! The attempts of a write, by what goes over links: rules W-ALL and W-SUPERSEDED.

use super::*;

impl Oracle {
    /// Which attempt of a write a call to a replica belongs to: that of the same
    /// entry; else the last one, unless that has called the replica already, or has
    /// sent another entry.
    pub(super) fn attempt(&mut self, index: usize, call: &Call, stamp: Option<Stamp>) -> usize {
        let (replica, last) = (call.end.replica, self.ops[index].attempts.len());
        let bit = 1 << replica;
        let mut attempts = self.ops[index].attempts.iter();
        let is_sent = |attempt: &Attempt| stamp.is_some() && attempt.stamp == stamp;
        if let Some(place) = attempts.position(is_sent) {
            if !call.is_introduced || call.attempt + 1 == last {
                self.take_back_attempt(index, place);
            }
            self.ops[index].attempts[place].called |= bit;
            return place;
        }
        let is_same = |attempt: &Attempt| {
            let is_other = attempt.stamp.is_some() && stamp.is_some();
            !is_other && attempt.called & bit == 0
        };
        if !self.ops[index].attempts.last().is_some_and(is_same) {
            self.begin_attempt(index);
        }
        let attempts = &mut self.ops[index].attempts;
        if let Some(attempt) = attempts.last_mut() {
            attempt.called |= bit;
        }
        attempts.len() - 1
    }

    /// Replicas were asked who they are once more, and are sent the entry of an earlier
    /// attempt then: they were asked for that one, where none was sent since.
    fn take_back_attempt(&mut self, index: usize, place: usize) {
        let attempts = &mut self.ops[index].attempts;
        let Some(_) = attempts.pop_if(|last| last.stamp.is_none()) else {
            return;
        };
        let taken_back = attempts.len();
        let calls = self.calls.iter_mut().flatten();
        for call in calls.filter(|call| call.op == Some(index) && call.attempt == taken_back) {
            call.attempt = place;
        }
    }

    fn begin_attempt(&mut self, index: usize) {
        let (now, quorums) = (self.now(), self.quorums);
        self.failed_ahead(index);
        let coordinator = self.ops[index].coordinator;
        let steps = self.clock_steps_of(coordinator);
        let mut bounds = self.coordinators[coordinator].stamps.bounds(steps);
        let op = &mut self.ops[index];
        if op.is_unsettled {
            // It may have been stamped when it first asked who replicas are.
            bounds = bounds.loosened();
        }
        let mut attempt = Attempt::new(now, bounds);
        let Some(last) = op.attempts.last() else {
            return op.attempts.push(attempt);
        };
        let is_superseded = last.acks >= quorums.w && !last.told_by_all.is_empty();
        let is_refused = last.acks < quorums.w && last.is_refused;
        attempt.is_past = last.is_past || is_superseded;
        let told = match last.promised {
            Some(promised) if last.acks < quorums.w => last.told.max(Some(promised)),
            _ => last.told.filter(|_| is_superseded),
        };
        // Where it asked more than once, others may have told of more than decided.
        attempt.past = last.past.max(told).filter(|_| !op.is_unsettled);
        let for_a_reason =
            is_superseded || is_refused || op.kind == Kind::Foreign || op.is_unsettled;
        op.told.extend(&last.told_by_all);
        op.attempts.push(attempt);
        self.counts.restamped += 1;
        if !for_a_reason {
            self.broken("W-SUPERSEDED", || {
                format!("#{index} was stamped again, and not superseded")
            });
        }
    }

    /// A write sends its entry to a replica.
    pub(super) fn sent(&mut self, index: usize, attempt: usize, key: &Key, stamp: Stamp) {
        let n = self.quorums.n;
        let op = &mut self.ops[index];
        let (kind, client, is_unsettled) = (op.kind, op.client, op.is_unsettled);
        let own = index_of(key) == Some(op.key)
            && match kind {
                Kind::Delete => stamp.tombstone,
                _ => stamp.value.reverse_bits() == index as u64,
            };
        if !own {
            return self.broken("nothing that nobody wrote", || {
                format!("operation #{index} sends {stamp} under {key}")
            });
        }
        let sent = op.attempts[attempt].stamp;
        if sent == Some(stamp) {
            return;
        }
        if let Some(sent) = sent {
            return self.broken("W-ALL", || {
                format!("operation #{index} sends {sent} and {stamp} in one attempt")
            });
        }
        op.attempts[attempt].stamp = Some(stamp);
        let mut earlier = op.attempts.iter().take(attempt);
        let is_taken = |earlier: &Attempt| {
            let version = earlier.stamp.map(|stamp| stamp.version);
            let may_be = match is_unsettled {
                true => earlier.may_be_applied,
                false => !earlier.is_nowhere(n),
            };
            version >= Some(stamp.version) && may_be
        };
        if kind != Kind::Foreign && earlier.any(is_taken) {
            self.broken("W-SUPERSEDED", || {
                format!("#{index} sends {stamp}, less than what may have been taken before")
            });
        }
        let op = &self.ops[index];
        let origin = self.keys[op.key].origins.entry(stamp).or_default();
        origin.makers.push((index, attempt));
        let [a, b, c] = Stamp::numbers(Some(stamp));
        self.log(Who::Client(client), &[4, a, b, c], || {
            format!("  stamps #{index} as {stamp}")
        });
        self.check_ttl(index, stamp);
        self.given_out(index, attempt, stamp);
    }

    /// In the background nothing is written that was not sent before: what a replica holds
    /// is brought to others as a repair (G-COLLECT).
    pub(super) fn sent_late(&mut self, key: &Key, stamp: Stamp) {
        let state = index_of(key).and_then(|index| self.keys.get(index));
        if !state.is_some_and(|key| key.origins.contains_key(&stamp)) {
            self.broken("nothing that nobody wrote", || {
                format!("{stamp} is sent to {key}, and nobody has stamped it")
            });
        }
    }
}
