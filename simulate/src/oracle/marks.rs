//! Replicas that lost their data, and the eras that their rejoins begin: rules J-ERA
//! and J-SILENT.

use kvquorum_core::{Entry, Marks, Told as Seldom};

use super::*;

/// What a replica tells, in short.
pub(super) fn show(told: &Seldom) -> String {
    let marks = |marks: &Marks| {
        let is = if marks.is_joining { "joining" } else { "ready" };
        let Floors { sealed, collected } = Floors::of(marks);
        let (era, of) = (marks.era, marks.announced);
        format!("{is} in era {era} of {of}, sealed up to {sealed}, collected up to {collected}")
    };
    match told {
        Seldom::Status(status) => marks(&status.marks),
        Seldom::Marks(told) => marks(told),
        Seldom::Records(told) => format!("{} records", told.records.len()),
        Seldom::Windows(told) => format!("{} windows", told.windows.len()),
        Seldom::Versions(told) => format!("{} versions", told.versions.len()),
        _ => "something else".into(),
    }
}

impl Oracle {
    /// Whether a replica has yet to copy what its peers hold, by what its store keeps of
    /// it: see `Marks`. That of one whose store is empty has.
    pub fn is_joining(&self, replica: usize) -> bool {
        let record = (self.replicas[replica].look)(&Key::from(""));
        let value = record.and_then(Record::into_entry);
        let value = value.and_then(|entry| entry.value);
        value.is_none_or(|marks| marks.get(1) == Some(&1))
    }

    /// How many replicas are joining.
    pub fn joining(&self) -> impl Iterator<Item = usize> {
        (0..self.quorums.n).filter(|replica| self.is_joining(*replica))
    }

    /// J-ERA and J-SILENT: a replica never goes back to an earlier era, nor has to join
    /// again, unless it loses its data.
    pub fn marked(&mut self, replica: usize, marks: Marks) {
        let era = marks.era.get();
        let numbers = [
            20,
            era,
            marks.announced.get(),
            u64::from(marks.is_joining),
            marks.sealed.to_bits(),
            marks.collected.to_bits(),
        ];
        self.log(Who::Replica(replica), &numbers, || {
            let is = if marks.is_joining { "joining" } else { "ready" };
            let announced = marks.announced;
            let Floors { sealed, collected } = Floors::of(&marks);
            format!(
                "is {is} in era {era}, and {announced} is announced; sealed up to {sealed}, \
                 collected up to {collected}"
            )
        });
        self.floors_marked(replica, Floors::of(&marks), marks.is_joining);
        let state = &mut self.replicas[replica];
        let before = state.era;
        // As of the floors, an answer may come after that to a later change.
        state.era = match state.swaps {
            Some(_) => era.max(before),
            None => era,
        };
        if state.era < before {
            self.broken("J-ERA", || {
                format!("replica {replica} goes back from era {before} to {era}")
            });
        }
    }

    /// The first replica that has its data.
    pub fn first_ready(&self) -> Option<usize> {
        (0..self.quorums.n).find(|replica| !self.is_joining(*replica))
    }

    /// What a replica's store holds under a key.
    pub fn look(&self, replica: usize, key: &Key) -> Option<Record> {
        (self.replicas[replica].look)(key)
    }

    /// The entries that a replica's store holds.
    pub fn all_held(&self, replica: usize) -> impl Iterator<Item = (Key, Entry)> {
        let keys = (0..self.keys.len()).map(key);
        keys.filter_map(move |key| {
            let entry = self.look(replica, &key)?.into_entry()?;
            Some((key, entry))
        })
    }

    /// Whether it is one of this kind.
    pub fn is_of(&self, op: Option<usize>, kind: Kind) -> bool {
        op.is_some_and(|op| self.ops[op].kind == kind)
    }

    /// Whether it is a collection that deletes what has expired.
    pub fn sweeps(&self, op: Option<usize>) -> bool {
        op.is_some_and(|op| self.ops[op].sweeps)
    }

    /// How often the process of a replica has ended.
    pub fn lives(&self, replica: usize) -> usize {
        self.replicas[replica].lives.len()
    }

    /// Whether the rejoin has ended, or another has begun, of which a request was admitted.
    pub(super) fn has_moved_on(&self, replica: usize, admitted: &Admitted) -> bool {
        let state = &self.replicas[replica];
        !self.is_joining(replica) || (state.lives.len(), state.era) != (admitted.life, admitted.era)
    }

    /// A replica that is joining is sent what its peers hold.
    pub(super) fn store_copied(
        &mut self,
        replica: usize,
        index: usize,
        record: &Record,
        response: &Response,
        may_refuse: bool,
    ) {
        self.counts.copied += 1;
        let copied = Held::of(Some(record));
        let [a, b, c] = Stamp::numbers(copied.entry);
        self.log(Who::Replica(replica), &[21, index as u64, a, b, c], || {
            format!("copies k{index} {copied}")
        });
        match response {
            Response::Ack(_) => {}
            Response::Refused(Refusal::NotJoining) if may_refuse => return,
            _ => {
                self.broken("J-COPY", || {
                    format!("replica {replica} is joining, and refuses a copy: {response:?}")
                });
                return;
            }
        }
        let state = &mut self.replicas[replica];
        if state.swaps.is_none() {
            let held = &mut state.holds[index];
            held.entry = held.entry.max(copied.entry);
            held.anchor = held.anchor.max(copied.anchor);
        }
        if let Some(stamp) = copied.entry {
            self.taken_in(replica, index, stamp, Ack::Applied);
        }
    }

    /// One that is about to be copied to drops what is stamped before the mark of its peers,
    /// until that is its own.
    pub(super) fn store_forgot(
        &mut self,
        replica: usize,
        index: usize,
        before: Timestamp,
        response: &Response,
    ) {
        let state = &mut self.replicas[replica];
        let held = state.holds[index];
        let is_older = |stamp: Stamp| stamp.version.timestamp < before;
        if !matches!(response, Response::Ack(_))
            || state.swaps.is_some()
            || state.in_force.collected >= before
            || !held.entry.is_some_and(is_older)
        {
            return;
        }
        state.holds[index].entry = None;
        self.log(Who::Replica(replica), &[28, index as u64], || {
            format!("drops k{index}: {held}, which is from before {before:?}")
        });
    }

    /// Whether a call is no part of a quorum of its operation.
    pub(super) fn is_aside(&self, op: Option<usize>, request: &Request) -> bool {
        let op = op.map(|op| &self.ops[op]);
        match request.kind {
            _ if op.is_some_and(|op| op.kind.is_driven()) => true,
            RequestKind::Identify { .. } => op.is_some_and(|op| op.is_unsettled),
            RequestKind::Read { .. }
            | RequestKind::Write { .. }
            | RequestKind::Repair { .. }
            | RequestKind::Prepare { .. }
            | RequestKind::Scan { .. } => false,
            _ => true,
        }
    }

    /// What operations of many steps write: repairs, and what settles a key. Tells which
    /// ballot a replica is to promise.
    pub(super) fn classify_aside(
        &mut self,
        op: Option<usize>,
        end: End,
        request: &Request,
    ) -> Option<usize> {
        if let RequestKind::Seal { to } = &request.kind {
            self.seal_asked(*to);
        }
        let op = op.filter(|op| self.ops[*op].kind.is_driven())?;
        match &request.kind {
            RequestKind::Write { key, entry } => {
                self.accepting(op, end.replica, key, Stamp::of(entry));
            }
            RequestKind::Repair { key, entry } => {
                self.repairing(end, key, Stamp::of(entry), true);
            }
            RequestKind::Prepare { key, ballot } => {
                return self.preparing(op, end.replica, key, *ballot, true);
            }
            RequestKind::Sweep { .. } => self.ops[op].sweeps = true,
            _ => {}
        }
        None
    }

    pub(super) fn answered_aside(&mut self, call: Call, answered: &Answered<'_>) {
        let Some(op) = call.op else { return };
        if let Answered::Response(Response::Told(told)) = answered
            && let Seldom::Records(told) = &**told
        {
            let anchors = told
                .records
                .iter()
                .filter_map(|(_, record)| record.anchor());
            self.ops[op].ballots.hear(anchors);
        }
        if answered.is_refusal() && !answered.unsettles() && self.ops[op].kind == Kind::Handoff {
            self.coordinators[call.end.coordinator].hint_refused = true;
        }
        self.answered_update(call, answered);
    }

    /// J-ERA: what counts together is of one era.
    pub(super) fn check_era(&mut self, index: usize, acked: u32) {
        let w = self.quorums.w;
        let op = &self.ops[index];
        let mut attempts = op.attempts.iter().rev();
        if !attempts.any(|attempt| attempt.acked_in.have(w, acked)) {
            self.broken("J-ERA", || {
                format!("#{index} counts acks of several eras together")
            });
        }
    }

    /// A rejoin has ended; `Ok` where the replica is to be ready now.
    pub fn rejoined(&mut self, index: usize, replica: usize, told: Result<(), String>) {
        let numbers = [22, index as u64, replica as u64, u64::from(told.is_ok())];
        self.log(Who::Client(self.ops[index].client), &numbers, || {
            format!("#{index} has replica {replica} rejoin: {told:?}")
        });
        self.finish(index);
        if told.is_err() {
            return;
        }
        self.counts.rejoined += 1;
        let is_lost = self.ops[index].losses[replica] != self.replicas[replica].losses;
        if !is_lost && self.is_joining(replica) {
            self.broken("J-COPY", || {
                format!("#{index} says that replica {replica} is ready, and it is not")
            });
        }
    }
}
