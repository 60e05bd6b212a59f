//! What clients are told of their writes: rules W-QUORUM, W-FAIL and
//! W-SUPERSEDED, and whether receipts are true.

use kvquorum_testing::linearizability::Step;

use super::*;

impl Oracle {
    pub fn wrote(&mut self, index: usize, written: &Written) {
        self.log_written(index, written.said);
        self.finish(index);
        let op = &self.ops[index];
        let settings = self.coordinators[op.coordinator].settings;
        let attempts = op.attempts.len();
        let Some(last) = op.attempts.last() else {
            return self.broken("W-ALL", || format!("#{index} was never sent"));
        };
        let (stamp, acks, w) = (last.stamp, last.acks, self.quorums.w);
        let is_unsettled = op.is_unsettled;
        if !is_unsettled
            && (written.attempts as usize != attempts || attempts > settings.attempts as usize)
        {
            self.broken("W-SUPERSEDED", || {
                format!(
                    "#{index} was stamped {attempts} times of {}, and says {}",
                    settings.attempts, written.attempts
                )
            });
        }
        if !is_unsettled {
            self.check_decided(index);
        }
        self.check_writing_parts(index, &written.parts);
        match written.said {
            Said::Acked(version, superseded_by) => {
                self.counts.acknowledged += 1;
                let Some(stamp) = stamp.filter(|stamp| stamp.version == version) else {
                    return self.broken("W-QUORUM", || {
                        format!("#{index} is acknowledged as {version}, which was not sent")
                    });
                };
                let acked = named(&written.parts);
                self.check_era(index, acked);
                let acked = acked.count_ones() as usize;
                if acked < w || acks < w {
                    self.broken("W-QUORUM", || {
                        format!("#{index} {stamp}: {acks} acks came, it names {acked}")
                    });
                }
                self.ops[index].is_acked = true;
                self.acknowledged(index, stamp, superseded_by, &written.parts);
            }
            Said::NotApplied | Said::MaybeApplied => self.write_failed(index, written.said),
            Said::Superseded(by) => {
                self.counts.superseded += 1;
                let early = (attempts as u32) < settings.attempts;
                let in_vain = 2 * w > self.quorums.n && self.ops[index].is_past();
                let version = stamp.map(|stamp| stamp.version);
                if !is_unsettled && (acks < w || Some(by) < version || early || in_vain) {
                    self.broken("W-SUPERSEDED", || {
                        let sent = show(stamp);
                        format!("#{index} {sent} gave up after {attempts} attempts, {acks} acks")
                    });
                }
            }
            Said::ClockExhausted => {
                self.broken("C-MONOTONIC", || format!("#{index} found no timestamp"));
            }
        }
    }

    fn log_written(&mut self, index: usize, said: Said) {
        let (code, version, words) = match said {
            Said::Acked(version, _) => (0, Some(version), "acknowledged"),
            Said::NotApplied => (1, None, "not applied"),
            Said::MaybeApplied => (2, None, "maybe applied"),
            Said::Superseded(by) => (3, Some(by), "superseded"),
            Said::ClockExhausted => (4, None, "no clock"),
        };
        let bits = version.map_or(0, |version| version.timestamp.to_bits());
        let client = self.ops[index].client;
        self.log(Who::Client(client), &[10, index as u64, code, bits], || {
            format!("#{index} is told: {words}")
        });
    }

    /// A write is told of when it is decided, and where it may turn out not to be
    /// applied, as long again later.
    fn check_decided(&mut self, index: usize) {
        let now = self.now();
        let Some(last) = self.ops[index].attempts.last() else {
            return;
        };
        let (acks, failed) = (last.acks, last.failed);
        match (last.decided, last.grace) {
            (Some(decided), _) if decided == now => {}
            (None, Some(grace)) if now < grace => self.broken("W-FAIL", || {
                let early = (grace - now) / 1_000;
                format!("#{index} could have turned out not applied, and failed {early} ms early")
            }),
            (None, Some(grace)) if now <= grace + TIMER_SLACK => {}
            (Some(decided), _) | (None, Some(decided)) => self.broken("W-QUORUM, W-FAIL", || {
                let late = (now - decided) / 1_000;
                format!("#{index} was decided, and told so {late} ms later")
            }),
            (None, None) => self.broken("W-QUORUM", || {
                format!("#{index} was decided with {acks} acks and {failed} failures")
            }),
        }
    }

    fn write_failed(&mut self, index: usize, said: Said) {
        self.counts.failed += 1;
        let Quorums { n, w, .. } = self.quorums;
        let op = &self.ops[index];
        let Some(last) = op.attempts.last().filter(|_| !op.is_unsettled) else {
            if said == Said::NotApplied {
                self.not_applied(index);
            }
            return;
        };
        let (acks, failed) = (last.acks, last.failed);
        let is_promised = last.promised.is_some();
        let most = self.coordinators[op.coordinator].settings.attempts as usize;
        let may_go_on = op.attempts.len() < most;
        let is_nowhere = op.attempts.iter().all(|attempt| attempt.is_nowhere(n));
        if acks >= w || failed <= n - w {
            self.broken("W-FAIL", || {
                format!("#{index} failed with {acks} acks and {failed} failures")
            });
        }
        if self.failed_ahead(index) && may_go_on {
            self.broken("one leap of a clock does not end writing", || {
                format!("#{index} was refused as too far ahead, and not stamped again")
            });
        }
        if is_promised && may_go_on {
            self.broken("L-PROMISE", || {
                format!("#{index} was refused for a promise, and not stamped again")
            });
        }
        if said == Said::NotApplied {
            self.not_applied(index);
        } else if is_nowhere {
            self.broken("W-FAIL", || {
                format!("#{index} says maybe applied, and no replica took it")
            });
        }
    }

    pub(super) fn acknowledged(
        &mut self,
        index: usize,
        stamp: Stamp,
        superseded_by: Option<Version>,
        parts: &[Part],
    ) {
        let Quorums { n, w, .. } = self.quorums;
        let op = &self.ops[index];
        let key = op.key;
        let told = parts.iter().filter_map(|part| match part {
            Part::Superseded(by) => Some(*by),
            _ => None,
        });
        // Only what was stamped past all that was acknowledged before may be.
        let may_be = 2 * w > n && (op.is_past() || op.is_unsettled);
        self.ops[index].step = Some(Step::Write(stamp.value()));
        if told.max() != superseded_by || (superseded_by.is_some() && !may_be) {
            self.broken("W-SUPERSEDED", || {
                format!("#{index} {stamp} is acknowledged, and superseded by {superseded_by:?}")
            });
        }
        if 2 * w > n
            && self.keeps_promises()
            && let Some(floor) = self.floor_of(index, w)
            && stamp <= floor
        {
            self.broken("an acknowledged write is greater than all before", || {
                format!("#{index} {stamp} is acknowledged after {floor} was")
            });
        }
        let named = named(parts);
        let is_named = |replica: &usize| named & (1 << replica) != 0;
        // What is lost since is copied, where a loss is known.
        let holds = |replica: &usize| self.knows_losses || self.covers(*replica, key, stamp);
        let holders = (0..n).filter(|replica| is_named(replica) && holds(replica));
        let holders = holders.fold(0, |holders, replica| holders | 1 << replica);
        self.oblige(key, stamp, holders);
    }

    pub(super) fn not_applied(&mut self, index: usize) {
        let op = &mut self.ops[index];
        if std::mem::replace(&mut op.denied, true) {
            return;
        }
        let key = op.key;
        for attempt in 0..self.ops[index].attempts.len() {
            let Attempt { stamp, applied, .. } = self.ops[index].attempts[attempt];
            let Some(stamp) = stamp else { continue };
            let Some(origin) = self.keys[key].origins.get_mut(&stamp) else {
                continue;
            };
            origin.denied += 1;
            if origin.is_forbidden() && applied != 0 {
                self.broken("a write that was not applied is never seen", || {
                    format!("#{index} {stamp} is held by replicas {applied:#b}")
                });
            }
        }
    }

    /// Later news of a write that was told of before.
    pub fn settled(&mut self, index: usize, written: &Written) {
        let code = written.said == Said::NotApplied;
        let numbers = [11, index as u64, u64::from(code)];
        self.log(Who::Client(self.ops[index].client), &numbers, || {
            format!("#{index} has settled")
        });
        if written.parts.contains(&Part::Pending) {
            self.broken("receipts are true", || {
                format!("#{index} has settled, and a replica is pending")
            });
        }
        self.check_writing_parts(index, &written.parts);
        if written.said == Said::NotApplied {
            self.not_applied(index);
        }
    }

    pub(super) fn check_writing_parts(&mut self, index: usize, parts: &[Part]) {
        let Some(last) = self.ops[index].attempts.last() else {
            return;
        };
        let (stamp, applied, superseded) = (last.stamp, last.applied, last.superseded);
        for (replica, part) in parts.iter().enumerate() {
            let acked = match part {
                Part::Applied => applied,
                Part::Superseded(_) => superseded,
                _ => continue,
            };
            if acked & (1 << replica) == 0 {
                self.broken("receipts are true", || {
                    format!("#{index}: replica {replica} is named as {part:?}, and was not")
                });
            }
            if let Some(stamp) = stamp {
                self.check_holds(index, replica, stamp);
            }
        }
    }

    /// A replica that is named as a holder holds the entry or a greater one.
    pub(super) fn check_holds(&mut self, index: usize, replica: usize, stamp: Stamp) {
        let op = &self.ops[index];
        let state = &self.replicas[replica];
        let lost = op.losses[replica] != state.losses;
        let held = Held::of((state.look)(&key(op.key)).as_ref()).entry;
        if !lost && held < Some(stamp) && !self.is_collected(op.key, stamp) {
            self.broken("receipts are true", || {
                format!(
                    "#{index}: replica {replica} is named as a holder of {stamp}, and holds {}",
                    show(held)
                )
            });
        }
    }
}

/// The replicas that are named as having acked, as a set of bits.
fn named(parts: &[Part]) -> u32 {
    let named = parts.iter().enumerate().filter(|(_, part)| part.is_ack());
    named.fold(0, |named, (replica, _)| named | 1 << replica)
}
