//! A circuit breaker: few exchanges try a replica that does not answer, with
//! growing pauses.
//!
//! It counts the exchanges begun since the replica last began an answer,
//! whatever became of them: they wait, or broke, or nobody waited for them any
//! longer. Any answer sets it back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::HttpError;
use crate::telemetry::ClientTelemetry;
use crate::time::in_time;

/// The first pause. Each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// How long calls wait for an exchange that tries whether the replica is back,
/// rather than fail: one that is back answers by then.
const PROBE_GRACE: Duration = Duration::from_millis(100);

pub(crate) struct Breaker {
    max_unanswered: usize,
    max_backoff: Duration,
    state: Mutex<State>,
    /// Told to those who wait to begin.
    changed: Notify,
    telemetry: Arc<ClientTelemetry>,
}

#[derive(Default)]
struct State {
    /// How often the replica has begun an answer.
    answers: u64,
    /// How many exchanges have begun since the last of them.
    unanswered: usize,
    /// Whether one of these has ended.
    has_failed: bool,
    /// How the last of them failed that was not given up.
    last: Option<Arc<HttpError>>,
    /// From when on another may begin. `None` for at once.
    retry_at: Option<Instant>,
    /// When the last of them began, if that has not ended.
    probed_at: Option<Instant>,
}

/// An exchange that has begun, as the breaker knows it.
#[derive(Clone, Copy)]
pub(crate) struct Try {
    /// After which answer.
    answers: u64,
    /// Which one after that answer, counted from 1.
    nth: usize,
    /// What [`State`] had before, for where it does not begin after all.
    retry_at: Option<Instant>,
    probed_at: Option<Instant>,
    /// Whether it is one of those that begin at pauses.
    pub(crate) is_probe: bool,
}

/// Why no exchange may begin now.
#[derive(Debug)]
pub(crate) enum Denied {
    /// Too many wait for an answer, which may still come: so long.
    Wait(Duration),
    /// The replica does not answer.
    Open(HttpError),
}

impl Breaker {
    pub(crate) fn new(
        max_unanswered: usize,
        max_backoff: Duration,
        telemetry: Arc<ClientTelemetry>,
    ) -> Self {
        Self {
            max_unanswered: max_unanswered.max(1),
            max_backoff,
            state: Mutex::default(),
            changed: Notify::new(),
            telemetry,
        }
    }

    /// Begins an exchange, if one may begin now.
    pub(crate) fn try_begin(&self) -> Result<Try, Denied> {
        let mut state = self.state();
        self.may_begin(&state)?;
        let is_probe = state.unanswered >= self.max_unanswered;
        let (retry_at, probed_at) = (state.retry_at, state.probed_at);
        state.unanswered = state.unanswered.saturating_add(1);
        if let Some(beyond) = state.unanswered.checked_sub(self.max_unanswered) {
            let now = Instant::now();
            if state.retry_at.is_none() && state.has_failed {
                self.telemetry.breaker_opened(state.last.as_deref());
            }
            state.retry_at = now.checked_add(self.pause(beyond));
            state.probed_at = Some(now);
        }
        Ok(Try {
            answers: state.answers,
            nth: state.unanswered,
            retry_at,
            probed_at,
            is_probe,
        })
    }

    /// Begins an exchange as soon as one may begin, unless the replica does not
    /// answer.
    pub(crate) async fn begin(&self) -> Result<Try, HttpError> {
        loop {
            // First, so that no change is missed.
            let changed = self.changed.notified();
            match self.try_begin() {
                Ok(begun) => return Ok(begun),
                Err(Denied::Open(error)) => return Err(error),
                // Whether it was a change or the pause is over is looked at.
                Err(Denied::Wait(pause)) => drop(in_time(pause, changed).await),
            }
        }
    }

    /// Whether a call may wait for an exchange to begin.
    pub(crate) fn check(&self) -> Result<(), HttpError> {
        match self.may_begin(&self.state()) {
            Err(Denied::Open(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The answer to an exchange has begun, whichever it is.
    pub(crate) fn answered(&self) {
        let mut state = self.state();
        let answers = state.answers.wrapping_add(1);
        let before = std::mem::replace(
            &mut *state,
            State {
                answers,
                ..State::default()
            },
        );
        drop(state);
        if before.retry_at.is_some() {
            if before.has_failed {
                self.telemetry.breaker_closed();
            }
            self.changed.notify_waiters();
        }
    }

    /// An exchange has ended, and its answer had not begun: it failed, or was
    /// given up.
    pub(crate) fn failed(&self, begun: Try, error: Option<HttpError>) {
        let mut state = self.state();
        if state.answers == begun.answers {
            let is_first = !std::mem::replace(&mut state.has_failed, true);
            if begun.nth >= state.unanswered {
                state.probed_at = None;
            }
            if let Some(error) = error {
                state.last = Some(Arc::new(error));
            }
            let waits = state.retry_at.is_some();
            let last = state.last.clone();
            drop(state);
            if waits && is_first {
                self.telemetry.breaker_opened(last.as_deref());
            }
            if waits {
                self.changed.notify_waiters();
            }
        }
    }

    /// An exchange has not begun after all. It leaves no trace, unless another
    /// has begun since: the pause after that one stays.
    pub(crate) fn withdraw(&self, begun: Try) {
        let mut state = self.state();
        if state.answers == begun.answers {
            let waits = state.retry_at.is_some();
            if begun.nth >= state.unanswered {
                state.retry_at = begun.retry_at;
                state.probed_at = begun.probed_at;
            }
            state.unanswered = state.unanswered.saturating_sub(1);
            drop(state);
            if waits {
                self.changed.notify_waiters();
            }
        }
    }

    fn may_begin(&self, state: &State) -> Result<(), Denied> {
        let Some(retry_at) = state.retry_at else {
            return Ok(());
        };
        let now = Instant::now();
        let pause = retry_at.saturating_duration_since(now);
        if pause.is_zero() || state.unanswered < self.max_unanswered {
            return Ok(());
        }
        let since = state.probed_at.map(|at| now.saturating_duration_since(at));
        let grace = since.map_or(Duration::ZERO, |it| PROBE_GRACE.saturating_sub(it));
        if !state.has_failed {
            Err(Denied::Wait(pause))
        } else if grace.is_zero() {
            Err(Denied::Open(HttpError::NotAnswering {
                unanswered: state.unanswered,
                pause,
                last: state.last.clone(),
            }))
        } else {
            Err(Denied::Wait(pause.min(grace)))
        }
    }

    /// The pause after so many exchanges beyond the bound: at random between
    /// half and all of it, so that clients do not come back together.
    fn pause(&self, beyond: usize) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1_u32 << beyond.min(16));
        pause
            .min(self.max_backoff)
            .mul_f64(fastrand::f64() / 2.0 + 0.5)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can leave it half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Whether an exchange may begin now, with the pause made long if there is
    /// one, so that it does not pass meanwhile.
    fn tried(breaker: &Breaker) -> Result<Try, Denied> {
        if let Some(retry_at) = &mut breaker.state().retry_at {
            *retry_at = Instant::now().checked_add(LONG).unwrap();
        }
        breaker.try_begin()
    }

    fn breaker_of(max_unanswered: usize, max_backoff: Duration) -> Breaker {
        let telemetry = Arc::new(ClientTelemetry::new("replica"));
        Breaker::new(max_unanswered, max_backoff, telemetry)
    }

    fn is_open(breaker: &Breaker) -> bool {
        matches!(tried(breaker), Err(Denied::Open(_)))
    }

    fn waits(breaker: &Breaker) -> bool {
        matches!(tried(breaker), Err(Denied::Wait(_)))
    }

    #[test]
    fn pauses_grow_up_to_the_bound_and_differ() {
        let breaker = breaker_of(1, Duration::from_millis(500));
        for (beyond, longest) in [(0, 20), (1, 40), (4, 320), (5, 500), (1000, 500)] {
            let longest = Duration::from_millis(longest);
            let pauses: Vec<_> = (0..100).map(|_| breaker.pause(beyond)).collect();
            assert!(pauses.iter().all(|it| (longest / 2..=longest).contains(it)));
            assert!(pauses.iter().any(|it| *it != pauses[0]));
        }
        assert_eq!(breaker_of(1, Duration::ZERO).pause(9), Duration::ZERO);
    }

    /// That calls fail takes both: too many exchanges without an answer, and
    /// one of them that has failed. Either alone is no sign of a replica that
    /// does not answer.
    #[test]
    fn it_opens_where_many_are_unanswered_and_one_has_failed() {
        let breaker = breaker_of(2, LONG);
        let one = breaker.try_begin().unwrap();
        breaker.failed(one, Some(HttpError::Unanswered));
        assert!(!one.is_probe && breaker.check().is_ok());
        let other = breaker.try_begin().unwrap();
        breaker.failed(other, None);
        assert!(is_open(&breaker) && breaker.check().is_err());

        let breaker = breaker_of(2, LONG);
        let _ = breaker.try_begin().unwrap();
        let last = breaker.try_begin().unwrap();
        assert!(waits(&breaker));
        assert!(breaker.check().is_ok());
        breaker.failed(last, None);
        assert!(is_open(&breaker));
    }

    /// After a pause, all calls but the one that tries whether the replica is
    /// back failed, though it was.
    #[test]
    fn calls_wait_a_moment_for_the_one_that_tries() {
        let breaker = breaker_of(1, LONG);
        let first = breaker.try_begin().unwrap();
        breaker.failed(first, None);
        assert!(is_open(&breaker));
        breaker.state().retry_at = Some(Instant::now());
        let probe = breaker.try_begin().unwrap();
        assert!(probe.is_probe);
        // Nor does the end of one from before tell anything about it.
        breaker.failed(first, None);
        if let Some(probed_at) = &mut breaker.state().probed_at {
            *probed_at += LONG;
        }
        match tried(&breaker) {
            Err(Denied::Wait(grace)) => assert_eq!(grace, PROBE_GRACE),
            Err(Denied::Open(error)) => panic!("{error:?}"),
            Ok(_) => panic!("another began"),
        }
        // And not for long.
        breaker.state().probed_at = Instant::now().checked_sub(PROBE_GRACE);
        assert!(is_open(&breaker));
        breaker.state().probed_at = Some(Instant::now());
        breaker.failed(probe, None);
        assert!(is_open(&breaker));
    }

    #[test]
    fn an_answer_sets_it_back_and_what_began_before_does_not_count() {
        let breaker = breaker_of(1, LONG);
        let old = breaker.try_begin().unwrap();
        assert!(waits(&breaker));
        breaker.answered();
        tried(&breaker).unwrap();
        breaker.failed(old, None);
        breaker.withdraw(old);
        assert!(waits(&breaker));
    }

    #[test]
    fn what_is_withdrawn_has_not_begun() {
        let breaker = breaker_of(1, LONG);
        for _ in 0..3 {
            let permitted = tried(&breaker).unwrap();
            breaker.withdraw(permitted);
        }
    }

    /// Catches a replica that is back and not tried, for another pause, because an
    /// exchange was about to begin and did not.
    #[test]
    fn what_is_withdrawn_brings_no_further_pause() {
        let breaker = breaker_of(1, LONG);
        let first = breaker.try_begin().unwrap();
        breaker.failed(first, None);
        let past = Some(Instant::now());
        breaker.state().retry_at = past;
        let probe = breaker.try_begin().unwrap();
        breaker.withdraw(probe);
        {
            let state = breaker.state();
            assert_eq!((state.retry_at, state.probed_at), (past, None));
        }
        assert!(breaker.try_begin().unwrap().is_probe);
        assert!(is_open(&breaker) || waits(&breaker));
    }

    #[tokio::test]
    async fn what_is_withdrawn_leaves_its_place_to_those_who_wait() {
        let breaker = Arc::new(breaker_of(1, LONG));
        let _first = breaker.try_begin().unwrap();
        breaker.state().retry_at = Some(Instant::now());
        let probe = breaker.try_begin().unwrap();
        // So that those who wait do so until they are told.
        breaker.state().retry_at = Instant::now().checked_add(LONG);
        let waiting = tokio::spawn({
            let breaker = Arc::clone(&breaker);
            async move { breaker.begin().await }
        });
        tokio::task::yield_now().await;
        breaker.withdraw(probe);
        let begun = in_time(LONG / 3, waiting).await.expect("it was not told");
        assert!(begun.unwrap().unwrap().is_probe);
    }

    #[tokio::test]
    async fn those_who_wait_begin_when_there_is_an_answer_or_hear_of_a_failure() {
        let breaker = Arc::new(breaker_of(1, LONG));
        let one = breaker.try_begin().unwrap();
        // So that the pause is a long one.
        breaker.state().retry_at = Instant::now().checked_add(LONG);
        let wait = || {
            let breaker = Arc::clone(&breaker);
            tokio::spawn(async move { breaker.begin().await.map(drop) })
        };
        let waiting = wait();
        tokio::task::yield_now().await;
        breaker.answered();
        waiting.await.unwrap().unwrap();

        breaker.state().retry_at = Instant::now().checked_add(LONG);
        let waiting = wait();
        tokio::task::yield_now().await;
        let answers = one.answers + 1;
        let last = Try { answers, ..one };
        breaker.failed(last, Some(HttpError::Unanswered));
        match waiting.await.unwrap().unwrap_err() {
            HttpError::NotAnswering {
                unanswered, last, ..
            } => {
                assert_eq!(unanswered, 1);
                assert!(matches!(*last.unwrap(), HttpError::Unanswered));
            }
            other => panic!("{other:?}"),
        }
    }
}
