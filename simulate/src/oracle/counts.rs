//! How much happened.

use std::collections::HashMap;

#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub operations: u64,
    pub acknowledged: u64,
    pub read: u64,
    pub failed: u64,
    pub superseded: u64,
    pub callers_left: u64,
    pub calls: u64,
    pub at_once: u64,
    pub without_answer: u64,
    pub refused: u64,
    pub repairs: u64,
    pub restamped: u64,
    /// Operations on registers that came to their end, and how many ballots it took.
    pub registers: u64,
    pub ballots: u64,
    pub in_doubt: u64,
    /// Pages of scans, and the keys on them.
    pub pages: u64,
    pub scanned: u64,
    /// Rejoins that succeeded, and records copied for them.
    pub rejoined: u64,
    pub copied: u64,
    /// Passes that were complete, what they repaired, and hints that were delivered.
    pub passes: u64,
    pub repaired: u64,
    pub delivered: u64,
    /// Rounds of collection that succeeded, tombstones that were collected at a replica,
    /// and records that were swept.
    pub rounds: u64,
    pub collected: u64,
    pub swept: u64,
    /// Puts of values that expire, how often one was hidden from a reader, and how many were
    /// deleted.
    pub expiring: u64,
    pub hidden: u64,
    pub expired: u64,
    pub faults: HashMap<&'static str, u64>,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.read += other.read;
        self.failed += other.failed;
        self.superseded += other.superseded;
        self.callers_left += other.callers_left;
        self.calls += other.calls;
        self.at_once += other.at_once;
        self.without_answer += other.without_answer;
        self.refused += other.refused;
        self.repairs += other.repairs;
        self.restamped += other.restamped;
        self.registers += other.registers;
        self.ballots += other.ballots;
        self.in_doubt += other.in_doubt;
        self.pages += other.pages;
        self.scanned += other.scanned;
        self.rejoined += other.rejoined;
        self.copied += other.copied;
        self.passes += other.passes;
        self.repaired += other.repaired;
        self.delivered += other.delivered;
        self.rounds += other.rounds;
        self.collected += other.collected;
        self.swept += other.swept;
        self.expiring += other.expiring;
        self.hidden += other.hidden;
        self.expired += other.expired;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}
