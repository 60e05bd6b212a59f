//! What coordinators' clocks give out: rule C-MONOTONIC, what a clock follows, and
//! that one leap of it does not end writing.

use super::*;

/// The times of one writer id of a coordinator's clock.
pub(super) struct Times {
    writer: WriterId,
    /// Every later timestamp has to be greater.
    must_exceed: u64,
    /// Whether a version of it was refused as too far ahead, so that the clock may
    /// step back, under another writer id.
    refused: bool,
    /// Whether the clock has to have stepped back from it, or may have.
    left: bool,
}

/// What a coordinator's clock gave out and was told.
pub(super) struct Stamps {
    clock: Clock,
    clock_index: usize,
    max_drift: u64,
    /// Of all its writer ids. The last is in use.
    times: Vec<Times>,
    /// The greatest writer id of the versions past a timestamp that the clock did
    /// not follow, by their timestamps.
    passed: HashMap<u64, WriterId>,
    /// Writer ids that were refused as too far ahead before it was known whether they are
    /// the clock's own.
    refused_before: HashSet<WriterId>,
    /// The latest time that the clock can have followed, in milliseconds.
    reach: u64,
    /// Its clock stepped back when its wall clock had been touched so often.
    stepped_back: Option<u32>,
}

/// What a clock is bound to when it gives out a version.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// How many writer ids of it were known.
    writers: usize,
    /// What a timestamp of the last of them has to exceed.
    must_exceed: u64,
    /// The latest millisecond that the clock may stand at, after it has stepped
    /// back.
    latest: Option<u64>,
    /// Whether others may have been given out since.
    is_late: bool,
}

impl Bounds {
    /// Those of a version that was given out a while ago, before others were.
    pub fn loosened(self) -> Self {
        Self {
            must_exceed: 0,
            is_late: true,
            ..self
        }
    }
}

impl Stamps {
    pub fn new(settings: Settings, writer: WriterId, clock: Clock, clock_index: usize) -> Self {
        let times = Times::of(writer, 0);
        Self {
            clock,
            clock_index,
            max_drift: settings.max_drift.as_millis() as u64,
            times: vec![times],
            passed: HashMap::new(),
            refused_before: HashSet::new(),
            reach: 0,
            stepped_back: None,
        }
    }

    pub fn wall(&self) -> u64 {
        self.clock.now_millis()
    }

    /// How many writer ids of it are known.
    pub fn writers(&self) -> usize {
        self.times.len()
    }

    pub fn clock_index(&self) -> usize {
        self.clock_index
    }

    /// Notes how far the clock may follow now.
    pub fn look_at_wall(&mut self) {
        self.reach = self.reach.max(self.wall() + self.max_drift);
    }

    pub fn bounds(&self, clock_steps: u32) -> Bounds {
        let is_bound = self.stepped_back == Some(clock_steps);
        Bounds {
            writers: self.times.len(),
            must_exceed: self.times.last().map_or(0, |times| times.must_exceed),
            latest: is_bound.then(|| self.wall() + self.max_drift + 1),
            is_late: false,
        }
    }

    /// Later timestamps are greater.
    pub fn exceed(&mut self, bits: u64) {
        if let Some(times) = self.times.last_mut() {
            times.must_exceed = times.must_exceed.max(bits);
        }
    }

    /// Whether the clock stands where this version says, or did.
    pub fn is_own(&self, version: Version) -> bool {
        let mut times = self.times.iter();
        times.any(|times| times.writer == version.writer)
    }

    pub fn is_ahead_of_wall(&self, version: Version) -> bool {
        version.timestamp.millis() > self.wall()
    }

    pub fn refused(&mut self, version: Version) {
        let mut times = self.times.iter_mut();
        match times.find(|times| times.writer == version.writer) {
            Some(times) => times.refused = true,
            None => {
                self.refused_before.insert(version.writer);
            }
        }
    }

    /// The clock may step back from a version that was refused, and it is not known
    /// when.
    pub fn may_leave(&mut self, version: Version) {
        let mut times = self.times.iter_mut();
        if let Some(times) = times.find(|times| times.writer == version.writer) {
            times.left = true;
        }
    }

    /// A write has failed as too far ahead. If that is where the clock stands, it
    /// steps back to its wall clock.
    pub fn failed_ahead(&mut self, version: Version, clock_steps: u32) {
        let is_ahead = self.is_ahead_of_wall(version);
        if let Some(times) = self.times.last_mut()
            && times.writer == version.writer
            && is_ahead
            && !std::mem::replace(&mut times.left, true)
        {
            self.stepped_back = Some(clock_steps);
        }
    }

    /// Takes in a version, given out under these bounds, past what its write was
    /// told of before. Tells what is wrong with it.
    pub fn give_out(
        &mut self,
        version: Version,
        bounds: Bounds,
        past: Option<Version>,
        told: &[Version],
    ) -> Option<String> {
        let Version { timestamp, writer } = version;
        let bits = timestamp.to_bits();
        let past = past.map(|past| past.timestamp);
        if let Some(past) = past.filter(|past| *past >= timestamp) {
            return Some(format!("stamps {timestamp}, which has to be past {past}"));
        }
        let next = past.and_then(Timestamp::next);
        let known = self.times.iter().position(|times| times.writer == writer);
        let is_next = |told: &Version| told.timestamp.next() == Some(timestamp);
        if known.is_none()
            && told.iter().any(is_next)
            && let Some(violation) = self.stamp_past(version, bounds)
        {
            return violation;
        }
        let steps_back = known.is_none();
        let place = known.unwrap_or(self.times.len());
        if steps_back {
            let refused = self.times.last().is_some_and(|times| times.refused);
            let mut times = Times::of(writer, 0);
            times.refused = self.refused_before.contains(&writer);
            times.left = times.refused;
            self.times.push(times);
            if !refused {
                return Some(format!("takes writer id {writer}, and nothing was refused"));
            }
        }
        let times = &mut self.times[place];
        times.must_exceed = times.must_exceed.max(bits);
        if place + 1 == bounds.writers && bits <= bounds.must_exceed {
            let known = bounds.must_exceed;
            return Some(format!("stamps {bits:#x} after it knew {known:#x}"));
        }
        // The counter may overflow.
        if timestamp.millis() > self.reach + 1 {
            let reach = self.reach;
            return Some(format!("follows to {timestamp}, and may to {reach} ms"));
        }
        let passed_before =
            |next: &Timestamp| self.passed.contains_key(&next.to_bits()) && timestamp <= *next;
        if let Some(next) = next.filter(passed_before) {
            return Some(format!(
                "stamps {timestamp} again, past what {next} is past"
            ));
        }
        None
    }
}

impl Stamps {
    /// A version right after what its write was told of, under a writer id that is not
    /// known: `None` if it is the clock's, after a step back, and comes to its next time.
    fn stamp_past(&mut self, version: Version, bounds: Bounds) -> Option<Option<String>> {
        let Version { timestamp, writer } = version;
        let bits = timestamp.to_bits();
        let before = self.passed.get(&bits).copied();
        if let Some(before) = before.filter(|before| *before >= writer) {
            if self.times.last().is_some_and(|times| times.refused) {
                return None;
            }
            if !bounds.is_late {
                return Some(Some(format!(
                    "gives {timestamp} to {writer} after {before}"
                )));
            }
        }
        self.passed
            .insert(bits, before.max(Some(writer)).unwrap_or(writer));
        Some(None)
    }
}

impl Times {
    fn of(writer: WriterId, must_exceed: u64) -> Self {
        Self {
            writer,
            must_exceed,
            refused: false,
            left: false,
        }
    }
}

impl Oracle {
    pub(super) fn clock_steps_of(&self, coordinator: usize) -> u32 {
        let index = self.coordinators[coordinator].stamps.clock_index();
        self.clock_steps.get(index).copied().unwrap_or(0)
    }

    /// The entry of an attempt is known.
    pub(super) fn given_out(&mut self, index: usize, attempt: usize, stamp: Stamp) {
        let op = &self.ops[index];
        let coordinator = op.coordinator;
        if op.kind == Kind::Foreign {
            return;
        }
        let Attempt { past, bounds, .. } = op.attempts[attempt];
        let told = op.told.clone();
        self.check_given_out(coordinator, stamp.version, bounds, past, &told);
    }

    /// C-MONOTONIC, for a version that a coordinator has given out under these bounds,
    /// past one, and was told of others before.
    pub(super) fn check_given_out(
        &mut self,
        coordinator: usize,
        version: Version,
        bounds: Bounds,
        past: Option<Version>,
        told: &[Version],
    ) {
        let stamps = &mut self.coordinators[coordinator].stamps;
        stamps.look_at_wall();
        let wrong = stamps.give_out(version, bounds, past, told);
        let is_own = stamps.is_own(version);
        if let Some(wrong) = wrong {
            self.broken("C-MONOTONIC", || {
                format!("coordinator {coordinator} {wrong}")
            });
        }
        if !self.versions.insert(version) {
            self.broken("C-MONOTONIC", || {
                format!("coordinator {coordinator} gives out {version} once more")
            });
        }
        let millis = version.timestamp.millis();
        if let Some(latest) = bounds.latest.filter(|latest| is_own && millis > *latest) {
            self.broken("one leap of a clock does not end writing", || {
                format!("coordinator {coordinator} stamps {version}, past {latest} ms, again")
            });
        }
    }

    /// C-MONOTONIC: later timestamps are greater than what was read, unless it
    /// is further ahead of the wall clock than the bound, or the clock has stepped
    /// back meanwhile.
    pub(super) fn observed(&mut self, index: usize, stamp: Stamp) {
        let op = &self.ops[index];
        let state = &self.coordinators[op.coordinator];
        let untouched = self.clock_steps_of(op.coordinator) == op.clock_steps
            && state.stamps.writers() == op.writers;
        let state = &mut self.coordinators[op.coordinator];
        let drift = state.settings.max_drift.as_millis() as u64;
        if untouched && stamp.version.timestamp.millis() <= op.wall.saturating_add(drift) {
            state.stamps.exceed(stamp.version.timestamp.to_bits());
        }
    }

    /// Whether a write failed as too far ahead because of where its coordinator's
    /// clock stood, and was not taken: it steps back then, and stamps it again.
    pub(super) fn failed_ahead(&mut self, index: usize) -> bool {
        let op = &self.ops[index];
        let steps = self.clock_steps_of(op.coordinator);
        let Some(last) = op.attempts.last() else {
            return false;
        };
        // What was refused for a promise goes past that, and not back.
        let failed = last.acks < self.quorums.w && last.too_far_ahead && last.promised.is_none();
        let Some(stamp) = last.stamp.filter(|_| failed && op.kind != Kind::Foreign) else {
            return false;
        };
        let is_nowhere = last.is_nowhere(self.quorums.n);
        let stamps = &mut self.coordinators[op.coordinator].stamps;
        stamps.failed_ahead(stamp.version, steps);
        is_nowhere && stamps.is_own(stamp.version) && stamps.is_ahead_of_wall(stamp.version)
    }
}
