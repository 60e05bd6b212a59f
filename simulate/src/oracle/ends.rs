//! What is left when all is over.

use super::*;

impl Oracle {
    /// Nothing is under way any more, and what was given up was counted.
    pub fn check_quiet(&mut self, coordinator: usize, stats: &[ReplicaStats]) {
        let state = &self.coordinators[coordinator];
        let under_way = state.under_way;
        let in_background: usize = stats.iter().map(|stats| stats.in_background).sum();
        if under_way > 0 || in_background > 0 {
            self.broken("bound on background work", || {
                format!(
                    "coordinator {coordinator} has {under_way} calls under way, and says \
                     {in_background}, long after the last operation"
                )
            });
        }
        for (replica, stats) in stats.iter().enumerate() {
            let state = &self.coordinators[coordinator];
            let (given_up, counted) = (state.given_up[replica], stats.given_up);
            let (panicked, caught) = (state.panicked[replica], stats.panicked);
            // Of two calls whose time is over at once, the end of the first can
            // decide the operation, and the second is given up.
            let possible = given_up + state.timed_out[replica] + state.perhaps_given_up[replica];
            if counted < given_up || counted > possible {
                self.broken("W-FINISH", || {
                    format!(
                        "coordinator {coordinator} gave up {given_up} calls to replica {replica}, \
                         and counted {counted}"
                    )
                });
            }
            if panicked != caught {
                self.broken("a panic stays where it happened", || {
                    format!(
                        "{panicked} calls of coordinator {coordinator} to replica {replica} \
                         panicked, and it counted {caught}"
                    )
                });
            }
        }
        if self.introduced.is_some() {
            self.broken("W-ALL", || "a replica introduced itself in vain".into());
        }
    }

    /// All replicas agree, and hold what they have acked and not lost since.
    pub fn check_converged(&mut self) {
        for index in 0..self.keys.len() {
            let name = key(index);
            let held: Vec<_> = self
                .replicas
                .iter()
                .map(|replica| Held::of((replica.look)(&name).as_ref()))
                .collect();
            // What counts no more anywhere may be gone from some.
            let marks = self.replicas.iter().map(|it| it.floors.collected);
            let collected = marks.max().unwrap_or_default();
            let first = held[0].counting(collected).entry;
            let is_other = |held: &Held| held.counting(collected).entry != first;
            if held.iter().any(is_other) {
                self.broken("all replicas converge", || {
                    let held: Vec<_> = held.iter().map(Held::to_string).collect();
                    format!("under k{index} they hold {}", held.join("; "))
                });
            }
            for (replica, held) in held.into_iter().enumerate() {
                let acked = self.replicas[replica].holds[index];
                if held != acked && !self.looks_away {
                    self.broken("an ack is true", || {
                        format!("replica {replica} has acked {acked} and holds {held} at last")
                    });
                }
            }
        }
    }

    /// The latest time that any clock reads or any entry bears.
    pub fn latest_millis(&self) -> u64 {
        let clocks = self.world.clocks().iter().map(Clock::now_millis).max();
        let keys = self.keys.iter().flat_map(|key| key.origins.keys());
        let stamps = keys.map(|stamp| stamp.version.timestamp.millis()).max();
        let given_out = self.versions.iter();
        let given_out = given_out.map(|version| version.timestamp.millis()).max();
        clocks.max(stamps).max(given_out).unwrap_or(0)
    }
}
