//! What a clock has given out beyond its own reach, so that it gives out none of
//! it again.

/// Timestamps that were lent, as bits.
#[derive(Default)]
pub(crate) struct Lent {
    /// None begins or ends near another.
    stretches: Vec<Stretch>,
    /// The greatest timestamp from before a restart, as long as the clock is not
    /// past it: all stamps come after it.
    pub(crate) floor: Option<u64>,
}

/// Timestamps that were lent one after the other.
struct Stretch {
    first: u64,
    last: u64,
}

/// A second: so many timestamps that no stretch runs into the next.
const NEAR: u64 = 1_000 << 16;

/// How many stretches are remembered: so many keys with futures of their own are
/// more than clocks that were once wrong.
const MAX_STRETCHES: usize = 64;

impl Lent {
    /// Lends the one after this, or after the last of the stretch that it is
    /// near.
    pub(crate) fn next_past(&mut self, past: u64) -> Option<u64> {
        let stretches = self.stretches.iter_mut();
        let near = stretches.filter(|stretch| stretch.is_near(past));
        if let Some(stretch) = near.max_by_key(|stretch| stretch.last) {
            stretch.last = stretch.last.max(past).checked_add(1)?;
            return Some(stretch.last);
        }
        let first = past.checked_add(1)?;
        if self.stretches.len() >= MAX_STRETCHES {
            // Not that of the floor, which is lent from with every stamp.
            let is_floors = |it: &Stretch| self.floor.is_some_and(|floor| it.is_near(floor));
            let oldest = self.stretches.iter().position(|it| !is_floors(it))?;
            self.stretches.remove(oldest);
        }
        self.stretches.push(Stretch { first, last: first });
        Some(first)
    }

    /// The last of what was lent from where the clock has come to, or is past;
    /// forgets what it is past.
    pub(crate) fn come_to(&mut self, tick: u64) -> Option<u64> {
        let come_to = self.stretches.iter().filter(|it| it.first <= tick);
        let last = come_to.map(|stretch| stretch.last).max();
        self.stretches.retain(|stretch| stretch.last > tick);
        last
    }

    /// Where the clock comes to something that was lent; [`u64::MAX`] for
    /// nowhere.
    pub(crate) fn nearest(&self) -> u64 {
        let firsts = self.stretches.iter().map(|stretch| stretch.first);
        firsts.min().unwrap_or(u64::MAX)
    }
}

impl Stretch {
    fn is_near(&self, bits: u64) -> bool {
        self.first.saturating_sub(NEAR) <= bits && bits <= self.last.saturating_add(NEAR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bugs: each key with a future of its own takes memory for good; many of
    /// them have what was lent past the floor lent again.
    #[test]
    fn what_is_remembered_is_bounded_and_the_floors_is_kept() {
        let floor = NEAR;
        let mut lent = Lent {
            floor: Some(floor),
            ..Lent::default()
        };
        for number in 1..1_000 {
            assert_eq!(lent.next_past(floor), Some(floor + number));
            let future = number * 10 * NEAR;
            assert_eq!(lent.next_past(future), Some(future + 1));
        }
        assert!(lent.stretches.len() <= MAX_STRETCHES);
    }

    /// Bugs: of what grows towards another stretch one is lent twice; one that
    /// the clock is past is kept, or one that it is in is not.
    #[test]
    fn stretches_are_lent_from_their_ends_until_the_clock_is_past_them() {
        let mut lent = Lent::default();
        let far = 3 * NEAR;
        assert_eq!(lent.next_past(NEAR), Some(NEAR + 1));
        assert_eq!(lent.next_past(far), Some(far + 1));
        // Near the first, and then near both.
        assert_eq!(lent.next_past(2 * NEAR), Some(2 * NEAR + 1));
        assert_eq!(lent.next_past(far), Some(far + 2));
        assert_eq!(lent.next_past(far + 1), Some(far + 3));
        assert_eq!(lent.nearest(), NEAR + 1);

        assert_eq!(lent.come_to(NEAR), None);
        assert_eq!(lent.come_to(NEAR + 5), Some(2 * NEAR + 1));
        assert_eq!(lent.nearest(), NEAR + 1);
        assert_eq!(lent.come_to(2 * NEAR + 2), Some(2 * NEAR + 1));
        assert_eq!(lent.nearest(), far + 1);
        assert_eq!(lent.come_to(far + 4), Some(far + 3));
        assert_eq!(lent.nearest(), u64::MAX);
    }
}
