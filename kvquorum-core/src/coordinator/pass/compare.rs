//! The deciding logic of a comparison: what the windows of several replicas say
//! together. Plain values, which send nothing and wait for nothing.

use crate::entry::Key;
use crate::fingerprint::{Fingerprint, Window, Windows};
use crate::range::KeyRange;

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
    /// The most bytes that a replica read for it.
    pub(super) bytes: u64,
}

/// Compares what replicas hold in a range, as far as all of them told, and between
/// the ends of the first one's windows. Where one of them told less, that is an end,
/// too.
pub(super) fn compare(range: &KeyRange, answers: &[(usize, Windows)]) -> Vec<Compared> {
    let ends = answers.iter().filter_map(|(_, windows)| windows.0.last());
    let frontier = ends.map(|window| Upto::of(&window.upto)).min();
    let (Some(frontier), Some((_, first))) = (frontier, answers.first()) else {
        return Vec::new();
    };
    let cuts = first.0.iter().map(|window| Upto::of(&window.upto));
    let cuts = cuts.filter(|cut| *cut < frontier).chain([frontier]);
    let mut told: Vec<_> = answers
        .iter()
        .map(|(replica, windows)| (*replica, windows.0.iter()))
        .collect();
    let mut rest = range.clone();
    let mut compared = Vec::new();
    for cut in cuts {
        let parts: Vec<(usize, Part)> = told
            .iter_mut()
            .map(|(replica, windows)| (*replica, take(windows, cut)))
            .collect();
        compared.push(together(rest.before(cut.key()), &parts));
        if let Some(cut) = cut.key() {
            rest = rest.starting_at(cut.clone());
        }
    }
    compared
}

fn together(range: KeyRange, parts: &[(usize, Part)]) -> Compared {
    let counts = || parts.iter().map(|(_, part)| part.fingerprint.count);
    let first = parts.first().map(|(_, part)| part.fingerprint);
    let is_first = |(_, part): &(usize, Part)| Some(part.fingerprint) == first;
    let most = parts.iter().max_by_key(|(_, part)| part.fingerprint.count);
    Compared {
        range,
        is_equal: parts.iter().all(is_first),
        least: counts().min().unwrap_or(0),
        most: counts().max().unwrap_or(0),
        largest: most.map_or(0, |(replica, _)| *replica),
        bytes: parts.iter().map(|(_, part)| part.bytes).max().unwrap_or(0),
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

/// What a replica holds up to a cut.
struct Part {
    fingerprint: Fingerprint,
    bytes: u64,
}

/// What a replica's windows up to a cut hold. One that goes on beyond the cut counts as a
/// whole, here and in what follows: where all of it equals what another holds in the
/// part alone, so does what is in the part, and there is nothing else in it.
fn take(windows: &mut std::slice::Iter<'_, Window>, cut: Upto<'_>) -> Part {
    let mut part = Part {
        fingerprint: Fingerprint::default(),
        bytes: 0,
    };
    while let Some(window) = windows.as_slice().first() {
        part.fingerprint = part.fingerprint.and(window.fingerprint);
        part.bytes = part.bytes.saturating_add(window.bytes);
        let upto = Upto::of(&window.upto);
        if upto <= cut {
            windows.next();
        }
        if upto >= cut {
            break;
        }
    }
    part
}

#[cfg(test)]
mod tests;
