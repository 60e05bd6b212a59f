//! Bringing replicas what they lack: the greatest entry, with its original version.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;

use super::caller::Caller;
use super::listed::Unlike;
use crate::entry::{Entry, Key};
use crate::fingerprint::Fingerprint;
use crate::marks::Era;
use crate::outcome::ReplicaFailure;
use crate::range::KeyRange;
use crate::request::Held;
use crate::transport::Transport;

/// What became of one key.
#[derive(Debug, Default)]
pub(super) struct Mended {
    pub(super) repaired: Vec<usize>,
    /// Who lacks it still, as far as is known, and why, where that was found out just
    /// now.
    pub(super) not_repaired: Vec<(usize, Option<ReplicaFailure>)>,
}

/// The entry to be sent, and who need not be sent it.
struct Greatest {
    entry: Entry,
    hash: u128,
    source: Option<usize>,
}

/// One key that some replicas lack, and how to mend it.
pub(super) struct Mending<const N: usize, const W: usize, const R: usize, T> {
    pub(super) caller: Arc<Caller<N, W, R, T>>,
    pub(super) hash_key: u128,
    /// That before which nothing of this was read.
    pub(super) era: Era,
    pub(super) replicas: Arc<[usize]>,
    pub(super) unlike: Unlike<N>,
    /// Where it was read already, and from whom.
    pub(super) read: Option<(usize, Entry)>,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Mending<N, W, R, T> {
    pub(super) async fn run(self) -> Mended {
        let mut mended = Mended::default();
        let greatest = match self.unlike.is_void {
            true => self.settled().await,
            false => self.greatest(&mut mended).await,
        };
        let Some(greatest) = greatest else {
            let others = self.replicas.iter().copied();
            let others = others.filter(|replica| !self.unlike.sources.contains(replica));
            mended
                .not_repaired
                .extend(others.map(|replica| (replica, None)));
            return mended;
        };
        let is_behind = |replica: &usize| {
            Some(*replica) != greatest.source && self.unlike.hash(*replica) != Some(greatest.hash)
        };
        let behind = self.replicas.iter().copied().filter(is_behind);
        let sent = join_all(behind.map(|replica| self.send(replica, &greatest.entry))).await;
        for (replica, result) in sent {
            match result {
                Ok(()) => mended.repaired.push(replica),
                Err(failure) => mended.not_repaired.push((replica, failure)),
            }
        }
        mended
    }

    /// What is held once the key has a version that all can take.
    async fn settled(&self) -> Option<Greatest> {
        let entry = self
            .caller
            .settle(&self.unlike.key, self.unlike.greatest())
            .await?;
        Some(self.read_from(None, entry))
    }

    /// The greatest of the entries that were told of.
    async fn greatest(&self, mended: &mut Mended) -> Option<Greatest> {
        if let Some((source, entry)) = &self.read {
            return Some(self.read_from(Some(*source), entry.clone()));
        }
        let mut greatest: Option<Greatest> = None;
        let mut hashes = Vec::new();
        for source in self.unlike.sources.iter().copied() {
            let hash = self.unlike.hash(source);
            if hashes.contains(&hash) || self.caller.is_out(source) {
                continue;
            }
            let told = self.unlike.version(source);
            match self.caller.read(source, &self.unlike.key).await {
                Ok(Held {
                    entry: Some(entry), ..
                }) if Some(entry.version) >= told => {
                    hashes.push(hash);
                    if greatest.as_ref().is_none_or(|it| it.entry < entry) {
                        greatest = Some(self.read_from(Some(source), entry));
                    }
                }
                // Collected meanwhile.
                Ok(held) if told.is_some_and(|told| told.timestamp < held.collected) => {
                    mended.not_repaired.push((source, None));
                }
                // It has lost what it told of.
                Ok(_) => {
                    let failure = self.caller.mismatched(source);
                    mended.not_repaired.push((source, Some(failure)));
                }
                Err(failure) => mended.not_repaired.push((source, Some(failure))),
            }
        }
        greatest
    }

    fn read_from(&self, source: Option<usize>, entry: Entry) -> Greatest {
        let hash = Fingerprint::of(self.hash_key, &self.unlike.key, &entry).sum;
        Greatest {
            entry,
            hash,
            source,
        }
    }

    async fn send(
        &self,
        replica: usize,
        entry: &Entry,
    ) -> (usize, Result<(), Option<ReplicaFailure>>) {
        if self.caller.is_out(replica) {
            return (replica, Err(None));
        }
        let Unlike { key, mark, .. } = &self.unlike;
        let repairing = self
            .caller
            .repair(self.era, *mark, replica, key, entry.clone());
        (replica, repairing.await.map_err(Some))
    }
}

/// Keys that are read a page at a time, as so many of what one replica holds there are
/// lacked elsewhere.
pub(super) struct Pages<const N: usize> {
    pub(super) source: usize,
    pub(super) wanted: BTreeMap<Key, Unlike<N>>,
    rest: Option<KeyRange>,
}

impl<const N: usize> Pages<N> {
    pub(super) fn new(source: usize, wanted: BTreeMap<Key, Unlike<N>>) -> Self {
        let (first, last) = (wanted.first_key_value(), wanted.last_key_value());
        let rest = first.zip(last);
        let rest = rest.map(|((first, _), (last, _))| KeyRange::from(first.clone()..=last.clone()));
        Self {
            source,
            wanted,
            rest,
        }
    }

    /// The next of the keys, with their entries; `None` when there are no more to be
    /// had in this way. What is left then is in `wanted`.
    pub(super) async fn next<const W: usize, const R: usize, T: Transport>(
        &mut self,
        caller: &Caller<N, W, R, T>,
    ) -> Option<Vec<(Unlike<N>, Entry)>> {
        let rest = self.rest.take()?;
        let page = caller.page(self.source, rest.clone()).await.ok()?;
        self.rest = page.upto.map(|upto| rest.starting_at(upto));
        let mut found = Vec::new();
        for (key, entry) in page.entries {
            if let Some(unlike) = self.wanted.remove(&key) {
                if Some(entry.version) >= unlike.version(self.source) {
                    found.push((unlike, entry));
                } else {
                    self.wanted.insert(key, unlike);
                }
            }
        }
        Some(found)
    }
}
