//! The checker against histories known to be linearizable and not, by hand and
//! generated, and against one that tries every order.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use super::bits::Bits;
use super::{Function, History, Operation, Step, check};

type Value = Option<u8>;

fn op(called: u64, returned: impl Into<Option<u64>>, step: Step<u8>) -> Operation<u8> {
    Operation {
        called,
        returned: returned.into(),
        step,
    }
}

fn write(value: u8) -> Step<u8> {
    Step::Write(Some(value))
}

fn read(value: u8) -> Step<u8> {
    Step::Read(Some(value))
}

/// Numbers from a seed: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn value(&mut self) -> Value {
        let value = self.below(4) as u8;
        (value > 0).then_some(value)
    }
}

/// Tries every order of every choice of operations, without a thought.
fn brute_force(operations: &[Operation<u8>]) -> bool {
    fn go(operations: &[Operation<u8>], used: u32, held: Value) -> bool {
        let is_left = |at: usize| used >> at & 1 == 0;
        let left = || (0..operations.len()).filter(|at| is_left(*at));
        if left().all(|at| operations[at].returned.is_none()) {
            return true;
        }
        left().any(|at| {
            let called = operations[at].called;
            let is_first = left().all(|other| {
                let returned = operations[other].returned;
                returned.is_none_or(|returned| returned >= called)
            });
            let step = &operations[at].step;
            // Nothing is known of a read that did not return.
            let is_known = operations[at].returned.is_some() || !matches!(step, Step::Read(_));
            is_first
                && is_known
                && step
                    .after(&held)
                    .is_some_and(|after| go(operations, used | 1 << at, after))
        })
    }
    go(operations, 0, None)
}

/// Known to be linearizable. Bugs: a pending operation must have happened, or must
/// not have; one returned before another is called, at the same time; operations at
/// the same time have the order of their calls.
#[test]
fn linearizable_histories_pass() {
    let histories = [
        vec![],
        vec![op(1, 2, Step::Read(None))],
        vec![op(1, 2, write(1)), op(3, 4, read(1))],
        // At the same time: either order.
        vec![op(1, 4, write(1)), op(2, 3, Step::Read(None))],
        vec![op(1, 4, write(1)), op(2, 3, read(1))],
        vec![
            op(1, 9, write(1)),
            op(2, 3, write(2)),
            op(4, 5, read(2)),
            op(6, 7, read(1)),
        ],
        // It touches: the clocks do not tell which was first.
        vec![op(1, 2, write(1)), op(2, 3, Step::Read(None))],
        // A write that failed was seen, and another one was not.
        vec![
            op(1, None, write(1)),
            op(2, None, write(2)),
            op(3, 4, read(1)),
        ],
        // One that failed takes effect late.
        vec![
            op(1, None, write(1)),
            op(2, 3, write(2)),
            op(4, 5, read(2)),
            op(6, 7, read(1)),
        ],
        // An update of which nothing was told came in between.
        vec![
            op(1, 2, write(1)),
            op(
                3,
                None,
                Step::Update(Arc::new(|held| held.map(|held| held + 1))),
            ),
            op(4, 5, Step::Swap(Some(2), Some(7))),
            op(6, 7, read(7)),
        ],
        // A read that did not return is nothing.
        vec![op(1, None, read(9)), op(2, 3, Step::Read(None))],
        vec![
            op(1, 2, write(1)),
            op(3, 4, Step::Write(None)),
            op(5, 6, Step::Read(None)),
        ],
    ];
    for history in histories {
        assert_eq!(check(&history), Ok(()), "{history:?}");
        assert!(brute_force(&history), "{history:?}");
    }
}

/// Known not to be. Bugs: time is ignored; what was read goes back; two swaps find
/// the same value; a pending operation takes effect before its call, or twice.
#[test]
fn other_histories_fail() {
    let histories = [
        vec![op(1, 2, read(1))],
        vec![op(1, 2, write(1)), op(3, 4, Step::Read(None))],
        // New, then old, while the write goes on.
        vec![
            op(1, 9, write(1)),
            op(2, 3, read(1)),
            op(4, 5, Step::Read(None)),
        ],
        // A lost update.
        vec![
            op(1, 2, write(1)),
            op(3, 6, Step::Swap(Some(1), Some(2))),
            op(4, 5, Step::Swap(Some(1), Some(2))),
        ],
        // Seen before it was called, and once only.
        vec![op(1, 2, read(1)), op(3, None, write(1))],
        vec![
            op(1, None, write(1)),
            op(2, 3, read(1)),
            op(4, 5, write(2)),
            op(6, 7, read(1)),
        ],
        // The same order for all.
        vec![
            op(1, 10, write(1)),
            op(1, 10, write(2)),
            op(2, 3, read(1)),
            op(4, 5, read(2)),
            op(6, 7, read(1)),
        ],
        // A swap that was pending finds what it must.
        vec![
            op(1, 2, write(1)),
            op(3, None, Step::Swap(Some(5), Some(2))),
            op(4, 5, read(2)),
        ],
    ];
    for history in histories {
        assert!(check(&history).is_err(), "{history:?}");
        assert!(!brute_force(&history), "{history:?}");
    }
}

/// Six operations or fewer, of all kinds, at random: about half are linearizable.
/// Bugs: any; each of the shortcuts of the search for one.
#[test]
fn small_histories_are_judged_as_by_brute_force() {
    let mut random = Random(7);
    let functions: [Arc<Function<u8>>; 2] = [
        Arc::new(|held| Some(held.map_or(1, |held| held % 3 + 1))),
        Arc::new(|_| None),
    ];
    let mut linearizable = 0;
    let rounds = 20_000;
    for _ in 0..rounds {
        let operations: Vec<_> = (0..1 + random.below(6))
            .map(|_| {
                let called = random.below(8);
                let returned = (random.below(3) > 0).then(|| called + random.below(5));
                let step = match random.below(6) {
                    0 | 1 => Step::Read(random.value()),
                    2 | 3 => Step::Write(random.value()),
                    4 => Step::Swap(random.value(), random.value()),
                    _ => Step::Update(Arc::clone(&functions[random.below(2) as usize])),
                };
                op(called, returned, step)
            })
            .collect();
        let expected = brute_force(&operations);
        assert_eq!(check(&operations).is_ok(), expected, "{operations:?}");
        linearizable += u32::from(expected);
    }
    assert!(
        (rounds / 4..rounds * 3 / 4).contains(&linearizable),
        "{linearizable}"
    );
}

/// What clients of a real register did, some of whom were never told: those of a
/// counter increment it, others put and swap values that are theirs alone.
fn played(
    random: &mut Random,
    operations: usize,
    clients: usize,
    counter: bool,
) -> Vec<Operation<u32>> {
    let increment: Arc<Function<u32>> = Arc::new(|held| Some(held.map_or(1, |held| held + 1)));
    let mut history: Vec<Operation<u32>> = Vec::new();
    let mut held = None;
    let mut now = 0;
    // Of each client its operation, and the answer once it took effect.
    let mut busy: Vec<Option<(usize, Option<Step<u32>>)>> = vec![None; clients];
    while history.len() < operations {
        now += 1;
        let client = random.below(clients as u64) as usize;
        busy[client] = match busy[client].take() {
            None => {
                let own = Some(now as u32);
                let step = match random.below(3) {
                    0 => Step::Read(None),
                    _ if counter => Step::Update(Arc::clone(&increment)),
                    1 => Step::Write(own),
                    _ => Step::Swap(held, own),
                };
                history.push(Operation {
                    called: now,
                    returned: None,
                    step,
                });
                Some((history.len() - 1, None))
            }
            // It fails, or its client is gone.
            Some(_) if random.below(40) == 0 => None,
            Some((at, None)) => {
                let before = held;
                let answer = match history[at].step.after(&before) {
                    Some(after) if !matches!(history[at].step, Step::Read(_)) => {
                        held = after;
                        Step::Swap(before, after)
                    }
                    _ => Step::Read(before),
                };
                Some((at, Some(answer)))
            }
            Some((at, Some(answer))) => {
                history[at].returned = Some(now);
                if !matches!(history[at].step, Step::Write(_)) {
                    history[at].step = answer;
                }
                None
            }
        };
    }
    history
}

/// Bugs: a linearizable history fails; time or memory that grows with the square of
/// its length, or worse.
#[test]
fn long_histories_of_a_register_pass() {
    let mut random = Random(3);
    for counter in [false, true] {
        for _ in 0..200 {
            let history = played(&mut random, 60, 6, counter);
            assert!(check(&history).is_ok(), "{history:?}");
        }
        let history = played(&mut random, 20_000, 8, counter);
        assert!(check(&history).is_ok());
    }
}

/// Bug: an answer that can't have been is explained, by the many operations of which
/// nothing is known.
#[test]
fn long_histories_with_one_answer_changed_fail() {
    let mut random = Random(5);
    for round in 0..100 {
        let mut history = played(&mut random, 300, 4, round % 2 == 0);
        let reads: Vec<usize> = (0..history.len())
            .filter(|at| history[*at].returned.is_some())
            .filter(|at| matches!(history[*at].step, Step::Read(_)))
            .collect();
        let changed = reads[random.below(reads.len() as u64) as usize];
        history[changed].step = Step::Read(Some(u32::MAX));
        assert!(check(&history).is_err());
    }
}

/// Bugs: keys are checked as one register; what is not told counts as told; the
/// message leaves out the key or what contradicts.
#[test]
fn a_history_is_split_by_key_and_its_error_names_one() {
    let history = History::new();
    for key in ["a", "b"] {
        let call = history.call(key, Step::Write(Some(key)));
        history.returned(call, Step::Write(Some(key)));
        let call = history.call(key, Step::Read(None));
        history.returned(call, Step::Read(Some(key)));
    }
    history.check().unwrap();
    let call = history.call("b", Step::Write(Some("z")));
    history.never(call);
    history.at_any_time("b", Step::Write(Some("y")));
    let call = history.call("b", Step::Read(None));
    history.returned(call, Step::Read(Some("y")));
    history.check().unwrap();
    assert_eq!(history.operations(&"a").len(), 2);

    let call = history.call("b", Step::Read(None));
    history.returned(call, Step::Read(Some("z")));
    let error = history.check().unwrap_err();
    assert_eq!((error.key, error.explained.len()), ("b", 4));
    let message = error.to_string();
    assert!(
        message.contains("history of \"b\" is not linearizable"),
        "{message}"
    );
    assert!(
        message.contains("and no longer   12 to   13: Read(Some(\"z\"))"),
        "{message}"
    );
}

/// Bugs: two sets of the same numbers differ, or the other way round.
#[test]
fn sets_are_equal_when_they_hold_the_same() {
    let mut random = Random(1);
    for _ in 0..300 {
        let (mut bits, mut plain) = (Bits::default(), std::collections::BTreeSet::new());
        for _ in 0..400 {
            let number = random.below(200) as usize;
            if random.below(4) > 0 {
                bits.insert(number);
                plain.insert(number);
            } else {
                bits.remove(number);
                plain.remove(&number);
            }
            assert!((0..200).all(|it| bits.contains(it) == plain.contains(&it)));
            assert!((0..bits.all_below()).all(|it| plain.contains(&it)));
        }
        let mut anew = Bits::default();
        plain.iter().for_each(|number| anew.insert(*number));
        assert_eq!(bits, anew);
    }
}
