//! What the oracle knows of an operation, of an attempt of a write, and of a
//! call.

use kvquorum_core::Era;
use kvquorum_testing::linearizability::Step;

use super::expiry::Readings;
use super::*;

pub(super) struct Op {
    pub kind: Kind,
    pub coordinator: usize,
    pub client: usize,
    pub key: usize,
    pub ended: bool,
    /// Whether its caller was told that it was not applied.
    pub denied: bool,
    /// What a read, or a write, that begins now must not fall behind.
    pub read_floor: Option<usize>,
    pub write_floor: Option<usize>,
    /// How many entries were known to be acknowledged.
    pub acknowledged: usize,
    pub losses: Vec<u32>,
    /// How many deletes under each key were known to be collected.
    pub dead: Vec<usize>,
    pub wall: u64,
    pub clock_steps: u32,
    /// How many writer ids of its coordinator's clock were known.
    pub writers: usize,
    pub under_way: Vec<u32>,
    /// Of a write.
    pub attempts: Vec<Attempt>,
    /// Greater versions that the acks of superseded attempts told of.
    pub told: Vec<Version>,
    /// Of a read.
    pub reading: Reading,
    /// Of an operation on a register.
    pub ballots: Ballots,
    /// Of a scan.
    pub pages: Vec<PageState>,
    /// How many times a replica did not introduce itself for one of them.
    pub unintroduced: usize,
    /// When it was called, in microseconds.
    pub began: u64,
    /// When it was called, and when it was told what it came to, in ticks.
    pub called: u64,
    pub returned: Option<u64>,
    /// What it did to a register, as its client was told.
    pub step: Option<Step<u64>>,
    /// Whether a replica told it of another era, or that it is joining, or was another
    /// than was meant: it may then ask again, and when it is decided is not looked at.
    pub is_unsettled: bool,
    /// The era in which it asked first.
    pub era: Option<Era>,
    /// Replicas that were to introduce themselves to it, as a set of bits.
    pub introduced: u32,
    /// Whether a replica refused it.
    pub is_refused: bool,
    /// Whether its caller was told that it was acknowledged.
    pub is_acked: bool,
    /// Of a collection: whether it has gone on to what is to be deleted, or dropped.
    pub sweeps: bool,
    /// What each clock of the world has read since, up to when it was touched last.
    pub(super) readings: Vec<Readings>,
    /// How long what it puts is there, unless that is for ever.
    pub ttl: Option<Duration>,
    /// Of a pass: what each replica held under each key when it began.
    pub(super) snapshot: Vec<Vec<collected::Answer>>,
}

impl Op {
    /// It calls a replica: perhaps once more, in another era.
    pub fn asks(&mut self, call: Call, request: &Request, w: usize, most: usize) {
        let bit = 1 << call.end.replica;
        let is_later = self.era.is_some() && request.era.is_some() && request.era != self.era;
        let identifies = matches!(request.kind, RequestKind::Identify { .. });
        let has_asked = if self.era.is_none() {
            // Whoever it called has not said who it is.
            self.introduced & bit != 0 && !call.is_introduced
        } else {
            identifies && self.has_called(bit, w, most)
        };
        self.era = self.era.or(request.era);
        if identifies {
            self.introduced |= bit;
        }
        self.is_unsettled |= is_later || has_asked;
    }

    /// Whether it has called a replica, and nothing it was answered has it call once more.
    fn has_called(&self, bit: u32, w: usize, most: usize) -> bool {
        let Some(attempt) = self.attempts.last() else {
            return self.reading.asked & bit != 0;
        };
        let is_superseded = attempt.acks >= w && !attempt.told_by_all.is_empty();
        let is_stamped_again = (attempt.is_refused || is_superseded) && self.attempts.len() < most;
        attempt.called & bit != 0 && !is_stamped_again
    }

    /// Whether it is stamped past all that was acknowledged before it began.
    pub fn is_past(&self) -> bool {
        self.attempts.last().is_some_and(|last| last.is_past)
    }
}

/// What the replicas have answered to a read.
#[derive(Default)]
pub(super) struct Reading {
    /// Replicas, as a set of bits.
    pub asked: u32,
    /// When a replica first had to be waited for.
    pub waits: Option<u64>,
    pub answered: usize,
    pub failed: usize,
    /// In the order in which they came.
    pub answers: Vec<collected::Answer>,
    pub decided: Option<u64>,
    /// Replicas that answered, as a set of bits, in each era.
    pub answered_in: Eras,
}

/// Replicas, as a set of bits, that answered in each era.
#[derive(Default)]
pub(super) struct Eras(Vec<(Option<Era>, u32)>);

impl Eras {
    pub fn add(&mut self, era: Option<Era>, replica: usize) {
        match self.0.iter_mut().find(|(of, _)| *of == era) {
            Some((_, replicas)) => *replicas |= 1 << replica,
            None => self.0.push((era, 1 << replica)),
        }
    }

    /// Whether so many answered in one era, and these among them.
    pub fn have(&self, many: usize, these: u32) -> bool {
        let mut eras = self.0.iter().map(|(_, replicas)| *replicas);
        eras.any(|replicas| replicas.count_ones() as usize >= many && replicas & these == these)
    }
}

impl Reading {
    pub fn answer(&mut self, answered: &Answered<'_>, quorums: Quorums, now: u64) {
        match answered {
            Answered::Response(Response::Entry(held)) => {
                self.answers.push(collected::Answer::of(held));
                self.answered += usize::from(self.decided.is_none());
            }
            // To a repair.
            Answered::Response(Response::Ack(_)) => {}
            _ => self.failed += 1,
        }
        let Quorums { n, r, .. } = quorums;
        if self.decided.is_none() && (self.answered >= r || self.failed > n - r) {
            self.decided = Some(now);
        }
    }
}

/// One attempt of a write: one version, sent to all replicas.
pub(super) struct Attempt {
    pub began: u64,
    /// Once its entry was sent: replicas may have to introduce themselves first.
    pub stamp: Option<Stamp>,
    /// Whether an earlier attempt was superseded, and what it has to be past then,
    /// as far as the deciding acks told.
    pub is_past: bool,
    pub past: Option<Version>,
    /// What the coordinator's clock was bound to when it began.
    pub bounds: Bounds,
    /// Replicas, as sets of bits. Those that were called, if only to introduce
    /// themselves, and those that were sent the entry and applied it or not.
    pub called: u32,
    pub applied: u32,
    pub superseded: u32,
    pub acks: usize,
    pub failed: usize,
    /// Greater versions that answers told of, and whether a replica refused it, as too
    /// far ahead or because of a promise, be it later than the deciding answer.
    pub told_by_all: Vec<Version>,
    pub is_refused: bool,
    /// Up to the decision: whether a replica that answered may have applied it,
    /// or refused it as too far ahead; and the greatest version that an ack told of,
    /// and that it was refused for.
    pub may_be_applied: bool,
    pub too_far_ahead: bool,
    pub promised: Option<Version>,
    pub told: Option<Version>,
    /// Having failed, it waits so long for it to turn out that it was not applied.
    pub grace: Option<u64>,
    pub decided: Option<u64>,
    /// Replicas that acked it in each era.
    pub acked_in: Eras,
}

impl Attempt {
    pub fn new(began: u64, bounds: Bounds) -> Self {
        Self {
            began,
            stamp: None,
            is_past: false,
            past: None,
            bounds,
            called: 0,
            applied: 0,
            superseded: 0,
            acks: 0,
            failed: 0,
            told_by_all: Vec::new(),
            is_refused: false,
            may_be_applied: false,
            too_far_ahead: false,
            promised: None,
            told: None,
            grace: None,
            decided: None,
            acked_in: Eras::default(),
        }
    }

    pub fn answer(&mut self, answered: &Answered<'_>, quorums: Quorums, now: u64) {
        let before = self.decided.is_none();
        match answered {
            Answered::Response(Response::Ack(ack)) => {
                self.acks += 1;
                self.may_be_applied = true;
                if let Ack::Superseded { by } = ack {
                    self.told_by_all.push(*by);
                    self.told = self.told.max(Some(*by).filter(|_| before));
                }
            }
            answered => {
                self.failed += 1;
                self.may_be_applied |= before && answered.may_have_applied();
                self.is_refused |= answered.is_too_far_ahead();
                self.too_far_ahead |= before && answered.is_too_far_ahead();
                if let Some(by) = answered.refused_past() {
                    self.is_refused = true;
                    self.told_by_all.push(by);
                    self.promised = self.promised.max(Some(by).filter(|_| before));
                }
            }
        }
        let Quorums { n, w, .. } = quorums;
        let out_of_reach = self.failed > n - w;
        let all = self.acks + self.failed == n;
        if before && (self.acks >= w || (out_of_reach && (self.may_be_applied || all))) {
            self.decided = Some(now);
        } else if out_of_reach && self.grace.is_none() {
            self.grace = Some(now + (now - self.began));
        }
    }

    /// Whether all replicas had answered when it was decided, and none of them can
    /// have applied it.
    pub fn is_nowhere(&self, n: usize) -> bool {
        self.failed == n && !self.may_be_applied
    }
}

/// What a call came to.
#[derive(Clone, Copy)]
pub enum Answered<'a> {
    Response(&'a Response),
    Error { may_have_applied: bool },
    Panic,
    TimedOut,
}

impl Answered<'_> {
    fn may_have_applied(self) -> bool {
        match self {
            Self::Response(Response::Refused(refusal)) => refusal.may_have_applied(),
            Self::Response(_) => true,
            Self::Error { may_have_applied } => may_have_applied,
            Self::Panic | Self::TimedOut => true,
        }
    }

    /// The version that what was refused has to go past.
    pub(super) fn refused_past(self) -> Option<Version> {
        let Self::Response(Response::Refused(refusal)) = self else {
            return None;
        };
        match refusal {
            Refusal::Promised { by } | Refusal::Superseded { by } => Some(*by),
            Refusal::Before { to } => Some(Version {
                timestamp: *to,
                writer: WriterId::ANONYMOUS,
            }),
            _ => None,
        }
    }

    pub(super) fn is_refusal(self) -> bool {
        matches!(self, Self::Response(Response::Refused(_)))
    }

    /// Whether it tells that more is going on than one round of calls.
    pub(super) fn unsettles(self) -> bool {
        let Self::Response(Response::Refused(refusal)) = self else {
            return false;
        };
        matches!(
            refusal,
            Refusal::Stale { .. } | Refusal::Joining { .. } | Refusal::OtherReplica { .. }
        )
    }

    pub(super) fn is_too_far_ahead(self) -> bool {
        let Self::Response(response) = self else {
            return false;
        };
        matches!(response, Response::Refused(Refusal::TooFarAhead { .. }))
    }
}

/// The client's end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub coordinator: usize,
    pub replica: usize,
}

#[derive(Clone, Copy)]
pub(super) struct Call {
    pub end: End,
    pub op: Option<usize>,
    /// Which era it is of.
    pub era: Option<Era>,
    /// Whether it is no part of an operation's quorum.
    pub is_aside: bool,
    /// Whether the replica was asked who it is just before, or is because another was met
    /// than was meant: it is not asked once more.
    pub is_introduced: bool,
    /// Of a write; or of an update, which ballot; or of a scan, which page.
    pub attempt: usize,
    /// When it, or the introduction before it, set out.
    pub started: u64,
    /// Whether the replica is to introduce itself, and the call proper comes next.
    pub introduces: bool,
    /// Whether it asks for what a replica holds, or introduces for that.
    pub reads: bool,
    /// Whether it is a page of a scan, or may repair what a page found: that is given
    /// up when nobody wants the scan any more, or when the time for all of its repairs
    /// is over.
    pub scans: bool,
}
