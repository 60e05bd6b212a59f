//! What goes over links: rules W-ALL, W-FINISH, W-CANCEL and R-REPAIR, time
//! limits, and the bound on background work.

use super::*;

impl Oracle {
    /// A call that is made. `op` is the operation whose caller drives it.
    pub fn call_started(&mut self, end: End, request: &Request, op: Option<usize>) -> usize {
        self.counts.calls += 1;
        self.coordinators[end.coordinator].stamps.look_at_wall();
        let now = self.now();
        let introduced = self.introduced.take();
        if introduced.is_some_and(|introduced| introduced.end != end) {
            self.broken("W-ALL", || "a replica introduced itself in vain".into());
        }
        let mut call = Call {
            end,
            op,
            era: request.era,
            is_aside: false,
            is_introduced: false,
            attempt: 0,
            started: now,
            introduces: matches!(request.kind, RequestKind::Identify { .. }),
            reads: false,
            scans: false,
        };
        let misled = self.misled.take().filter(|misled| misled.end == end);
        if let Some(misled) = misled.filter(|_| call.introduces) {
            call.op = misled.op;
            call.started = misled.started;
            call.attempt = misled.attempt;
            call.is_introduced = true;
        }
        if let Some(introduced) = introduced {
            call.op = introduced.op;
            call.started = introduced.started;
            call.is_introduced = true;
            call.attempt = introduced.attempt;
        }
        let introduced = introduced.map(|introduced| introduced.attempt);
        self.classify(&mut call, request, introduced);
        let state = &mut self.coordinators[end.coordinator];
        state.under_way += 1;
        match call.op {
            _ if call.is_aside => {}
            Some(op) if !self.ops[op].ended => self.ops[op].under_way[end.replica] += 1,
            _ => state.background[end.replica] += 1,
        }
        self.check_background(end);
        self.calls.push(Some(call));
        self.calls.len() - 1
    }

    /// What a call is to its operation, if it has one; after an introduction, with the
    /// attempt that this was for.
    fn classify(&mut self, call: &mut Call, request: &Request, introduced: Option<usize>) {
        let (end, op) = (call.end, call.op);
        let kind = op.map(|op| self.ops[op].kind);
        if let Some(op) = op {
            let most = self.coordinators[end.coordinator].settings.attempts;
            self.ops[op].asks(*call, request, self.quorums.w, most as usize);
        }
        call.is_aside = self.is_aside(op, request);
        if call.is_aside {
            call.attempt = self
                .classify_aside(op, end, request)
                .unwrap_or(call.attempt);
            return;
        }
        match (&request.kind, op, kind) {
            (RequestKind::Write { key, entry }, Some(op), Some(kind)) if kind.is_plain_write() => {
                let stamp = Stamp::of(entry);
                if introduced.is_none() || self.ops[op].is_unsettled {
                    call.attempt = self.attempt(op, call, Some(stamp));
                }
                self.sent(op, call.attempt, key, stamp);
            }
            (_, Some(op), Some(kind)) if kind.is_plain_write() => {
                call.attempt = self.attempt(op, call, None);
            }
            (RequestKind::Write { key, entry }, Some(op), Some(Kind::Register(_))) => {
                self.accepting(op, end.replica, key, Stamp::of(entry));
            }
            // What a caller has left.
            (RequestKind::Write { key, entry }, ..) => self.sent_late(key, Stamp::of(entry)),
            (RequestKind::Repair { key, entry }, ..) => {
                // In the background it cannot be told what found that it is lacking.
                let has_scanned = self.coordinators[end.coordinator].has_scanned;
                call.scans = has_scanned && kind.is_none_or(|kind| kind == Kind::Scan);
                let is_ordered = matches!(kind, Some(Kind::Register(_)));
                self.repairing(end, key, Stamp::of(entry), is_ordered);
            }
            (RequestKind::Prepare { key, ballot }, Some(op), Some(Kind::Register(_))) => {
                let is_late = introduced.is_some();
                let place = self.preparing(op, end.replica, key, *ballot, is_late);
                call.attempt = place.unwrap_or(call.attempt);
            }
            (RequestKind::Scan { range, .. }, Some(op), Some(Kind::Scan)) => {
                call.scans = true;
                call.attempt = self.scanning(op, end.replica, range);
            }
            (RequestKind::Identify { .. }, Some(_), Some(Kind::Scan)) => call.scans = true,
            (
                RequestKind::Identify { .. } | RequestKind::Read { .. },
                _,
                Some(Kind::Register(_)),
            ) => {}
            _ => {
                call.reads = true;
                self.asked(*call);
            }
        }
    }

    /// A read asks a replica, or has it introduce itself for that.
    fn asked(&mut self, call: Call) {
        let now = self.now();
        let Some(op) = call.op.filter(|op| !self.ops[*op].is_unsettled) else {
            return;
        };
        let (reading, bit) = (&mut self.ops[op].reading, 1 << call.end.replica);
        let is_late = reading.asked & bit == 0 && reading.waits.is_some_and(|since| since < now);
        reading.asked |= bit;
        if is_late {
            self.broken("a get that has to wait asks all", || {
                format!("#{op} asks replica {} later", call.end.replica)
            });
        }
    }

    /// A repair; `is_ordered` where a register's operation repairs whatever is set.
    pub(super) fn repairing(&mut self, end: End, key: &Key, stamp: Stamp, is_ordered: bool) {
        let End {
            coordinator,
            replica,
        } = end;
        self.counts.repairs += 1;
        let index = index_of(key).unwrap_or(usize::MAX);
        let [a, b, c] = Stamp::numbers(Some(stamp));
        let numbers = [5, coordinator as u64, index as u64, a, b, c];
        self.log(Who::Replica(replica), &numbers, || {
            format!("  coordinator {coordinator} repairs {key} with {stamp}")
        });
        let state = self.keys.get(index);
        let is_ordered = is_ordered || state.is_some_and(|key| key.is_register);
        if !state.is_some_and(|key| key.origins.contains_key(&stamp)) {
            self.broken("R-REPAIR", || {
                format!("coordinator {coordinator} repairs with {stamp}, which nobody wrote")
            });
        }
        if !self.coordinators[coordinator].settings.repairs && !is_ordered {
            self.broken("R-REPAIR", || {
                format!("coordinator {coordinator} repairs, and was told not to")
            });
        }
    }

    /// A call that has to be waited for.
    pub fn call_waits(&mut self, call: usize) {
        let now = self.now();
        if let Some(Call {
            op: Some(op),
            reads: true,
            ..
        }) = self.calls[call]
        {
            self.ops[op].reading.waits.get_or_insert(now);
        }
    }

    /// A call that came to its end.
    pub fn call_answered(&mut self, call: usize, answered: Answered<'_>, at_once: bool) {
        self.counts.at_once += u64::from(at_once);
        let Some((call, now)) = self.call_ended(call) else {
            return;
        };
        if let (false, false, Answered::Response(Response::Refused(refusal))) =
            (at_once, call.is_introduced, answered)
            && let Refusal::OtherReplica { .. } = refusal
        {
            self.misled = Some(call);
        }
        let is_foreign = |op: usize| self.ops[op].kind == Kind::Foreign;
        if matches!(answered, Answered::Panic) && !call.op.is_some_and(is_foreign) {
            let state = &mut self.coordinators[call.end.coordinator];
            state.panicked[call.end.replica] += 1;
        }
        self.log_answer(call, answered);
        if let (true, Answered::Response(Response::Identity(_))) = (call.introduces, answered) {
            self.introduced = Some(Introduced {
                end: call.end,
                op: call.op,
                attempt: call.attempt,
                started: call.started,
            });
            return;
        }
        self.take_in(call, answered, now);
    }

    fn log_answer(&mut self, call: Call, answered: Answered<'_>) {
        let code = match answered {
            Answered::Response(Response::Entry(_)) => 1,
            Answered::Response(Response::Ack(Ack::Applied)) => 2,
            Answered::Response(Response::Ack(_)) => 3,
            Answered::Response(Response::Identity(_)) => 7,
            Answered::Response(Response::Promise(_)) => 8,
            Answered::Response(Response::Page(_)) => 9,
            Answered::Response(Response::Told(_)) => 10,
            Answered::Response(_) => 4,
            Answered::Panic => 6,
            _ => 5,
        };
        if code == 4 {
            self.counts.refused += 1;
        }
        let replica = call.end.replica;
        let who = call
            .op
            .map_or(Who::Replica(replica), |op| Who::Client(self.ops[op].client));
        self.log(who, &[6, replica as u64, code], || {
            let what = match answered {
                Answered::Response(Response::Entry(held)) => answered_with(held),
                Answered::Response(Response::Ack(Ack::Applied)) => "applied".into(),
                Answered::Response(Response::Ack(_)) => "superseded".into(),
                Answered::Response(Response::Identity(_)) => "who it is".into(),
                Answered::Response(Response::Refused(refusal)) => format!("refused: {refusal}"),
                Answered::Response(Response::Promise(entry)) => {
                    format!("promised, over {}", answered_with(entry))
                }
                Answered::Response(Response::Page(page)) => {
                    let upto = page.upto.as_ref();
                    let upto = upto.map_or("its end".into(), |upto| format!("{upto}"));
                    format!("a page of {} entries, up to {upto}", page.entries.len())
                }
                Answered::Response(Response::Told(told)) => marks::show(told),
                Answered::Panic => "a panic".into(),
                _ => "an error".into(),
            };
            format!("  replica {replica} answers: {what}")
        });
    }

    /// What a call came to, as part of its operation.
    fn take_in(&mut self, call: Call, mut answered: Answered<'_>, now: u64) {
        let quorums = self.quorums;
        let Some(op) = call.op.map(|op| &mut self.ops[op]) else {
            return;
        };
        if let (true, Answered::Error { may_have_applied }) = (call.introduces, &mut answered) {
            // The request itself was not sent.
            *may_have_applied = false;
        }
        op.is_unsettled |= answered.unsettles();
        op.is_refused |= answered.is_refusal() && !answered.unsettles();
        if op.ended {
            return;
        }
        match op.kind {
            Kind::Rejoin | Kind::Pass | Kind::Collect | Kind::Handoff => {
                return self.answered_aside(call, &answered);
            }
            _ if call.is_aside => return,
            Kind::Get => {
                if let Answered::Response(Response::Entry(_)) = answered {
                    op.reading.answered_in.add(call.era, call.end.replica);
                }
                return op.reading.answer(&answered, quorums, now);
            }
            Kind::Register(_) => return self.answered_update(call, &answered),
            Kind::Scan => return self.answered_page(call, &answered),
            Kind::Put | Kind::Delete | Kind::Foreign => {}
        }
        let attempts = op.attempts.len();
        let Some(attempt) = op.attempts.get_mut(call.attempt) else {
            return;
        };
        if let (Answered::Response(Response::Refused(Refusal::TooFarAhead { .. })), Some(stamp)) =
            (answered, attempt.stamp)
        {
            let stamps = &mut self.coordinators[op.coordinator].stamps;
            stamps.refused(stamp.version);
        }
        if let Answered::Response(Response::Ack(_)) = answered {
            attempt.acked_in.add(call.era, call.end.replica);
        }
        if call.attempt + 1 == attempts {
            attempt.answer(&answered, quorums, now);
        }
        if op.is_unsettled {
            let refused = op.attempts.iter().filter(|attempt| attempt.is_refused);
            let stamps = &mut self.coordinators[op.coordinator].stamps;
            for stamp in refused.filter_map(|attempt| attempt.stamp) {
                stamps.may_leave(stamp.version);
            }
        }
    }

    /// A call that was dropped before it came to its end.
    pub fn call_dropped(&mut self, call: usize) {
        let Some((call, now)) = self.call_ended(call) else {
            return;
        };
        let age = now - call.started;
        let replica = call.end.replica;
        let state = &self.coordinators[call.end.coordinator];
        let limit = state.settings.time_limit.as_micros() as u64;
        self.log(Who::Replica(replica), &[7, age], || {
            format!("  a call is dropped after {} ms", age / 1_000)
        });
        let state = &mut self.coordinators[call.end.coordinator];
        if call.is_aside {
            // Of a rejoin, a pass or the like, which may be cut.
            state.perhaps_given_up[replica] += 1;
            return;
        }
        if age >= limit {
            self.counts.without_answer += 1;
            state.timed_out[replica] += 1;
            return self.take_in(call, Answered::TimedOut, now);
        }
        let is_unsettled = call.op.is_some_and(|op| self.ops[op].is_unsettled);
        if call.scans || is_unsettled {
            state.perhaps_given_up[replica] += 1;
            return;
        }
        state.given_up[replica] += 1;
        // `under_way` no longer counts this one.
        if state.under_way < state.settings.background {
            self.broken("W-FINISH, W-CANCEL", || {
                format!(
                    "a call to replica {replica} was dropped after {} ms, with room in the \
                     background",
                    age / 1_000
                )
            });
        }
    }

    fn call_ended(&mut self, call: usize) -> Option<(Call, u64)> {
        let call = self.calls[call].take()?;
        let now = self.now();
        let state = &mut self.coordinators[call.end.coordinator];
        state.stamps.look_at_wall();
        let limit = state.settings.time_limit.as_micros() as u64;
        let replica = call.end.replica;
        state.under_way -= 1;
        match call.op {
            _ if call.is_aside => {}
            Some(op) if !self.ops[op].ended => self.ops[op].under_way[replica] -= 1,
            _ => state.background[replica] -= 1,
        }
        if now > call.started + limit + TIMER_SLACK {
            self.broken("time limit", || {
                format!(
                    "a call to replica {replica} took {} ms of {} ms",
                    (now - call.started) / 1_000,
                    limit / 1_000
                )
            });
        }
        (!self.over).then_some((call, now))
    }

    pub(super) fn check_background(&mut self, end: End) {
        let state = &self.coordinators[end.coordinator];
        let (now, bound) = (state.background[end.replica], state.settings.background);
        // As many again may belong to operations whose callers have left.
        if now > bound.saturating_mul(2) {
            self.broken("bound on background work", || {
                format!(
                    "{now} calls to replica {} in the background, and {bound} allowed",
                    end.replica
                )
            });
        }
    }
}

/// What a replica holds, and under which mark.
fn answered_with(held: &kvquorum_core::Held) -> String {
    let collected::Answer { collected, stamp } = collected::Answer::of(held);
    format!("{}, collected up to {collected}", show(stamp))
}
