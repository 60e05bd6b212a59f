//! What one would write by hand so as not to wait for the last.

use kvquorum_core::{Bytes, Key, Request, Response, Transport, TransportError};
use tokio::task;

use super::{Node, is_ack};
use crate::map::Map;
use crate::stamps::Stamps;

/// A task for each call, and on at the quorum; the rest are left to finish. A
/// get asks R replicas only.
pub struct JoinSet<const N: usize, const W: usize, const R: usize> {
    replicas: [Node; N],
    stamps: Stamps,
}

type Calls = task::JoinSet<Result<Response, TransportError>>;

impl<const N: usize, const W: usize, const R: usize> JoinSet<N, W, R> {
    pub(super) fn new(replicas: [Node; N]) -> Self {
        let stamps = Stamps::new();
        Self { replicas, stamps }
    }

    fn ask(&self, replicas: usize, request: &Request) -> Calls {
        let mut calls = Calls::new();
        for node in self.replicas.iter().take(replicas) {
            calls.spawn(node.call(request));
        }
        calls
    }
}

impl<const N: usize, const W: usize, const R: usize> Map for JoinSet<N, W, R> {
    async fn put(&self, key: &Key, value: &Bytes) {
        let request = Request::write(key, self.stamps.entry(value));
        let mut calls = self.ask(N, &request);
        let mut acks = 0;
        while acks < W {
            let ack = calls.join_next().await.unwrap().unwrap();
            acks += usize::from(is_ack(&ack));
        }
        calls.detach_all();
    }

    async fn get(&self, key: &Key) -> Bytes {
        let mut calls = self.ask(R, &Request::read(key));
        let mut greatest = None;
        while let Some(answer) = calls.join_next().await {
            if let Ok(Response::Entry(held)) = answer.unwrap() {
                greatest = greatest.max(held.entry);
            }
        }
        greatest.unwrap().value.unwrap()
    }
}
