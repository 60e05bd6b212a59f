//! What goes over links: rules W-ALL, W-FINISH, W-CANCEL, R-REPAIR and
//! C-MONOTONIC, time limits, and the bound on background work.

use super::*;

impl Oracle {
    /// A call that sets out. `op` is the operation whose caller drives it.
    pub fn call_started(
        &mut self,
        coordinator: usize,
        replica: usize,
        request: &Request,
        op: Option<usize>,
    ) -> usize {
        self.counts.calls += 1;
        let mut attempt = 0;
        if let Request::Merge { key, entry } = request {
            let (key, stamp) = (index_of(key), Stamp::of(entry));
            match op {
                Some(op) if self.ops[op].kind != Kind::Get => {
                    attempt = self.stamped(op, replica, key, stamp);
                }
                _ => self.repairing(coordinator, replica, key, stamp),
            }
        }
        let state = &mut self.coordinators[coordinator];
        state.under_way += 1;
        match op {
            Some(op) if !self.ops[op].ended => self.ops[op].under_way[replica] += 1,
            _ => state.background[replica] += 1,
        }
        self.check_background(coordinator, replica);
        self.calls.push(Some(Call {
            coordinator,
            replica,
            op,
            attempt,
            started: self.now(),
        }));
        self.calls.len() - 1
    }

    /// A write sends its entry to a replica: its first stamp, or a later one.
    pub(super) fn stamped(
        &mut self,
        op_index: usize,
        replica: usize,
        key: usize,
        stamp: Stamp,
    ) -> usize {
        let quorums = self.quorums;
        let op = &mut self.ops[op_index];
        if let Some(last) = op.stamps.last_mut().filter(|last| last.stamp == stamp) {
            last.sent |= 1 << replica;
            return op.stamps.len() - 1;
        }
        let attempt = op.stamps.len();
        let (kind, client, last) = (op.kind, op.client, op.stamps.last().map(|last| last.stamp));
        let coordinator = op.coordinator;
        let own = key == op.key
            && match op.kind {
                Kind::Delete => stamp.tombstone,
                _ => stamp.value.reverse_bits() == op_index as u64,
            };
        let refused = op.is_refused_as_lent(quorums);
        op.stamps.push(Stamped {
            stamp,
            lent: false,
            too_far_ahead: 0,
            sent: 1 << replica,
            applied: 0,
            superseded: 0,
        });
        op.acks = 0;
        op.failed = 0;
        op.decided = None;
        let origin = self.keys[key].origins.entry(stamp).or_default();
        origin.makers.push((op_index, attempt));
        let [a, b, c] = Stamp::numbers(Some(stamp));
        self.log(Who::Client(client), &[4, key as u64, a, b, c], || {
            format!("  stamps #{op_index} as {stamp}")
        });
        if !own {
            self.broken("nothing that nobody wrote", || {
                format!("operation #{op_index} sends {stamp} under k{key}")
            });
        }
        if kind == Kind::Foreign {
            return attempt;
        }
        if refused {
            self.refused_as_lent(op_index);
        } else if last >= Some(stamp) {
            self.broken("C-MONOTONIC", || {
                format!(
                    "operation #{op_index} was stamped {}, then {stamp}",
                    show(last)
                )
            });
        }
        let state = &mut self.coordinators[coordinator];
        let bits = stamp.version.timestamp.to_bits();
        let must_exceed = state.must_exceed.max(state.not_before);
        if attempt > 0 {
            self.counts.restamped += 1;
        } else if state.lends(bits) {
            state.not_before = bits;
            self.ops[op_index].stamps[0].lent = true;
        } else {
            state.must_exceed = state.must_exceed.max(bits);
        }
        if bits <= must_exceed {
            self.broken("C-MONOTONIC", || {
                format!("coordinator {coordinator} stamps {bits:#x} after it knew {must_exceed:#x}")
            });
        }
        attempt
    }

    /// A timestamp past one from before a restart was refused. Neither binds the
    /// coordinator any more, nor counts the attempt as one past what was
    /// acknowledged.
    pub(super) fn refused_as_lent(&mut self, index: usize) {
        let op = &mut self.ops[index];
        op.refused += 1;
        self.coordinators[op.coordinator].not_before = 0;
    }

    pub(super) fn repairing(
        &mut self,
        coordinator: usize,
        replica: usize,
        key: usize,
        stamp: Stamp,
    ) {
        self.counts.repairs += 1;
        let [a, b, c] = Stamp::numbers(Some(stamp));
        let numbers = [5, coordinator as u64, key as u64, a, b, c];
        self.log(Who::Replica(replica), &numbers, || {
            format!("  coordinator {coordinator} repairs k{key} with {stamp}")
        });
        if !self.keys[key].origins.contains_key(&stamp) {
            self.broken("R-REPAIR", || {
                format!("coordinator {coordinator} repairs with {stamp}, which nobody wrote")
            });
        }
        if !self.coordinators[coordinator].settings.repairs {
            self.broken("R-REPAIR", || {
                format!("coordinator {coordinator} repairs, and was told not to")
            });
        }
    }

    /// A call that came to its end.
    pub fn call_answered(&mut self, call: usize, response: Option<&Response>) {
        let Some((call, now)) = self.call_ended(call) else {
            return;
        };
        let code = match response {
            Some(Response::Entry(_)) => 1,
            Some(Response::Merged(Merged::Applied)) => 2,
            Some(Response::Merged(_)) => 3,
            Some(_) => 4,
            None => 5,
        };
        if code == 4 {
            self.counts.refused += 1;
        }
        let who = call.op.map_or(Who::Replica(call.replica), |op| {
            Who::Client(self.ops[op].client)
        });
        self.log(who, &[6, call.replica as u64, code], || {
            let what = match response {
                Some(Response::Entry(entry)) => show(entry.as_ref().map(Stamp::of)),
                Some(Response::Merged(Merged::Applied)) => "applied".into(),
                Some(Response::Merged(_)) => "superseded".into(),
                Some(Response::Refused(refusal)) => format!("refused: {refusal}"),
                _ => "an error".into(),
            };
            format!("  replica {} answers: {what}", call.replica)
        });
        let Quorums { n, w, r } = self.quorums;
        let Some(op) = call.op.map(|op| &mut self.ops[op]) else {
            return;
        };
        if op.ended || (op.kind != Kind::Get && call.attempt + 1 != op.stamps.len()) {
            return;
        }
        match (op.kind, response) {
            (Kind::Get, Some(Response::Entry(entry))) => {
                let stamp = entry.as_ref().map(Stamp::of);
                op.best_of_all = op.best_of_all.max(stamp);
                if op.decided.is_none() {
                    op.answered += 1;
                    op.best = op.best.max(stamp);
                }
            }
            (Kind::Get, Some(Response::Merged(_))) => {}
            (Kind::Put | Kind::Delete | Kind::Foreign, Some(Response::Merged(_))) => op.acks += 1,
            _ => op.failed += 1,
        }
        if let Some(Response::Refused(Refusal::TooFarAhead { .. })) = response
            && let Some(last) = op.stamps.last_mut()
        {
            last.too_far_ahead += 1;
        }
        op.decide(n, w, r, now);
    }

    /// A call that had its result at once.
    pub fn call_answered_at_once(&mut self, call: usize, response: Option<&Response>) {
        self.counts.at_once += 1;
        self.call_answered(call, response);
    }

    /// A call that had no result at once, and is still to be made.
    pub fn call_not_made(&mut self, call: usize) {
        let Some((call, _)) = self.call_ended(call) else {
            return;
        };
        self.counts.calls -= 1;
        if let Some(op) = call.op.map(|op| &mut self.ops[op])
            && op.kind != Kind::Get
        {
            op.stamps[call.attempt].sent &= !(1 << call.replica);
        }
    }

    /// A call that was dropped before it came to its end.
    pub fn call_dropped(&mut self, call: usize) {
        let Some((call, now)) = self.call_ended(call) else {
            return;
        };
        let age = now - call.started;
        let state = &self.coordinators[call.coordinator];
        let limit = state.settings.time_limit.as_micros() as u64;
        self.log(Who::Replica(call.replica), &[7, age], || {
            format!("  a call is dropped after {} ms", age / 1_000)
        });
        if age < limit {
            // `under_way` no longer counts this one.
            let state = &mut self.coordinators[call.coordinator];
            state.given_up[call.replica] += 1;
            if state.under_way < state.settings.background {
                self.broken("W-FINISH, W-CANCEL", || {
                    format!(
                        "a call to replica {} was dropped after {} ms, with room in the background",
                        call.replica,
                        age / 1_000
                    )
                });
            }
            return;
        }
        self.counts.without_answer += 1;
        self.coordinators[call.coordinator].timed_out[call.replica] += 1;
        let Quorums { n, w, r } = self.quorums;
        if let Some(op) = call.op.map(|op| &mut self.ops[op])
            && !op.ended
            && (op.kind == Kind::Get || call.attempt + 1 == op.stamps.len())
        {
            op.failed += 1;
            op.decide(n, w, r, now);
        }
    }

    pub(super) fn call_ended(&mut self, call: usize) -> Option<(Call, u64)> {
        let call = self.calls[call].take()?;
        let now = self.now();
        let state = &mut self.coordinators[call.coordinator];
        state.under_way -= 1;
        let limit = state.settings.time_limit.as_micros() as u64;
        match call.op {
            Some(op) if !self.ops[op].ended => self.ops[op].under_way[call.replica] -= 1,
            _ => state.background[call.replica] -= 1,
        }
        if now > call.started + limit + TIMER_SLACK {
            self.broken("time limit", || {
                format!(
                    "a call to replica {} took {} ms of {} ms",
                    call.replica,
                    (now - call.started) / 1_000,
                    limit / 1_000
                )
            });
        }
        (!self.over).then_some((call, now))
    }

    pub(super) fn check_background(&mut self, coordinator: usize, replica: usize) {
        let state = &self.coordinators[coordinator];
        let (now, bound) = (state.background[replica], state.settings.background);
        // As many again may belong to operations whose callers have left.
        if now > bound.saturating_mul(2) {
            self.broken("bound on background work", || {
                format!("{now} calls to replica {replica} in the background, and {bound} allowed")
            });
        }
    }
}
