//! The deciding logic of a list: which replicas lack what. Plain values, which send
//! nothing and wait for nothing.

use std::collections::BTreeMap;

use crate::entry::{Key, Timestamp, Version};
use crate::fingerprint::Versions;

/// What each replica told of one key: its version and hash, where it has one.
pub(super) type Held<const N: usize> = [Option<(Version, u128)>; N];

/// What some replicas hold, merged as far as all of them told.
#[derive(Debug)]
pub(super) struct Listed<const N: usize> {
    /// How far they go: the end of the range is `None`.
    pub(super) upto: Option<Key>,
    pub(super) held: BTreeMap<Key, Held<N>>,
    /// The mark of each.
    pub(super) marks: [Timestamp; N],
}

impl<const N: usize> Listed<N> {
    pub(super) fn merge(answers: Vec<(usize, Versions)>) -> Self {
        let ends = answers.iter().filter_map(|(_, told)| told.upto.as_ref());
        let upto = ends.min().cloned();
        let mut held = BTreeMap::<Key, Held<N>>::new();
        let mut marks = [Timestamp::MIN; N];
        for (replica, told) in answers {
            if let Some(mark) = marks.get_mut(replica) {
                *mark = told.collected;
            }
            for it in told.versions {
                if upto.as_ref().is_some_and(|upto| it.key >= *upto) {
                    break;
                }
                if let Some(slot) = held.entry(it.key).or_insert([None; N]).get_mut(replica) {
                    *slot = Some((it.version, it.hash));
                }
            }
        }
        Self { upto, held, marks }
    }
}

/// A key that replicas hold unlike entries of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unlike<const N: usize> {
    pub(super) key: Key,
    pub(super) held: Held<N>,
    /// Who told of the greatest version that counts; nobody where none does.
    pub(super) sources: Vec<usize>,
    /// Whether one holds what does not count, and no repair can get past it.
    pub(super) is_void: bool,
    /// The greatest mark: what is from before it counts only where a replica of it holds it.
    pub(super) mark: Timestamp,
}

impl<const N: usize> Unlike<N> {
    /// `None` where these replicas hold the same. What counts is told by their marks
    /// (rule G-VOID).
    pub(super) fn of(
        key: &Key,
        held: &Held<N>,
        marks: &[Timestamp; N],
        replicas: &[usize],
    ) -> Option<Self> {
        let told = |replica: &usize| held.get(*replica).copied().flatten();
        let first = told(replicas.first()?);
        if replicas.iter().all(|replica| told(replica) == first) {
            return None;
        }
        let mark = |replica: &usize| marks.get(*replica).copied();
        let greatest_mark = replicas.iter().filter_map(mark).max();
        let version = |replica: &usize| told(replica).map(|(version, _)| version);
        let counts = |replica: &usize| {
            let timestamp = version(replica).map(|version| version.timestamp);
            mark(replica) == greatest_mark || timestamp >= greatest_mark
        };
        let counting = || replicas.iter().filter(|replica| counts(replica));
        let greatest = counting().filter_map(version).max();
        let is_source = |replica: &&usize| greatest.is_some() && version(replica) == greatest;
        Some(Self {
            key: key.clone(),
            held: *held,
            sources: counting().filter(is_source).copied().collect(),
            is_void: replicas.iter().any(|replica| version(replica) > greatest),
            mark: greatest_mark.unwrap_or_default(),
        })
    }

    /// Where to read it, when all who told of the greatest version hold the same.
    pub(super) fn only_source(&self) -> Option<usize> {
        let source = *self.sources.first()?;
        let hash = self.hash(source);
        let is_same = |it: &usize| self.hash(*it) == hash;
        self.sources.iter().all(is_same).then_some(source)
    }

    /// The greatest version that any told of, whether it counts or not.
    pub(super) fn greatest(&self) -> Option<Version> {
        let told = self.held.iter().flatten();
        told.map(|(version, _)| *version).max()
    }

    /// The hash of what a replica told of.
    pub(super) fn hash(&self, replica: usize) -> Option<u128> {
        let (_, hash) = self.held.get(replica).copied().flatten()?;
        Some(hash)
    }

    /// The version that a replica told of.
    pub(super) fn version(&self, replica: usize) -> Option<Version> {
        let (version, _) = self.held.get(replica).copied().flatten()?;
        Some(version)
    }
}

#[cfg(test)]
mod tests;
