//! The walk of a pass: which range is compared next, and how.
//!
//! A range is compared window by window. One that differs is split, until few keys
//! are left in it, or most of them seem to differ; then their versions are listed, and
//! what is behind is mended.

mod lists;

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::caller::Caller;
use super::compare::{Compared, Part, compare};
use super::pace::Pace;
use super::report::PassProgress;
use super::settings::PassSettings;
use crate::entry::{Key, Timestamp};
use crate::fingerprint::FingerprintRequest;
use crate::outcome::ReplicaFailure;
use crate::range::KeyRange;
use crate::transport::Transport;

/// Into how many windows one that differs is split: with more of them, one difference
/// takes more bytes to be found; with fewer, more round trips.
const PARTS: u64 = 7;
/// A window with no more entries is listed and not split: a list of them takes fewer
/// bytes than another comparison, and saves a round trip.
const FEW: u64 = 16;
/// The most entries of a window that is listed where most of those beside it differ,
/// too: there are so many differences that to split it further would not pay.
const SOME: u64 = 64;
/// The most versions in one list.
const MANY: u64 = 1024;
/// The bytes that are read for a window are half of what replicas read for a request
/// by default, so that one which holds more gets as far.
const WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// Replicas have limits of their own. These are as much as takes few bytes to be told.
const MOST_KEYS: u64 = (1 << 21) - 1;
const MOST_BYTES: u64 = (1 << 28) - 1;

/// What is to be done with a range.
#[derive(Clone, Debug)]
struct Todo {
    range: KeyRange,
    how: How,
    /// By whose keys windows are cut: who holds the most.
    cutter: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Compare a window, from the beginning.
    Walk,
    /// Compare windows of so many entries.
    Split(u64),
    /// List the versions.
    List,
}

/// What is known of a replica.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) not_repaired: u64,
    pub(super) failure: Option<ReplicaFailure>,
    /// Whether it was not compared with the others everywhere, or did not take what it
    /// lacked.
    pub(super) is_behind: bool,
}

pub(super) struct Walk<const N: usize, const W: usize, const R: usize, T> {
    pub(super) caller: Arc<Caller<N, W, R, T>>,
    hash_key: u128,
    /// The greatest mark that was told.
    collected: Timestamp,
    end: Option<Key>,
    /// What is left, the next last.
    todo: Vec<Todo>,
    pub(super) states: [State; N],
    progress: PassProgress,
    pace: Pace,
}

impl<const N: usize, const W: usize, const R: usize, T: Transport> Walk<N, W, R, T> {
    pub(super) fn new(
        caller: Caller<N, W, R, T>,
        settings: &PassSettings,
        hash_key: u128,
        range: KeyRange,
    ) -> Self {
        let pace = Pace::new(settings);
        let end = range.end().cloned();
        let is_something = !range.is_empty() && N > 1;
        let walk = Todo {
            range,
            how: How::Walk,
            // Another one each time, if nothing is known.
            cutter: hash_key
                .checked_rem(N as u128)
                .and_then(|cutter| usize::try_from(cutter).ok())
                .unwrap_or(0),
        };
        Self {
            caller: Arc::new(caller),
            hash_key,
            collected: Timestamp::MIN,
            end,
            todo: if is_something { vec![walk] } else { Vec::new() },
            states: std::array::from_fn(|_| State::default()),
            progress: PassProgress {
                repaired: vec![0; N],
                ..PassProgress::default()
            },
            pace,
        }
    }

    /// What of the range is left.
    pub(super) fn rest(&self) -> Option<KeyRange> {
        let next = self.todo.last()?;
        let rest = KeyRange::from(next.range.start().clone()..);
        Some(rest.before(self.end.as_ref()))
    }

    pub(super) fn progress(&self) -> PassProgress {
        PassProgress {
            reached: self.todo.last().map(|next| next.range.start().clone()),
            requests: self.caller.requests(),
            bytes: self.caller.bytes(),
            ..self.progress.clone()
        }
    }

    /// Does what is next; `false` where nothing is left, or too few replicas to compare.
    /// Dropped half-way, it leaves what is left as it was.
    pub(super) async fn step(&mut self) -> bool {
        self.pace.rest().await;
        let Some(todo) = self.todo.last().cloned() else {
            return false;
        };
        let replicas = self.caller.replicas();
        if replicas.len() < 2 {
            return false;
        }
        let began = Instant::now();
        let served = self.caller.coordinator.inner.served();
        let window = self.pace.window();
        let done = match todo.how {
            How::Walk => self.compare(&todo, &replicas, MOST_KEYS, window).await,
            How::Split(every) => self.compare(&todo, &replicas, every, MOST_KEYS).await,
            How::List => self.list(&todo, &replicas).await,
        };
        if let Some((left, keys, bytes)) = done {
            self.replace(left);
            self.pace.count(began, keys, bytes);
        }
        let were_served = self.caller.coordinator.inner.served() != served;
        let were_told_of = self.caller.was_beside_others();
        self.pace.give_way(began, were_served || were_told_of);
        true
    }

    /// What was next is done, but for this.
    fn replace(&mut self, left: Vec<Todo>) {
        self.todo.pop();
        self.todo.extend(left.into_iter().rev());
    }

    /// Compares the beginning of a range. Returns what is left of it, how many keys were
    /// asked about, and how many bytes were read for it at one replica, or sent and
    /// received; `None` where too few answered.
    async fn compare(
        &mut self,
        todo: &Todo,
        replicas: &[usize],
        every: u64,
        max_keys: u64,
    ) -> Option<(Vec<Todo>, u64, u64)> {
        let before = self.caller.bytes();
        let cutter = self.cutter(todo, replicas)?;
        let mut asked = FingerprintRequest {
            range: todo.range.clone(),
            hash_key: self.hash_key,
            cuts: Vec::new(),
            every,
            max_keys: max_keys.max(1),
            max_bytes: if todo.how == How::Walk {
                WINDOW_BYTES
            } else {
                MOST_BYTES
            },
            collected: self.collected,
        };
        let first = self.caller.windows(cutter, &asked).await;
        let first = self.taken(cutter, first)?;
        asked.collected = self.collected_by(first.collected);
        let (first, mut read) = (first.parts, first.bytes);
        let mut uptos = first.iter().map(|it| it.upto.clone());
        let last = uptos.next_back().flatten();
        asked.cuts = uptos.flatten().collect();
        asked.range = todo.range.before(last.as_ref());
        (asked.every, asked.max_keys, asked.max_bytes) = (MOST_KEYS, MOST_KEYS, MOST_BYTES);
        let others = replicas
            .iter()
            .copied()
            .filter(|replica| *replica != cutter);
        let (caller, asked) = (&self.caller, &asked);
        let asking = others.map(async |replica| (replica, caller.windows(replica, asked).await));
        let mut answers = vec![(cutter, first)];
        for (replica, result) in join_all(asking).await {
            if let Some(told) = self.taken(replica, result) {
                self.collected_by(told.collected);
                // Where the range was cut for them, its end is not that of all.
                answers.push((replica, ended(told.parts, last.as_ref())));
                read = read.max(told.bytes);
            }
        }
        if answers.len() < 2 {
            return None;
        }
        let compared = compare(&todo.range, &answers);
        let keys = compared
            .iter()
            .map(|it| it.most)
            .fold(0, u64::saturating_add);
        let equal = compared.iter().filter(|it| it.is_equal).map(|it| it.most);
        let equal = equal.fold(0, u64::saturating_add);
        self.progress.keys = self.progress.keys.saturating_add(equal);
        let moved = self.caller.bytes().saturating_sub(before);
        Some((left(todo, compared, cutter), keys, moved.max(read)))
    }

    /// By whose keys windows are cut now.
    fn cutter(&self, todo: &Todo, replicas: &[usize]) -> Option<usize> {
        let meant = Some(todo.cutter).filter(|cutter| replicas.contains(cutter));
        meant.or(replicas.first().copied())
    }

    /// The greatest mark that was told so far, with this one.
    fn collected_by(&mut self, mark: Timestamp) -> Timestamp {
        self.collected = self.collected.max(mark);
        self.collected
    }

    fn taken<A>(&mut self, replica: usize, result: Result<A, ReplicaFailure>) -> Option<A> {
        match (result, self.states.get_mut(replica)) {
            (Ok(answer), _) => Some(answer),
            (Err(failure), Some(state)) => {
                state.fail(Some(failure));
                None
            }
            (Err(_), None) => None,
        }
    }
}

impl State {
    fn fail(&mut self, failure: Option<ReplicaFailure>) {
        self.is_behind = true;
        self.failure = self.failure.take().or(failure);
    }
}

/// What was told of a range that was cut before `upto`: there ends the last of it.
fn ended(mut told: Vec<Part>, upto: Option<&Key>) -> Vec<Part> {
    if let Some(last) = told.last_mut() {
        last.upto = last.upto.take().or(upto.cloned());
    }
    told
}

/// What is left to be done of a range after a comparison.
fn left(todo: &Todo, compared: Vec<Compared>, cutter: usize) -> Vec<Todo> {
    let reached = compared.last().and_then(|last| last.range.end().cloned());
    let rest = reached.filter(|reached| todo.range.contains(reached));
    let unlike = compared.iter().filter(|it| !it.is_equal).count();
    // At least seven in eight.
    let most_differ = unlike.saturating_mul(8) >= compared.len().saturating_mul(7) && unlike > 1;
    let largest = compared.last().map_or(cutter, |last| last.largest);
    let mut left = Vec::<Todo>::new();
    for it in compared.into_iter().filter(|it| !it.is_equal) {
        let is_no_part = todo.how != How::Walk && it.range == todo.range;
        let is_listed = it.most <= FEW
            || it.most.saturating_sub(it.least) >= it.most / 4
            || it.most <= SOME && most_differ
            || is_no_part;
        let how = if is_listed {
            How::List
        } else {
            How::Split(it.most.div_ceil(PARTS))
        };
        match left.last_mut() {
            // One list of neighbours.
            Some(before)
                if how == How::List
                    && before.how == How::List
                    && before.range.end() == Some(it.range.start()) =>
            {
                before.range =
                    KeyRange::from(before.range.start().clone()..).before(it.range.end());
            }
            _ => left.push(Todo {
                range: it.range,
                how,
                cutter: it.largest,
            }),
        }
    }
    left.extend(rest.map(|rest| Todo {
        range: todo.range.starting_at(rest),
        how: todo.how,
        cutter: largest,
    }));
    left
}
