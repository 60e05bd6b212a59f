//! What a storm does to what is known.

use super::*;

impl Oracle {
    pub fn event(&mut self, event: Event) {
        *self.counts.faults.entry(event.kind()).or_default() += 1;
        let kind = event.kind();
        let add = |code: u64, byte| code.wrapping_mul(31).wrapping_add(u64::from(byte));
        let code = kind.bytes().fold(0, add);
        let who = match event {
            Event::Crashed { node, .. }
            | Event::Restored { node }
            | Event::Restarted { node }
            | Event::Synced { node } => Who::Replica(node),
            _ => Who::World,
        };
        self.log(who, &[1, code], || event.to_string());
        match event {
            Event::Synced { node } => {
                let replica = &mut self.replicas[node];
                replica.synced.clone_from(&replica.holds);
            }
            Event::Crashed { node, survives } => self.crashed(node, survives),
            Event::Restored { node } => self.restored(node),
            Event::Blackout { survives } => {
                for node in 0..self.quorums.n {
                    self.crashed(node, survives);
                }
            }
            Event::ClockSet { clock, .. } => self.clock_stepped(clock),
            _ => {}
        }
    }

    pub fn clock_stepped(&mut self, clock: usize) {
        if self.clock_steps.len() <= clock {
            self.clock_steps.resize(clock + 1, 0);
        }
        self.clock_steps[clock] += 1;
        for replica in &mut self.replicas {
            replica.read_clock();
        }
        self.clock_touched(clock);
    }

    fn crashed(&mut self, node: usize, survives: Survives) {
        let replica = &mut self.replicas[node];
        replica.ended();
        let before = replica.holds.clone();
        match survives {
            Survives::All => {
                replica.synced.clone_from(&replica.holds);
                return;
            }
            Survives::Synced => replica.holds.clone_from(&replica.synced),
            Survives::Nothing => {
                replica.holds.fill(Held::default());
                replica.synced.fill(Held::default());
            }
        }
        replica.lost();
        if self.knows_losses {
            return;
        }
        let is_less = replica.holds != before;
        self.lost_unknown(node, is_less || survives == Survives::Synced);
    }

    /// A disk is put back as it was in a backup.
    fn restored(&mut self, node: usize) {
        let keys = self.keys.len();
        let replica = &mut self.replicas[node];
        replica.ended();
        replica.look_anew(keys);
        replica.lost();
        self.has_restored = true;
        self.lost_unknown(node, true);
    }

    /// A replica that knows that it lost its data is given some of them back.
    pub fn filled(&mut self, node: usize) {
        self.log(Who::Replica(node), &[27], || {
            "is filled from a backup".to_owned()
        });
        self.replicas[node].look_anew(self.keys.len());
    }

    /// A replica has lost what it does not know of; `breaks` where no promise to a
    /// register outlives that, be it only of what the replica kept of itself.
    fn lost_unknown(&mut self, node: usize, breaks: bool) {
        self.unsound |= 1 << node;
        if breaks {
            self.lost.get_or_insert(self.ticks);
        }
        let (quorums, holds) = (self.quorums, &self.replicas[node].holds);
        for (key, held) in self.keys.iter_mut().zip(holds) {
            for acknowledged in &mut key.acknowledged {
                if held.entry < Some(acknowledged.stamp) {
                    acknowledged.holders &= !(1 << node);
                }
            }
            let all = key.acknowledged.len();
            key.read_floor = key.floor(all, quorums.n, quorums.r);
            key.write_floor = key.floor(all, quorums.n, quorums.w);
        }
    }
}

impl ReplicaState {
    pub(super) fn read_clock(&mut self) {
        let readings = self.clock.readings().into_iter().max();
        self.latest = self.latest.max(readings.unwrap_or_default());
    }

    /// Its process has ended.
    fn ended(&mut self) {
        self.lives.push(std::mem::take(&mut self.in_force));
    }

    /// Its disk was put back as it was.
    fn look_anew(&mut self, keys: usize) {
        self.holds = (0..keys)
            .map(|index| Held::of((self.look)(&key(index)).as_ref()))
            .collect();
        self.synced.clone_from(&self.holds);
    }

    /// And it is without some of its data.
    fn lost(&mut self) {
        self.losses += 1;
        self.era = 0;
        self.floors = Floors::kept((self.look)(&Key::from("")).as_ref());
    }
}
