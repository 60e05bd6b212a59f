//! The client side: fans a request out over N transports and decides at a
//! quorum.
//!
//! `mod.rs` holds what an application sees and sets. Inside, each file does
//! one thing: `write` and `read` are the two kinds of operation on a key, `update`
//! makes of them those of registers, `many` does several of them at the same time,
//! `scan` reads ranges, `pass` compares and repairs them,
//! `collect` collects deletes, `hints` remembers who missed what, `rotation` says where a read begins, `calls` drives their
//! calls, `operation` hands them over
//! to the background, `background` bounds that, and `report` says what happened.

mod background;
mod builder;
mod calls;
mod collect;
mod eras;
mod hints;
mod introductions;
mod many;
mod one;
mod operation;
mod pass;
mod read;
mod rejoin;
mod report;
mod rotation;
mod scan;
mod update;
mod write;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use background::ReplicaStats;
pub use builder::CoordinatorBuilder;
pub(crate) use calls::Calling;
pub use calls::LONGEST_TIME_LIMIT;
pub use collect::{CollectError, Collected, CollectedReplica};
pub use hints::{Handoff, HintSettings, HintStats};
pub use introductions::IdentityError;
pub use pass::{Pass, PassCursor, PassProgress, PassReport, PassSettings, Passes, ReplicaPass};
pub use rejoin::{Rejoin, RejoinError, RejoinProgress};
pub use report::{
    ReadError, ReadReceipt, ReadReport, ReplicaReport, WriteError, WriteReceipt, WriteReport,
};
pub use scan::{Scan, ScanError, ScanReport};
use update::Turns;
pub(crate) use update::{Bounds, Done, Left, is_overtaken};
pub use update::{Edit, UpdateError, UpdateReport};

use crate::clock::{Clock, whole_millis};
use crate::entry::{Entry, Key, WriterId};
use crate::identity::{Identity, Quorums};
use crate::store::ScanLimit;
use crate::telemetry::{Kind, Telemetry};
use crate::transport::Transport;
use background::Background;
use hints::Hints;
use introductions::Introductions;
use rotation::Rotation;

/// The most replicas that a coordinator can have: each operation keeps an array with
/// a place for each replica, and goes through all of it.
pub const MAX_REPLICAS: usize = 64;

/// The client side of a map with N copies: writes to all N replicas and
/// returns when W have acked, reads from as many as it takes for R to answer,
/// and merges by last write wins.
///
/// Invalid N, W and R do not compile, and the error names the line that makes the
/// coordinator. `cargo build` and `cargo test` report it; `cargo check`, and so an
/// editor, does not.
///
/// ```compile_fail
/// # use kvquorum_core::{Call, Coordinator, Request, Transport};
/// # fn f<T: Transport>(replicas: [T; 3]) {
/// Coordinator::<3, 4, 2, _>::new(replicas); // four acks of three replicas
/// # }
/// # struct L;
/// # impl Transport for L {
/// #     fn call(&self, _: &Request) -> Call { Call::new(std::future::pending()) }
/// #     fn name(&self) -> &str { "" }
/// # }
/// # f([L, L, L]);
/// ```
///
/// With `R + W > N` every read quorum meets every write quorum: a `get` that
/// starts after a `put` was acknowledged returns that put's entry or a greater
/// one. That is not linearizability: two reads that race a write may see the
/// new entry and then the old one, unless repair is
/// [blocking](CoordinatorBuilder::repair_blocking).
///
/// With `2 W > N` every two write quorums meet, and an acknowledged write is
/// greater than every write that was acknowledged before it began, whatever
/// the clocks say (rule W-SUPERSEDED). With less, a writer whose clock is
/// behind may be acknowledged by replicas that have not heard of a greater
/// entry, and lose to it.
///
/// Before it sends a replica anything else, a coordinator asks it who it is. A replica
/// that two transports lead to is counted once. One of another
/// [cluster](CoordinatorBuilder::cluster) is not counted. If a transport now leads to
/// a different replica, that one is asked who it is. The call that discovers this has
/// changed nothing: it is made again, or, if its answer was there at once, it fails.
/// [`IdentityError`] says why a replica is not counted.
///
/// Clones share one clock and one bound on background work. Call it inside a Tokio
/// runtime with timers. Outside one, a call that has to wait panics, and background
/// work is dropped.
///
/// ```
/// # use kvquorum_core::{Coordinator, Replica, Store};
/// # async fn example<S: Store>(a: Replica<S>, b: Replica<S>, c: Replica<S>)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let map = Coordinator::<3, 2, 2, _>::new([a, b, c]);
/// map.put("greeting", "hello").await?;
/// assert_eq!(map.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
/// # Ok(()) }
/// ```
#[doc = include_str!("configuration.md")]
pub struct Coordinator<const N: usize, const W: usize, const R: usize, T> {
    inner: Arc<Inner<T, N>>,
}

struct Inner<T, const N: usize> {
    transports: [T; N],
    clock: Clock,
    settings: Settings,
    background: Background<N>,
    rotation: Rotation,
    introductions: Introductions<N>,
    hints: Hints<N>,
    turns: Turns,
    telemetry: Arc<Telemetry<N>>,
}

struct Settings {
    writer: WriterId,
    time_limit: Duration,
    max_attempts: u32,
    repair: Repair,
    page: ScanLimit,
    max_at_once: usize,
}

/// What a read does for a replica that it finds behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repair {
    Off,
    Background,
    Blocking,
    /// As `Blocking`, for a register: where a promise prevents the repair, the key is
    /// settled afterwards.
    Register,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Coordinator<N, W, R, T> {
    const QUORUMS_MAKE_SENSE: () = {
        assert!(
            N >= 1,
            "kvquorum: N, the number of replicas, must be at least 1"
        );
        assert!(
            N <= MAX_REPLICAS,
            "kvquorum: N, the number of replicas, must be at most 64"
        );
        assert!(W >= 1, "kvquorum: W, the write quorum, must be at least 1");
        assert!(
            W <= N,
            "kvquorum: W, the write quorum, must be at most N, the number of replicas"
        );
        assert!(R >= 1, "kvquorum: R, the read quorum, must be at least 1");
        assert!(
            R <= N,
            "kvquorum: R, the read quorum, must be at most N, the number of replicas"
        );
    };

    // At most 64 each.
    const QUORUMS: Quorums = Quorums {
        n: N as u8,
        w: W as u8,
        r: R as u8,
    };

    pub(crate) const UPDATES_ARE_SAFE: () = {
        assert!(
            R + W > N,
            "kvquorum: registers need overlapping quorums, R + W > N"
        );
        assert!(
            2 * W > N,
            "kvquorum: registers need write quorums that overlap, 2 W > N"
        );
    };

    /// Whether updates are safe.
    pub(crate) const UPDATES: bool = R + W > N && 2 * W > N;

    const QUORUMS_OVERLAP: () = assert!(
        R + W > N,
        "kvquorum: blocking repair needs overlapping quorums, R + W > N"
    );

    /// A coordinator over N transports, with the default settings.
    ///
    /// Each transport leads to another replica. Their order is that of
    /// receipts and reports.
    pub fn new(transports: [T; N]) -> Self {
        // Here too, so that the compiler names the line that calls it.
        let () = Self::QUORUMS_MAKE_SENSE;
        Self::builder(transports).build()
    }

    /// A coordinator over N transports, with settings.
    pub fn builder(transports: [T; N]) -> CoordinatorBuilder<N, W, R, T> {
        let () = Self::QUORUMS_MAKE_SENSE;
        CoordinatorBuilder::new(transports)
    }

    /// Writes a value under a key, and returns when W replicas have acked.
    ///
    /// Keys are copied from what is borrowed. Pass an owned value (`Vec<u8>`,
    /// `String`, [`Bytes`]) or a `'static` one: it is not copied.
    ///
    /// - **W-ALL.** The entry goes to all N replicas at once.
    /// - **W-QUORUM.** Only acks count.
    /// - **W-FINISH.** Stragglers are carried on in the background to their
    ///   end or their time limit, within a [bound](CoordinatorBuilder::max_background).
    /// - **W-CANCEL.** Dropping the returned future, once it was polled, does
    ///   not cut the fan-out short, within the same bound. Such a write is not
    ///   stamped again if it turns out to be superseded.
    /// - **W-SUPERSEDED.** A put that learns of a greater entry from an ack
    ///   stamps again, past it, so that where `2 W > N` it is greater than all
    ///   that was acknowledged before it began. If a greater entry turns up even
    ///   then, it comes from a concurrent write, or from a failed one that landed
    ///   late; the put still succeeds, and the
    ///   [receipt](WriteReceipt::superseded_by) names it.
    /// - **L-PROMISE.** A put that replicas refuse, because an update of a
    ///   [register](crate::Registers) was promised a greater ballot, stamps again,
    ///   past that: the update would not see it.
    /// - **C-MONOTONIC.** No two writes get the same version, whatever the wall
    ///   clock does. Where `2 W > N`, of two acknowledged writes to one key, one
    ///   after the other, the later has the greater version. A write that replicas
    ///   refuse as [too far ahead](crate::Refusal::TooFarAhead), by a clock that is
    ///   ahead of its wall clock, sets that clock back, and stamps again.
    ///
    /// # Errors
    ///
    /// **W-FAIL.** As soon as W acks are out of reach. The error says of each
    /// replica what is known, and of the whole whether the entry may be seen.
    /// If no replica that has answered can have applied it, the write first waits for
    /// the rest, for as long as it has already taken, so that it can say *not applied*.
    /// A failed write is never rolled back.
    pub async fn put(
        &self,
        key: impl Into<Key>,
        value: impl Into<Bytes>,
    ) -> Result<WriteReceipt<N>, WriteError> {
        self.write(Kind::Put, key.into(), Some(value.into()), None)
            .await
    }

    /// As [`put`](Self::put), of a value that expires: it is there for so long from now on,
    /// by this coordinator's clock. More than there are milliseconds in a `u64` is taken
    /// for that.
    ///
    /// The time is kept with the value, at all replicas. A later put replaces both: a
    /// plain one leaves a value that stays.
    ///
    /// - **X-HIDE.** Each reader takes the value for absent once its own clock is past
    ///   that time. Where clocks differ, some may do so earlier than others. Nobody has
    ///   lost it by that.
    /// - **X-SLOWEST.** It is removed only when the clocks of all N replicas are past that
    ///   time, by a delete that a [collection](Self::collect) writes where it finds it; as
    ///   an update of a [register](crate::Registers), so that it removes no other value.
    ///   That needs `R + W > N` and `2 W > N`; under other quorums the value stays, and
    ///   is hidden.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use kvquorum_core::{Coordinator, Replica};
    /// # use kvquorum_mem::MemStore;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let replicas = [(); 3].map(|()| Replica::new(MemStore::new()));
    /// let sessions = Coordinator::<3, 2, 2, _>::new(replicas);
    /// sessions.put_with_ttl("5f3a", "alice", Duration::from_secs(1800)).await?;
    /// assert!(sessions.get("5f3a").await?.is_some());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn put_with_ttl(
        &self,
        key: impl Into<Key>,
        value: impl Into<Bytes>,
        ttl: Duration,
    ) -> Result<WriteReceipt<N>, WriteError> {
        let expires = self.now_millis().saturating_add(whole_millis(ttl));
        let expires = NonZeroU64::new(expires).unwrap_or(NonZeroU64::MIN);
        self.write(Kind::Put, key.into(), Some(value.into()), Some(expires))
            .await
    }

    /// What the wall clock reads.
    pub(crate) fn now_millis(&self) -> u64 {
        self.inner.clock.wall_millis()
    }

    /// Deletes a key: writes a tombstone, in every way as
    /// [`put`](Self::put) writes a value, whether or not there is one.
    ///
    /// The tombstone takes as much room as its key, and stays until it is
    /// [collected](Self::collect).
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub async fn delete(&self, key: impl Into<Key>) -> Result<WriteReceipt<N>, WriteError> {
        self.write(Kind::Delete, key.into(), None, None).await
    }

    /// Reads the value under a key; `None` where there is none.
    ///
    /// - **R-QUORUM.** The answer is the greatest entry among the first R
    ///   answers; a replica that answers "no such key" has answered. A
    ///   tombstone reads as absent, and so does a value that [has
    ///   expired](Self::put_with_ttl).
    /// - **R-REPAIR.** A replica found behind, those that answer after the
    ///   decision included, is sent the greatest entry with its original
    ///   version: in the background, unless set otherwise.
    ///
    /// Replicas that answer at once, as those in the same process do, are asked one
    /// after the other until R have answered. Which one is first varies, so that reads
    /// spread over all replicas. As soon as one does not answer at once, all others are asked
    /// together with it.
    ///
    /// # Errors
    ///
    /// **R-FAIL.** As soon as R answers are out of reach.
    pub async fn get(&self, key: impl Into<Key>) -> Result<Option<Bytes>, ReadError> {
        let reading = self.read(key.into(), self.inner.settings.repair);
        let mut entry: Option<Entry> = reading.await?;
        self.inner.hide_expired(&mut entry);
        Ok(entry.and_then(|entry| entry.value))
    }

    /// As [`get`](Self::get), and tells the entry's version and what each
    /// replica holds.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn get_with_receipt(&self, key: impl Into<Key>) -> Result<ReadReceipt<N>, ReadError> {
        let reading = self.read(key.into(), self.inner.settings.repair);
        let mut receipt: ReadReceipt<N> = reading.await?;
        self.inner.hide_expired(&mut receipt.entry);
        Ok(receipt)
    }

    /// The transports, in order.
    pub fn transports(&self) -> &[T; N] {
        &self.inner.transports
    }

    /// The writer id that this coordinator's versions carry. Versions made to pass an
    /// entry that is too far ahead to follow, or after the clock has stepped back, carry
    /// ids of their own.
    pub fn writer(&self) -> WriterId {
        self.inner.settings.writer
    }

    /// What each replica said of itself when it was first called, in order; `None`
    /// where it was not, or could not be reached. It does not follow a replica that is
    /// opened anew under other settings; it is asked again when another replica is
    /// found at its place.
    ///
    /// If a replica was also called by a coordinator with other
    /// [quorums](Identity::quorums), reads of one coordinator may miss what the other
    /// has acknowledged, and no error reports it. Check this once all coordinators have
    /// started.
    pub fn identities(&self) -> [Option<Identity>; N] {
        self.inner.introductions.identities()
    }

    /// What background work is going on and what it came to, for each replica
    /// in order.
    pub fn stats(&self) -> [ReplicaStats; N] {
        self.inner.background.stats()
    }

    /// How many operations are going on in the background now: decided ones
    /// with calls under way, and those whose callers left before they were
    /// decided.
    pub fn background_tasks(&self) -> usize {
        self.inner.background.tasks()
    }

    /// Waits until no background work is going on: stragglers, repairs, and
    /// operations whose callers left. For a process that is about to end, and
    /// would take them with it.
    ///
    /// It takes no longer than a few [time limits](CoordinatorBuilder::time_limit), unless
    /// further operations are begun meanwhile.
    pub async fn drain(&self) {
        self.inner.background.drain().await;
    }

    fn names(&self) -> [String; N] {
        std::array::from_fn(|replica| self.inner.name(replica))
    }
}

impl<T: Transport, const N: usize> Inner<T, N> {
    /// What a replica's transport is called.
    fn name(&self, replica: usize) -> String {
        let transport = self.transports.get(replica);
        transport.map_or_else(String::new, |it| it.name().to_owned())
    }
}

impl<const N: usize, const W: usize, const R: usize, T> Clone for Coordinator<N, W, R, T> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<const N: usize, const W: usize, const R: usize, T> std::fmt::Debug
    for Coordinator<N, W, R, T>
{
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coordinator")
            .field("n", &N)
            .field("w", &W)
            .field("r", &R)
            .field("writer", &self.inner.settings.writer)
            .finish_non_exhaustive()
    }
}
