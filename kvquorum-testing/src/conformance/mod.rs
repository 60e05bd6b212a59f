//! Conformance suites: what a [`Store`], a [`Transport`] and a [`Codec`] must do,
//! as tests to run on your own.
//!
//! [`codec()`] takes a codec and needs nothing else. [`store`] and [`transport`] take a builder that gives a fresh subject for
//! each check, and a guard that is kept until the check is over: a temporary
//! directory, a running server, or `()` where there is nothing to keep.
//!
//! ```
//! # use std::{collections::BTreeMap, ops::Bound, sync::Mutex};
//! # use kvquorum_core::{Action, Change, Key, Record, Response, ScanLimit, Store, StoreError};
//! # #[derive(Default)]
//! # struct MyStore(Mutex<BTreeMap<Key, Record>>);
//! # impl Store for MyStore {
//! #     async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
//! #         Ok(self.0.lock().unwrap().get(key).cloned())
//! #     }
//! #     async fn apply(&self, key: &Key, change: Change<'_>) -> Result<Response, StoreError> {
//! #         let mut map = self.0.lock().unwrap();
//! #         let decision = change.decide(map.get(key));
//! #         match decision.action {
//! #             Action::Keep => None,
//! #             Action::Replace(record) => map.insert(key.clone(), record),
//! #             Action::Remove => map.remove(key),
//! #         };
//! #         Ok(decision.response)
//! #     }
//! #     async fn scan(
//! #         &self,
//! #         range: (Bound<&Key>, Bound<&Key>),
//! #         limit: ScanLimit,
//! #     ) -> Result<Vec<(Key, Record)>, StoreError> {
//! #         Ok(limit.take(self.0.lock().unwrap().range::<Key, _>(range)))
//! #     }
//! # }
//! use kvquorum_core::Replica;
//! use kvquorum_testing::conformance;
//!
//! # /*
//! #[tokio::test]
//! # */
//! async fn my_store_conforms() {
//!     conformance::store(|| async { (MyStore::default(), ()) }).await
//! }
//!
//! # /*
//! #[tokio::test]
//! # */
//! async fn my_transport_conforms() {
//!     conformance::transport(|| async { (Replica::new(MyStore::default()), ()) }).await
//! }
//! # let runtime = tokio::runtime::Runtime::new().unwrap();
//! # runtime.block_on(my_store_conforms());
//! # runtime.block_on(my_transport_conforms());
//! ```
//!
//! A check that fails panics, and its message quotes the sentence of the
//! contract that was broken. An error that the subject brings back is shown with all
//! of its causes. A check that has not ended after a minute fails as well, as long as
//! it waits: nothing can end one that blocks its thread, as on a lock that is never
//! released, and then the test itself hangs.
//!
//! The suites run on tokio, on a runtime of either kind with its timers
//! enabled; concurrent checks use threads of their own beside the runtime's. Where
//! the clock is paused, the subject must be one that waits for nothing but tokio's
//! timers.
//!
//! # What is not checked
//!
//! A suite that sees only the trait cannot make a disk or a network fail. So
//! these sentences stay with the implementor: that what is held is safe once
//! `apply` has returned, what a key holds after `apply` has failed, and that
//! [`NotSent`](kvquorum_core::TransportError::NotSent) and
//! [`Rejected`](kvquorum_core::TransportError::Rejected) mean that the replica did
//! not act. Nor is it measured that `try_get`, `try_apply` and `call` return at once.
//!
//! [`Codec`]: kvquorum_core::Codec
//! [`Store`]: kvquorum_core::Store
//! [`Transport`]: kvquorum_core::Transport

#![expect(
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "a panic is how a test suite reports, and its numbers are its own"
)]

mod codec;
#[cfg(test)]
mod contracts;
mod encodings;
mod futures;
mod samples;
mod shown;
mod store;
mod transport;

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

pub use codec::codec;
pub use store::store;
pub use transport::transport;

/// How long a check may take. Long, because a durable store flushes some
/// hundred changes in one of them; it is there so that a deadlock has a name.
const PATIENCE: Duration = Duration::from_secs(60);

/// A sentence of a contract.
struct Clause {
    /// The method whose contract it belongs to.
    of: &'static str,
    /// The sentence, as the method's documentation has it, without links.
    says: &'static str,
}

impl Clause {
    fn broken(&self, observed: impl Display) -> ! {
        panic!(
            "`{}` breaks its contract\n  contract: {}\n  observed: {observed}",
            self.of, self.says
        )
    }

    fn require(&self, holds: bool, observed: impl Display) {
        if !holds {
            self.broken(observed);
        }
    }
}

/// Runs one check on a fresh subject. The guard outlives the subject.
async fn check<B, F, S, G, C, D>(what: &str, build: &B, check: C)
where
    B: Fn() -> F,
    F: Future<Output = (S, G)>,
    C: FnOnce(S) -> D,
    D: Future<Output = ()>,
{
    let (subject, _guard) = build().await;
    if tokio::time::timeout(PATIENCE, check(subject))
        .await
        .is_err()
    {
        panic!("the check that {what} has not ended after {PATIENCE:?}: does a call wait forever?");
    }
}
