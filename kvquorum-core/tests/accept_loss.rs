//! What is given up where a loss is accepted, and what not.

use std::num::NonZeroU64;

use kvquorum_core::{
    Call, Coordinator, Era, Refusal, RejoinError, Replica, Request, RequestKind, Response, Store,
    Transport,
};
use kvquorum_mem::MemStore;

/// A replica that has just taken note of another rejoin's era.
struct Busy {
    replica: Replica<MemStore>,
    is_busy: bool,
}

impl Transport for Busy {
    fn call(&self, request: &Request) -> Call {
        match request.kind {
            RequestKind::Announce { era } if self.is_busy => {
                Call::Ready(Ok(Response::Refused(Refusal::Stale { era })))
            }
            _ => self.replica.call(request),
        }
    }

    fn name(&self) -> &str {
        self.replica.name()
    }
}

/// J-COPY. Bug: a replica opens with nothing, while a peer that answers has its data, and
/// is busy with another rejoin at that moment.
#[tokio::test]
async fn j_copy_what_a_peer_still_has_is_not_lost() {
    let kept = Replica::new(MemStore::new()).of_new_cluster();
    let one = Coordinator::<1, 1, 1, _>::new([kept.clone()]);
    one.put("tea", "green").await.unwrap();
    let lost = [(); 2].map(|()| Replica::new(MemStore::new()));
    let map = |is_busy| {
        let links = [&kept, &lost[0], &lost[1]].map(|replica| Busy {
            replica: replica.clone(),
            is_busy,
        });
        Coordinator::<3, 2, 2, _>::new(links)
    };
    let error = map(true).accept_loss(1).run().await.unwrap_err();
    assert!(
        matches!(
            error,
            RejoinError::TooFewPeers {
                found: 0,
                needed: 1
            }
        ),
        "{error:?}"
    );
    let silent = lost[0].call(&Request::read("tea")).await.unwrap();
    assert!(matches!(
        silent,
        Response::Refused(Refusal::Joining { has_begun: false })
    ));
    let done = map(false).accept_loss(1).run().await.unwrap();
    assert_eq!(done.copied, 1);
    let copied = lost[0].store().get(&"tea".into()).await.unwrap();
    assert!(copied.is_some());
    // The other one has enough peers now.
    map(false).rejoin(2).run().await.unwrap();
    assert_eq!(map(false).get("tea").await.unwrap().unwrap(), "green");
    let era = |number: u64| NonZeroU64::new(number).map(Era::new);
    let told = kept.call(&Request::identify()).await.unwrap();
    assert!(matches!(told, Response::Identity(it) if Some(it.era) == era(3)));
}
