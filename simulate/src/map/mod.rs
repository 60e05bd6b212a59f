//! A coordinator as the simulation sees it: what was asked, and what it said.

mod registers;
mod scans;
mod tending;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kvquorum_core::{
    Ack, Bytes, Coordinator, Entry, Key, KeyRange, Outcome, ReadError, ReadReceipt, ReplicaStats,
    Transport, Version, WriteError, WriteReceipt,
};

pub use registers::{Ask, Raw, Registers, Told};
pub use scans::{PageFailed, Paging};
pub use tending::{Passing, Tending};

/// What a receipt or an error says of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    NotAsked,
    Pending,
    Applied,
    Superseded(Version),
    Holds(Option<Version>),
    Failed { may_have_applied: bool },
}

impl Part {
    pub fn is_ack(self) -> bool {
        matches!(self, Self::Applied | Self::Superseded(_))
    }
}

/// What a put or a delete came to.
#[derive(Clone, Debug)]
pub struct Written {
    pub said: Said,
    pub attempts: u32,
    pub parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// With its version, and with that of the greater entry an ack told of.
    Acked(Version, Option<Version>),
    NotApplied,
    MaybeApplied,
    Superseded(Version),
    ClockExhausted,
}

/// What a get came to.
#[derive(Clone, Debug)]
pub struct Read {
    pub found: Found,
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub enum Found {
    Entry(Option<Entry>),
    Failed,
    NotRepaired(Option<Entry>),
}

pub type Operation<'a, A> = Pin<Box<dyn Future<Output = A> + Send + 'a>>;
pub type Settling = Operation<'static, Written>;

/// What is put.
#[derive(Clone, Debug)]
pub struct Put {
    pub value: Bytes,
    /// How long it is there, unless that is for ever.
    pub ttl: Option<Duration>,
}

/// The client side of a map.
pub trait Map: Send + Sync {
    /// Puts, or deletes where there is no value. What the stragglers came to
    /// can be waited for.
    fn write(&self, key: Key, put: Option<Put>) -> Operation<'_, (Written, Settling)>;
    fn read(&self, key: Key) -> Operation<'_, Read>;
    /// An operation on the register of this number. What it writes, if it writes a
    /// value, is `own`.
    fn ask(&self, register: usize, ask: Ask, own: u64) -> Operation<'_, Told>;
    /// Scans a range, by pages, or entry by entry.
    fn scan(&self, range: KeyRange, by_entry: bool) -> Box<dyn Paging + '_>;
    fn stats(&self) -> Vec<ReplicaStats>;
    /// Where the coordinator is kvquorum's own.
    fn tending(&self) -> Option<&dyn Tending> {
        None
    }
}

/// kvquorum's own.
pub struct Real<const N: usize, const W: usize, const R: usize> {
    pub map: Coordinator<N, W, R, Arc<dyn Transport>>,
    /// Where they compile.
    pub registers: Option<Registers<N, W, R>>,
}

impl<const N: usize, const W: usize, const R: usize> Map for Real<N, W, R> {
    fn write(&self, key: Key, put: Option<Put>) -> Operation<'_, (Written, Settling)> {
        Box::pin(async move {
            let result = match put {
                Some(Put { value, ttl: None }) => self.map.put(key, value).await,
                Some(Put {
                    value,
                    ttl: Some(ttl),
                }) => self.map.put_with_ttl(key, value, ttl).await,
                None => self.map.delete(key).await,
            };
            let (now, settling): (_, Settling) = match result {
                Ok(receipt) => (
                    acked(&receipt),
                    Box::pin(async { acked(&receipt.settled().await) }),
                ),
                Err(error) => (
                    not_acked(&error),
                    Box::pin(async { not_acked(&error.settled().await) }),
                ),
            };
            (now, settling)
        })
    }

    fn read(&self, key: Key) -> Operation<'_, Read> {
        Box::pin(async move {
            match self.map.get_with_receipt(key).await {
                Ok(receipt) => Read {
                    parts: held(&receipt),
                    found: Found::Entry(receipt.entry().cloned()),
                },
                Err(error) => {
                    let replicas = error.report().replicas().iter();
                    Read {
                        parts: replicas.map(|report| holding(report.outcome())).collect(),
                        found: match error {
                            ReadError::NotRepaired { entry, .. } => Found::NotRepaired(entry),
                            _ => Found::Failed,
                        },
                    }
                }
            }
        })
    }

    fn ask(&self, register: usize, ask: Ask, own: u64) -> Operation<'_, Told> {
        Box::pin(async move {
            match &self.registers {
                Some(registers) => registers::ask(registers, register, ask, own).await,
                None => Told::Undecodable,
            }
        })
    }

    fn scan(&self, range: KeyRange, by_entry: bool) -> Box<dyn Paging + '_> {
        scans::paging(self.map.scan(range), by_entry)
    }

    fn stats(&self) -> Vec<ReplicaStats> {
        self.map.stats().to_vec()
    }

    fn tending(&self) -> Option<&dyn Tending> {
        Some(self)
    }
}

fn acked<const N: usize>(receipt: &WriteReceipt<N>) -> Written {
    Written {
        said: Said::Acked(receipt.version(), receipt.superseded_by()),
        attempts: receipt.attempts(),
        parts: receipt.replicas().iter().map(writing).collect(),
    }
}

fn not_acked(error: &WriteError) -> Written {
    let said = match error {
        WriteError::NotApplied(_) => Said::NotApplied,
        WriteError::Superseded { by, .. } => Said::Superseded(*by),
        WriteError::Clock(_) => Said::ClockExhausted,
        _ => Said::MaybeApplied,
    };
    let report = error.report();
    let replicas = report.into_iter().flat_map(|report| report.replicas());
    Written {
        said,
        attempts: report.map_or(0, |report| report.attempts()),
        parts: replicas.map(|replica| writing(replica.outcome())).collect(),
    }
}

fn held<const N: usize>(receipt: &ReadReceipt<N>) -> Vec<Part> {
    receipt.replicas().iter().map(holding).collect()
}

fn writing(outcome: &Outcome<Ack>) -> Part {
    part(outcome, |ack| match ack {
        Ack::Applied => Part::Applied,
        Ack::Superseded { by } => Part::Superseded(*by),
    })
}

fn holding(outcome: &Outcome<Option<Version>>) -> Part {
    part(outcome, |version| Part::Holds(*version))
}

fn part<A>(outcome: &Outcome<A>, answered: impl Fn(&A) -> Part) -> Part {
    match outcome {
        Outcome::Answered(answer) => answered(answer),
        Outcome::Failed(failure) => Part::Failed {
            may_have_applied: failure.may_have_applied(),
        },
        Outcome::Pending => Part::Pending,
        _ => Part::NotAsked,
    }
}
