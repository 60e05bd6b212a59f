//! A coordinator as the simulation sees it: what was asked, and what it said.

use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use kvquorum_core::{
    Bytes, Coordinator, Entry, Key, Merged, Outcome, ReadError, ReadReceipt, ReplicaStats,
    Transport, Version, WriteError, WriteReceipt,
};

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

pub type Settling = Pin<Box<dyn Future<Output = Written> + Send>>;

/// The client side of a map.
#[async_trait]
pub trait Map: Send + Sync {
    /// Puts, or deletes where there is no value. What the stragglers came to
    /// can be waited for.
    async fn write(&self, key: Key, value: Option<Bytes>) -> (Written, Settling);
    async fn read(&self, key: Key) -> Read;
    fn stats(&self) -> Vec<ReplicaStats>;
}

#[async_trait]
impl<const N: usize, const W: usize, const R: usize, T: Transport> Map for Coordinator<N, W, R, T> {
    async fn write(&self, key: Key, value: Option<Bytes>) -> (Written, Settling) {
        let result = match value {
            Some(value) => self.put(key, value).await,
            None => self.delete(key).await,
        };
        match result {
            Ok(receipt) => {
                let now = acked(&receipt);
                (now, Box::pin(async { acked(&receipt.settled().await) }))
            }
            Err(error) => {
                let now = not_acked(&error);
                (now, Box::pin(async { not_acked(&error.settled().await) }))
            }
        }
    }

    async fn read(&self, key: Key) -> Read {
        match self.get_with_receipt(key).await {
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
    }

    fn stats(&self) -> Vec<ReplicaStats> {
        Coordinator::stats(self).to_vec()
    }
}

fn acked<const N: usize>(receipt: &WriteReceipt<N>) -> Written {
    Written {
        said: Said::Acked(receipt.version(), receipt.superseded_by()),
        attempts: receipt.attempts(),
        parts: receipt.replicas().iter().map(merging).collect(),
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
        parts: replicas.map(|replica| merging(replica.outcome())).collect(),
    }
}

fn held<const N: usize>(receipt: &ReadReceipt<N>) -> Vec<Part> {
    receipt.replicas().iter().map(holding).collect()
}

fn merging(outcome: &Outcome<Merged>) -> Part {
    part(outcome, |merged| match merged {
        Merged::Applied => Part::Applied,
        Merged::Superseded { by } => Part::Superseded(*by),
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
