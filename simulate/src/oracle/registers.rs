//! Operations on registers: rules L-VERSION, L-DOUBT and L-FAIR, and what there has to
//! be for L-REGISTER. Whether they are linearizable is for `history` to tell.

use kvquorum_testing::linearizability::Step;

use super::collected::{self, possible};
use super::*;

/// The longest that an update waits between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(256);

/// What goes over links for an operation on a register.
#[derive(Default)]
pub(super) struct Ballots {
    ballots: Vec<Ballot>,
    /// Versions that it was told to go past.
    told: Vec<Version>,
}

struct Ballot {
    version: Version,
    /// Once it is accepted.
    stamp: Option<Stamp>,
    /// Replicas that it was sent to, as sets of bits.
    prepared: u32,
    accepted: u32,
    /// What those hold that have promised it, in the order in which they answered.
    promises: Vec<collected::Answer>,
}

impl Ballots {
    pub fn are_of(&self, version: Version) -> bool {
        self.ballots.iter().any(|ballot| ballot.version == version)
    }

    /// Whether a request has not gone to all of these replicas.
    pub fn is_short(&self, all: u32) -> bool {
        let is_short = |sent: u32| sent & all != all;
        let mut ballots = self.ballots.iter();
        ballots.any(|ballot| {
            is_short(ballot.prepared) || ballot.stamp.is_some() && is_short(ballot.accepted)
        })
    }

    fn place(&self, version: Version) -> Option<usize> {
        let mut ballots = self.ballots.iter();
        ballots.position(|ballot| ballot.version == version)
    }

    /// What may have been found there under a ballot.
    pub fn bases_of(&self, place: usize, r: usize) -> impl Iterator<Item = Option<Stamp>> {
        let promises = self.ballots.get(place).map(|ballot| &ballot.promises);
        let answers = promises.filter(|promises| promises.len() >= r);
        let answers = answers.map(|promises| possible(promises, r));
        answers.into_iter().flatten().map(|answer| answer.stamp)
    }

    /// And under any.
    pub fn bases(&self, r: usize) -> impl Iterator<Item = Option<Stamp>> {
        (0..self.ballots.len()).flat_map(move |place| self.bases_of(place, r))
    }

    /// It is told of versions.
    pub fn hear(&mut self, versions: impl Iterator<Item = Version>) {
        self.told.extend(versions);
    }

    /// The entries that it has sent.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.ballots.iter().filter_map(|ballot| ballot.stamp)
    }
}

impl Oracle {
    /// A ballot is sent to a replica; after an introduction, it was stamped a while ago.
    /// Tells which one it is.
    pub(super) fn preparing(
        &mut self,
        index: usize,
        replica: usize,
        key: &Key,
        version: Version,
        is_late: bool,
    ) -> Option<usize> {
        let op = &self.ops[index];
        if index_of(key) != Some(op.key) && !op.kind.is_driven() {
            self.broken("nothing that nobody wrote", || {
                format!("#{index} prepares {key}")
            });
            return None;
        }
        let place = match op.ballots.place(version) {
            Some(place) => place,
            None => self.begin_ballot(index, version, is_late),
        };
        self.ops[index].ballots.ballots[place].prepared |= 1 << replica;
        Some(place)
    }

    fn begin_ballot(&mut self, index: usize, version: Version, is_late: bool) -> usize {
        let op = &self.ops[index];
        let (coordinator, client) = (op.coordinator, op.client);
        self.counts.ballots += 1;
        let numbers = [16, version.timestamp.to_bits(), version.writer.get()];
        self.log(Who::Client(client), &numbers, || {
            format!("  #{index} prepares {}", entries::Moment(version))
        });
        let steps = self.clock_steps_of(coordinator);
        let mut bounds = self.coordinators[coordinator].stamps.bounds(steps);
        if is_late {
            bounds = bounds.loosened();
        }
        let told = std::mem::take(&mut self.ops[index].ballots.told);
        self.check_given_out(coordinator, version, bounds, None, &told);
        let ballots = &mut self.ops[index].ballots;
        ballots.told = told;
        ballots.ballots.push(Ballot {
            version,
            stamp: None,
            prepared: 0,
            accepted: 0,
            promises: Vec::new(),
        });
        let made = ballots.ballots.len();
        let most = self.most_ballots(coordinator);
        if made > most && !self.ops[index].kind.is_driven() {
            self.broken("L-FAIR", || {
                format!("#{index} makes attempt {made}, of {most}")
            });
        }
        made - 1
    }

    fn most_ballots(&self, coordinator: usize) -> usize {
        self.coordinators[coordinator].settings.ballots as usize
    }

    /// The second phase of an update is sent to a replica.
    pub(super) fn accepting(&mut self, index: usize, replica: usize, key: &Key, stamp: Stamp) {
        let op = &mut self.ops[index];
        let (client, coordinator) = (op.client, op.coordinator);
        let Some(place) = op.ballots.place(stamp.version) else {
            return;
        };
        let is_driven = op.kind.is_driven();
        let is_own = is_driven || index_of(key) == Some(op.key);
        let place_of_key = if is_driven {
            index_of(key)
        } else {
            Some(op.key)
        };
        let ballot = &mut op.ballots.ballots[place];
        ballot.accepted |= 1 << replica;
        match ballot.stamp.replace(stamp) {
            Some(before) if before == stamp => return,
            Some(before) => self.broken("L-REGISTER", || {
                format!("#{index} writes {before} and {stamp} under one ballot")
            }),
            None => {}
        }
        let written = stamp.value().map(u64::reverse_bits);
        let writer = written.and_then(|writer| self.ops.get(usize::try_from(writer).ok()?));
        let Some(key) = place_of_key.filter(|key| *key < self.keys.len()) else {
            return;
        };
        if !is_own || written.is_some() && writer.is_none_or(|op| op.key != key) {
            return self.broken("nothing that nobody wrote", || {
                format!("#{index} of coordinator {coordinator} writes {stamp}")
            });
        }
        let origin = self.keys[key].origins.entry(stamp).or_default();
        origin.makers.push((index, place));
        let [a, b, c] = Stamp::numbers(Some(stamp));
        self.log(Who::Client(client), &[4, a, b, c], || {
            format!("  #{index} writes {stamp}")
        });
        self.check_left(index, place, key, stamp);
    }

    /// What a replica answers to an operation on a register.
    pub(super) fn answered_update(&mut self, call: Call, answered: &Answered<'_>) {
        let Some(op) = call.op.map(|op| &mut self.ops[op]) else {
            return;
        };
        op.ballots.told.extend(answered.refused_past());
        match answered {
            Answered::Response(Response::Refused(Refusal::TooFarAhead { timestamp, .. })) => {
                // The clock may have come to the same time again, under another writer id.
                let ballots = op.ballots.ballots.iter();
                let stamps = &mut self.coordinators[op.coordinator].stamps;
                for ballot in ballots.filter(|it| it.version.timestamp == *timestamp) {
                    stamps.refused(ballot.version);
                    stamps.may_leave(ballot.version);
                }
            }
            Answered::Response(Response::Ack(Ack::Superseded { by })) => op.ballots.told.push(*by),
            Answered::Response(Response::Promise(held)) => {
                if let Some(ballot) = op.ballots.ballots.get_mut(call.attempt) {
                    ballot.promises.push(collected::Answer::of(held));
                }
            }
            // What settles a key goes past all that was listed there.
            Answered::Response(Response::Told(told)) => {
                if let kvquorum_core::Told::Versions(listed) = &**told {
                    let versions = listed.versions.iter().map(|it| it.version);
                    op.ballots.told.extend(versions);
                }
            }
            _ => {}
        }
    }

    /// A client is told what its operation on a register came to.
    pub fn told(&mut self, index: usize, told: Told) {
        self.log_told(index, told);
        self.finish(index);
        self.check_patience(index);
        match told {
            Told::Found(value, version) => self.found(index, value, version),
            Told::Left {
                found,
                left,
                version,
            } => self.left(index, found, left, version),
            Told::NotApplied => {
                self.counts.failed += 1;
                self.update_not_applied(index);
            }
            Told::MaybeApplied => {
                self.counts.failed += 1;
                self.counts.in_doubt += 1;
            }
            Told::NotRead => self.counts.failed += 1,
            Told::ClockExhausted | Told::Undecodable => {
                self.broken("L-DOUBT", || format!("#{index} is told: {told:?}"));
            }
        }
    }

    fn log_told(&mut self, index: usize, told: Told) {
        let (code, version) = match told {
            Told::Found(_, version) => (0, version),
            Told::Left { version, .. } => (1, Some(version)),
            Told::NotApplied => (2, None),
            Told::MaybeApplied => (3, None),
            Told::NotRead => (4, None),
            Told::ClockExhausted | Told::Undecodable => (5, None),
        };
        let bits = version.map_or(0, |version| version.timestamp.to_bits());
        let numbers = [17, index as u64, code, bits];
        self.log(Who::Client(self.ops[index].client), &numbers, || {
            let show = |value: Option<u64>| match value {
                Some(value) => format!("#{}", value.reverse_bits()),
                None => "nothing".into(),
            };
            match told {
                Told::Found(value, _) => format!("#{index} finds {}", show(value)),
                Told::Left { found, left, .. } => {
                    let found = found.map_or("it".into(), show);
                    format!("#{index} leaves {} in place of {found}", show(left))
                }
                told => format!("#{index} is told: {told:?}"),
            }
        });
    }

    fn found(&mut self, index: usize, value: Option<u64>, version: Option<Version>) {
        self.counts.registers += 1;
        let expected = match self.ops[index].kind {
            Kind::Register(Ask::CompareAndSet(expected)) => Some(expected),
            Kind::Register(Ask::Create) => Some(None),
            _ => None,
        };
        if expected == Some(value) {
            self.broken("L-REGISTER", || {
                format!("#{index} says that {value:?} is another value")
            });
        }
        let key = self.ops[index].key;
        let stamp = version.map(|version| self.keys[key].told(value, version));
        if let Some(stamp) = stamp {
            self.check_shown(index, stamp, value);
        }
        self.ops[index].step = Some(Step::Read(stamp.and_then(Stamp::value)));
        self.returned(index, stamp, false);
        self.check_dead(index, key, stamp);
        self.keys[key].seen = value;
    }

    fn left(
        &mut self,
        index: usize,
        found: Option<Option<u64>>,
        left: Option<u64>,
        version: Version,
    ) {
        self.counts.registers += 1;
        if left.is_some_and(|left| left.reverse_bits() != index as u64) {
            self.broken("L-REGISTER", || format!("#{index} left another's value"));
        }
        let key = self.ops[index].key;
        self.ops[index].step = Some(match found {
            None => Step::Write(left),
            Some(Some(found)) => Step::Swap(Some(found), left),
            // Where it is not known what was hidden, it may have been anything.
            Some(None) => match self.found_as_none(index)[..] {
                [found] => Step::Swap(found, left),
                _ => Step::Write(left),
            },
        });
        let stamp = self.keys[key].told(left, version);
        self.returned(index, Some(stamp), true);
        if let Some(Some(found)) = found {
            self.check_dead_value(index, key, found);
            self.check_compared(index, found);
        }
        self.keys[key].seen = left;
    }

    /// L-FAIR: within its time it makes its last attempt, or reads and settles.
    fn check_patience(&mut self, index: usize) {
        let op = &self.ops[index];
        let settings = self.coordinators[op.coordinator].settings;
        // What it has to ask about eras, or about who is new, comes besides.
        let more = if op.is_unsettled { 12 } else { 0 };
        let longest = settings.patience + LONGEST_PAUSE + settings.time_limit * (4 + more);
        let took = self.now() - op.began;
        if took > longest.as_micros() as u64 + TIMER_SLACK {
            self.broken("L-FAIR", || {
                format!("#{index} took {} ms of {longest:?}", took / 1_000)
            });
        }
    }

    /// L-VERSION; and that what is returned is held by W replicas, so that nothing that
    /// comes later can miss it.
    fn returned(&mut self, index: usize, stamp: Option<Stamp>, is_new: bool) {
        let key = self.ops[index].key;
        let floor = self.floor_of(index, self.quorums.r);
        let is_dead = |floor| self.is_collected(key, floor);
        let is_gone = stamp.is_none() && floor.is_some_and(is_dead);
        let floor = floor.map(|floor| floor.version);
        let version = stamp.map(|stamp| stamp.version);
        let rises = match is_new {
            true => version > floor,
            false => version >= floor || is_gone,
        };
        if !rises && self.keeps_promises() {
            self.broken("L-VERSION", || {
                let floor =
                    floor.map_or("nothing".into(), |floor| entries::Moment(floor).to_string());
                format!("#{index} returns {} after {floor} was", show(stamp))
            });
        }
        let Some(stamp) = stamp else { return };
        match self.keys[key].origins.get(&stamp) {
            Some(origin) if !origin.is_forbidden() => {}
            _ => self.broken("nothing that nobody wrote", || {
                format!("#{index} returns {stamp}")
            }),
        }
        // Its own may be past what its clock follows.
        if !self.ops[index].ballots.are_of(stamp.version) {
            self.observed(index, stamp);
        }
        self.held_back("L-REGISTER", index, key, stamp);
    }

    fn update_not_applied(&mut self, index: usize) {
        self.ops[index].denied = true;
        let key = self.ops[index].key;
        let stamps: Vec<Stamp> = self.ops[index].ballots.stamps().collect();
        for stamp in stamps {
            if let Some(origin) = self.keys[key].origins.get_mut(&stamp) {
                origin.denied += 1;
            }
            let mut replicas = self.replicas.iter();
            if let Some(replica) = replicas.position(|it| it.holds[key].entry == Some(stamp)) {
                self.broken("a write that was not applied is never seen", || {
                    format!("#{index} {stamp} is held by replica {replica}")
                });
            }
        }
    }
}
