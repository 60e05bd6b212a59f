//! What a replica tells when it is asked what is asked seldom.

use serde::{Deserialize, Serialize};

use crate::entry::{Key, Timestamp};
use crate::fingerprint::{Versions, Windows};
use crate::marks::Marks;
use crate::range::{KeyRange, Page};
use crate::record::Record;
use crate::request::Response;

/// What a replica tells when it is asked what is asked seldom. It is apart, so that
/// other responses are quick to move and to drop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Told {
    /// To [`RequestKind::Fingerprint`](crate::RequestKind::Fingerprint): window by window, what the replica holds.
    Windows(Windows),
    /// To [`RequestKind::Versions`](crate::RequestKind::Versions): those in the beginning of the range.
    Versions(Versions),
    /// To [`RequestKind::Status`](crate::RequestKind::Status): how the replica is.
    Status(Status),
    /// To what changes them: the replica's marks.
    Marks(Marks),
    /// To [`RequestKind::Records`](crate::RequestKind::Records): those in the beginning of
    /// the range.
    Records(Records),
    /// To [`RequestKind::Sweep`](crate::RequestKind::Sweep) and
    /// [`RequestKind::Forget`](crate::RequestKind::Forget): what was dropped.
    Swept(Swept),
}

/// What a replica has dropped in the beginning of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// How many records were looked at.
    pub keys: u64,
    /// How many of them held a tombstone that still counts.
    pub tombstones: u64,
    /// From how many of them something was dropped.
    pub dropped: u64,
    /// Under which of them the value has expired.
    pub expired: Vec<Key>,
    /// How far it came, as [of a page](crate::Page::upto).
    pub upto: Option<Key>,
    /// As [of fingerprints](crate::Windows::is_beside_others).
    pub is_beside_others: bool,
}

/// What a replica holds in the beginning of a range, with the ballots that it has
/// promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// In ascending order of the keys.
    pub records: Vec<(Key, Record)>,
    /// How far they go, as [of a page](crate::Page::upto).
    pub upto: Option<Key>,
    /// The replica's [mark](crate::Marks::collected), as [of an entry](crate::Held).
    pub collected: Timestamp,
}

impl From<Told> for Response {
    fn from(told: Told) -> Self {
        Self::Told(Box::new(told))
    }
}

impl Records {
    /// Whether they can be those of this range, and get somewhere in it.
    pub(crate) fn are_of(&self, range: &KeyRange) -> bool {
        let keys = self.records.iter().map(|(key, _)| key);
        Page::is_covered(range, self.upto.as_ref(), keys)
    }
}

impl Swept {
    /// Whether it can be of this range, and gets somewhere in it.
    pub(crate) fn is_of(&self, range: &KeyRange) -> bool {
        Page::is_covered(range, self.upto.as_ref(), [].into_iter())
    }
}

/// How a replica is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its marks.
    pub marks: Marks,
    /// A number that is drawn anew at each start of its process.
    pub boot: u64,
    /// Its clock, in milliseconds since the Unix epoch.
    pub now_millis: u64,
    /// How many keys were copied to it since, if it was joining.
    pub copied: u64,
    /// The last [pass](crate::Coordinator::pass) that ended beside it, since its process
    /// began.
    pub last_pass: Option<LastPass>,
    /// What the last pass that was to [collect](crate::Coordinator::collect) beside it
    /// came to, since its process began.
    pub last_collection: Option<LastCollection>,
}

/// A collection that has ended, as it is [told](crate::Replica::tell_pass) to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCollection {
    /// When, in milliseconds since the Unix epoch, by the replica's clock.
    pub ended_millis: u64,
    /// Why nothing was collected; `None` where something was.
    pub waits: Option<Waits>,
}

/// Why nothing is collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// For which replica, as the coordinator beside this one calls it; `None` where the
    /// pass was not complete.
    pub replica: Option<String>,
    /// The error's text.
    pub reason: String,
    /// Since when it has been so, in milliseconds since the Unix epoch, by the replica's
    /// clock.
    pub since_millis: u64,
}

/// A pass that has ended, as it is [told](crate::Replica::tell_pass) to a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastPass {
    /// When, in milliseconds since the Unix epoch, by the replica's clock.
    pub ended_millis: u64,
    /// How many keys were compared.
    pub keys: u64,
    /// Under how many of them replicas were found to hold unlike entries.
    pub differing: u64,
    /// How many entries each replica lacked, and holds now, in the order of the
    /// coordinator that ran it.
    pub repaired: Vec<u64>,
    /// Whether all replicas were [compared, and took what they
    /// lacked](crate::PassReport::is_complete).
    pub is_complete: bool,
}
