//! What is stamped too far ahead of a replica's clock: rule C-DRIFT.

use crate::entry::Timestamp;
use crate::record::Record;
use crate::request::Refusal;

/// A timestamp that is too far ahead, and of what clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    pub(crate) timestamp: Timestamp,
    pub(crate) now_millis: u64,
    pub(crate) max_drift_millis: u64,
}

impl Ahead {
    #[cold]
    pub(super) fn refusal_past(self, held: Option<&Record>, sealed: Timestamp) -> Option<Refusal> {
        let held = held.and_then(|held| held.version().max(held.anchor()));
        let held = held.map(|held| held.timestamp);
        let seen = held.max((sealed > Timestamp::MIN).then_some(sealed));
        let as_far = seen.is_some_and(|seen| {
            let next = seen.next();
            next.is_none_or(|next| self.timestamp <= next)
        });
        (!as_far).then(|| self.refusal())
    }

    pub(crate) fn refusal(self) -> Refusal {
        Refusal::TooFarAhead {
            timestamp: self.timestamp,
            now_millis: self.now_millis,
            max_drift_millis: self.max_drift_millis,
        }
    }
}
