//! Passes and hints: rules P-CONVERGE and H-KEY.

use kvquorum_core::{HintStats, PassReport};

use super::collected::{self, combined};
use super::*;

impl Oracle {
    /// A pass begins, or goes on from where another was cut.
    pub fn pass_begins(&mut self, index: usize, before: Option<usize>) {
        let (snapshot, losses) = match before {
            Some(before) => {
                let before = &self.ops[before];
                (before.snapshot.clone(), before.losses.clone())
            }
            None => {
                let held = |key: usize| {
                    let replicas = self.replicas.iter();
                    replicas
                        .map(|it| collected::Answer::held(it, key))
                        .collect()
                };
                let snapshot = (0..self.keys.len()).map(held).collect();
                (snapshot, self.ops[index].losses.clone())
            }
        };
        let op = &mut self.ops[index];
        (op.snapshot, op.losses) = (snapshot, losses);
    }

    /// P-CONVERGE: where a pass is complete, each replica holds at least what any held
    /// that counted when it began, of those that have not lost their data since; or nothing,
    /// where that has been deleted and collected by any (G-VOID).
    pub fn passed(&mut self, index: usize, report: &PassReport) {
        let is_complete = report.is_complete();
        let repaired: u64 = report.replicas.iter().map(|it| it.repaired).sum();
        let numbers = [23, index as u64, u64::from(is_complete), repaired];
        self.log(Who::Client(self.ops[index].client), &numbers, || {
            let how = if is_complete { "is complete" } else { "ends" };
            format!("#{index} {how}, and has repaired {repaired} entries")
        });
        self.finish(index);
        if !is_complete {
            return;
        }
        self.counts.passes += 1;
        self.counts.repaired += repaired;
        let op = &self.ops[index];
        let sound: Vec<usize> = (0..self.quorums.n)
            .filter(|replica| self.replicas[*replica].losses == op.losses[*replica])
            .collect();
        let behind = op.snapshot.iter().enumerate().find_map(|(key, then)| {
            let then: Vec<_> = sound.iter().map(|replica| then[*replica]).collect();
            let then = combined(&then).stamp?;
            if self.is_collected(key, then) {
                return None;
            }
            let mut sound = sound.iter();
            let behind = sound.find(|replica| !self.covers(**replica, key, then))?;
            Some((*behind, key, then))
        });
        if let Some((replica, key, then)) = behind {
            let held = self.replicas[replica].holds[key];
            self.broken("P-CONVERGE", || {
                format!(
                    "#{index} is complete, {then} was there, and replica {replica} holds {held}"
                )
            });
        }
    }

    /// H-KEY and H-OVERFLOW, once all has been calm for long: nothing is left to be
    /// delivered, and what was acknowledged by a coordinator that keeps hints is
    /// everywhere.
    pub fn check_hints(&mut self, coordinator: usize, hints: &[HintStats]) {
        let left = |hints: &&HintStats| hints.waiting > 0 || hints.is_pass_due;
        if let Some(hints) = hints.iter().find(left) {
            return self.broken("H-KEY", || {
                format!("coordinator {coordinator} never delivers what it is to: {hints:?}")
            });
        }
        self.counts.delivered += hints.iter().map(|hints| hints.delivered).sum::<u64>();
        let Quorums { n, w, r } = self.quorums;
        let is_dropped = hints.iter().any(|hints| hints.dropped > 0);
        if self.coordinators[coordinator].hint_refused
            || is_dropped
            || r + w <= n
            || !self.keeps_promises()
        {
            return;
        }
        let is_its = |op: &&Op| op.coordinator == coordinator && op.kind.is_plain_write();
        let acked = self.ops.iter().filter(is_its).filter_map(|op| {
            let stamp = op.attempts.last()?.stamp?;
            // Who refused it has missed nothing.
            (op.is_acked && !op.is_refused).then_some((op.key, stamp))
        });
        let missing = acked.into_iter().find_map(|(key, stamp)| {
            let behind = (0..n).find(|replica| !self.covers(*replica, key, stamp))?;
            Some((key, stamp, behind))
        });
        if let Some((key, stamp, replica)) = missing {
            self.broken("H-KEY", || {
                format!("{stamp} of k{key} is acknowledged, and never brought to replica {replica}")
            });
        }
    }
}
