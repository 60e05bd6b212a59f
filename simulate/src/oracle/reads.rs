//! What clients are told of their reads: rules R-QUORUM and R-FAIL, and that
//! they find what was acknowledged, and never go back.

use super::collected::{Answer, combined, possible};
use super::*;

pub(super) const NEVER_BACK: &str = "no get goes back when repair is blocking";

impl Oracle {
    pub fn read(&mut self, index: usize, read: &Read) {
        let client = self.ops[index].client;
        let (code, entry) = match &read.found {
            Found::Entry(entry) => (0, entry.as_ref()),
            Found::Failed => (1, None),
            Found::NotRepaired(entry) => (2, entry.as_ref()),
        };
        let told = entry.map(Stamp::of);
        let [a, b, c] = Stamp::numbers(told);
        self.log(
            Who::Client(client),
            &[12, index as u64, code, a, b, c],
            || {
                let said = ["finds", "fails", "finds, but cannot repair,"];
                format!("#{index} {} {}", said[code as usize], show(told))
            },
        );
        self.finish(index);
        let stamp = self.found_by_get(index, told);
        self.check_read(index, code == 1, stamp);
        if code == 1 {
            self.counts.failed += 1;
            return;
        }
        self.counts.read += 1;
        self.check_found(index, stamp);
        self.check_reading_parts(index, &read.parts);
        let op = &self.ops[index];
        if code == 0
            && self.coordinators[op.coordinator].settings.blocking
            && let Some(stamp) = stamp
        {
            self.held_back(NEVER_BACK, index, op.key, stamp);
        }
    }

    /// R-QUORUM and R-FAIL: when a read is decided, and how.
    fn check_read(&mut self, index: usize, has_failed: bool, stamp: Option<Stamp>) {
        let (now, Quorums { n, r, .. }) = (self.now(), self.quorums);
        let op = &self.ops[index];
        let reading = &op.reading;
        if !has_failed && !reading.answered_in.have(r, 0) {
            self.broken("J-ERA", || {
                format!("#{index} counts answers of several eras together")
            });
        }
        let op = &self.ops[index];
        if op.is_unsettled {
            return;
        }
        let reading = &op.reading;
        let (answered, failed, decided) = (reading.answered, reading.failed, reading.decided);
        let possible = possible(&reading.answers, r);
        let is_blocking = self.coordinators[op.coordinator].settings.blocking;
        let waits = is_blocking && !has_failed && stamp.is_some();
        match decided {
            None => self.broken("R-QUORUM", || {
                format!("#{index} was decided with {answered} answers and {failed} failures")
            }),
            Some(decided) if decided < now && !waits => self.broken("R-QUORUM, R-FAIL", || {
                let late = (now - decided) / 1_000;
                format!("#{index} was decided, and told so {late} ms later")
            }),
            _ => {}
        }
        if has_failed && (answered >= r || failed <= n - r) {
            self.broken("R-FAIL", || {
                format!("#{index} failed with {answered} answers and {failed} failures")
            });
        }
        let is_possible = possible.iter().any(|possible| possible.stamp == stamp);
        if !has_failed && (answered < r || !is_possible) {
            self.broken("R-QUORUM, G-VOID", || {
                format!(
                    "#{index} finds {} in {answered} answers, which say {}",
                    show(stamp),
                    show(possible.first().and_then(|possible| possible.stamp))
                )
            });
        }
    }

    fn check_found(&mut self, index: usize, stamp: Option<Stamp>) {
        let Quorums { n, w, r } = self.quorums;
        let key = self.ops[index].key;
        if let Some(stamp) = stamp {
            match self.keys[key].origins.get(&stamp) {
                None => self.broken("nothing that nobody wrote", || {
                    format!("#{index} finds {stamp}")
                }),
                Some(origin) if origin.is_forbidden() => {
                    self.broken("a write that was not applied is never seen", || {
                        format!("#{index} finds {stamp}")
                    });
                }
                Some(_) => {}
            }
            self.observed(index, stamp);
            self.keys[key].seen = stamp.value();
        }
        self.check_dead(index, key, stamp);
        let collected = combined(&self.ops[index].reading.answers).collected;
        let found = Answer { collected, stamp };
        if r + w > n
            && self.keeps_promises()
            && let Some(floor) = self.floor_of(index, r)
            && !self.keys[key].reaches(found, Some(floor))
        {
            self.broken("a get finds what was acknowledged", || {
                format!(
                    "#{index} finds {}, collected up to {collected}, after {floor} was acknowledged",
                    show(stamp)
                )
            });
        }
    }

    fn check_reading_parts(&mut self, index: usize, parts: &[Part]) {
        let key = self.ops[index].key;
        for (replica, part) in parts.iter().enumerate() {
            let Part::Holds(Some(version)) = part else {
                continue;
            };
            let state = &self.replicas[replica];
            let holds = state.holds[key].entry.map(|stamp| stamp.version);
            let mut known = self.keys[key].origins.keys();
            let is_collected =
                known.any(|it| it.version == *version && self.covers(replica, key, *it));
            let lost = self.ops[index].losses[replica] != state.losses;
            if !lost && holds < Some(*version) && !is_collected {
                self.broken("receipts are true", || {
                    format!("#{index}: replica {replica} is said to hold {version}")
                });
            }
        }
    }

    /// What is returned once W replicas hold it: reads after it must not go back.
    pub(super) fn held_back(
        &mut self,
        promise: &'static str,
        index: usize,
        key: usize,
        stamp: Stamp,
    ) {
        let losses = &self.ops[index].losses;
        let (mut holders, mut unknown) = (0_u32, 0_u32);
        for (number, (replica, losses)) in self.replicas.iter().zip(losses).enumerate() {
            if self.covers(number, key, stamp) {
                holders |= 1 << number;
            } else if replica.losses != *losses {
                unknown |= 1 << number;
            }
        }
        let all: u32 = holders | unknown;
        if (all.count_ones() as usize) < self.quorums.w && self.keeps_promises() {
            self.broken(promise, || {
                format!("#{index} returns {stamp}, which only replicas {holders:#b} hold")
            });
        }
        // What is lost since is copied, where a loss is known.
        let holders = if self.knows_losses { all } else { holders };
        self.oblige(key, stamp, holders);
    }
}
