//! Conformance suites: what a [`Store`], a [`Transport`] and a [`Codec`] must
//! do, as tests to run on your own.
//!
//! [`codec()`] takes a codec and needs nothing else. [`store`] and [`transport`] take a builder that gives a fresh subject for
//! each check, and a guard that is kept until the check is over: a temporary
//! directory, a running server, or `()` where there is nothing to keep.
//!
//! ```
//! # use std::{collections::BTreeMap, ops::Bound, sync::Mutex};
//! # use kvquorum_core::{Entry, Key, Merged, Replica, Store, StoreError};
//! # #[derive(Default)]
//! # struct MyStore(Mutex<BTreeMap<Key, Entry>>);
//! # impl Store for MyStore {
//! #     async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
//! #         Ok(self.0.lock().unwrap().get(key).cloned())
//! #     }
//! #     async fn merge(&self, key: &Key, entry: Entry) -> Result<Merged, StoreError> {
//! #         let mut map = self.0.lock().unwrap();
//! #         let merged = Merged::verdict(map.get(key), &entry);
//! #         if merged == Merged::Applied {
//! #             map.insert(key.clone(), entry);
//! #         }
//! #         Ok(merged)
//! #     }
//! #     async fn scan(&self, from: Bound<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, StoreError> {
//! #         let map = self.0.lock().unwrap();
//! #         let range = map.range::<Key, _>((from, Bound::Unbounded));
//! #         Ok(range.take(limit).map(|(key, entry)| (key.clone(), entry.clone())).collect())
//! #     }
//! # }
//! use kvquorum_core::conformance;
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
//! contract that was broken. A check that has not ended after a minute fails
//! as well, as long as it waits: nothing can end one that blocks its thread, as
//! on a lock that is never released, and then the test itself hangs.
//!
//! The suites run on tokio, on a runtime of either kind with its timers
//! enabled; concurrent checks of stores use threads of their own beside the
//! runtime's. Where the clock is paused, the subject must be one that waits
//! for nothing but tokio's timers.
//!
//! # What is not checked
//!
//! A suite that sees only the trait cannot make a disk or a network fail. So
//! these sentences stay with the implementor: that a merged entry is safe once
//! `merge` has returned, what a key holds after `merge` has failed, and that
//! [`NotSent`](crate::TransportError::NotSent) and
//! [`Rejected`](crate::TransportError::Rejected) mean that the replica did not
//! act. Nor is it measured that results at once wait for nothing.
//!
//! [`Codec`]: crate::Codec
//! [`Store`]: crate::Store
//! [`Transport`]: crate::Transport

#![expect(
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "a panic is how a test suite reports, and its numbers are its own"
)]

mod codec;
mod store;
mod transport;

use std::fmt::{self, Display};
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::entry::{Entry, Key, Timestamp, Version, WriterId};

pub use codec::codec;
pub use store::store;
pub use transport::transport;

/// How long a check may take. Long, because a durable store flushes some
/// hundred merges in one of them; it is there so that a deadlock has a name.
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

/// The task's result; its panic goes on here.
async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(error) => panic!("a task of the suite ended early: {error}"),
        },
    }
}

/// Awaits all of these in one task, polling each in turn.
async fn together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outputs = Vec::new();
    std::future::poll_fn(|context| {
        running.retain_mut(|future| match future.as_mut().poll(context) {
            Poll::Ready(output) => {
                outputs.push(output);
                false
            }
            Poll::Pending => true,
        });
        if running.is_empty() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs
}

/// Polls a future at most `polls` times, each time after it asked for it, and
/// not any more after that. Tells whether it ended.
async fn polled(polls: usize, future: impl Future) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        let Some(fewer) = left.checked_sub(1) else {
            return Poll::Ready(false);
        };
        left = fewer;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn version(timestamp: u64, writer: u64) -> Version {
    Version {
        timestamp: Timestamp::from_bits(timestamp),
        writer: WriterId::new(writer),
    }
}

fn value(timestamp: u64, writer: u64, value: impl Into<Bytes>) -> Entry {
    Entry::new(version(timestamp, writer), value)
}

fn tombstone(timestamp: u64, writer: u64) -> Entry {
    Entry::tombstone(version(timestamp, writer))
}

/// Keys that a text encoding, a separator, a terminator, a prefix search or a
/// signed comparison would confuse.
fn awkward_keys() -> Vec<Key> {
    let all_bytes: Vec<u8> = (0..=u8::MAX).collect();
    let mut keys: Vec<Key> = all_bytes.chunks(1).map(Key::from).collect();
    keys.extend([
        Key::from(&b"\0\0"[..]),
        Key::from(&b"a\0"[..]),
        Key::from(&b"a\0\0"[..]),
        Key::from(&b"a\0b"[..]),
        Key::from("aa"),
        Key::from("ab"),
        Key::from("a/b c?d=e&f#g%20+"),
        Key::from("\u{e9}"),
        Key::from("e\u{301}"),
        Key::from(&b"\x7f\xff"[..]),
        Key::from(&b"\x80\0"[..]),
        Key::from(&b"\xff\xfe"[..]),
        Key::from(&b"\xff\xff"[..]),
        Key::from(vec![0xff; 1024]),
        Key::from(all_bytes),
    ]);
    keys
}

/// Takes turns between two ways to ask.
#[derive(Default)]
struct Turns(AtomicU64);

impl Turns {
    /// What is there at once, half of the times: by the sequence of Thue and
    /// Morse, which is in step with no pattern of calls.
    fn take<T>(&self, at_once: impl FnOnce() -> Option<T>) -> Option<T> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed);
        if turn.count_ones() % 2 == 1 {
            at_once()
        } else {
            None
        }
    }
}

/// A value shown up to this many bytes.
const SHOWN: usize = 40;

/// An entry with its bytes, which [`Entry`]'s own `Debug` keeps to itself.
struct Shown<'a>(Option<&'a Entry>);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("no entry"),
            Some(entry) => match &entry.value {
                None => write!(f, "a tombstone of {}", entry.version),
                Some(value) => {
                    let (len, at) = (value.len(), entry.version);
                    let start = value.get(..SHOWN).unwrap_or(value).escape_ascii();
                    let more = if len > SHOWN { "…" } else { "" };
                    write!(f, "\"{start}{more}\" ({len} bytes) of {at}")
                }
            },
        }
    }
}

/// A key, cut short.
struct Named<'a>(&'a Key);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_bytes();
        let start = bytes.get(..SHOWN).unwrap_or(bytes).escape_ascii();
        let more = if bytes.len() > SHOWN { "…" } else { "" };
        write!(f, "key \"{start}{more}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::{Clause, codec, store, transport};

    /// The bullets under `# Contract` in a file's doc comments, with their
    /// line breaks and links taken out.
    fn contract(source: &str) -> Vec<String> {
        let mut bullets: Vec<String> = Vec::new();
        let mut inside = false;
        for line in source.lines() {
            let Some(doc) = line.trim().strip_prefix("///") else {
                inside = false;
                continue;
            };
            let doc = doc.trim();
            match doc.strip_prefix("- ") {
                _ if doc.starts_with('#') => inside = doc == "# Contract",
                Some(start) if inside => bullets.push(start.to_owned()),
                // Links are defined below the bullets.
                None if inside && !doc.is_empty() && !doc.contains("]: ") => {
                    let bullet = bullets.last_mut().expect("bullets come first");
                    *bullet = format!("{bullet} {doc}");
                }
                _ => {}
            }
        }
        bullets.iter().map(|bullet| without_links(bullet)).collect()
    }

    fn without_links(text: &str) -> String {
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, link)) = rest.split_once("[`") {
            let (label, after) = link.split_once("`]").expect("a closed link");
            plain = format!("{plain}{before}`{label}`");
            rest = match after.strip_prefix('(') {
                Some(target) => target.split_once(')').expect("a closed link").1,
                None => after,
            };
        }
        plain + rest
    }

    fn assert_covered(contract: &[String], clauses: &[&Clause], unchecked: &[&str]) {
        let quoted = |bullet: &str| {
            clauses.iter().any(|clause| clause.says == bullet) || unchecked.contains(&bullet)
        };
        let forgotten: Vec<_> = contract.iter().filter(|bullet| !quoted(bullet)).collect();
        assert!(
            forgotten.is_empty(),
            "no check quotes these: {forgotten:#?}"
        );
        assert!(
            contract.len() >= 6,
            "the contract was not found: {contract:#?}"
        );
    }

    /// Catches a sentence added to a contract, or reworded, and not tested.
    #[test]
    fn every_sentence_of_the_contracts_is_quoted() {
        assert_covered(
            &contract(include_str!("../store.rs")),
            store::CLAUSES,
            store::UNCHECKED,
        );
        assert_covered(
            &contract(include_str!("../transport.rs")),
            transport::CLAUSES,
            transport::UNCHECKED,
        );
        assert_covered(
            &contract(include_str!("../map/codec.rs")),
            codec::CLAUSES,
            &[],
        );
    }
}
