//! What travels over a [`Transport`](crate::Transport): requests, responses and refusals.

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Key, Timestamp, Version};
use crate::fingerprint::{FingerprintRequest, VersionsRequest};
use crate::identity::{Identity, Quorums, ReplicaId};
use crate::marks::Era;
use crate::range::{KeyRange, Page};
use crate::record::Record;
use crate::store::ScanLimit;
use crate::told::Told;

/// What a coordinator asks of a replica.
///
/// Every request is idempotent: delivering it twice, or late, does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The replica that is meant: another one [refuses](Refusal::OtherReplica).
    /// `None` means whichever it is.
    pub to: Option<ReplicaId>,
    /// The era that it is of (rule J-ERA): a replica that is in a later one
    /// [refuses](Refusal::Stale), and one that is in an earlier one enters it first. `None`
    /// means whichever it is: its answer counts for itself alone.
    pub era: Option<Era>,
    /// What is asked.
    pub kind: RequestKind,
}

/// What a [`Request`] asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RequestKind {
    /// Read the entry under a key. Answered by [`Response::Entry`].
    Read {
        /// The key.
        key: Key,
    },
    /// Write an entry under a key, unless a greater one is held. Answered by
    /// [`Response::Ack`].
    Write {
        /// The key.
        key: Key,
        /// The entry.
        entry: Entry,
    },
    /// Say who you are, to a coordinator with these quorums. Answered by
    /// [`Response::Identity`].
    Identify {
        /// The coordinator's quorums, for the replica to remember.
        quorums: Option<Quorums>,
    },
    /// Read the entries in the beginning of a range. Answered by
    /// [`Response::Page`].
    Scan {
        /// The range.
        range: KeyRange,
        /// How many entries the page may hold. The replica has a
        /// [limit](crate::Limits::max_scan_keys) of its own.
        max_keys: u64,
        /// How many bytes of keys and records it may hold, as
        /// [`ScanLimit::max_bytes`] counts them. The replica has a
        /// [limit](crate::Limits::max_scan_bytes) of its own.
        max_bytes: u64,
    },
    /// Promise to take nothing under a key that is below this ballot, from now on,
    /// and tell the entry: the first phase of an update. Answered by
    /// [`Response::Promise`].
    Prepare {
        /// The key.
        key: Key,
        /// The version that the update is going to write under.
        ballot: Version,
    },
    /// Tell what is held in the beginning of a range by few bytes. Answered by
    /// [`Told::Windows`].
    Fingerprint(Box<FingerprintRequest>),
    /// Tell the versions in the beginning of a range. Answered by
    /// [`Told::Versions`].
    Versions(Box<VersionsRequest>),
    /// Say how you are. Answered by [`Told::Status`].
    Status,
    /// Take note that an era is about to begin, which has to be greater than all that
    /// were announced before. Answered by [`Told::Marks`].
    Announce {
        /// The era.
        era: Era,
    },
    /// To a replica that is joining: begin to copy, in the era of the request. Answered by
    /// [`Told::Marks`].
    Join {
        /// The start of the process that is meant.
        boot: u64,
        /// The greatest [mark](crate::Marks::sealed) of those that are copied from.
        sealed: Timestamp,
        /// The greatest [mark](crate::Marks::collected) of those that are copied from.
        collected: Timestamp,
    },
    /// Read the records in the beginning of a range, for one that is joining. Answered
    /// by [`Told::Records`].
    Records {
        /// The range.
        range: KeyRange,
        /// As of [`Scan`](Self::Scan).
        max_keys: u64,
        /// As of [`Scan`](Self::Scan).
        max_bytes: u64,
    },
    /// To a replica that is joining: keep what your peers hold under a key. Answered by
    /// [`Response::Ack`].
    Copy {
        /// The key.
        key: Key,
        /// Their greatest entry, and the greatest ballot that any of them has promised.
        record: Record,
    },
    /// To a replica that is joining: all is copied, answer from now on. Answered by
    /// [`Told::Marks`].
    Open {
        /// The start of the process that is meant.
        boot: u64,
    },
    /// Take no new entry and no ballot from now on that is stamped before this (rule
    /// G-SEAL). Answered by [`Told::Status`].
    Seal {
        /// The timestamp. One past the replica's clock is
        /// [refused](Refusal::TooFarAhead).
        to: Timestamp,
    },
    /// Every replica holds at least the greatest entry under each key that was stamped
    /// before this: tombstones from before it are no longer needed (rule G-COLLECT).
    /// Answered by [`Told::Marks`].
    Collect {
        /// The timestamp. The replica must be sealed up to it.
        to: Timestamp,
        /// The start of the process that was sealed. One that has started anew since may
        /// have been given back data from before.
        boot: u64,
    },
    /// Drop what counts no more in the beginning of a range: tombstones and anchors that
    /// are [collected](crate::Marks::collected). And tell under which keys the value has
    /// expired. Answered by [`Told::Swept`].
    Sweep {
        /// The range.
        range: KeyRange,
        /// How many records the replica looks at at the most. It has a
        /// [limit](crate::Limits::max_hashed_keys) of its own.
        max_keys: u64,
        /// By when values have expired that are told, in milliseconds since the Unix
        /// epoch. 0 tells of none.
        expired_by: u64,
    },
    /// Write an entry that a replica held when it was read, in the era of the request,
    /// unless a greater one is held. Answered by [`Response::Ack`].
    Repair {
        /// The key.
        key: Key,
        /// The entry, with its original version.
        entry: Entry,
    },
    /// To a replica that is joining: drop the entries in the beginning of a range that are
    /// stamped before this, which is to be your mark. Answered by [`Told::Swept`].
    Forget {
        /// The range.
        range: KeyRange,
        /// As of [`Sweep`](Self::Sweep).
        max_keys: u64,
        /// The greatest [mark](crate::Marks::collected) of those that are copied from.
        before: Timestamp,
    },
}

impl Request {
    /// To whichever replica it is: read the entry under a key.
    pub fn read(key: impl Into<Key>) -> Self {
        let key = key.into();
        Self::of(RequestKind::Read { key })
    }

    /// To whichever replica it is: write an entry under a key.
    pub fn write(key: impl Into<Key>, entry: Entry) -> Self {
        let key = key.into();
        Self::of(RequestKind::Write { key, entry })
    }

    /// To whichever replica it is: write an entry that a replica holds.
    pub fn repair(key: impl Into<Key>, entry: Entry) -> Self {
        let key = key.into();
        Self::of(RequestKind::Repair { key, entry })
    }

    /// To whichever replica it is: promise a ballot for a key.
    pub fn prepare(key: impl Into<Key>, ballot: Version) -> Self {
        let key = key.into();
        Self::of(RequestKind::Prepare { key, ballot })
    }

    /// To whichever replica it is: say who you are.
    pub fn identify() -> Self {
        Self::of(RequestKind::Identify { quorums: None })
    }

    /// To whichever replica it is: say how you are.
    pub fn status() -> Self {
        Self::of(RequestKind::Status)
    }

    /// To whichever replica it is: read the entries in the beginning of a range.
    pub fn scan(range: impl Into<KeyRange>, limit: ScanLimit) -> Self {
        Self::of(RequestKind::Scan {
            range: range.into(),
            max_keys: limit.max_keys as u64,
            max_bytes: limit.max_bytes as u64,
        })
    }

    /// In an era.
    #[must_use]
    pub(crate) fn in_era(mut self, era: Era) -> Self {
        self.era = Some(era);
        self
    }

    /// To whichever replica it is, in whichever era.
    pub fn of(kind: RequestKind) -> Self {
        Self {
            to: None,
            era: None,
            kind,
        }
    }

    /// The key that it is about; `None` where it is about none.
    pub fn key(&self) -> Option<&Key> {
        match &self.kind {
            RequestKind::Read { key }
            | RequestKind::Write { key, .. }
            | RequestKind::Repair { key, .. }
            | RequestKind::Prepare { key, .. }
            | RequestKind::Copy { key, .. } => Some(key),
            _ => None,
        }
    }

    /// Gives the entry to be written another version.
    pub(crate) fn restamp(&mut self, version: Version) {
        if let RequestKind::Write { entry, .. } = &mut self.kind {
            entry.version = version;
        }
    }
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response {
    /// To [`RequestKind::Read`]: what is held under the key.
    Entry(Held),
    /// To [`RequestKind::Write`] and [`RequestKind::Repair`]: the ack.
    Ack(Ack),
    /// To any request: the replica did not admit it, and nothing has changed.
    Refused(Refusal),
    /// To [`RequestKind::Identify`]: who the replica is.
    Identity(Box<Identity>),
    /// To [`RequestKind::Scan`]: what the replica holds in the beginning of the
    /// range.
    Page(Box<Page>),
    /// To [`RequestKind::Prepare`]: the ballot is promised, and this is held under the
    /// key.
    Promise(Held),
    /// To what is asked seldom.
    Told(Box<Told>),
}

/// What a replica holds under a key, and up to when it has forgotten what was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The replica's [mark](crate::Marks::collected). An answer with a greater one says
    /// more of what is stamped before it (rule G-VOID).
    pub collected: Timestamp,
    /// The entry, a tombstone included, or that there is none that counts.
    pub entry: Option<Entry>,
}

/// Of a replica that has collected nothing.
impl From<Option<Entry>> for Held {
    fn from(entry: Option<Entry>) -> Self {
        let collected = Timestamp::MIN;
        Self { entry, collected }
    }
}

/// A replica's confirmation that its store holds the entry of a write, or a
/// greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ack {
    /// The store holds exactly this entry, from now on or since before.
    Applied,
    /// The store holds a greater entry and kept it.
    Superseded {
        /// The version of the greater entry. It can equal the version that
        /// was written, where one writer's id is used by two.
        by: Version,
    },
}

/// Why a replica did not admit a request. Nothing was stored, unless it is
/// [said](Self::may_have_applied).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// The key is empty.
    #[error("the key is empty")]
    EmptyKey,
    /// The key is longer than the replica admits.
    #[error("the key has {len} bytes, and the replica admits at most {max}")]
    KeyTooLong {
        /// The key's length in bytes.
        len: u64,
        /// The replica's limit in bytes.
        max: u64,
    },
    /// The value is larger than the replica admits.
    #[error("the value has {len} bytes, and the replica admits at most {max}")]
    ValueTooLarge {
        /// The value's length in bytes.
        len: u64,
        /// The replica's limit in bytes.
        max: u64,
    },
    /// The entry, or the ballot, is stamped further ahead of the replica's clock
    /// than it admits (rule C-DRIFT), and what is held under the key is not: one of
    /// the two clocks is wrong.
    #[error(
        "it is stamped {} ms, the replica's clock reads {now_millis} ms, \
         and it admits at most {max_drift_millis} ms between them",
        timestamp.millis()
    )]
    TooFarAhead {
        /// The timestamp of the entry or the ballot.
        timestamp: Timestamp,
        /// The replica's clock, in milliseconds since the Unix epoch.
        now_millis: u64,
        /// How far ahead of its clock the replica admits, in milliseconds.
        max_drift_millis: u64,
    },
    /// Another replica was meant.
    #[error("this is replica {is}, and another was meant")]
    OtherReplica {
        /// Which replica it is.
        is: ReplicaId,
    },
    /// To a write or a ballot: a greater ballot is promised under the key (rule
    /// L-PROMISE).
    #[error("a greater ballot is promised, and the version to go past is {by}")]
    Promised {
        /// The version to go past: the promised ballot, or that of the entry where
        /// it is greater.
        by: Version,
    },
    /// To a ballot: a greater entry is held under the key.
    #[error("an entry of version {by} is held, which is greater than the ballot")]
    Superseded {
        /// The entry's version.
        by: Version,
    },
    /// The request is of an older era (rule J-ERA), or announces one that is not greater
    /// than those before. Where the replica has entered the later era while it was at
    /// it, the store may have done what was asked; it counts for nothing all the same.
    #[error("replicas have rejoined since, and it is era {era} now")]
    Stale {
        /// The era that the replica is in, or the greatest that was announced to it.
        era: Era,
    },
    /// The replica has yet to copy what its peers hold: it lost its data, or is new
    /// (rule J-SILENT).
    #[error("{}", joining(*has_begun))]
    Joining {
        /// Whether it has begun to.
        has_begun: bool,
    },
    /// To what only a replica that is joining takes: it is not, or not by this attempt.
    #[error("it is not joining, or not by this attempt")]
    NotJoining,
    /// The request is of an era, or announces one, that is so far past all that the
    /// replica knows of that no rejoins can have led there (rule J-ERA). Taken, it could
    /// be the last that there is.
    #[error("it is era {era} here, and the one asked for is too far ahead of it")]
    EraTooFarAhead {
        /// The greatest era that the replica knows of.
        era: Era,
    },
    /// To a new entry or a ballot: it is stamped before what the replica is
    /// [sealed](crate::Marks::sealed) up to (rule G-SEAL). To a repair: before what it has
    /// [collected](crate::Marks::collected).
    #[error("what is stamped before {} ms is not taken any more", to.millis())]
    Before {
        /// From when on it is taken; or the timestamp of what is held, where that is later.
        to: Timestamp,
    },
    /// To [`RequestKind::Collect`]: the replica has started anew since it was sealed, or
    /// was not sealed so far.
    #[error("it was not sealed so far since it has started")]
    NotSealed,
}

fn joining(has_begun: bool) -> &'static str {
    match has_begun {
        true => "it lost its data, and has yet to copy what the other replicas hold",
        false => "it is new or lost its data, and waits for the other replicas",
    }
}
