//! The deciding logic of a list: which replicas lack what. Plain values, which send
//! nothing and wait for nothing.

use std::collections::BTreeMap;

use crate::entry::{Key, Version};
use crate::fingerprint::Versions;

/// What each replica told of one key: its version and hash, where it has one.
pub(super) type Held<const N: usize> = [Option<(Version, u128)>; N];

/// What some replicas hold, merged as far as all of them told.
#[derive(Debug)]
pub(super) struct Listed<const N: usize> {
    /// How far they go: the end of the range is `None`.
    pub(super) upto: Option<Key>,
    pub(super) held: BTreeMap<Key, Held<N>>,
}

impl<const N: usize> Listed<N> {
    pub(super) fn merge(answers: Vec<(usize, Versions)>) -> Self {
        let ends = answers.iter().filter_map(|(_, told)| told.upto.as_ref());
        let upto = ends.min().cloned();
        let mut held = BTreeMap::<Key, Held<N>>::new();
        for (replica, told) in answers {
            for it in told.versions {
                if upto.as_ref().is_some_and(|upto| it.key >= *upto) {
                    break;
                }
                if let Some(slot) = held.entry(it.key).or_insert([None; N]).get_mut(replica) {
                    *slot = Some((it.version, it.hash));
                }
            }
        }
        Self { upto, held }
    }
}

/// A key that replicas hold unlike entries of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unlike<const N: usize> {
    pub(super) key: Key,
    pub(super) held: Held<N>,
    /// Who told of the greatest version.
    pub(super) sources: Vec<usize>,
}

impl<const N: usize> Unlike<N> {
    /// `None` where these replicas hold the same.
    pub(super) fn of(key: &Key, held: &Held<N>, replicas: &[usize]) -> Option<Self> {
        let told = |replica: &usize| held.get(*replica).copied().flatten();
        let first = told(replicas.first()?);
        if replicas.iter().all(|replica| told(replica) == first) {
            return None;
        }
        let version = |replica: &usize| told(replica).map(|(version, _)| version);
        let greatest = replicas.iter().filter_map(version).max();
        let is_source = |replica: &&usize| version(replica) == greatest;
        Some(Self {
            key: key.clone(),
            held: *held,
            sources: replicas.iter().filter(is_source).copied().collect(),
        })
    }

    /// Where to read it, when all who told of the greatest version hold the same.
    pub(super) fn only_source(&self) -> Option<usize> {
        let source = *self.sources.first()?;
        let hash = self.hash(source);
        let is_same = |it: &usize| self.hash(*it) == hash;
        self.sources.iter().all(is_same).then_some(source)
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
