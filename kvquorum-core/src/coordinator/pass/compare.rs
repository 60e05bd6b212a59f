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
        .map(|(replica, windows)| (*replica, Told::new(&windows.0)))
        .collect();
    let mut rest = range.clone();
    let mut compared = Vec::new();
    for cut in cuts {
        let parts: Vec<(usize, Part)> = told
            .iter_mut()
            .map(|(replica, told)| (*replica, told.take(cut)))
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
    let known = |part: &Part| part.is_known.then_some(part.fingerprint);
    let first = parts.first().and_then(|(_, part)| known(part));
    let most = parts.iter().max_by_key(|(_, part)| part.fingerprint.count);
    Compared {
        range,
        is_equal: first.is_some() && parts.iter().all(|(_, part)| known(part) == first),
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
    /// Not where one of its windows goes on beyond the cut, with entries in it.
    is_known: bool,
    bytes: u64,
}

/// A replica's windows that are left.
struct Told<'a> {
    windows: std::slice::Iter<'a, Window>,
    /// Whether a part of the next one was taken already.
    is_cut: bool,
}

impl<'a> Told<'a> {
    fn new(windows: &'a [Window]) -> Self {
        let windows = windows.iter();
        Self {
            windows,
            is_cut: false,
        }
    }

    fn take(&mut self, cut: Upto<'_>) -> Part {
        let mut part = Part {
            fingerprint: Fingerprint::default(),
            is_known: true,
            bytes: 0,
        };
        let mut reached = None;
        while reached < Some(cut)
            && let Some(window) = self.windows.as_slice().first()
        {
            let upto = Upto::of(&window.upto);
            let is_whole = upto <= cut;
            part.is_known &= (is_whole && !self.is_cut) || window.fingerprint.count == 0;
            part.fingerprint = part.fingerprint.and(window.fingerprint);
            part.bytes = part.bytes.saturating_add(window.bytes);
            reached = Some(upto);
            self.is_cut = !is_whole;
            if is_whole {
                self.windows.next();
            }
        }
        part
    }
}

#[cfg(test)]
mod tests;
