//! Which replica a link leads to.

use std::num::NonZeroU64;

use kvquorum_core::{
    Identity, Key, Quorums, Refusal, ReplicaId, Request, RequestKind, Response, Transport,
};

use super::super::futures::{ended, together};
use super::super::samples::value;
use super::{NOT_WAITING, PAST, REFUSAL, SAME_REPLICA, Subject, UNCHANGED, asked};

pub(super) async fn run<T: Transport>(link: T) {
    let link = Subject::new(link);
    let first = link.identify(Request::identify()).await;
    // One by one, and many at once, for links that go several ways.
    for _ in 0..4 {
        let again = link.identify(Request::identify()).await;
        require_same(&first, &again);
    }
    let many = (0..32).map(|_| link.identify(Request::identify()));
    let what = "concurrent calls";
    for again in ended(&NOT_WAITING, what, together(many)).await {
        require_same(&first, &again);
    }
    UNCHANGED.require(
        first.quorums.is_empty(),
        format_args!("a fresh replica was called with {:?}", first.quorums),
    );
    quorums(&link, &first).await;
    addressed(&link, first.id).await;
}

fn require_same(first: &Identity, again: &Identity) {
    SAME_REPLICA.require(
        (first.id, &first.cluster) == (again.id, &again.cluster),
        format_args!("first it was {first:?}, then {again:?}"),
    );
}

/// A replica remembers what quorums its callers have, and tells.
async fn quorums<T: Transport>(link: &Subject<T>, first: &Identity) {
    let mut expected = Vec::new();
    for (n, w, r) in [(3, 2, 2), (255, 0, 1), (0, 128, 127)] {
        let quorums = Quorums { n, w, r };
        expected.push(quorums);
        let mut request = Request::identify();
        request.kind = RequestKind::Identify {
            quorums: Some(quorums),
        };
        let identity = link.identify(request).await;
        require_same(first, &identity);
        UNCHANGED.require(
            identity.quorums == expected,
            format_args!(
                "the replica was called with {:?}; expected {expected:?}",
                identity.quorums
            ),
        );
    }
}

/// Requests that name a replica, this one or another.
async fn addressed<T: Transport>(link: &Subject<T>, id: ReplicaId) {
    let key = Key::from("key");
    let requests = |to| {
        let entry = value(PAST, 1, "a value");
        let requests = [
            Request::write(&key, entry),
            Request::read(&key),
            Request::identify(),
        ];
        requests.map(|mut request| {
            request.to = Some(to);
            request
        })
    };
    for number in [!id.get(), id.get() ^ 1, 1, u64::MAX] {
        let Some(other) = NonZeroU64::new(number).map(ReplicaId::new) else {
            continue;
        };
        if other != id {
            for request in requests(other) {
                let is_expected = |refusal: &Refusal| *refusal == Refusal::OtherReplica { is: id };
                link.refused(request, is_expected).await;
            }
        }
    }
    let when = "after writes to another replica";
    link.expect(&REFUSAL, &key, None, when).await;
    for request in requests(id) {
        let what = asked(&request);
        let response = link.ask(request).await;
        UNCHANGED.require(
            !matches!(response, Response::Refused(_)),
            format_args!("{what}, meant for replica {id}, was answered by {response:?}"),
        );
    }
}
