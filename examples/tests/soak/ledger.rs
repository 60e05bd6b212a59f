//! What clients know of the map: what was acknowledged, and so has to be found.

use std::sync::Mutex;

use kvquorum_core::Version;

/// Keys of plain operations. A deleted one leaves a tombstone until that is collected, and
/// so what replicas hold is bounded by how many there are.
pub const KEYS: usize = 3000;

pub struct Ledger {
    keys: Vec<Mutex<Known>>,
    counters: Vec<Mutex<Counter>>,
}

/// What is known of one key.
#[derive(Clone, Copy, Default)]
pub struct Known {
    /// The greatest version that was acknowledged, and what it is of: the number of a
    /// value, or none for a tombstone.
    pub acked: Option<(Version, Option<u64>)>,
    /// How many writes have begun.
    begun: u64,
    /// How many of them were acknowledged.
    ended: u64,
    /// How many deletes have begun.
    deletes: u64,
}

impl Known {
    pub fn version(&self) -> Option<Version> {
        self.acked.map(|(version, _)| version)
    }

    pub fn number(&self) -> Option<u64> {
        self.acked.and_then(|(_, number)| number)
    }

    /// Whether nobody wrote the key from when this was known until that was.
    pub fn is_the_same(&self, later: &Self) -> bool {
        self.begun == self.ended && self.begun == later.begun
    }

    /// Whether it can have been deleted when nothing was found under it: then its
    /// tombstone may be collected.
    fn can_be_collected(&self, later: &Self) -> bool {
        self.acked.is_some() && self.number().is_none() || self.deletes < later.deletes
    }
}

/// What is known of one counter.
#[derive(Clone, Copy, Default)]
pub struct Counter {
    /// The greatest version that an operation returned.
    pub version: Option<Version>,
    /// How many increments have begun.
    pub begun: u64,
    pub acked: u64,
    pub maybe_applied: u64,
}

impl Ledger {
    pub fn new(counters: usize) -> Self {
        Self {
            keys: (0..KEYS).map(|_| Mutex::default()).collect(),
            counters: (0..counters).map(|_| Mutex::default()).collect(),
        }
    }

    pub fn keys(&self) -> Vec<Known> {
        (0..KEYS).map(|key| self.key(key)).collect()
    }

    pub fn key(&self, key: usize) -> Known {
        *self.keys[key].lock().unwrap()
    }

    /// A write begins. Returns what was known before.
    pub fn begin(&self, key: usize, is_delete: bool) -> Known {
        let mut known = self.keys[key].lock().unwrap();
        let before = *known;
        known.begun += 1;
        known.deletes += u64::from(is_delete);
        before
    }

    pub fn acked(&self, key: usize, version: Version, number: Option<u64>) {
        let mut known = self.keys[key].lock().unwrap();
        known.ended += 1;
        known.acked = known.acked.max(Some((version, number)));
    }

    pub fn counter(&self, counter: usize) -> Counter {
        *self.counters[counter].lock().unwrap()
    }

    pub fn counters(&self) -> usize {
        self.counters.len()
    }

    pub fn change(&self, counter: usize, change: impl FnOnce(&mut Counter)) {
        change(&mut self.counters[counter].lock().unwrap());
    }
}

/// What a read, or a replica, has to hold: at least what was acknowledged `before`; that
/// alone if nobody wrote until `after`, be it under the version that a pass gave it to
/// settle what replicas hold; and under a version that is known, its value. A delete may be
/// collected, and so have left nothing behind: then whatever is found under the key is
/// greater.
pub fn check(
    before: &Known,
    after: &Known,
    version: Option<Version>,
    number: Option<u64>,
) -> Result<(), String> {
    if version.is_none() && before.can_be_collected(after) {
        return Ok(());
    }
    let is_quiet = before.is_the_same(after);
    let is_another = version != before.version() && number != before.number();
    let is_late = version < before.version() || is_quiet && is_another;
    let is_other = [before, after]
        .iter()
        .any(|it| it.version() == version && it.number() != number);
    match is_late || is_other {
        true => Err(format!(
            "found {number:?} under {version:?}; acknowledged were {:?} before and {:?} after",
            before.acked, after.acked
        )),
        false => Ok(()),
    }
}

pub fn name(key: usize) -> String {
    format!("key {key:04}")
}

/// A value of about a hundred bytes, which says under which key it is.
pub fn value(key: usize, number: u64) -> String {
    format!("{key:04} {number:<90}.")
}

/// The number of a value; or what is wrong with it.
pub fn number(key: usize, value: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(value);
    let found = text
        .get(5..95)
        .and_then(|number| number.trim_end().parse().ok());
    match found {
        Some(number) if text == self::value(key, number) => Ok(number),
        _ => Err(format!("{} holds {text}", name(key))),
    }
}
