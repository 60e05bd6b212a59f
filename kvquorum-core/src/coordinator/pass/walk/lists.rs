//! Listing what replicas hold in a range, and mending what is behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::iter;
use tokio::time::Instant;

use super::super::listed::{Listed, Unlike};
use super::super::mend::{Mended, Mending, Pages};
use super::{FEW, MANY, Todo, Walk};
use crate::entry::{Entry, Key};
use crate::fingerprint::{Versions, VersionsRequest};
use crate::marks::Era;
use crate::transport::Transport;

impl<const N: usize, const W: usize, const R: usize, T: Transport> Walk<N, W, R, T> {
    /// The versions that each replica holds in the beginning of a range, as far as they
    /// count by the mark that was the greatest before.
    async fn versions(&mut self, todo: &Todo, replicas: &[usize]) -> Vec<(usize, Versions)> {
        let asked = VersionsRequest {
            range: todo.range.clone(),
            hash_key: self.hash_key,
            max_keys: MANY,
            collected: self.collected,
        };
        let caller = &self.caller;
        let asking = replicas.iter().copied().map(|replica| {
            let asked = asked.clone();
            async move { (replica, caller.versions(replica, asked).await) }
        });
        let mut answers = Vec::new();
        for (replica, result) in join_all(asking).await {
            if let Some(versions) = self.taken(replica, result) {
                self.collected_by(versions.collected);
                answers.push((replica, versions));
            }
        }
        answers
    }

    /// Lists the versions in the beginning of a range, and mends what is behind. Returns
    /// what is left of it, how many keys were listed, and how many bytes are still to be
    /// counted: none, since mending counts its own. `None` where too few answered.
    pub(super) async fn list(
        &mut self,
        todo: &Todo,
        replicas: &[usize],
    ) -> Option<(Vec<Todo>, u64, u64)> {
        let before = self.collected;
        let mut answers = self.versions(todo, replicas).await;
        if self.collected > before {
            // Some may have told of tombstones that others have dropped.
            answers = self.versions(todo, replicas).await;
        }
        if answers.len() < 2 {
            return None;
        }
        let replicas: Arc<[usize]> = answers.iter().map(|(replica, _)| *replica).collect();
        let listed = Listed::<N>::merge(answers);
        let keys = listed.held.len() as u64;
        let held = listed.held.iter();
        let unlike: Vec<_> = held
            .filter_map(|(key, held)| Unlike::of(key, held, &listed.marks, &replicas))
            .collect();
        let differing = unlike.len() as u64;
        self.mend(unlike, &listed, &replicas).await;
        self.progress.keys = self.progress.keys.saturating_add(keys);
        self.progress.differing = self.progress.differing.saturating_add(differing);
        let left = listed.upto.map(|upto| Todo {
            range: todo.range.starting_at(upto),
            ..todo.clone()
        });
        Some((left.into_iter().collect(), keys, 0))
    }

    /// Sends replicas what they lack. What one replica holds is read by pages where
    /// half of it is wanted.
    async fn mend(&mut self, unlike: Vec<Unlike<N>>, listed: &Listed<N>, replicas: &Arc<[usize]>) {
        let era = self.caller.era();
        let mut by_source = BTreeMap::<usize, BTreeMap<Key, Unlike<N>>>::new();
        let mut single = Vec::new();
        for it in unlike {
            match it.only_source() {
                Some(source) if !it.is_void => {
                    let wanted = by_source.entry(source).or_default();
                    wanted.insert(it.key.clone(), it);
                }
                _ => single.push((it, None)),
            }
        }
        for (source, wanted) in by_source {
            let holds = |held: &&[_; N]| held.get(source).is_some_and(Option::is_some);
            let held = listed.held.values().filter(holds).count();
            let mut pages = Pages::new(source, wanted);
            if pages.wanted.len() as u64 > FEW && pages.wanted.len().saturating_mul(2) >= held {
                while let Some(found) = pages.next(&*self.caller).await {
                    let found = found.into_iter();
                    let found = found.map(|(unlike, entry)| (unlike, Some((source, entry))));
                    self.mend_each(era, found.collect(), replicas).await;
                }
            }
            single.extend(pages.wanted.into_values().map(|unlike| (unlike, None)));
        }
        self.mend_each(era, single, replicas).await;
    }

    /// A bounded number at the same time.
    async fn mend_each(
        &mut self,
        era: Era,
        unlike: Vec<(Unlike<N>, Option<(usize, Entry)>)>,
        replicas: &Arc<[usize]>,
    ) {
        let at_once = self.caller.coordinator.inner.settings.max_at_once;
        let (caller, hash_key, replicas) = (self.caller.clone(), self.hash_key, replicas.clone());
        let mending = unlike.into_iter().map(move |(unlike, read)| {
            let mending = Mending {
                caller: caller.clone(),
                hash_key,
                era,
                replicas: replicas.clone(),
                unlike,
                read,
            };
            mending.run()
        });
        let mut mending = Box::pin(iter(mending).buffer_unordered(at_once));
        let mut bytes = self.caller.bytes();
        while let Some(mended) = mending.next().await {
            self.take_in(mended);
            let now = self.caller.bytes();
            self.pace
                .count(Instant::now(), 0, now.saturating_sub(bytes));
            bytes = now;
            self.pace.rest().await;
        }
    }

    fn take_in(&mut self, mended: Mended) {
        for replica in mended.repaired {
            if let Some(repaired) = self.progress.repaired.get_mut(replica) {
                *repaired = repaired.saturating_add(1);
            }
        }
        for (replica, failure) in mended.not_repaired {
            if let Some(state) = self.states.get_mut(replica) {
                state.not_repaired = state.not_repaired.saturating_add(1);
                state.fail(failure);
            }
        }
    }
}
