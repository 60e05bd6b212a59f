use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const NOON: u64 = 1_700_000_000_000;
const WRITER: WriterId = WriterId::new(7);

/// A wall clock that a test turns.
fn turned(millis: u64) -> (Arc<AtomicU64>, Clock) {
    let wall = Arc::new(AtomicU64::new(millis));
    let read = Arc::clone(&wall);
    let clock = clock(move || read.load(Ordering::Relaxed));
    (wall, clock)
}

fn clock(wall: impl WallClock) -> Clock {
    Clock::new(Box::new(wall), DEFAULT_MAX_DRIFT, WRITER)
}

fn at(millis: u64, counter: u16) -> Timestamp {
    Timestamp::new(millis, counter).unwrap()
}

fn tick(clock: &Clock) -> Timestamp {
    let stamp = clock.next().unwrap();
    assert!(stamp.is_own);
    stamp.version.timestamp
}

/// C-MONOTONIC. Bug: the clock follows the wall clock back.
#[test]
fn c_monotonic_through_an_hour_back() {
    let (wall, clock) = turned(NOON);
    let before = tick(&clock);
    assert_eq!(before.millis(), NOON);
    wall.store(NOON - 3_600_000, Ordering::Relaxed);
    let after = tick(&clock);
    assert!(after > before);
    assert_eq!(
        after.millis(),
        NOON,
        "as close to the wall clock as it can be"
    );
    wall.store(NOON + 1, Ordering::Relaxed);
    assert_eq!(tick(&clock).millis(), NOON + 1);
}

/// C-MONOTONIC. Bug: the counter overflows within a millisecond, and wraps.
#[test]
fn c_monotonic_through_more_ticks_than_the_counter_counts() {
    let clock = clock(|| NOON);
    let mut last = Timestamp::MIN;
    for _ in 0..200_000 {
        let next = tick(&clock);
        assert!(next > last);
        last = next;
    }
    assert_eq!(last.millis(), NOON + 3);
}

/// C-MONOTONIC. Bugs: an observed timestamp is ignored, or is ignored when it
/// equals the clock's own.
#[test]
fn c_monotonic_past_what_was_observed() {
    let clock = clock(|| NOON);
    let own = tick(&clock);
    for seen in [own, own.next().unwrap(), at(NOON + 60_000, 7)] {
        assert!(clock.observe(seen));
        assert!(tick(&clock) > seen);
    }
    let last = tick(&clock);
    assert!(clock.observe(own), "what is past is no step back");
    assert!(tick(&clock) > last);
}

/// Bugs: a timestamp from the year 3000 carries the clock with it; a version past
/// it is given out twice, or carries the clock's own writer id.
#[test]
fn what_is_too_far_ahead_is_passed_without_moving_the_clock() {
    let clock = clock(|| NOON);
    let too_far = at(NOON + 60_001, 0);
    assert!(!clock.observe(too_far));
    assert_eq!(tick(&clock).millis(), NOON);
    let stamps = [(); 3].map(|()| clock.past(too_far).unwrap());
    for stamp in stamps {
        assert!(!stamp.is_own && stamp.version.writer != WRITER);
        assert_eq!(Some(stamp.version.timestamp), too_far.next());
    }
    let [first, second, third] = stamps.map(|stamp| stamp.version);
    assert!(first < second && second < third);
    assert_eq!(tick(&clock).millis(), NOON);
}

/// C-MONOTONIC. Bug: a clock that follows what was seen, and not one step past it,
/// gives out the version that it gave out before it followed.
#[test]
fn c_monotonic_the_clock_comes_past_what_it_gave_out() {
    let (wall, clock) = turned(NOON);
    let seen = at(NOON + 60_001, 0);
    let before = clock.past(seen).unwrap().version;
    wall.store(NOON + 1, Ordering::Relaxed);
    let after = clock.past(seen).unwrap();
    assert!(after.is_own);
    assert!(after.version.timestamp > before.timestamp);
}

/// A minute before the end of time, where clocks stand still.
const LAST_MILLIS: u64 = Timestamp::MAX_MILLIS - (1 << 16);

/// Bug: many threads that step past the end together come out in 1970.
#[test]
fn the_end_of_time_is_one_for_all_threads() {
    let clock = clock(|| u64::MAX);
    tick(&clock);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10_000).for_each(|_| assert!(clock.next().is_err())));
        }
    });
    assert_eq!(clock.next(), Err(ClockExhausted));
}

/// Bugs: arithmetic at the end of time panics, or wraps around to 1970; a wall
/// clock that was there once has the clock stay there.
#[test]
fn the_end_of_time_is_an_error_until_the_clock_is_right() {
    let (wall, clock) = turned(u64::MAX);
    let last = clock.next().unwrap().version;
    assert_eq!(last.timestamp.millis(), LAST_MILLIS);
    assert!(clock.observe(Timestamp::MAX));
    assert_eq!(clock.next(), Err(ClockExhausted));
    assert_eq!(clock.past(Timestamp::MAX), Err(ClockExhausted));
    let late = Timestamp::from_bits(LAST + 7);
    assert!(clock.past(late).unwrap().version.timestamp > late);
    wall.store(NOON, Ordering::Relaxed);
    let next = clock.next().unwrap().version;
    assert_eq!(next.timestamp.millis(), NOON);
    assert_ne!(next.writer, last.writer);
}

/// Bugs: a clock that was refused stays where it is; it goes back under the same
/// writer id; it goes back although its wall clock stands by it, or for what was
/// not its own.
#[test]
fn a_clock_steps_back_to_its_wall_clock_under_another_writer() {
    let (wall, clock) = turned(NOON);
    let ahead = clock.past(at(NOON + 60_001, 0)).unwrap();
    assert!(!clock.step_back(ahead), "it is not the clock's own");
    let own = clock.next().unwrap();
    assert!(!clock.step_back(own), "its wall clock stands by it");

    wall.store(NOON + 3_600_000, Ordering::Relaxed);
    let refused = [(); 2].map(|()| clock.next().unwrap());
    wall.store(NOON, Ordering::Relaxed);
    // Both were under way when the first of them was refused.
    assert!(clock.step_back(refused[0]));
    let next = clock.next().unwrap().version;
    assert_eq!(next.timestamp.millis(), NOON);
    assert_ne!(next.writer, WRITER);
    assert!(clock.step_back(refused[1]));
    let after = clock.next().unwrap().version;
    assert_eq!(after.writer, next.writer, "it stepped back once");
    assert!(after > next);
}

#[derive(Clone, Debug)]
enum Step {
    Next,
    /// Past what was given out that many steps before, and so much more.
    Past(usize, u64),
    Observe(usize),
    Refuse(usize),
    Wall(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let more = prop::sample::select(vec![0, 1, 2, 3, 60_000 << 16, 1 << 40]);
    let wall = prop_oneof![Just(0), NOON - 100..NOON + 100, Just(NOON + 3_600_000)];
    prop_oneof![
        4 => Just(Step::Next),
        4 => (0..6_usize, more).prop_map(|(back, more)| Step::Past(back, more)),
        1 => (0..6_usize).prop_map(Step::Observe),
        2 => (0..6_usize).prop_map(Step::Refuse),
        2 => wall.prop_map(Step::Wall),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// C-MONOTONIC, whatever the wall clock does, whatever is observed, and however
    /// often the clock steps back.
    #[test]
    fn c_monotonic_no_version_is_given_out_twice(steps in prop::collection::vec(steps(), 1..120)) {
        let (wall, clock) = turned(NOON);
        let mut given: Vec<Stamp> = vec![clock.next().unwrap()];
        let mut last_own = given[0].version;
        for step in steps {
            let before = |back: usize| given[given.len().saturating_sub(back + 1)];
            match step {
                Step::Next => {
                    let stamp = clock.next().unwrap();
                    if stamp.version.writer == last_own.writer {
                        prop_assert!(stamp.version > last_own);
                    }
                    last_own = stamp.version;
                    given.push(stamp);
                }
                Step::Past(back, more) => {
                    let seen = before(back).version.timestamp.to_bits() + more;
                    let stamp = clock.past(Timestamp::from_bits(seen)).unwrap();
                    prop_assert!(stamp.version.timestamp.to_bits() > seen);
                    given.push(stamp);
                }
                Step::Observe(back) => {
                    clock.observe(before(back).version.timestamp);
                }
                Step::Refuse(back) => {
                    let refused = before(back);
                    if clock.step_back(refused) {
                        let now = wall.load(Ordering::Relaxed);
                        prop_assert!(now <= refused.version.timestamp.millis());
                    }
                }
                Step::Wall(millis) => wall.store(millis, Ordering::Relaxed),
            }
        }
        let versions: HashSet<_> = given.iter().map(|stamp| stamp.version).collect();
        prop_assert_eq!(versions.len(), given.len());
    }

    /// C-MONOTONIC, over the whole range of times.
    #[test]
    fn c_monotonic_always(steps in prop::collection::vec((any::<u64>(), any::<u64>()), 1..50)) {
        let (wall, clock) = turned(0);
        let mut greatest = Timestamp::MIN;
        for (now, seen) in steps {
            // Half of the times within the range of timestamps, half beyond.
            let now = if now % 2 == 0 { now >> 16 } else { now };
            wall.store(now, Ordering::Relaxed);
            let seen = Timestamp::from_bits(seen);
            if clock.observe(seen) {
                greatest = greatest.max(seen);
            }
            match clock.next() {
                Ok(stamp) if stamp.version.writer == WRITER => {
                    let timestamp = stamp.version.timestamp;
                    prop_assert!(timestamp > greatest);
                    greatest = timestamp;
                }
                // It came to the end of time, and back.
                _ => {
                    prop_assert!(greatest.millis() >= LAST_MILLIS);
                    break;
                }
            }
        }
    }
}

/// C-MONOTONIC, from many threads. Bugs: two of them get the same version, where the
/// wall clock stands still, where all see it move on, where it leaps and is refused; a
/// version past another is not, where the clock steps back meanwhile.
#[test]
fn c_monotonic_for_all_threads_together() {
    const VERSIONS: usize = 30_000;
    let wall = Arc::new(AtomicU64::new(NOON));
    let readings = AtomicU64::new(0);
    let leaps = Arc::clone(&wall);
    let clocks = [
        clock(|| NOON),
        clock(move || NOON + readings.fetch_add(1, Ordering::Relaxed) / 4),
        clock(move || leaps.load(Ordering::Relaxed)),
    ];
    for clock in clocks {
        let give_out = |number: u64| {
            let mut versions = Vec::new();
            while versions.len() < VERSIONS {
                let stamp = clock.next().unwrap();
                versions.push(stamp.version);
                if versions.len() % 64 == 0 {
                    let millis = if number.is_multiple_of(2) {
                        NOON
                    } else {
                        NOON + 3_600_000
                    };
                    wall.store(millis, Ordering::Relaxed);
                    clock.step_back(stamp);
                    for seen in [stamp.version.timestamp, at(NOON * 2, 0)] {
                        for past in [clock.past(seen), clock.ahead(seen, 1)] {
                            let version = past.unwrap().version;
                            assert!(version.timestamp > seen);
                            versions.push(version);
                        }
                    }
                }
            }
            versions
        };
        let versions: Vec<Version> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|number| scope.spawn(move || give_out(number)))
                .collect();
            let threads = threads.into_iter();
            threads.flat_map(|thread| thread.join().unwrap()).collect()
        });
        let different: HashSet<_> = versions.iter().collect();
        assert_eq!(different.len(), versions.len());
    }
}
