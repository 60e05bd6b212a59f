//! Asking all replicas again: in the era that has begun meanwhile (rule J-ERA), or once
//! they have found out that they are new.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::Inner;
use super::one::call_one;
use crate::marks::{Era, Marks};
use crate::outcome::{Outcome, ReplicaFailure};
use crate::request::{Refusal, Request, RequestKind, Response};
use crate::told::{Status, Told};
use crate::transport::Transport;

/// How many times one operation asks all replicas again, so that it ends whatever they
/// tell. An era begins when a replica rejoins.
const MOST_TIMES: u8 = 8;

/// How many times of these only because somebody else may be opening a new cluster.
const MOST_WAITS: u8 = 2;

/// How long to wait for somebody else who opens a new cluster, times how often that was
/// waited for.
const PAUSE: Duration = Duration::from_millis(10);

/// What each replica said of itself.
pub(super) type Statuses = Vec<Result<Status, ReplicaFailure>>;

impl<T: Transport, const N: usize> Inner<T, N> {
    /// Whether what has failed in the era in which it was asked is to be asked of all
    /// replicas again: one of them has told of a later era, and what others answered in
    /// the earlier one does not count together with what they answer now; or all of them
    /// are new, and open.
    #[cold]
    pub(super) async fn asks_again<A>(
        self: &Arc<Self>,
        asked: Option<Era>,
        outcomes: &[Outcome<A>; N],
        times: &mut u8,
    ) -> bool {
        *times = times.saturating_add(1);
        if *times > MOST_TIMES {
            return false;
        }
        let mut refusals = outcomes.iter().filter_map(Outcome::refusal);
        let is_new = |it: &Refusal| matches!(it, Refusal::Joining { has_begun: false });
        // Of a new cluster all are there. Else one lost its data, and waits for longer than
        // an operation does.
        let can_be_new = |outcome: &Outcome<A>| {
            outcome.failure().is_none() || outcome.refusal().is_some_and(is_new)
        };
        asked < Some(self.introductions.era())
            || refusals.any(is_new)
                && outcomes.iter().all(can_be_new)
                && self.opens_or_is_opened(*times).await
    }

    /// Whether replicas answer now that did not before: because all are new and are
    /// opened, or because somebody else has, or is at it.
    async fn opens_or_is_opened(self: &Arc<Self>, times: u8) -> bool {
        let told = self.statuses().await;
        let is_opened = told.iter().flatten().any(|told| !told.marks.is_joining);
        if !self.open_new(&told).await.is_empty() {
            return true;
        }
        // One that lost its data may be joining for long, and looks the same.
        let may_be_opened = is_opened && times <= MOST_WAITS;
        if !may_be_opened && all_new(&told).is_none() {
            return false;
        }
        sleep(PAUSE.saturating_mul(times.into())).await;
        true
    }

    /// Opens the replicas of a new cluster: where all of them are new, as they told
    /// before, none has data that could have been acknowledged. Which of them did.
    ///
    /// They are asked once more, and have to be the same. So there was a time, between,
    /// at which none of them held anything that was acknowledged; and each opens only if
    /// it has not lost anything since then. One that this did not reach is opened later,
    /// by what was found then.
    pub(super) async fn open_new(self: &Arc<Self>, told: &Statuses) -> Vec<usize> {
        if let Some(boots) = all_new(told)
            && all_new(&self.statuses().await).as_ref() == Some(&boots)
        {
            self.introductions.found_new(boots);
        }
        let boots = self.introductions.new_boots();
        let told = told.iter().zip(boots).enumerate();
        let opening = told.filter_map(|(replica, (told, found))| {
            let boot = new_boot(told).filter(|boot| *boot == found)?;
            let request = Request::of(RequestKind::Open { boot }).in_era(Era::FIRST);
            let opening = call_one_marks(self, replica, request);
            Some(async move { opening.await.map(|_| replica).ok() })
        });
        join_all(opening).await.into_iter().flatten().collect()
    }

    /// How each replica is.
    pub(super) async fn statuses(self: &Arc<Self>) -> Statuses {
        join_all((0..N).map(|replica| self.status(replica, None))).await
    }

    /// How a replica is; which enters an era first, where one is given.
    pub(super) async fn status(
        self: &Arc<Self>,
        replica: usize,
        era: Option<Era>,
    ) -> Result<Status, ReplicaFailure> {
        let mut request = Request::status();
        request.era = era;
        match told(call_one(self, replica, &mut request).await?) {
            Some(Told::Status(status)) => Ok(status),
            _ => Err(ReplicaFailure::Mismatched),
        }
    }
}

/// Of each replica the start of its process, where all are new.
fn all_new(told: &Statuses) -> Option<Vec<u64>> {
    told.iter().map(new_boot).collect()
}

/// The start of a replica's process, where it is new, or lost its data.
fn new_boot(told: &Result<Status, ReplicaFailure>) -> Option<u64> {
    let Status { marks, boot, .. } = told.as_ref().ok()?;
    (marks.is_joining && !marks.has_begun()).then_some(*boot)
}

/// What changes a replica's marks: what they are then.
pub(super) async fn call_one_marks<T: Transport, const N: usize>(
    inner: &Arc<Inner<T, N>>,
    replica: usize,
    mut request: Request,
) -> Result<Marks, ReplicaFailure> {
    match told(call_one(inner, replica, &mut request).await?) {
        Some(Told::Marks(marks)) => Ok(marks),
        _ => Err(ReplicaFailure::Mismatched),
    }
}

pub(super) fn told(response: Response) -> Option<Told> {
    match response {
        Response::Told(told) => Some(*told),
        _ => None,
    }
}
