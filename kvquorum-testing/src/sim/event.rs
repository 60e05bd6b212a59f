//! What a storm tells of what it did.

use std::fmt;
use std::time::Duration;

use super::Survives;

/// Something that a storm did. Links are named by the number of their client,
/// in the order of [`Cluster::links`](super::Cluster::links), and of their node; clocks by their
/// number in the order of [`World::clock`](super::World::clock), those of
/// nodes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A link has another latency now.
    Latency {
        /// The link's client and node.
        link: (usize, usize),
        /// Of each message.
        range: (Duration, Duration),
    },
    /// A link loses messages now.
    Loss {
        /// The link's client and node.
        link: (usize, usize),
        /// How many requests in a hundred.
        requests: u32,
        /// How many responses in a hundred.
        responses: u32,
    },
    /// A link delivers requests twice now.
    Duplication {
        /// The link's client and node.
        link: (usize, usize),
        /// How many in a hundred.
        percent: u32,
    },
    /// A link is cut.
    Cut {
        /// The link's client and node.
        link: (usize, usize),
        /// Whether requests are.
        requests: bool,
        /// Whether responses are.
        responses: bool,
    },
    /// All links to a node are cut.
    Isolated {
        /// The node.
        node: usize,
    },
    /// A link hangs.
    Hung {
        /// The link's client and node.
        link: (usize, usize),
    },
    /// Cuts and hangs of a link have ended.
    Reconnected {
        /// The link's client and node.
        link: (usize, usize),
    },
    /// Cuts and hangs of all links to a node have ended.
    Rejoined {
        /// The node.
        node: usize,
    },
    /// A node is down.
    Crashed {
        /// The node.
        node: usize,
        /// What is left of its data.
        survives: Survives,
    },
    /// All nodes are down.
    Blackout {
        /// What is left of the data of each.
        survives: Survives,
    },
    /// A node is up.
    Restarted {
        /// The node.
        node: usize,
    },
    /// A node is down, and its disk holds what a [backup](super::Backup) held. No
    /// [`Storm`](super::Storm) does this.
    Restored {
        /// The node.
        node: usize,
    },
    /// A node's disk is synced.
    Synced {
        /// The node.
        node: usize,
    },
    /// A wall clock was set.
    ClockSet {
        /// The clock.
        clock: usize,
        /// How far it is ahead of the true time now.
        skew_millis: i64,
    },
    /// A wall clock runs at another rate.
    ClockRate {
        /// The clock.
        clock: usize,
        /// The rate: a million is right.
        per_million: u32,
    },
}

impl Event {
    /// The kind of event, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Latency { .. } => "latency",
            Self::Loss { .. } => "loss",
            Self::Duplication { .. } => "duplication",
            Self::Cut {
                requests: true,
                responses: true,
                ..
            } => "partition",
            Self::Cut { .. } => "one-way partition",
            Self::Isolated { .. } => "isolation",
            Self::Hung { .. } => "hang",
            Self::Reconnected { .. } | Self::Rejoined { .. } => "reconnection",
            Self::Blackout { survives } => match survives {
                Survives::All => "blackout, all kept",
                Survives::Synced => "blackout, tail lost",
                Survives::Nothing => "blackout, all lost",
            },
            Self::Crashed { survives, .. } => match survives {
                Survives::All => "crash, all kept",
                Survives::Synced => "crash, tail lost",
                Survives::Nothing => "crash, all lost",
            },
            Self::Restored { .. } => "backup restored",
            Self::Restarted { .. } => "restart",
            Self::Synced { .. } => "sync",
            Self::ClockSet { .. } => "clock step",
            Self::ClockRate { .. } => "clock rate",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Self::Latency { link, range } => {
                write!(f, " {}→{}: {:?} to {:?}", link.0, link.1, range.0, range.1)
            }
            Self::Loss {
                link,
                requests,
                responses,
            } => write!(
                f,
                " {}→{}: {requests} % there, {responses} % back",
                link.0, link.1
            ),
            Self::Duplication { link, percent } => {
                write!(f, " {}→{}: {percent} %", link.0, link.1)
            }
            Self::Cut {
                link,
                requests,
                responses,
            } => {
                let ways = match (requests, responses) {
                    (true, true) => "both ways",
                    (true, false) => "requests",
                    _ => "responses",
                };
                write!(f, " {}→{}: {ways}", link.0, link.1)
            }
            Self::Hung { link } | Self::Reconnected { link } => {
                write!(f, " {}→{}", link.0, link.1)
            }
            Self::Isolated { node }
            | Self::Rejoined { node }
            | Self::Crashed { node, .. }
            | Self::Restored { node }
            | Self::Restarted { node }
            | Self::Synced { node } => write!(f, " of node {node}"),
            Self::Blackout { .. } => Ok(()),
            Self::ClockSet { clock, skew_millis } => {
                write!(f, " of clock {clock}: {skew_millis:+} ms ahead")
            }
            Self::ClockRate { clock, per_million } => {
                write!(f, " of clock {clock}: {per_million} millionths")
            }
        }
    }
}
