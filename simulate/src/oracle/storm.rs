//! What a storm does to what is known.

use super::*;

impl Oracle {
    pub fn event(&mut self, event: Event) {
        *self.counts.faults.entry(event.kind()).or_default() += 1;
        let kind = event.kind();
        let add = |code: u64, byte| code.wrapping_mul(31).wrapping_add(u64::from(byte));
        let code = kind.bytes().fold(0, add);
        let who = match event {
            Event::Crashed { node, .. } | Event::Restarted { node } | Event::Synced { node } => {
                Who::Replica(node)
            }
            _ => Who::World,
        };
        self.log(who, &[1, code], || event.to_string());
        match event {
            Event::Synced { node } => {
                let replica = &mut self.replicas[node];
                replica.synced.clone_from(&replica.holds);
            }
            Event::Crashed { node, survives } => self.crashed(node, survives),
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
    }

    fn crashed(&mut self, node: usize, survives: Survives) {
        let knows = self.knows_losses;
        let replica = &mut self.replicas[node];
        replica.lives += 1;
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
        replica.losses += 1;
        replica.era = 0;
        if knows {
            return;
        }
        if replica.holds != before || survives == Survives::Synced {
            // And what it kept of itself.
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
