//! What stores answer: the contract of a store, and rule C-DRIFT.

use super::*;

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

    pub fn store_got(&mut self, replica: usize, key: &Key, entry: Option<&Entry>) {
        let Some(key) = index_of(key) else { return };
        let got = entry.map(Stamp::of);
        let holds = self.replicas[replica].holds[key];
        let [a, b, c] = Stamp::numbers(got);
        self.log(Who::Replica(replica), &[2, key as u64, a, b, c], || {
            format!("get k{key} → {}", show(got))
        });
        if got != holds {
            self.broken("an ack is true", || {
                format!(
                    "replica {replica} has acked {} and answers {}",
                    show(holds),
                    show(got)
                )
            });
        }
    }

    /// What a replica's clock reads.
    pub fn wall_of(&self, replica: usize) -> u64 {
        self.replicas[replica].clock.now_millis()
    }

    /// The rules once more, in other words than those of the library: a replica
    /// takes in what is not too far ahead, or no further ahead than the step after
    /// what it holds; and it keeps the greater entry.
    pub fn store_applied(
        &mut self,
        replica: usize,
        key: &Key,
        entry: &Entry,
        wall: u64,
        response: &Response,
    ) {
        let Some(key) = index_of(key) else { return };
        let stamp = Stamp::of(entry);
        let [a, b, c] = Stamp::numbers(Some(stamp));
        let (code, said) = match response {
            Response::Ack(Ack::Applied) => (1, "applied"),
            Response::Ack(_) => (0, "superseded"),
            Response::Refused(_) => (2, "refused"),
            _ => (3, "nonsense"),
        };
        let numbers = [3, key as u64, a, b, c, code];
        self.log(Who::Replica(replica), &numbers, || {
            format!("write k{key} {stamp}: {said}")
        });
        let state = &mut self.replicas[replica];
        let latest = wall.saturating_add(self.max_drift.as_millis() as u64);
        let held = state.holds[key];
        let furthest = held.map_or(0, |held| held.version.timestamp.to_bits() + 1);
        let is_ahead = stamp.version.timestamp.millis() > latest
            && stamp.version.timestamp.to_bits() > furthest;
        let is_refused = matches!(response, Response::Refused(Refusal::TooFarAhead { .. }));
        if is_ahead != is_refused {
            return self.broken("C-DRIFT", || {
                format!(
                    "replica {replica} held {}, its clock read {wall} ms, and {stamp} was {said}",
                    show(held)
                )
            });
        }
        if is_refused {
            return;
        }
        let expected = match held {
            Some(held) if held > stamp => Ack::Superseded { by: held.version },
            _ => {
                state.holds[key] = Some(stamp);
                Ack::Applied
            }
        };
        if *response != Response::Ack(expected) {
            self.broken("a superseded write says so", || {
                format!(
                    "replica {replica} held {}, was sent {stamp}, and answers {response:?}",
                    show(held)
                )
            });
        }
        self.taken_in(replica, key, stamp, expected);
    }

    fn taken_in(&mut self, replica: usize, key: usize, stamp: Stamp, ack: Ack) {
        let bit = 1 << replica;
        let Some(origin) = self.keys[key].origins.get(&stamp) else {
            self.broken("nothing that nobody wrote", || {
                format!("replica {replica} took in {stamp}")
            });
            return;
        };
        for (op, attempt) in &origin.makers {
            let attempt = &mut self.ops[*op].attempts[*attempt];
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
