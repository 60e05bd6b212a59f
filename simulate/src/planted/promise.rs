//! Stores that break L-PROMISE.

use kvquorum_core::{
    Ack, Action, Asked, Change, Decision, Entry, Record, Refusal, Response, Version,
};

use super::Bug;

/// What a change comes to, with a bug.
pub(super) fn decide(
    bug: Bug,
    held: Option<&Record>,
    change: Change,
    is_marked: impl Fn(Version) -> bool,
) -> Decision {
    let sound = change.clone().decide(held);
    let (Asked::Write(entry) | Asked::Repair(entry)) = change.asked() else {
        return sound;
    };
    let anchor = held.and_then(Record::anchor);
    let held = held.and_then(Record::entry);
    let is_promised = matches!(sound.response, Response::Refused(Refusal::Promised { .. }));
    match bug {
        Bug::PutsIgnorePromises | Bug::RepairsIgnorePromises
            if is_promised && is_marked(entry.version) =>
        {
            let mut decision = change.decide(held.map(Record::from).as_ref());
            if let Action::Replace(record) = decision.action {
                decision.action = replace(record.into_entry(), anchor);
            }
            decision
        }
        Bug::AcceptComparesNothing if is_marked(entry.version) => Decision {
            action: replace(Some(entry), anchor),
            response: Response::Ack(Ack::Applied),
        },
        Bug::SupersededFirst if is_promised && held.as_ref() > Some(&entry) => {
            let by = held.map_or(entry.version, |held| held.version);
            Decision {
                action: Action::Keep,
                response: Response::Ack(Ack::Superseded { by }),
            }
        }
        // That is no second phase of an update.
        Bug::PromiseCleared if Some(entry.version) > anchor => match sound.action {
            Action::Replace(record) => Decision {
                action: replace(record.into_entry(), None),
                response: sound.response,
            },
            _ => sound,
        },
        _ => sound,
    }
}

/// Keeps an entry and a promise, by way of the rules.
fn replace(entry: Option<Entry>, anchor: Option<Version>) -> Action {
    let Some(anchor) = anchor else {
        return entry.map_or(Action::Remove, |entry| Action::Replace(entry.into()));
    };
    let promise = Change::prepare(anchor);
    let Some(entry) = entry else {
        return promise.decide(None).action;
    };
    if entry.version < anchor {
        return promise.decide(Some(&entry.into())).action;
    }
    let Action::Replace(promised) = promise.decide(None).action else {
        return Action::Keep;
    };
    Change::write(entry).decide(Some(&promised)).action
}
