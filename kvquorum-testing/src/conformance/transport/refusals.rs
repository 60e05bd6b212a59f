//! What the replica refuses.

use kvquorum_core::{
    Ack, DEFAULT_MAX_DRIFT, Entry, Key, Limits, Refusal, Request, Timestamp, Transport,
};

use super::super::samples::{tombstone, value};
use super::{PAST, REFUSAL, Subject};

pub(super) async fn run<T: Transport>(link: T) {
    let link = Subject::new(link);
    let (key, fresh) = (Key::from("key"), Key::from("fresh"));
    let stored = value(PAST, 1, "stored");
    link.write(&key, &stored).await;

    keys(&link, &stored).await;
    values(&link, &[&key, &fresh]).await;
    timestamps(&link, &[&key, &fresh]).await;

    let when = "after writes that were refused";
    link.expect(&REFUSAL, &key, Some(&stored), when).await;
    link.expect(&REFUSAL, &fresh, None, when).await;
    // No ballot that was refused is promised: it would be below that.
    link.write_as(&REFUSAL, &fresh, &stored, Ack::Applied).await;
}

async fn keys<T: Transport>(link: &Subject<T>, entry: &Entry) {
    let max = Limits::default().max_key_len;
    let long = Refusal::KeyTooLong {
        len: max as u64 + 1,
        max: max as u64,
    };
    for (key, expected) in [(vec![], Refusal::EmptyKey), (vec![b'k'; max + 1], long)] {
        let key = Key::from(key);
        let is_expected = |refusal: &Refusal| *refusal == expected;
        link.refused(Request::read(&key), is_expected).await;
        let write = Request::write(&key, entry.clone());
        link.refused(write, is_expected).await;
        let prepare = Request::prepare(&key, entry.version);
        link.refused(prepare, is_expected).await;
    }
}

async fn values<T: Transport>(link: &Subject<T>, keys: &[&Key]) {
    let max = Limits::default().max_value_len;
    let large = value(PAST + 1, 1, vec![b'v'; max + 1]);
    let expected = Refusal::ValueTooLarge {
        len: max as u64 + 1,
        max: max as u64,
    };
    for key in keys {
        let write = Request::write(*key, large.clone());
        link.refused(write, |refusal| *refusal == expected).await;
    }
}

async fn timestamps<T: Transport>(link: &Subject<T>, keys: &[&Key]) {
    let is_expected = |refusal: &Refusal| match refusal {
        Refusal::TooFarAhead {
            timestamp,
            now_millis,
            max_drift_millis,
        } => {
            *timestamp == Timestamp::MAX
                && u128::from(*max_drift_millis) == DEFAULT_MAX_DRIFT.as_millis()
                && *now_millis > 0
        }
        _ => false,
    };
    for key in keys {
        let ahead = tombstone(Timestamp::MAX.to_bits(), 1);
        let prepare = Request::prepare(*key, ahead.version);
        link.refused(prepare, is_expected).await;
        let write = Request::write(*key, ahead);
        link.refused(write, is_expected).await;
    }
}
