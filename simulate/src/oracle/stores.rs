//! What stores answer: the contract of a store, and rule C-DRIFT.

use super::*;

impl Oracle {
    pub fn store_failed(&mut self, replica: usize, before: bool) {
        *self.counts.faults.entry("store failure").or_default() += 1;
        self.log(Who::Replica(replica), &[14, u64::from(before)], || {
            let when = if before { "before" } else { "after" };
            format!("the store fails {when} its work")
        });
    }

    pub fn store_got(&mut self, replica: usize, key: &Key, entry: Option<&Entry>) {
        let key = index_of(key);
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

    pub fn store_merged(&mut self, replica: usize, key: &Key, entry: &Entry, merged: Merged) {
        let key = index_of(key);
        let stamp = Stamp::of(entry);
        let bit = 1 << replica;
        let [a, b, c] = Stamp::numbers(Some(stamp));
        let code = u64::from(merged == Merged::Applied);
        self.log(
            Who::Replica(replica),
            &[3, key as u64, a, b, c, code],
            || match merged {
                Merged::Applied => format!("merge k{key} {stamp}: applied"),
                Merged::Superseded { .. } => format!("merge k{key} {stamp}: superseded"),
            },
        );
        let wall = self.replicas[replica].clock.now_millis();
        let latest = wall.saturating_add(self.max_drift.as_millis() as u64);
        if stamp.version.timestamp.millis() > latest {
            self.broken("C-DRIFT", || {
                format!("replica {replica} took in {stamp}, and its clock reads {wall} ms")
            });
        }
        let holds = &mut self.replicas[replica].holds[key];
        let before = *holds;
        let expected = if before > Some(stamp) {
            let by = before.unwrap_or(stamp).version;
            Merged::Superseded { by }
        } else {
            *holds = Some(stamp);
            Merged::Applied
        };
        if merged != expected {
            self.broken("a superseded write says so", || {
                format!(
                    "replica {replica} held {}, merged {stamp}, and answers {merged:?}",
                    show(before)
                )
            });
        }
        let Some(origin) = self.keys[key].origins.get(&stamp) else {
            self.broken("nothing that nobody wrote", || {
                format!("replica {replica} took in {stamp}")
            });
            return;
        };
        for (op, attempt) in &origin.makers {
            let attempt = &mut self.ops[*op].stamps[*attempt];
            match merged {
                Merged::Applied => attempt.applied |= bit,
                Merged::Superseded { .. } => attempt.superseded |= bit,
            }
        }
        if origin.is_forbidden() && merged == Merged::Applied {
            self.broken("a write that was not applied is never seen", || {
                format!("replica {replica} took in {stamp} afterwards")
            });
        }
    }
}
