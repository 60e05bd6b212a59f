//! What one would write first by hand.

use futures_util::future::join_all;
use kvquorum_core::{Bytes, Key, Request, Response, Transport};

use super::{Node, is_ack};
use crate::map::Map;
use crate::stamps::Stamps;

/// All calls in one task, and on when the last is done. A get asks R replicas
/// only.
pub struct JoinAll<const N: usize, const W: usize, const R: usize> {
    replicas: [Node; N],
    stamps: Stamps,
}

impl<const N: usize, const W: usize, const R: usize> JoinAll<N, W, R> {
    pub(super) fn new(replicas: [Node; N]) -> Self {
        let stamps = Stamps::new();
        Self { replicas, stamps }
    }
}

impl<const N: usize, const W: usize, const R: usize> Map for JoinAll<N, W, R> {
    async fn put(&self, key: &Key, value: &Bytes) {
        let request = Request::write(key, self.stamps.entry(value));
        let calls = self.replicas.iter().map(|node| node.call(&request));
        let acks = join_all(calls)
            .await
            .iter()
            .filter(|ack| is_ack(ack))
            .count();
        assert!(acks >= W);
    }

    async fn get(&self, key: &Key) -> Bytes {
        let request = Request::read(key);
        let asked = self.replicas.iter().take(R);
        let answers = join_all(asked.map(|node| node.call(&request))).await;
        let entries = answers.into_iter().filter_map(|answer| match answer {
            Ok(Response::Entry(held)) => held.entry,
            _ => None,
        });
        entries.max().unwrap().value.unwrap()
    }
}
