//! What clients ask, and when it is over for them.

use super::*;

impl Oracle {
    pub fn begin(&mut self, client: usize, coordinator: usize, kind: Kind, key: usize) -> usize {
        let index = self.ops.len();
        self.counts.operations += 1;
        self.keys[key].is_register |= matches!(kind, Kind::Register(_));
        self.coordinators[coordinator].stamps.look_at_wall();
        let op = self.called(client, coordinator, kind, key);
        self.ticks += 1;
        self.ops.push(op);
        self.log_begun(index);
        index
    }

    /// An operation that is called now.
    fn called(&self, client: usize, coordinator: usize, kind: Kind, key: usize) -> Op {
        let stamps = &self.coordinators[coordinator].stamps;
        Op {
            kind,
            coordinator,
            client,
            key,
            ended: false,
            denied: false,
            read_floor: self.keys[key].read_floor,
            write_floor: self.keys[key].write_floor,
            acknowledged: self.keys[key].acknowledged.len(),
            losses: self.replicas.iter().map(|replica| replica.losses).collect(),
            dead: self.keys.iter().map(|key| key.dead.len()).collect(),
            wall: stamps.wall(),
            clock_steps: self.clock_steps_of(coordinator),
            writers: stamps.writers(),
            under_way: vec![0; self.quorums.n],
            attempts: Vec::new(),
            told: Vec::new(),
            reading: Reading::default(),
            ballots: Ballots::default(),
            pages: Vec::new(),
            unintroduced: 0,
            began: self.now(),
            called: self.ticks,
            returned: None,
            step: None,
            is_unsettled: false,
            is_refused: false,
            is_acked: false,
            era: None,
            introduced: 0,
            sweeps: false,
            readings: self.all_readings(),
            ttl: None,
            snapshot: Vec::new(),
        }
    }

    fn log_begun(&mut self, index: usize) {
        let Op {
            kind,
            coordinator,
            client,
            key,
            ..
        } = self.ops[index];
        let code = match kind {
            Kind::Put => 0,
            Kind::Delete => 1,
            Kind::Get => 2,
            Kind::Foreign => 3,
            Kind::Scan => 4,
            Kind::Register(_) => 5,
            Kind::Rejoin => 6,
            Kind::Pass => 7,
            Kind::Handoff => 8,
            Kind::Collect => 9,
        };
        let numbers = [8, index as u64, coordinator as u64, code, key as u64];
        self.log(Who::Client(client), &numbers, || match kind {
            Kind::Scan => format!("#{index} scans through coordinator {coordinator}"),
            Kind::Rejoin | Kind::Pass | Kind::Collect | Kind::Handoff => {
                format!("#{index} {kind:?} through coordinator {coordinator}")
            }
            Kind::Register(ask) => {
                format!("#{index} asks register k{key} through coordinator {coordinator}: {ask}")
            }
            kind => format!("#{index} {kind:?} k{key} through coordinator {coordinator}"),
        });
    }

    /// The operation's caller has left, or was told what it came to.
    pub(super) fn finish(&mut self, index: usize) {
        let op = &mut self.ops[index];
        op.ended = true;
        op.returned = Some(self.ticks);
        self.ticks += 1;
        let coordinator = op.coordinator;
        let under_way = std::mem::take(&mut op.under_way);
        for (replica, count) in under_way.into_iter().enumerate() {
            self.coordinators[coordinator].background[replica] += count as usize;
            self.check_background(End {
                coordinator,
                replica,
            });
        }
        let all = (1 << self.quorums.n) - 1;
        let op = &self.ops[index];
        if op.kind.is_driven() || op.is_unsettled {
            return;
        }
        let is_short = |attempt: &Attempt| attempt.called != all;
        let is_short_of_ballots = op.ballots.is_short(all & !op.introduced);
        if op.kind != Kind::Foreign && op.attempts.iter().any(is_short) || is_short_of_ballots {
            self.broken("W-ALL", || format!("#{index} did not go to all replicas"));
        }
        let reading = &self.ops[index].reading;
        if reading.waits.is_some() && reading.asked != all {
            self.broken("a get that has to wait asks all", || {
                format!("#{index} left replicas unasked")
            });
        }
    }

    pub fn caller_left(&mut self, index: usize) {
        self.counts.callers_left += 1;
        self.log(
            Who::Client(self.ops[index].client),
            &[9, index as u64],
            || format!("#{index} the caller leaves"),
        );
        self.finish(index);
    }

    pub fn foreign_ended(&mut self, index: usize) {
        self.finish(index);
    }

    pub fn never_ended(&mut self, index: usize) {
        self.broken("time limit", || format!("#{index} never came to an end"));
    }
}
