//! Coordinators for each N, W and R that compile.

use std::fmt::Write;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kvquorum_core::{
    Bytes, Coordinator, Edit, Outcome, SystemClock, UpdateError, Version, WallClock, WithCauses,
    WriteError, WriterId,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::link::{Link, Links, Side};
use crate::words;

/// How many replicas, acks and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Quorums {
    pub(super) n: usize,
    pub(super) w: usize,
    pub(super) r: usize,
}

/// An operation on a key.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Operation {
    Put { key: String, value: String },
    Get { key: String },
    Delete { key: String },
    Increment { key: String },
}

/// What an operation came to.
#[derive(Clone, Debug)]
pub(super) struct Outcomes {
    pub(super) verdict: Verdict,
    /// The receipt or the error, in the library's own words.
    pub(super) says: String,
    /// Of what was written, or read.
    pub(super) version: Option<Version>,
    /// What was read, or the sum.
    pub(super) value: Option<String>,
    pub(super) attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Done,
    MaybeApplied,
    NotApplied,
    Failed,
    DoesNotCompile,
}

type Operating<'a> = Pin<Box<dyn Future<Output = Outcomes> + Send + 'a>>;

/// A coordinator of whichever quorums.
pub(super) trait Quorum: Send + Sync {
    fn operate<'a>(&'a self, operation: &'a Operation) -> Operating<'a>;
}

/// What a coordinator is made with.
pub(super) struct Making {
    pub(super) links: Arc<Links>,
    pub(super) side: Side,
    /// How far its clock is ahead of this machine's, in milliseconds.
    pub(super) ahead: Arc<AtomicI64>,
    /// No two coordinators write under the same id.
    pub(super) writer: u64,
    pub(super) time_limit: Duration,
}

/// A coordinator for each of these quorums, and what it does for an increment.
macro_rules! coordinators {
    ($(($n:literal, $w:literal, $r:literal) $increment:ident)*) => {
        /// `None` where it does not compile.
        pub(super) fn coordinator(
            making: &Making,
            quorums: Quorums,
        ) -> Option<Arc<dyn Quorum>> {
            match (quorums.n, quorums.w, quorums.r) {
                $(($n, $w, $r) => Some(Arc::new(make::<$n, $w, $r>(making))),)*
                _ => None,
            }
        }

        $(impl Quorum for Coordinator<$n, $w, $r, Link> {
            fn operate<'a>(&'a self, operation: &'a Operation) -> Operating<'a> {
                Box::pin(async move {
                    match operation {
                        Operation::Put { key, value } => write(self, key, Some(value)).await,
                        Operation::Delete { key } => write(self, key, None).await,
                        Operation::Get { key } => get(self, key).await,
                        Operation::Increment { key } => $increment(self, key).await,
                    }
                })
            }
        })*
    };
}

coordinators! {
    (1, 1, 1) increment
    (2, 1, 1) no_registers (2, 1, 2) no_registers
    (2, 2, 1) increment    (2, 2, 2) increment
    (3, 1, 1) no_registers (3, 1, 2) no_registers (3, 1, 3) no_registers
    (3, 2, 1) no_registers (3, 2, 2) increment    (3, 2, 3) increment
    (3, 3, 1) increment    (3, 3, 2) increment    (3, 3, 3) increment
}

/// What the compiler says to an operation with these quorums; `None` where it says
/// nothing.
pub(super) fn complaint(quorums: Quorums, operation: &Operation) -> Option<&'static str> {
    let Quorums { n, w, r } = quorums;
    let is_update = matches!(operation, Operation::Increment { .. });
    match () {
        () if n < 1 => Some("kvquorum: N, the number of replicas, must be at least 1"),
        () if w < 1 => Some("kvquorum: W, the write quorum, must be at least 1"),
        () if w > n => {
            Some("kvquorum: W, the write quorum, must be at most N, the number of replicas")
        }
        () if r < 1 => Some("kvquorum: R, the read quorum, must be at least 1"),
        () if r > n => {
            Some("kvquorum: R, the read quorum, must be at most N, the number of replicas")
        }
        () if is_update && r + w <= n => {
            Some("kvquorum: registers need overlapping quorums, R + W > N")
        }
        () if is_update && 2 * w <= n => {
            Some("kvquorum: registers need write quorums that overlap, 2 W > N")
        }
        () => None,
    }
}

pub(super) fn make<const N: usize, const W: usize, const R: usize>(
    making: &Making,
) -> Coordinator<N, W, R, Link> {
    let ahead = Arc::clone(&making.ahead);
    Coordinator::builder(std::array::from_fn(|node| {
        Link::new(&making.links, node, making.side)
    }))
    .writer(WriterId::new(making.writer))
    .wall_clock(move || {
        let ahead = ahead.load(Ordering::Relaxed);
        SystemClock.now_millis().saturating_add_signed(ahead)
    })
    .time_limit(making.time_limit)
    .build()
}

async fn write<const N: usize, const W: usize, const R: usize>(
    map: &Coordinator<N, W, R, Link>,
    key: &str,
    value: Option<&String>,
) -> Outcomes {
    let written = match value {
        Some(value) => map.put(key, stored(value)).await,
        None => map.delete(key).await,
    };
    match written {
        Ok(receipt) => {
            let mut says = format!("{} of {N} acked, {W} needed", receipt.acked());
            if receipt.attempts() > 1 {
                let _ = write!(says, "; stamped {} times", receipt.attempts());
            }
            says.push_str(&parts(receipt.replicas(), words::of_write));
            Outcomes {
                verdict: Verdict::Done,
                says,
                version: Some(receipt.version()),
                value: None,
                attempts: receipt.attempts(),
            }
        }
        Err(error) => Outcomes {
            verdict: match error {
                WriteError::NotApplied(_) => Verdict::NotApplied,
                WriteError::MaybeApplied(_) => Verdict::MaybeApplied,
                _ => Verdict::Failed,
            },
            says: WithCauses(&error).to_string(),
            version: error.report().map(|report| report.version()),
            value: None,
            attempts: error.report().map_or(1, |report| report.attempts()),
        },
    }
}

async fn get<const N: usize, const W: usize, const R: usize>(
    map: &Coordinator<N, W, R, Link>,
    key: &str,
) -> Outcomes {
    let receipt = match map.get_with_receipt(key).await {
        Ok(receipt) => receipt,
        Err(error) => return Outcomes::failed(Verdict::Failed, WithCauses(&error).to_string()),
    };
    let entry = receipt.entry();
    let version = entry.map(|entry| entry.version);
    let tombstone = entry.filter(|entry| entry.value.is_none()).and(version);
    let value = entry.and_then(|entry| entry.value.as_ref());
    let value = value.map(|value| shown(value));
    let mut says = match (&value, tombstone) {
        (Some(value), _) => format!("\"{value}\""),
        (None, Some(_)) => "absent: it was deleted".to_owned(),
        (None, None) => "absent".to_owned(),
    };
    let of_read = |part: &_| words::of_read(part, tombstone);
    says.push_str(&parts(receipt.replicas(), of_read));
    Outcomes {
        verdict: Verdict::Done,
        says,
        version,
        value,
        attempts: 1,
    }
}

/// A value as it is stored: JSON as it is typed, and anything else as a JSON string, so
/// that `curl` reads it.
fn stored(value: &str) -> String {
    match serde_json::from_str::<&RawValue>(value) {
        Ok(json) => json.get().to_owned(),
        Err(_) => serde_json::Value::from(value).to_string(),
    }
}

/// A value as it was typed.
pub(super) fn shown(value: &[u8]) -> String {
    serde_json::from_slice(value).unwrap_or_else(|_| String::from_utf8_lossy(value).into_owned())
}

/// A line for each replica.
fn parts<A>(outcomes: &[Outcome<A>], words: impl Fn(&Outcome<A>) -> String) -> String {
    let mut text = String::new();
    for (place, outcome) in (1..).zip(outcomes) {
        let _ = write!(text, "\nnode {place}: {}", words(outcome));
    }
    text
}

async fn increment<const N: usize, const W: usize, const R: usize>(
    map: &Coordinator<N, W, R, Link>,
    key: &str,
) -> Outcomes {
    let updated = map.update(key, |held| match sum(held) {
        Some(sum) => Edit::Put(sum.to_string().into()),
        None => Edit::Keep,
    });
    let updated = match updated.await {
        Ok(updated) => updated,
        Err(error) => {
            let verdict = match error {
                UpdateError::MaybeApplied(_) => Verdict::MaybeApplied,
                UpdateError::NotApplied(_) | UpdateError::Contended(_) => Verdict::NotApplied,
                _ => Verdict::Failed,
            };
            return Outcomes::failed(verdict, WithCauses(&error).to_string());
        }
    };
    // The update may have run several times: this is what came of the one that counts.
    let Some(sum) = sum(updated.before()) else {
        return Outcomes::failed(
            Verdict::NotApplied,
            "what is there is no number, or too great: it stays".to_owned(),
        );
    };
    let attempts = updated.attempts();
    Outcomes {
        verdict: Verdict::Done,
        says: match attempts {
            1 => format!("{sum}"),
            attempts => format!("{sum}, after {attempts} attempts: others came first"),
        },
        version: updated.version(),
        value: Some(sum.to_string()),
        attempts,
    }
}

/// What does not compile is not there to be called.
async fn no_registers<const N: usize, const W: usize, const R: usize>(
    _: &Coordinator<N, W, R, Link>,
    key: &str,
) -> Outcomes {
    let (quorums, key) = (Quorums { n: N, w: W, r: R }, key.to_owned());
    let complaint = complaint(quorums, &Operation::Increment { key });
    Outcomes::not_compiled(complaint.unwrap_or_default())
}

fn sum(held: Option<&Bytes>) -> Option<i64> {
    let held = held.map_or(Some(0), |held| std::str::from_utf8(held).ok()?.parse().ok());
    held.and_then(|held: i64| held.checked_add(1))
}

impl Operation {
    pub(super) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. }
            | Self::Get { key }
            | Self::Delete { key }
            | Self::Increment { key } => key,
        }
    }

    /// As a reader of the library would write it.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Put { key, value } => format!("put({key:?}, {value:?})"),
            Self::Get { key } => format!("get({key:?})"),
            Self::Delete { key } => format!("delete({key:?})"),
            Self::Increment { key } => format!("update({key:?}, + 1)"),
        }
    }
}

impl Outcomes {
    pub(super) fn not_compiled(complaint: &str) -> Self {
        let says = format!("error[E0080]: evaluation panicked: {complaint}");
        Self::failed(Verdict::DoesNotCompile, says)
    }

    fn failed(verdict: Verdict, says: String) -> Self {
        Self {
            verdict,
            says,
            version: None,
            value: None,
            attempts: 1,
        }
    }
}
