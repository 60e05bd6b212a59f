//! The deciding logic of a comparison: what the windows of several replicas say
//! together. Plain values, which send nothing and wait for nothing.

use crate::entry::Key;
use crate::fingerprint::{Fingerprint, Windows};
use crate::range::KeyRange;

/// What a replica holds up to a key, or up to the end of the range, from where the one
/// before ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) upto: Option<Key>,
    pub(super) fingerprint: Fingerprint,
}

impl Part {
    /// What windows of a range say, if they can be such.
    pub(super) fn all(windows: Windows, range: &KeyRange, cuts: &[Key]) -> Option<Vec<Self>> {
        let ends = windows.ends(range, cuts)?.into_iter();
        let all = ends.zip(windows.windows).map(|(upto, window)| Self {
            upto,
            fingerprint: window.fingerprint,
        });
        Some(all.collect())
    }
}

/// A part of a range that all replicas have told of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Compared {
    pub(super) range: KeyRange,
    /// Whether all hold the same there.
    pub(super) is_equal: bool,
    /// The least and the most entries that a replica holds there. Where a replica's
    /// windows end elsewhere, as many as it may be.
    pub(super) least: u64,
    pub(super) most: u64,
    /// A replica that holds the most.
    pub(super) largest: usize,
}

/// Compares what replicas hold in a range, as far as all of them told, and between
/// the ends of the first one's windows. Where one of them told less, that is an end,
/// too.
pub(super) fn compare(range: &KeyRange, answers: &[(usize, Vec<Part>)]) -> Vec<Compared> {
    let ends = answers.iter().filter_map(|(_, told)| told.last());
    let frontier = ends.map(|last| Upto::of(&last.upto)).min();
    let (Some(frontier), Some((_, first))) = (frontier, answers.first()) else {
        return Vec::new();
    };
    let cuts = first.iter().map(|it| Upto::of(&it.upto));
    let cuts = cuts.filter(|cut| *cut < frontier).chain([frontier]);
    let mut told: Vec<_> = answers
        .iter()
        .map(|(replica, told)| (*replica, told.iter()))
        .collect();
    let mut rest = range.clone();
    let mut compared = Vec::new();
    for cut in cuts {
        let parts: Vec<(usize, Fingerprint)> = told
            .iter_mut()
            .map(|(replica, told)| (*replica, take(told, cut)))
            .collect();
        compared.push(together(rest.before(cut.key()), &parts));
        if let Some(cut) = cut.key() {
            rest = rest.starting_at(cut.clone());
        }
    }
    compared
}

fn together(range: KeyRange, parts: &[(usize, Fingerprint)]) -> Compared {
    let counts = || parts.iter().map(|(_, part)| part.count);
    let first = parts.first().map(|(_, part)| *part);
    let most = parts.iter().max_by_key(|(_, part)| part.count);
    Compared {
        range,
        is_equal: parts.iter().all(|(_, part)| Some(*part) == first),
        least: counts().min().unwrap_or(0),
        most: counts().max().unwrap_or(0),
        largest: most.map_or(0, |(replica, _)| *replica),
    }
}

/// The end of a window. The end of the range comes after every key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Upto<'a> {
    Key(&'a Key),
    End,
}

impl<'a> Upto<'a> {
    fn of(upto: &'a Option<Key>) -> Self {
        upto.as_ref().map_or(Self::End, Self::Key)
    }

    fn key(self) -> Option<&'a Key> {
        match self {
            Self::Key(key) => Some(key),
            Self::End => None,
        }
    }
}

/// What a replica holds up to a cut. A window that goes on beyond the cut counts as a
/// whole, here and in what follows: where all of it equals what another holds in the
/// part alone, so does what is in the part, and there is nothing else in it.
fn take(told: &mut std::slice::Iter<'_, Part>, cut: Upto<'_>) -> Fingerprint {
    let mut part = Fingerprint::default();
    while let Some(window) = told.as_slice().first() {
        part = part.and(window.fingerprint);
        let upto = Upto::of(&window.upto);
        if upto <= cut {
            told.next();
        }
        if upto >= cut {
            break;
        }
    }
    part
}

#[cfg(test)]
mod tests;
